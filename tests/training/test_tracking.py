"""Fits recorded by TensorBoard and MLflow, read back by these libraries."""

import sys

import numpy as np
import pytest

import lowerbound
from lowerbound.errors import ResourceError, UsageError
from lowerbound.training import tracking

# SQLAlchemy deprecates what MLflow uses.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

X = np.random.default_rng(0).normal(size=(400, 3))
OPTIONS = {
    "preset": "fast",
    "max_epochs": 150,
    "settings": {"chain": None, "proposal": False, "beta": 2},
}


def curves(folder):
    """Return the values and texts of a TensorBoard folder by name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()
    texts = [events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in tags["tensors"]]
    return {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags["scalars"]
    }, texts


def runs(folder):
    """Return the runs of an MLflow store, and a function that reads the values of one."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("lowerbound")
    found = client.search_runs([experiment.experiment_id])

    def values(run, name):
        return [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]

    return found, values


def bounds(model):
    return [(c["step"], c["valid_bound"]) for c in model.facts["history"]["checks"]]


def test_tensorboard_has_the_curves_and_the_options(tmp_path):
    said = []
    out = tmp_path / "m.vae"
    model = lowerbound.fit(X, out=out, track="tensorboard", say=said.append, **OPTIONS)
    found, texts = curves(tmp_path / "runs" / "m")
    assert [step for step, _ in found["model/bound"]] == [step for step, _ in bounds(model)]
    wanted = [value for _, value in bounds(model)]
    assert [value for _, value in found["model/bound"]] == pytest.approx(wanted, rel=1e-6)
    assert found["final/threshold"][0][1] == pytest.approx(model.alarm.threshold, rel=1e-6)
    assert {"model/loss", "model/active", "model/rows_per_second"} <= found.keys()
    assert any("| settings.beta | 2 |" in text and "| seed | 0 |" in text for text in texts)
    assert any(line.startswith("track") and str(tmp_path) in line for line in said)


def test_a_new_fit_of_the_same_name_hides_the_earlier_curves(tmp_path):
    for seed in (1, 2):
        model = lowerbound.fit(
            X, out=tmp_path / "m.vae", overwrite=True, seed=seed, track="tensorboard", **OPTIONS
        )
    found, _ = curves(tmp_path / "runs" / "m")
    wanted = [value for _, value in bounds(model)]
    assert [value for _, value in found["model/bound"]] == pytest.approx(wanted, rel=1e-6)


def test_mlflow_has_the_run(tmp_path):
    store = tmp_path / "store"
    model = lowerbound.fit(X, out=tmp_path / "m.vae", track=f"mlflow:{store}", **OPTIONS)
    (run,), values = runs(store)
    assert run.info.run_name == "m"
    assert run.info.status == "FINISHED"
    assert run.data.params["recipe"] == "table"
    assert run.data.params["settings.beta"] == "2"
    assert run.data.params["rows"] == "400"
    assert values(run, "model/bound") == bounds(model)
    assert run.data.metrics["final/threshold"] == pytest.approx(model.alarm.threshold)
    assert run.data.tags["lowerbound"] == lowerbound.__version__


def test_a_stopped_fit_continues_its_run(tmp_path):
    out, calls = tmp_path / "m.vae", []

    def second(check):
        calls.append(check.step)
        return len(calls) == 2

    for _ in range(2):
        model = lowerbound.fit(X, out=out, track="mlflow", callbacks=[second], **OPTIONS)
        (run,), values = runs(tmp_path)
    assert run.info.status == "FINISHED"
    assert values(run, "model/bound") == bounds(model)


def test_recording_changes_nothing(tmp_path):
    files = []
    for name, track in (("a", None), ("b", ["tensorboard", f"mlflow:{tmp_path}"])):
        lowerbound.fit(X, out=tmp_path / f"{name}.vae", track=track, **OPTIONS)
        files.append((tmp_path / f"{name}.vae" / "weights.safetensors").read_bytes())
    assert files[0] == files[1]


def test_a_store_that_fails_does_not_end_the_fit(tmp_path, monkeypatch):
    def full(self, values, step):
        raise OSError("no space left")

    monkeypatch.setattr(tracking.TensorBoard, "add", full)
    said = []
    lowerbound.fit(
        X, out=tmp_path / "m.vae", track=f"tensorboard:{tmp_path}", say=said.append, **OPTIONS
    )
    assert (tmp_path / "m.vae").is_dir()
    assert sum("stopped recording" in line and "no space left" in line for line in said) == 1


def test_a_fit_that_fails_ends_its_run(tmp_path):
    def broken(check):
        raise RuntimeError

    with pytest.raises(UsageError, match="E276"):
        lowerbound.fit(X, track=f"mlflow:{tmp_path}", callbacks=[broken], **OPTIONS)
    (run,), _ = runs(tmp_path)
    assert run.info.status == "KILLED"


@pytest.mark.parametrize(
    ("track", "code"),
    [
        ("wandb", "E241"),
        ("tensorbord", "E241"),
        ("mlflow:http://server:5000", "E277"),
        ("tensorboard:s3://bucket/logs", "E277"),
        ("mlflow:", "E277"),
        (["tensorboard", "x"], "E241"),
    ],
)
def test_other_stores_are_refused(track, code):
    with pytest.raises(UsageError, match=code):
        lowerbound.fit(X, track=track, **OPTIONS)


def test_a_store_that_cannot_be_opened_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("tensorboard", "mlflow"):
        with pytest.raises(UsageError, match="E278"):
            lowerbound.fit(X, track=f"{name}:{tmp_path / 'file'}", **OPTIONS)


def test_a_missing_library_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ResourceError, match=r"E310.*\n.*lowerbound\[track\]"):
        lowerbound.fit(X, track="tensorboard", **OPTIONS)
