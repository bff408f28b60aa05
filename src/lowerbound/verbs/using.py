"""Verbs that put a model to use: score, embed, sample, impute, reconstruct, evaluate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lowerbound.data.source import Frame
from lowerbound.errors import UsageError
from lowerbound.verbs import parsing
from lowerbound.verbs.flags import Data, Model, Out, Renames, Rows, Share, Where
from lowerbound.verbs.outputs import (
    Clock,
    beside,
    check_table_target,
    deliver,
    is_array,
    open_data,
    spell_path,
)
from lowerbound.verbs.result import Remarks, Result, Sheet

if TYPE_CHECKING:
    from lowerbound.trained import Trained

SHOWN = 5  # rows of a result that people see
_MOST_CELLS = 10**9  # of a sample: 8 GB of float64


def load(model: Any) -> Trained:
    """Load a saved model; a `Trained` one passes through."""
    from lowerbound.trained import Trained  # torch takes seconds: only verbs that compute pay

    return model if isinstance(model, Trained) else Trained.load(model)


def ids_of(trained: Trained) -> list[str]:
    """Return the names of the columns that only tell rows apart."""
    schema = trained.coding.document().get("schema", {})
    return [c["name"] for c in schema.get("columns", ()) if c["kind"] == "id"]


def score(
    model: Model,
    data: Data,
    /,
    *,
    out: Out = None,
    explain: int = 0,
    fdr: Share = None,
    rename: Renames = (),
    overwrite: bool = False,
) -> Result:
    """Score every row: the higher, the more unusual. Says why, where asked.

    The score is -log p(row) in nats. The p-value is the share of normal rows that score as high,
    and is_anomaly marks the rows above the threshold that `fit --alarm-rate` has set. A row's
    score does not depend on the other rows.

    Examples:
        lowerbound score fraud.vae new.csv --out scores.csv
        lowerbound score fraud.vae new.parquet --out scores.parquet --explain 3
        lowerbound score fraud.vae new.csv --out scores.csv --rename Amount=amount

    Args:
        model: a folder that `lowerbound fit` saved.
        data: rows to score: a file, a folder or a "pattern*".
        out: where to write the scores: .csv, .tsv or .parquet.
        explain: name this many columns that add most to a high score, and what was expected.
        fdr: flag so that at most this share of the flagged rows are false alarms, such as 5%.
        rename: give a column of the data the name that the model knows; repeat it for more.
        overwrite: replace an earlier output.
    """
    if explain < 0:
        raise UsageError("E240", f"--explain is {explain}", fix="--explain 3")
    rate = None if fdr is None else parsing.share(fdr, "--fdr")
    if rate is not None and not 0 < rate < 1:
        raise UsageError("E240", f"--fdr is {fdr}, not between 0 and 1", fix="--fdr 5%")
    clock, target = Clock(), check_table_target(out, overwrite, data)
    if explain and is_array(target):
        raise UsageError("E236", "an array cannot hold explanations", fix="--out scores.parquet")
    trained, frame = load(model), open_data(data, rename)
    scores, coded = trained.score_table(frame, explain=explain, false_discovery_rate=rate)
    table = beside(frame, ids_of(trained), scores)
    n, flagged = scores.num_rows, int(pc.sum(scores["is_anomaly"]).as_py() or 0)
    took, remarks, top = clock(), Remarks.of(frame.notes, coded), _highest(table)
    delivered, path = deliver(frame, scores if is_array(target) else table, target, overwrite)
    rule = f"above {trained.alarm.threshold:.4g}" if rate is None else f"false discovery {rate:g}"
    facts = {
        "rows": n,
        "flagged": flagged,
        "threshold": trained.alarm.threshold,
        "expected_rate": trained.alarm.rate,
        "false_discovery_rate": rate,
        "seconds": took,
        **remarks.facts,
        "highest": top,
    }
    return Result(
        facts,
        table=delivered,
        lines=[f"{n:,} rows, {flagged:,} flagged ({flagged / n:.2%}, {rule}), {took:.1f} s"],
        notes=remarks.lines,
        sheet=_reasons(top),
        path=path,
        next=f"lowerbound embed {spell_path(model, 'M.vae')} {spell_path(data)} --out embedding.csv"
        if explain
        else f"{_again('score', model, data, target)} --explain 3 --overwrite",
    )


def _again(verb: str, model: Any, data: Any, target: Any) -> str:
    name = "scores.csv" if target is None else spell_path(target.name)
    return f"lowerbound {verb} {spell_path(model, 'M.vae')} {spell_path(data)} --out {name}"


def _highest(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows with the highest scores, plain values."""
    order = np.argsort(-table["anomaly_score"].to_numpy(), kind="stable")[:SHOWN]
    rows = table.take(pa.array(order)).to_pylist()
    return [{key: plain_value(value) for key, value in row.items()} for row in rows]


