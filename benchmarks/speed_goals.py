"""Which goals of speed are met, collected from the JSONs of the other benchmarks.

Run: python benchmarks/speed_goals.py
It measures nothing: it writes what the other benchmarks found, with the reason of each miss.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import results_file

ROOT = Path(__file__).parent.parent
Document = Mapping[str, Any]
Found = Callable[[str], Document | None]


class SpeedGoal(NamedTuple):
    """A goal.

    Attributes:
        name: what is measured.
        bar: the value to reach.
        unit: of both.
        source: name of the JSON.
        value: of the JSON's content; None where it is missing.
        most: whether the bar is the largest allowed value; else it is the smallest.
        missed: where the time goes, and what was tried, for the page if the goal is missed.
    """

    name: str
    bar: float
    unit: str
    source: str
    value: Callable[[Document], float | None]
    most: bool = False
    missed: str = ""


def _ratio(workload: str, peer: str) -> Callable[[Document], float | None]:
    def value(document: Document) -> float | None:
        found = document["workloads"].get(workload, {}).get("ratios", {}).get(peer)
        return None if found is None else found["of_medians"]

    return value


def _step(workload: str) -> Callable[[Document], float | None]:
    return lambda document: next(
        (run["ratio"] for run in document["runs"] if run["workload"] == workload), None
    )


def _bar(name: str) -> Callable[[Document], float | None]:
    return lambda document: document["bars"].get(name, {}).get("found")


def _minutes_of_30_million(document: Document) -> float | None:
    rate = document["rows_per_second"].get("score of 5,000,000 rows")
    return None if rate is None else 30e6 / rate / 60


_PER_STEP = (
    "a compiled step alone reaches 0.77 to 0.94 of JAX by hand; the norm of the gradient and the "
    "guard against values that are not finite need a second pass over all weights, and checks on "
    "256 held-out rows are in our time only"
)
_CONVOLUTIONS = (
    "most layers run at the speed of a matrix product already (oneDNN, float32); only the first "
    "and last layers, of few channels, are slower"
)
_COUNTS = (
    "no part of a step stands out: products are a quarter, the soft rates of 2,000 genes an "
    "eighth, lgamma of the counts above 0 a twentieth; XLA takes twice as long as torch"
)

_DRAWS = (
    "32 draws of the proposal need 3.2 million decodings a second for 100,000 rows, more than "
    "both cores can do; fewer draws are faster and less exact (see below). Compiled scores were "
    "no faster; a share of the prior and a refinement by the decoder's residual gained nothing "
    "for their cost"
)

GOALS = (
    SpeedGoal(
        "tiny net, batch 32, 1 thread: samples a second, over the usual loop",
        13, "x", "throughput", _ratio("tiny_32_t1", "loop"),
    ),
    SpeedGoal(
        "tiny net, batch 256, 1 thread: the same",
        4, "x", "throughput", _ratio("tiny_256_t1", "loop"),
    ),
    SpeedGoal(
        "default table, ELBO: time of a torch step over that of a compiled one",
        3.5, "x", "compiled_steps", _step("card fraud, ELBO"),
    ),
    SpeedGoal(
        "default table, IWAE-8: the same",
        2, "x", "compiled_steps", _step("card fraud, IWAE-8"),
    ),
    SpeedGoal(
        "MLP 784-400-20, batch 64: samples a second, over JAX by hand",
        0.95, "x", "throughput", _ratio("mlp_64", "jax"), missed=_PER_STEP,
    ),
    SpeedGoal(
        "the same, batch 128", 0.95, "x", "throughput", _ratio("mlp_128", "jax"), missed=_PER_STEP,
    ),
    SpeedGoal(
        "the same, batch 512", 0.95, "x", "throughput", _ratio("mlp_512", "jax"), missed=_PER_STEP,
    ),
    SpeedGoal(
        "counts of 2,000 genes: samples a second, over SCVI",
        3, "x", "throughput", _ratio("counts", "scvi"), missed=_COUNTS,
    ),
    SpeedGoal(
        "mixed table, the whole fit: rows a second, over TVAE",
        8, "x", "throughput", _ratio("mixed", "ctgan"),
        missed="the chain from which rows are drawn, calibration and compiling are in our time, "
        "and a fit of 10 passes is short for them",
    ),
    SpeedGoal(
        "convolutions, 28 x 28: samples a second, over the usual loop",
        1.3, "x", "throughput", _ratio("conv_28", "loop"), missed=_CONVOLUTIONS,
    ),
    SpeedGoal(
        "convolutions, 64 x 64: the same",
        1.5, "x", "throughput", _ratio("conv_64", "loop"), missed=_CONVOLUTIONS,
    ),
    SpeedGoal(
        "card transactions: the whole `fit`, warm",
        30, "s", "whole_commands", _bar("fit, warm"), most=True,
        missed="most is the chain of columns, a density of up to 350 components for each column "
        "and row; with half the rows or half the steps, drawn rows of Adult, credit default or "
        "shuttle are easier to tell from real ones",
    ),
    SpeedGoal(
        "2,000 rows: the whole `fit`, warm",
        6, "s", "whole_commands", _bar("fit of 2,000 rows, warm"), most=True,
        missed="a quarter is the start of Python, torch and JAX; half the steps, annealing, "
        "larger or smaller batches and higher rates lower the bound",
    ),
    SpeedGoal(
        "scores of 30 columns at a median error of at most .35 nats",
        100_000, "rows/s", "scoring", _bar("rows_per_second at the error"),
        missed=_DRAWS,
    ),
    SpeedGoal(
        "30 million rows scored, at the rate measured",
        8, "min", "whole_commands", _minutes_of_30_million, most=True,
        missed=_DRAWS,
    ),
    SpeedGoal(
        "`--explain`, one row", 0.5, "ms", "scoring", _bar("explain_ms_per_row"), most=True,
        missed="each of 30 columns is left out of 16 shared draws: 480 densities of a row",
    ),
    SpeedGoal(
        "one row in ONNX Runtime, median",
        30, "us", "export_latency", lambda d: d["goal"]["fastest_us"], most=True,
        missed="the graph has some 200 operations of half a microsecond each, whatever they "
        "compute: cells to codes, 8 draws, the density and the p-value",
    ),
    SpeedGoal(
        "Parquet to embedding on two cores",
        1_500_000, "rows/s", "whole_commands",
        lambda d: d["rows_per_second"].get("embed of 5,000,000 rows"),
        missed="see the seconds below: two cores could hardly read as many rows and do nothing "
        "else",
    ),
)  # fmt: skip


def measured(found: Found) -> Iterator[dict[str, Any]]:
    """Yield every goal with what was found, and whether it is met; None where it is missing."""
    for goal in GOALS:
        document = found(goal.source)
        value = None if document is None else goal.value(document)
        met = None
        if value is not None:
            met = bool(value <= goal.bar if goal.most else value >= goal.bar)
        yield {
            "goal": goal.name,
            "bar": goal.bar,
            "found": value,
            "unit": goal.unit,
            "met": met,
            "source": f"{goal.source}.json",
            **({"why": goal.missed} if met is False and goal.missed else {}),
        }


def _spelt(value: float, unit: str) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {unit}"


def goals_table(found: Found) -> str:
    """Return the table of the goals, and the reasons of those that are missed."""
    lines = ["| goal | at least / at most | found | |", "| :--- | ---: | ---: | :--- |"]
    reasons: dict[str, list[str]] = {}
    each = list(measured(found))
    for number, goal in enumerate(each, 1):
        told = {True: "met", False: "**missed**", None: "not measured"}[goal["met"]]
        value = "" if goal["found"] is None else _spelt(goal["found"], goal["unit"])
        bar = _spelt(goal["bar"], goal["unit"])
        lines.append(f"| {number}. {goal['goal']} | {bar} | {value} | {told} |")
        if "why" in goal:
            reasons.setdefault(goal["why"], []).append(str(number))
    told = [f"- {', '.join(numbers)}: {why}." for why, numbers in reasons.items()]
    met = sum(goal["met"] is True for goal in each)
    return "\n\n".join(
        [
            f"{met} of {len(each)} goals are met. Each line comes from the JSON of a benchmark "
            "below.",
            "\n".join(lines),
            "Where the time goes in those that are missed, and what was tried:",
            "\n".join(told),
        ]
    )


def main() -> None:
    def found(name: str) -> Document | None:
        file = ROOT / "benchmarks" / "results" / f"{name}.json"
        return json.loads(file.read_text()) if file.exists() else None

    goals = list(measured(found))
    for goal in goals:
        print(goal["met"], goal["goal"], goal["found"])
    print(results_file.write("speed_goals", goals=goals))


if __name__ == "__main__":
    main()
