"""Several processes that train together do what one does: rows, noise, gradients, checks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import zoo
from lowerbound import Model, noise
from lowerbound.cli.main import main
from lowerbound.errors import UsageError
from lowerbound.training.engine.loop import _whole_batch
from lowerbound.training.engine.processes import ALONE, Ranks, gathered
from ranks import BATCH, SPLIT

TESTS = Path(__file__).parents[1]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)]),
    "OMP_NUM_THREADS": "1",
}


def ran(words):
    """Run a program to its end, and return what it printed."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def of_one_and_of_two(folder):
    """Let one process, and then two, do all that is compared."""
    for size in (1, 2):
        ran([TESTS / "ranks.py", size, folder])


@pytest.fixture(scope="module")
def told():
    """job -> what one process told of it, and what each of two did."""
    folder = zoo.folder(of_one_and_of_two)

    def run(job):
        return [torch.load(folder / f"{job}-{who}.pt") for who in ("1-0", "2-0", "2-1")], folder

    return run


def close(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        size = max(1.0, float(value.abs().max()))
        assert float((value - other[name]).abs().max()) < 1e-6 * size, name


def test_the_gradient_of_two_is_that_of_one_for_every_recipe(told):
    (alone, first, second), _ = told("gradients")
    assert set(alone) == set(SPLIT)
    assert len(SPLIT) > 30
    for name in SPLIT:
        close(alone[name], first[name])
        close(first[name], second[name])


def test_an_objective_can_be_sharded(told):
    (alone, first, second), _ = told("sharded")
    assert alone.keys() == first.keys() == second.keys()
    close(alone, first)
    close(alone, second)


def test_a_fit_of_two_ends_where_that_of_one_does_and_sees_every_row_once_in_a_pass(told):
    (alone, first, second), folder = told("fit")
    close(alone, first)
    assert all(torch.equal(first[name], second[name]) for name in first)
    one, two, other = (
        json.loads((folder / f"fit-{who}.json").read_text()) for who in ("1-0", "2-0", "2-1")
    )
    assert two["checks"] == other["checks"]
    np.testing.assert_allclose(one["checks"], two["checks"], rtol=1e-5)
    assert one["stopped"] == two["stopped"] == "epochs"
    assert [a + b for a, b in zip(two["taken"], other["taken"], strict=True)] == one["taken"]
    steps = 320 // BATCH
    for begin in range(0, len(one["taken"]), steps):
        seen = [i for step in one["taken"][begin : begin + steps] for i in step]
        assert sorted(seen) == list(range(320))


def test_a_large_table_is_coded_once_on_a_machine_and_learned_from_as_by_one(told):
    (alone, first, second), folder = told("stream")
    close(alone, first)
    assert all(torch.equal(first[name], second[name]) for name in first)
    two, other = (json.loads((folder / f"stream-2-{rank}.json").read_text()) for rank in (0, 1))
    assert (two["coded"], other["coded"]) == ([0], [])
    assert (two["made"], other["made"]) == ([{"by": 0}, 1], [{"by": 0}, 0])
    assert (two["refused"], other["refused"]) == (["not this", 1], ["not this", 0])


def test_batches_are_shared_evenly_or_not_at_all():
    assert _whole_batch(128, 1) == 128
    assert _whole_batch(128, 3) == 126
    with pytest.raises(UsageError, match="at most 2 processes, got 3") as caught:
        _whole_batch(2, 3)
    assert caught.value.code == "E237"


def test_one_process_is_a_team_of_its_own():
    with gathered(torch.device("cpu")) as team:
        assert team is ALONE
    stream = noise.Stream(noise.generator("alone"))
    assert ALONE.noise(stream) is stream
    assert ALONE.first(lambda: 3) == 3
    assert not isinstance(ALONE, Ranks)


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.nightly  # one kill of one of two processes runs the same by day
def test_torchrun_shares_out_a_fit(tmp_path):
    rng = np.random.default_rng(0)
    number = rng.normal(size=300)
    kinds = rng.choice(["a", "b"], 300)
    pq.write_table(pa.table({"amount": np.exp(number), "kind": kinds}), tmp_path / "tx.parquet")
    words = ["-m", "lowerbound", "fit", tmp_path / "tx.parquet", "--preset", "fast"]
    words += ["--max-epochs", "5", "--out"]
    both = ran([*TORCHRUN, *words, tmp_path / "two.vae", "--json"])
    facts = json.loads(both.stdout)  # printed once
    assert facts["path"] == str(tmp_path / "two.vae")
    assert main([*map(str, words[2:]), str(tmp_path / "one.vae"), "-q"]) == 0
    scores = [
        Model.load(tmp_path / f"{name}.vae").score(pq.read_table(tmp_path / "tx.parquet"))
        for name in ("one", "two")
    ]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-4)


def test_torchrun_shares_out_nothing_but_fits(monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("RANK", "0")
    assert main(["score", "m.vae", "tx.csv", "--out", "s.csv"]) == 2
    assert "E253" in capsys.readouterr().err
