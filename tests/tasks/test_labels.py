"""Labels that some cells have: learned with the counts, and given to others."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import lowerbound
import lowerbound.cells
import zoo
from lowerbound.cli.main import main
from lowerbound.errors import LowerboundError, ModelFileError, UsageError
from lowerbound.nn.distributions.base import Observed, log_prob_cells, sample
from lowerbound.nn.distributions.counts import PoissonLog, log_rates
from lowerbound.nn.distributions.labelled import Labelled
from lowerbound.nn.trace import Trace, posterior_mean, replay
from lowerbound.tasks.labels import NONE, calibration_error, probabilities, tempered
from lowerbound.tasks.measures import Unlabelled
from lowerbound.tasks.trained import restored

GENES, KINDS = 20, ("B", "NK", "T")


def cells(seed=0, rows=600, known=0.3):
    """Cells of three types, of which some are named; two types overlap."""
    rng = np.random.default_rng(seed)
    base = np.random.default_rng(99).lognormal(1.0, 0.5, (3, GENES))
    base[1] = 0.75 * base[1] + 0.25 * base[2]
    kind = rng.integers(0, 3, rows)
    counts = rng.poisson(base[kind] * rng.lognormal(0, 0.3, (rows, 1)))
    frame = pd.DataFrame(counts, columns=[f"g{j}" for j in range(GENES)])
    names = np.array(KINDS, dtype=object)[kind]
    frame["kind"] = np.where(rng.random(rows) < known, names, None)
    return frame, names


def fitted():
    how = {"preset": "fast", "max_epochs": 150, "latent": 4, "device": "cpu"}
    return lowerbound.fit(cells()[0], "counts", labels="kind", **how)


@pytest.fixture(scope="module")
def model():
    return zoo.trained(fitted)


def test_the_joint_of_counts_and_labels_sums_to_the_counts():
    rows = Observed(PoissonLog(torch.randn(5, 3)))
    logits, x = torch.randn(5, 4), torch.ones(5, 3)
    joint = torch.stack(
        [Labelled(rows, logits, torch.eye(4)[i].expand(5, -1)).log_prob(x) for i in range(4)]
    )
    without = Labelled(rows, logits, torch.zeros(5, 4))
    torch.testing.assert_close(joint.logsumexp(0), rows.log_prob(x))
    torch.testing.assert_close(without.log_prob(x), rows.log_prob(x))
    torch.testing.assert_close(without.mean, rows.mean)
    torch.testing.assert_close(without.mode, rows.mode)
    torch.testing.assert_close(log_rates(without), log_rates(rows))
    torch.testing.assert_close(log_prob_cells(without, x), log_prob_cells(rows, x))
    assert sample(without, torch.Generator()).shape == (5, 3)


def test_all_cells_get_calibrated_labels(model):
    new, truth = cells(1, 1500, known=0.0)
    table = model.label_probabilities(new)
    assert table.column_names == ["label", "probability", "p_value", *KINDS]
    p = np.stack([table[kind].to_numpy() for kind in KINDS], 1)
    np.testing.assert_allclose(p.sum(1), 1.0, rtol=1e-6)
    right = np.array(table["label"].to_pylist()) == truth
    assert right.mean() > 0.75
    codes = np.array([KINDS.index(name) for name in truth])
    assert calibration_error(p, codes) < 0.05
    facts = model.facts["labels"]
    assert facts["rows"] > 10
    assert 0.05 < facts["temperature"] < 1
    np.testing.assert_array_equal(
        model.label_probabilities(new)["probability"], table["probability"]
    )


def strange(rows, seed=7):
    """Cells whose counts are of a few genes, as those of no type are."""
    rate = np.where(np.arange(GENES) < 3, 20.0, 0.5)
    counts = np.random.default_rng(seed).poisson(rate, (rows, GENES))
    return pd.DataFrame(counts, columns=[f"g{j}" for j in range(GENES)])


def test_cells_unlike_those_of_the_training_have_none_of_the_labels(model):
    new, truth = cells(1, 1500, known=0.0)
    few = 1 / (1 + len(model.calibration.scores))  # the smallest p-value
    alpha = 0.05
    table = model.label_probabilities(new, alpha=alpha)
    none = np.array(table["label"].to_pylist()) == NONE
    assert none.mean() < 2.5 * alpha
    np.testing.assert_array_equal(none, table["p_value"].to_numpy() <= alpha)
    assert table["p_value"].to_numpy().min() >= few
    odd = model.label_probabilities(strange(200), alpha=alpha)
    assert np.mean(np.array(odd["label"].to_pylist()) == NONE) > 0.5
    p = np.stack([odd[kind].to_numpy() for kind in KINDS], 1)
    np.testing.assert_array_equal(odd["probability"], p.max(1))  # these stay
    every = model.label_probabilities(strange(200), alpha=0)
    assert NONE not in every["label"].to_pylist()
    np.testing.assert_array_equal(every["p_value"], odd["p_value"])
    usual = model.label_probabilities(strange(200))  # the alarm rate of the fit
    asked = model.label_probabilities(strange(200), alpha=0.01)
    assert usual.equals(asked)


def test_p_values_are_of_the_counts_alone(model):
    new, truth = cells(2, 300)
    without = model.label_probabilities(new.drop(columns="kind"))
    for labels in (truth, np.roll(truth, 1)):
        assert model.label_probabilities(new.assign(kind=labels)).equals(without)
    # Genes that are missing count as much as they do on average.
    fewer = model.label_probabilities(new.drop(columns=["kind", "g3", "g11"]))
    far = np.abs(fewer["p_value"].to_numpy().mean() - without["p_value"].to_numpy().mean())
    assert far < 0.08
    usual = model.further["unlabelled"].measure.usual
    assert len(usual) == GENES
    assert min(usual) > 0.1


def test_a_model_without_scores_of_counts_alone_labels_all(model):
    older = replace(model, further={})
    new = strange(20)
    table = older.label_probabilities(new)
    assert table.column_names == ["label", "probability", *KINDS]
    assert NONE not in table["label"].to_pylist()
    for alpha, code in ((0.05, "E246"), (1.0, "E240"), (-0.1, "E240")):
        with pytest.raises(UsageError) as error:
            older.label_probabilities(new, alpha=alpha)
        assert error.value.code == code
    measure = Unlabelled((1.0,) * 3, samples=10)
    way = replace(model.further["unlabelled"], measure=measure)
    with pytest.raises(ModelFileError) as broken:
        replace(model, further={"unlabelled": way}).label_probabilities(new)
    assert broken.value.code == "E116"


def test_labels_need_not_be_there_and_are_not_seen_by_the_encoder(model):
    new, truth = cells(2, 40)
    named = new.assign(kind=truth)
    without = new.drop(columns="kind")
    np.testing.assert_array_equal(model.embed(named), model.embed(without))
    scores = model.anomaly_score(named) - model.anomaly_score(without)
    assert (scores > -0.1).all()  # a label is one more thing to expect; draws differ a little
    assert scores.mean() > 0.1
    wrong = new.assign(kind=np.roll(truth, 1))
    assert model.anomaly_score(wrong).mean() > model.anomaly_score(named).mean()
    strange = new.assign(kind="monocyte")
    assert dict(model.encode(strange)[1].unseen) == {}
    np.testing.assert_array_equal(model.anomaly_score(strange), model.anomaly_score(without))
    drawn = model.sample(50)
    assert "kind" not in drawn.columns


def test_labels_inform_the_embedding():
    """With labels, the two types that overlap are further apart than without."""
    frame, truth = cells(0, 600, known=1.0)
    how = {"preset": "fast", "max_epochs": 100, "latent": 4, "device": "cpu"}
    test, kinds = cells(3, 400, known=0.0)

    def apart(model):
        z = model.embed(test)
        ours, theirs = (z[kinds == name] for name in ("NK", "T"))
        axis = ours.mean(0) - theirs.mean(0)
        return abs(stats.ttest_ind(ours @ axis, theirs @ axis).statistic)

    plain = lowerbound.fit(frame.drop(columns="kind"), "counts", **how)
    labelled = lowerbound.fit(frame, "counts", labels="kind", **how)
    assert apart(labelled) > 0.8 * apart(plain)


def test_gradients_of_labels_reach_the_encoder(model):
    x = torch.ones(2, GENES)
    context = torch.cat([torch.full((2, 1), 3.0), torch.eye(3)[:2]], 1)
    network = model.model
    trace = Trace(posterior_mean, 2)
    px = network(x, trace, context)
    with torch.no_grad():
        again = network(None, Trace(replay({"z": trace.sites["z"].z}), 2), context)
        torch.testing.assert_close(again.logits, px.logits)
    (px.labels * px.logits.log_softmax(1)).sum().backward()
    first = next(network.encoder.parameters())
    assert first.grad.abs().sum() > 0
    network.zero_grad()


def test_the_temperature_is_that_of_the_largest_likelihood():
    source = torch.Generator().manual_seed(0)
    true = torch.randn(4000, 1, 3, generator=source).double()
    codes = torch.distributions.Categorical(logits=true[:, 0]).sample().numpy()
    assert tempered(3.0 * true, codes) == pytest.approx(3.0, rel=0.1)
    p = probabilities(3.0 * true, 3.0)
    assert calibration_error(p, codes) < 0.03
    assert calibration_error(probabilities(3.0 * true), codes) > 0.1


def test_labels_survive_saving_and_the_commands_write_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    frame, _ = cells()
    frame.to_parquet("cells.parquet")
    few = ["--recipe", "counts", "--labels", "kind", "--preset", "fast", "--max-epochs", "3"]
    assert main(["fit", "cells.parquet", *few, "--out", "m.vae", "-q"]) == 0
    assert main(["label", "m.vae", "cells.parquet", "--out", "labels.csv"]) == 0
    assert "expected calibration error" in " ".join(capsys.readouterr().out.split())
    table = pd.read_csv("labels.csv")
    assert list(table.columns) == ["row", "label", "probability", "p_value", *KINDS]
    assert NONE in table["label"].to_list() or (table["p_value"] > 0.01).all()
    strange(30).to_parquet("strange.parquet")
    few = ["label", "m.vae", "strange.parquet", "--overwrite", "--out", "none.csv"]
    assert main([*few, "--alpha", "20%"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    none = pd.read_csv("none.csv")
    count = (none["label"] == NONE).sum()
    assert f"! {count} of 30 cells are none of these" in told
    assert "--alpha 0.2; --alpha 0 labels all" in told
    assert main([*few, "--alpha", "0"]) == 0
    assert "none of these" not in capsys.readouterr().out
    pd.testing.assert_frame_equal(
        pd.read_csv("none.csv").drop(columns="label"), none.drop(columns="label")
    )
    assert main([*few, "--alpha", "7"]) == 2
    assert "E231" in capsys.readouterr().err
    model = lowerbound.load("m.vae")
    assert model.coding.labels.levels.keys() == set(KINDS)
    again = lowerbound.load(model.save("copy.vae"))
    new = strange(10)
    assert again.label_probabilities(new).equals(model.label_probabilities(new))
    saved = model.further["unlabelled"]
    assert (
        saved.document()
        == lowerbound.load(model.save("again.vae")).further["unlabelled"].document()
    )
    np.testing.assert_allclose(
        model.label_probabilities(frame)["probability"], table["probability"], rtol=1e-6
    )
    documents = json.loads(json.dumps(model.documents()))
    documents["schema.json"]["labels"]["levels"].pop("B")
    weights = {name: t.numpy() for name, t in model.model.state_dict().items()}
    with pytest.raises(ModelFileError) as error:
        restored(documents, weights)
    assert error.value.code == "E116"


def test_labels_of_an_anndata():
    anndata = pytest.importorskip("anndata")
    frame, _ = cells(4, 120)
    obs = frame[["kind"]].set_index(frame.index.astype(str))
    counts = frame.drop(columns="kind").to_numpy().astype(np.float32)
    adata = anndata.AnnData(counts, obs=obs)
    how = {"preset": "fast", "max_epochs": 2, "device": "cpu"}
    model = lowerbound.cells.fit(adata, labels="kind", **how)
    lowerbound.cells.label(model, adata, alpha=0)
    assert set(adata.obs["lowerbound_label"]) <= set(KINDS)
    lowerbound.cells.label(model, adata, alpha=0.5)
    none = adata.obs["lowerbound_label"] == NONE
    assert none.any()
    assert (none == (adata.obs["lowerbound_label_p_value"] <= 0.5)).all()
    copy = lowerbound.cells.label(model, adata, copy=True, draws=3)
    assert copy.obs["lowerbound_label_probability"].between(0, 1).all()


def test_what_has_no_labels_is_refused():
    frame, _ = cells(5, 60)
    how = {"preset": "fast", "max_epochs": 1, "device": "cpu"}
    plain = lowerbound.fit(frame.drop(columns="kind"), "counts", **how)
    with pytest.raises(UsageError) as error:
        plain.label_probabilities(frame)
    assert error.value.code == "E246"
    with pytest.raises(LowerboundError) as error:
        lowerbound.fit(frame.assign(kind=None), "counts", labels="kind", **how)
    assert error.value.code == "E033"
    with pytest.raises(UsageError) as error:
        lowerbound.fit(frame, "counts", types={"kind": "label", "g1": "label"}, **how)
    assert error.value.code == "E249"


def fruit(rows, seed, labelled=1.0):
    """A table whose kind follows from a number and a colour; some rows have no kind."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(["apple", "lime", "plum"], rows, p=[0.5, 0.3, 0.2])
    weight = np.array([150.0, 60.0, 40.0])[np.unique(kind, return_inverse=True)[1]]
    colour = np.where(rng.random(rows) < 0.8, np.where(kind == "lime", "green", "red"), "green")
    frame = pd.DataFrame(
        {"weight": weight * np.exp(rng.normal(0, 0.15, rows)), "colour": colour, "kind": kind}
    )
    frame["kind"] = frame["kind"].where(rng.random(rows) < labelled, None)
    return frame


