"""A score that leaves torch behind: the graph against the model, on what real tables hold."""

import json
import math
import pickle
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pyarrow as pa
import pytest
import torch
from torch import nn

import commands
import zoo
from lowerbound import Model, Plan
from lowerbound.columns.schema import infer
from lowerbound.errors import CheckFailed, ResourceError, UsageError
from lowerbound.nn.distributions.level_trees import TreeCategories
from lowerbound.tasks import draws as tasks
from lowerbound.tasks.calibration import Calibration
from lowerbound.tasks.onnx import checking, graph
from lowerbound.tasks.onnx.columns import Coder, CountBelow
from lowerbound.tasks.onnx.inputs import columns_of, inputs_of, matrix
from lowerbound.tasks.onnx.scorer import ConstantNoise, Scorer
from lowerbound.training.fit import learn

QUICK = {"preset": "fast", "max_epochs": 3}
DRAWS = 24  # of z per row
KINDS = {"grade": "ordinal:lo<mid<hi", "visits": "count", "many": "categorical"}


def numbers(n=500, seed=0):
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=n)
    frame = pd.DataFrame(
        {
            "a": hidden + 0.3 * rng.normal(size=n),
            "b": 1e6 - 2e3 * hidden + 300 * rng.normal(size=n),
            "amount": np.exp(1 + hidden + 0.2 * rng.normal(size=n)),
        }
    )
    frame.loc[::17, "b"] = np.nan
    return frame


def mixed(n=600, seed=0):
    """Every kind of column, each with gaps."""
    rng = np.random.default_rng(seed)
    begin = pd.Timestamp("2024-01-01")
    frame = numbers(n, seed).assign(
        zero=np.where(rng.random(n) < 0.5, 0.0, rng.exponential(size=n)),
        label=rng.choice(["up", "down"], n),
        place=rng.choice(["x", "y", "z"], n, p=[0.6, 0.3, 0.1]),
        grade=rng.choice(["lo", "mid", "hi"], n),
        visits=rng.poisson(3, n),
        many=rng.integers(0, 100, n).astype(str),
        always="web",
        ts=begin + pd.to_timedelta(rng.integers(0, 200_000, n), unit="min"),
        day=begin + pd.to_timedelta(rng.integers(0, 200, n), unit="D"),
        id=[f"{i:05d}" for i in range(n)],
    )
    for i, name in enumerate(frame.columns[:-1]):
        frame.loc[i::19, name] = None
    return frame


def many_levels(n=3000, levels=1500, seed=0):
    """A column of so many levels that its softmax has two steps."""
    rng = np.random.default_rng(seed)
    shop = np.concatenate([np.arange(levels), rng.integers(0, levels, n)])[:n]
    paid = np.sin(shop) + 0.1 * rng.normal(size=n)
    frame = pd.DataFrame({"shop": [f"s{i:04d}" for i in shop], "paid": paid})
    until = np.datetime64("2020-01-01") + rng.integers(0, 900, n).astype("timedelta64[D]")
    return frame.assign(until=np.where(rng.random(n) < 0.1, np.datetime64("9999-12-31"), until))


def strange(n=60):
    """Rows that training has not seen the like of."""
    frame = mixed(n, seed=1)
    frame.loc[1, "place"], frame.loc[2, "label"], frame.loc[3, "grade"] = "new", "odd", "top"
    frame.loc[4, "a"], frame.loc[5, "amount"], frame.loc[6, "always"] = 1e12, -3.0, "shop"
    frame.loc[7, "ts"], frame.loc[8, "day"] = pd.Timestamp("1850-06-01 12:34"), pd.Timestamp(0)
    frame.loc[9, frame.columns] = None
    return frame


