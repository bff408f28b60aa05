"""The process that serves the page, until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Callable, Iterator

import uvicorn

from lowerbound.errors import ResourceError
from lowerbound.web.explore.gate import Gate
from lowerbound.web.explore.routes import Page, router
from lowerbound.web.server.settings import is_loopback
from lowerbound.web.signals import handled


class Server(uvicorn.Server):
    """uvicorn's server, which a signal ends without an exception."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # pyright: ignore
        """Handle SIGINT and SIGTERM in the event loop, where the process allows it."""
        with handled({"SIGINT": self.end, "SIGTERM": self.end}):
            yield

    def end(self) -> None:
        """Stop serving; at once if it is asked a second time."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True


def check_host(host: str) -> None:
    """Check that only this machine can reach an address.

    Raises:
        ResourceError: E350 for another one.
    """
    if not is_loopback(host):
        raise ResourceError(
            "E350",
            f"explore listens on this machine only, not on {host[:100]!r}: the page shows rows "
            "and writes files",
            fix="leave --host out; from another machine: ssh -L 8080:127.0.0.1:PORT HOST",
            host=host[:100],
        )


def address(listening: socket.socket, secret: str) -> str:
    """Return the address of the page."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/{secret}/"


def new_secret() -> str:
    """Return a secret that is part of the address: it keeps other pages and users out."""
    return secrets.token_urlsafe(18)


def server(
    page: Page, secret: str, tell: Callable[[str], None] | None = None, host: str = "127.0.0.1"
) -> Server:
    """Return a server of a page.

    Args:
        page: what it is about.
        secret: the first part of every path.
        tell: shows a line about an error inside.
        host: the address that it listens on.
    """
    config = uvicorn.Config(
        Gate(router(page), secret, tell, host),  # pyright: ignore[reportArgumentType]
        http="auto",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=2,
    )
    return Server(config)


def serve(made: Server, listening: socket.socket) -> None:
    """Serve until a signal ends it."""
    with asyncio.Runner(loop_factory=made.config.get_loop_factory()) as runner:
        runner.run(made.serve([listening]))