def test_levels_of_a_column_of_a_table():
    how = {"preset": "fast", "max_epochs": 30, "device": "cpu"}
    model = lowerbound.fit(fruit(1500, 0, labelled=0.3), "table", **how)
    new = fruit(300, 1)
    table = model.label_probabilities(new, column="kind")
    assert table.column_names == ["label", "probability", "apple", "lime", "plum"]
    levels = table.column_names[2:]
    p = np.stack([table[level] for level in levels], 1)
    np.testing.assert_allclose(p.sum(1), 1.0, rtol=1e-9)
    truth = new["kind"].map(levels.index).to_numpy()
    right = (np.array(table["label"].to_pylist()) == new["kind"]).mean()
    assert right > 0.85
    assert calibration_error(p, truth) < 0.1
    # The row's own level is not looked at.
    empty = model.label_probabilities(new.assign(kind=None), column="kind")
    assert empty["probability"].equals(table["probability"])
    # Differences of scores are those of the logarithms of probabilities.
    scores = [
        np.array(model.score(new[:5].assign(kind=level))["anomaly_score"]) for level in levels
    ]
    np.testing.assert_allclose(scores[1] - scores[0], np.log(p[:5, 0] / p[:5, 1]), atol=1e-4)


@pytest.mark.parametrize(
    ("column", "code"), [(None, "E246"), ("kinds", "E243"), ("weight", "E243")]
)
def test_columns_without_levels_are_no_labels(column, code):
    model = lowerbound.fit(fruit(200, 0), "table", preset="fast", max_epochs=1, device="cpu")
    with pytest.raises(UsageError) as error:
        model.label_probabilities(fruit(5, 1), column=column)
    assert error.value.code == code
    assert error.value.fix.startswith("--column ")
    if column == "kinds":
        assert error.value.fix == "--column kind"


