"""The demo command: every step of a first use, on a real table that ships with scikit-learn."""

from __future__ import annotations

import gzip
import io
import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv
from rich.console import Console

from lowerbound.cli.commands.embed import embed
from lowerbound.cli.commands.fit import fit
from lowerbound.cli.commands.impute import impute
from lowerbound.cli.commands.inspect import inspect
from lowerbound.cli.commands.sample import sample
from lowerbound.cli.commands.score import score
from lowerbound.cli.flags import Heard, Out
from lowerbound.cli.models import load
from lowerbound.cli.outputs import Clock, check_apart, spell_path
from lowerbound.cli.printing import console, show
from lowerbound.cli.progress import SILENT, Voice
from lowerbound.cli.result import Result, Sheet
from lowerbound.errors import ResourceError, UsageError
from lowerbound.files.write import write_table

_MADE = (
    "train.csv",
    "new.csv",
    "titanic.vae",
    "scores.csv",
    "filled.csv",
    "embedding.csv",
    "samples.csv",
)
_CLASSES = ("first", "second", "third")
_MODELLED = ("class", "survived", "sex", "age", "sibsp", "parch", "fare", "embarked")
_HELD_BACK = 5  # one passenger in five is held out


class Filled(NamedTuple):
    """The result of hiding one column and filling it in.

    Attributes:
        column: the name of the column.
        measure: "share right" for a category, "mean error" for a number, in its own unit.
        model: the measure of the values that the model fills in.
        constant: the measure of the commonest training value, or of the training median.
    """

    column: str
    measure: str
    model: float
    constant: float


def demo(*, out: Out = "demo", overwrite: bool = False, voice: Heard = SILENT) -> Result:
    """Fit a model to the passengers of the Titanic; score, fill in and draw rows with it.

    The table has 1,309 rows of mixed kinds, with a fifth of the ages missing, and ships with
    scikit-learn: no network is needed. One passenger in five is held out; the
    model then finds the unusual ones among them, and fills in values that were hidden from it.

    Examples:
        lowerbound demo
        lowerbound demo --out /tmp/demo --overwrite

    Args:
        out: the folder for the data, the model and the results.
        overwrite: replace an earlier demo.
        voice: receives the progress.
    """
    clock, table = Clock(), passengers()
    folder = _folder(out or "demo", overwrite)
    paths = {name: folder / name for name in _MADE}
    held_back = np.arange(table.num_rows) % _HELD_BACK == 1
    train, new = table.filter(pa.array(~held_back)), table.filter(pa.array(held_back))
    write_table(train, paths["train.csv"], overwrite)
    write_table(new, paths["new.csv"], overwrite)
    voice.say(
        f"{spell_path(paths['train.csv'])}: {train.num_rows:,} passengers of the Titanic to train "
        f"on\n{spell_path(paths['new.csv'])}: {new.num_rows:,} others\n"
        "sibsp counts a passenger's siblings and spouses on board, parch parents and children; "
        "the fare is in pounds"
    )
    _walk(paths, overwrite, voice)
    filled = fill_hidden(paths["titanic.vae"], train, new)
    facts = {
        "folder": str(folder),
        "seconds": clock(),
        "train_rows": train.num_rows,
        "new_rows": new.num_rows,
        "filled": [each._asdict() for each in filled],
        "files": [str(path) for path in paths.values()],
    }
    return Result(
        facts,
        lines=[
            "",
            f"OK: the whole demo took {clock():.0f} s. The table shows how well the model knows "
            f"the {new.num_rows:,} passengers that it never saw: each column in turn was hidden "
            "and filled in from the other seven. The constant is the commonest training value, "
            "or the median.",
        ],
        notes=[
            "one model fills in all eight columns; a model trained for a single column, such as "
            "gradient boosting, can do better on that one"
        ],
        sheet=_sheet(filled),
        path=folder,
        next="lowerbound inspect YOUR.csv",
    )


def passengers() -> pa.Table:
    """Read the passenger list: 1,309 rows, eight columns to model and the name.

    The list is OpenML data set 40945, by Frank E. Harrell Jr. and Thomas Cason; scikit-learn ships
    a copy for its own tests.

    Raises:
        ResourceError: E310 if scikit-learn was installed without its tests.
    """
    library = find_spec("sklearn")  # is not imported, which takes a second
    place = Path(str(library and library.origin)).parent / "datasets/tests/data/openml/id_40945"
    try:
        packed = (place / "data-v1-dl-16826755.arff.gz").read_bytes()
    except FileNotFoundError:
        raise ResourceError(
            "E310",
            "the demo reads the passenger list of the Titanic from scikit-learn's own tests, and "
            "this scikit-learn was installed without them",
            fix="pip install --force-reinstall --no-deps scikit-learn",
        ) from None
    head, _, body = gzip.decompress(packed).decode("utf-8").partition("@data\n")
    names = [line.split("'")[1] for line in head.splitlines() if line.startswith("@attribute")]
    table = csv.read_csv(
        io.BytesIO(body.encode()),
        csv.ReadOptions(column_names=names),
        convert_options=csv.ConvertOptions(null_values=["?"], strings_can_be_null=True),
    )
    columns = {name: table[name] for name in ("name", "sex", "age", "sibsp", "parch", "fare")}
    columns["class"] = pa.chunked_array([[_CLASSES[n - 1] for n in table["pclass"].to_pylist()]])
    columns["survived"] = pa.chunked_array(
        [["yes" if n else "no" for n in table["survived"].to_pylist()]]
    )
    columns["embarked"] = table["embarked"]
    return pa.table({name: columns[name] for name in ("name", *_MODELLED)})


