"""Models saved by every released version still load, and score as they did."""

import json
from pathlib import Path

import numpy as np
import pytest

from lowerbound import Model
from lowerbound.errors import UsageError

GOLDEN = sorted(p for p in (Path(__file__).parent / "golden").iterdir() if p.is_dir())


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda p: p.name)
def test_a_saved_model_scores_as_it_did(folder):
    trained = Model.load(folder / "model")
    expected = json.loads((folder / "expected.json").read_text())
    scores = trained.anomaly_score(folder / "rows.csv")
    np.testing.assert_allclose(scores, expected["scores"], rtol=1e-5, atol=1e-5)
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
    np.testing.assert_allclose(table["anomaly_score"], away, rtol=1e-5, atol=1e-5)
    p = (1 + (held_out >= away[:, None]).sum(1)) / (n + 1)
    assert (np.asarray(table["p_value"]) == p).mean() > 0.99  # but for ties that were rounded
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