def plain_value(value: Any) -> Any:
    """Return a cell as a JSON value."""
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


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


def embed(
    model: Model,
    data: Data,
    /,
    *,
    out: Out = None,
    rename: Renames = (),
    overwrite: bool = False,
) -> Result:
    """Give every row a few numbers (its place in latent space), for plots and further models.

    Examples:
        lowerbound embed fraud.vae new.parquet --out embedding.parquet
        lowerbound embed fraud.vae new.csv --out embedding.npy

    Args:
        model: a folder that `lowerbound fit` saved.
        data: rows to embed: a file, a folder or a "pattern*".
        out: where to write: .csv, .tsv, .parquet, or .npy for the numbers alone.
        rename: give a column of the data the name that the model knows; repeat it for more.
        overwrite: replace an earlier output.
    """
    clock, target = Clock(), check_table_target(out, overwrite, data)
    trained = load(model)
    frame, coded = trained.encode(open_data(data, rename))
    z = trained.embed(frame)
    numbers = pa.table({f"z{i}": z[:, i] for i in range(z.shape[1])})
    table = numbers if is_array(target) else beside(frame, ids_of(trained), numbers)
    remarks = Remarks.of(frame.notes, coded)
    delivered, path = deliver(frame, table, target, overwrite)
    facts = {"rows": len(z), "latent": z.shape[1], "seconds": clock(), **remarks.facts}
    return Result(
        facts,
        table=delivered,
        lines=[f"{len(z):,} rows x {z.shape[1]} latent numbers, {clock():.1f} s"],
        notes=remarks.lines,
        path=path,
        next=f"lowerbound sample {spell_path(model, 'M.vae')} -n 1000 --out samples.csv",
    )


def sample(
    model: Model,
    /,
    *,
    n: Rows = 1000,
    out: Out = None,
    where: Where = (),
    temperature: float = 1.0,
    seed: int = 0,
    overwrite: bool = False,
) -> Result:
    """Draw new rows: every cell from the distribution that the model learned for it.

    Examples:
        lowerbound sample fraud.vae -n 1000 --out samples.csv
        lowerbound sample fraud.vae -n 200 --out fr.csv --where country=FR
        lowerbound sample fraud.vae -n 1000 --out tame.parquet --temperature 0.7

    Args:
        model: a folder that `lowerbound fit` saved.
        n: how many rows.
        out: where to write them: .csv, .tsv, .parquet or .npy.
        where: a value that a column must have; repeat it for more columns.
        temperature: 1 is the model's own variety, less is tamer, more is wilder.
        seed: another one gives other rows.
        overwrite: replace an earlier output.
    """
    clock, target = Clock(), check_table_target(out, overwrite)
    if not 0 < temperature < float("inf"):
        raise UsageError("E240", f"--temperature is {temperature}", fix="--temperature 0.8")
    given = parsing.pairs(where, "--where", "country=FR")
    if given and temperature != 1.0:
        raise UsageError(
            "E236", "--where and --temperature cannot be combined", fix="leave one of them out"
        )
    parsing.at_least(n, 1, "-n")
    parsing.at_least(seed, 0, "--seed")
    trained = load(model)
    width = len(trained.coding.groups)
    if n * width > _MOST_CELLS:
        raise UsageError(
            "E240",
            f"{n:,} rows x {width:,} columns would need more than 8 GB",
            fix=f"-n {_MOST_CELLS // width}, several times with another --seed",
        )
    typed = {name: _cell(trained, name, value) for name, value in given.items()}
    drawn = trained.sample(n, seed=seed, temperature=temperature, where=typed or None)
    delivered, path = deliver(None, drawn.table, target, overwrite)
    effective = drawn.effective_samples
    lines = [f"{n:,} rows drawn, {clock():.1f} s"]
    notes = []
    if effective is not None:
        lines.append(f"given {', '.join(f'{k} = {v}' for k, v in typed.items())}: "
                     f"worth {effective:,.0f} independent draws")
        if effective < 0.1 * n:
            notes.append("the condition is rare under the model: many rows resemble each other")
    return Result(
        {"rows": n, "given": typed, "effective_samples": effective, "seconds": clock()},
        table=delivered,
        lines=lines,
        notes=notes,
        path=path,
        next=f"lowerbound inspect {spell_path(path, 'samples.csv')}",
    )


