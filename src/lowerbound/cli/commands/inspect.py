"""The commands inspect, info and verify, which need no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import singledispatch
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lowerbound import bundle
from lowerbound.cli.annotations import annotation
from lowerbound.cli.flags import Columns, Data, ModelPath, Renames, Types
from lowerbound.cli.outputs import (
    Clock,
    open_data,
    spell_bytes,
    spell_flags,
    spell_path,
    spell_use,
)
from lowerbound.cli.parsing import pairs, texts
from lowerbound.cli.result import Result, Sheet
from lowerbound.columns.arrow import snippet
from lowerbound.columns.schema import SHOWN, Problem, described, matched, survey
from lowerbound.errors import DataError
from lowerbound.files.data import Images, Matrix, Table, Whole
from lowerbound.files.pictures.ranges import range_of
from lowerbound.files.read import are_picture_files
from lowerbound.tasks import contents
from lowerbound.tasks.objective_settings import reservations, trained_by

SAMPLE = 100_000
RULES = 20  # rules that are printed; --json has all
LISTED = 5  # bad values of a column that are printed; --json has more
ODD = 0.05  # share of values that are not counts up to which a matrix holds counts with mistakes


def inspect(
    data: Data,
    /,
    *,
    types: Types = (),
    drop: Columns = (),
    rename: Renames = (),
    full: bool = False,
    all_frames: bool = False,
) -> Result:
    """Show what each column of a table holds and what a model would do with it.

    Values that fit refuses are listed with their rows, and taken as missing here. For pictures,
    show their sizes and colours, and the files that cannot be read.

    Examples:
        lowerbound inspect tx.parquet
        lowerbound inspect people.csv --types zip=categorical --drop id,name
        lowerbound inspect photos/

    Args:
        data: a CSV, TSV (also .gz), Parquet, npy, npz or idx file, a folder of such files or of
            pictures, or a "pattern*".
        types: the kind of a column, in place of the inferred one; repeat it, or use commas.
        drop: columns to leave out; repeat it, or use commas.
        rename: give a column another name.
        full: read all rows instead of the first 100,000; decode all pictures.
        all_frames: take each frame or page of a picture file as a picture.
    """
    clock = Clock()
    if are_picture_files(data):
        surveying = import_module("lowerbound.cli.work.inspect")  # pillow, for pictures only
        return surveying.inspect(data, full, clock, all_frames)
    rows = None if full else SAMPLE
    frame = open_data(data, rename, rows=rows, strict=False)
    kinds = pairs(types, "--types", "zip=categorical", commas=True)
    dropped = texts(drop, "--drop")
    flags = spell_flags(types=kinds, drop=dropped, rename=rename)
    return _inspect(frame, data, _Options(kinds, dropped, flags, full, clock))


class _Options(NamedTuple):
    types: Mapping[str, str]
    drop: Sequence[str]
    flags: str  # as text, for the suggested command
    full: bool
    clock: Clock


@singledispatch
def _inspect(frame: Whole, data: object, options: _Options) -> Result:
    """Describe data by its type."""
    raise NotImplementedError(type(frame).__name__)


@_inspect.register
def _(frame: Table, data: object, options: _Options) -> Result:
    """Describe every column of a table, and the values that fit refuses."""
    full, clock = options.full, options.clock
    hints = frame.inference(options.types, options.drop)
    columns, problems = survey(frame.table, transform="blend", **hints)
    rows = described(columns)
    looked = frame.rows
    total = looked if full or looked < SAMPLE else frame.total
    facts = {
        "origin": frame.origin,
        "rows": total,
        "rows_looked_at": looked,
        "columns": rows,
        "problems": [_plain(problem) for problem in problems],
        "notes": list(frame.notes),
    }
    count = f"at least {looked:,}" if total is None else f"{total:,}"
    line = f"{frame.origin}: {count} {'row' if total == 1 else 'rows'} x {len(rows):,} columns"
    line += f" (the first {looked:,} looked at, {clock():.1f} s)" if total != looked else ""
    kinds = Counter(row["kind"] for row in rows if row["done"] != "ignored")
    return Result(
        facts,
        lines=[line],
        notes=[*frame.notes, *_told(problems)],
        sheet=Sheet(
            ("column", "kind", "what a model does"),
            [(row["column"], row["kind"], row["done"]) for row in rows],
            notes=[row["notes"] for row in rows],
        ),
        details=_bad_values(problems),
        next=f"lowerbound fit {spell_path(data)}{options.flags}"
        + ("" if kinds else " --types COLUMN=KIND"),
    )


def _plain(problem: Problem) -> dict[str, Any]:
    """Return a problem as plain JSON values."""
    error = problem.error
    return {
        "column": problem.column,
        "why": problem.why,
        "count": problem.count,
        "values": [{"row": row, "value": value} for row, value in problem.values],
        "code": None if error is None else error.code,
        "hint": "" if error is None else error.fix,
    }


def _told(problems: Sequence[Problem]) -> list[str]:
    """Return notes on what fit refuses."""
    bad = {
        problem.column: problem.count for problem in problems if problem.error and problem.values
    }
    told = []
    if bad:
        total = sum(bad.values())
        values = f"{total:,} {'value' if total == 1 else 'values'}"
        columns = f"{len(bad):,} {'column' if len(bad) == 1 else 'columns'}"
        told.append(
            f"fit refuses {values} in {columns}, listed below and taken as missing here: correct "
            "them or leave them empty"
        )
    told += [
        f"fit refuses this ({problem.error.code}): {problem.why}"
        + (f" (fix: {problem.error.fix})" if problem.error.fix else "")
        for problem in problems
        if problem.error and not problem.values
    ]
    return told


def _bad_values(problems: Sequence[Problem]) -> Sheet | None:
    """Return a table of the first bad values of each column."""
    rows = []
    for problem in problems:
        for row, value in problem.values[:LISTED]:
            rows.append((problem.column, f"{row:,}", snippet(value), problem.why))
        more = problem.count - LISTED
        if problem.values and more > 0:
            rows.append((problem.column, "...", f"and {more:,} more", problem.why))
    heads = ("column", "row", "value", "why")
    return Sheet(heads, rows, "values that are probably wrong", right=("row",)) if rows else None


@_inspect.register
def _(frame: Matrix, data: object, options: _Options) -> Result:
    """Describe a sparse matrix as a whole: one line per column would be too many."""
    matched(options.drop, frame.names, "drop")
    matrix = frame.matrix
    rows, columns = matrix.shape
    values = matrix.data
    counts = frame.holds_counts
    problems = _odd_counts(frame)
    facts = {
        "origin": frame.origin,
        "rows": rows,
        "columns": columns,
        "filled": matrix.nnz / max(rows * columns, 1),
        "counts": counts,
        "largest": float(values.max(initial=0.0, where=np.isfinite(values))),
        "problems": [_plain(problem) for problem in problems],
        "notes": list(frame.notes),
    }
    kind = "whole numbers from 0: counts" if counts else "not counts: some are negative or broken"
    line = (
        f"{frame.origin}: sparse, {rows:,} rows x {columns:,} columns, {facts['filled']:.1%} "
        f"filled, largest {facts['largest']:g}; {kind}"
    )
    recipe = " --recipe counts" if counts or problems else ""
    found = [annotation(name, frame.annotations[name]) for name in frame.annotations.column_names]
    facts["annotations"] = [each._asdict() for each in found]
    flags = "".join(f" {each.flag}" for each in found if each.flag.startswith("--batch"))
    return Result(
        facts,
        lines=[line],
        notes=[*frame.notes, *_told(problems)],
        sheet=Sheet(
            ("annotation", "kind", "values", "looks like"),
            [(each.name, each.kind, each.values, each.told) for each in found],
            "annotations of the cells (obs)",
        )
        if found
        else None,
        details=_bad_values(problems),
        next=f"lowerbound fit {spell_path(data)}{recipe}{flags}{options.flags}",
    )


def _odd_counts(frame: Matrix) -> list[Problem]:
    """Return infinite and missing values, and the few others that are not counts.

    If many are not, the matrix does not hold counts.
    """
    data = frame.matrix.data
    broken = ~np.isfinite(data)
    uncounted = ~broken & ((data < 0) | (data != np.floor(data)))
    if uncounted.sum() > ODD * len(data):
        uncounted[:] = False
    return [
        *_listed(frame, broken, "E030", "infinite or NaN"),
        *_listed(frame, uncounted, "E073", "not a count: negative or not whole"),
    ]


def _listed(frame: Matrix, wrong: NDArray[np.bool_], code: str, why: str) -> list[Problem]:
    """Return the problems of the stored values of a matrix where `wrong` holds, by column."""
    if not wrong.any():
        return []
    data, cells = frame.matrix.data, frame.matrix.tocoo()
    problems: dict[str, list[tuple[int, str]]] = {}
    for at in np.flatnonzero(wrong)[:SHOWN]:
        name = frame.names[cells.col[at]]
        problems.setdefault(name, []).append((int(cells.row[at]) + 1, f"{data[at]:g}"))
    error = DataError(code, f"{int(wrong.sum()):,} values: {why}")
    totals = Counter(frame.names[j] for j in cells.col[wrong])
    return [
        Problem(name, why, error, tuple(found), totals[name]) for name, found in problems.items()
    ]


@_inspect.register
def _(frame: Images, data: object, options: _Options) -> Result:
    """Describe images as a whole: one line per pixel would be too many."""
    pixels = frame.pixels
    low, high = float(np.nanmin(pixels)), float(np.nanmax(pixels))
    missing = range_of(pixels).missing
    facts = {
        "origin": frame.origin,
        "rows": frame.rows,
        "shape": list(frame.shape),
        "lowest": low,
        "highest": high,
        "missing": missing,
        "notes": list(frame.notes),
    }
    size = " x ".join(map(str, frame.shape))
    line = (
        f"{frame.origin}: {frame.rows:,} pictures of {size}, values {low:g} to {high:g}, "
        f"{missing:,} pixels missing"
    )
    return Result(facts, lines=[line], next=f"lowerbound fit {spell_path(data)}")


def _latent(arguments: Mapping[str, Any], health: Mapping[str, Any]) -> str:
    """Return the size of z as text; for a hierarchy, of every level."""
    found = health.get("levels", ())
    levels = [level["latent"] for level in found][::-1]
    sizes = arguments.get("latents") or levels or [arguments.get("latent", health.get("latent"))]
    return " + ".join(str(n) for n in sizes) + f" {kind_of_units(found)}"


def kind_of_units(levels: Sequence[Mapping[str, Any]]) -> str:
    """Return the unit of the levels' sizes: codes or latent dimensions."""
    coded = any(level.get("perplexity") is not None for level in levels)
    return "codes" if coded else "latent dimensions"


