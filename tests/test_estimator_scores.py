"""What the estimator's numbers promise, how models are kept, and what is accepted."""

import copy
import io
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.base import clone

from estimators import correlated, quick
from lowerbound import VAE, Plan
from lowerbound.errors import DataError, ModelFileError, UsageError
from lowerbound.training.fit import learn


@pytest.fixture(scope="module")
def rows():
    return correlated(300)


@pytest.fixture(scope="module")
def fitted(rows):
    return quick().fit(rows)


class TestScores:
    def test_signs(self, rows, fitted):
        likelihood, anomaly = fitted.score_samples(rows), fitted.anomaly_score(rows)
        assert np.array_equal(likelihood, -anomaly)
        decision = fitted.decision_function(rows)
        assert np.array_equal(decision, likelihood - fitted.offset_)
        assert np.array_equal(fitted.predict(rows), np.where(decision < 0, -1, 1))
        assert np.array_equal(decision < 0, anomaly > fitted.alarm_.threshold)
        assert np.array_equal(fitted.score_table(rows)["is_anomaly"], decision < 0)

    def test_far_rows_are_outliers(self, rows, fitted):
        far = rows[:5] + 50
        assert (fitted.predict(far) == -1).all()
        assert (fitted.p_value(far) == fitted.p_value(far).min()).all()
        assert fitted.anomaly_score(far).min() > fitted.anomaly_score(rows).max()

    def test_p_values_fall_as_scores_rise(self, rows, fitted):
        scores, p = fitted.anomaly_score(rows), fitted.p_value(rows)
        assert (np.diff(p[scores.argsort()]) <= 0).all()
        assert p.min() > 0
        assert p.max() <= 1

    @pytest.mark.parametrize("size", [1, 7, 32, 300])
    def test_a_row_scores_the_same_in_any_company(self, rows, fitted, size):
        whole = fitted.score_samples(rows)
        order = np.random.default_rng(size).permutation(300)
        pieces = [fitted.score_samples(rows[order[i : i + size]]) for i in range(0, 70, size)]
        some = np.concatenate(pieces)
        assert np.array_equal(some, whole[order[: len(some)]])

    def test_reports_hold_the_promised_alarm_rate_and_uniform_p_values(self):
        """Fresh rows of the same kind: the threshold and the p-values keep their word."""
        vae = quick(alarm_rate=0.05, max_epochs=8).fit(correlated(6000, seed=1))
        fresh = correlated(4000, seed=2)
        alarms, alarm = (vae.predict(fresh) == -1).mean(), vae.alarm_
        assert alarm.low < 0.05 < alarm.high
        slack = 3 * np.sqrt(0.05 * 0.95 / 4000)
        assert alarm.low - slack < alarms < alarm.high + slack
        # p-values are ranks among held-out scores: uniform if both samples are alike.
        held_out = vae.trained_.calibration.scores
        assert stats.ks_2samp(held_out, vae.anomaly_score(fresh)).pvalue > 0.01
        p = vae.p_value(fresh)
        assert stats.kstest(p, "uniform").statistic < 1.63 / np.sqrt(len(held_out)) + slack

    def test_another_unit_moves_the_likelihood_by_its_logarithm_and_no_score(self):
        x = correlated(300)
        one, two = quick().fit(x), quick().fit(1024 * x)
        assert two.score_samples(1024 * x) == pytest.approx(one.score_samples(x), abs=1e-4)
        assert two.score(1024 * x) == pytest.approx(one.score(x) - 4 * np.log(1024), abs=1e-4)

    def test_evaluate(self, rows, fitted):
        report = fitted.evaluate(rows, samples=32)
        assert report["rows"] == 300
        # Other draws than those of a score: keyed by the number of the row, not by its content.
        apart = abs(report["iw_nll"] + fitted.score(rows))
        assert apart < report["iw_nll_standard_error"]
        assert report["elbo"] <= -report["iw_nll"] + 0.2

    def test_health_and_history(self, fitted):
        assert fitted.health_["verdict"] in ("healthy", "warning", "collapsed")
        assert fitted.health_["lines"]
        assert fitted.history_["stopped"] == "epochs"


