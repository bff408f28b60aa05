"""The Open Inference Protocol, version 2, over HTTP: one input for each column.

https://github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request

from lowerbound._version import __version__
from lowerbound.errors import ResourceError, UsageError, nearest
from lowerbound.web.server.requests import (
    JSON,
    NUMBERS,
    SIMILAR,
    Columns,
    JsonRows,
    Problems,
    Values,
    check_rows,
    column_of,
    invalid,
    parse_json,
)
from lowerbound.web.server.routes import Service
from lowerbound.web.server.served import Served
from lowerbound.web.server.settings import Limits

_OUTPUTS = {"anomaly_score": "FP64", "p_value": "FP64", "is_anomaly": "BOOL"}
_NUMBERS = ("FP16", "FP32", "FP64", *(f"{u}INT{n}" for u in ("", "U") for n in (8, 16, 32, 64)))
_DATATYPES = (*_NUMBERS, "BOOL", "BYTES")

INFER: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": {
                    "type": "object",
                    "properties": {
                        "id": {"type": "string"},
                        "parameters": {"type": "object"},
                        "inputs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "properties": {
                                    "name": {"type": "string"},
                                    "shape": {"type": "array", "items": {"type": "integer"}},
                                    "datatype": {"type": "string", "enum": list(_DATATYPES)},
                                    "parameters": {"type": "object"},
                                    "data": {"type": "array", "items": {}},
                                },
                                "required": ["name", "shape", "datatype", "data"],
                            },
                        },
                        "outputs": {"type": "array", "items": {"type": "object"}},
                    },
                    "required": ["inputs"],
                },
            }
        },
    }
}


def version_2(service: Service) -> APIRouter:
    """Return the addresses of the protocol."""
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])
    server_routes(router, service)
    infer_routes(router, service)
    return router


def named(service: Service, name: str, version: str | None) -> Served:
    """Return the model of this name and version.

    Raises:
        UsageError: E265 if there is none.
    """
    served = service.model
    if name != served.name or version not in (None, served.digest[:12]):
        raise UsageError(
            "E265",
            "there is no model of this name or version",
            fix=f"GET /v2/models/{served.name}",
        )
    return served


def server_routes(router: APIRouter, service: Service) -> None:
    """Add the addresses that describe the server and the model."""

    @router.get("", summary="The server")
    async def server(request: Request) -> dict[str, Any]:
        service.begin(request, admit=False)
        return {"name": "lowerbound", "version": __version__, "extensions": []}

    @router.get("/health/live", summary="The process answers")
    async def live(request: Request) -> dict[str, bool]:
        service.begin(request, admit=False)
        return {"live": True}

    @router.get("/health/ready", summary="The model is loaded and has scored a row")
    async def ready(request: Request) -> dict[str, bool]:
        service.begin(request, admit=False)
        if not service.ready:
            raise ResourceError("E326", "the server starts or ends", fix="try again later")
        return {"ready": True}

    @router.get("/models/{name}", summary="Inputs and outputs of the model")
    @router.get("/models/{name}/versions/{version}", include_in_schema=False)
    async def metadata(request: Request, name: str, version: str | None = None) -> dict[str, Any]:
        service.begin(request, admit=False)
        return described(named(service, name, version))

    @router.get("/models/{name}/ready", summary="The model is loaded")
    @router.get("/models/{name}/versions/{version}/ready", include_in_schema=False)
    async def model_ready(
        request: Request, name: str, version: str | None = None
    ) -> dict[str, Any]:
        service.begin(request, admit=False)
        named(service, name, version)
        if not service.ready:
            raise ResourceError("E326", "the server starts or ends", fix="try again later")
        return {"name": name, "ready": True}


def infer_routes(router: APIRouter, service: Service) -> None:
    """Add the addresses that score rows."""

    @router.post("/models/{name}/infer", summary="Score rows", openapi_extra=INFER)
    @router.post("/models/{name}/versions/{version}/infer", include_in_schema=False)
    async def infer(request: Request, name: str, version: str | None = None) -> dict[str, Any]:
        exchange = service.begin(request)
        served = named(service, name, version)
        body, kind = await service.body(request)
        if kind != JSON:
            raise invalid([{"problem": "it must be JSON"}])
        asked = Inference(body, served.columns, service.limits)
        exchange.rows = asked.rows.num_rows

        def together(requests: Any) -> Any:
            service.metrics.passes.inc()
            return served.score(requests, "likelihood")

        key = (served.digest, "score", "likelihood")
        found, facts = await service.compute.together(
            key, together, asked.rows, asked.rows.num_rows
        )
        service.count(found, facts)
        outputs = [
            {
                "name": output,
                "shape": [found.num_rows],
                "datatype": _OUTPUTS[output],
                "data": found[output].to_pylist(),
            }
            for output in asked.outputs
        ]
        answer = {"model_name": served.name, "model_version": served.digest[:12]}
        return {**answer, **({"id": asked.id} if asked.id else {}), "outputs": outputs}


def described(served: Served) -> dict[str, Any]:
    """Return the metadata of a model: one input for each of its columns."""

    def datatype(kind: str) -> str:
        return "FP64" if kind in NUMBERS else "BYTES"

    return {
        "name": served.name,
        "versions": [served.digest[:12]],
        "platform": "lowerbound",
        "inputs": [
            {"name": c["name"], "datatype": datatype(c["kind"]), "shape": [-1]}
            for c in served.model.columns
            if c["required"] or c["kind"] == "count"
        ],
        "outputs": [
            {"name": name, "datatype": kind, "shape": [-1]} for name, kind in _OUTPUTS.items()
        ],
    }


class Inference:
    """A request of the protocol.

    Args:
        body: the bytes.
        columns: of the model.
        limits: on rows and depth.

    Attributes:
        id: that the client chose, or "".
        rows: the rows.
        outputs: names of the outputs to return.

    Raises:
        LowerboundError: E263 with all problems, E322 for too many rows.
    """

    def __init__(self, body: bytes, columns: Columns, limits: Limits) -> None:
        # Tensors of the shape (n, 1) may be nested: an array for each value.
        most = (limits.rows + 4) * (len(columns.known) + 1) + 64
        document = parse_json(body, limits.depth, min(most, 1_000_000))
        problems = Problems()
        if not isinstance(document, dict):
            raise invalid([{"problem": "it must be an object with inputs"}])
        for name in getattr(document, "names", ()):
            problems.add(f"the name {name[:40]!r} occurs twice")
        given = document.get("id", "")
        if not isinstance(given, str) or len(given) > 128:
            problems.add("id must be text of at most 128 characters")
        self.id = given
        self.outputs = self._outputs(document.get("outputs"), problems)
        self.rows = self._rows(document.get("inputs"), columns, problems, limits)

    @staticmethod
    def _outputs(given: Any, problems: Problems) -> list[str]:
        if given in (None, []):
            return list(_OUTPUTS)
        if not isinstance(given, list):
            problems.add("outputs must be an array of objects with a name")
            return []
        names = [each.get("name") if isinstance(each, dict) else None for each in given]
        known = [name for name in names if isinstance(name, str) and name in _OUTPUTS]
        if len(known) < len(names) or len(set(known)) < len(known):
            problems.add(f"outputs may name {', '.join(_OUTPUTS)}, each once")
        return known

    @staticmethod
    def _rows(given: Any, columns: Columns, problems: Problems, limits: Limits) -> JsonRows:
        if not isinstance(given, list) or not given:
            problems.add("inputs must be an array with one tensor for each column")
            problems.raise_any()
        found: dict[str, Values] = {}
        lengths = set()
        for number, tensor in enumerate(given, 1):
            name, values = _tensor(tensor, number, columns, problems)
            if name is None:
                continue
            if name in found:
                problems.add("the input occurs twice", column=name)
                continue
            check_rows(len(values), limits)
            lengths.add(len(values))
            found[name] = column_of(name, values, problems)
        if len(lengths) > 1:
            problems.add(f"the inputs have different numbers of rows: {sorted(lengths)[:5]}")
        if lengths == {0}:
            problems.add("there are no rows")
        for name in columns.required:
            if name not in found:
                problems.add("the input is missing", column=name)
        problems.raise_any()
        return JsonRows(found, max(lengths))


def _tensor(
    tensor: Any, number: int, columns: Columns, problems: Problems
) -> tuple[str | None, list[Any]]:
    """Return the column and the values of an input; no column if it cannot be used."""
    if not isinstance(tensor, Mapping):
        problems.add(f"input {number} must be an object")
        return None, []
    name = tensor.get("name")
    if not isinstance(name, str) or name not in columns.known:
        close = nearest(name[:100], columns.known) if isinstance(name, str) else None
        similar = f"; did you mean {close!r}?" if close and problems.total < SIMILAR else ""
        problems.add(f"input {number}: the model has no column of this name{similar}")
        return None, []
    try:
        return name, _values(tensor.get("shape"), tensor.get("datatype"), tensor.get("data"))
    except ValueError as error:
        problems.add(str(error), column=name)
        return None, []


def _values(shape: Any, kind: Any, data: Any) -> list[Any]:
    """Return the values of a tensor of n rows.

    Raises:
        ValueError: if its parts do not fit together.
    """
    if not isinstance(kind, str) or kind not in _DATATYPES:
        raise ValueError(f"datatype must be one of {', '.join(_DATATYPES)}")
    whole = isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)
    if not whole or len(shape) not in (1, 2) or shape[1:] not in ([], [1]):
        raise ValueError("shape must be [n] or [n, 1]")
    if not isinstance(data, list):
        raise ValueError("data must be an array")
    if data and all(isinstance(each, list) and len(each) == 1 for each in data):
        data = [each[0] for each in data]
    if len(data) != shape[0]:
        raise ValueError(f"shape says {shape[0]:,} values, data has {len(data):,}")
    return data
