"""One process that serves: its event loop, its signals, and the model that it loads."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import sys
from collections.abc import Callable, Iterator

import uvicorn

from lowerbound.errors import LowerboundError
from lowerbound.web.server.connections import protocol
from lowerbound.web.server.guard import Guard, Log, Metrics
from lowerbound.web.server.inference import version_2
from lowerbound.web.server.pages import pages
from lowerbound.web.server.routes import Api, Service, health, version_1
from lowerbound.web.server.served import Holder
from lowerbound.web.server.settings import Settings, read_token
from lowerbound.web.signals import handled

_SWITCH = 0.0005  # seconds after which a thread of Python lets another run


def application(settings: Settings, holder: Holder, log: Log, *, shared: bool) -> Guard:
    """Return the application.

    Args:
        settings: of the server.
        holder: of the model.
        log: the log.
        shared: whether several workers count together.
    """
    metrics = Metrics(shared)
    service = Service(settings, holder, metrics, log)
    app = Api(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    for router in (version_1(service), version_2(service), health(service)):
        app.include_router(router)
    app.include_router(pages(app, service))
    service.guard = Guard(app, settings, metrics, log)
    service.guard.service = service
    return service.guard


class Server(uvicorn.Server):
    """uvicorn's server, with signals that load a model again and that drain.

    Args:
        config: of uvicorn.
        guard: the application.
        holder: of the model.
        log: the log.
        ready: called once signals are handled.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        guard: Guard,
        holder: Holder,
        log: Log,
        ready: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self.guard, self.holder, self.log, self.ready = guard, holder, log, ready
        self._loading: asyncio.Task[None] | None = None
        self._again = False

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # pyright: ignore
        """Handle signals in the event loop: SIGTERM and SIGINT drain, SIGHUP loads the model."""
        with handled({"SIGTERM": self._end, "SIGINT": self._end, "SIGHUP": self._load}):
            self.ready()
            yield

    def _end(self) -> None:
        if self.should_exit:
            self.force_exit = True  # the second signal
            return
        self.log("draining", requests=self.guard.in_progress)
        self.guard.draining = True
        self.should_exit = True

    def _load(self) -> None:
        if self._loading is not None:  # once more after this: the folder may have changed again
            self._again = True
            return
        self._loading = asyncio.create_task(self._reload())

    async def _reload(self) -> None:
        """Load the model again; a broken one leaves the old one in its place."""
        try:
            while True:
                self._again = False
                try:
                    served = await asyncio.to_thread(self.holder.load)
                    self.guard.token = read_token(self.guard.settings.token_file)
                except LowerboundError as error:
                    self.guard.metrics.loads.labels("failed").inc()
                    self.log("load failed", "error", code=error.code, message=error.message)
                except Exception as error:
                    self.guard.metrics.loads.labels("failed").inc()
                    self.log("load failed", "error", code="E269", message=type(error).__name__)
                else:
                    self.guard.metrics.loads.labels("loaded").inc()
                    self.log("loaded", model=served.digest[:12])
                if not self._again:
                    return
        finally:
            self._loading = None


def serve(settings: Settings, listening: socket.socket, holder: Holder, log: Log) -> None:
    """Serve requests until a signal ends the process.

    Args:
        settings: of the server.
        listening: the socket.
        holder: of a model that is loaded.
        log: the log.
    """
    limits = settings.limits
    shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ and settings.workers > 1
    guard = application(settings, holder, log, shared=shared)
    config = uvicorn.Config(
        guard,  # pyright: ignore[reportArgumentType]
        http=protocol(limits),
        loop="auto",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=True,
        timeout_keep_alive=max(5, int(limits.silence)),
        timeout_graceful_shutdown=max(1, round(limits.drain)),
    )

    def ready() -> None:
        port = listening.getsockname()[1]
        log("listening", pid=os.getpid(), port=port, model=_model(holder))

    server = Server(config, guard, holder, log, ready)
    gc.collect()
    gc.freeze()  # the modules and the model stay: looking through them takes a tenth of a request
    # The thread that computes otherwise keeps the event loop waiting for 5 ms at a time.
    sys.setswitchinterval(_SWITCH)
    guard.metrics.loads.labels("loaded").inc()
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(server.serve([listening]))
    assert guard.service is not None, "the application is complete"
    guard.service.compute.close()
    log("ended", pid=os.getpid())


def _model(holder: Holder) -> str:
    return holder.now.digest[:12] if holder.now is not None else ""