def _folder(out: str | os.PathLike[str], overwrite: bool) -> Path:
    """Make the folder, or raise an error before any work."""
    check_apart(out)
    folder = Path(out).absolute()
    taken = [name for name in _MADE if os.path.lexists(folder / name)]
    if taken and not overwrite:
        raise UsageError(
            "E220", f"{folder} already contains {taken[0]}", fix="--overwrite", path=str(folder)
        )
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ResourceError(
            "E302",
            f"{folder} cannot be made: {error.strerror or error}",
            fix="--out /tmp/demo",
            path=str(folder),
        ) from None
    return folder


def _walk(paths: dict[str, Path], overwrite: bool, voice: Voice) -> None:
    """Run the commands of a first use, and print each with its result."""
    spelt = {name: spell_path(path) for name, path in paths.items()}
    train, new, model = (str(paths[name]) for name in ("train.csv", "new.csv", "titanic.vae"))
    on = f"{spelt['titanic.vae']} {spelt['new.csv']}"

    def step(command: str, result: Result) -> None:
        voice.say(f"\n$ lowerbound {command}\n{_printed(result)}")

    types = "name=id"
    step(f"inspect {spelt['train.csv']} --types {types}", inspect(train, types=types))
    step(
        f"fit {spelt['train.csv']} --types {types} --out {spelt['titanic.vae']}",
        fit(train, types=types, out=model, overwrite=overwrite, voice=_Steps(voice)),
    )
    step(
        f"score {on} --explain 2 --out {spelt['scores.csv']}",
        score(model, new, explain=2, out=str(paths["scores.csv"]), overwrite=overwrite),
    )
    step(
        f"impute {on} --out {spelt['filled.csv']}",
        impute(model, new, out=str(paths["filled.csv"]), overwrite=overwrite),
    )
    step(
        f"embed {on} --out {spelt['embedding.csv']}",
        embed(model, new, out=str(paths["embedding.csv"]), overwrite=overwrite),
    )
    step(
        f"sample {spelt['titanic.vae']} -n 500 --out {spelt['samples.csv']}",
        sample(model, n=500, out=str(paths["samples.csv"]), overwrite=overwrite),
    )


def _printed(result: Result) -> str:
    """Return the printed form of a result, without the path and the next step."""
    plain = Console(file=io.StringIO(), width=console(stderr=True).width, highlight=False)
    with plain.capture() as captured:
        show(replace(result, path=None, next=""), plain)
    return captured.get().rstrip()


class _Steps:
    """A voice that shows the progress of training without its banner."""

    def __init__(self, voice: Voice) -> None:
        self._voice, self.began = voice, voice.began
        self.report, self.beat, self.show = voice.report, voice.beat, voice.show
        self.close = voice.close

    def say(self, line: str) -> None:
        """Do nothing."""


def fill_hidden(model: Path, train: pa.Table, new: pa.Table) -> list[Filled]:
    """Hide each column of the new rows in turn, fill it in, and compare with the true values."""
    trained, found = load(model), []
    for place, name in enumerate(new.column_names):
        if name not in _MODELLED:
            continue
        nothing = pa.nulls(new.num_rows, new.schema.field(name).type)
        filled = trained.impute(new.set_column(place, name, nothing))[name]
        known = new[name].is_valid()
        truth, ours = (column.filter(known).to_numpy() for column in (new[name], filled))
        learned = train[name].drop_null().to_numpy()
        if pa.types.is_string(new.schema.field(name).type):
            values, counts = np.unique(learned, return_counts=True)
            commonest = values[counts.argmax()]
            found.append(
                Filled(
                    name,
                    "share right",
                    float(np.mean(truth == ours)),
                    float(np.mean(truth == commonest)),
                )
            )
        else:
            median = float(np.median(learned))
            found.append(
                Filled(
                    name,
                    "mean error",
                    float(np.abs(truth - ours).mean()),
                    float(np.abs(truth - median).mean()),
                )
            )
    return found


def _sheet(filled: list[Filled]) -> Sheet:
    def spell(value: float, measure: str) -> str:
        return f"{value:.0%}" if measure == "share right" else f"{value:.2f}"

    rows = [
        (each.column, each.measure, spell(each.model, each.measure),
         spell(each.constant, each.measure))
        for each in filled
    ]  # fmt: skip
    head = ("column", "measure", "lowerbound", "a constant")
    return Sheet(head, rows, right=("lowerbound", "a constant"))
