"""fit --track: a fit recorded beside its model."""

import pytest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of SQLAlchemy, by MLflow

FIT = ("fit", "tx.csv", "--preset", "fast", "--max-epochs", 3, "--out", "m.vae")


def test_a_fit_is_recorded_beside_its_model(run, folder):
    done = run(*FIT, "--track", "tensorboard,mlflow:store")
    assert done.code == 0
    assert f"track {folder / 'runs' / 'm'}" in " ".join(done.err.split())
    assert list((folder / "runs" / "m").glob("events.*"))
    assert (folder / "store" / "mlflow.db").stat().st_size
    assert not (folder / "mlruns").exists()


@pytest.mark.parametrize(
    ("track", "code"), [("wandb", "E241"), ("mlflow:https://tracking.example.org", "E277")]
)
def test_other_stores_are_refused_before_any_work(run, folder, track, code):
    done = run(*FIT, "--track", track, "--json")
    assert (done.code, done.error["code"]) == (2, code)
    assert not (folder / "m.vae").exists()
