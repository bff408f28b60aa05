"""Identity, limits, metrics and log of every request."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import secrets
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.exceptions import HTTPException

from lowerbound.errors import LowerboundError, ResourceError, UsageError
from lowerbound.web.server.answers import Answer, refusal
from lowerbound.web.server.requests import Body, Budget, invalid
from lowerbound.web.server.settings import Limits, Settings, is_loopback, read_token

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Anybody may ask whether the server is well, and load the page that asks for the token.
_HEALTH = frozenset(["/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"])
_OPEN = _HEALTH | {"/", "/docs", "/favicon.ico"}
_ASSETS = "/docs/"
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LINGER, _DRAINED = 2.0, 64_000_000  # seconds and bytes that are read after a refusal


class Exchange:
    """One request and what is known of it.

    Args:
        request_id: its id.
        headers: of the request, names in lower case.
        plain: whether errors are told as the Open Inference Protocol does.

    Attributes:
        route: the path of the API that it matches.
        rows: the number of its rows.
        body: its body, once it is read.
        status: of the answer; 0 before it.
    """

    def __init__(self, request_id: str, headers: Mapping[str, str], plain: bool) -> None:
        self.request_id, self.headers, self.plain = request_id, headers, plain
        self.route, self.rows, self.status = "unmatched", 0, 0
        self.body: Body | None = None
        self.admitted = False

    @property
    def unread(self) -> bool:
        """Whether a part of the body has not been received."""
        if self.body is not None:
            return not self.body.complete
        sized = self.headers.get("content-length", "0").strip() not in ("", "0")
        return sized or "transfer-encoding" in self.headers


class Metrics:
    """Counts of one process, or of all workers together, in the format of Prometheus.

    Args:
        shared: whether several workers write their counts to PROMETHEUS_MULTIPROC_DIR.
    """

    def __init__(self, shared: bool) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "lowerbound_requests", "Requests.", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "lowerbound_request_seconds",
            "Seconds from the headers of a request to the end of its answer.",
            ["route"],
            registry=registry,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        )
        self.rows = Counter("lowerbound_rows", "Rows of requests.", ["route"], registry=registry)
        self.flagged = Counter(
            "lowerbound_flagged_rows", "Rows above the threshold.", registry=registry
        )
        self.unseen = Counter(
            "lowerbound_unseen_values",
            "Values that training has not seen, which tell of drift.",
            registry=registry,
        )
        self.busy = Gauge(
            "lowerbound_requests_in_progress",
            "Requests that are read or computed.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.passes = Counter(
            "lowerbound_passes", "Passes that score rows of several requests.", registry=registry
        )
        self.loads = Counter(
            "lowerbound_model_loads", "Models that were loaded.", ["result"], registry=registry
        )
        if shared:
            self.registry = CollectorRegistry()
            MultiProcessCollector(self.registry)


class Log:
    """Structured log on stderr: one JSON object a line, without anything that rows hold.

    Args:
        quiet: leave out requests, but for those that the server failed to answer.
    """

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet

    def __call__(self, event: str, level: str = "info", **facts: Any) -> None:
        """Write a line.

        Args:
            event: what happened.
            level: "info", "warning" or "error".
            facts: more about it.
        """
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e3):03}Z"
        line = json.dumps({"time": stamp, "level": level, "event": event, **facts}, default=str)
        try:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):  # nobody reads it: requests go on
            pass


class Guard:
    """The outermost layer of the application.

    Args:
        app: the application.
        settings: of the server.
        metrics: counts of requests.
        log: log of requests.

    Attributes:
        exchanges: requests that are in progress and use the model.
        draining: whether the process ends.
    """

    def __init__(self, app: App, settings: Settings, metrics: Metrics, log: Log) -> None:
        self.app, self.settings, self.metrics, self.log = app, settings, metrics, log
        self.limits: Limits = settings.limits
        self.budget = Budget(self.limits.bodies)
        self.in_progress = 0
        self.draining = False
        self.service: Any = None
        self.token = read_token(settings.token_file)
        any_host = not settings.hosts and not is_loopback(settings.host)
        self.hosts = None if any_host else settings.allowed_hosts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; whatever happens, it has an answer in JSON and a line in the log."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        given = headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else secrets.token_hex(8)
        exchange = Exchange(request_id, headers, scope["path"].startswith("/v2"))
        scope["lowerbound"] = exchange
        sender = _Sender(send, exchange)
        try:
            async with asyncio.timeout(self.limits.seconds):
                self._check(scope["path"], exchange)
                await self.app(scope, receive, sender)
        except BaseException as error:
            await self._answer(error, exchange, receive, sender)
        finally:
            if exchange.body is not None:
                exchange.body.release()
            if exchange.admitted:
                self.in_progress -= 1
                self.metrics.busy.dec()
            self._record(scope, exchange, time.perf_counter() - began)

    def _check(self, path: str, exchange: Exchange) -> None:
        """Check host and token.

        Raises:
            UsageError: E267 or E266.
        """
        if path in _HEALTH:
            return
        if self.hosts is not None:
            host = exchange.headers.get("host", "").strip().lower()
            name = host if host.endswith("]") else re.sub(r":\d*$", "", host)
            if name not in self.hosts:
                raise UsageError(
                    "E267",
                    "the server does not answer to the name in the Host header",
                    fix="serve with --allow-host NAME",
                )
        if self.token and path not in _OPEN and not path.startswith(_ASSETS):
            scheme, _, token = exchange.headers.get("authorization", "").partition(" ")
            same = hmac.compare_digest(token.strip().encode("latin-1", "replace"), self.token)
            if scheme.lower() != "bearer" or not same:
                raise UsageError(
                    "E266",
                    "the request has no valid token",
                    fix="send the header Authorization: Bearer TOKEN",
                )

    def admit(self, exchange: Exchange) -> None:
        """Count a request that uses the model.

        Raises:
            ResourceError: E325 if there are too many of them, E326 if the process ends.
        """
        if self.in_progress >= self.limits.queue:
            raise ResourceError(
                "E325",
                f"{self.in_progress:,} requests are in progress, as many as the server takes",
                fix="send the request again later, or serve with more --workers",
            )
        self.in_progress += 1
        self.metrics.busy.inc()
        exchange.admitted = True

    async def read(self, exchange: Exchange, receive: Receive) -> bytes:
        """Return the body of a request, counted while it streams.

        Raises:
            LowerboundError: E264, E263, E321, E324 or E326.
        """
        exchange.body = body = Body(exchange.headers, self.limits, self.budget)
        while not body.complete:
            try:
                async with asyncio.timeout(self.limits.silence):
                    message = await receive()
            except TimeoutError:
                raise ResourceError(
                    "E324",
                    f"no part of the body arrived for {self.limits.silence:g} seconds",
                    fix="send the body without pauses",
                ) from None
            if message["type"] == "http.disconnect":
                raise _Gone
            body.add(message.get("body", b""))
            body.complete = not message.get("more_body", False)
        return body.whole()

    async def _answer(
        self, error: BaseException, exchange: Exchange, receive: Receive, sender: _Sender
    ) -> None:
        """Answer an error, unless an answer has begun."""
        if isinstance(error, _Gone):
            exchange.status = 499
            return
        known = self._known(error, exchange)
        if exchange.status:  # the answer has begun
            return
        answer = refusal(known, exchange.request_id, plain=exchange.plain)
        await sender.refuse(answer, receive)

    def _known(self, error: BaseException, exchange: Exchange) -> LowerboundError:
        """Return an error as one of ours."""
        if isinstance(error, LowerboundError):
            return error
        for kind, told in (
            (HTTPException, lambda e: _NoAddress(e.status_code)),
            (RequestValidationError, lambda e: invalid([_parameter(p) for p in e.errors()])),
            (TimeoutError, lambda e: self._late(exchange)),
            (asyncio.CancelledError, lambda e: _ended()),
            (MemoryError, lambda e: _no_memory()),
        ):
            if isinstance(error, kind):
                return told(error)
        # Neither the message nor the values are logged: both may hold parts of rows.
        frames = traceback.extract_tb(error.__traceback__)[-8:]
        self.log(
            "bug",
            "error",
            request_id=exchange.request_id,
            type=type(error).__name__,
            trace=[f"{frame.filename}:{frame.lineno}" for frame in frames],
        )
        return _Bug()

    def _late(self, exchange: Exchange) -> LowerboundError:
        seconds = f"{self.limits.seconds:g} seconds"
        if exchange.unread:
            told = f"the request did not arrive within {seconds}"
            return ResourceError("E324", told, fix="send the body at once")
        told = f"the request was not done within {seconds}"
        return ResourceError("E327", told, fix="send fewer rows, or try again later")

    def _record(self, scope: Scope, exchange: Exchange, seconds: float) -> None:
        status, route = exchange.status, exchange.route
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        if exchange.rows:
            self.metrics.rows.labels(route).inc(exchange.rows)
        probe = route in _HEALTH or route == "/metrics"
        if (status < 400 and probe) or (self.log.quiet and status < 500):
            return
        self.log(
            "request",
            "error" if status >= 500 else "info",
            request_id=exchange.request_id,
            method=scope["method"],
            route=route,
            status=status,
            ms=round(1e3 * seconds, 2),
            rows=exchange.rows,
            bytes=0 if exchange.body is None else exchange.body.received,
        )


class _Gone(Exception):
    """The client closed the connection."""


class _NoAddress(UsageError):
    """No path of the server, or not by this method."""

    def __init__(self, status: int) -> None:
        told = "does not allow this method" if status == 405 else "is not one of this server"
        super().__init__("E265", f"the path {told}", fix="GET /openapi.json lists the paths")
        self.status = status if status in (404, 405) else 404


def _parameter(problem: Mapping[str, Any]) -> dict[str, Any]:
    """Return a problem of FastAPI as one of ours."""
    name = str(problem["loc"][-1])
    return {"parameter": name, "problem": f"parameter {name!r}: {problem['msg']}"}


def _ended() -> LowerboundError:
    fix = "send the request again, to another server"
    return ResourceError("E326", "the server ends", fix=fix)


def _no_memory() -> LowerboundError:
    return ResourceError("E303", "there is not enough memory", fix="send fewer rows")


class _Bug(LowerboundError):
    def __init__(self) -> None:
        super().__init__(
            "E269",
            "this is a bug in lowerbound; the log of the server has the place, under request_id",
            fix="please report it",
        )


class _Sender:
    """Sends an answer with the headers that all answers have."""

    def __init__(self, send: Send, exchange: Exchange) -> None:
        self.send, self.exchange = send, exchange

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.exchange.status = message["status"]
            more = [
                (b"x-request-id", self.exchange.request_id.encode()),
                (b"x-content-type-options", b"nosniff"),
            ]
            names = {name for name, _ in message["headers"]}
            if b"cache-control" not in names:
                more.append((b"cache-control", b"no-store"))
            if self.exchange.unread and b"connection" not in names:
                more.append((b"connection", b"close"))
            message = {**message, "headers": [*message["headers"], *more]}
        await self.send(message)

    async def refuse(self, answer: Answer, receive: Receive) -> None:
        """Send an answer; read on for a moment if the client still sends its body.

        A client that is cut off while it sends would see a reset connection, not the answer.
        """
        start = {"type": "http.response.start", "status": answer.status}
        await self({**start, "headers": answer.raw_headers()})
        lingers = self.exchange.unread
        await self({"type": "http.response.body", "body": answer.body, "more_body": lingers})
        if not lingers:
            return
        left = _DRAINED
        try:
            async with asyncio.timeout(_LINGER):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if message["type"] == "http.disconnect" or not message.get("more_body"):
                        break
        except TimeoutError:
            pass
        await self({"type": "http.response.body", "body": b"", "more_body": False})