def opened(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def exported(trained, folder, **further):
    """Keep a model, and what its export returned."""
    made = graph.export_onnx(trained, folder / "score.onnx", allow_collapsed=True, **further)
    trained.save(folder / "model.vae")
    (folder / "made.pickle").write_bytes(pickle.dumps(made))


def trees(trained):
    """Return the softmaxes in two steps, of columns of many levels."""
    return [m for m in trained.model.modules() if isinstance(m, TreeCategories)]


def of_numbers(folder):
    trained = learn(numbers(), Plan(settings={"hidden": [16], "chain": None}, latent=2, **QUICK))
    exported(trained, folder, samples=DRAWS)


def of_every_kind(folder):
    settings = {"hidden": [16], "likelihood": "student", "tree_above": 50, "chain": None}
    trained = learn(mixed(), Plan(types=KINDS, settings=settings, **QUICK))
    assert len(trees(trained)) == 1
    exported(trained, folder, check=strange())


def of_many_levels(folder):
    settings = {"hidden": [16]}
    trained = learn(many_levels(), Plan(settings=settings, preset="fast", max_epochs=2))
    assert trees(trained)[0].size > 1000
    rows = many_levels(400, seed=1)
    rows.loc[3, "shop"], rows.loc[4, "shop"], rows.loc[5, "paid"] = "new", None, None
    exported(trained, folder, check=rows)


def kept(folder):
    """Return the model, and what its export returned."""
    made = pickle.loads((folder / "made.pickle").read_bytes())
    return Model.load(folder / "model.vae"), made


@pytest.fixture(scope="module")
def plain():
    """A model of numbers, and what its export returned."""
    return kept(zoo.folder(of_numbers))


@pytest.fixture(scope="module")
def every():
    """A model of every kind of column, and what its export returned."""
    return kept(zoo.folder(of_every_kind))


class TestTheGraph:
    def test_agrees_on_rows_that_the_model_drew(self, plain):
        parity = plain[1].parity
        assert parity.holds
        assert not parity.given
        assert parity.rows == checking.DRAWN
        assert parity.largest < 1e-4
        assert parity.coding < 1e-6
        assert parity.typical < 0.2

    def test_agrees_on_every_kind_of_column(self, every):
        parity = every[1].parity
        assert parity.holds
        assert parity.given
        assert parity.rows == len(strange())
        assert parity.coding < 1e-6
        assert parity.typical < 0.5

    @pytest.mark.nightly
    def test_agrees_on_a_column_of_many_levels(self):
        trained, made = kept(zoo.folder(of_many_levels))
        parity = made.parity
        assert parity.holds
        assert parity.largest < 1e-3
        assert parity.coding < 1e-6
        assert parity.typical < 0.5
        rows = pa.Table.from_pandas(many_levels(300, seed=2))
        found = opened(made.path).run(None, {graph.INPUT: matrix(trained.coding.schema, rows)})[0]
        usual = trained.anomaly_score(rows)
        assert abs(np.mean(found - usual)) < 0.1
        assert np.corrcoef(found, usual)[0, 1] > 0.99

    def test_takes_any_number_of_rows_and_each_by_itself(self, plain):
        trained, made = plain
        cells = matrix(trained.coding.schema, pa.Table.from_pandas(numbers(90, seed=3)))
        cells[5], cells[6, 0] = np.nan, np.nan
        session = opened(made.path)
        whole = session.run(None, {graph.INPUT: cells})
        assert np.isfinite(whole[0]).all()
        for size in (1, 7):
            part = session.run(None, {graph.INPUT: cells[:size]})
            np.testing.assert_allclose(part[0], whole[0][:size], atol=1e-4)
        assert session.run(None, {graph.INPUT: cells[:0]})[0].shape == (0,)

    def test_gives_the_model_s_p_values_and_alarms(self, plain):
        trained, made = plain
        cells = matrix(trained.coding.schema, pa.Table.from_pandas(numbers(400, seed=4)))
        cells[:5, 0] += 100
        score, p_value, flagged = opened(made.path).run(list(graph.OUTPUTS), {"cells": cells})
        assert np.array_equal(p_value, trained.calibration.p_values(score))
        assert np.array_equal(flagged, score > trained.alarm.threshold)
        assert flagged[:5].all()

    def test_says_what_it_takes_and_gives(self, every):
        trained, made = every
        session = opened(made.path)
        found = json.loads(session.get_modelmeta().custom_metadata_map["lowerbound"])
        columns = {column["name"]: column for column in found["columns"]}
        assert list(columns) == list(made.columns)
        assert "id" not in columns
        assert columns["place"]["levels"] == ["x", "y", "z"]
        assert columns["grade"]["levels"] == ["lo", "mid", "hi"]
        assert columns["always"]["levels"] == ["web"]
        assert "levels" not in columns["a"]
        assert "1970" in columns["ts"]["cell"]
        assert found["threshold"] == trained.alarm.threshold
        assert found["samples"] == made.samples
        assert {"", "NA", "?", "nan", "NaT"} <= set(found["missing"])
        (given,) = session.get_inputs()
        assert (given.name, given.type) == (graph.INPUT, "tensor(double)")
        assert given.shape[1] == len(columns)
        assert [output.name for output in session.get_outputs()] == list(graph.OUTPUTS)

    def test_empty_text_is_missing_as_it_is_to_score(self, every):
        trained, _ = every
        places = [column.name for column in columns_of(trained.coding.schema)]
        texts = ["place", "label", "grade", "always"]
        want = None
        for word in (None, "", "  ", "NA", "?", "null"):
            rows = pa.Table.from_pandas(mixed(5).assign(**dict.fromkeys(texts, word)))
            cells = matrix(trained.coding.schema, rows)[:, [places.index(t) for t in texts]]
            assert np.isnan(cells).all()
            scores = trained.anomaly_score(rows)
            want = scores if want is None else want
            assert np.array_equal(scores, want)

    def test_the_command_writes_the_same_file_and_says_what_it_found(self, plain, tmp_path):
        trained, made = plain
        trained.save(tmp_path / "m.vae")
        numbers(260, seed=7).to_csv(tmp_path / "rows.csv", index=False)
        path = tmp_path / "m.onnx"
        result = commands.export(
            str(tmp_path / "m.vae"),
            onnx=str(path),
            check=str(tmp_path / "rows.csv"),
            samples=DRAWS,
            allow_collapsed=True,
        )
        assert path.read_bytes() == made.path.read_bytes()
        assert result.path == path
        assert result.facts["bytes"] == path.stat().st_size
        assert result.facts["columns"] == ["a", "b", "amount"]
        assert result.facts["parity"]["rows"] == 260
        assert result.facts["parity"]["holds"]
        said = " ".join(result.lines)
        assert "parity on 260 given rows" in said
        assert f"{DRAWS} draws per row" in said
        score, p_value, flagged = opened(path).run(None, {"cells": np.full((2, 3), np.nan)})
        assert np.isfinite(score).all()
        assert ((p_value > 0) & (p_value <= 1)).all()
        assert flagged.dtype == bool

    def test_scores_are_those_of_the_model(self, plain):
        trained, _ = plain
        assert trained.model.proposal is not None
        rows = numbers(50, seed=5).dropna()
        cells = torch.from_numpy(matrix(trained.coding.schema, pa.Table.from_pandas(rows)))
        scorer = Scorer(trained, trained.coding.schema, trained.importance_samples, seed=0)
        with torch.no_grad():
            scores = scorer.eval()(cells)[0].numpy()
        np.testing.assert_allclose(scores, trained.anomaly_score(rows), rtol=1e-5, atol=1e-4)

    def test_other_draws_come_of_another_seed_alone(self, plain):
        trained, _ = plain
        one, same, other = (Scorer(trained, trained.coding.schema, 16, seed=s) for s in (0, 0, 1))
        cells = torch.from_numpy(
            matrix(trained.coding.schema, pa.Table.from_pandas(numbers(20, seed=5)))
        )
        with torch.no_grad():
            scores = [scorer.eval()(cells)[0] for scorer in (one, same, other)]
        assert torch.equal(scores[0], scores[1])
        assert not torch.equal(scores[0], scores[2])

    def test_runs_where_there_is_no_torch(self, plain, tmp_path):
        trained, made = plain
        cells = matrix(trained.coding.schema, pa.Table.from_pandas(numbers(20, seed=5)))
        np.save(tmp_path / "cells.npy", cells)
        code = (
            "import sys\n"
            "for name in ('torch', 'lowerbound', 'pyarrow', 'scipy'): sys.modules[name] = None\n"
            "import numpy as np, onnxruntime as ort\n"
            "session = ort.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n"
            "score, p, flag = session.run(None, {'cells': np.load('cells.npy')})\n"
            "np.save('score.npy', score)"
        )
        subprocess.run(
            [sys.executable, "-c", code, str(made.path)], cwd=tmp_path, check=True, timeout=60
        )
        expected = opened(made.path).run(None, {"cells": cells})[0]
        assert np.array_equal(np.load(tmp_path / "score.npy"), expected)


class TestTheEstimator:
    def test_comes_to_the_model_s_own_with_many_draws(self, plain):
        trained, _ = plain
        frame = numbers(200, seed=6)
        cells = torch.from_numpy(matrix(trained.coding.schema, pa.Table.from_pandas(frame)))
        scorer = Scorer(trained, trained.coding.schema, 512, seed=0).eval()
        with torch.no_grad():
            mine = scorer(cells)[0].numpy()
        coded = trained.encode(frame)[1]
        usual = tasks.score(trained.model, coded.rows, 2048).numpy() + coded.surcharge
        # A few rows are far from what the encoder expects: their estimates converge slowly.
        assert np.quantile(np.abs(mine - usual), 0.95) < 0.2
        assert np.median(np.abs(mine - usual)) < 0.05
        assert abs(np.mean(mine - usual)) < 0.02

    def test_draws_are_standard_normal_one_by_one(self):
        like = torch.zeros(1)
        draws = torch.stack(
            [ConstantNoise(4, seed)("z", torch.Size([4, 3]), like) for seed in range(2000)]
        )
        mean, variance = draws.mean(0), draws.var(0)
        assert mean.abs().max() < 5 / math.sqrt(2000)
        assert (variance - 1).abs().max() < 5 * math.sqrt(2 / 2000)

    def test_draws_are_the_same_for_every_row_and_differ_by_site(self):
        noise, like = ConstantNoise(5, seed=0), torch.zeros(1)
        drawn = noise("z", torch.Size([15, 2]), like).view(3, 5, 2)
        assert torch.equal(drawn[0], drawn[1])
        assert torch.equal(drawn[0], drawn[2])
        assert torch.equal(ConstantNoise(5, seed=0)("z", torch.Size([5, 2]), like), drawn[0])
        assert not torch.equal(noise("y", torch.Size([5, 2]), like), drawn[0])


class TestTheCoding:
    @pytest.mark.parametrize("size", [0, 1, 2, 3, 24, 100, 1000])
    def test_below_is_a_search(self, size):
        rng = np.random.default_rng(size)
        tables = [np.sort(rng.integers(0, 50, size)).astype(float), np.sort(rng.normal(size=size))]
        values = np.column_stack([rng.integers(-5, 55, 300), rng.normal(size=300)]).astype(float)
        values[:3] = [[np.inf] * 2, [-np.inf] * 2, [np.nan] * 2]
        found = CountBelow(tables)(torch.from_numpy(values)).numpy()
        expected = np.stack(
            [np.searchsorted(t, v) for t, v in zip(tables, values.T, strict=True)], 1
        )
        expected[2] = 0
        assert np.array_equal(found, expected)

    @pytest.mark.parametrize("transform", ["standard", "quantile", "blend"])
    def test_cells_are_coded_as_the_schema_codes_them(self, transform):
        trained = learn(
            mixed(),
            Plan(
                types=KINDS,
                transform=transform,
                preset="fast",
                max_epochs=1,
                settings={"chain": None},
            ),
        )
        schema, table = trained.coding.schema, pa.Table.from_pandas(strange())
        coded, nats = Coder(schema)(torch.from_numpy(matrix(schema, table)))
        expected = trained.encode(strange())[1]
        np.testing.assert_array_equal(coded.numpy(), expected.rows.x.numpy())
        np.testing.assert_allclose(nats.numpy(), expected.surcharge)
        assert nats[6] > 0

    def test_atoms_are_coded_as_the_schema_codes_them(self):
        rng = np.random.default_rng(0)
        free = rng.normal(size=900).astype(np.float32)
        table = pa.table(
            {
                "all": rng.choice([0.5, 5.0, 10.0], 900, p=[0.05, 0.15, 0.8]),
                "some": np.where(rng.random(900) < 0.4, np.float32(0.1), free),
                "others": np.where(rng.random(900) < 0.4, np.float32(7), free),
            }
        )
        schema = infer(table)
        assert [column.complete for column in schema.columns] == [True, False, False]
        few = pa.table(
            {
                "all": [0.5, 5.0, 10.0, 6.0, None],
                "some": [0.1, float(np.float32(0.1)), 0.100001, -2.0, None],
                "others": [7.0, 7.0000001, 0.0, 1.0, None],
            }
        )
        coded, _ = Coder(schema)(torch.from_numpy(matrix(schema, few)))
        np.testing.assert_array_equal(coded.numpy(), schema.encode(few).values)

    def test_moments_that_are_atoms_are_coded_as_the_schema_codes_them(self):
        dates = np.datetime64("2020-01-01") + np.arange(200).astype("timedelta64[D]")
        dates[::9], dates[1::50] = np.datetime64("9999-12-31"), np.datetime64("1900-01-01")
        schema = infer(pa.table({"until": pa.array(dates)}))
        assert len(schema.columns[0].atoms) == 2
        few = pa.table({"until": pa.array([*dates[:20].tolist(), None])})
        coded, _ = Coder(schema)(torch.from_numpy(matrix(schema, few)))
        np.testing.assert_array_equal(coded.numpy(), schema.encode(few).values)

    def test_a_constant_that_is_not_there_has_not_changed(self, every):
        schema = every[0].coding.schema
        table = pa.Table.from_pandas(mixed(10)).drop_columns(["always"])
        place = [column.name for column in inputs_of(schema)].index("always")
        assert np.isnan(matrix(schema, table)[:, place]).all()


class Hard(nn.Module):
    """The operators that are translated, on what is hard about them."""

    def forward(self, x):
        one, two = x[:, :1], x[:, 1:]
        sums = torch.logaddexp(one, two), torch.logsumexp(8 * x, 1, keepdim=True).double()
        rows = x.repeat_interleave(3, 0).view(-1, 6).sum(1, keepdim=True)
        soft = nn.functional.softplus(x), nn.functional.logsigmoid(x)
        exact = nn.functional.softplus(x, threshold=40.0)
        bare = torch.nan_to_num(x), torch.hypot(one, two)
        return (*sums, rows, *soft, exact, *bare, torch.lgamma(x.double().abs() + 1e-3))


def test_translated_operators_are_exact(tmp_path):
    with graph.undisturbed():
        program = torch.onnx.export(
            Hard(),
            (torch.zeros(3, 2),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("rows")},),
            custom_translation_table=graph.import_module(
                "lowerbound.tasks.onnx.operators"
            ).table(),
            opset_version=18,
            verbose=False,
        )
    program.save(tmp_path / "hard.onnx")
    values = [0.0, -1e-3, 3.0, -17.0, 19.0, 21.0, -30.0, 60.0, -88.0, 120.0, -150.0, 900.0, 3e4]
    pairs = torch.tensor([[a, b] for a in values for b in (values[0], a / 2, -a)])
    session = opened(tmp_path / "hard.onnx")
    found = session.run(None, {session.get_inputs()[0].name: pairs.numpy()})
    for mine, expected in zip(found, Hard()(pairs), strict=True):
        np.testing.assert_allclose(mine, expected.numpy(), rtol=2e-6, atol=2e-7)
    # A caller that raises the threshold multiplies small results by large numbers.
    small = (pairs < -10) & (pairs > -80)
    exact = Hard()(pairs)[5][small].numpy()
    np.testing.assert_allclose(found[5][small.numpy()], exact, rtol=1e-5)


