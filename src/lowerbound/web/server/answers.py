"""Answers: results as JSON, CSV or Arrow, and errors with their HTTP status."""

from __future__ import annotations

import base64
import datetime
import decimal
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv as arrow_csv

from lowerbound.errors import (
    DataError,
    LowerboundError,
    ModelFileError,
    ResourceError,
    UsageError,
)
from lowerbound.web.server.requests import ARROW, ARROW_FILE, CSV, JSON, TSV

# The status of errors whose class does not tell it.
_STATUS = {
    "E264": 415,
    "E265": 404,
    "E266": 401,
    "E267": 421,
    "E303": 503,
    "E321": 413,
    "E322": 413,
    "E323": 431,
    "E324": 408,
    "E325": 429,
    "E326": 503,
    "E327": 503,
}
_RETRY = {429: 1, 503: 1}  # seconds after which to try again


class Answer(NamedTuple):
    """An HTTP answer.

    Attributes:
        status: the status code.
        kind: the content type.
        body: the bytes.
        headers: further headers.
    """

    status: int
    kind: str
    body: bytes
    headers: Sequence[tuple[str, str]] = ()

    def raw_headers(self, *further: tuple[str, str]) -> list[tuple[bytes, bytes]]:
        """Return all headers as bytes."""
        own = [("content-type", self.kind), ("content-length", str(len(self.body)))]
        return [(n.encode(), v.encode("latin-1")) for n, v in [*own, *self.headers, *further]]


def status_of(error: LowerboundError) -> int:
    """Return the HTTP status of an error."""
    if status := getattr(error, "status", 0):
        return status
    if error.code in _STATUS:
        return _STATUS[error.code]
    return 422 if isinstance(error, DataError | UsageError) else 500


def refusal(error: LowerboundError, request_id: str, *, plain: bool = False) -> Answer:
    """Return the answer that tells an error.

    Args:
        error: the error.
        request_id: id of the request.
        plain: tell it as the Open Inference Protocol does, with a text in place of an object.
    """
    status = status_of(error)
    hidden = isinstance(error, ModelFileError | ResourceError) and status == 500
    details = {} if hidden else {k: v for k, v in error.details.items() if k != "path"}
    told: Any = {
        "code": error.code,
        "message": error.message,
        "hint": _for_clients(error.fix),
        "details": details,
    }
    if plain:
        fix = f"; fix: {told['hint']}" if told["hint"] else ""
        told = f"[{error.code}] {error.message}{fix}"
    body = {"error": told, "request_id": request_id}
    headers = [("retry-after", str(_RETRY[status]))] if status in _RETRY else []
    if status == 401:
        headers.append(("www-authenticate", 'Bearer realm="lowerbound"'))
    return Answer(status, JSON, dumped(body), headers)


def _for_clients(fix: str) -> str:
    """Return a fix without flags that only the command line has."""
    if fix.startswith("--rename "):
        theirs, _, ours = fix.split(" ")[1].partition("=")
        return f"name the column {ours!r}, not {theirs!r}"
    return "" if fix.startswith(("--types", "--explain", "lowerbound score")) else fix


def dumped(value: Any) -> bytes:
    """Return a value as JSON in ASCII; what JSON lacks becomes null or text."""
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"), default=_spelled)
    except ValueError:
        text = json.dumps(_finite(value), separators=(",", ":"), default=_spelled)
    return text.encode("ascii")


def _spelled(value: Any) -> Any:
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def wanted(accept: str, given: str) -> str:
    """Return the format of an answer: the first that the client accepts, or that of the body.

    Args:
        accept: the Accept header.
        given: the format of the body.
    """
    for part in accept.split(","):
        kind = part.partition(";")[0].strip().lower()
        if kind in (JSON, CSV, TSV, ARROW, ARROW_FILE):
            return kind
    return given


def rows_answer(table: pa.Table, facts: Mapping[str, Any], kind: str) -> Answer:
    """Return the answer with rows.

    Args:
        table: the rows.
        facts: what else is told: in JSON beside the rows, else in headers.
        kind: the format.
    """
    if kind == JSON:
        rows = [_with_reasons(row) for row in table.to_pylist()]
        return Answer(200, JSON, dumped({"rows": rows, **facts}))
    told = [(f"x-{key.replace('_', '-')}", str(facts[key])) for key in _TOLD if key in facts]
    sink = pa.BufferOutputStream() if kind in (ARROW, ARROW_FILE) else io.BytesIO()
    if kind in (ARROW, ARROW_FILE):
        make = pa.ipc.new_stream if kind == ARROW else pa.ipc.new_file
        with make(sink, table.schema) as writer:
            writer.write_table(table)
    else:
        comma = arrow_csv.WriteOptions(delimiter="," if kind == CSV else "\t")
        arrow_csv.write_csv(_flat(table), sink, comma)
    body = sink.getvalue()
    return Answer(200, kind, body if isinstance(body, bytes) else body.to_pybytes(), told)


_TOLD = ("model", "threshold")  # facts that headers have room for


def _flat(table: pa.Table) -> pa.Table:
    """Return a table whose dictionaries are text, which CSV files are written from."""
    for i, column in enumerate(table.columns):
        if pa.types.is_dictionary(column.type):
            table = table.set_column(i, table.column_names[i], column.cast(column.type.value_type))
    return table


def _with_reasons(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row in which the columns ``top1_column`` and on are one list, ``why``."""
    if "top1_column" not in row:
        return row
    kept = {key: value for key, value in row.items() if not key.startswith("top")}
    why, rank = [], 1
    while row.get(f"top{rank}_column") is not None:
        names = ("column", "nats", "value", "expected")
        why.append({name: row[f"top{rank}_{name}"] for name in names})
        rank += 1
    return {**kept, "why": why}
