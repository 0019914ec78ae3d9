"""Access control: hosts, origins and the token."""
import hmac
import ipaddress
import urllib.parse
from collections.abc import Iterable
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from chainer_caption.errors import InputError

# Headers of every answer, against use by pages of other sites.
_HEADERS = [(b'x-content-type-options', b'nosniff'), (b'referrer-policy', b'no-referrer'),
            (b'cross-origin-resource-policy', b'same-origin'), (b'cache-control', b'no-store')]

_PORTS = {'http': 80, 'https': 443}


class Guard:
    """ASGI middleware that refuses requests of other sites, and those without the token.

    A page of another site can make a browser send requests here, and after DNS rebinding even read the answers. So
    `Host` must be the address of the connection or an allowed host, and `Origin`, where there is one, must be the
    same host or an allowed origin. `Content-Length` beside `Transfer-Encoding` is refused (request smuggling).

    Args:
        app, hosts: The ASGI application; names of this machine, besides its addresses and `localhost`.
        origins: Origins of the page behind a proxy: `https://captions.example`. Their hosts are allowed, too;
            InputError if one is malformed.
        token: What `Authorization: Bearer TOKEN` must hold under `/v1/`; None for no token.
    """

    def __init__(self, app: Any, hosts: Iterable[str] = (), origins: Iterable[str] = (), token: str | None = None):
        self._app, self._token = app, token
        parsed = dict(map(_origin, origins))
        self._origins, self._hosts = {*parsed}, {host.lower().rstrip('.') for host in [*hosts, *parsed.values()]}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_headers(message: Any) -> None:
            if message['type'] == 'http.response.start':
                message = {**message, 'headers': [*message['headers'], *_HEADERS]}
            await send(message)

        refusal = self._refusal(scope, Headers(scope=scope))
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Any, headers: Headers) -> JSONResponse | None:
        if 'transfer-encoding' in headers and 'content-length' in headers:
            return _answer(400, 'Transfer-Encoding and Content-Length exclude each other', {'connection': 'close'})
        host = headers.get('host', '')
        if _name_of(host) not in self._hosts | _addresses(scope['server'][0]):
            return _answer(403, f'unknown host {host!r}; start the service with --allowed-host NAME')
        allowed = {f'http://{host}', f'https://{host}', *self._origins}
        if not allowed.issuperset(headers.getlist('origin')):
            return _answer(403, f'requests of the origin {headers["origin"]!r} are refused; start the service with '
                                '--allowed-origin ORIGIN')
        if self._token is not None and scope['path'].startswith('/v1/') and not self._has_token(headers):
            return _answer(401, 'the token is missing or wrong', {'www-authenticate': 'Bearer'})
        return None

    def _has_token(self, headers: Headers) -> bool:
        kind, _, token = headers.get('authorization', '').partition(' ')
        return kind.lower() == 'bearer' and hmac.compare_digest(token.strip().encode(), (self._token or '').encode())


def _answer(status: int, error: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({'error': error}, status, headers)


def _origin(text: str) -> tuple[str, str]:
    """An origin as browsers send it, and its host."""
    try:
        parts = urllib.parse.urlsplit(text.lower())
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in _PORTS or parts.path.strip('/') or parts.query or '@' in parts.netloc:
        raise InputError.of('allowed_origin', text, 'must be SCHEME://HOST or SCHEME://HOST:PORT, such as '
                            'https://captions.example')
    shown = f'[{host}]' if ':' in host else host
    return f'{parts.scheme}://{shown}' + (f':{port}' if port not in (None, _PORTS[parts.scheme]) else ''), host


def _name_of(host: str) -> str | None:
    """The name in a `Host` header, without the port; None where there is none."""
    try:
        return (urllib.parse.urlsplit(f'//{host}').hostname or '').rstrip('.') or None
    except ValueError:
        return None


def _addresses(server: str) -> set[str]:
    """The names of the address that a connection came in at."""
    address = ipaddress.ip_address(server.partition('%')[0])
    address = getattr(address, 'ipv4_mapped', None) or address
    return {str(address), *(['localhost'] if address.is_loopback else [])}