def info(model: ModelPath, /) -> Result:
    """Describe a model: its recipe, its training data and its verdict.

    Examples:
        lowerbound info fraud.vae
        lowerbound info fraud.vae --json

    Args:
        model: a folder that `lowerbound fit` saved.
    """
    saved = bundle.load(model)
    contents.check(saved.documents)
    config, facts = saved.documents["config.json"], saved.documents["metrics.json"]
    calibration = saved.documents["calibration.json"]
    columns = _columns(saved.documents["schema.json"])
    alarm, plan = calibration.get("alarm", {}), facts.get("plan", {})
    found = {
        "path": str(saved.path),
        "sha256": saved.digest,
        "bytes": saved.bytes,
        "recipe": config["recipe"],
        "arguments": config["arguments"],
        "columns": columns,
        "alarm": alarm,
        "calibration_rows": len(calibration.get("scores", ())),
        **{key: facts.get(key) for key in ("version", "torch", "origin", "rows", "split")},
        "plan": plan,
        "objective": facts.get("objective"),
        "engine": facts.get("engine"),
        "health": facts.get("health", {}),
        **({"decoded": facts["decoded"]} if "decoded" in facts else {}),
        "rules": facts.get("rules", []),
    }
    latent = _latent(config["arguments"], found["health"])
    lines = [
        f"{saved.path.name}: recipe {config['recipe']}, {latent}, {spell_bytes(saved.bytes)}",
        f"trained on {facts.get('origin')}, {facts.get('rows', 0):,} rows, by lowerbound "
        f"{facts.get('version')} (preset {plan.get('preset')}, seed {plan.get('seed')})",
    ]
    if facts.get("engine"):  # missing in models of 0.1.0
        lines.append(_trained_by(facts["objective"], facts["engine"]))
    lines += reservations(facts.get("objective"))
    document = saved.documents["schema.json"]
    coding = document["coding"]
    if alarm and coding != "pairs":  # restoration models have no scores
        lines.append(_threshold(alarm))
    lines += found["health"].get("lines", [])
    kept = found["rules"]
    lines += [f"drawn and filled rows keep: {rule}" for rule in kept[:RULES]]
    if len(kept) > RULES:
        lines.append(f"and {len(kept) - RULES:,} more such rules, which --json lists")
    pictures = coding == "pictures"
    # Models of pictures and of counts have no columns to name.
    why = "" if pictures or coding == "counts" else " --explain 3"
    return Result(
        found,
        lines=lines,
        sheet=Sheet(
            ("column", "kind", "values"),
            [(c["column"], c["kind"], c["holds"]) for c in columns],
        ),
        next=spell_use(
            document["recipe"] if coding == "pairs" else "",
            spell_path(model),
            "NEW/" if pictures else "NEW.csv",
            why,
        ),
    )


