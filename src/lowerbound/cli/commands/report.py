"""The command report: one page about a model and rows, to read in a browser, print or send."""

from __future__ import annotations

from importlib import import_module

from lowerbound.cli import parsing
from lowerbound.cli.flags import Data, Learned, ModelPath, Number, Out, Policy, Renames, Rows
from lowerbound.cli.result import Result


def report(  # noqa: PLR0913 - the arguments are the command's flags
    model: ModelPath,
    data: Data = None,
    /,
    *,
    out: Out = None,
    learned: Learned = None,
    n: Rows | None = None,
    seed: Number = 0,
    rename: Renames = (),
    on_bad_file: Policy = None,
    overwrite: bool = False,
) -> Result:
    """Write one HTML page about a model, and about rows: is it well, and what is unusual?

    The page has the model's verdict, how good its numbers are, the most unusual rows with their
    reasons, a map, what each latent means, drift, and how it was made. It is one file that works
    offline, on a phone and on paper. Of many rows, a sample is used, and the page says so.

    Examples:
        lowerbound report fraud.vae new.csv --out report.html
        lowerbound report photos.vae new/ --out report.html -n 5000
        lowerbound report fraud.vae new.csv --learned train.csv --out report.html

    Args:
        model: a folder that `lowerbound fit` saved.
        data: rows to report on: a file, a folder or a "pattern*"; without it, the report is about
            the model alone.
        out: the file to write: .html.
        learned: the rows of the fit: with them, the privacy of drawn rows is measured.
        n: score at most this many rows; by default 10,000 of a table, 500 cells or 300
            pictures.
        seed: the random seed of the samples.
        rename: rename a column of the data to the name in the model; repeat it for more.
        on_bad_file: skip or fail, for unreadable pictures; by default up to 1 % are left out.
        overwrite: replace an earlier output.
    """
    rows = None if n is None else parsing.at_least(n, 1, "-n")
    work = import_module("lowerbound.cli.work.report")  # imports torch: --help does not wait
    order = work.Order(learned, rows, parsing.at_least(seed, 0, "--seed"), rename, on_bad_file)
    return work.report(model, data, order, out, overwrite)
