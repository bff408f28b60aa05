"""Verbs on Parquet files that are worked on part by part: what is written is the same."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import torch
from pyarrow import ipc

import commands
from lowerbound.cli import outputs
from lowerbound.cli.commands.doctor import doctor
from lowerbound.cli.models import load
from lowerbound.cli.progress import Silence
from lowerbound.cli.work import doctor as examining
from lowerbound.coding.rows import subset
from lowerbound.files import data
from lowerbound.files.read import read, walk
from lowerbound.tasks.explain import EXPLAINED_ROWS
from lowerbound.tasks.metrics import log_likelihood

PART = 64


@pytest.fixture
def parquet(folder):
    """The table of tx.csv twice as a folder of shards, and its number of rows."""
    table = read("tx.csv").table
    (folder / "tx").mkdir()
    pq.write_table(table, "tx/0.parquet", row_group_size=50)
    pq.write_table(table, "tx/1.parquet")
    return 2 * table.num_rows


@pytest.fixture
def in_parts():
    """Work on a few rows at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "PART", PART)
        yield


@pytest.fixture
def both(folder, parquet, run):
    """Run a verb on the shards, whole and then in parts; return the facts and the two outputs."""

    def call(part, verb, words, out):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data, "PART", part)
            ran = run(verb, "tx.vae", "tx", *words, "--out", out, "--json")
        assert ran.code == 0, ran.err
        return {k: v for k, v in ran.facts.items() if k not in {"seconds", "out"}}

    def command(verb, *words, suffix=".parquet"):
        outs = [f"whole{suffix}", f"parts{suffix}"]
        facts = [
            call(part, verb, words, out) for part, out in zip((10**6, PART), outs, strict=True)
        ]
        return facts, [folder / out for out in outs]

    return command


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".csv", ".tsv.gz", ".npy", ".npz"])
@pytest.mark.parametrize("verb", [("score",), ("score", "--fdr", "60%"), ("embed",)])
def test_scores_and_embeddings_are_bit_equal(both, verb, suffix):
    (whole, parts), (one, other) = both(*verb, suffix=suffix)
    assert whole == parts
    if suffix == ".arrow":
        assert ipc.open_file(one).read_all().equals(ipc.open_file(other).read_all())
    elif suffix == ".parquet":
        assert pq.read_table(one).equals(pq.read_table(other))
        assert pq.ParquetFile(other).metadata.num_row_groups > 1
    else:
        assert one.read_bytes() == other.read_bytes()


def test_free_memory_is_given_back_after_every_part(both, monkeypatch):
    """Over 30 million rows an embedding would come to hold 20 MB more."""
    times = []
    monkeypatch.setattr(outputs.allocators, "trim", lambda: times.append(1))
    _, (_, parts) = both("embed")
    assert len(times) == pq.read_metadata(parts).num_row_groups > 1


@pytest.mark.parametrize("verb", ["score", "embed", "reconstruct"])
def test_columns_that_the_model_knows_nothing_of_are_not_read(parquet, run, in_parts, verb):
    table, word = read("tx").table, b"a word that is found again"
    beside = pa.array([word.decode()] * table.num_rows)
    pq.write_table(
        table.append_column("beside", beside),
        "b.parquet",
        compression="none",
        use_dictionary=False,
    )
    raw = Path("b.parquet").read_bytes()
    Path("b.parquet").write_bytes(raw.replace(word, b"\xff" * len(word)))
    pq.write_table(table, "plain.parquet")
    outs = {name: f"{name}-of.parquet" for name in ("b", "plain")}
    for name, out in outs.items():
        ran = run(verb, "tx.vae", f"{name}.parquet", "--out", out, "--json")
        assert ran.code == 0, ran.err
    one, other = (pq.read_table(out) for out in outs.values())
    assert one.equals(other)
    ran = run("impute", "tx.vae", "b.parquet", "--out", "full.parquet", "--json")
    assert (ran.code, ran.error["code"]) == (3, "E020")  # whole rows are asked for


def test_an_evaluation_by_parts_is_that_of_all_rows(parquet, run, monkeypatch):
    whole = commands.evaluate("tx.vae", "tx", samples=4).facts
    monkeypatch.setattr(data, "PART", PART)
    parts = commands.evaluate("tx.vae", "tx", samples=4).facts
    assert parts["rows"] == whole["rows"] == parquet
    numbers = [name for name, value in whole.items() if isinstance(value, float)]
    for name in set(numbers) - {"seconds"}:
        assert parts[name] == pytest.approx(whole[name], rel=1e-5), name
    assert parts["active_units"] == whole["active_units"]
    assert parts["missing"] == whole["missing"]


