"""Verbs that tell about given rows: score, embed, reconstruct, evaluate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lowerbound.cli import parsing
from lowerbound.cli.flags import (
    By,
    Data,
    Folder,
    Heard,
    Model,
    Number,
    Out,
    Policy,
    Renames,
    Share,
    Whole,
)
from lowerbound.cli.inputs import walk_for
from lowerbound.cli.outputs import (
    Clock,
    beside,
    check_embedding_target,
    check_table_target,
    deliver,
    deliver_beside,
    is_array,
    is_cells,
    spell_path,
    walked,
)
from lowerbound.cli.progress import SILENT, Voice
from lowerbound.cli.result import Remarks, Result, Sheet
from lowerbound.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lowerbound.coding.base import Coded
    from lowerbound.files.stream import Given
    from lowerbound.tasks.trained import Trained


def load(model: Any) -> Trained:
    """Load a saved model; a `Trained` one passes through."""
    # Imported only now, since it imports torch: --help does not wait for it.
    trained = import_module("lowerbound.tasks.trained").Trained
    return model if isinstance(model, trained) else trained.load(model)


def _work(name: str) -> Any:
    """Return a module that does the work of verbs; help does not wait for its torch."""
    return import_module(f"lowerbound.cli.work.{name}")


def places() -> Any:
    """Return the module that knows where pictures go."""
    return import_module("lowerbound.cli.places")


def why(trained: Trained) -> str:
    """Spell the flag that has `score` name columns, where the model can."""
    return " --explain 3" if trained.explains else ""


def _counted(n: int, columns: int, shape: Sequence[int]) -> str:
    """Spell how much there is of rows or pictures."""
    if shape:
        return f"{n:,} pictures of {' x '.join(map(str, shape))}"
    return f"{n:,} rows x {columns} columns"


def ids_of(trained: Trained) -> list[str]:
    """Return the names of the columns that only tell rows apart."""
    schema = trained.coding.document().get("schema", {})
    return [c["name"] for c in schema.get("columns", ()) if c["kind"] == "id"]


def score(  # noqa: PLR0913 - a verb's arguments are its flags
    model: Model,
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
    """Score every row: the higher, the more unusual. Says why, where asked.

    The score is -log p(row) in nats, or what --by says. The p-value is the share of normal rows
    that score as high, and is_anomaly marks the rows above the threshold that `fit --alarm-rate`
    has set. A row's score does not depend on the other rows.

    Examples:
        lowerbound score fraud.vae new.csv --out scores.csv --explain 3
        lowerbound score photos.vae new/ --out scores.csv --heatmaps heat/
        lowerbound score photos.vae new/ --out scores.csv --by typicality

    Args:
        model: a folder that `lowerbound fit` saved.
        data: rows to score: a file, a folder or a "pattern*".
        out: where to write the scores: .csv, .tsv or .parquet.
        by: likelihood is -log p; typicality how far that is from the -log p of normal rows, so
            that too likely ones stand out too; levels, of models with several levels of latents,
            what the lowest one says of a row beyond what those above foretell.
        explain: name this many columns that add most to a high score, and what was expected.
        fdr: flag so that at most this share of the flagged rows are false alarms, such as 5%.
        heatmaps: of pictures: write a folder of PNG files that show where the flagged and the
            highest-scoring ones are unusual.
        rename: give a column of the data the name that the model knows; repeat it for more.
        on_bad_file: skip or fail, of unreadable pictures; by default up to 1 % are left out.
        overwrite: replace an earlier output.
        ray: score the files of a folder on a Ray cluster, that of RAY_ADDRESS or one started here;
            --out is then a folder of Parquet files, one for each.
        workers: how many processes of it at most.
        voice: hears how it goes; in Python nobody does.
    """
    explain = parsing.at_least(explain, 0, "--explain")
    rate = None if fdr is None else parsing.share(fdr, "--fdr")
    if rate is not None and not 0 < rate < 1:
        raise UsageError("E240", f"--fdr must be between 0 and 1, got {fdr}", fix="--fdr 5%")
    cluster = _cluster(ray, workers, {"--fdr": fdr, "--heatmaps": heatmaps})
    clock, target = Clock(), _target(out, overwrite, data, ray, check_table_target)
    if explain and is_array(target):
        raise UsageError("E236", "an array cannot hold explanations", fix="--out scores.parquet")
    heat = None if heatmaps is None else places().check_picture_folder(heatmaps, overwrite, data)
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
        "seconds": took,
        **seen.remarks.facts,
        "highest": top,
        **({} if heat is None else _work("heatmaps").write(trained, seen.last, heat, overwrite)),
    }
    after = f"lowerbound embed {spell_path(model, 'M.vae')} {spell_path(data)} --out embedding.csv"
    return Result(
        facts,
        table=table,
        lines=[f"{n:,} rows, {flagged:,} flagged ({flagged / n:.2%}, {rule}), {took:.1f} s"],
        notes=seen.remarks.lines,
        sheet=_reasons(top),
        path=path,
        next=after
        if explain or not (trained.explains and way.measure.parted)
        else f"{_again('score', model, data, target)} --explain 3 --overwrite{' --ray' * ray}",
    )


def _cluster(ray: bool, workers: object, whole: Mapping[str, object]) -> int | None:
    """Read --workers, and refuse with --ray what asks for all rows at once."""
    if not ray and workers is None:
        return None
    for flag, asked in whole.items():
        if ray and asked is not None:
            raise UsageError(
                "E236",
                f"{flag} looks at all rows at once, and --ray at each file by itself",
                fix=f"leave out --ray, or {flag}",
            )
    return _work("cluster").count(ray, workers)


def _target(out: Any, overwrite: bool, data: Any, ray: bool, check: Callable[..., Any]) -> Any:
    """Refuse a place where rows could not be written: a file, or with --ray a folder of them."""
    return (_work("cluster").check_parts if ray else check)(out, overwrite, data)


def _again(verb: str, model: Any, data: Any, target: Any) -> str:
    name = "scores.csv" if target is None else spell_path(target.name)
    return f"lowerbound {verb} {spell_path(model, 'M.vae')} {spell_path(data)} --out {name}"


def _reasons(top: Sequence[dict[str, Any]]) -> Sheet:
    """Show the rows with the highest scores, and why where that is known."""
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


class _Made:
    """Tables that are made of rows part by part, and what is to be told of them.

    Args:
        trained: the model.
        given: the rows.
        make: returns as many rows for coded ones.

    Attributes:
        remarks: what reading and coding came across.
        columns: of what was made.
    """

    def __init__(self, trained: Trained, given: Given, make: Callable[[Coded], pa.Table]) -> None:
        self.trained, self.given, self.make = trained, given, make
        self.remarks, self.columns = Remarks(given.notes), 0

    def tables(self, voice: Voice, *, plain: bool) -> Iterator[pa.Table]:
        """Yield what is made of every part: alone, or beside the rows' numbers and ids."""
        for frame, coded in walked(self.given, self.trained, voice):
            table = self.make(coded)
            self.remarks.add(coded)
            self.columns = table.num_columns
            yield table if plain else beside(frame, ids_of(self.trained), table)


