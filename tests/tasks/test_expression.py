"""Rates of cells: at their own context and at others, between groups, and against the counts."""

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
import torch
from scipy import stats

import lowerbound
import lowerbound.cells
import zoo
from lowerbound.cli.main import main
from lowerbound.coding.context import Context, Factor
from lowerbound.coding.rows import Dense
from lowerbound.errors import DataError, LowerboundError, ResourceError, UsageError
from lowerbound.files import genes as choosing
from lowerbound.files.read import read
from lowerbound.nn.distributions.base import Observed
from lowerbound.nn.distributions.counts import (
    NegativeBinomial,
    PoissonLog,
    ZeroInflated,
    log_rates,
)
from lowerbound.nn.trace import Trace, posterior_mean, replay
from lowerbound.tasks import differential
from lowerbound.tasks.differential import (
    Comparison,
    changes,
    expected_false_discoveries,
    shrunk,
)
from lowerbound.tasks.expression import At, expression
from lowerbound.tasks.labels import transferred
from lowerbound.training.adapt import adapted

GENES, CHANGED, CELLS = 60, 12, 600
FOLD = 4.0


def made(seed=0, cells=CELLS):
    """Cells of two types, in which the first genes differ, from two sites that shift others."""
    rng = np.random.default_rng(seed)
    base = np.random.default_rng(99).lognormal(0.5, 0.7, GENES)
    kind, site = rng.integers(0, 2, cells), rng.integers(0, 2, cells)
    up = np.where(np.arange(GENES) < CHANGED // 2, FOLD, 1.0)
    down = np.where((np.arange(GENES) >= CHANGED // 2) & (np.arange(GENES) < CHANGED), FOLD, 1.0)
    rates = np.where(kind[:, None] == 1, base * up, base * down)
    rates = rates * np.where(np.arange(GENES) >= GENES - 10, 3.0 ** site[:, None], 1.0)
    rates = rates / rates.sum(1, keepdims=True) * rng.lognormal(np.log(400), 0.2, (cells, 1))
    counts = rng.poisson(rates * rng.gamma(5.0, 0.2, rates.shape))
    return anndata.AnnData(
        sp.csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame(
            {
                "kind": np.array(["T", "B"])[kind],
                "site": np.array(["lima", "oslo"])[site],
                "twin": rng.choice(["x", "y"], cells),
            },
            index=[f"cell{i}" for i in range(cells)],
        ),
        var=pd.DataFrame(index=[f"gene{j}" for j in range(GENES)]),
    )


def fitted():
    return lowerbound.fit(
        made(), "counts", batch="site", latent=4, preset="fast", max_epochs=200, device="cpu"
    )


@pytest.fixture(scope="module")
def model():
    return zoo.trained(fitted)


@pytest.fixture
def here(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    made(1, 90).write_h5ad("cells.h5ad")
    model.save("m.vae")
    return tmp_path


# --- rates ---------------------------------------------------------------------------------------


def test_rates_are_the_means_without_extra_zeros():
    log_mean, gate = torch.randn(3, 4), torch.randn(3, 4)
    base = NegativeBinomial(log_mean, torch.zeros(4))
    for d in (PoissonLog(log_mean), base, ZeroInflated(base, gate), Observed(base)):
        torch.testing.assert_close(log_rates(d), log_mean)
    with pytest.raises(UsageError) as error:
        log_rates(torch.distributions.Normal(0.0, 1.0))
    assert error.value.code == "E246"


def test_expression_is_the_mean_and_the_spread_over_posterior_draws(model):
    """Against draws of the posterior of another generator."""
    rows = model.encode(made(1, 8))[1].rows
    coding = model.coding
    at = At(coding.covariates, {}, 1e4, (0, 7, 59))
    found = expression(model.model, rows, at, draws=4000, seed=0)
    batch = rows.take(torch.arange(8))
    with torch.no_grad():
        trace = Trace(posterior_mean, 8, decode=False)
        model.model(batch.x, trace, batch.context)
        q = trace.sites["z"].q.base_dist
        source = torch.Generator().manual_seed(0)
        noise = torch.randn(4000, *q.mean.shape, generator=source)
        z = (q.mean + q.stddev * noise).flatten(0, 1)
        context = batch.context.clone()
        context[:, 0] = np.log(1e4)
        px = model.model(None, Trace(replay({"z": z}), len(z)), context.repeat(4000, 1))
        rates = log_rates(px).exp()[:, [0, 7, 59]].view(4000, 8, 3)
    mean, sd = rates.mean(0), rates.std(0)
    error = sd / 4000**0.5
    assert ((found.mean - mean).abs() <= 6 * error * 2**0.5).all()
    torch.testing.assert_close(found.sd, sd, rtol=0.25, atol=1e-6)  # of heavy tails


def test_rates_add_up_to_the_library_and_depend_on_the_row_alone(model):
    cells = made(1, 40)
    frame = cells.to_df().astype(int).assign(site=cells.obs["site"])
    found = model.expression(frame, library=500.0, draws=3)
    genes = list(cells.var_names)
    assert isinstance(found.mean, pd.DataFrame)
    np.testing.assert_allclose(found.mean[genes].sum(1), 500.0, rtol=1e-4)
    some = model.expression(frame.iloc[[7, 3]], library=500.0, draws=3)
    np.testing.assert_allclose(some.mean[genes], found.mean[genes].iloc[[7, 3]], rtol=1e-4)
    other = model.expression(frame, library=500.0, draws=3, seed=1)
    assert (other.mean["gene0"] != found.mean["gene0"]).any()
    own = model.expression(frame, library=None, draws=2).mean[genes].sum(1)
    np.testing.assert_allclose(own, frame[genes].sum(1), rtol=1e-4)
    one = model.expression(frame, draws=1, genes=["gene3", "gene1"])
    assert list(one.mean.columns) == ["gene3", "gene1"]
    assert (one.sd == 0).all(axis=None)
    assert isinstance(model.expression(cells, draws=1).mean, pa.Table)


def test_cells_are_shown_at_another_batch(model):
    cells = made(2, 200)
    shifted = [f"gene{j}" for j in range(GENES - 10, GENES)]
    lima = model.expression(cells, batch="lima", genes=shifted, draws=5).mean
    oslo = model.expression(cells, batch={"site": "oslo"}, genes=shifted, draws=5).mean
    change = [
        np.log2(oslo[gene].to_numpy().mean() / lima[gene].to_numpy().mean()) for gene in shifted
    ]
    assert np.median(change) > 0.7  # log2 3 before the rates are scaled to one total
    own = model.expression(cells, genes=shifted, draws=5).mean
    from_lima = (cells.obs["site"] == "lima").to_numpy()
    for gene in shifted:
        np.testing.assert_allclose(
            own[gene].to_numpy()[from_lima], lima[gene].to_numpy()[from_lima], rtol=1e-4
        )


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ({"batch": "nairobi"}, "E074"),
        ({"batch": {"sight": "lima"}}, "E243"),
        ({"genes": ["gene1", "gen0"]}, "E243"),
        ({"library": 0.0}, "E240"),
        ({"draws": 0}, "E240"),
    ],
)
def test_what_has_no_rates_is_refused(model, how, code):
    with pytest.raises(LowerboundError) as error:
        model.expression(made(1, 5), **how)
    assert error.value.code == code


def test_a_batch_says_of_which_column_it_is():
    several = Context((Factor("a", {"x": 1}), Factor("b", {"x": 1})))
    assert several.named({"a": "x"}) == {"a": "x"}
    assert Context((Factor("a", {"x": 1}),)).named("x") == {"a": "x"}
    for context in (several, Context()):
        assert context.named(None) == {}
        with pytest.raises(UsageError) as error:
            context.named("x")
        assert error.value.code == "E279"
    table = lowerbound.fit(np.random.default_rng(0).normal(size=(60, 2)), max_epochs=1)
    for use in (table.expression, table.predictive_checks):
        with pytest.raises(UsageError) as error:
            use(np.zeros((2, 2)))
        assert error.value.code == "E246"


def test_layers_are_written_into_a_copy_of_the_file(here, model):
    words = ["reconstruct", "m.vae", "cells.h5ad", "--as", "expression", "-q"]
    assert main([*words, "--batch", "lima", "--draws", "3", "--out", "rates.h5ad"]) == 0
    before, after = anndata.read_h5ad("cells.h5ad"), anndata.read_h5ad("rates.h5ad")
    assert (after.X != before.X).nnz == 0
    pd.testing.assert_frame_equal(after.obs, before.obs)
    found = model.expression("cells.h5ad", batch="lima", draws=3)
    for layer, table in (("expression", found.mean), ("expression_sd", found.sd)):
        expected = np.stack([table[gene].to_numpy() for gene in after.var_names], 1)
        np.testing.assert_array_equal(after.layers[layer], expected)
    few = [*words, "--genes", "gene3,gene1", "--draws", "2"]
    assert main([*few, "--out", "few.h5ad"]) == 0
    layer = anndata.read_h5ad("few.h5ad").layers["expression"]
    assert np.isfinite(layer[:, [1, 3]]).all()
    assert np.isnan(np.delete(layer, [1, 3], 1)).all()
    assert main([*few, "--library", "own", "--out", "few.parquet"]) == 0
    names = pq.read_table("few.parquet").column_names
    assert names == ["row", "gene3", "gene1", "gene3_sd", "gene1_sd"]
    assert main([*words, "--out", "again.h5ad", "--seed", "3"]) == 0
    again = ["reconstruct", "m.vae", "again.h5ad", *words[3:], "--out", "twice.h5ad"]
    assert main(again) == 0  # earlier layers are replaced
    assert anndata.read_h5ad("twice.h5ad").layers["expression"].shape == (90, GENES)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--as", "rates"], "E241"),
        (["--draws", "3"], "E236"),
        (["--as", "expression", "--batch", "nairobi"], "E074"),
        (["--as", "expression", "--batch", "sight=lima"], "E074"),
        (["--as", "expression", "--genes", "gen0"], "E243"),
        (["--as", "expression", "--library", "much"], "E231"),
    ],
)
def test_flags_of_expression_that_mean_nothing_are_refused(here, capsys, more, told):
    assert main(["reconstruct", "m.vae", "cells.h5ad", *more, "--out", "x.parquet"]) != 0
    assert told in capsys.readouterr().err


