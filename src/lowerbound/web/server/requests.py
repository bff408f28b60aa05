"""Bodies of requests: counted while they stream, decompressed within bounds, read as tables."""

from __future__ import annotations

import json
import math
import re
import struct
import tempfile
import zlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from lowerbound.errors import DataError, LowerboundError, ResourceError, UsageError, nearest
from lowerbound.web.server.settings import Limits

JSON, CSV, TSV = "application/json", "text/csv", "text/tab-separated-values"
ARROW, ARROW_FILE = "application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.file"
FORMATS = (JSON, CSV, TSV, ARROW, ARROW_FILE)

MOST_PROBLEMS = 50  # that an answer lists
SIMILAR = 5  # problems for which a similar name is searched: it takes long
NUMBERS = ("real", "positive", "count")  # kinds of columns that hold numbers

Receive = Callable[[], Awaitable[Mapping[str, Any]]]


class Columns:
    """The columns that rows of a model have.

    Args:
        known: name and kind of every column that the model has seen.
        required: the columns that each row must have.
        read: reads a file as the model reads it.
    """

    def __init__(
        self,
        known: Mapping[str, str],
        required: Sequence[str],
        read: Callable[[Path], pa.Table],
    ) -> None:
        self.known, self.required, self.read = known, tuple(required), read


def invalid(problems: Sequence[Mapping[str, Any]], total: int | None = None) -> UsageError:
    """Return E263 with all problems of a body.

    Args:
        problems: each with ``problem``, and ``row`` and ``column`` where it has them.
        total: the number of all problems, if `problems` are only the first of them.
    """
    total = len(problems) if total is None else total
    shown = list(problems)[:MOST_PROBLEMS]
    first = "; ".join(_told(each) for each in shown[:5])
    more = f" and {total - 5:,} more problems" if total > 5 else ""
    return UsageError(
        "E263",
        f"the body cannot be used: {first}{more}",
        fix="GET /openapi.json has an example row; all problems are in error.details.problems",
        problems=shown,
        count=total,
    )


def _told(problem: Mapping[str, Any]) -> str:
    where = [f"row {problem['row']}"] if "row" in problem else []
    where += [f"column {_cut(problem['column'])}"] if "column" in problem else []
    return f"{', '.join(where)}: {problem['problem']}" if where else str(problem["problem"])


def _cut(value: object, width: int = 60) -> str:
    """Quote a text of a client for a message, without control characters."""
    text = "".join(c if c.isprintable() else "\N{MIDDLE DOT}" for c in str(value)[: width + 1])
    return f"'{text}'" if len(text) <= width else f"'{text[:width]}…'"


class Budget:
    """The bytes of bodies that a process holds at the same time.

    Args:
        most: the limit.
    """

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0

    def take(self, count: int) -> None:
        """Add bytes.

        Raises:
            ResourceError: E326 if there are too many.
        """
        if self.held + count > self.most:
            raise ResourceError(
                "E326",
                f"the server holds {self.held:,} bytes of other requests, and no more than "
                f"{self.most:,} at a time",
                fix="send the request again later",
            )
        self.held += count

    def give_back(self, count: int) -> None:
        """Remove bytes."""
        self.held -= count


def too_large(limit: int, what: str = "the body") -> ResourceError:
    """Return E321 for a body of more than `limit` bytes."""
    return ResourceError(
        "E321",
        f"{what} is larger than {limit:,} bytes",
        fix="send fewer rows in a request, or serve with a higher --max-body",
        limit=limit,
    )