def _latents(z: NDArray[np.float32]) -> pa.Table:
    return pa.table({f"z{i}": z[:, i] for i in range(z.shape[1])})


def embed(  # noqa: PLR0913 - a verb's arguments are its flags
    model: Model,
    data: Data,
    /,
    *,
    out: Out = None,
    rename: Renames = (),
    on_bad_file: Policy = None,
    overwrite: bool = False,
    ray: bool = False,
    workers: Whole = None,
    voice: Heard = SILENT,
) -> Result:
    """Give every row a few numbers (its place in latent space), for plots and further models.

    Examples:
        lowerbound embed fraud.vae new.parquet --out embedding.parquet
        lowerbound embed fraud.vae new.csv --out embedding.npy
        lowerbound embed pbmc.vae pbmc.h5ad --out embedded.h5ad

    Args:
        model: a folder that `lowerbound fit` saved.
        data: rows to embed: a file, a folder or a "pattern*".
        out: where to write: .csv, .tsv, .parquet, or .npy for the numbers alone; of cells in an
            .h5ad file also .h5ad: the same file with obsm["X_lowerbound"].
        rename: give a column of the data the name that the model knows; repeat it for more.
        on_bad_file: skip or fail, of unreadable pictures; by default up to 1 % are left out.
        overwrite: replace an earlier output.
        ray: embed the files of a folder on a Ray cluster, that of RAY_ADDRESS or one started here;
            --out is then a folder of Parquet files, one for each.
        workers: how many processes of it at most.
        voice: hears how it goes; in Python nobody does.
    """
    cluster = _cluster(ray, workers, {})
    clock, target = Clock(), _target(out, overwrite, data, ray, check_embedding_target)
    trained = load(model)
    given = walk_for(trained, data, rename, on_bad_file)
    made = _Made(trained, given, lambda coded: _latents(trained.embed_coded(coded)))
    tables = made.tables(voice, plain=is_array(target) or is_cells(target))
    if ray:
        walk = _work("cluster").Walk("embed", trained, given, {})
        for files in walk.done(target, overwrite, cluster, voice):
            made.remarks.absorb(files)
        delivered, path = None, target
    elif target is not None and is_cells(target):
        delivered, path = None, deliver_beside(data, tables, target, overwrite)
    else:
        delivered, path = deliver(given, tables, target, overwrite)
    rows, latent = given.rows, trained.latent
    facts = {"rows": rows, "latent": latent, "seconds": clock(), **made.remarks.facts}
    return Result(
        facts,
        table=delivered,
        lines=[f"{rows:,} rows x {latent} latent numbers, {clock():.1f} s"],
        notes=made.remarks.lines,
        path=path,
        next=f"lowerbound sample {spell_path(model, 'M.vae')} "
        + ("-n 16 --out grid.png" if trained.coding.shape else "-n 1000 --out samples.csv"),
    )