def _cell(trained: Trained, name: str, value: Any) -> Any:
    """Read a value of --where as the column's own type."""
    schema = trained.coding.document().get("schema", {})
    types = {column["name"]: column["dtype"] for column in schema.get("columns", ())}
    dtype = types.get(name, "int64" if not schema else "")
    if not isinstance(value, str) or not dtype.startswith(("int", "uint", "float", "double", "bool")):
        return value
    try:
        return bool(_TRUTH[value.lower()]) if dtype == "bool" else json.loads(value)
    except (KeyError, ValueError):
        raise parsing.refusal(
            f"--where {name}", value, f"of the column's type, {dtype}", f"--where {name}=1"
        ) from None


_TRUTH = {"true": 1, "1": 1, "yes": 1, "false": 0, "0": 0, "no": 0}


def impute(
    model: Model,
    data: Data,
    /,
    *,
    out: Out = None,
    draws: int | None = None,
    seed: int = 0,
    rename: Renames = (),
    overwrite: bool = False,
) -> Result:
    """Fill in missing cells from what the row's other cells tell; observed cells stay as they are.

    Examples:
        lowerbound impute fraud.vae gaps.csv --out full.csv
        lowerbound impute fraud.vae gaps.csv --out five.parquet --draws 5

    Args:
        model: a folder that `lowerbound fit` saved.
        data: rows with missing cells: a file, a folder or a "pattern*".
        out: where to write the completed rows: .csv, .tsv, .parquet or .npy.
        draws: instead of the expected value, this many random completions of the whole table,
            one under the other, told apart by the column `draw` (multiple imputation).
        seed: of the draws.
        rename: give a column of the data the name that the model knows; repeat it for more.
        overwrite: replace an earlier output.
    """
    clock, target = Clock(), check_table_target(out, overwrite, data)
    if draws is not None:
        parsing.at_least(draws, 1, "--draws")
    parsing.at_least(seed, 0, "--seed")
    trained = load(model)
    frame, coded = trained.encode(open_data(data, rename))
    table = trained.impute(frame, draws=draws, seed=seed)
    delivered, path = deliver(frame, table, target, overwrite)
    left = _gaps(table) // (draws or 1)
    filled = _gaps_of(frame) - left
    remarks = Remarks.of(frame.notes, coded)
    facts = {
        "rows": frame.rows,
        "draws": draws,
        "filled": filled,
        "left": left,
        "seconds": clock(),
        **remarks.facts,
    }
    lines = [f"{filled:,} missing cells filled in {frame.rows:,} rows, {clock():.1f} s"]
    if left:
        lines.append(f"{left:,} stay missing, in columns that are not modelled (ids, free text)")
    return Result(
        facts,
        table=delivered,
        lines=lines,
        notes=remarks.lines,
        path=path,
        next=f"lowerbound inspect {spell_path(path, 'full.csv')}",
    )


