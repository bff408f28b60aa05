"""The stage of a fit that fits a proposal for importance sampling."""

import numpy as np
import pyarrow as pa
import pytest

import lowerbound
from lowerbound import noise


def table(rows=600, seed=0):
    rng = np.random.default_rng(noise.derive("proposal stage", seed) % 2**32)
    a, b = rng.normal(size=(2, rows))
    return pa.table({"a": a, "b": a + b, "c": a * b + 0.2 * rng.normal(size=rows)})


def fit(data, **options):
    return lowerbound.fit(data, recipe="table", max_epochs=8, **options)


@pytest.fixture(scope="module")
def model():
    return fit(table())


def test_a_fit_of_a_table_fits_a_proposal(model):
    assert model.arguments["proposal"] is True
    assert model.model.proposal is not None
    assert model.facts["proposal_history"]["checks"]
    assert all(weight.requires_grad for weight in model.model.parameters())


def test_a_saved_model_has_its_proposal(model, tmp_path):
    model.save(tmp_path / "m.vae")
    loaded = lowerbound.load(tmp_path / "m.vae")
    rows = table(50, 1)
    assert np.array_equal(loaded.anomaly_score(rows), model.anomaly_score(rows))
    assert loaded.arguments["proposal"] is True


def test_it_is_left_out_where_it_is_not_wanted():
    without = fit(table(), settings={"proposal": False})
    assert without.model.proposal is None
    assert not without.arguments.get("proposal")
    assert "proposal_history" not in without.facts


@pytest.mark.parametrize(
    ("options", "data"),
    [
        ({"recipe": "iaf"}, table()),
        ({"recipe": "table", "latent": 40}, table()),
        ({"recipe": "table"}, pa.table({f"q{i}": ["yes", "no"] * 100 for i in range(4)})),
    ],
    ids=["a flow", "many latents", "few values"],
)
def test_models_that_it_does_not_suit_have_none(options, data):
    model = lowerbound.fit(data, max_epochs=1, **options)
    assert model.model.proposal is None


def test_the_weights_of_the_model_are_those_of_a_fit_without_it(model):
    without = fit(table(), settings={"proposal": False})
    mine = model.model.state_dict()
    for name, value in without.model.state_dict().items():
        assert np.array_equal(value, mine[name]), name
