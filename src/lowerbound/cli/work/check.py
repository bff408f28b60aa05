"""The work of the verb check: read the limits, check rows, and show every problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lowerbound.cli.inputs import walk_for
from lowerbound.cli.models import explain_flag, load
from lowerbound.cli.outputs import Clock, spell_flags, spell_path
from lowerbound.cli.progress import Voice
from lowerbound.cli.result import Result, Sheet, left_out
from lowerbound.tasks.check import CheckReport, Limits, spell_p
from lowerbound.tasks.check import check as checked
from lowerbound.training import units

_SHOWN = 8  # columns with the largest drift


class Reading(NamedTuple):
    """Options for reading the rows.

    Attributes:
        rename: THEIRS=OURS pairs.
        on_bad_file: skip or fail, for unreadable pictures, or None.
    """

    rename: Mapping[str, str] | Sequence[str] = ()
    on_bad_file: str | None = None


def limits(
    max_drift: Any, level: Any, max_alarm_rate: Any, max_p99: Any, ignore: Sequence[str]
) -> Limits:
    """Read the limits of a check from flags.

    Raises:
        UsageError: E231 for text that is no number, E240 for a number out of range.
    """
    given: dict[str, Any] = {"ignore": _names(ignore)}
    if max_drift is not None:
        text = str(max_drift).strip()
        whole = text in ("0", "1", "1.0", "0.0")
        given["max_drift"] = float(text) if whole else units.share(text, "--max-drift")
    if level is not None:
        given["level"] = units.share(level, "--level")
    if max_alarm_rate is not None:
        given["max_alarm_rate"] = units.share(max_alarm_rate, "--max-alarm-rate")
    if max_p99 is not None:
        given["max_p99"] = units.seconds(max_p99, "--max-p99")
    return Limits(**given)


def _names(ignore: Sequence[str]) -> tuple[str, ...]:
    parts = [part.strip() for text in ignore for part in text.split(",")]
    return tuple(dict.fromkeys(part for part in parts if part))


def check(model: Any, data: Any, wanted: Limits, how: Reading, voice: Voice) -> Result:
    """Check a model on rows, and return every problem; the result fails if there is one."""
    clock, trained = Clock(), load(model)
    given = walk_for(trained, data, how.rename, how.on_bad_file)
    voice.show(0.0, f"{given.rows:,} rows")
    report = checked(trained, trained, given, wanted)
    named = f"{spell_path(model, 'M.vae')} {spell_path(data)}"
    flags = spell_flags(rename=how.rename, on_bad_file=how.on_bad_file)
    verdict = (
        f"OK: {report.rows:,} rows passed all checks, {clock():.1f} s"
        if report.passed
        else f"FAILED: {len(report.problems)} "
        f"{'problem' if len(report.problems) == 1 else 'problems'}, {clock():.1f} s"
    )
    return Result(
        {**report.as_dict(), "seconds": clock(), **left_out(given)},
        lines=[verdict],
        notes=report.notes,
        sheet=Sheet(("check", "result", "found"), _checks(report)),
        details=_columns(report),
        next=f"lowerbound score {named} --out scores.csv{explain_flag(trained)}{flags}",
        failed=report.error(),
    )


def _checks(report: CheckReport) -> list[tuple[str, str, str]]:
    """Return a row for each check: its name, whether it passed, and what was found."""
    found = report.drift or {}
    rows = [_row(report, "schema", _schema(report))]
    columns = found.get("columns", ())
    if columns:
        sure = sum(row["drifted"] for row in columns)
        largest = max((row["drift"] for row in columns if row["drifted"]), default=0.0)
        told = f"{sure} of {len(columns)} columns drifted surely"
        told += f", by at most {largest:.2g}" if sure else ""
        rows.append(_row(report, "drift", told))
    if scores := found.get("scores"):
        told = f"drift {scores['drift']:.2g} ({spell_p(scores['adjusted_p_value'])})"
        rows.append(_row(report, "scores", told))
    if alarms := found.get("alarms"):
        told = f"{alarms['share']:.2%} of {alarms['rows']:,} rows flagged, "
        told += f"{alarms['expected']:.2%} expected"
        rows.append(_row(report, "alarms", told))
    if (latency := report.latency) is not None:
        p50, p99 = 1000 * latency.p50, 1000 * latency.p99
        told = f"p50 {p50:.3g} ms, p99 {p99:.3g} ms, of {latency.rows:,} single rows"
        rows.append(_row(report, "latency", told))
    return rows


def _row(report: CheckReport, name: str, told: str) -> tuple[str, str, str]:
    return name, "FAILED" if report.of(name) else "ok", told


def _schema(report: CheckReport) -> str:
    problems = report.of("schema")
    if not problems:
        return "all columns of the model are there and can be read"
    named = ", ".join(problem.column for problem in problems if problem.column)
    return f"{len(problems)} {'problem' if len(problems) == 1 else 'problems'}: {named}"


def _columns(report: CheckReport) -> Sheet | None:
    """Return the columns that drifted surely, the largest drift first."""
    found = (report.drift or {}).get("columns", ())
    rows = [row for row in found if row["drifted"]][:_SHOWN]
    if not rows:
        return None
    return Sheet(
        ("column", "drift", "nats"),
        [
            (
                row["column"],
                f"{row['drift']:.3f}",
                "" if row["nats"] is None else f"{row['nats']:+.2f}",
            )
            for row in rows
        ],
        "largest drift (of the shares of rows; nats added to the mean score)",
        right=("drift", "nats"),
        notes=[row["told"] for row in rows],
    )
