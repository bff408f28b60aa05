"""The API of version 1, and the addresses that say how the server is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import pyarrow as pa
from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from lowerbound._version import __version__
from lowerbound.errors import LowerboundError, ResourceError
from lowerbound.web.server.answers import Answer, rows_answer, wanted
from lowerbound.web.server.compute import Compute
from lowerbound.web.server.guard import Exchange, Guard, Log, Metrics
from lowerbound.web.server.requests import (
    JSON,
    Problems,
    as_table,
    check_rows,
    invalid,
    media_type,
    parse_json,
    rows_of,
)
from lowerbound.web.server.served import Given, Holder, Served, remarks
from lowerbound.web.server.settings import Limits, Settings

IN_THREAD = 65_536  # bytes of a body from which it is read in a thread

ROWS: dict[str, Any] = {"requestBody": {"$ref": "#/components/requestBodies/Rows"}}
"""The description of endpoints that take rows; `pages` describes the rows of the model."""

By = Annotated[
    Literal["likelihood", "typicality", "levels"],
    Query(description="the measure, as of `lowerbound score --by`"),
]
Explained = Annotated[int, Query(ge=0, le=100, description="columns to name for each row")]
Named = Annotated[int, Query(ge=1, le=100, description="columns to name for each row")]
Copies = Annotated[int | None, Query(ge=1, le=1000, description="completed copies of each row")]
Seed = Annotated[int, Query(ge=0, lt=2**63, description="of the draws")]


class Api(FastAPI):
    """FastAPI without layers of its own for errors: `Guard` answers all of them."""

    def build_middleware_stack(self) -> Any:
        """Return the router, with the exit stack that it needs."""
        return AsyncExitStackMiddleware(self.router)


class Service:
    """What the endpoints share.

    Args:
        settings: of the server.
        holder: of the model.
        metrics: counts.
        log: the log.
    """

    def __init__(self, settings: Settings, holder: Holder, metrics: Metrics, log: Log) -> None:
        self.settings, self.holder, self.metrics, self.log = settings, holder, metrics, log
        self.limits: Limits = settings.limits
        self.compute = Compute()
        self.guard: Guard | None = None

    @property
    def model(self) -> Served:
        """The model that is served now.

        Raises:
            ResourceError: E326 if none is loaded yet.
        """
        if self.holder.now is None:
            raise ResourceError(
                "E326", "the model is not loaded yet", fix="send the request again later"
            )
        return self.holder.now

    @property
    def ready(self) -> bool:
        """Whether requests are answered, now and in the next seconds."""
        return self.holder.now is not None and not (self.guard and self.guard.draining)

    def begin(self, request: Request, *, admit: bool = True) -> Exchange:
        """Name the route of a request for metrics and log, and count it if it uses the model."""
        exchange: Exchange = request.scope["lowerbound"]
        exchange.route = request.scope["route"].path
        if admit:
            assert self.guard is not None, "the application is complete"
            self.guard.admit(exchange)
        return exchange

    async def body(self, request: Request) -> tuple[bytes, str]:
        """Return the body of a request and its format."""
        exchange: Exchange = request.scope["lowerbound"]
        kind = media_type(exchange.headers)
        assert self.guard is not None, "the application is complete"
        return await self.guard.read(exchange, request.receive), kind

    async def rows(
        self, request: Request, most: int | None = None
    ) -> tuple[Exchange, Served, Given, str]:
        """Read the rows of a request.

        Args:
            request: the request.
            most: rows that it may have, if fewer than others.

        Returns:
            The exchange, the model that the rows were read for, the rows, and the format.
        """
        exchange, served = self.begin(request), self.model
        body, kind = await self.body(request)
        read = (body, kind, served.columns, self.limits)
        if len(body) > IN_THREAD or kind != JSON:
            rows = await self.compute.alone(rows_of, *read)
        else:
            rows = rows_of(*read)
        if most is not None and rows.num_rows > most:
            raise ResourceError(
                "E322",
                f"this takes {most:,} rows at a time, got {rows.num_rows:,}",
                fix="send the rows in several requests",
                limit=most,
            )
        exchange.rows = rows.num_rows
        return exchange, served, rows, kind

    async def table(
        self, request: Request, most: int | None = None
    ) -> tuple[Served, pa.Table, str]:
        """Read the rows of a request as a table: the model, the table, and the format."""
        _, served, rows, kind = await self.rows(request, most)
        return served, as_table(rows), kind

    def answer(
        self,
        request: Request,
        served: Served,
        table: pa.Table,
        kind: str,
        facts: Mapping[str, Any],
    ) -> Response:
        """Return rows in the format that the client accepts."""
        exchange: Exchange = request.scope["lowerbound"]
        accepted = wanted(exchange.headers.get("accept", ""), kind)
        about = {"model": served.digest[:12], "request_id": exchange.request_id}
        return response(rows_answer(table, {**facts, **about}, accepted))

    async def careful(
        self, served: Served, table: pa.Table, work: Callable[..., Any], *arguments: Any
    ) -> Any:
        """Run work on rows in a thread; of rows that cannot be used, tell all problems."""

        def run() -> Any:
            try:
                return work(*arguments)
            except LowerboundError as error:
                raise served.all_problems(table, error) from None

        return await self.compute.alone(run)

    def count(self, scores: pa.Table, facts: Mapping[str, Any]) -> None:
        """Count flagged rows and unseen values."""
        flagged = sum(scores["is_anomaly"].to_pylist())
        if flagged:
            self.metrics.flagged.inc(flagged)
        if unseen := sum(facts.get("unseen", {}).values()):
            self.metrics.unseen.inc(unseen)


def response(answer: Answer) -> Response:
    """Return an answer as a response of the framework."""
    made = Response(answer.body, answer.status, dict(answer.headers))
    made.headers["content-type"] = answer.kind
    return made


def health(service: Service) -> APIRouter:
    """Return the addresses that say how the server is."""
    router = APIRouter(tags=["Server"])

    @router.get("/healthz", summary="The process answers")
    async def healthz(request: Request) -> dict[str, str]:
        service.begin(request, admit=False)
        return {"status": "ok"}

    @router.get("/readyz", summary="The model is loaded and has scored a row")
    async def readyz(request: Request) -> dict[str, str]:
        service.begin(request, admit=False)
        if not service.ready:
            raise ResourceError("E326", "the server starts or ends", fix="try again later")
        return {"status": "ready", "model": service.model.digest[:12]}

    @router.get("/metrics", summary="Counts in the format of Prometheus")
    async def metrics(request: Request) -> Response:
        service.begin(request, admit=False)
        text = generate_latest(service.metrics.registry)
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})

    return router


def version_1(service: Service) -> APIRouter:
    """Return the API of version 1."""
    router = APIRouter(prefix="/v1", tags=["Rows"])
    limits = service.limits
    score_routes(router, service)

    @router.get("/model", summary="The model: its columns and its threshold")
    async def model(request: Request) -> dict[str, Any]:
        service.begin(request, admit=False)
        served = service.model
        alarm = served.model.alarm
        return {
            "name": served.name,
            "model": served.digest,
            "lowerbound": __version__,
            "recipe": served.model.recipe.name,
            "columns": served.model.columns,
            "latent": served.model.latent,
            "threshold": alarm.threshold if alarm.threshold < float("inf") else None,
            "expected_rate": alarm.rate,
            "limits": {"rows": limits.rows, "body": limits.body, "seconds": limits.seconds},
            "example": served.example,
        }

    @router.post("/embed", summary="A few latent numbers for each row", openapi_extra=ROWS)
    async def embed(request: Request) -> Response:
        _, served, rows, kind = await service.rows(request)
        key = (served.digest, "embed")
        vectors = await service.compute.together(key, served.embed, rows, rows.num_rows)
        found = pa.table({f"z{i}": vectors[:, i] for i in range(vectors.shape[1])})
        return service.answer(request, served, found, kind, {})

    @router.post("/impute", summary="Rows with missing values filled", openapi_extra=ROWS)
    async def impute(
        request: Request,
        draws: Copies = None,
        seed: Seed = 0,
    ) -> Response:
        served, table, kind = await service.table(request)
        check_rows(table.num_rows * (draws or 1), limits)

        def work() -> pa.Table:
            return served.model.impute(table, draws=draws, seed=seed)

        return service.answer(
            request, served, await service.careful(served, table, work), kind, {}
        )

    @router.post(
        "/sample",
        summary="New rows like those of training",
        openapi_extra={"requestBody": {"$ref": "#/components/requestBodies/Sample"}},
    )
    async def sample(request: Request) -> Response:
        service.begin(request)
        served = service.model
        body, kind = await service.body(request)
        options = sample_options(body, kind, limits)

        def work() -> Any:
            return served.model.samples(**options)

        drawn = await service.compute.alone(work)
        request.scope["lowerbound"].rows = drawn.table.num_rows
        facts = {"notes": list(drawn.notes)} if drawn.notes else {}
        if drawn.effective_samples is not None:
            facts["effective_samples"] = drawn.effective_samples
        return service.answer(request, served, drawn.table, kind, facts)

    return router


def score_routes(router: APIRouter, service: Service) -> None:
    """Add the addresses that score rows and explain scores."""
    limits = service.limits

    async def scored(request: Request, explain: int, by: str, most: int | None = None) -> Response:
        most = limits.explained if explain else most
        _, served, rows, kind = await service.rows(request, most)
        if explain:
            table = as_table(rows)

            def work() -> tuple[pa.Table, dict[str, Any]]:
                found, coded = served.model.score_table(table, by=by, explain=explain)
                return found, remarks(coded)

            found, facts = await service.careful(served, table, work)
        else:
            key = (served.digest, "score", by)

            def together(requests: Any) -> Any:
                service.metrics.passes.inc()
                return served.score(requests, by)

            found, facts = await service.compute.together(key, together, rows, rows.num_rows)
        service.count(found, facts)
        threshold = served.model.scoring(by).alarm.threshold
        return service.answer(request, served, found, kind, {"threshold": threshold, **facts})

    @router.post("/score", summary="How unusual each row is", openapi_extra=ROWS)
    async def score(
        request: Request,
        explain: Explained = 0,
        by: By = "likelihood",
    ) -> Response:
        return await scored(request, explain, by)

    @router.post("/explain", summary="The columns that add most to each score", openapi_extra=ROWS)
    async def explain(
        request: Request,
        columns: Named = 3,
    ) -> Response:
        return await scored(request, columns, "likelihood")

    @router.post(
        "/counterfactual",
        summary="The nearest usual row of each row: the smallest change that makes it usual",
        openapi_extra=ROWS,
    )
    async def counterfactual(request: Request) -> Response:
        served, table, kind = await service.table(request, limits.changed)

        def work() -> tuple[pa.Table, list[tuple[str, ...]]]:
            return served.model.counterfactual_table(table)

        found, changed = await service.careful(served, table, work)
        facts: dict[str, Any] = {"threshold": served.model.alarm.threshold}
        accepted = wanted(request.scope["lowerbound"].headers.get("accept", ""), kind)
        if accepted == JSON:
            facts["changes"] = [
                [
                    {"column": name, "from": table[name][i].as_py(), "to": found[name][i].as_py()}
                    for name in names
                ]
                for i, names in enumerate(changed)
            ]
        else:
            told = pa.array([", ".join(names) for names in changed], pa.string())
            found = found.append_column("changed", told)
        return service.answer(request, served, found, kind, facts)


def sample_options(body: bytes, kind: str, limits: Limits) -> dict[str, Any]:
    """Return the arguments of `Model.samples` from a body.

    Raises:
        LowerboundError: E263 with all problems, E322 for too many rows.
    """
    if kind != JSON:
        raise invalid([{"problem": "it must be JSON"}])
    given = parse_json(body, limits.depth, 2 * limits.depth)
    problems = Problems()
    if not isinstance(given, dict):
        raise invalid([{"problem": 'it must be an object, such as {"n": 10, "seed": 0}'}])
    for name in getattr(given, "names", ()):
        problems.add(f"the name {name[:40]!r} occurs twice")
    options: dict[str, Any] = {"n": 1}
    for name, value in given.items():
        if name not in _SAMPLE:
            problems.add(f"there is no option {name[:40]!r}; there are {', '.join(_SAMPLE)}")
            continue
        told, fits = _SAMPLE[name]
        if fits(value):
            options[name] = value
        else:
            problems.add(f"{name} must be {told}")
    problems.raise_any()
    check_rows(options["n"], limits)
    return options


def _whole(value: Any, least: int) -> bool:
    return type(value) is int and least <= value < 2**63


_SAMPLE: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "n": ("a whole number of at least 1", lambda v: _whole(v, 1)),
    "seed": ("a whole number of at least 0", lambda v: _whole(v, 0)),
    "temperature": (
        "a number above 0 and at most 10",
        lambda v: type(v) in (int, float) and 0 < v <= 10,
    ),
    "where": (
        "an object of columns and values, which are numbers, text, true or false",
        lambda v: (
            isinstance(v, dict)
            and not getattr(v, "names", ())
            and all(type(x) in (int, float, str, bool) for x in v.values())
        ),
    ),
}