# --- groups --------------------------------------------------------------------------------------


def test_the_expected_false_discovery_rate_is_the_mean_error_of_the_list():
    p = np.array([0.5, 0.99, 0.9, 0.9, 0.0])
    expected = [(0.01 + 0.1 + 0.1 + 0.5) / 4, 0.01, 0.07, 0.07, (0.01 + 0.2 + 0.5 + 1) / 5]
    np.testing.assert_allclose(expected_false_discoveries(p), expected)


def found_in(table, rate=0.05):
    return set(
        table.filter(pc.less_equal(table["false_discovery_rate"], rate))["gene"].to_pylist()
    )


def test_changed_genes_are_found_and_few_others(model):
    table = model.differential_expression(made(3), "kind", "B", "T")
    changed = {f"gene{j}" for j in range(CHANGED)}
    found = found_in(table)
    assert len(found & changed) >= CHANGED - 1
    assert len(found - changed) <= 1
    rows = {row["gene"]: row for row in table.to_pylist()}
    for j in range(CHANGED):
        row = rows[f"gene{j}"]
        assert np.sign(row["lfc"]) == (1 if j < CHANGED // 2 else -1)
        assert row["lfc_low"] <= row["lfc"] <= row["lfc_high"]
        assert row["rate1"] == pytest.approx(row["mean1"], rel=0.3)
    assert table["probability"].to_pylist() == sorted(table["probability"].to_pylist())[::-1]
    swapped = model.differential_expression(made(3), "kind", "T", "B")
    other = {row["gene"]: row["lfc"] for row in swapped.to_pylist()}
    assert other["gene0"] == pytest.approx(-rows["gene0"]["lfc"], abs=0.2)
    all_others = model.differential_expression(made(3), "kind", "B", seed=1)
    assert len(found_in(all_others) & changed) >= CHANGED - 1


def test_shrunk_changes_have_the_false_discovery_rate_that_they_expect():
    rng = np.random.default_rng(0)
    true = np.where(rng.random(20_000) < 0.2, rng.normal(0, 1.5, 20_000), 0.0)
    errors = rng.uniform(0.1, 0.8, 20_000)
    posterior = shrunk(true + errors * rng.normal(size=20_000), errors)
    probability = np.maximum(1 - posterior.below(0.25), posterior.below(-0.25))
    listed = expected_false_discoveries(probability) <= 0.05
    assert 0.03 < (np.abs(true[listed]) <= 0.25).mean() < 0.07
    assert listed[np.abs(true) > 2].mean() > 0.9
    low, high = posterior.quantile(0.025), posterior.quantile(0.975)
    np.testing.assert_allclose(posterior.below(low), 0.025, atol=1e-6)
    assert ((low <= true + 0.01) & (true - 0.01 <= high)).mean() == pytest.approx(0.96, abs=0.02)


def test_errors_of_the_model_are_those_that_counts_tell():
    """The error of a gene of many counts is known, that of one without is not."""
    source = torch.Generator().manual_seed(0)
    expected = torch.tensor([10.0, 0.01, 2.0]).expand(500, 3)
    x = torch.poisson(expected * torch.tensor([1.5, 1.0, 1.0]), generator=source)
    x[:, 2] = torch.nan
    seen = differential._Seen().with_cells(x, expected)
    drawn = seen.errors(4000, source)
    assert drawn.mean(0)[0] == pytest.approx(1.5, rel=0.02)
    assert drawn.std(0)[0] < 0.05
    assert drawn.std(0)[1] > 0.2
    assert drawn.mean(0)[2] == pytest.approx(1.0, abs=0.05)  # nothing is known
    assert drawn.std(0)[2] > 0.5


def test_groups_of_the_same_cells_give_nothing(model):
    table = model.differential_expression(made(3), "twin", "x", "y")
    assert found_in(table) == set()
    assert np.abs(table["lfc"].to_numpy()).max() < 0.3
    rows = model.encode(made(3, 50))[1].rows
    at = model.decoded_at(None, 1e4)
    same = changes(model.model, rows, rows, at, Comparison(draws=500))
    assert same.false_discovery_rate.min() > 0.05


def test_the_same_batch_takes_away_what_batches_change(model):
    cells = made(3)
    shifted = {f"gene{j}" for j in range(GENES - 10, GENES)}
    own = found_in(model.differential_expression(cells, "site", "oslo", "lima"))
    assert len(own & shifted) >= 8
    at_one = model.differential_expression(cells, "site", "oslo", "lima", batch="lima")
    assert found_in(at_one) == set()


def test_power_and_false_discoveries_beside_tests_of_means(model):
    """A list is not worse than those of t-tests and rank tests on the same cells."""
    cells = made(3)
    table = model.differential_expression(cells, "kind", "B", "T")
    counts = cells.X.toarray()
    scaled = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    first = (cells.obs["kind"] == "B").to_numpy()
    changed = np.arange(GENES) < CHANGED
    p = {row["gene"]: row["probability"] for row in table.to_pylist()}
    ours = np.array([p[gene] for gene in cells.var_names])
    for test in (stats.ttest_ind, stats.mannwhitneyu):
        other = test(scaled[first], scaled[~first]).pvalue
        auc = [
            stats.mannwhitneyu(values[changed], values[~changed]).statistic
            / (CHANGED * (GENES - CHANGED))
            for values in (ours, -other)
        ]
        assert auc[0] >= auc[1] - 0.02


def test_of_large_groups_random_cells_are_compared(model, monkeypatch):
    monkeypatch.setattr(differential, "MOST", 40)
    given = read(made(3))
    groups = differential.grouped(given, "kind", "B", None)
    assert groups.first.rows == groups.second.rows == 40
    assert sum(groups.sizes) == CELLS
    again = differential.grouped(given, "kind", "B", None)
    assert (groups.first.matrix != again.first.matrix).nnz == 0
    other = differential.grouped(given, "kind", "B", None, seed=1)
    assert (groups.first.matrix != other.first.matrix).nnz > 0


@pytest.mark.parametrize(
    ("groups", "code"),
    [
        (("kind", "C"), "E280"),
        (("kind", "B", "B"), "E280"),
        (("kind", "B", "C"), "E280"),
        (("sort", "B"), "E031"),
    ],
)
def test_groups_without_cells_are_refused(model, groups, code):
    with pytest.raises(LowerboundError) as error:
        model.differential_expression(made(1, 20), *groups)
    assert error.value.code == code
    one = made(1, 20)
    one.obs["kind"] = "B"
    with pytest.raises(UsageError, match="no others") as error:
        model.differential_expression(one, "kind", "B")
    assert error.value.code == "E280"
    for wrong in ({"delta": -1.0}, {"draws": 1}):
        with pytest.raises(UsageError) as error:
            model.differential_expression(made(1, 20), "kind", "B", **wrong)
        assert error.value.code == "E240"


def test_the_command_writes_a_line_for_each_gene(here, capsys):
    words = ["differential", "m.vae", "cells.h5ad", "--groupby", "kind", "--group", "B"]
    assert main([*words, "--draws", "200", "--out", "genes.csv"]) == 0
    told = capsys.readouterr().out
    assert "genes differ between kind = B and all others" in told
    assert "log2 change" in told
    table = pd.read_csv("genes.csv")
    assert len(table) == GENES
    assert main([*words[:5], "--out", "x.csv"]) == 2
    assert "E232" in capsys.readouterr().err
    assert main([*words, "--against", "C", "--out", "x.csv"]) == 2
    assert "E280" in capsys.readouterr().err


# --- replicates ----------------------------------------------------------------------------------


def test_replicates_have_the_statistics_of_cells_of_the_model(model):
    drawn = model.samples(400, seed=5).table
    table = model.predictive_checks(drawn.to_pandas(), draws=6)
    assert table["gene"].to_pylist() == [f"gene{j}" for j in range(GENES)]
    seen = drawn.to_pandas()[[f"gene{j}" for j in range(GENES)]].to_numpy()
    np.testing.assert_allclose(table["zeros"], (seen == 0).mean(0))
    np.testing.assert_allclose(table["mean"], seen.mean(0), rtol=1e-9)
    np.testing.assert_allclose(table["variance"], seen.var(0, ddof=1), rtol=1e-9)
    for name in ("zeros", "mean"):
        far = table[f"{name}_replicated"].to_numpy() - table[name].to_numpy()
        noise = np.sqrt(seen.var(0) / 400) if name == "mean" else np.sqrt(0.25 / 400)
        assert (np.abs(far) < 6 * noise).mean() > 0.9


def test_replicates_show_zeros_that_the_likelihood_does_not_have(model):
    cells = made(3)
    wrong = cells.X.toarray()
    wrong[np.random.default_rng(0).random(CELLS) < 0.5, 30] = 0
    cells.X = sp.csr_matrix(wrong)
    rows = model.predictive_checks(cells, draws=5).to_pylist()
    off = {r["gene"]: (r["zeros"] - r["zeros_replicated"]) / (r["zeros_sd"] + 1e-3) for r in rows}
    assert max(off, key=off.get) == "gene30"
    with pytest.raises(UsageError) as error:
        model.predictive_checks(cells, draws=1)
    assert error.value.code == "E240"


# --- in Python -----------------------------------------------------------------------------------

FAST = {"preset": "fast", "max_epochs": 2, "device": "cpu"}


def test_results_are_written_into_the_anndata_or_into_a_copy():
    cells = made(1, 80)
    cells.layers["raw"] = cells.X.copy()
    cells.X = cells.X.log1p()
    model, copy = lowerbound.cells.fit(
        cells, layer="raw", batch=["site", "kind"], copy=True, **FAST
    )
    assert list(cells.obsm) == []
    assert list(cells.obs) == ["kind", "site", "twin"]
    np.testing.assert_array_equal(copy.obsm["X_lowerbound"], model.embed(cells))
    np.testing.assert_array_equal(copy.obs["lowerbound_score"], model.anomaly_score(cells))
    assert model.coding.covariates.names == ("site", "kind")
    assert model.coding.wanted().layer == "raw"  # remembered: X holds logarithms
    again = lowerbound.cells.annotate(model, cells)
    assert again is None
    np.testing.assert_array_equal(cells.obsm["X_lowerbound"], copy.obsm["X_lowerbound"])
    lowerbound.cells.expression(model, cells, batch={"site": "lima"}, draws=2, genes=["gene2"])
    assert np.isnan(cells.layers["expression"][:, 0]).all()
    assert (cells.layers["expression_sd"][:, 2] > 0).all()
    genes = lowerbound.cells.differential_expression(model, cells, "kind", "B", draws=50)
    assert isinstance(genes, pd.DataFrame)
    assert set(genes.index) == set(cells.var_names)
    del cells.layers["raw"]
    with pytest.raises(DataError, match="no layer 'raw'") as error:
        model.embed(cells)
    assert error.value.code == "E045"


class Modalities:
    """What a MuData offers that is used here."""

    __module__ = "mudata._core"

    def __init__(self, mod):
        self.mod = mod


def test_the_rna_of_a_mudata_is_taken():
    cells = made(1, 80)
    given = Modalities({"atac": None, "rna": cells})
    model = lowerbound.cells.fit(given, **FAST)
    assert cells.obsm["X_lowerbound"].shape == (80, model.latent)
    np.testing.assert_array_equal(model.embed(given), cells.obsm["X_lowerbound"])
    with pytest.raises(UsageError) as error:
        lowerbound.cells.fit([1, 2])
    assert error.value.code == "E201"
    with pytest.raises(DataError) as several:  # either could be meant
        lowerbound.cells.fit(Modalities({"atac": cells, "adt": cells}))
    assert several.value.code == "E045"


def test_genes_are_chosen_and_remembered(here):
    cells = made(1, 80)
    cells.var["highly_variable"] = np.arange(GENES) % 2 == 0
    chosen = list(cells.var_names[::2])
    model = lowerbound.cells.fit(cells, genes="highly_variable", **FAST)
    assert list(model.coding.names) == chosen
    few = cells[:, chosen].copy()
    np.testing.assert_array_equal(model.embed(cells), model.embed(few))
    cells.write_h5ad("marked.h5ad")
    (here / "names.txt").write_text("gene4\n\ngene2\n")
    words = ["--batch", "site", "--preset", "fast", "--max-epochs", "1", "-q"]
    for number, (genes, names) in enumerate(
        [("highly_variable", chosen), ("names.txt", ["gene2", "gene4"]), ("gene5", ["gene5"])]
    ):
        fit = ["fit", "marked.h5ad", "--genes", genes, *words, "--out", f"{number}.vae"]
        assert main(fit) == 0, genes
        made_by = lowerbound.load(f"{number}.vae")
        assert list(made_by.coding.names) == names
        assert made_by.embed("marked.h5ad").shape[0] == 80
    table = cells.to_df().astype(int).assign(site=cells.obs["site"].to_numpy())
    table.to_parquet("table.parquet")
    more = ["--recipe", "counts", "--genes", "gene5", "--genes", "gene6", "--out", "t.vae"]
    assert main(["fit", "table.parquet", *words, *more]) == 0
    assert lowerbound.load("t.vae").coding.names == ("gene5", "gene6")


@pytest.mark.parametrize(
    ("genes", "code"),
    [
        ("dispersed", "E045"),
        ("gen0,gene1", "E045"),
        (["gene0", "gen1"], "E045"),
        ("hvg:0", "E240"),
        ("hvg:many", "E240"),
    ],
)
def test_genes_that_are_not_there_are_refused(genes, code):
    with pytest.raises(LowerboundError) as error:
        lowerbound.cells.fit(made(1, 20), genes=genes, **FAST)
    assert error.value.code == code


def test_variable_genes_are_those_of_scanpy(monkeypatch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "scanpy", None)
        with pytest.raises(ResourceError, match="scanpy") as error:
            lowerbound.cells.fit(made(1, 20), genes="hvg:5", **FAST)
        assert error.value.code == "E310"

    class Scanpy:
        AnnData = anndata.AnnData

        class pp:
            normalize_total = staticmethod(lambda cells, target_sum: None)
            log1p = staticmethod(lambda cells: None)

            @staticmethod
            def highly_variable_genes(cells, n_top_genes):
                order = np.argsort(-cells.X.toarray().var(0))[:n_top_genes]
                cells.var["highly_variable"] = np.isin(np.arange(cells.n_vars), order)

    monkeypatch.setattr(choosing, "_scanpy", lambda: Scanpy)
    cells = made(1, 50)
    model = lowerbound.cells.fit(cells, genes="hvg:7", **FAST)
    order = np.sort(np.argsort(-cells.X.toarray().var(0))[:7])
    assert list(model.coding.names) == list(cells.var_names[order])


def test_rates_of_dense_rows_are_those_of_sparse_ones(model):
    rows = model.encode(made(1, 10))[1].rows
    dense = Dense(*rows.take(torch.arange(10)))
    at = model.decoded_at("oslo", None)
    one, other = (expression(model.model, each, at, draws=2) for each in (rows, dense))
    assert torch.equal(one.mean, other.mean)


# --- new cells -----------------------------------------------------------------------------------


def test_missing_genes_are_left_out_and_the_total_is_completed(model):
    cells = made(4, 60)
    few = cells[:, [j for j in range(GENES) if j not in (20, 21, 22)]].copy()
    whole, coded = model.encode(cells)[1], model.encode(few)[1]
    x, context = coded.rows.take(torch.arange(60))
    assert x.isnan().sum(1).tolist() == [3] * 60
    kept = 1 - sum(model.coding.shares[20:23])
    expected = np.log(few.X.sum(1).A1 if hasattr(few.X.sum(1), "A1") else few.X.sum(1))
    np.testing.assert_allclose(
        context[:, 0], np.asarray(expected).ravel() - np.log(kept), rtol=1e-5
    )
    full = whole.rows.take(torch.arange(60)).context
    assert (context[:, 0] - full[:, 0]).abs().mean() < 0.02
    # The density of the others: the sum of log p over the genes that are there.
    z = torch.zeros(60, model.latent)
    with torch.no_grad():
        px = model.model(None, Trace(replay({"z": z}), 60), context)
        cell = px.log_prob_cells(x)
        assert (cell[:, 20:23] == 0).all()
        torch.testing.assert_close(px.log_prob(x), cell.sum(1))
    assert np.isfinite(model.anomaly_score(few)).all()
    scores = model.anomaly_score(cells)
    assert np.corrcoef(scores, model.anomaly_score(few))[0, 1] > 0.9
    assert np.isfinite(model.differential_expression(few, "kind", "B")["mean1"].to_numpy()).all()


def far_away(seed, cells=200):
    """Cells from a third site, where other genes are shifted."""
    new = made(seed, cells)
    shifted = new.X.toarray()
    shifted[:, 20:30] = np.random.default_rng(seed).poisson(3.0 * shifted[:, 20:30] + 1)
    new.X = sp.csr_matrix(shifted.astype(np.float32))
    new.obs["site"] = "nairobi"
    return new


def test_a_new_batch_is_learned_and_nothing_else_moves(model, tmp_path):
    old, new = made(5, 100), far_away(6)
    said = []
    other = adapted(model, new, say=said.append)
    assert "site = nairobi" in said[0]
    assert list(other.coding.covariates.factors[0].levels) == ["lima", "oslo", "nairobi"]
    np.testing.assert_array_equal(other.embed(old), model.embed(old))
    np.testing.assert_allclose(other.anomaly_score(old), model.anomaly_score(old), rtol=0.02)
    changed = [
        (name, value)
        for name, value in other.model.state_dict().items()
        if not torch.equal(value, model.model.state_dict()[name])
        if value.shape == model.model.state_dict()[name].shape
    ]
    assert changed == []
    test = far_away(7)
    assert other.anomaly_score(test).mean() < model.anomaly_score(test).mean() - 1
    again = adapted(model, new)
    np.testing.assert_array_equal(again.embed(test), other.embed(test))
    kept = lowerbound.load(other.save(tmp_path / "adapted.vae"))
    np.testing.assert_array_equal(kept.embed(test), other.embed(test))
    assert set(kept.sample(30, where={"site": "nairobi"})["site"].to_pylist()) == {"nairobi"}
    assert adapted(model, old) is model
    few = far_away(8, 5)
    with pytest.raises(DataError) as error:
        lowerbound.cells.adapt(model, few)
    assert error.value.code == "E046"


def test_a_batch_whose_library_is_learned_is_adapted_to():
    how = {"preset": "fast", "max_epochs": 2, "latent": 2, "device": "cpu"}
    learned = {"settings": {"library": "learned"}}
    model = lowerbound.fit(made(0, 200), "counts", batch="site", **learned, **how)
    other = adapted(model, far_away(6, 60), steps=20)
    assert other.model.likelihood.family.weight.shape == (2, 3)
    np.testing.assert_array_equal(other.embed(made(5, 20)), model.embed(made(5, 20)))


def test_embed_adapts_to_new_batches(here, capsys):
    far_away(6, 60).write_h5ad("new.h5ad")
    words = ["embed", "m.vae", "new.h5ad", "--out"]
    assert main([*words, "plain.npy"]) == 0
    assert "with --adapt the model learns" in capsys.readouterr().out
    assert main([*words, "mapped.npy", "--adapt"]) == 0
    told = capsys.readouterr()
    assert "nairobi" in told.err
    assert "--adapt" not in told.out
    assert (np.load("plain.npy") != np.load("mapped.npy")).any()


def test_labels_are_those_of_neighbours_or_none():
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [6.0, 0.0]])
    kind = rng.integers(0, 2, 400)
    cells, labels = centres[kind] + rng.normal(size=(400, 2)), np.array(["B", "T"], object)[kind]
    labels[:20] = None
    other = rng.integers(0, 2, 1000)
    query = np.concatenate([centres[other] + rng.normal(size=(1000, 2)), [[3.0, 30.0]] * 5])
    found = transferred(cells, labels, query)
    assert (found.label[-5:] == None).all()  # noqa: E711
    named = found.label[:1000] != None  # noqa: E711
    assert (named.mean() - 0.95) < 0.03
    assert named.mean() > 0.9
    right = found.label[:1000][named] == np.array(["B", "T"], object)[other][named]
    assert right.mean() > 0.98
    sure = found.probability[:1000][named]
    assert right.mean() == pytest.approx(sure.mean(), abs=0.03)


def test_labels_are_written_beside_new_cells(model):
    reference, query = made(0), made(9, 80)
    truth = query.obs["kind"].to_numpy().copy()
    strange = query.X.toarray()
    strange[:10] = strange[:10, ::-1]
    query.X = sp.csr_matrix(strange)
    lowerbound.cells.transfer_labels(model, reference, query, "kind")
    found = query.obs["kind"].to_numpy()
    known = np.array([label is not None for label in found[10:]])
    assert (found[10:][known] == truth[10:][known]).mean() > 0.95
    assert query.obs["kind_p_value"].iloc[:10].mean() < query.obs["kind_p_value"].iloc[10:].mean()