def _gaps(table: pa.Table) -> int:
    """Count the missing cells."""
    counts = (pc.sum(pc.is_null(column, nan_is_null=True)).as_py() for column in table.columns)
    return sum(count or 0 for count in counts)


def _gaps_of(frame: Frame) -> int:
    return 0 if frame.table is None else _gaps(frame.table)


def reconstruct(
    model: Model,
    data: Data,
    /,
    *,
    out: Out = None,
    rename: Renames = (),
    overwrite: bool = False,
) -> Result:
    """Write every row as the model would have it: what is unusual about it is smoothed away.

    Examples:
        lowerbound reconstruct fraud.vae new.csv --out expected.csv

    Args:
        model: a folder that `lowerbound fit` saved.
        data: rows: a file, a folder or a "pattern*".
        out: where to write: .csv, .tsv, .parquet or .npy.
        rename: give a column of the data the name that the model knows; repeat it for more.
        overwrite: replace an earlier output.
    """
    clock, target = Clock(), check_table_target(out, overwrite, data)
    trained = load(model)
    frame, coded = trained.encode(open_data(data, rename))
    rows = trained.reconstruct(frame)
    table = rows if is_array(target) else beside(frame, ids_of(trained), rows)
    remarks = Remarks.of(frame.notes, coded)
    delivered, path = deliver(frame, table, target, overwrite)
    return Result(
        {"rows": frame.rows, "seconds": clock(), **remarks.facts},
        table=delivered,
        lines=[f"{frame.rows:,} rows x {rows.num_columns} columns, {clock():.1f} s"],
        notes=remarks.lines,
        path=path,
        next=f"lowerbound score {spell_path(model, 'M.vae')} {spell_path(data)} "
        "--out scores.csv --explain 3",
    )


def evaluate(
    model: Model,
    data: Data,
    /,
    *,
    samples: int = 128,
    ais: bool = False,
    rename: Renames = (),
) -> Result:
    """Measure how well a model fits rows: the ELBO, and a tighter bound on log p(rows).

    All numbers are nats per row of the raw values; compare models by iw_nll, lower is better.

    Examples:
        lowerbound evaluate fraud.vae held_out.csv
        lowerbound evaluate fraud.vae held_out.csv --samples 1000 --json
        lowerbound evaluate fraud.vae held_out.csv --ais

    Args:
        model: a folder that `lowerbound fit` saved.
        data: rows that training has not seen: a file, a folder or a "pattern*".
        samples: importance samples per row; more make the bound tighter.
        ais: also run annealed importance sampling on a few rows, slow and nearly exact.
        rename: give a column of the data the name that the model knows; repeat it for more.
    """
    parsing.at_least(samples, 1, "--samples")
    clock = Clock()
    trained = load(model)
    frame, coded = trained.encode(open_data(data, rename))
    report = trained.evaluate(frame, samples=samples, ais=ais)
    remarks = Remarks.of(frame.notes, coded)
    rows = [
        ("ELBO", f"{report['elbo']:.4f}", "a lower bound of log p(row); higher is better"),
        ("distortion", f"{report['distortion']:.4f}", "what reconstruction costs"),
        ("rate", f"{report['rate']:.4f}", "what the latents carry"),
        (
            "IW-NLL",
            f"{report['iw_nll']:.4f} +- {report['iw_nll_standard_error']:.4f}",
            f"-log p(row) from {samples} samples; lower is better",
        ),
        ("active", f"{report['active_units']} of {report['latent']}", "latent dimensions in use"),
    ]
    if ais:
        rows.append(("AIS", f"{report['ais_nll']:.4f}", f"on {report['ais_rows']} rows"))
    return Result(
        {**report, "seconds": clock(), **remarks.facts},
        lines=[f"{report['rows']:,} rows, {clock():.1f} s; nats per row of the raw values"],
        notes=remarks.lines,
        sheet=Sheet(("measure", "value", "meaning"), rows, right=("value",)),
        next=f"lowerbound doctor {spell_path(model, 'M.vae')} {spell_path(data)}",
    )
