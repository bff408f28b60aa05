"""The command inspect: bad values are listed, notes are readable, suggestions repeat the flags."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import sparse

import commands
from lowerbound.cli.main import main
from lowerbound.cli.outputs import spell_flags
from lowerbound.errors import UsageError

RNG = np.random.default_rng(0)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(rows=200):
    return {
        "loan": [1_000_014_003 + 10 * i * i for i in range(rows)],
        "when": [f"{1 + i % 28:02d}-Feb-{60 + i % 40}" for i in range(rows)],
        "price": [f"{x:.2f}" for x in RNG.lognormal(3, 1, rows)],
        "zip": [str(x) for x in RNG.choice([47711, 74012, 60611], rows)],
        "state": list(RNG.choice(["IN", "OH", "CA"], rows)),
    }


def write(columns, path="loans.csv"):
    with open(path, "w") as file:
        file.write(",".join(columns) + "\n")
        for row in zip(*columns.values(), strict=True):
            file.write(",".join(map(str, row)) + "\n")
    return path


def test_bad_values_are_listed_and_the_rest_is_described(here):
    columns = table()
    columns["price"][7], columns["price"][30] = "abc", "12,5x".replace(",", ";")
    columns["when"][4] = "05/Feb-99"
    found = commands.inspect(write(columns)).facts
    assert [c["kind"] for c in found["columns"]] == [
        "real",
        "id",
        "positive",
        "real",
        "categorical",
    ]
    by = {p["column"]: p for p in found["problems"]}
    assert by["price"]["code"] == "E034"
    assert by["price"]["values"] == [
        {"row": 8, "value": "abc"},
        {"row": 31, "value": "12;5x"},
    ]
    assert by["when"] == {
        "column": "when",
        "why": "not a date",
        "count": 1,
        "values": [{"row": 5, "value": "05/Feb-99"}],
        "code": None,
        "hint": "",
    }
    assert found["columns"][2]["missing"] == 0


@pytest.mark.parametrize(
    ("text", "flags", "codes"),
    [
        ("a,b\n1,2\n", (), ["E038"]),
        ("a,b\n" + "".join(f"x{i},y{i}\n" for i in range(30)), (), ["E037"]),
        ("a,b\n" + "".join(f"{i - 3},{i}\n" for i in range(30)), ("a=count",), ["E035"]),
        ("a,b\n" + "".join(f"{i - 3},{i}\n" for i in range(30)), ("a=positive",), ["E033"]),
        ("a,b\n" + "".join(f"{i - 3},{i}\n" for i in range(30)), ("b=binary",), ["E033"]),
        ("a,b\n" + "".join(f"{i},{i}\n" for i in range(30)), ("b=datetime",), ["E032"]),
        ("a,b\n" + "".join(f"1e{300 + i},{i}\n" for i in range(30)), (), ["E030"]),
        ("a,b\n" + "".join(f"u{i % 5},{i}\n" for i in range(30)), ("a=real",), ["E032"]),
    ],
)
def test_what_fit_refuses_is_described(here, text, flags, codes):
    (here / "t.csv").write_text(text)
    found = commands.inspect("t.csv", types=flags).facts
    assert [problem["code"] for problem in found["problems"]] == codes
    assert len(found["columns"]) == 2


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("a,b\n" + "".join(f"{i},{i % 3}\n" for i in range(30)) + "1,2,3\n", "line 32 of 't.csv'"),
        ("a,b,a\n" + "".join(f"{i},{i % 3},7{i}\n" for i in range(30)), "(E012)"),
        ("a;b\n" + "".join(f"{i % 9 + 1},{i + 100};{i}\n" for i in range(30)), "(E018)"),
    ],
)
def test_lines_and_names_that_fit_refuses_are_noted(here, capsys, text, note):
    (here / "t.csv").write_text(text)
    assert note in " ".join(commands.inspect("t.csv").notes)
    assert main(["fit", "t.csv", "--dry-run"]) == 3
    capsys.readouterr()


def test_nested_and_infinite_values_of_parquet(here):
    lists = pa.array([[1], [2]] * 20)
    numbers = [np.inf if i == 5 else float(i) for i in range(40)]
    pq.write_table(pa.table({"a": lists, "b": numbers, "c": numbers[::-1]}), "n.parquet")
    found = commands.inspect("n.parquet").facts
    assert [(p["column"], p["code"], p["count"]) for p in found["problems"]] == [
        ("a", "E023", 0),
        ("b", "E030", 1),
        ("c", "E030", 1),
    ]


@pytest.mark.parametrize(
    ("text", "rows", "codes"),
    [
        (b"a,b\n", 0, ["E013", "E038"]),
        (b"a,b", 0, ["E013", "E038"]),
        (b'a,b\n1,"x\n2,3\n', 2, ["E011"]),
        (b'a,"b\n1,x\n2,3\n', 2, ["E011"]),
        (b'a,b\n1,"x, y"\n2,"z\n3,w\n', 3, ["E011"]),
        (b"a,b\n1,x\n2,\0y\n", 2, ["E014"]),
        (b"a,b\n1,x\x81\n2,y\n", 2, ["E014"]),
        (b"a,a,a\n1,2,3\n1,3,4\n", 2, ["E012"]),
        (b'a,b\n1,"x\n2,3,4\n5,6\n', 2, ["E011", "E010"]),
        (b"a,b\n,\n,\n", 2, ["E037"]),
    ],
)
def test_a_file_that_fit_refuses_is_described_as_far_as_possible(here, capsys, text, rows, codes):
    (here / "t.csv").write_bytes(text)
    found = commands.inspect("t.csv")
    assert found.facts["rows"] == rows
    told = " ".join(found.notes)
    assert all(code in told for code in codes)
    assert main(["inspect", "t.csv"]) == 0
    assert main(["fit", "t.csv", "--dry-run"]) == 3
    capsys.readouterr()


FOLDERS = {
    "columns of text": ({"1.csv": "a,b\n1,2\n", "2.csv": "a,c\n1,2\n"}, ["a", "b", "c"], "E022"),
    "an empty file": ({"1.csv": "a\n1\n2\n", "2.csv": ""}, ["a"], "empty"),
    "a gap": ({"p1.csv": "a\n1\n", "p3.csv": "a\n2\n"}, ["a"], "E024"),
    "a download": ({"1.csv": "a\n1\n2\n", "2.csv.part": "a\n"}, ["a"], "E024"),
    "columns": ([{"a": [1], "b": [2]}, {"a": [1], "c": [2]}], ["a", "b", "c"], "E022"),
    "types": ([{"a": [1], "b": [2]}, {"a": ["x"], "b": [2]}], ["a", "b"], "E022"),
    "lists": ([{"a": [1], "b": [2]}, {"a": [[1]], "b": [2]}], ["a", "b"], "E022"),
    "no rows": ([{"a": pa.array([], pa.int64())}], ["a"], "E013"),
    "names": (
        [pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])],
        ["a", "a.2"],
        "",
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_files_that_do_not_fit_together_are_described(here, capsys, name):
    files, columns, code = FOLDERS[name]
    (here / "d").mkdir()
    for i, table in enumerate(files):
        if isinstance(files, dict):
            (here / "d" / table).write_text(files[table])
        else:
            whole = table if isinstance(table, pa.Table) else pa.table(table)
            pq.write_table(whole, f"d/{i}.parquet")
    found = commands.inspect("d")
    assert [c["column"] for c in found.facts["columns"]] == columns
    assert code in " ".join(found.notes)
    assert main(["inspect", "d"]) == 0
    assert main(["fit", "d", "--dry-run"]) == 3
    capsys.readouterr()


def test_what_is_no_table_is_refused(here, capsys):
    (here / "blank.csv").write_text("\n\n")
    assert main(["inspect", "blank.csv"]) == main(["inspect", "none.csv"]) == 3
    capsys.readouterr()


def test_drop_takes_names_separated_by_commas(here, capsys):
    columns = {"a,b": [1.5, 2.5, 4.0] * 9, **{n: list(RNG.normal(size=27)) for n in "abc"}}
    pq.write_table(pa.table(columns), "t.parquet")
    for drop, left in ((["a,c"], 2), (["a,b"], 3), (["a", "b,c"], 1), ("a, c", 2), (["?"], 1)):
        assert len(commands.inspect("t.parquet", drop=drop).facts["columns"]) == left
    with pytest.raises(UsageError) as caught:
        commands.inspect("t.parquet", drop="a,z")
    assert caught.value.code == "E203"
    assert "'z'" in caught.value.message
    assert main(["fit", "t.parquet", "--drop", "a,c,zz", "--recipe", "counts", "--dry-run"]) == 2
    assert "'zz'" in capsys.readouterr().err


def test_suggestions_repeat_the_flags(here):
    path = write(table())
    result = commands.inspect(
        path, types=["zip=categorical", "loan=id"], drop=["when"], rename={"state": "region"}
    )
    flags = "--types zip=categorical,loan=id --drop when --rename state=region"
    assert result.next == f"lowerbound fit loans.csv {flags}"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"types": (), "drop": [], "rename": {}, "size": None, "by": ""}, ""),
        ({"types": {"a": "id", "b c": "real"}}, " --types 'a=id,b c=real'"),
        (
            {"types": {"a": "id", "b": "datetime:%b %d, %Y"}},
            " --types a=id --types 'b=datetime:%b %d, %Y'",
        ),
        ({"drop": ("a", "b")}, " --drop a,b"),
        ({"drop": ("a,b", "c")}, " --drop a,b --drop c"),
        ({"rename": ["A=a", "B=b"]}, " --rename A=a --rename B=b"),
        ({"on_bad_file": "skip", "ray": True, "size": 64}, " --on-bad-file skip --ray --size 64"),
    ],
)
def test_flags_as_text(given, text):
    assert spell_flags(**given) == text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_notes_are_readable_at_any_width(here, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    columns = table()
    columns["price"][7] = "abc"
    assert main(["inspect", write(columns)]) == 0
    out = capsys.readouterr().out
    shown = out.splitlines()
    assert max(map(len, shown[:-1])) <= width
    words = " ".join(" ".join(shown).split())
    assert "looks like a code of 10 digits, not a quantity: --types loan=id leaves it out" in words
    assert "1 levels" not in out
    # A note has at least half of the width: it takes few lines.
    assert len(shown) <= {40: 50, 80: 26, 200: 20}[width]


def test_one_rare_level_is_spelled_in_the_singular(here):
    columns = {"a": ["x"] * 40 + ["y"] * 40 + ["z"] * 3, "b": list(range(83))}
    notes = commands.inspect(write(columns)).facts["columns"][0]["notes"]
    assert notes.startswith("1 level occurs fewer than 10 times")


def test_a_word_for_reproductions_says_where_they_are(capsys):
    for word in ("recipe", "recipes", "reproduce"):
        assert main([word, "--json"]) == 2
        error = json.loads(capsys.readouterr().err)["error"]
        assert error["code"] == "E230"
        assert "python -m reproductions" in error["hint"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_infinite_and_missing_values_of_a_sparse_matrix_are_listed(here, capsys, value):
    matrix = sparse.csr_matrix(RNG.poisson(1, (50, 6)).astype(float) + 1)
    matrix[3, 2], matrix[7, 1] = value, 0.5
    sparse.save_npz("m.npz", matrix)
    found = commands.inspect("m.npz").facts
    assert np.isfinite(found["largest"])
    assert [(p["column"], p["code"], p["values"][0]["row"]) for p in found["problems"]] == [
        ("x2", "E030", 4),
        ("x1", "E073", 8),
    ]
    assert main(["inspect", "m.npz"]) == 0
    assert main(["fit", "m.npz", "--recipe", "counts", "--dry-run"]) == 3
    capsys.readouterr()
