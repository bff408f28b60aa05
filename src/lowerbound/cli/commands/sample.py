"""The command sample: new rows drawn from the model."""

from __future__ import annotations

import json
import math
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lowerbound.cli import parsing
from lowerbound.cli.flags import ModelPath, Number, Out, Rows, Where
from lowerbound.cli.models import load
from lowerbound.cli.outputs import Clock, spell_path
from lowerbound.cli.result import Result
from lowerbound.errors import UsageError

if TYPE_CHECKING:
    from lowerbound.tasks.trained import Model

_MOST_CELLS = 10**9  # largest sample: 8 GB of float64
_TRUTH = {"true": 1, "1": 1, "yes": 1, "false": 0, "0": 0, "no": 0}


def sample(  # noqa: PLR0913 - the arguments are the command's flags
    model: ModelPath,
    /,
    *,
    n: Rows = 1000,
    out: Out = None,
    where: Where = (),
    temperature: float = 1.0,
    top_k: Number | None = None,
    seed: Number = 0,
    overwrite: bool = False,
) -> Result:
    """Draw new rows from the distribution that the model learned.

    Examples:
        lowerbound sample fraud.vae -n 1000 --out samples.csv
        lowerbound sample fraud.vae -n 200 --out fr.csv --where country=FR
        lowerbound sample photos.vae -n 64 --out grid.png

    Args:
        model: a folder that `lowerbound fit` saved.
        n: the number of rows.
        out: where to write them: .csv, .tsv, .parquet or .npy; pictures also as a grid, .png, or
            as a folder of PNG files, such as pictures/.
        where: a value that a column must have; repeat it for more columns.
        temperature: scale of the prior; below 1 the rows are closer to the typical ones.
        top_k: for vqvae and vqvae2: draw each code from this many of the most likely codes.
        seed: the random seed; the same seed gives the same rows.
        overwrite: replace an earlier output.
    """
    places = import_module("lowerbound.cli.places")  # imports torch: --help does not wait
    clock, target = Clock(), places.check_picture_target(out, overwrite)
    if not 0 < temperature < float("inf"):
        message = f"--temperature must be above 0 and finite, got {temperature}"
        raise UsageError("E240", message, fix="--temperature 0.8")
    given = parsing.pairs(where, "--where", "country=FR")
    top_k = None if top_k is None else parsing.at_least(top_k, 1, "--top-k")
    for flag, used in [("--temperature", temperature != 1.0), ("--top-k", top_k is not None)]:
        if given and used:
            raise UsageError(
                "E236", f"--where and {flag} cannot be combined", fix="leave one of them out"
            )
    n = parsing.at_least(n, 1, "-n")
    seed = parsing.at_least(seed, 0, "--seed")
    trained = load(model)
    width = math.prod(trained.coding.shape) or len(trained.coding.groups)
    if n * width > _MOST_CELLS:
        raise UsageError(
            "E240",
            f"-n must be at most {_MOST_CELLS // width:,} for {width:,} columns (8 GB), got {n:,}",
            fix=f"-n {_MOST_CELLS // width}, several times with another --seed",
        )
    typed = {name: _cell(trained, name, value) for name, value in given.items()}
    drawn = trained.samples(
        n, seed=seed, temperature=temperature, top_k=top_k, where=typed or None
    )
    delivered, path = target.deliver(trained, None, [drawn.table], overwrite)
    effective = drawn.effective_samples
    lines = [f"{n:,} rows drawn, {clock():.1f} s"]
    notes = []
    if effective is not None:
        lines.append(
            f"given {', '.join(f'{k} = {v}' for k, v in typed.items())}: "
            f"worth {effective:,.0f} independent draws"
        )
        notes.extend(drawn.notes)
        if effective < 0.1 * n:
            notes.append(
                f"the condition is rare under the model: the {n:,} rows vary like "
                f"{effective:,.0f} independent draws, and many are similar"
            )
    after = f"lowerbound inspect {spell_path(path, 'samples.csv')}"
    if trained.coding.shape:
        notes.append("pixels are drawn with their noise; plot shows their expected values")
        after = f"lowerbound plot {spell_path(model, 'M.vae')} samples --out samples.png"
    return Result(
        {"rows": n, "given": typed, "effective_samples": effective, "seconds": clock()},
        table=delivered,
        lines=lines,
        notes=notes,
        path=path,
        next=after,
    )


def _cell(trained: Model, name: str, value: Any) -> Any:
    """Read a value of --where as a number or truth value where its column holds such values.

    Other text is left to the model, which reads it or says why not.
    """
    schema = trained.coding.document().get("schema", {})
    types = {column["name"]: column["dtype"] for column in schema.get("columns", ())}
    dtype = types.get(name, "" if schema else "int64")
    if not isinstance(value, str):
        return value
    if dtype == "bool":
        return bool(_TRUTH[value.lower()]) if value.lower() in _TRUTH else value
    if not dtype.startswith(("int", "uint", "float", "double", "halffloat")):
        return value
    try:
        number = json.loads(value)
    except ValueError:
        return value
    return number if isinstance(number, int | float) else value