class TestKeeping:
    def test_save_and_load(self, rows, fitted, tmp_path):
        path = fitted.save(tmp_path / "m.vae")
        other = VAE.load(path)
        assert np.array_equal(other.score_samples(rows), fitted.score_samples(rows))
        assert np.array_equal(other.p_value(rows), fitted.p_value(rows))
        assert np.array_equal(other.transform(rows), fitted.transform(rows))
        assert np.array_equal(other.sample(4), fitted.sample(4))
        assert other.offset_ == fitted.offset_
        assert other.n_features_in_ == 4
        assert (other.preset, other.max_epochs) == ("fast", 3)
        again = clone(other).fit(rows)
        assert np.array_equal(again.score_samples(rows), fitted.score_samples(rows))

    def test_nothing_is_replaced_unless_told(self, fitted, tmp_path):
        path = fitted.save(tmp_path / "m.vae")
        with pytest.raises(UsageError) as caught:
            fitted.save(path)
        assert caught.value.code == "E220"
        assert fitted.save(path, overwrite=True) == path

    def test_a_changed_byte_is_refused(self, fitted, tmp_path):
        path = fitted.save(tmp_path / "m.vae")
        weights = path / "weights.safetensors"
        raw = bytearray(weights.read_bytes())
        raw[len(raw) // 2] ^= 1
        weights.write_bytes(raw)
        with pytest.raises(ModelFileError):
            VAE.load(path)

    def test_models_that_the_command_line_saved_load_too(self, rows, tmp_path):
        frame = pd.DataFrame(rows, columns=list("abcd"))
        frame.to_csv(tmp_path / "t.csv", index=False)
        path = learn(tmp_path / "t.csv", Plan(preset="fast", max_epochs=2)).save(tmp_path / "m")
        vae = VAE.load(path)
        assert list(vae.feature_names_in_) == list("abcd")
        assert vae.score_samples(frame).shape == (300,)
        assert vae.sample(3).column_names == list("abcd")

    @pytest.mark.parametrize(
        "copied",
        [lambda v: pickle.loads(pickle.dumps(v)), copy.deepcopy],
        ids=["pickle", "deepcopy"],
    )
    def test_copies_score_equally(self, rows, fitted, copied):
        other = copied(fitted)
        assert np.array_equal(other.score_samples(rows), fitted.score_samples(rows))
        assert np.array_equal(other.sample(4), fitted.sample(4))
        assert other.get_params() == fitted.get_params()

    @pytest.mark.parametrize("mode", [None, "r"])
    def test_joblib(self, rows, fitted, tmp_path, mode):
        joblib.dump(fitted, tmp_path / "m.joblib")
        other = joblib.load(tmp_path / "m.joblib", mmap_mode=mode)
        assert np.array_equal(other.score_samples(rows), fitted.score_samples(rows))

    def test_a_pickle_holds_plain_values_and_arrays(self, fitted):
        packages = set()

        class Watched(pickle.Unpickler):
            def find_class(self, module, name):
                packages.add(module.partition(".")[0])
                return super().find_class(module, name)

        Watched(io.BytesIO(pickle.dumps(fitted))).load()
        assert packages <= {"lowerbound", "numpy"}


class TestInput:
    def test_missing_is_welcome_and_infinite_is_not(self, rows, fitted):
        gappy = rows.copy()
        gappy[::7, 1] = np.nan
        assert np.isfinite(quick().fit(gappy).score_samples(gappy)).all()
        assert np.isfinite(fitted.score_samples(gappy)).all()
        gappy[3, 2] = np.inf
        for call in (quick().fit, fitted.score_samples):
            with pytest.raises(ValueError, match="Input X contains infinity"):
                call(gappy)
            with pytest.raises(DataError, match="inf"):
                call(pd.DataFrame(gappy))

    def test_number_of_columns(self, rows, fitted):
        with pytest.raises(DataError, match="X has 3 features, but VAE is expecting 4") as caught:
            fitted.transform(rows[:, :3])
        assert caught.value.code == "E080"
        with pytest.raises(DataError) as caught:
            fitted.inverse_transform(rows)
        assert caught.value.code == "E081"

    def test_masked_cells_are_missing(self, rows, fitted):
        masked = np.ma.array(rows, mask=rows > 3)
        gappy = np.where(rows > 3, np.nan, rows)
        assert np.array_equal(fitted.score_samples(masked), fitted.score_samples(gappy))

    def test_lists_and_tensors(self, rows, fitted):
        scores = fitted.score_samples(rows)
        assert np.array_equal(fitted.score_samples(rows.tolist()), scores)
        assert np.array_equal(fitted.score_samples(torch.from_numpy(rows)), scores)
        assert np.array_equal(fitted.score_samples(np.asfortranarray(rows)), scores)

    @pytest.mark.parametrize("n", [2, 3, 9])
    def test_few_rows(self, n):
        x = correlated(n)
        vae = quick().fit(x)
        assert np.isfinite(vae.score_samples(x)).all()
        assert vae.sample(3).shape == (3, 4)

    def test_one_row_is_too_few(self, rows):
        with pytest.raises(ValueError, match="1 sample"):
            quick().fit(rows[:1])

    def test_one_column(self):
        x = correlated(60, columns=1)
        vae = quick().fit(x)
        assert np.isfinite(vae.score_samples(x)).all()
        assert vae.reconstruct(x).shape == x.shape

    def test_wide(self):
        x = correlated(20, columns=600)
        vae = quick(max_epochs=1).fit(x)
        assert np.isfinite(vae.score_samples(x)).all()

    def test_columns_without_information_keep_their_place(self, rows):
        x = np.column_stack([rows[:, 0], np.full(300, 7.0), np.full(300, np.nan), rows[:, 1]])
        vae = quick().fit(x)
        assert np.isfinite(vae.score_samples(x)).all()
        made = vae.sample(5)
        assert made.shape == (5, 4)
        assert (made[:, 1] == 7).all()
        assert np.isnan(made[:, 2]).all()
        filled = vae.impute(x)
        assert np.array_equal(filled[:, [0, 1, 3]], x[:, [0, 1, 3]])
        assert np.isnan(filled[:, 2]).all()

    def test_nothing_but_constants(self):
        with pytest.raises(DataError, match="constant"):
            quick().fit(np.ones((20, 3)))

    @pytest.mark.parametrize("kind", [np.float32, np.float16, np.int64, np.uint8, bool])
    def test_numbers_of_any_type(self, kind):
        x = (correlated(120) > 0) if kind is bool else (10 * np.abs(correlated(120))).astype(kind)
        vae = quick().fit(x)
        assert np.isfinite(vae.score_samples(x)).all()
        assert vae.impute(x).dtype == x.dtype
        assert np.array_equal(vae.impute(x), x)
