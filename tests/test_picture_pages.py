"""What pages say of pictures is what the benchmarks' JSONs say."""

import importlib
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
ENVIRONMENT = {"lowerbound": "9.8.7", "torch": "2.99", "threads": 1}


@pytest.fixture(scope="module")
def load():
    """Import a script, which is no part of the package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module


def anomalies(load):
    """A document of two tasks: ours is above both baselines in one."""

    def run(**scores):
        return {"0": {"auroc": {score: {"odd": v, "odder": v + 1} for score, v in scores.items()}}}

    results = {
        "digit 0": {
            "PCA": run(PCA=90.0),
            "IsolationForest": run(IsolationForest=70.0),
            "default": run(likelihood=95.0, levels=80.0, **{"levels, k = 2": 99.0}),
        },
        "digit 1": {
            "PCA": run(PCA=60.0),
            "IsolationForest": run(IsolationForest=98.0),
            "default": run(likelihood=97.0, levels=50.0),
        },
    }
    script = load("image_anomalies")
    table = script.table_of(results)
    return {
        "command": "python x",
        "environment": ENVIRONMENT,
        "setting": {"minutes": 5.0, "solar_minutes": 20.0},
        "seeds": [0],
        "auroc": table,
        "bars": script.bars(table),
        "results": results,
    }


def test_bars_are_of_scores_chosen_beforehand_against_both_baselines(load):
    document = anomalies(load)
    assert document["auroc"]["digits, mean"]["default: likelihood"] == 96.0
    assert document["bars"] == {
        "digit 0": {"default: likelihood": True, "default: levels": False},
        "digit 1": {"default: likelihood": False, "default: levels": False},
        "digits, mean": {"default: likelihood": True, "default: levels": False},
    }


def test_the_page_of_anomalies(load):
    page = load("anomalous_pictures_page").anomalous_pictures(anomalies(load))
    assert "| digit 0 | 90.0 | 70.0 | **95.0** | 80.0 |" in page
    assert "of 2 tasks: default: likelihood 1, default: levels 0." in page
    assert "| digit 0 | odd | default: levels, k = 2 | 99.0 |" in page
    assert "| digit 1 | odder | PCA | 61.0 |" in page


def test_the_page_of_generated_pictures(load):
    def arm(distance):
        run = {"frechet": distance, "frechet_of_draws": 2 * distance, "nearest_ratio": 1.0}
        return {"0": {**run, "copies": 0.001, "sharpness": 0.9, "sample_seconds": 3.4}}

    real = {"accuracy": 0.99, "frechet_of_training_pictures": 0.25}
    arms = {"vqvae2": arm(3.0), "sigma": arm(5.0), "gaussian": arm(2.0)}
    results = {"mnist": {"reference": real, "arms": arms}}
    bars = load("generation").bars(results)
    assert bars == {"mnist: vqvae2 below sigma": True, "mnist: vqvae2 below gaussian": False}
    page = load("generation_page").generation(
        {
            "command": "python x",
            "environment": ENVIRONMENT,
            "setting": {"minutes": 20.0},
            "seeds": [0],
            "bars": bars,
            "results": results,
        }
    )
    assert "| vqvae2 | 3.00 | 6.00 | 1.00 | 0.10 | 0.90 | 3 |" in page
    assert "| training pictures | 0.25 |" in page
    assert "- **missed**: mnist: vqvae2 below gaussian" in page


def test_the_page_says_that_the_elbo_was_not_the_objective_of_an_adversarial_arm(load):
    run = dict.fromkeys(load("generation_page").MEASURES, 1.0)
    real = {"accuracy": 0.99, "frechet_of_training_pictures": 0.25}
    arms = {"sigma": {"0": {**run, "valid_elbo": 912.34}}}
    arms["adversarial"] = {"0": {**run, "sharpness": 1.02, "valid_elbo": 890.0}}
    document = {"command": "python x", "environment": ENVIRONMENT, "setting": {"minutes": 20.0}}
    document |= {"seeds": [0], "results": {"mnist": {"reference": real, "arms": arms}}}
    document["bars"] = load("generation").bars(document["results"])
    assert document["bars"] == {}  # it is no arm of the bar
    page = load("generation_page").generation(document)
    assert "a lower bound like the others but was not the objective" in page
    assert "Held out, mnist: 890.0 nats per picture with it, 912.3 without." in page
    assert "| adversarial | 1.00 | 1.00 | 1.00 | 100.00 | 1.02 | 1 |" in page
    del arms["adversarial"]
    assert "ELBO" not in load("generation_page").generation(document)


def test_distances_between_sets_of_pictures(load):
    quality = load("picture_quality")
    rng = np.random.default_rng(0)
    a = rng.normal(size=(400, 3))
    assert quality.frechet(a, a) == pytest.approx(0.0, abs=1e-8)
    assert quality.frechet(a, a + 2.0) == pytest.approx(12.0)
    values = np.linalg.eigvalsh(np.cov(a, rowvar=False))
    assert quality.frechet(a, 3.0 * (a - a.mean(0)) + a.mean(0)) == pytest.approx(4 * values.sum())
    known = rng.integers(0, 256, (60, 5, 5), dtype=np.uint8)
    new = rng.integers(0, 256, (9, 5, 5), dtype=np.uint8)
    new[4] = known[7]
    apart = np.square(new[:, None].astype(int) - known).sum((2, 3)).min(1)
    assert quality.to_nearest(new, known) == pytest.approx(np.sqrt(apart))
    assert quality.newness(known, known, np.ones(3)) == (0.0, 1.0)
