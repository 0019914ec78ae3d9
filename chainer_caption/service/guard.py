"""Who may ask: pages of other sites may not, and beyond this machine only those who know the token."""
import hmac
import ipaddress
import urllib.parse

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

# Sent with every answer. What comes from here is shown by nobody else's page, and taken for nothing but what it is.
_HEADERS = [(b'x-content-type-options', b'nosniff'), (b'referrer-policy', b'no-referrer'),
            (b'cross-origin-resource-policy', b'same-origin'), (b'cache-control', b'no-store')]


class Guard:
    """An ASGI application that passes on to another what may be answered.

    A page of another site can have a browser send requests, and by a name of its own that suddenly leads to this
    machine (DNS rebinding) even read the answers. So `Host` must be an address at which the connection came in, or one
    of the names of this machine, and `Origin`, where there is one, must be the same.

    Args:
        app: The ASGI application.
        names (iterable of str): What this machine is called, besides its addresses and `localhost`.
        token (str or None): What `Authorization: Bearer TOKEN` must say under `/v1/`.
    """

    def __init__(self, app, names=(), token=None):
        self._app, self._token = app, token
        self._names = {name.lower().rstrip('.') for name in names}

    async def __call__(self, scope, receive, send):
        async def send_with_headers(message):
            if message['type'] == 'http.response.start':
                message = {**message, 'headers': [*message['headers'], *_HEADERS]}
            await send(message)

        refusal = self._refusal(scope, Headers(scope=scope))
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope, headers):
        """The answer to what may not be asked; None where it may."""
        host = headers.get('host', '')
        if _name_of(host) not in self._names | _addresses(scope['server'][0]):
            return _answer(403, f'this is not {host!r}; serve.py --allowed-host NAME says what it is called')
        origins = headers.getlist('origin')
        if any(origin not in (f'http://{host}', f'https://{host}') for origin in origins):
            return _answer(403, 'pages of other sites may not ask')
        if self._token is not None and scope['path'].startswith('/v1/') and not self._knows_token(headers):
            return _answer(401, 'the token is missing or wrong', {'www-authenticate': 'Bearer'})
        return None

    def _knows_token(self, headers):
        kind, _, token = headers.get('authorization', '').partition(' ')
        return kind.lower() == 'bearer' and hmac.compare_digest(token.strip().encode(), self._token.encode())


def _answer(status, error, headers=None):
    return JSONResponse({'error': error}, status, headers)


def _name_of(host):
    """The name in a `Host`, without the port; None where it is none."""
    try:
        return (urllib.parse.urlsplit(f'//{host}').hostname or '').rstrip('.') or None
    except ValueError:
        return None


def _addresses(server):
    """What the address is called that a connection came in at."""
    address = ipaddress.ip_address(server.partition('%')[0])
    address = getattr(address, 'ipv4_mapped', None) or address
    return {str(address), *(['localhost'] if address.is_loopback else [])}