class Body:
    """The body of a request as it streams in.

    Args:
        headers: of the request, names in lower case.
        limits: on its size.
        budget: of the process.

    Attributes:
        received: bytes that came, as they were sent.
        complete: whether all came.
    """

    def __init__(self, headers: Mapping[str, str], limits: Limits, budget: Budget) -> None:
        self.limits, self.budget = limits, budget
        self.received = self.taken = 0
        self.complete = False
        self.parts: list[bytes] = []
        coding = headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("", "identity", "gzip", "x-gzip"):
            raise UsageError(
                "E264",
                f"the content encoding {_cut(coding, 30)} is not supported",
                fix="send the body without one, or with Content-Encoding: gzip",
            )
        self.inflating = zlib.decompressobj(31) if "gzip" in coding else None
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > limits.body:
            raise too_large(limits.body)

    def add(self, chunk: bytes) -> None:
        """Take a part of the body.

        Raises:
            ResourceError: E321 if the body is too large, E326 if the process holds too much.
            UsageError: E263 if it is no gzip.
        """
        self.received += len(chunk)
        if self.received > self.limits.body:
            raise too_large(self.limits.body)
        if self.inflating is None:
            self._keep(chunk)
            return
        while chunk:
            if self.inflating.eof:
                raise invalid([{"problem": "bytes follow the end of the gzip stream"}])
            try:
                made = self.inflating.decompress(chunk, self.limits.body - self.taken + 1)
            except zlib.error:
                raise invalid([{"problem": "it is not a gzip stream"}]) from None
            if self.taken + len(made) > self.limits.body:
                raise too_large(self.limits.body, "the decompressed body")
            self._keep(made)
            chunk = self.inflating.unconsumed_tail or self.inflating.unused_data

    def _keep(self, made: bytes) -> None:
        self.budget.take(len(made))
        self.taken += len(made)
        self.parts.append(made)

    def whole(self) -> bytes:
        """Return the body, decompressed.

        Raises:
            UsageError: E263 if the gzip stream is cut off.
        """
        if self.inflating is not None and not self.inflating.eof:
            raise invalid([{"problem": "the gzip stream is cut off"}])
        return b"".join(self.parts)

    def release(self) -> None:
        """Give the bytes back to the budget."""
        self.budget.give_back(self.taken)
        self.taken, self.parts = 0, []


def media_type(headers: Mapping[str, str]) -> str:
    """Return the format of the body.

    Raises:
        UsageError: E264 for a format that is not read.
    """
    given = headers.get("content-type", "").partition(";")[0].strip().lower()
    if given in FORMATS:
        return given
    shown = _cut(given, 60) if given else "no content type"
    raise UsageError(
        "E264",
        f"the body must be of one of the types {', '.join(FORMATS)}, got {shown}",
        fix="-H 'Content-Type: application/json', or curl --json",
    )


def rows_of(body: bytes, kind: str, columns: Columns, limits: Limits) -> JsonRows | pa.Table:
    """Read the rows of a body.

    Args:
        body: the bytes.
        kind: one of `FORMATS`.
        columns: of the model.
        limits: on rows and depth.

    Raises:
        LowerboundError: E263 with all problems of the body, E322 for too many rows, and the
            errors of CSV files.
    """
    if not body:
        raise invalid([{"problem": "it is empty"}])
    if kind == JSON:
        return _from_json(body, columns, limits)
    if kind in (CSV, TSV):
        table = _from_csv(body, kind, columns.read)
    else:
        table = _from_arrow(body, limits)
    check_rows(table.num_rows, limits)
    if not table.num_rows:
        raise invalid([{"problem": "there are no rows"}])
    absent = [name for name in columns.required if name not in table.column_names]
    if absent:
        spare = set(table.column_names) - set(columns.known)
        raise invalid(
            [_absent(name, spare if i < SIMILAR else ()) for i, name in enumerate(absent)]
        )
    return table


def as_table(rows: JsonRows | pa.Table) -> pa.Table:
    """Return rows as an Arrow table."""
    return rows.table if isinstance(rows, JsonRows) else rows


def check_rows(rows: int, limits: Limits) -> None:
    """Check the number of rows.

    Raises:
        ResourceError: E322.
    """
    if rows > limits.rows:
        raise ResourceError(
            "E322",
            f"a request may have {limits.rows:,} rows, got {rows:,}",
            fix="send the rows in several requests, or serve with a higher --max-rows",
            limit=limits.rows,
        )


def _absent(name: str, spare: Collection[str]) -> dict[str, Any]:
    near = nearest(name, spare)
    similar = f"; is {_cut(near)} the same column?" if near else ""
    return {"column": name, "problem": f"the column is missing{similar}"}


# JSON.


class _Literal:
    """A number that JSON lacks: NaN, Infinity or -Infinity."""

    def __init__(self, text: str) -> None:
        self.text = text


