"""The command compare: drawn rows compared with real ones."""

from __future__ import annotations

from typing import Any

from lowerbound.cli import parsing
from lowerbound.cli.flags import Column, Data, Learned, ModelPath, Number, Renames, Rows
from lowerbound.cli.inputs import walk_for
from lowerbound.cli.models import load
from lowerbound.cli.outputs import Clock, spell_path
from lowerbound.cli.result import Result, Sheet

_SHOWN = 3  # of the worst columns, pairs of columns, and impossible pairs


def compare(
    model: ModelPath,
    real: Data,
    /,
    *,
    learned: Learned = None,
    target: Column = None,
    n: Rows | None = None,
    seed: Number = 0,
    rename: Renames = (),
) -> Result:
    """Compare drawn rows with real ones: are they alike, useful, and no copies?

    Draws rows as `lowerbound sample` does. At most 20,000 rows of each table are used, fewer of
    wide ones; of more, these are chosen at random.

    Examples:
        lowerbound compare fraud.vae held_out.csv
        lowerbound compare fraud.vae held_out.csv --learned train.csv --target fraud
        lowerbound compare fraud.vae held_out.csv -n 5000 --json

    Args:
        model: a folder that `lowerbound fit` saved, of a table.
        real: rows that training has not seen: a file, a folder or a "pattern*".
        learned: the rows of the fit: with them, privacy is measured, too.
        target: a column: with it, also how well it is predicted after learning from drawn rows.
        n: the number of rows to draw; by default as many as real ones.
        seed: the random seed; the same seed gives the same report.
        rename: rename a column of the real rows to the name in the model; repeat it for more.
    """
    count = None if n is None else parsing.at_least(n, 1, "-n")
    seed = parsing.at_least(seed, 0, "--seed")
    clock, trained = Clock(), load(model)
    trained.check_comparable(target)
    rows = walk_for(trained, real, rename)
    report = trained.compare(rows, learned=learned, target=target, n=count, seed=seed)
    meanings, facts = report["meanings"], {k: v for k, v in report.items() if k != "notes"}
    told = {name: "" for name in meanings}
    told |= {name: f"{low:.3f} to {high:.3f}" for name, (low, high) in report["intervals"].items()}
    used = report["rows"]
    return Result(
        {**facts, "seconds": clock(), "notes": report["notes"]},
        lines=[
            f"{used['drawn']:,} drawn rows and {used['real']:,} real ones, "
            f"{report['columns']:,} columns, {clock():.1f} s"
        ],
        notes=report["notes"],
        sheet=Sheet(
            ("measure", "value", "95 % interval"),
            [(name, f"{report[name]:.4f}", told[name]) for name in meanings],
            right=("value",),
            notes=list(meanings.values()),
        ),
        details=_worst(report),
        next=f"lowerbound sample {spell_path(model, 'M.vae')} -n {used['drawn']} "
        "--out synthetic.csv",
    )


def _worst(report: dict[str, Any]) -> Sheet:
    """Return the columns and pairs that are furthest off, and the commonest impossible pairs."""
    worst = report["worst"]
    told = [
        (what, ", ".join(each["columns"]), f"{each['error']:.2%}", f"{each['by_chance']:.2%}")
        for what, some in (("column", "columns"), ("pair", "pairs"))
        for each in worst.get(some, ())[:_SHOWN]
    ]
    for pair in worst["impossible"][:_SHOWN]:
        both = zip(pair["columns"], pair["levels"], strict=True)
        named = ", ".join(f"{column} = {level}" for column, level in both)
        told.append(("impossible", named, f"{pair['rows'] / report['rows']['drawn']:.2%}", ""))
    return Sheet(("worst", "columns", "error", "by chance"), told, right=("error", "by chance"))
