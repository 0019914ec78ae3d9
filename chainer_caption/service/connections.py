"""HTTP connections with limits: slow or idle clients do not keep others out."""
import asyncio
import collections
import time
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from chainer_caption.service.limits import Limits


def connection_type(limits: Limits) -> type:
    """The class of connections for uvicorn, with these limits."""
    return type('LimitedConnection', (Connection,), {'limits': limits})


class Connection(H11Protocol):
    """A connection that is closed when the head of a request does not arrive in time (Slowloris).

    Where there are too many connections, one of the address with the most is closed. If most of its connections have
    sent nothing, it is the oldest of these, and otherwise the one whose last bytes are oldest. Connections whose
    request is being answered stay."""
    limits = Limits()

    _active = 0.0                                       # when the last bytes came, or when they were first waited for
    _received = 0                                       # bytes of the current request
    _timer: asyncio.TimerHandle

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._timer = self._expect()
        there = [connection for connection in self.connections if not connection.transport.is_closing()]
        if len(there) > self.limits.connections:
            sending = [connection for connection in there if connection.is_sending]
            address = collections.Counter(connection.address for connection in sending).most_common(1)[0][0]
            own = [connection for connection in sending if connection.address == address]
            started = [connection for connection in own if connection._received > 0]
            silent = [connection for connection in own if connection._received == 0]
            group = silent if len(silent) >= len(started) else started
            min(group, key=lambda connection: connection._active).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._active = time.monotonic()
        self._received += len(data)
        super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._timer.cancel()

    def on_response_complete(self) -> None:
        self._timer.cancel()
        self._timer = self._expect()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        # A body may turn out damaged after the answer; then there is nothing left to send.
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def shutdown(self) -> None:
        if self.is_sending:
            self.transport.abort()
        else:
            super().shutdown()

    @property
    def address(self) -> str:
        """The client's address."""
        return self.client[0] if self.client else ''

    @property
    def is_sending(self) -> bool:
        """Whether the next request is not here yet, or not as a whole."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def _expect(self) -> asyncio.TimerHandle:
        """Starts the time of the next request's head."""
        self._active, self._received = time.monotonic(), 0
        return self.loop.call_later(self.limits.head_seconds, self.transport.abort)
