"""Connections, as the server has them but stricter: who opens many, or sends slowly, keeps nobody else out."""
import time

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def connection_type(limits):
    """The class of connections to be used by uvicorn.

    Args:
        limits (Limits): How many there may be, and how long they may take.
    """
    return type('LimitedConnection', (Connection,), {'limits': limits})


class Connection(H11Protocol):
    """A connection that is closed where the head of its request does not come in time (Slowloris). Where there are too
    many, the one goes that has sent for longest and is still not done.

    Attributes:
        limits (Limits): How many there may be, and how long they may take.
    """
    limits = None

    _since = None
    _timer = None

    def connection_made(self, transport):
        super().connection_made(transport)
        self._expect()
        there = [connection for connection in self.connections if not connection.transport.is_closing()]
        if len(there) > self.limits.connections:
            sending = [connection for connection in there if connection.is_sending]
            min(sending, key=lambda connection: connection._since).transport.abort()

    def connection_lost(self, exc):
        self._timer.cancel()
        super().connection_lost(exc)

    def handle_events(self):
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._timer.cancel()

    def on_response_complete(self):
        self._expect()
        super().on_response_complete()

    def send_400_response(self, msg):
        # What is wrong may come after the answer; then there is nothing left to say.
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def shutdown(self):
        if self.is_sending:
            self.transport.abort()
        else:
            super().shutdown()

    @property
    def is_sending(self):
        """Whether the next request is not here yet, or not as a whole."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def _expect(self):
        """Gives the next request its time."""
        if self._timer is not None:
            self._timer.cancel()
        self._since = time.monotonic()
        self._timer = self.loop.call_later(self.limits.head_seconds, self.transport.abort)
