"""Bodies of requests without a server: bounds, strict JSON, Arrow metadata, settings."""

import gzip
import json
import time

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowerbound.errors import DataError, LowerboundError, ResourceError, UsageError
from lowerbound.web.server import answers, requests
from lowerbound.web.server.settings import (
    Limits,
    Settings,
    check_exposure,
    is_loopback,
    model_name,
)

COLUMNS = requests.Columns({"a": "real", "b": "categorical", "id": "id"}, ["a", "b"], lambda p: p)
LIMITS = Limits(body=1000, rows=5, depth=4)


def read(value, kind=requests.JSON):
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return requests.as_table(requests.rows_of(body, kind, COLUMNS, LIMITS))


def problems(value):
    with pytest.raises(UsageError) as caught:
        read(value)
    assert caught.value.code == "E263"
    return caught.value.details["problems"]


def test_rows_have_the_types_of_their_values():
    table = read([{"a": 1, "b": "x"}, {"a": None, "b": None, "id": "k1"}])
    assert table.schema.types == [pa.int64(), pa.string(), pa.string()]
    assert table.to_pylist()[1] == {"a": None, "b": None, "id": "k1"}
    assert read([{"a": 1, "b": True}, {"a": 2.5, "b": False}]).schema.types == [
        pa.float64(),
        pa.bool_(),
    ]
    assert read([{"a": 2**80, "b": 1}])["a"].to_pylist() == [2.0**80]
    # As in a CSV file, a column of numbers and words is one of words.
    assert read([{"a": 1, "b": 1}, {"a": 1, "b": "z"}])["b"].to_pylist() == ["1", "z"]


def test_numbers_that_json_lacks_are_told_with_their_place():
    found = problems(b'[{"a": NaN, "b": "x"}, {"a": 1, "b": -Infinity}, {"a": 1e999, "b": 0}]')
    assert {(each["row"], each["column"]) for each in found} == {(1, "a"), (2, "b"), (3, "a")}
    assert problems(b'[{"a": ' + b"9" * 400 + b', "b": 0}]')[0]["column"] == "a"


def test_of_many_problems_the_first_are_listed_and_all_are_counted():
    limits = Limits(body=10**6, rows=1000)
    body = json.dumps([{f"name{i}{j}": 0 for j in range(3)} for i in range(900)]).encode()
    began = time.perf_counter()
    with pytest.raises(UsageError) as caught:
        requests.rows_of(body, requests.JSON, COLUMNS, limits)
    assert time.perf_counter() - began < 5
    assert len(caught.value.details["problems"]) == requests.MOST_PROBLEMS
    assert caught.value.details["count"] == 900 * 5
    assert len(caught.value.message) < 2000


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda t: t.encode("utf-8", "replace")))
def test_any_bytes_are_rows_or_an_error_of_ours(body):
    statuses = set()
    for kind in (requests.JSON, requests.ARROW, requests.ARROW_FILE):
        try:
            read(body, kind)
        except LowerboundError as error:
            statuses.add(answers.status_of(error))
    assert statuses <= {413, 422}


_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(_VALUES)
def test_strict_json_is_what_json_is(value):
    """A document without NaN, repeats and depth is read as the standard library reads it."""
    text = json.dumps(value)
    try:
        found = requests.parse_json(text.encode(), 100, 10_000)
    except UsageError:
        assert value != value or len(text) > 4000
        return
    strange = any(word in text for word in ("NaN", "Infinity"))
    assert strange or found == json.loads(text)


_NUMBER = st.none() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, width=64)


@given(st.lists(st.lists(_NUMBER.filter(lambda v: v is None or abs(v) < 1e300), min_size=1)))
def test_numbers_of_several_requests_are_those_of_each(parts):
    def column(values):
        return requests.column_of("a", values, requests.Problems())

    alone = [requests.JsonRows({"a": column(values)}, len(values)) for values in parts]
    if not alone:
        return
    together = requests.JsonRows.joined(alone)
    assert together.num_rows == sum(map(len, parts))
    found = together.table["a"].to_pylist()
    wanted = [v for rows in alone for v in rows.table["a"].to_pylist()]
    as_floats = [None if v is None else float(v) for v in wanted]
    assert [None if v is None else float(v) for v in found] == as_floats


def test_text_that_cannot_be_stored_is_a_problem():
    problems = requests.Problems()
    requests.column_of("a", ["fine", "\ud800"], problems)
    requests.column_of("b", [1.0, 10**400], problems)
    assert problems.total == 2