def reconstruct(
    model: Model,
    data: Data,
    /,
    *,
    out: Out = None,
    rename: Renames = (),
    on_bad_file: Policy = None,
    overwrite: bool = False,
    voice: Heard = SILENT,
) -> Result:
    """Write every row as the model would have it: what is unusual about it is smoothed away.

    Examples:
        lowerbound reconstruct fraud.vae new.csv --out expected.csv
        lowerbound reconstruct photos.vae new/ --out expected/

    Args:
        model: a folder that `lowerbound fit` saved.
        data: rows: a file, a folder or a "pattern*".
        out: where to write: .csv, .tsv, .parquet or .npy; pictures also as a grid, .png, or as a
            folder of PNG files, such as pictures/.
        rename: give a column of the data the name that the model knows; repeat it for more.
        on_bad_file: skip or fail, of unreadable pictures; by default up to 1 % are left out.
        overwrite: replace an earlier output.
        voice: hears how it goes; in Python nobody does.
    """
    clock, target = Clock(), places().check_picture_target(out, overwrite, data)
    trained = load(model)
    given = walk_for(trained, data, rename, on_bad_file)
    made = _Made(trained, given, trained.reconstruct_coded)
    tables = made.tables(voice, plain=target.plain)
    delivered, path = target.deliver(trained, given, tables, overwrite)
    return Result(
        {"rows": given.rows, "seconds": clock(), **made.remarks.facts},
        table=delivered,
        lines=[f"{_counted(given.rows, made.columns, trained.coding.shape)}, {clock():.1f} s"],
        notes=made.remarks.lines,
        path=path,
        next=f"lowerbound score {spell_path(model, 'M.vae')} {spell_path(data)} "
        f"--out scores.csv{why(trained)}",
    )