def test_the_doctor_looks_at_a_sample_of_what_is_not_held(parquet, run, in_parts, monkeypatch):
    whole = doctor("tx.vae", "tx")
    assert whole.facts["rows"] == parquet
    monkeypatch.setattr(examining, "_LOOKED_AT", 150)
    some = doctor("tx.vae", "tx")
    assert some.facts["rows"] == 150
    assert any(f"150 of {parquet} rows, drawn at random" in note for note in some.notes)


@pytest.mark.parametrize("verb", ["reconstruct", "impute"])
def test_whole_rows_are_bit_equal(both, verb):
    (whole, parts), (one, other) = both(verb)
    assert whole == parts
    assert pq.read_table(one).equals(pq.read_table(other))
    if verb == "impute":
        assert whole["filled"] > 50 > whole["left"] == 0


def test_a_column_without_any_value_is_filled(run):
    table = read("tx.csv").table
    empty = pa.nulls(table.num_rows)
    for name in ("country", "amount"):
        table = table.set_column(table.column_names.index(name), name, empty)
    pa_csv.write_csv(table, "empty.csv")
    told = run("impute", "tx.vae", "empty.csv", "--out", "full.csv", "--json").facts
    full = read("full.csv").table
    assert full["country"].null_count == full["amount"].null_count == 0
    assert told["filled"] >= 2 * table.num_rows


def test_words_that_say_missing_are_counted_and_filled(run):
    lines = Path("tx.csv").read_text().splitlines()
    lines[1:4] = [line.replace(",FR,", ",?,").replace(",DE,", ",NA,") for line in lines[1:4]]
    Path("gaps.csv").write_text("\n".join(lines))
    country = read("gaps.csv").table["country"].to_pylist()
    assert {"?", "NA"}.intersection(country)
    given = run("impute", "tx.vae", "tx.csv", "--out", "one.csv", "--json").facts
    told = run("impute", "tx.vae", "gaps.csv", "--out", "full.csv", "--json").facts
    assert told["filled"] == given["filled"] + sum(word in {"?", "NA"} for word in country)
    assert told["left"] == given["left"]
    assert not {"?", "NA"}.intersection(read("full.csv").table["country"].to_pylist())


def test_dashes_among_numbers_in_text_are_counted_and_filled(run):
    table = read("tx.csv").table
    amount = ["-" if v is None else str(v) for v in table["amount"].to_pylist()]
    amount[5:9] = ["-"] * 4
    place = table.column_names.index("amount")
    pq.write_table(table.set_column(place, "amount", pa.array(amount)), "dashes.parquet")
    told = run("impute", "tx.vae", "dashes.parquet", "--out", "full.parquet", "--json").facts
    gaps = sum(table.column(n).null_count for n in table.column_names if n != "amount")
    assert told["filled"] + told["left"] == gaps + amount.count("-")
    assert "-" not in pq.read_table("full.parquet")["amount"].to_pylist()