def _trained_by(objective: Mapping[str, Any], engine: Mapping[str, Any]) -> str:
    """Return the objective and the engine settings of a fit in one line."""
    threads = f"{engine['threads']} thread{'' if engine['threads'] == 1 else 's'}"
    compiled = "steps compiled by XLA, " if engine.get("burst") else ""
    return f"trained by {trained_by(objective)}; {compiled}on {threads}, {engine['precision']}"


def _threshold(alarm: dict[str, float]) -> str:
    return (
        f"flags scores above {alarm['threshold']:.6g}: {alarm['rate']:.2%} of normal rows "
        f"(95 % interval {alarm['low']:.2%} to {alarm['high']:.2%})"
    )


def _columns(document: dict[str, Any]) -> list[dict[str, str]]:
    """Return the columns of a saved model: name, kind and values."""
    if document["coding"] == "counts":
        return [{"column": n, "kind": "count", "holds": "counts"} for n in document["names"]]
    if document["coding"] == "pictures":
        size = " x ".join(map(str, document["shape"]))
        last = "_".join(str(n - 1) for n in document["shape"])
        cells = f"values p{'_'.join('0' for _ in document['shape'])} to p{last}"
        return [{"column": "pictures", "kind": document["kind"], "holds": f"{size}, {cells}"}]
    if document["coding"] == "pairs":
        colours = "grey" if document["channels"] == 1 else "colours"
        return [
            {"column": "pictures", "kind": document["recipe"], "holds": f"{colours}, any size"}
        ]
    return [
        {"column": c["name"], "kind": c["kind"], "holds": _holds(c)}
        for c in document["schema"]["columns"]
    ]


def _holds(column: dict[str, Any]) -> str:
    if column.get("levels"):
        shown = ", ".join(column["levels"][:6])
        more = len(column["levels"]) - 6
        return shown + (f" and {more:,} more" if more > 0 else "")
    if column.get("value") is not None:
        return f"always {column['value']}"
    if "low" in column and "high" in column:
        return f"{_short(column['low'])} to {_short(column['high'])}"
    return "not modelled" if column["kind"] in ("id", "text", "constant") else ""


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def verify(model: ModelPath, /) -> Result:
    """Check every byte of a model against its digests, without running anything in it.

    Examples:
        lowerbound verify fraud.vae
        lowerbound verify fraud.vae --json

    Args:
        model: a folder that `lowerbound fit` saved.
    """
    clock = Clock()
    checked = bundle.verify(model)
    return Result(
        {
            "path": str(checked.path),
            "intact": True,
            "sha256": checked.digest,
            "bytes": checked.bytes,
            "files": list(checked.files),
        },
        lines=[
            f"OK: {len(checked.files)} files, {spell_bytes(checked.bytes)}, every digest matches "
            f"({clock():.2f} s)",
            f"sha256 {checked.digest}",
        ],
        next=f"lowerbound info {spell_path(model)}",
    )