class TestRefusals:
    def test_a_model_of_counts(self, tmp_path):
        counts = np.random.default_rng(0).poisson(3, (60, 4))
        trained = learn(counts, Plan(recipe="counts", preset="fast", max_epochs=1))
        with pytest.raises(UsageError, match="counts") as caught:
            graph.export_onnx(trained, tmp_path / "score.onnx")
        assert caught.value.code == "E246"
        assert not list(tmp_path.iterdir())

    def test_a_collapsed_model(self, plain, tmp_path, monkeypatch):
        trained, _ = plain
        monkeypatch.setitem(trained.facts, "health", {"verdict": "collapsed"})
        with pytest.raises(CheckFailed) as caught:
            graph.export_onnx(trained, tmp_path / "score.onnx")
        assert (caught.value.code, caught.value.fix) == ("E603", "--allow-collapsed")
        assert not list(tmp_path.iterdir())

    def test_a_graph_that_computes_something_else(self, plain, tmp_path, monkeypatch):
        trained, made = plain
        usual = checking.session

        class Wrong:
            def __init__(self, content):
                self.inner = usual(content)
                self.get_inputs = self.inner.get_inputs

            def run(self, names, feed):
                score, *others = self.inner.run(names, feed)
                return [score + 0.01, *others]

        # The graph that was exported before: another export would take seconds.
        monkeypatch.setattr(graph, "_graph", lambda *_: onnx.load(made.path))
        monkeypatch.setattr(checking, "session", Wrong)
        with pytest.raises(CheckFailed, match=r"0\.01 nats") as caught:
            graph.export_onnx(
                trained, tmp_path / "score.onnx", samples=DRAWS, allow_collapsed=True
            )
        assert caught.value.code == "E602"
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("name", graph.NEEDED)
    def test_a_missing_extra(self, plain, tmp_path, monkeypatch, name):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ResourceError, match=name) as caught:
            graph.export_onnx(plain[0], tmp_path / "score.onnx", allow_collapsed=True)
        assert caught.value.code == "E310"
        assert caught.value.fix == "pip install 'lowerbound[export]'"


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("table", {"likelihood": "laplace"}),
        ("gaussian", {}),
        ("sigma", {"likelihood": "student"}),
        ("sigma", {"likelihood": "optimal"}),
        ("ladder", {}),
        ("iaf", {}),
    ],
)
def test_recipes(recipe, settings, tmp_path):
    trained = learn(numbers(), Plan(recipe=recipe, settings=settings, **QUICK))
    made = graph.export_onnx(trained, tmp_path / "score.onnx", allow_collapsed=True)
    assert made.parity.holds


def test_ties_with_held_out_scores_count_as_above():
    held_out = Calibration(np.array([1.0, 2.0, 2.0, 3.0]))
    below = CountBelow([held_out.scores])(torch.tensor([[0.0], [2.0], [9.0]], dtype=torch.float64))
    p = (1 + 4 - below.squeeze(1).numpy()) / 5
    assert np.array_equal(p, held_out.p_values(np.array([0.0, 2.0, 9.0])))
