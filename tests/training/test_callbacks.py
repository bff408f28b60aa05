"""Callbacks: called after every check, may end the fit, and never change its result."""

import threading

import numpy as np
import pytest
from sklearn.base import clone

import lowerbound
from lowerbound.errors import UsageError
from lowerbound.training.callbacks import TrainingCheck
from lowerbound.training.fit import learn
from lowerbound.training.plan import Plan

X = np.random.default_rng(0).normal(size=(600, 4)) @ np.random.default_rng(1).normal(size=(4, 4))
OPTIONS = {"preset": "fast", "max_epochs": 150, "settings": {"chain": None, "proposal": False}}


def weights(model):
    return {name: value.numpy() for name, value in model.model.state_dict().items()}


def same(one, other):
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


def test_a_callback_is_called_after_every_check_and_changes_nothing():
    seen = []
    told = lowerbound.fit(X, callbacks=[seen.append], **OPTIONS)
    assert same(told, lowerbound.fit(X, **OPTIONS))
    checks = told.facts["history"]["checks"]
    assert [check.step for check in seen] == [check["step"] for check in checks]
    assert [check.bound for check in seen] == [check["valid_bound"] for check in checks]
    assert all(isinstance(check, TrainingCheck) for check in seen)
    assert all(check.stage == "model" and check.active <= check.latent for check in seen)
    assert [check.seconds for check in seen] == sorted(check.seconds for check in seen)


def test_every_stage_is_named():
    stages = []
    lowerbound.fit(X, preset="fast", max_epochs=2, callbacks=lambda check: stages.append(check[0]))
    assert list(dict.fromkeys(stages)) == ["model", "proposal", "rows"]


def test_true_ends_the_fit_with_a_calibrated_model(tmp_path):
    seen = []

    def second(check):
        seen.append(check)
        return np.bool_(len(seen) == 2)

    model = lowerbound.fit(X, preset="fast", out=tmp_path / "m.vae", callbacks=[second])
    assert len(seen) == 2
    assert model.facts["history"]["stopped"] == "interrupt"
    assert not {"proposal_history", "rows_history"} & model.facts.keys()  # nothing follows
    assert len(model.calibration.scores) == 60
    again = lowerbound.load(tmp_path / "m.vae")
    assert (again.anomaly_score(X) == model.anomaly_score(X)).all()
    assert (tmp_path / "m.run").is_dir()


def test_a_stopped_fit_continues_to_the_bytes_of_an_undisturbed_one(tmp_path):
    counted = []

    def third(check):
        counted.append(check.step)
        return len(counted) == 3

    one = tmp_path / "one.vae"
    lowerbound.fit(X, out=one, callbacks=[third], **OPTIONS)
    last = counted[-1]
    lowerbound.fit(X, out=one, callbacks=[third], **OPTIONS)
    assert counted[3] > last  # it went on, and did not begin again
    lowerbound.fit(X, out=tmp_path / "two.vae", **OPTIONS)
    files = [(path / "weights.safetensors").read_bytes() for path in (one, tmp_path / "two.vae")]
    assert files[0] == files[1]
    assert not (tmp_path / "one.run").exists()


def test_a_stop_in_a_later_stage_ends_the_fit(tmp_path):
    stages = []

    def stop(check):
        stages.append(check.stage)
        return check.stage == "proposal"

    out = tmp_path / "m.vae"
    model = lowerbound.fit(X, preset="fast", max_epochs=2, out=out, callbacks=[stop])
    assert stages[-1] == "proposal"
    assert stages.count("proposal") == 1
    assert "rows_history" not in model.facts
    whole = lowerbound.fit(X, preset="fast", max_epochs=2, out=out)
    assert "rows_history" in whole.facts
    assert same(whole, lowerbound.fit(X, preset="fast", max_epochs=2))


@pytest.mark.parametrize("answer", [1, "stop", [True], None, False])
def test_only_true_ends_a_fit(answer):
    model = lowerbound.fit(X, callbacks=[lambda check: answer], **{**OPTIONS, "max_epochs": 60})
    assert model.facts["history"]["stopped"] != "interrupt"


def test_all_callbacks_are_called_when_one_stops():
    seen = []
    lowerbound.fit(X, callbacks=[lambda check: True, seen.append], **OPTIONS)
    assert len(seen) == 1


def test_an_exception_is_the_error_of_the_user():
    def broken(check):
        raise KeyError("lost")

    with pytest.raises(UsageError, match="E276") as caught:
        lowerbound.fit(X, callbacks=[broken], **OPTIONS)
    assert "broken raised KeyError at step" in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("callbacks", [3, "print", [print, 3], {"a": print}])
def test_what_is_no_callback_is_refused(callbacks):
    with pytest.raises(UsageError, match="E245"):
        lowerbound.fit(X, callbacks=callbacks)


def test_an_estimator_takes_callbacks_and_is_cloned_with_them():
    seen = []
    vae = lowerbound.VAE(max_epochs=2, callbacks=[lambda check: seen.append(check.bound)])
    clone(vae).fit(X)
    assert seen
    assert lowerbound.VAE().get_params()["callbacks"] is None


def test_a_plan_takes_callbacks_in_any_thread():
    seen, plan = [], Plan(**OPTIONS)
    thread = threading.Thread(target=lambda: learn(X, plan, callbacks=seen.append))
    thread.start()
    thread.join()
    assert seen
