"""The estimator as scikit-learn's other parts use it, and what it promises about scores."""

import random

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr, get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

from estimators import correlated, quick
from lowerbound import VAE, Plan
from lowerbound.errors import UsageError
from lowerbound.estimator import plan_of


@pytest.fixture(scope="module")
def rows():
    return correlated(300)


@pytest.fixture(scope="module")
def fitted(rows):
    return quick().fit(rows)


class TestScikitLearnsOwnChecks:
    """All of them, none expected to fail."""

    @pytest.fixture(autouse=True)
    def _no_check_is_skipped(self, monkeypatch):
        """One check runs only where this says that scipy may dispatch on array types."""
        monkeypatch.setenv("SCIPY_ARRAY_API", "1")

    @parametrize_with_checks([VAE(preset="fast", max_epochs=2)])
    def test_pass(self, estimator, check):
        check(estimator)

    @pytest.mark.nightly
    @parametrize_with_checks(
        [
            VAE(),
            quick(recipe="sigma"),
            quick(recipe="beta"),
            quick(scaling="quantile", latent="auto"),
        ]
    )
    def test_pass_with_other_choices(self, estimator, check):
        check(estimator)


class TestAmongOtherEstimators:
    def test_grid_search_finds_the_latent_size(self):
        grid = {"latent": np.array([1, 3]), "alarm_rate": [0.05]}
        search = GridSearchCV(quick(), grid, cv=2).fit(correlated(200))
        assert search.best_params_["latent"] in (1, 3)
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()
        assert search.best_estimator_.latent_ == search.best_params_["latent"]

    def test_pipeline_scores_and_embeds(self, rows):
        pipe = make_pipeline(StandardScaler(), quick()).fit(rows)
        assert pipe.transform(rows).shape == (300, 2)
        assert pipe.score_samples(rows).shape == (300,)
        assert set(pipe.predict(rows)) <= {-1, 1}
        back = pipe.inverse_transform(pipe.transform(rows))
        assert back.shape == rows.shape

    def test_pipeline_keeps_names(self, rows):
        frame = pd.DataFrame(rows, columns=list("abcd"))
        pipe = make_pipeline(StandardScaler(), quick()).set_output(transform="pandas")
        z = pipe.fit(frame).transform(frame)
        assert list(pipe[-1].feature_names_in_) == list("abcd")
        assert list(z.columns) == list(pipe.get_feature_names_out()) == ["vae0", "vae1"]

    def test_clone_takes_the_parameters_and_leaves_the_model(self, fitted):
        other = clone(fitted.set_params(settings={"likelihood": "student"}))
        fitted.set_params(settings=None)
        assert other.get_params() == {
            **fitted.get_params(),
            "settings": {"likelihood": "student"},
        }
        assert not hasattr(other, "trained_")

    @pytest.mark.parametrize("library", ["pandas", "polars"])
    def test_set_output(self, rows, library):
        frame = pd.DataFrame(rows, columns=list("abcd"), index=range(50, 350))
        vae = quick(latent=3).fit(frame)
        plain = vae.transform(frame)
        z = vae.set_output(transform=library).transform(frame)
        assert type(z).__module__.startswith(library)
        assert list(z.columns) == ["vae0", "vae1", "vae2"]
        assert np.array_equal(z.to_numpy(), plain)
        assert library != "pandas" or z.index.equals(frame.index)

    def test_global_settings_of_scikit_learn_do_not_reach_inside(self, rows, fitted):
        with config_context(transform_output="pandas", assume_finite=True):
            vae = quick().fit(rows)
            assert isinstance(vae.transform(rows), pd.DataFrame)
        assert np.array_equal(vae.score_samples(rows), fitted.score_samples(rows))

    def test_feature_names_out(self, rows):
        vae = quick().fit(pd.DataFrame(rows, columns=list("abcd")))
        assert list(vae.get_feature_names_out(list("abcd"))) == ["vae0", "vae1"]
        with pytest.raises(ValueError, match="input_features"):
            vae.get_feature_names_out(list("abce"))

    def test_html_repr_and_repr(self, fitted):
        assert "max_epochs" in repr(fitted)
        assert "VAE" in estimator_html_repr(fitted)
        assert "VAE" in fitted._repr_html_()

    def test_tags(self):
        tags = get_tags(VAE())
        assert tags.estimator_type == "outlier_detector"
        assert tags.input_tags.allow_nan
        assert tags.input_tags.sparse
        assert not tags.non_deterministic