class _Repeated(dict[str, Any]):
    """An object in which a name occurs twice.

    Attributes:
        names: the repeated names.
    """

    names: tuple[str, ...] = ()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    seen: set[str] = set()
    twice = dict.fromkeys(name for name, _ in pairs if name in seen or seen.add(name))
    found = _Repeated(made)
    found.names = tuple(twice)
    return found


# The end of the text also ends a string, so that no quotation mark is looked at twice.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def parse_json(body: bytes, depth: int, most: int) -> Any:
    """Parse JSON strictly, within bounds that are checked before objects are made.

    Args:
        body: the bytes, UTF-8.
        depth: arrays and objects that may be nested.
        most: arrays and objects that there may be.

    Returns:
        The value; NaN and infinities are `_Literal`, objects with repeated names `_Repeated`.

    Raises:
        UsageError: E263 for text that is not JSON, or too deep.
        ResourceError: E322 for too many arrays and objects.
    """
    if body.count(b"{") + body.count(b"[") > min(most, depth):
        brackets = _STRING.sub(b"", body).translate(None, _NO_BRACKETS)
        opened = brackets.count(b"{") + brackets.count(b"[")
        level = 0
        for byte in brackets[: 2 * most + depth]:
            level += 1 if byte in b"{[" else -1
            if level > depth:
                problem = f"it is nested more than {depth} levels deep"
                raise invalid([{"problem": problem}])
        if opened > most:
            raise ResourceError(
                "E322",
                f"the body has {opened:,} arrays and objects; at most {most:,} are read",
                fix="send the rows in several requests",
                limit=most,
            )
    try:
        text = body.decode("utf-8")
        return json.loads(text, object_pairs_hook=_object, parse_constant=_Literal)
    except UnicodeDecodeError as error:
        raise invalid([{"problem": f"byte {error.start + 1:,} is not UTF-8"}]) from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, character {error.colno}"
        raise invalid([{"problem": f"it is not JSON: {error.msg} ({where})"}]) from None
    except RecursionError:
        raise invalid([{"problem": "it is nested too deeply"}]) from None
    except ValueError:  # whole numbers of thousands of digits
        raise invalid([{"problem": "it has a number of too many digits"}]) from None


class Problems:
    """Problems of a body, of which the first are kept."""

    def __init__(self) -> None:
        self.first: list[dict[str, Any]] = []
        self.total = 0

    def add(self, problem: str, row: int | None = None, column: str | None = None) -> None:
        """Add a problem.

        Args:
            problem: the sentence.
            row: number of the row, counted from 1.
            column: name of the column.
        """
        self.total += 1
        if len(self.first) < MOST_PROBLEMS:
            where: dict[str, Any] = {} if row is None else {"row": row}
            where |= {} if column is None else {"column": column[:200]}
            self.first.append({**where, "problem": problem})

    def raise_any(self) -> None:
        """Raise E263 if there are problems."""
        if self.total:
            raise invalid(self.first, self.total)


def _from_json(body: bytes, columns: Columns, limits: Limits) -> JsonRows:
    document = parse_json(body, limits.depth, limits.rows + limits.depth)
    problems = Problems()
    if isinstance(document, _Repeated):
        problems.add(f"the names {_names(document.names)} occur twice")
    if isinstance(document, dict):
        extra = [name for name in document if name != "rows"]
        if extra or "rows" not in document:
            problems.add(f'it must be {{"rows": [...]}}, got the names {_names(document)}')
            problems.raise_any()
        rows = document["rows"]
    else:
        rows = document
    if not isinstance(rows, list):
        problems.add('it must be {"rows": [{"column": value, ...}, ...]}')
        problems.raise_any()
    if not rows:
        problems.add("there are no rows")
    check_rows(len(rows), limits)
    names = _row_names(rows, columns, problems)
    dicts = [row if isinstance(row, dict) else {} for row in rows]
    found = {name: column_of(name, [row.get(name) for row in dicts], problems) for name in names}
    problems.raise_any()
    return JsonRows(found, len(rows))


def _names(names: Sequence[str] | Mapping[str, Any]) -> str:
    shown = [_cut(name, 40) for name in list(names)[:5]]
    return ", ".join(shown) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "none"