def test_every_part_is_drawn_as_often_as_asked_and_anew(parquet, run, in_parts):
    told = run("impute", "tx.vae", "tx", "--out", "full.parquet", "--draws", 2, "--json").facts
    given, made = read("tx").table, pq.read_table("full.parquet")
    assert pq.ParquetFile("full.parquet").metadata.num_row_groups > 1
    order = [
        row
        for start in range(0, parquet, PART)
        for _ in range(2)
        for row in range(start, min(start + PART, parquet))
    ]
    twice = given.take(pa.array(order))
    assert made["account"].equals(twice["account"])
    seen = twice["fee"].is_valid()
    assert made.filter(seen)["fee"].equals(twice.filter(seen)["fee"])
    assert made["fee"].null_count == 0
    assert told["filled"] == given["fee"].null_count
    # The second half of the rows is the first one again, and has draws of its own.
    fees = made.filter(made["draw"].to_numpy() == 0)["fee"].to_numpy()
    gaps = given["fee"].is_null().to_numpy()[: parquet // 2]
    first, again = fees[: parquet // 2][gaps], fees[parquet // 2 :][gaps]
    assert np.mean(first != again) > 0.9


def test_every_part_has_its_highest_rows_explained(both, parquet):
    (whole, parts), (one, other) = both("score", "--explain", "2")
    assert whole["highest"] == parts["highest"]
    few, more = pq.read_table(one), pq.read_table(other)
    assert few["anomaly_score"].equals(more["anomaly_score"])
    explained = few["top1_column"].is_valid().to_numpy()
    assert EXPLAINED_ROWS <= explained.sum() < parquet
    assert more["top1_column"].null_count == 0  # parts of fewer rows than are always explained
    rows = pa.array(np.flatnonzero(explained))
    assert few.take(rows).equals(more.take(rows))


def test_rows_are_numbered_through_and_keep_their_ids(both, parquet):
    _, (_, other) = both("score")
    table = pq.read_table(other)
    assert table["row"].to_pylist() == list(range(parquet))
    assert table["account"].to_pylist() == 2 * read("tx.csv").table["account"].to_pylist()


def test_columns_are_renamed_in_every_part(parquet, run, in_parts):
    theirs = read("tx").table
    names = ["Betrag" if name == "amount" else name for name in theirs.column_names]
    pq.write_table(theirs.rename_columns(names), "other.parquet")
    assert run("score", "tx.vae", "tx", "--out", "a.parquet").code == 0
    words = "--rename", "Betrag=amount", "--out", "b.parquet"
    assert run("score", "tx.vae", "other.parquet", *words).code == 0
    assert pq.read_table("a.parquet").equals(pq.read_table("b.parquet"))
    words = "--rename", "Betrga=amount", "--out", "c.parquet", "--json"
    refused = run("score", "tx.vae", "other.parquet", *words)
    assert (refused.code, refused.error["code"]) == (3, "E239")


def test_what_is_written_is_not_held_and_what_is_not_written_is_given_back(parquet, in_parts):
    written = commands.score("tx.vae", "tx", out="s.parquet")
    given = commands.score("tx.vae", "tx")
    assert written.table is None
    assert given.table.equals(pq.read_table("s.parquet"))
    assert given.facts["rows"] == parquet


def test_damage_in_a_late_part_leaves_no_output(folder, parquet, run, in_parts):
    path = folder / "tx/1.parquet"
    pq.write_table(pq.read_table(path), path, compression="none")
    raw = bytearray(path.read_bytes())
    raw[500:4000] = bytes(3500)
    path.write_bytes(raw)
    ran = run("score", "tx.vae", "tx", "--out", "s.csv", "--json")
    assert (ran.code, ran.error["code"]) == (3, "E020")
    assert not list(folder.glob("*s.csv*"))


class Heard(Silence):
    """Remembers what was shown."""

    def __init__(self):
        self.shares, self.lines = [], []

    def show(self, share, line):
        self.shares.append(share)
        self.lines.append(line)


def test_people_see_how_many_rows_are_done(parquet, in_parts):
    heard, one = Heard(), Heard()
    commands.embed("tx.vae", "tx", out="z.parquet", voice=heard)
    assert heard.shares == [PART * n / parquet for n in range(1, -(-parquet // PART))]
    assert heard.lines[0].startswith(f"{PART} of {parquet} rows  ")
    commands.embed("tx.vae", pa.table(read("tx.csv").table.slice(0, 20)), voice=one)
    assert not one.shares


def test_no_thread_waits_for_others_while_the_next_part_is_read(parquet, in_parts, monkeypatch):
    trained, before, seen = load("tx.vae"), torch.get_num_threads(), []
    forward = type(trained.model).forward

    def noted(*given):
        seen.append(torch.get_num_threads())
        return forward(*given)

    monkeypatch.setattr(type(trained.model), "forward", noted)
    torch.set_num_threads(3)
    parts = 0
    try:
        for frame, coded in outputs.walked(walk("tx"), trained, Silence()):
            assert torch.get_num_threads() == 3
            many = subset(coded.rows, torch.arange(3000) % frame.rows)
            log_likelihood(trained.model, many, 2)
            parts += 1
    finally:
        torch.set_num_threads(before)
    assert seen.count(1) > parts
    assert seen.count(3) == 1  # of one row, to see whether rows take few values
    assert len(seen) == seen.count(1) + seen.count(3)
