"""Rows in a scratch file: each of them once, in an order that says nothing of where they came."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy import stats
from scipy.sparse import csr_matrix

import lowerbound
from lowerbound import noise
from lowerbound.coding import stored, stored_sparse
from lowerbound.coding.rows import Dense, Sparse, batched, blocks_of, subset, visits
from lowerbound.coding.stored import store
from lowerbound.errors import ResourceError
from lowerbound.files import data, scratch, shares
from lowerbound.files.read import walk

ROWS, COLUMNS = 1000, 3


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(stored, "BLOCK", 64)
    monkeypatch.setattr(data, "PART", 64)


def numbered(n=ROWS):
    return np.arange(n, dtype=np.float32)[:, None] + np.zeros(COLUMNS, np.float32)


def kept(seed=0, part=90, n=ROWS):
    x = numbered(n)
    return store((x[i : i + part] for i in range(0, n, part)), x.shape, seed)


def everything(rows):
    return rows.take(torch.arange(len(rows))).x.numpy()


@pytest.fixture(params=[10**9, 100], ids=["numpy", "beyond"])
def law(request, monkeypatch):
    """Shares are drawn as of few rows, and as of more than NumPy draws them from."""
    monkeypatch.setattr(shares, "_MOST", request.param)


@pytest.mark.usefixtures("law")
def test_every_row_is_kept_once_and_found_by_its_place():
    rows, _ = kept()
    found = everything(rows)
    assert np.array_equal(np.sort(found[:, 0]), np.arange(ROWS))
    assert (found == found[:, :1]).all()
    index = torch.tensor([999, 0, 64, 63, 500, 0])
    assert np.array_equal(rows.take(index).x.numpy(), found[index.numpy()])


@pytest.mark.usefixtures("law")
def test_places_are_uniform():
    """Where the first and the last row of the input end up, over many seeds."""
    ends = np.array([everything(kept(seed, n=160)[0])[:, 0] for seed in range(600)])
    for row in (0, 159):
        places = np.argmax(ends == row, 1)
        counts = np.bincount(places // 16, minlength=10)
        assert stats.chisquare(counts).pvalue > 1e-4
    assert abs(stats.spearmanr(ends.ravel(), np.tile(np.arange(160), 600)).statistic) < 0.02


def test_order_is_of_the_seed_and_the_digest_of_the_rows():
    (one, digest), (same, again), (other, third) = kept(1), kept(1), kept(2)
    assert np.array_equal(everything(one), everything(same))
    assert not np.array_equal(everything(one), everything(other))
    assert digest == again == third
    changed = numbered()
    changed[-1] += 1
    assert store([changed], changed.shape, 1)[1] != digest


def test_a_pass_visits_every_row_once_block_by_block():
    rows, _ = kept()
    part = subset(rows, range(100, ROWS))
    order = torch.cat(list(visits(part, noise.generator("a"))))
    assert torch.equal(order.sort().values, torch.arange(ROWS - 100))
    assert [len(block) for block in blocks_of(part)][:2] == [28, 64]
    x = part.take(order[:200]).x[:, 0].numpy()
    assert np.array_equal(x, everything(rows)[100 + order[:200].numpy(), 0])
    other = torch.cat(list(visits(part, noise.generator("b"))))
    assert not torch.equal(order, other)


@pytest.mark.parametrize("n", [1, 5, 64, 130, ROWS])
def test_batches_are_whole_and_reach_over_blocks(n):
    rows = kept(n=max(n, 1))[0]
    pieces = list(visits(rows, noise.generator(3)))
    found = list(batched(iter(pieces), 7))
    assert all(len(batch) == 7 for batch in found)
    assert torch.equal(torch.cat([*found, torch.cat(pieces)[len(found) * 7 :]]), torch.cat(pieces))
    assert len(found) == n // 7


def test_rows_in_memory_are_visited_as_ever():
    """One permutation of all rows: fits of a seed give what they gave before there were blocks."""
    rows = Dense(torch.zeros(50, 2))
    order = torch.cat(list(visits(rows, noise.generator("x"))))
    assert torch.equal(order, torch.randperm(50, generator=noise.generator("x")))


def test_rows_are_drawn_without_replacement_and_with_equal_probability(tmp_path):
    pq.write_table(pa.table({"n": np.arange(300)}), tmp_path / "t.parquet")
    stream = walk(tmp_path / "t.parquet")
    counts = np.zeros(300)
    for seed in range(400):
        numbers = stream.sample(30, seed).table["n"].to_numpy()
        assert len(numbers) == 30 == len(np.unique(numbers))
        assert (np.diff(numbers) > 0).all()
        counts[numbers] += 1
    assert stats.chisquare(counts.reshape(30, 10).sum(1)).pvalue > 1e-4
    assert stream.sample(10**6, 0).table.equals(stream.whole().table)
    assert stream.sample(30, 5).table.equals(stream.sample(30, 5).table)


def test_nearly_all_of_more_rows_than_numpy_draws_from(tmp_path, monkeypatch):
    """Beyond a billion rows shares follow another law, which must leave no row too few."""
    monkeypatch.setattr(shares, "_MOST", 1)
    pq.write_table(pa.table({"n": np.arange(300)}), tmp_path / "t.parquet")
    stream = walk(tmp_path / "t.parquet")
    for seed in range(100):
        assert len(np.unique(stream.sample(297, seed).table["n"])) == 297


def counts():
    some = csr_matrix(np.array([[0, 2, 0, 1], [0, 0, 0, 0], [5, 0, 0, 3]], np.float32))
    return stored_sparse.store([Sparse(some, torch.arange(3.0)[:, None])], some.shape)[0]


@pytest.mark.parametrize("made", [lambda: kept()[0], counts], ids=["numbers", "counts"])
def test_another_process_of_this_machine_reads_the_same_file(made, tmp_path):
    rows = made()
    (tmp_path / "rows").write_bytes(pickle.dumps(rows))
    code = "import pickle, sys, torch; rows = pickle.load(open(sys.argv[1], 'rb'));"
    code += "torch.save(tuple(rows.take(torch.arange(len(rows)))), sys.argv[2])"
    subprocess.run(
        [sys.executable, "-c", code, tmp_path / "rows", tmp_path / "seen"],
        env={**os.environ, "PYTHONPATH": str(Path(lowerbound.__file__).parents[1])},
        check=True,
    )
    for seen, held in zip(
        torch.load(tmp_path / "seen"), rows.take(torch.arange(len(rows))), strict=True
    ):
        assert (seen is held is None) or torch.equal(seen, held)


def test_a_scratch_file_that_is_gone_or_another_by_now_is_refused():
    with scratch.file(1) as file, scratch.file(1) as other:
        at = scratch.address(file)
        with pytest.raises(ResourceError, match="it is another file by now"):
            scratch.reopened(at._replace(number=scratch.address(other).number))
    with pytest.raises(ResourceError, match="cannot be opened") as refusal:
        scratch.reopened(at)
    assert refusal.value.code == "E302"


def test_a_full_disk_is_told_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda folder: type("", (), {"free": 10}))

    def never():
        raise AssertionError
        yield

    with pytest.raises(ResourceError) as refusal:
        store(never(), (ROWS, COLUMNS), 0)
    assert refusal.value.code == "E301"