def _row_names(rows: Sequence[Any], columns: Columns, problems: Problems) -> list[str]:
    """Return the names of the columns that the rows have, and note what is wrong with them."""
    known = columns.known
    usual: Any = None
    names: dict[str, None] = {}
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            problems.add("the row must be an object of names and values", number)
            continue
        if isinstance(row, _Repeated):
            for name in row.names:
                problems.add("the name occurs twice", number, name)
        if row.keys() == usual:
            continue
        extra = [name for name in row if name not in known]
        absent = [name for name in columns.required if name not in row]
        for name in extra[:MOST_PROBLEMS]:
            near = nearest(name[:100], known) if problems.total < SIMILAR else None
            similar = f"; did you mean {_cut(near)}?" if near else ""
            problems.add(f"the model has no such column{similar}", number, name)
        for name in absent:
            problems.add("the value is missing; null says that it is unknown", number, name)
        if not extra and not absent:
            usual = row.keys()
        names |= dict.fromkeys(name for name in row if name in known)
    return list(names)


class Values(NamedTuple):
    """The values of a column of JSON.

    Attributes:
        kind: of all values that are not None: "null" if there are none, "bool", "int", "float" or
            "text". Values of several kinds are text, as in a CSV file.
        values: of this kind, or None.
    """

    kind: str
    values: list[Any]

    def array(self) -> pa.Array:
        """Return the values as an Arrow array."""
        return pa.array(self.values, _TYPES[self.kind])


_TYPES = {
    "null": pa.null(),
    "bool": pa.bool_(),
    "int": pa.int64(),
    "float": pa.float64(),
    "text": pa.string(),
}


class JsonRows:
    """Rows of JSON that are no table yet.

    To make a table of one row takes as long as a third of its score; a pass makes one of the rows
    of all its requests.

    Args:
        columns: the values by name.
        rows: the number of rows.
    """

    def __init__(self, columns: Mapping[str, Values], rows: int) -> None:
        self.columns, self.num_rows = columns, rows

    @cached_property
    def table(self) -> pa.Table:
        """The rows as an Arrow table."""
        return pa.table({name: column.array() for name, column in self.columns.items()})

    @staticmethod
    def joined(parts: Sequence[JsonRows]) -> JsonRows:
        """Return rows of several requests, whose columns are of equal kinds, or all numbers."""
        columns = {}
        for name in parts[0].columns:
            kinds = {part.columns[name].kind for part in parts} - {"null"}
            kind = "float" if len(kinds) > 1 else next(iter(kinds), "null")
            values = [v for part in parts for v in part.columns[name].values]
            if len(kinds) > 1:
                values = [None if v is None else float(v) for v in values]
            columns[name] = Values(kind, values)
        return JsonRows(columns, sum(part.num_rows for part in parts))


def column_of(name: str, values: list[Any], problems: Problems) -> Values:
    """Return the values of a column, and note those that are none."""
    types = set(map(type, values))
    odd = types - {int, float, str, bool, type(None)}
    if odd or float in types:
        found = [(number, told) for number, v in enumerate(values, 1) if (told := _no_value(v))]
        for number, told in found:
            problems.add(told, number, name)
        if found:
            return Values("null", [None] * len(values))
    types.discard(type(None))
    try:
        return _typed(types, values)
    except (OverflowError, ValueError):  # 10 ** 400, a lone surrogate
        problems.add("a value is no number and no text that can be stored", None, name)
        return Values("null", [None] * len(values))


def _no_value(value: Any) -> str:
    """Return why a value of JSON is no value of a column, or ""."""
    if type(value) is float:
        return "the number is too large" if math.isinf(value) else ""
    if value is None or isinstance(value, int | str):
        return ""
    if isinstance(value, _Literal):
        return f"{value.text} is not JSON; null says that a value is unknown"
    return "the value must be a number, text, true, false or null"


def _typed(types: set[type], values: list[Any]) -> Values:
    if not types:
        return Values("null", values)
    if types == {bool}:
        return Values("bool", values)
    if types <= {int, float}:
        small = float not in types and all(v is None or -(2**63) <= v < 2**63 for v in values)
        if small:
            return Values("int", values)
        return Values("float", [None if v is None else float(v) for v in values])
    texts = [None if v is None else _spelled(v) for v in values]
    for text in texts:
        if text is not None and not text.isascii():
            text.encode()  # a lone surrogate is an error
    return Values("text", texts)


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# CSV.