class TestParameters:
    @pytest.mark.parametrize(
        ("choice", "code"),
        [
            ({"recipe": "tabel"}, "E241"),
            ({"recipe": 3}, "E245"),
            ({"preset": "slow"}, "E241"),
            ({"scaling": "none"}, "E241"),
            ({"alarm_rate": 0.0}, "E240"),
            ({"alarm_rate": "low"}, "E231"),
            ({"max_epochs": 0}, "E240"),
            ({"max_epochs": 2.5}, "E245"),
            ({"max_epochs": True}, "E245"),
            ({"time_limit": -1}, "E240"),
            ({"time_limit": "soon"}, "E231"),
            ({"latent": 0}, "E240"),
            ({"latent": "many"}, "E240"),
            ({"latent": 2.0}, "E245"),
            ({"settings": ["beta", 4]}, "E245"),
            ({"settings": {"betta": 4}}, "E242"),
            ({"types": "a=real"}, "E245"),
            ({"types": {"x0": "reel"}}, "E202"),
            ({"types": {"y0": "real"}}, "E203"),
            ({"drop": 3}, "E245"),
            ({"drop": ["y0"]}, "E203"),
            ({"random_state": -1}, "E240"),
            ({"random_state": "seed"}, "E245"),
            ({"device": 0}, "E245"),
        ],
        ids=str,
    )
    def test_wrong_ones_are_refused_in_fit_by_name(self, rows, choice, code):
        vae = quick(**choice)
        with pytest.raises(UsageError) as caught:
            vae.fit(rows)
        assert caught.value.code == code
        assert not hasattr(vae, "trained_")
        assert not hasattr(vae, "n_features_in_")

    def test_are_stored_untouched(self):
        settings, drop = {"beta": 2.0}, ("x1",)
        vae = VAE(settings=settings, drop=drop)
        assert vae.settings is settings
        assert vae.drop is drop

    def test_defaults_are_those_of_a_plan(self):
        assert plan_of(VAE().get_params()) == Plan()

    def test_take_effect(self, rows):
        vae = quick(
            drop="x3", latent=np.int64(5), settings={"likelihood": "student"}, alarm_rate=0.1
        ).fit(rows)
        assert vae.latent_ == vae.transform(rows).shape[1] == 5
        assert [group.column for group in vae.trained_.coding.groups] == ["x0", "x1", "x2"]
        assert vae.trained_.arguments["likelihood"] == "student"
        assert vae.alarm_.rate == pytest.approx(0.1, abs=0.02)

    def test_unfitted_estimators_say_so(self, rows, tmp_path):
        vae = VAE()
        for call in (vae.score_samples, vae.impute, vae.explain, vae.evaluate):
            with pytest.raises(NotFittedError):
                call(rows)
        for call in (vae.sample, lambda: vae.save(tmp_path / "m.vae")):
            with pytest.raises(NotFittedError):
                call()
        assert not hasattr(vae, "offset_")


class TestRandomness:
    def test_same_seed_same_model(self, rows, fitted):
        again = quick().fit(rows)
        assert np.array_equal(again.score_samples(rows), fitted.score_samples(rows))
        assert again.offset_ == fitted.offset_

    def test_other_seed_other_model(self, rows, fitted):
        other = quick(random_state=1).fit(rows)
        assert not np.allclose(other.score_samples(rows), fitted.score_samples(rows))

    def test_random_state_objects_and_none(self, rows):
        one, two = (
            quick(random_state=np.random.RandomState(5)).fit(rows).score_samples(rows)
            for _ in range(2)
        )
        assert np.array_equal(one, two)
        state = np.random.RandomState(5)
        first = quick(random_state=state).fit(rows).score_samples(rows)
        second = quick(random_state=state).fit(rows).score_samples(rows)
        assert np.array_equal(first, one)
        assert not np.array_equal(second, one)
        free = [quick(random_state=None).fit(rows).score_samples(rows) for _ in range(2)]
        assert not np.array_equal(*free)

    def test_samples_follow_the_state(self, fitted):
        assert np.array_equal(fitted.sample(5), fitted.sample(5))
        assert not np.array_equal(fitted.sample(5), fitted.sample(5, random_state=1))
        state = np.random.RandomState(0)
        one, two = (fitted.sample(5, random_state=state) for _ in range(2))
        assert not np.array_equal(one, two)

    def test_global_states_stay_as_they_were(self, rows):
        torch.manual_seed(3)
        np.random.seed(3)
        random.seed(3)
        before = (torch.get_rng_state(), np.random.get_state(), random.getstate())
        gappy = rows.copy()
        gappy[0, 0] = np.nan
        vae = quick(random_state=None).fit(gappy)
        vae.score_samples(gappy)
        vae.sample(3)
        vae.impute(gappy, draws=2)
        vae.evaluate(gappy[:5], samples=4)
        after = (torch.get_rng_state(), np.random.get_state(), random.getstate())
        assert torch.equal(before[0], after[0])
        assert all(np.array_equal(a, b) for a, b in zip(before[1], after[1], strict=True))
        assert before[2] == after[2]
