"""Learning from tables that are not held gives the models that it gives from those that are."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from estimators import correlated
from lowerbound import Plan
from lowerbound.coding import large, stored
from lowerbound.errors import DataError, UsageError
from lowerbound.files import data as native
from lowerbound.training import fit
from lowerbound.training.engine.checkpoints import OnDisk
from lowerbound.training.engine.run_folder import RunFolder
from lowerbound.training.engine.settings import Budget
from lowerbound.training.fit import learn
from lowerbound.training.plan import PRESETS, optimiser_of

ROWS = 6_000
QUICK = Plan(preset="fast", max_epochs=4)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(native, "PART", 512)
    monkeypatch.setattr(stored, "BLOCK", 256)
    monkeypatch.setattr(large, "HELD_VALUES", 4_000)


def table(n=ROWS, seed=0):
    x = correlated(n, seed=seed)
    columns = {f"x{j}": x[:, j] for j in range(x.shape[1])}
    return pa.table({**columns, "word": np.array(["a", "b", "c"])[(x[:, 0] > 0) + 0]})


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("streamed") / "t.parquet"
    pq.write_table(table(), path, row_group_size=ROWS)
    return path


def bound(trained):
    return trained.evaluate(table(1000, seed=1))["elbo"]


def test_as_good_a_model_as_from_rows_in_memory(path, monkeypatch):
    from_file = learn(path, QUICK)
    assert from_file.facts["rows"] == ROWS
    assert from_file.facts["split"] == {"train": 4800, "valid": 600, "calibration": 600}
    monkeypatch.setattr(large, "HELD_VALUES", 10**9)
    held = learn(path, QUICK)
    assert held.facts["split"] == from_file.facts["split"]
    assert bound(from_file) == pytest.approx(bound(held), abs=0.25)


def test_same_seed_same_model(path):
    one, same, other = (
        learn(path, Plan(preset="fast", max_epochs=1, seed=seed)) for seed in (0, 0, 1)
    )
    weights = [m.model.state_dict() for m in (one, same, other)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    assert any((weights[0][name] != weights[2][name]).any() for name in weights[0])


def test_no_more_rows_are_kept_than_training_looks_at(path, monkeypatch):
    said = []
    short = PRESETS["fast"]._replace(budget=Budget(epochs=1, most=3))
    monkeypatch.setitem(PRESETS, "fast", short)
    monkeypatch.setattr(fit, "VALID_ROWS", 200)
    monkeypatch.setattr(fit, "CALIBRATION_ROWS", 300)
    plan = Plan(preset="fast")
    most = 3 * optimiser_of(plan).batch_size + 500
    trained = learn(path, plan, begin=lambda frame, inputs: said.extend(frame.notes))
    assert trained.facts["rows"] == most < ROWS
    assert said == [f"{most:,} rows, drawn at random, are as many as training can look at"]
    assert trained.facts["history"]["checks"][-1]["step"] == 3


def test_gaps_and_values_that_the_first_look_did_not_see(tmp_path):
    """Ten missing cells and a rare category among 6,000 rows, of which 1,000 tell the kinds."""
    rows = table()
    x1, word = rows["x1"].to_numpy().copy(), rows["word"].to_pylist()
    x1[::600] = np.nan
    word[17] = "rare"
    rows = rows.set_column(1, "x1", pa.array(x1)).set_column(4, "word", pa.array(word))
    pq.write_table(rows, tmp_path / "t.parquet")
    trained = learn(tmp_path / "t.parquet", QUICK)
    assert np.isfinite(trained.anomaly_score(rows)).all()
    full = trained.impute(rows)
    assert full["x1"].null_count == 0
    assert not np.isnan(full["x1"].to_numpy()).any()


def test_an_interrupted_fit_goes_on_to_the_same_bytes(path, tmp_path, monkeypatch):
    plan = Plan(preset="fast", max_epochs=3)
    straight = learn(path, plan)

    class Interrupt(Exception):
        """Stands for whatever ends a process."""

    def stop(check, budget):
        if check.step >= 50:
            raise Interrupt

    monkeypatch.setattr(OnDisk, "due", lambda self: True)
    with RunFolder(tmp_path / "m.run") as run, pytest.raises(Interrupt):
        learn(path, plan, run=run, report=stop)
    with RunFolder(tmp_path / "m.run") as run:
        assert run.committed()
        resumed = learn(path, plan, run=run)
    for name, value in straight.model.state_dict().items():
        assert (value == resumed.model.state_dict()[name]).all()
    other = tmp_path / "other.parquet"
    pq.write_table(table(seed=5), other)
    with RunFolder(tmp_path / "m.run") as run, pytest.raises(UsageError):
        learn(other, plan, run=run)


def test_damage_within_a_file_is_told(path, tmp_path):
    raw = bytearray(path.read_bytes())
    middle, some = len(raw) // 2, len(raw) // 4
    raw[middle : middle + some] = bytes(some)
    (tmp_path / "t.parquet").write_bytes(raw)
    with pytest.raises(DataError) as refusal:
        learn(tmp_path / "t.parquet", QUICK)
    assert refusal.value.code == "E020"


def test_recipes_of_other_data_hold_the_table(tmp_path):
    counts = np.random.default_rng(0).poisson(3.0, (700, 8))
    pq.write_table(pa.table({f"g{j}": counts[:, j] for j in range(8)}), tmp_path / "g.parquet")
    trained = learn(tmp_path / "g.parquet", Plan(recipe="counts", preset="fast", max_epochs=1))
    assert trained.facts["rows"] == 700
