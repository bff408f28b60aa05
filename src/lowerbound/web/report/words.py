"""The numbers of a report as sentences for readers who know no statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lowerbound.web.report.measure import Measured

UNITS = {"table": "rows", "cells": "cells", "pictures": "pictures"}
_STATES = {
    "healthy": ("good", "The model is well."),
    "warning": ("fair", "The model works, with a reservation."),
    "collapsed": ("poor", "The model has learned too little to be used."),
}
_TOLD = 0.9  # AUC above which drawn rows are easily told from real ones
_UNLIKELY = 1e-4
_FAR = 0.1  # distance of scores that matters


def share(value: float) -> str:
    """Return a share as a percentage of two significant digits, such as 0.34 % or 12 %."""
    percent = 100 * value
    if 0 < percent < 0.01:
        return "less than 0.01 %"
    digits = 2 if percent < 1 else 1 if percent < 10 else 0
    return f"{percent:.{digits}f} %"


def p_value(value: float) -> str:
    """Return a p-value as text."""
    return "below 0.0001" if value < _UNLIKELY else f"{value:.2g}"


def verdict(found: Measured) -> dict[str, Any]:
    """Return the verdict on the model: its state, a headline, and sentences."""
    facts, unit = found.facts, UNITS[found.holds]
    health = facts.get("health", {})
    state, headline = _STATES.get(health.get("verdict", ""), ("fair", "No verdict is stored."))
    learned = facts.get("split", {}).get("train")
    rows = facts.get("rows")
    told = []
    if found.model.command:  # its rows are crops, and it has no scores
        told.append(
            f"It learned from crops of the pictures of {facts.get('origin', 'a folder')}, for the "
            f"command lowerbound {found.model.command}."
        )
        told += [_begun(line.removeprefix("OK: ")) for line in health.get("lines", [])[-1:]]
    elif rows:
        columns = f" with {len(found.model.columns):,} columns" if found.model.columns else ""
        told.append(
            f"It learned what is usual from {rows:,} {unit} of {facts.get('origin', 'a table')}"
            f"{columns}"
            + (f": {learned:,} to learn from, the others to check it." if learned else ".")
        )
    if health and not found.model.command:
        active, latent = health["active"], health["latent"]
        codes = any(level.get("perplexity") is not None for level in health.get("levels", ()))
        what = "codes" if codes else "numbers"
        told.append(
            f"It describes {_one(unit)} by {latent:,} hidden {what}, of which {active:,} are in "
            "use."
        )
        gap = health["train_elbo"] - health["valid_elbo"]
        told.append(
            "It fits rows that it has not seen as well as those that it learned from."
            if gap <= 0.15 * max(1.0, abs(health["valid_elbo"]))
            else "It fits the rows that it learned from better than others: it has partly "
            "learned them by heart."
        )
    alarm = found.model.alarm
    if np.isfinite(alarm.threshold) and not found.model.command:
        told.append(
            f"It raises an alarm for {share(alarm.rate)} of usual {unit} (between "
            f"{share(alarm.low)} and {share(alarm.high)})."
        )
    known = 0 if found.model.command else len(found.model.calibration.scores)
    if known:
        told.append(
            f"Its p-values come from {known:,} {unit} that were put aside, so that none is below "
            f"{1 / (known + 1):.2g}."
        )
    lines = health.get("lines", [])
    doubts = [line for line in lines if line.startswith(("WARNING", "COLLAPSED"))]
    return {
        "state": state,
        "headline": headline,
        "told": told,
        "doubt": _begun(doubts[0].partition(": ")[2]) if doubts else "",
        "lines": lines,
    }


def _one(unit: str) -> str:
    return f"each {unit.removesuffix('s')}"


def looked_at(found: Measured) -> str:
    """Return how many rows of the data the report looked at."""
    if found.scored is None:
        return ""
    unit, seen = UNITS[found.holds], found.scored.num_rows
    if seen == found.total:
        return f"All {seen:,} {unit} of {found.origin} were scored."
    return (
        f"{seen:,} of the {found.total:,} {unit} of {found.origin}, drawn at random, were scored: "
        f"the most unusual ones may be among the others. -n {found.total} scores all."
    )


def _begun(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def shown(found: Measured) -> str:
    """Return how many pictures are shown before and after."""
    assert found.examples is not None, "pictures are of data"
    seen, total = len(found.examples.shown), found.total
    told = f"{seen:,} of {total:,} pictures" if seen < total else f"All {seen:,} pictures"
    return f"{told} of {found.origin}"


def restored(found: Measured) -> str:
    """Return what the pictures before and after show."""
    third = "how far it is off" if found.model.encodes else "how unsure the model is"
    how = "decoded from its latents" if found.model.encodes else "as the model makes it"
    return (
        f"{shown(found)}: each as given, {how}, and {third} (brighter is more). Below, "
        "the outlined detail, where this is most."
    )


def p_values(found: Measured) -> str:
    """Return what the p-values say."""
    assert found.scored is not None, "p-values are of data"
    p = found.scored["p_value"].to_numpy()
    below = float((p <= 0.05).mean())
    expected = "as it should be" if 0.03 <= below <= 0.07 else "and not 5 % as for usual ones"
    return (
        f"{share(below)} of these {UNITS[found.holds]} are more unusual than 95 % of the held-out "
        f"ones, {expected}."
    )


def coverage(found: Measured) -> str:
    """Return what the coverage says."""
    numbers = [each for each in found.coverage if each.kind == "number"]
    levels = [each for each in found.coverage if each.kind == "category"]
    told = []
    for some, what in ((numbers, "of numbers"), (levels, "of categories")):
        if some:
            good = sum(each.as_expected for each in some)
            told.append(f"{good} of {len(some)} columns {what}")
    return f"{' and '.join(told)} are as the model says." if told else ""


def replicated(found: Measured) -> str:
    """Return how many genes have the zeros that the model expects."""
    table = found.replicated
    if table is None:
        return ""
    seen, drawn, sd = (table[f"zeros{end}"].to_numpy() for end in ("", "_replicated", "_sd"))
    # The observed share has the error of one more replicate.
    usual = np.abs(seen - drawn) <= 3 * sd * np.sqrt(1.2) + 2 / max(1, _looked_at(found))
    return (
        f"{share(float(usual.mean()))} of the {table.num_rows:,} genes have as many cells without "
        "a count as the model draws for these cells."
    )


def _looked_at(found: Measured) -> int:
    return 0 if found.scored is None else found.scored.num_rows


def alike(found: Measured) -> str:
    """Return how alike drawn and given rows are."""
    report = found.compared
    if report is None:
        return ""
    auc = report["c2st_auc"]
    told = (
        "A classifier that was trained to tell drawn rows from real ones "
        + (
            "can hardly do so"
            if auc < 0.6
            else "does so sometimes"
            if auc < 0.75
            else "does so often"
            if auc < _TOLD
            else "does so nearly always"
        )
        + f": it is right for {share(auc)} of the pairs of a real and a drawn row, where guessing "
        "gives 50 %."
    )
    impossible = report["impossible"]
    if impossible > 0:
        told += f" {share(impossible)} of the drawn rows combine values that no real row combines."
    return told


def unusual(found: Measured) -> str:
    """Return how many rows are above the threshold."""
    assert found.scored is not None, "scores are of data"
    flagged = int(found.scored["is_anomaly"].to_numpy().sum())
    seen, alarm = found.scored.num_rows, found.model.alarm
    expected = alarm.rate * seen
    what = UNITS[found.holds]
    if not flagged:
        return f"None of the {seen:,} {what} is above the threshold of {alarm.threshold:.4g} nats."
    more = "as many as" if 0.5 <= flagged / max(expected, 1) <= 2 else (
        "more than" if flagged > expected else "fewer than"
    )  # fmt: skip
    return (
        f"{flagged:,} of {seen:,} {what} ({share(flagged / seen)}) are above the threshold of "
        f"{alarm.threshold:.4g} nats, {more} the {expected:,.1f} that are expected among usual "
        f"{what}."
    )


def drift(found: Measured) -> str:
    """Return whether the data differ from what was learned."""
    known, unit = found.drift, UNITS[found.holds]
    if known is None:
        return ""
    scores = known["scores"]
    changed = [row for row in known["columns"] if row["drifted"]]
    if not (scores["drifted"] or known["alarms"]["drifted"] or changed):
        told = f"These {unit} look like those that the model was calibrated on."
    elif max([scores["drift"], *(row["drift"] for row in changed)]) > _FAR:
        told = (
            f"These {unit} differ from those that the model was calibrated on: drift, other "
            "units, or many unusual ones."
        )
    else:
        told = (
            f"These {unit} differ slightly from those that the model was calibrated on; the "
            "difference is small, but no chance."
        )
    told += (
        f" The scores differ by {scores['drift']:.3f} (0 is not at all, 1 completely), p-value "
        f"{p_value(scores['adjusted_p_value'])}."
    )
    if changed:
        names = [row["column"] for row in changed]
        named = ", ".join(names[:4]) + (f" and {len(names) - 4} more" * (len(names) > 4))
        told += f" Columns that differ: {named}."
    elif known["columns"]:
        told += " No column differs by more than chance."
    return told


def privacy(found: Measured) -> tuple[str, list[tuple[str, str, str]]]:
    """Return what is known about the privacy of drawn rows: a sentence, and measures."""
    report = found.compared or {}
    if "dcr_share" not in report:
        return (
            "Not measured: it takes the rows that the model learned from (--learned TRAIN.csv). "
            "No privacy is promised: a model may reproduce what it saw.",
            [],
        )
    wanted = {
        "dcr_share": "drawn rows that are nearer to a learned row than to an unseen one",
        "nearest_ratio": "nearness to the nearest learned row, over that to the second",
        "membership_auc": "how often a learned row can be told from an unseen one by its score",
    }
    rows = [
        (text, f"{report[name]:.3f}", report["meanings"][name])
        for name, text in wanted.items()
        if name in report
    ]
    copies = report["dcr_share"] > 0.55 or report.get("membership_auc", 0.5) > 0.55
    return (
        "Drawn rows are nearer to the learned rows than to others: they may be copies."
        if copies
        else "Drawn rows are not nearer to the learned rows than to unseen ones: there is no sign "
        "of copies.",
        rows,
    )


def reasons(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return why a row is unusual: columns, their values, and the values that were expected."""
    told = []
    for rank in range(1, 1 + sum(name.endswith("_column") for name in row)):
        name, nats = row.get(f"top{rank}_column"), row.get(f"top{rank}_nats")
        if name and nats is not None and nats > 0:
            told.append(
                {
                    "column": str(name),
                    "value": str(row[f"top{rank}_value"]),
                    "expected": str(row[f"top{rank}_expected"]),
                    "nats": f"{nats:.1f}",
                }
            )
    return told


def times(found: Measured) -> list[tuple[str, str]]:
    """Return the seconds that each part of the report took."""
    return [(name, f"{seconds:.1f} s") for name, seconds in found.seconds.items()]


def short(value: object) -> str:
    """Return a value of a table as short text."""
    if value is None:
        return "missing"
    return f"{value:.5g}" if isinstance(value, float) else str(value)[:60]


def join(names: Sequence[str]) -> str:
    """Return names as an enumeration."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else list(names))
