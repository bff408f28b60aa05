"""The state of a trained model, as it is saved and as scoring and reports read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lowerbound.coding.tables import Coding
from lowerbound.nn.model import LatentModel
from lowerbound.recipes import Recipe
from lowerbound.tasks import draws
from lowerbound.tasks.calibration import Alarm, Calibration
from lowerbound.tasks.measures import Scoring


class HeldOutPart(NamedTuple):
    """The distribution of one coded column over held-out rows.

    Attributes:
        values: ascending codes.
        counts: number of held-out rows with a code above the previous value, up to this one.
    """

    values: tuple[float, ...]
    counts: tuple[int, ...]


class HeldOutColumn(NamedTuple):
    """The distribution of one raw column over held-out rows.

    Attributes:
        missing: number of rows without a value.
        parts: the distribution of each of its coded columns.
    """

    missing: int
    parts: tuple[HeldOutPart, ...]


@dataclass(frozen=True)
class HeldOut:
    """The distributions of the columns over the rows that calibrate the scores.

    Drift is measured against them; see `lowerbound.tasks.drift`.

    Attributes:
        rows: number of rows; 0 if the model keeps none.
        columns: the distribution of each modelled column, by name.
    """

    rows: int = 0
    columns: Mapping[str, HeldOutColumn] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return plain JSON values, which `restored` reads."""
        return {
            "rows": self.rows,
            "columns": {
                name: {
                    "missing": column.missing,
                    "parts": [
                        {"values": list(part.values), "counts": list(part.counts)}
                        for part in column.parts
                    ],
                }
                for name, column in self.columns.items()
            },
        }

    @classmethod
    def restored(cls, document: Mapping[str, Any]) -> HeldOut:
        """Rebuild the distributions from their `document`; keys of later versions are ignored."""
        columns = {
            name: HeldOutColumn(
                column["missing"],
                tuple(
                    HeldOutPart(tuple(part["values"]), tuple(part["counts"]))
                    for part in column["parts"]
                ),
            )
            for name, column in document.get("columns", {}).items()
        }
        return cls(document.get("rows", 0), columns)


@dataclass
class TrainedState:
    """A trained model, its coding, and its calibration.

    Args:
        recipe: the recipe that built the model.
        arguments: the resolved arguments of the recipe.
        coding: conversion of raw rows to coded rows and back.
        model: the network, in evaluation mode.
        calibration: scores of held-out rows.
        alarm: the threshold, and the false-alarm rate that it gives.
        facts: facts about the fit (plan, history, health, versions), plain JSON values.
        further: scorings other than the likelihood that are calibrated on their own held-out
            scores, by name.
        held_out: distributions of the columns over held-out rows, for tests of drift.
        passes: numbers of rows that are scored together if there are no more rows, as found by
            `Model.expect_few_rows`; not saved.
    """

    recipe: Recipe
    arguments: dict[str, Any]
    coding: Coding
    model: LatentModel
    calibration: Calibration
    alarm: Alarm
    facts: dict[str, Any] = field(default_factory=dict)
    further: dict[str, Scoring] = field(default_factory=dict)
    held_out: HeldOut = field(default_factory=HeldOut)
    passes: tuple[int, ...] = ()

    @property
    def alarm_doubt(self) -> str:
        """Why the alarm rate that was asked for cannot be reached, and the rate used, or ""."""
        rate = self.facts.get("plan", {}).get("alarm_rate")
        if rate is None or self.recipe.restoration:  # restoration models have no alarms
            return ""
        return self.calibration.unreachable(rate)

    @property
    def latent(self) -> int:
        """The total size of z over all levels."""
        if not {"latent", "latents"} & self.arguments.keys():  # recorded by the fit
            return int(self.facts.get("latent", self.facts["health"]["latent"]))
        sizes = self.arguments.get("latents") or [self.arguments["latent"]]
        return sum(int(size) for size in sizes)

    @property
    def holds(self) -> str:
        """The kind of data: "table", "cells" (counts) or "pictures"."""
        if self.coding.shape or self.recipe.restoration:
            return "pictures"
        return "cells" if "names" in self.coding.document() else "table"

    @property
    def columns(self) -> list[dict[str, Any]]:
        """The columns of a row, each with its name and kind, and the keys missing and required.

        ``missing`` is the share of missing values in training, and ``required`` whether a row
        must have the column: those that are not modelled (ids, free text and constants) and
        counts, of which few may be missing, need not be there. A model of pictures has none.
        """
        document = self.coding.document()
        if "schema" in document:
            modelled = {group.column for group in self.coding.groups}
            return [
                {
                    "name": each["name"],
                    "kind": each["kind"],
                    "missing": each["missing"] / each["rows"] if each["rows"] else 0.0,
                    "required": each["name"] in modelled,
                }
                for each in document["schema"]["columns"]
            ]
        if self.coding.shape or self.recipe.restoration:
            return []

        def column(name: str, kind: str, required: bool) -> dict[str, Any]:
            return {"name": name, "kind": kind, "missing": 0.0, "required": required}

        counts = [column(group.column, "count", False) for group in self.coding.groups]
        kinds = {"batch": "categorical", "covariate": "real"}
        covariates = document.get("covariates", ())
        return [*counts, *(column(each["name"], kinds[each["kind"]], True) for each in covariates)]

    @property
    def command(self) -> str:
        """The command that restores or encodes pictures of any size, or "" without one."""
        restoration = self.recipe.restoration
        return "" if restoration is None else restoration.command

    @property
    def encodes(self) -> bool:
        """Whether the model turns pictures of any size into maps of latents, and back."""
        restoration = self.recipe.restoration
        return restoration is not None and not restoration.paired

    @property
    def explains(self) -> bool:
        """True if `explain` can name columns; False for pictures and models with a context."""
        return not self.coding.shape and self.recipe.explains

    @property
    def importance_samples(self) -> int:
        """Number of draws of z per score, the same as for the held-out scores."""
        return self.facts.get("importance_samples", draws.SCORE_SAMPLES)
