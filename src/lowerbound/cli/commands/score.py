"""The command score: compute how unusual each row is, and why."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from lowerbound.cli import parsing
from lowerbound.cli.cluster_flags import target_of, workers_of
from lowerbound.cli.flags import (
    By,
    Data,
    Folder,
    Heard,
    ModelPath,
    Number,
    Out,
    Policy,
    Renames,
    Share,
    Whole,
)
from lowerbound.cli.inputs import walk_for
from lowerbound.cli.models import ids_of, load
from lowerbound.cli.outputs import (
    Clock,
    check_table_target,
    deliver,
    is_array,
    spell_flags,
    spell_path,
)
from lowerbound.cli.progress import SILENT
from lowerbound.cli.result import Result, Sheet
from lowerbound.errors import UsageError
from lowerbound.training import units


def _work(name: str) -> Any:
    """Import a module of `cli.work`; only now, because it imports torch."""
    return import_module(f"lowerbound.cli.work.{name}")


def score(  # noqa: PLR0913 - the arguments are the command's flags
    model: ModelPath,
    data: Data,
    /,
    *,
    out: Out = None,
    by: By = "likelihood",
    explain: Number = 0,
    fdr: Share = None,
    heatmaps: Folder = None,
    rename: Renames = (),
    on_bad_file: Policy = None,
    overwrite: bool = False,
    ray: bool = False,
    workers: Whole = None,
    voice: Heard = SILENT,
) -> Result:
    """Score every row: the higher, the more unusual. With --explain, also say why.

    The score is -log p(row) in nats, unless --by chooses another. The p-value is the share of
    normal rows that score as high, and is_anomaly marks the rows above the threshold that
    `fit --alarm-rate` has set. The score of a row does not depend on the other rows.

    Examples:
        lowerbound score fraud.vae new.csv --out scores.csv --explain 3
        lowerbound score photos.vae new/ --out scores.csv --heatmaps heat/
        lowerbound score photos.vae new/ --out scores.csv --by typicality

    Args:
        model: a folder that `lowerbound fit` saved.
        data: rows to score: a file, a folder or a "pattern*".
        out: where to write the scores: .csv, .tsv or .parquet.
        by: likelihood: -log p(row). typicality: its distance from the -log p of normal rows, so
            that rows that are too likely stand out too. levels: for models with several levels
            of latents, the information in the lowest level that the others do not predict.
        explain: name this many columns that add most to a high score, and the expected values.
        fdr: limit the share of false alarms among the flagged rows, such as to 5%. A note says
            if this takes more calibration rows than the model has.
        heatmaps: for pictures: write a folder of PNG files that show where the flagged and the
            highest-scoring pictures are unusual.
        rename: rename a column of the data to the name in the model; repeat it for more.
        on_bad_file: skip or fail, for unreadable pictures; by default up to 1 % are left out.
        overwrite: replace an earlier output.
        ray: score the files of a folder on the Ray cluster at RAY_ADDRESS, or a local one; --out
            is then a folder with one Parquet file for each.
        workers: the largest number of processes for --ray.
        voice: receives the progress.
    """
    explain = parsing.at_least(explain, 0, "--explain")
    rate = None if fdr is None else units.share(fdr, "--fdr")
    if rate is not None and not 0 < rate < 1:
        raise UsageError("E240", f"--fdr must be between 0 and 1, got {fdr}", fix="--fdr 5%")
    cluster = workers_of(ray, workers, {"--fdr": fdr, "--heatmaps": heatmaps})
    clock, target = Clock(), target_of(out, overwrite, data, ray, check_table_target)
    if explain and is_array(target):
        raise UsageError("E236", "an array cannot hold explanations", fix="--out scores.parquet")
    heat = (
        None
        if heatmaps is None
        else import_module("lowerbound.cli.places").check_picture_folder(heatmaps, overwrite, data)
    )
    trained = load(model)
    way = trained.scoring(by)
    if heat is not None:
        _work("heatmaps").check(trained)
    for flag, asked in [("--explain", explain), ("--heatmaps", heatmaps)]:
        if asked:
            way.check_parted(flag)
    given = walk_for(trained, data, rename, on_bad_file)
    seen = _work("score").Scored(trained, way, ids_of(trained), explain)
    if ray:
        walk = _work("cluster").Walk("score", trained, given, {"by": by, "explain": explain})
        for files in walk.done(target, overwrite, cluster, voice):
            seen.absorb(files)
        table, path = None, target
    else:
        tables = seen.tables(given, rate, voice, plain=is_array(target))
        table, path = deliver(given, tables, target, overwrite)
    took, n, flagged, top = clock(), seen.rows, seen.flagged, seen.highest
    rule = f"above {way.alarm.threshold:.4g}" if rate is None else f"false discovery {rate:g}"
    facts = {
        "rows": n,
        "flagged": flagged,
        "by": by,
        "threshold": way.alarm.threshold,
        "expected_rate": way.alarm.rate,
        "false_discovery_rate": rate,
        **({} if seen.coarse is None else {"calibration_rows_needed": seen.coarse.needed()}),
        "seconds": took,
        **seen.remarks.facts,
        "highest": top,
        **({} if heat is None else _work("heatmaps").write(trained, seen.last, heat, overwrite)),
    }
    named = f"{spell_path(model, 'M.vae')} {spell_path(data)}"
    flags = spell_flags(rename=rename, on_bad_file=on_bad_file)
    asked = spell_flags(by="" if by == "likelihood" else by, fdr=fdr, ray=ray, workers=workers)
    file = "scores.csv" if target is None else spell_path(target.name)
    return Result(
        facts,
        table=table,
        lines=[f"{n:,} rows, {flagged:,} flagged ({flagged / n:.2%}, {rule}), {took:.1f} s"],
        notes=seen.remarks.lines,
        sheet=_reasons(top),
        path=path,
        next=f"lowerbound embed {named} --out embedding.csv{flags}"
        if explain or not (trained.explains and way.measure.parted)
        else f"lowerbound score {named} --out {file} --explain 3 --overwrite{asked}{flags}",
    )


def _reasons(top: Sequence[dict[str, Any]]) -> Sheet:
    """Return a table of the rows with the highest scores, with reasons if known."""
    names = list(top[0])
    front = names[: names.index("anomaly_score")][:2]  # the row, and an id where there is one
    why = ["why"] if "top1_column" in names else []
    rows = [
        [str(row[name]) for name in front]
        + [f"{row['anomaly_score']:.2f}", f"{row['p_value']:.2g}"]
        + [_why(row) for _ in why]
        for row in top
    ]
    columns = [*front, "anomaly_score", "p_value", *why]
    return Sheet(columns, rows, "highest scores", right=("row", "anomaly_score", "p_value"))


def _why(row: dict[str, Any]) -> str:
    ranks = range(1, 1 + sum(name.endswith("_column") for name in row))
    return "; ".join(
        f"{row[f'top{r}_column']} {row[f'top{r}_value']} (expected {row[f'top{r}_expected']})"
        for r in ranks
        if row.get(f"top{r}_column") and row[f"top{r}_nats"] > 0
    )
