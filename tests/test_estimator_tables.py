"""Data frames, Arrow, paths, sparse matrices: what goes in comes back as the same kind."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy import sparse

from estimators import correlated, quick
from lowerbound import VAE, Model
from lowerbound.errors import DataError, ResourceError
from lowerbound.files import containers

N = 300


def mixed():
    """A table that nobody prepared: every kind of column, gaps, an id, a constant, an index."""
    rng = np.random.default_rng(0)
    size = rng.normal(size=N)
    table = pd.DataFrame(
        {
            "amount": np.exp(1.5 * size + rng.normal(size=N)),
            "temperature": 20 + 5 * size + rng.normal(size=N),
            "age": rng.integers(18, 80, N),
            "city": np.where(size > 0, "rome", rng.choice(["oslo", "bern"], N)),
            "paid": rng.random(N) < 0.3,
            "when": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 9000, N), "h"),
            "id": [f"u{i:04d}" for i in range(N)],
            "same": 1.5,
            "class": pd.Categorical(rng.choice(["a", "b", "c"], N)),
        },
        index=np.arange(N) * 2 + 7,
    )
    for column, rows in [("amount", slice(0, 30)), ("city", slice(20, 40)), ("when", slice(5, 9))]:
        table.iloc[rows, table.columns.get_loc(column)] = None
    return table


def to_arrow(frame):
    return pa.Table.from_pandas(frame, preserve_index=False)


KINDS = {
    "pandas": (mixed, pd.DataFrame),
    "polars": (lambda: pl.from_arrow(to_arrow(mixed())), pl.DataFrame),
    "arrow": (lambda: to_arrow(mixed()), pa.Table),
}
MODELLED = ["amount", "temperature", "age", "city", "paid", "when", "same", "class"]


def plain(table):
    """Return any table as a pandas frame with a plain index."""
    if isinstance(table, pa.Table):
        return table.to_pandas()
    return table.to_pandas() if isinstance(table, pl.DataFrame) else table.reset_index(drop=True)


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request):
    make, container = KINDS[request.param]
    table = make()
    return table, container, quick().fit(table)


@pytest.fixture(scope="module")
def vae():
    return quick().fit(mixed())


class TestTheSameKindComesBack:
    def test_impute_fills_the_gaps_and_nothing_else(self, kind):
        table, container, vae = kind
        filled = vae.impute(table)
        assert isinstance(filled, container)
        before, after = plain(table), plain(filled)
        assert list(after.columns) == list(before.columns)
        assert not after.isna().any(axis=None)
        for name in before:
            seen = before[name].notna()
            assert (before.loc[seen, name] == after.loc[seen, name]).all()
            assert before[name].dtype == after[name].dtype

    def test_impute_draws(self, kind):
        table, container, vae = kind
        copies = vae.impute(table, draws=2, random_state=1)
        assert isinstance(copies, container)
        copies = plain(copies)
        assert len(copies) == 2 * N
        assert (copies["draw"].value_counts() == N).all()
        first, second = copies[copies["draw"] == 0], copies[copies["draw"] == 1]
        assert (first["amount"].to_numpy()[30:] == second["amount"].to_numpy()[30:]).all()
        assert (first["amount"].to_numpy()[:30] != second["amount"].to_numpy()[:30]).all()

    def test_reconstruct_sample_and_invert(self, kind):
        table, container, vae = kind
        types = plain(table).dtypes.astype(str)[MODELLED]
        inverse = vae.inverse_transform(vae.transform(table))
        for rows in (vae.reconstruct(table), vae.sample(N), inverse):
            assert isinstance(rows, container)
            made = plain(rows)
            assert list(made.columns) == MODELLED
            assert len(made) == N
            assert made.dtypes.astype(str).equals(types)
            assert np.isfinite(vae.score_samples(made)).all()

    def test_score_table_and_explain(self, kind):
        table, container, vae = kind
        scored, reasons = vae.score_table(table, explain=2), vae.explain(table, top=2)
        assert isinstance(scored, container)
        assert isinstance(reasons, container)
        scored, reasons = plain(scored), plain(reasons)
        assert np.array_equal(scored["anomaly_score"], vae.anomaly_score(table))
        assert np.array_equal(scored["p_value"], vae.p_value(table))
        assert np.array_equal(scored["is_anomaly"], vae.predict(table) == -1)
        assert scored["top1_column"].notna().sum() >= 100
        assert set(reasons["top1_column"]) <= set(MODELLED)
        assert (reasons["top1_nats"] >= reasons["top2_nats"]).all()
        assert {"top2_value", "top2_expected"} <= set(reasons)

    def test_all_kinds_score_alike(self, vae):
        scores = [vae.score_samples(make()) for make, _ in KINDS.values()]
        assert np.array_equal(scores[0], scores[1])
        assert np.array_equal(scores[0], scores[2])

    def test_the_index_of_pandas_stays(self, vae):
        table = mixed()
        for result in (vae.impute(table), vae.reconstruct(table), vae.score_table(table)):
            assert result.index.equals(table.index)

    def test_kind_survives_saving(self, kind, tmp_path):
        table, container, vae = kind
        other = VAE.load(vae.save(tmp_path / "m.vae"))
        assert isinstance(other.sample(3), container)
        assert list(other.feature_names_in_) == list(plain(table).columns)

    def test_a_frame_library_that_is_gone(self, vae, monkeypatch, tmp_path):
        other = VAE.load(vae.save(tmp_path / "m.vae"))
        other.trained_.facts["input"]["kind"] = "modin"
        with pytest.raises(ResourceError) as caught:
            other.sample(3)
        assert caught.value.code == "E310"


class TestColumnsAreFoundByName:
    def test_order_does_not_matter_and_extra_columns_neither(self, vae):
        table = mixed()
        turned = table[table.columns[::-1]].assign(extra=1)
        for method in ("score_samples", "transform", "predict", "p_value"):
            assert np.array_equal(getattr(vae, method)(turned), getattr(vae, method)(table))
        pd.testing.assert_frame_equal(vae.reconstruct(turned), vae.reconstruct(table))

    def test_columns_that_are_not_modelled_may_be_absent(self, vae):
        table = mixed()
        less = table.drop(columns=["id", "same"])
        assert np.array_equal(vae.score_samples(less), vae.score_samples(table))

    def test_a_missing_column_is_named(self, vae):
        table = mixed().rename(columns={"amount": "Amount"})
        with pytest.raises(DataError, match="Amount") as caught:
            vae.predict(table)
        assert caught.value.code == "E031"

    def test_names_given_once_only(self):
        x = correlated(100)
        frame = pd.DataFrame(x, columns=list("abcd"))
        named, unnamed = quick().fit(frame), quick().fit(x)
        assert not hasattr(unnamed, "feature_names_in_")
        with pytest.warns(UserWarning, match="X does not have valid feature names, but VAE"):
            scores = named.score_samples(x)
        assert np.array_equal(scores, named.score_samples(frame))
        with pytest.warns(UserWarning, match="X has feature names, but VAE was fitted without"):
            scores = unnamed.score_samples(frame)
        assert np.array_equal(scores, unnamed.score_samples(x))

    def test_fitting_again_forgets_the_names(self):
        x = correlated(60)
        vae = quick().fit(pd.DataFrame(x, columns=list("abcd")))
        assert list(vae.feature_names_in_) == list("abcd")
        vae.fit(x[:, :3])
        assert not hasattr(vae, "feature_names_in_")
        assert vae.n_features_in_ == 3

    def test_numbers_are_places(self):
        """Columns that nobody named, as of ``pd.DataFrame(array)``, are those of the array."""
        x = correlated(100)
        x[0, 2] = np.nan
        frame = pd.DataFrame(x)
        vae = quick().fit(frame)
        assert not hasattr(vae, "feature_names_in_")
        assert np.array_equal(vae.score_samples(x), vae.score_samples(frame))
        filled = vae.impute(frame)
        assert list(filled.columns) == [0, 1, 2, 3]
        assert not filled.isna().any(axis=None)


class TestOtherInput:
    def test_paths(self, tmp_path):
        x = correlated(100)
        pd.DataFrame(x, columns=list("abcd")).to_csv(tmp_path / "t.csv", index=False)
        np.save(tmp_path / "t.npy", x)
        vae = quick().fit(tmp_path / "t.csv")
        assert list(vae.feature_names_in_) == list("abcd")
        assert isinstance(vae.impute(str(tmp_path / "t.csv")), pa.Table)
        array = quick().fit(x)
        assert np.array_equal(array.score_samples(tmp_path / "t.npy"), array.score_samples(x))
        assert isinstance(array.impute(tmp_path / "t.npy"), np.ndarray)

    def test_a_dict_of_columns(self):
        columns = {"a": [1.5, 2.5, None, 3.0] * 20, "b": ["x", "y", "x", None] * 20}
        filled = quick().fit(columns).impute(columns)
        assert isinstance(filled, pa.Table)
        assert filled.column_names == ["a", "b"]
        assert filled["a"].null_count == filled["b"].null_count == 0

    def test_arrays(self):
        x = correlated(100)
        x[:9, 1] = np.nan
        vae = quick().fit(x)
        filled, copies = vae.impute(x), vae.impute(x, draws=3)
        assert filled.dtype == np.float64
        assert copies.shape == (3, 100, 4)
        assert np.array_equal(copies[2][9:], x[9:])
        assert vae.sample(5).shape == (5, 4)
        scored = vae.score_table(x, explain=1)
        assert scored.dtype.names[:3] == ("anomaly_score", "p_value", "is_anomaly")
        assert set(vae.explain(x, top=1)["top1_column"]) <= {"x0", "x1", "x2", "x3"}

    @pytest.mark.parametrize("layout", ["csr", "csc", "coo"])
    def test_sparse_matrices(self, layout):
        rng = np.random.default_rng(0)
        dense = rng.normal(size=(100, 5)) * (rng.random((100, 5)) < 0.4)
        matrix = sparse.coo_array(dense).asformat(layout)
        vae = quick().fit(matrix)
        assert np.array_equal(vae.score_samples(matrix), vae.score_samples(dense))
        assert sparse.issparse(vae.reconstruct(matrix))
        assert sparse.issparse(vae.sample(3))
        assert (vae.impute(matrix).toarray() == dense).all()

    def test_counts_stay_sparse(self):
        rng = np.random.default_rng(0)
        matrix = sparse.csr_array(rng.poisson(0.5, size=(200, 30)))
        vae = quick(recipe="counts").fit(matrix)
        assert np.isfinite(vae.score_samples(matrix)).all()
        made = vae.sample(7)
        assert sparse.issparse(made)
        assert made.dtype.kind == "i"

    def test_a_sparse_matrix_that_dense_columns_cannot_hold(self, monkeypatch):
        monkeypatch.setattr(containers, "DENSE_BYTES", 1000)
        matrix = sparse.csr_array(np.eye(20))
        with pytest.raises(ResourceError) as caught:
            quick().fit(matrix)
        assert caught.value.code == "E303"


class TestSamplesWithGivenValues:
    def test_hold_them(self, vae):
        made = vae.sample(50, where={"city": "rome", "paid": True})
        assert (made["city"] == "rome").all()
        assert made["paid"].all()
        assert len(made) == 50

    def test_that_hardly_ever_occur_are_warned_about(self, vae, monkeypatch):
        drawn = vae.trained_.samples(50)._replace(effective_samples=2)
        monkeypatch.setattr(Model, "samples", lambda *_, **__: drawn)
        with pytest.warns(UserWarning, match="effective sample size of the 50 rows is 2.0"):
            vae.sample(50, where={"temperature": 200.0})
