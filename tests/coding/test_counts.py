"""Rows of counts: totals and batches of drawn rows, means that are not whole."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from scipy import stats

import lowerbound
from lowerbound import VAE, noise, recipes
from lowerbound.coding.context import Factor
from lowerbound.coding.counts import DEPTHS, CountsCoding
from lowerbound.columns.arrow import declared, missing, pc
from lowerbound.errors import DataError, LowerboundError, ModelFileError, UsageError
from lowerbound.estimator import plan_of
from lowerbound.files.read import read
from lowerbound.nn.distributions.counts import (
    NegativeBinomial,
    PoissonLog,
    ZeroInflated,
    rates,
    sample_of_total,
)
from lowerbound.nn.trace import Trace, posterior_mean, replay
from lowerbound.tasks.trained import restored
from lowerbound.training.fit import default_latent
from lowerbound.training.plan import Plan

GENES, CELLS = 12, 500
DEPTH = {"a": 100, "b": 1000, "rare": 10}


def counts(seed=0, n=CELLS):
    rng = np.random.default_rng(seed)
    batch = rng.choice(list(DEPTH), n, p=[0.6, 0.35, 0.05])
    mean = np.array([DEPTH[b] for b in batch]) * rng.lognormal(0, 0.2, n) / GENES
    table = pd.DataFrame(rng.poisson(mean[:, None] * rng.gamma(2, 0.5, (n, GENES))))
    table.columns = [f"g{i}" for i in range(GENES)]
    table["site"] = batch
    return table


@pytest.fixture(scope="module")
def vae():
    types = {"site": "batch"}
    return lowerbound.VAE(
        recipe="counts", types=types, preset="fast", max_epochs=3, device="cpu"
    ).fit(counts())


def totals(table):
    return table[[f"g{i}" for i in range(GENES)]].to_numpy().sum(1)


def test_drawn_rows_have_the_batches_and_totals_of_training(vae):
    drawn, seen = vae.sample(4000), counts()
    assert drawn.columns[0] == "site"
    assert drawn["g0"].dtype == np.int64
    for name in DEPTH:
        share, own = (seen["site"] == name).mean(), totals(drawn[drawn["site"] == name])
        error = 4.5 * (share * (1 - share) / 4000) ** 0.5
        assert (drawn["site"] == name).mean() == pytest.approx(share, abs=error)
        assert set(own) <= set(np.maximum(totals(seen[seen["site"] == name]), 1))
        middle = np.median(totals(seen[seen["site"] == name]))
        assert np.median(own) == pytest.approx(middle, rel=0.1)


def test_a_batch_and_a_total_can_be_asked(vae):
    assert set(vae.sample(50, where={"site": "rare"})["site"]) == {"rare"}
    drawn = vae.sample(50, where={"total": "900"})
    assert set(totals(drawn)) == {900}
    assert set(drawn["site"]) == {"b"}  # no other batch has such totals
    drawn = vae.sample(50, where={"site": "a", "total": 120, "g1": 7})
    assert set(totals(drawn)) == {120}
    assert set(drawn["g1"]) == {7}
    assert set(drawn["site"]) == {"a"}
    assert len(set(drawn["g0"])) > 3
    assert (totals(vae.sample(50, where={"g0": 80})) >= 80).all()


@pytest.mark.parametrize(
    ("where", "code"),
    [
        ({"site": "c"}, "E074"),
        ({"site": None}, "E245"),
        ({"total": 10**6}, "E074"),
        ({"total": 10.5}, "E032"),
        ({"total": 900, "site": "rare"}, "E074"),
        ({"total": 100, "g0": 101}, "E074"),
        ({"g0": 10**6}, "E074"),
        ({"g0": -1}, "E035"),
        ({"g0": 0.5}, "E032"),
        ({"gene": 1}, "E243"),
        ({"gene": 1, "site": "c"}, "E233"),
    ],
)
def test_what_cannot_be_drawn_is_refused(vae, where, code):
    with pytest.raises(LowerboundError) as error:
        vae.sample(5, where=where)
    assert error.value.code == code


def test_means_are_not_rounded(vae):
    few = counts(1, 100)
    made = vae.reconstruct(few)
    np.testing.assert_allclose(totals(made), np.maximum(totals(few), 1), rtol=1e-4)
    assert not float(made["g0"][0]).is_integer()


def test_counts_in_a_table_have_means_that_are_not_rounded():
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    table = pd.DataFrame({"x": x, "clicks": rng.negative_binomial(1, 0.8, 400)})
    vae = lowerbound.VAE(preset="fast", max_epochs=2, device="cpu").fit(table)
    assert {c.name: c.kind for c in vae.trained_.coding.schema.columns}["clicks"] == "count"
    made = vae.reconstruct(table)["clicks"]
    assert made.dtype == np.float64
    assert (made % 1 != 0).all()
    assert vae.sample(5)["clicks"].dtype == np.int64


@pytest.mark.parametrize("label", [str, int, "category"])
def test_batches_are_written_in_their_own_type(label):
    table = counts()
    table["site"] = table["site"].map({"a": 1, "b": 2, "rare": 3}).astype(label)
    coding = CountsCoding.fit(read(table), types={"site": "batch"}, drop=[], transform="blend")
    context = coding.contexts(20, 0)
    drawn = coding.drawn(np.zeros((20, GENES)), context)["site"]
    assert drawn.type == pa.Table.from_pandas(table)["site"].type
    for spelled in ("2", 2, 2.0):
        assert coding.asked({"site": spelled}).context == {"site": 1}


LETTERS = pa.array(["a", "b"] * 30)
BATCHES = {
    "run-end": pc.run_end_encode(LETTERS),
    "large": LETTERS.cast(pa.large_string()),
    "view": LETTERS.cast(pa.string_view()),
    "bytes": LETTERS.cast(pa.binary()),
    "categories of text": LETTERS.dictionary_encode(),
    "categories of numbers": pa.array([3, 4] * 30).dictionary_encode(),
    "null category": pa.DictionaryArray.from_arrays([0, 1] * 30, ["a", None]),
    "null codes": pa.DictionaryArray.from_arrays([0, None, 1] * 20, ["a", "b"]),
    "empty": pa.array(["a", "", "b"] * 20),
    "blank": pa.array(["a", " ", "NA"] * 20),
    "truth": pa.array([True, False] * 30),
    "NaN": pa.array([1.0, float("nan"), 2.0] * 20),
    "half": pa.array(np.array([1, 2] * 30, np.float16)),
    "day": pa.array([1, 2] * 30, pa.int32()).cast(pa.date32()),
}


@pytest.mark.parametrize("name", BATCHES)
def test_batches_of_any_type_are_read_asked_and_written(name):
    site = BATCHES[name]
    frame = read(pa.table({"g0": range(60), "g1": range(60), "site": site}))
    coding = CountsCoding.fit(frame, types={"site": "batch"}, drop=[], transform="blend")
    known = missing(pa.chunked_array([site])).to_pylist().count(False)
    (factor,) = coding.covariates.factors
    assert sum(factor.levels.values()) == known
    assert coding.encode(frame).unseen == ({"site": 60 - known} if known < 60 else {})
    drawn = coding.drawn(np.zeros((9, 2)), coding.contexts(9, 0))["site"]
    assert drawn.type == declared(site.type)
    assert drawn.null_count == 0
    codes = [coding.asked({"site": level}).context["site"] for level in factor.levels]
    assert codes == list(range(len(codes)))


@pytest.mark.parametrize(
    ("site", "code"),
    [([""] * 3, "E033"), ([None] * 3, "E033"), ([[1]] * 3, "E023"), ([{"a": 1}] * 3, "E023")],
)
def test_a_batch_without_values_is_refused(site, code):
    frame = read(pa.table({"g": [1, 2, 3], "site": pa.array(site)}))
    with pytest.raises(LowerboundError) as error:
        CountsCoding.fit(frame, types={"site": "batch"}, drop=[], transform="blend")
    assert error.value.code == code


@pytest.mark.parametrize("gene", [["a", "b", "c"], [[1], [2], [3]]])
def test_columns_that_hold_no_numbers_are_no_counts(gene):
    frame = read(pa.table({"g": [1, 2, 3], "text": pa.array(gene)}))
    with pytest.raises(LowerboundError, match="--drop text") as error:
        CountsCoding.fit(frame, types={}, drop=[], transform="blend")
    assert error.value.code == "E073"


def test_annotations_of_whole_floats_are_batches():
    anndata = pytest.importorskip("anndata")
    obs = pd.DataFrame({"site": [1.0, 2.0, np.nan], "size": [0.5, 1.0, 2.0]}, index=list("abc"))
    frame = read(anndata.AnnData(np.ones((3, 2), np.float32), obs=obs))
    assert frame.annotations["site"].to_pylist() == ["1", "2", None]
    assert frame.annotations["size"].to_pylist() == [0.5, 1.0, 2.0]
    coding = CountsCoding.fit(frame, types={"site": "batch"}, drop=[], transform="blend")
    assert coding.covariates.factors[0].levels == {"1": 1, "2": 1}


def test_totals_are_kept_compactly_and_survive_saving(vae):
    rng = np.random.default_rng(0)
    logs = torch.from_numpy(rng.normal(8, 1, 100_000).astype(np.float32))[:, None]
    coding = CountsCoding(("g",)).with_profiles(logs)
    (kept,) = coding.profiles
    assert (len(kept.totals), kept.rows, kept.codes) == (DEPTHS, 100_000, ())
    want = np.quantile(np.exp(logs.numpy()), [0.01, 0.5, 0.99])
    np.testing.assert_allclose(np.quantile(kept.totals, [0.01, 0.5, 0.99]), want, rtol=0.02)
    again = CountsCoding.restored(coding.document())
    assert torch.equal(again.contexts(9, 1), coding.contexts(9, 1))
    shuffled = coding.with_profiles(logs[torch.randperm(len(logs))])
    assert shuffled.profiles == coding.profiles


def test_models_without_totals_draw_as_before(vae):
    trained = vae.trained_
    documents = trained.documents()
    schema = documents["schema.json"]
    documents["schema.json"] = {key: schema[key] for key in ("coding", "names", "covariates")}
    weights = {name: t.numpy() for name, t in trained.model.state_dict().items()}
    old = restored(documents, weights)
    assert old.samples(5).table.column_names == [f"g{i}" for i in range(GENES)]
    for where in ({"site": "a"}, {"total": 100}):
        with pytest.raises(LowerboundError) as error:
            old.samples(5, where=where)
        assert error.value.code == "E243"


def former(coding):
    """Return the document that versions before 1.0 wrote of a coding with one batch."""
    (site,), profiles = coding.covariates.factors, coding.profiles
    depths = {level: list(p.totals) for level, p in zip(site.levels, profiles, strict=True)}
    return {
        "coding": "counts",
        "names": list(coding.names),
        "batch": site.name,
        "batches": dict(site.levels),
        "dtype": site.dtype,
        "depths": depths,
    }


def test_models_of_former_versions_load_and_keep_their_networks(vae):
    trained = vae.trained_
    with noise.isolated("former"):
        model = recipes.counts(GENES, latent=2, hidden=[8], batches=3)
    documents = trained.documents()
    documents["schema.json"] = former(trained.coding)
    documents["config.json"] = {
        "recipe": "counts",
        "arguments": {"features": GENES, "latent": 2, "hidden": [8], "batches": 3},
    }
    weights = {name: t.numpy() for name, t in model.state_dict().items()}
    old = restored(documents, weights)
    assert old.coding == replace(trained.coding, shares=())
    assert torch.equal(old.coding.contexts(50, 3), trained.coding.contexts(50, 3))
    x, context = torch.ones(4, GENES), torch.randn(4, 4, generator=torch.Generator())
    trace = Trace(posterior_mean, 4)
    with torch.no_grad():
        px = old.model(x, trace, context)
        net = dict(model.named_modules())["levels.0.advance.net"]
        h = net(torch.cat([context[:, 1:], trace.sites["z"].z], 1))
        shares = model.likelihood.net.net(h).softmax(1)
    torch.testing.assert_close(px.mean, shares * context[:, :1].exp())
    again = restored(old.documents(), weights)  # saved again, in the present format
    assert again.coding == old.coding
    assert "covariates" in again.documents()["schema.json"]


# --- covariates ----------------------------------------------------------------------------------

KINDS = {"site": "batch", "kit": "batch", "mito": "covariate"}


def with_covariates(n=CELLS, seed=0):
    table, rng = counts(seed, n), np.random.default_rng(seed + 100)
    table["kit"] = np.where(table["site"] == "a", rng.choice(["v2", "v3"], n), "v3")
    table["mito"] = rng.gamma(2.0, 2.0, n) + 5 * (table["kit"] == "v3")
    return table


@pytest.fixture(scope="module")
def several():
    return lowerbound.fit(
        with_covariates(),
        "counts",
        batch=["site", "kit"],
        covariates="mito",
        preset="fast",
        max_epochs=3,
        device="cpu",
    )


def test_any_number_of_covariates_is_the_context(several):
    coding = several.coding
    assert coding.covariates.names == ("site", "kit", "mito")
    assert coding.arguments() == {"features": GENES, "batches": 6}
    assert [column["name"] for column in several.columns][-3:] == ["site", "kit", "mito"]
    frame = with_covariates()
    context = coding.encode(read(frame)).rows.take(torch.arange(CELLS)).context
    site = torch.tensor(frame["site"].map({"a": 0, "b": 1, "rare": 2}).to_numpy())
    assert torch.equal(context[:, 1:4].argmax(1), site)
    np.testing.assert_allclose(
        context[:, 6].double(), stats.zscore(frame["mito"]), rtol=1e-4, atol=1e-6
    )


def test_each_covariate_is_seen_by_the_encoder_and_by_the_decoder(several):
    x, context = torch.ones(1, GENES).repeat(2, 1), torch.zeros(2, 7)
    for place in range(1, 7):
        other = context.clone()
        other[1, place] = 1.0
        trace = Trace(posterior_mean, 2)
        with torch.no_grad():
            several.model(x, trace, other)
            z = trace.sites["z"].z
            assert (z[0] != z[1]).any(), place
            px = several.model(None, Trace(replay({"z": z[:1].repeat(2, 1)}), 2), other)
            assert (px.mean[0] != px.mean[1]).any(), place


def test_unseen_levels_missing_numbers_and_far_ones_are_said(several):
    frame = with_covariates(20, 7)
    frame["mito"] = frame["mito"].clip(2.0, 8.0)  # the range of training is wider
    known = several.log_likelihood(frame)
    frame.loc[0, "site"], frame.loc[1, "kit"] = "new", None
    frame.loc[2, "mito"], frame.loc[3, "mito"] = np.nan, 1e6
    coded = several.coding.encode(read(frame))
    assert (coded.unseen, coded.missing, coded.clipped) == (
        {"site": 1, "kit": 1},
        {"mito": 1},
        {"mito": 1},
    )
    context = coded.rows.take(torch.arange(4)).context
    factor = several.coding.covariates.factors[0]
    assert torch.equal(context[0, 1:4], factor.usual)
    assert context[2, 6] == 0
    found = several.log_likelihood(frame)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[4:], known[4:])
    frame["mito"] = "much"
    with pytest.raises(LowerboundError, match="--batch mito") as error:
        several.log_likelihood(frame)
    assert error.value.code == "E032"


def test_drawn_rows_have_the_covariates_of_training_together(several):
    seen, drawn = with_covariates(), several.sample(3000)
    assert list(drawn.columns[:3]) == ["site", "kit", "mito"]
    pairs = set(zip(seen["site"], seen["kit"], strict=True))
    assert set(zip(drawn["site"], drawn["kit"], strict=True)) == pairs
    for kit in ("v2", "v3"):
        one, other = (t.loc[t["kit"] == kit, "mito"].mean() for t in (seen, drawn))
        assert other == pytest.approx(one, rel=0.1)
    asked = several.sample(50, where={"kit": "v2", "mito": 6.5, "total": 100})
    assert set(asked["kit"]) == {"v2"}
    assert set(asked["site"]) == {"a"}
    np.testing.assert_allclose(asked["mito"], 6.5, rtol=1e-6)
    assert set(totals(asked)) == {100}
    near = several.sample(2000, where={"mito": 15.0})
    assert (near["kit"] == "v3").mean() > (seen["kit"] == "v3").mean()


@pytest.mark.parametrize(
    ("where", "code"),
    [
        ({"site": "b", "kit": "v2"}, "E074"),
        ({"mito": 1e6}, "E074"),
        ({"mito": "much"}, "E032"),
        ({"mito": None}, "E245"),
        ({"site": "new"}, "E074"),
    ],
)
def test_covariates_that_no_row_has_are_refused(several, where, code):
    with pytest.raises(LowerboundError) as error:
        several.sample(5, where=where)
    assert error.value.code == code


def test_covariates_survive_saving(several, tmp_path):
    again = lowerbound.load(several.save(tmp_path / "m.vae"))
    assert again.coding == several.coding
    frame = with_covariates(30, 3)
    np.testing.assert_array_equal(again.anomaly_score(frame), several.anomaly_score(frame))
    pd.testing.assert_frame_equal(again.sample(9), several.sample(9))


def test_a_column_is_declared_once_and_flags_mean_what_types_mean(several):
    one = dict(batch=["site", "kit"], covariates="mito")
    assert Plan(types=KINDS).types == plan_of(VAE(**one).get_params(deep=False)).types
    with pytest.raises(UsageError, match="as batch and as covariate") as error:
        lowerbound.fit(counts(), "counts", batch="site", covariates=["site"])
    assert error.value.code == "E236"
    frame = with_covariates()
    frame["mito"] = np.nan
    with pytest.raises(LowerboundError, match="cannot be the covariate") as error:
        lowerbound.fit(frame, "counts", types=KINDS)
    assert error.value.code == "E033"


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["covariates"][0].update(kind="other"),
        lambda d: d["covariates"][0]["levels"].clear(),
        lambda d: d["covariates"][2].update(scale=0.0),
        lambda d: d["covariates"][2].update(low=1e9),
        lambda d: d["covariates"][1].update(name="site"),
        lambda d: d["profiles"][0].update(codes=[0]),
        lambda d: d["profiles"][0].update(codes=[0, 9]),
        lambda d: d["profiles"][0]["numbers"].pop(),
        lambda d: d["profiles"][0]["totals"].reverse(),
        lambda d: d.update(profiles=[]),
    ],
)
def test_covariates_that_no_fit_writes_are_refused(several, change):
    documents = json.loads(json.dumps(several.documents()))
    change(documents["schema.json"])
    weights = {name: t.numpy() for name, t in several.model.state_dict().items()}
    with pytest.raises(ModelFileError) as error:
        restored(documents, weights)
    assert error.value.code == "E116"


# --- counts of a given total ---------------------------------------------------------------------

SHARES = torch.tensor([0.5, 0.3, 0.15, 0.05, 1e-9])


@pytest.mark.parametrize("total", [0, 1, 7, 1000])
def test_poisson_counts_of_a_total_are_multinomial(total):
    d = PoissonLog((20 * SHARES).log().expand(4000, 5))
    made = sample_of_total(d, torch.full((4000,), float(total)), torch.Generator())
    assert (made.sum(1) == total).all()
    spread = (SHARES * (1 - SHARES) * total / 4000).sqrt()
    assert ((made.mean(0) - total * SHARES).abs() <= 4.5 * spread + 1e-3).all()


@pytest.mark.parametrize("zeros", [False, True])
def test_counts_of_a_total_are_distributed_as_those_that_happen_to_have_it(zeros):
    """Against rejection: all draws of the distribution, and those of them that have the total."""
    log_mean, log_theta = torch.tensor([1.0, 0.5, -0.5]), torch.tensor([0.5, 1.0, 0.0])

    def law(n):
        base = NegativeBinomial(log_mean.expand(n, 3), log_theta)
        return ZeroInflated(base, torch.tensor([0.0, -1.0, -3.0]).expand(n, 3)) if zeros else base

    source = torch.Generator()
    free = lowerbound.nn.distributions.base.sample(law(200_000), source)
    same = free[free.sum(1) == 6]
    made = sample_of_total(law(20_000), torch.full((20_000,), 6.0), source)
    assert (made.sum(1) == 6).all()
    torch.testing.assert_close(made.mean(0), same.mean(0), atol=0.08, rtol=0)
    torch.testing.assert_close(made.std(0), same.std(0), atol=0.08, rtol=0)


def test_known_counts_are_kept_and_the_others_share_the_rest():
    d = NegativeBinomial(torch.zeros(50, 3), torch.zeros(3))
    given = torch.tensor([torch.nan, 4.0, torch.nan])
    made = sample_of_total(d, torch.full((50,), 10.0), torch.Generator(), given)
    assert (made[:, 1] == 4).all()
    assert (made.sum(1) == 10).all()


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
@pytest.mark.parametrize("place", range(3))
def test_counts_of_a_rate_that_is_not_finite_are_not_numbers(place, bad):
    """And the draw ends: `torch.binomial` does not, for a number of trials that is NaN."""
    log_rates = torch.zeros(2, 3)
    log_rates[0, place] = bad
    made = sample_of_total(PoissonLog(log_rates), torch.full((2,), 10.0), torch.Generator())
    assert made[0].isnan().all()
    assert made[1].sum() == 10


def test_other_distributions_have_no_given_total():
    with pytest.raises(LowerboundError) as error:
        rates(torch.distributions.Normal(0.0, 1.0), torch.Generator())
    assert error.value.code == "E246"


def test_models_of_many_genes_have_few_latents_by_default():
    most = recipes.RECIPES["counts"].most_latents
    assert [default_latent({"features": n}, most) for n in (12, 100, 14_000)] == [6, 30, 30]
    assert default_latent({"features": 14_000}) == 128


def test_a_batch_whose_values_all_differ_is_refused():
    column = pa.chunked_array([[f"cell{i}" for i in range(200)]])
    with pytest.raises(DataError, match="200 different values") as error:
        Factor.of("barcode", [Factor.look(column, "barcode")])
    assert error.value.code == "E033"
    assert Factor.of("kit", [Factor.look(column.slice(0, 40), "kit")]).width == 40
