"""The command check: a gate for pipelines, which fails if rows are not as a model learned them."""

from __future__ import annotations

from importlib import import_module

from lowerbound.cli.flags import Columns, Data, Heard, ModelPath, Policy, Renames, Seconds, Share
from lowerbound.cli.progress import SILENT
from lowerbound.cli.result import Result


def check(  # noqa: PLR0913 - the arguments are the command's flags
    model: ModelPath,
    data: Data,
    /,
    *,
    max_drift: Share = None,
    level: Share = None,
    max_alarm_rate: Share = None,
    max_p99: Seconds = None,
    ignore: Columns = (),
    rename: Renames = (),
    on_bad_file: Policy = None,
    voice: Heard = SILENT,
) -> Result:
    """Check rows in a pipeline: schema, drift, alarms, latency; exit code 8 if a check fails.

    Every problem is listed at once: columns that are missing, renamed, unreadable or in another
    unit; columns and scores that drifted from the held-out rows of the fit; too many alarms; too
    slow scores. A drift fails if it is sure (by tests that are corrected for the number of
    columns) and large (the difference of the shares of rows up to some value, or of one level).

    Examples:
        lowerbound check fraud.vae new.csv
        lowerbound check fraud.vae new.csv --ignore ts --max-drift 0.2 --json
        lowerbound check fraud.vae new.csv --max-alarm-rate 1% --max-p99 50ms

    Args:
        model: a folder that `lowerbound fit` saved.
        data: rows to check: a file, a folder or a "pattern*".
        max_drift: the largest drift of a column or of the scores that passes, from 0 to 1
            (default 0.1).
        level: the probability that any test of drift or alarms fails by chance (default 1%).
        max_alarm_rate: the largest share of flagged rows; by default that of the fit, with the
            margin of a test.
        max_p99: the largest 99th percentile of the time to score one row, such as 20ms; by
            default it is not measured.
        ignore: a column whose drift does not matter, such as a date; repeat it, or use commas.
        rename: rename a column of the data to the name in the model; repeat it for more.
        on_bad_file: skip or fail, for unreadable pictures; by default up to 1 % are left out.
        voice: receives the progress.
    """
    work = import_module("lowerbound.cli.work.check")  # imports torch: --help does not wait
    limits = work.limits(max_drift, level, max_alarm_rate, max_p99, ignore)
    return work.check(model, data, limits, work.Reading(rename, on_bad_file), voice)
