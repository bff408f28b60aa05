"""The model of cost that docs/scaling.md shows: it gives back what was measured, and scales."""

from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module("scaling")


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module("scaling_page")


def measured(scaling, net):
    """Times of a step with 2 ms of fixed cost, 1 µs a row and 3 ms for the gradients of two."""
    batch = scaling.NETS[net][1]
    alone = {f"1/{share}": 2e-3 + 1e-6 * batch / share for share in (1, 2, 4)}
    return {**alone, "two": 2e-3 + 1e-6 * batch / 2 + 3e-3}


def test_costs_are_found_again(scaling):
    times = measured(scaling, "large")
    cost = scaling.costs("large", times)
    assert cost["seconds_fixed"] == pytest.approx(2e-3)
    assert cost["seconds_per_row"] == pytest.approx(1e-6)
    assert cost["seconds_together"] == pytest.approx(3e-3)
    batch = scaling.NETS["large"][1]
    for n, kind in ((1, "1/1"), (2, "two")):
        hours = scaling.projected("large", cost, 10 * batch, n)["cores_hours"]
        assert hours * 3600 == pytest.approx(10 * times[kind])
    many, few = (scaling.projected("large", cost, rows, 64) for rows in (10**9, 10**8))
    assert many["gpu_hours"] == pytest.approx(10 * few["gpu_hours"])
    a = scaling.ASSUMED
    assert few["gpu_hours"] * 3600 / (10**8 / batch) > a["gpu_seconds_per_step"]


def test_the_page_says_what_the_json_says(scaling, page):
    costs = {net: scaling.costs(net, measured(scaling, net)) for net in scaling.NETS}
    document = {
        "nets": {net: {"hidden": h, "batch": b} for net, (h, b) in scaling.NETS.items()},
        "costs": costs,
        "rows_per_second": {"score": 123_456.0, "embed": 234_567.0},
        "assumed": scaling.ASSUMED,
        "projected": [
            {"net": net, "rows": 10**9, "processes": n, "cores_hours": 3.0, "gpu_hours": 0.01}
            for net in costs
            for n in (1, 64)
        ],
    }
    told = page.steps_table(document)
    assert "| 2.00 | 1.00 | 3.00 |" in told
    assert "`score` 123,456, `embed` 234,567" in told
    assert "| small, 1e+09, cores like these | 3.0 h | 3.0 h |" in page.projection(document)
    assert "| large, 1e+09, GPUs | 36.0 s | 36.0 s |" in page.projection(document)


def test_the_page_says_what_memory_was_taken(page):
    found = {"peak_mb": 640.4, "rows_per_second": 8_000.0}
    document = {
        "setting": {"rows": [1_000, 2_000], "columns": 31, "preset": "fast"},
        "bars": {"fit, groups: peak within 5%": True, "embed: 4,000,000 rows/s": False},
        "results": {"1000 groups": {"fit": found}, "2000 one": {"embed": found}},
    }
    told = page.memory_table(document)
    assert "| 1,000 | row groups of 250,000 | `fit` | 640 | 8,000 |" in told
    assert "| 2,000 | one row group | `embed` | 640 | 8,000 |" in told
    assert "- holds: fit, groups" in told
    assert "- **missed**: embed: 4,000,000 rows/s" in told
    shards = {"setting": {"rows": 30_000_000, "shards": 64}, "results": {"score": found}}
    assert "30,000,000 rows in 64 files" in page.shards_table(shards)
    assert "| `score` | 640 | 8,000 |" in page.shards_table(shards)
