"""Models saved by every released version still load, and score as they did.

Rows with missing cells may be scored better than they were: see `lowerbound.tasks.proposals`.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lowerbound import Model
from lowerbound.coding.rows import Dense
from lowerbound.errors import UsageError
from lowerbound.tasks.metrics import log_likelihood

GOLDEN = sorted(p for p in (Path(__file__).parent / "golden").iterdir() if p.is_dir())


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda p: p.name)
def test_a_saved_model_scores_as_it_did(folder):
    trained = Model.load(folder / "model")
    expected = json.loads((folder / "expected.json").read_text())
    scores, was = trained.anomaly_score(folder / "rows.csv"), np.array(expected["scores"])
    rows = trained.encode(folder / "rows.csv")[1].rows
    x = rows.take(torch.arange(len(rows))).x
    gaps = x.isnan().any(1).numpy()
    np.testing.assert_allclose(scores[~gaps], was[~gaps], rtol=1e-5, atol=1e-5)
    changed = abs(scores - was) > 1e-5 * (1 + abs(was))
    assert changed.sum() <= 5
    if changed.any():
        exact = -log_likelihood(trained.model, Dense(x[torch.from_numpy(changed)]), 4000).log_p
        now, then = (abs(each[changed] - exact.numpy()).mean() for each in (scores, was))
        assert now < then
    assert trained.samples(3, seed=0).table.column_names == list(expected["drawn"][0])


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda p: p.name)
def test_a_saved_model_scores_in_every_way_that_it_can(folder):
    trained = Model.load(folder / "model")
    expected = json.loads((folder / "expected.json").read_text())
    usual = trained.calibration.scores
    away = abs(np.array(expected["scores"]) - usual.mean())
    n = len(usual)
    held_out = abs(usual - usual.mean()) * (n + 1) / (n - 1)
    table = trained.score_table(folder / "rows.csv", by="typicality")[0]
    same = np.isclose(table["anomaly_score"], away, rtol=1e-5, atol=1e-5)
    assert same.mean() > 0.98  # but for rows with missing cells
    p = (1 + (held_out >= away[:, None]).sum(1)) / (n + 1)
    assert (np.asarray(table["p_value"]) == p)[same].mean() > 0.99  # but for rounded ties
    for by, known in expected.get("by", {}).items():
        table = trained.score_table(folder / "rows.csv", by=by)[0]
        for column in ("anomaly_score", "p_value"):
            np.testing.assert_allclose(table[column], known[column], rtol=1e-5, atol=1e-4)
        assert table["is_anomaly"].to_pylist() == known["is_anomaly"]
    if "by" not in expected:
        with pytest.raises(UsageError, match="one level of latents"):
            trained.score_table(folder / "rows.csv", by="levels")


def test_there_is_a_golden_model():
    assert GOLDEN
