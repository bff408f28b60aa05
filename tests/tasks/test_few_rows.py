"""Few rows are scored in small passes only where their scores keep every bit."""

import numpy as np
import pyarrow as pa
import pytest
import torch

import lowerbound
from lowerbound.tasks import draws
from lowerbound.tasks.metrics import TILE


def mixed(rows, seed):
    """Numbers, a category, counts and gaps."""
    rng = np.random.default_rng(seed)
    country = rng.choice(["FR", "DE", "US"], rows, p=[0.5, 0.3, 0.2])
    amount = np.exp(rng.normal(3 + (country == "US"), 1))
    fee = np.where(rng.random(rows) < 0.1, np.nan, 0.02 * amount)
    return pa.table(
        {
            "amount": amount,
            "fee": pa.array(fee, from_pandas=True),
            "country": country,
            "visits": rng.poisson(2, rows),
        }
    )


def counts(rows, seed):
    rng = np.random.default_rng(seed)
    means = np.exp(rng.normal(size=(rows, 2)) @ rng.normal(size=(2, 12)) / 2)
    return pa.table({f"g{j}": rng.poisson(means[:, j]) for j in range(12)})


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (mixed, {}),
        (counts, {"recipe": "counts"}),
        (counts, {"recipe": "gaussian", "settings": {"proposal": False}}),
    ],
    ids=["table", "counts", "without a proposal"],
)
def test_scores_of_few_rows_keep_every_bit(rows, options):
    model = lowerbound.fit(rows(600, 0), preset="fast", max_epochs=2, device="cpu", **options)
    table = rows(40, 1)
    whole = model.score(table)["anomaly_score"].to_pylist()
    model.expect_few_rows()
    for start, count in [(0, 1), (7, 1), (3, 4), (5, 7), (10, 20), (0, 40)]:
        some = model.score(table.slice(start, count))["anomaly_score"].to_pylist()
        assert some == whole[start : start + count]


def test_small_passes_that_round_otherwise_are_not_used(monkeypatch):
    model = lowerbound.fit(mixed(400, 0), preset="fast", max_epochs=2, device="cpu")
    real, sizes = draws.score, []

    def score(*given, most=TILE, **options):
        sizes.append(most)
        found = real(*given, most=most, **options)
        return torch.nextafter(found, found + 1) if most < 16 else found

    monkeypatch.setattr(draws, "score", score)
    model.expect_few_rows()
    assert min(model.passes, default=TILE) >= 16
    sizes.clear()
    model.score(mixed(3, 1))
    assert sizes == [min(model.passes, default=TILE)]


def test_rows_of_few_values_have_no_small_passes():
    rng = np.random.default_rng(0)
    table = pa.table({"x": rng.random(400) < 0.3})
    model = lowerbound.fit(table, preset="fast", max_epochs=2, device="cpu")
    model.expect_few_rows()
    assert model.passes == ()
