"""Models saved by every released version still load, and score as they did."""

import json
from pathlib import Path

import numpy as np
import pytest

from lowerbound import Trained

GOLDEN = sorted(p for p in (Path(__file__).parent / "golden").iterdir() if p.is_dir())


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda p: p.name)
def test_a_saved_model_scores_as_it_did(folder):
    trained = Trained.load(folder / "model")
    expected = json.loads((folder / "expected.json").read_text())
    scores = trained.score(folder / "rows.csv")
    np.testing.assert_allclose(scores, expected["scores"], rtol=1e-5, atol=1e-5)
    assert trained.sample(3, seed=0).table.column_names == list(expected["drawn"][0])


def test_there_is_a_golden_model():
    assert GOLDEN