def _from_csv(body: bytes, kind: str, read: Callable[[Path], pa.Table]) -> pa.Table:
    # Other formats are told by their first bytes, whatever the name of the file: none is text.
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise invalid([{"problem": f"byte {error.start + 1:,} is not UTF-8"}]) from None
    if "\0" in text or text.startswith("PAR1"):
        raise invalid([{"problem": "it is not text"}])
    with tempfile.TemporaryDirectory(prefix="lowerbound-") as folder:
        path = Path(folder, "body.csv" if kind == CSV else "body.tsv")
        path.write_bytes(body)
        try:
            return read(path)
        except LowerboundError as error:
            details = {k: v for k, v in error.details.items() if k != "path"}
            message = re.sub(r"'[^']*" + re.escape(str(path)) + "'", "the body", error.message)
            fix = error.fix.partition("; to see it")[0].replace(str(path), "the body")
            raise DataError(error.code, message, fix=fix, **details) from None


# Arrow.

_MAGIC = b"ARROW1\0\0"  # of a file, whose remainder is a stream and a footer


def _from_arrow(body: bytes, limits: Limits) -> pa.Table:
    """Read an Arrow IPC stream or file that a stranger sent."""
    stream = body[len(_MAGIC) :] if body.startswith(_MAGIC) else body
    try:
        rows = 0
        for message in pa.ipc.MessageReader.open_stream(stream):
            batch = _batch_of(message.metadata.to_pybytes())
            if batch is None:
                continue
            length, compressed = batch
            if compressed:
                problem = "compressed Arrow buffers are not read; send Content-Encoding: gzip"
                raise invalid([{"problem": problem}])
            rows += length
            check_rows(max(rows, length), limits)
        table = pa.ipc.open_stream(stream).read_all()
        table.validate(full=True)
    except LowerboundError:
        raise
    except (pa.ArrowException, OSError, struct.error, IndexError, ValueError, TypeError) as error:
        problem = f"it is no Arrow IPC stream: {(str(error).splitlines() or [''])[0][:160]}"
        raise invalid([{"problem": problem}]) from None
    if len(set(table.column_names)) < table.num_columns:
        raise invalid([{"problem": "two columns have the same name"}])
    return table


_RECORD_BATCH, _DICTIONARY_BATCH = 3, 2  # of MessageHeader in Arrow's Message.fbs


def _batch_of(metadata: bytes) -> tuple[int, bool] | None:
    """Return the rows of a message and whether it is compressed; None for one without rows.

    Arrow allocates as many bytes as a compressed buffer says that it has, and a column of nulls
    of any length takes none: both are looked at before Arrow reads the message.

    Args:
        metadata: the flatbuffer of a Message.
    """
    table = struct.unpack_from("<I", metadata, 0)[0]
    kind = _field(metadata, table, 1)
    header = _field(metadata, table, 2)
    if not kind or not header:
        return None
    code = metadata[kind]
    at = header + struct.unpack_from("<I", metadata, header)[0]
    length_of_dictionary = False
    if code == _DICTIONARY_BATCH:
        data = _field(metadata, at, 1)
        if not data:
            return None
        at = data + struct.unpack_from("<I", metadata, data)[0]
        length_of_dictionary = True
    elif code != _RECORD_BATCH:
        return None
    length = _field(metadata, at, 0)
    rows = struct.unpack_from("<q", metadata, length)[0] if length else 0
    if rows < 0:
        raise ValueError("a batch has a negative number of rows")
    return (0 if length_of_dictionary else rows), bool(_field(metadata, at, 3))


def _field(buffer: bytes, table: int, number: int) -> int:
    """Return the place of a field of a flatbuffer's table, or 0 where it has its default."""
    layout = table - struct.unpack_from("<i", buffer, table)[0]
    if layout < 0:
        raise ValueError("a table lies outside of its buffer")
    size = struct.unpack_from("<H", buffer, layout)[0]
    entry = 4 + 2 * number
    if entry + 2 > size:
        return 0
    offset = struct.unpack_from("<H", buffer, layout + entry)[0]
    return table + offset if offset else 0