def test_the_command_labels_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fruit(300, 0).to_csv("fruit.csv", index=False)
    fruit(40, 1).assign(kind=None).to_csv("new.csv", index=False)
    assert (
        main(["fit", "fruit.csv", "--preset", "fast", "--max-epochs", "3", "--out", "m.vae"]) == 0
    )
    assert main(["label", "m.vae", "new.csv", "--column", "kind", "--out", "kinds.csv"]) == 0
    assert "40 rows" in capsys.readouterr().out
    written = pd.read_csv("kinds.csv")
    assert list(written.columns) == ["row", "label", "probability", "apple", "lime", "plum"]
    np.testing.assert_allclose(written[["apple", "lime", "plum"]].sum(axis=1), 1.0, rtol=1e-6)
    assert main(["label", "m.vae", "new.csv", "--column", "kinds", "--out", "k.csv"]) == 2
    assert "--column kind" in capsys.readouterr().err


def test_labels_of_a_batch_that_the_model_does_not_know(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    known, _ = cells(0, 300)
    known.assign(site=np.where(np.arange(300) % 2, "a", "b")).to_parquet("known.parquet")
    new, _ = cells(1, 60, known=0.0)
    new.drop(columns="kind").assign(site="c").to_parquet("new.parquet")
    fit = ["fit", "known.parquet", "--recipe", "counts", "--batch", "site", "--labels", "kind"]
    assert main([*fit, "--preset", "fast", "--max-epochs", "3", "--out", "m.vae", "-q"]) == 0
    capsys.readouterr()
    assert main(["label", "m.vae", "new.parquet", "--out", "plain.csv"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "with --adapt the model learns the batches that it does not know" in told
    assert main(["label", "m.vae", "new.parquet", "--adapt", "--out", "adapted.csv"]) == 0
    told = capsys.readouterr()
    assert "site = c: learned from 60 cells" in " ".join(told.err.split())
    told = " ".join(told.out.split())
    assert "not seen in training" not in told
    plain, adapted = pd.read_csv("plain.csv"), pd.read_csv("adapted.csv")
    assert list(plain.columns) == list(adapted.columns)
    assert not plain["p_value"].equals(adapted["p_value"])


def test_the_share_of_none_is_for_cells(tmp_path):
    model = lowerbound.fit(fruit(200, 0), "table", preset="fast", max_epochs=1, device="cpu")
    with pytest.raises(UsageError) as error:
        model.label_probabilities(fruit(5, 1), column="kind", alpha=0.1)
    assert error.value.code == "E236"
