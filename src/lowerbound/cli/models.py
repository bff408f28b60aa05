"""Use a saved model in a command: load it, and make a table from rows part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lowerbound.cli.outputs import walked, with_ids
from lowerbound.cli.progress import Voice
from lowerbound.cli.result import Remarks

if TYPE_CHECKING:
    from lowerbound.coding.base import Coded
    from lowerbound.files.data import Data as Given
    from lowerbound.tasks.trained import Model


def load(model: Any) -> Model:
    """Load a saved model; return a `Model` unchanged."""
    # Imported only now, since it imports torch: --help does not wait for it.
    trained = import_module("lowerbound.tasks.trained").Model
    return model if isinstance(model, trained) else trained.load(model)


def explain_flag(trained: Model) -> str:
    """Return the flag that makes `score` name columns, or "" for a model that cannot."""
    return " --explain 3" if trained.explains else ""


def ids_of(trained: Model) -> list[str]:
    """Return the names of the columns of kind id, which identify rows."""
    schema = trained.coding.document().get("schema", {})
    return [c["name"] for c in schema.get("columns", ()) if c["kind"] == "id"]


class TablesByPart:
    """Tables made from rows part by part, with remarks about all parts.

    Args:
        trained: the model.
        given: the rows.
        make: returns a table with one row for each coded row.

    Attributes:
        remarks: notes and counts from reading and coding.
        columns: the number of columns of the tables.
    """

    def __init__(self, trained: Model, given: Given, make: Callable[[Coded], pa.Table]) -> None:
        self.trained, self.given, self.make = trained, given, make
        self.remarks, self.columns = Remarks(given), 0

    def tables(self, voice: Voice, *, plain: bool) -> Iterator[pa.Table]:
        """Yield the table of each part; unless `plain`, with row numbers and ids in front."""
        for frame, coded in walked(self.given, self.trained, voice):
            table = self.make(coded)
            self.remarks.add(coded)
            self.columns = table.num_columns
            yield table if plain else with_ids(frame, ids_of(self.trained), table)
