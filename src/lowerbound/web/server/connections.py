"""Connections: limits on headers, on the time that they take, and on how many there are."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from lowerbound.errors import LowerboundError, ResourceError
from lowerbound.web.server.answers import refusal
from lowerbound.web.server.settings import Limits


def protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """Return the protocol of connections with these limits.

    Args:
        limits: the limits.
    """
    return type("Limited", (LimitedProtocol,), {"limits": limits})


class LimitedProtocol(HttpToolsProtocol):
    """HTTP/1.1 of uvicorn, which itself bounds neither the headers nor the time they take."""

    limits = Limits()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._late: asyncio.TimerHandle | None = None
        self._in_headers = False
        self._bytes = 0  # received of headers that have not ended yet
        self._size = 0  # parsed of them
        self._too_large = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore
        """Start the time for the first headers; refuse a connection too many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(
                ResourceError(
                    "E326",
                    f"the server has {self.limits.connections:,} open connections",
                    fix="use fewer connections, or try again later",
                ),
                503,
            )
            return
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and refuse headers that are too large."""
        idle = self.cycle is None or self.cycle.response_complete
        if idle and not self._in_headers:
            self._wait()
        if self._in_headers or idle:
            self._bytes += len(data)
        super().data_received(data)
        if self._in_headers and self._bytes > self.limits.header:
            self._refuse(self._large(), 431)

    def on_message_begin(self) -> None:
        """Start the time for the headers of a further request."""
        super().on_message_begin()
        self._in_headers, self._size = True, 0
        self._wait()

    def on_url(self, url: bytes) -> None:
        """Count the bytes of the address."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count the bytes of a header."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Stop the time and start the request."""
        self._in_headers, self._bytes = False, 0
        self._stop_waiting()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP request."""
        if self._too_large:
            self._refuse(self._large(), 431)
        else:
            fix = "send an HTTP/1.1 request"
            self._refuse(ResourceError("E323", "this is not a valid HTTP request", fix=fix), 400)

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > self.limits.header:
            self._too_large = True
            raise ValueError("the headers are too large")  # which the parser reports

    def _large(self) -> LowerboundError:
        most = self.limits.header
        return ResourceError(
            "E323",
            f"the request line and the headers have more than {most:,} bytes",
            fix="send fewer or shorter headers",
            limit=most,
        )

    def _wait(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(self.limits.silence, self._timed_out)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _timed_out(self) -> None:
        self._late = None
        if self.transport.is_closing():
            return
        if not self._bytes:  # nothing was asked
            self.transport.close()
            return
        seconds = self.limits.silence
        error = ResourceError(
            "E324",
            f"the headers did not arrive within {seconds:g} seconds",
            fix="send the request at once",
        )
        self._refuse(error, 408)

    def _refuse(self, error: LowerboundError, status: int) -> None:
        """Answer with an error and close the connection."""
        if self.transport.is_closing():
            return
        self._stop_waiting()
        busy = self.cycle is not None and not self.cycle.response_complete
        if not busy:  # else the answer would come in the middle of another
            answer = refusal(error, "")
            headers = b"".join(
                name + b": " + value + b"\r\n"
                for name, value in answer.raw_headers(("connection", "close"))
            )
            self.transport.write(STATUS_LINE[status] + headers + b"\r\n" + answer.body)
        self.transport.close()