def test_depth_and_brackets_in_texts_do_not_count():
    text = json.dumps(["[[[[[{{{{" * 50, '"]\\"', {"a": "}"}]).encode()
    assert requests.parse_json(text, 2, 3) == json.loads(text)
    with pytest.raises(UsageError, match="nested more than 2"):
        requests.parse_json(b"[[[1]]]", 2, 10)
    with pytest.raises(ResourceError) as caught:
        requests.parse_json(b"[[],[],[],[]]", 2, 4)
    assert caught.value.code == "E322"


@pytest.mark.parametrize("text", [b'\\"' * 2_000_000, b'"' * 4_000_001, b"[" * 4_000_000])
def test_no_text_takes_long(text):
    began = time.perf_counter()
    with pytest.raises(LowerboundError):
        requests.parse_json(b"[[[[" + text, 3, 10)
    assert time.perf_counter() - began < 5


def taken(parts, headers=None, most=10_000):
    budget = requests.Budget(most)
    body = requests.Body(headers or {}, LIMITS, budget)
    for part in parts:
        body.add(part)
    return body, budget


def test_bodies_are_counted_in_parts():
    body, budget = taken([b"a" * 400, b"b" * 600])
    assert len(body.whole()) == budget.held == 1000
    body.release()
    assert budget.held == 0
    with pytest.raises(ResourceError) as caught:
        taken([b"a" * 400, b"b" * 601])
    assert caught.value.code == "E321"
    with pytest.raises(ResourceError) as caught:
        requests.Body({"content-length": "1001"}, LIMITS, requests.Budget(1))
    assert caught.value.code == "E321"
    with pytest.raises(ResourceError) as caught:
        taken([b"a" * 400], most=399)
    assert (caught.value.code, answers.status_of(caught.value)) == ("E326", 503)


def test_gzip_is_bounded_in_any_parts():
    packed = gzip.compress(b"x" * 1000)
    for size in (1, 7, 1000):
        parts = [packed[i : i + size] for i in range(0, len(packed), size)]
        body, _ = taken(parts, {"content-encoding": "gzip"})
        assert body.whole() == b"x" * 1000
        over = gzip.compress(b"x" * 1001)
        parts = [over[i : i + size] for i in range(0, len(over), size)]
        with pytest.raises(ResourceError) as caught:
            taken(parts, {"content-encoding": "gzip"})
        assert caught.value.code == "E321"


def arrow(table, **options):
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(**options)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def test_arrow_metadata_tell_rows_and_compression():
    table = pa.table({"a": [1.0, 2.0], "b": pa.array(["x", "y"]).dictionary_encode()})
    assert read(arrow(table), requests.ARROW).to_pylist() == table.to_pylist()
    for codec in ("zstd", "lz4"):
        with pytest.raises(UsageError, match="compressed Arrow"):
            read(arrow(table, compression=codec), requests.ARROW)
    many = pa.table({"a": pa.nulls(6), "b": pa.nulls(6)})
    with pytest.raises(ResourceError) as caught:
        read(arrow(many), requests.ARROW)
    assert caught.value.code == "E322"
    twice = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["a", "a"])
    with pytest.raises(UsageError, match="the same name"):
        read(arrow(twice), requests.ARROW)


def test_fixes_of_the_command_line_are_told_otherwise():
    error = DataError("E031", "column 'a' is missing", fix="--rename A=a", path="/tmp/x")
    told = json.loads(answers.refusal(error, "id").body)["error"]
    assert told["hint"] == "name the column 'a', not 'A'"
    assert "path" not in told["details"]


def test_settings_are_told_to_workers_unchanged():
    settings = Settings("m.vae", "m", "::1", 0, 2, "token", ("a.example",), True, LIMITS)
    assert Settings.from_json(settings.to_json()) == settings
    assert {"[::1]", "localhost", "a.example"} <= settings.allowed_hosts()


def test_addresses_that_others_reach_need_a_token():
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        assert is_loopback(host)
        check_exposure(host, "")
    for host in ("0.0.0.0", "::", "10.0.0.1", "", "localhost.example"):
        with pytest.raises(UsageError) as caught:
            check_exposure(host, "")
        assert caught.value.code == "E260"
        check_exposure(host, "token")


def test_names_of_models():
    assert model_name("/a/my model.vae", None) == "my_model"
    assert model_name("/a/...", None)
    with pytest.raises(UsageError):
        model_name("m.vae", "a/b")
