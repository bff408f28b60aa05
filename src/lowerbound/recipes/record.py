"""The record of a recipe: everything that the rest of the library asks about a named model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from torch import nn

from lowerbound.coding.base import Coding
from lowerbound.coding.pairs import Restoration
from lowerbound.coding.pictures import pictures_for
from lowerbound.coding.tables import TableCoding, numbers_for
from lowerbound.errors import UsageError, nearest
from lowerbound.files.data import Whole
from lowerbound.nn.model import LatentModel


class CodingMaker(Protocol):
    """Fits a coding to data."""

    def fit(
        self, frame: Whole, *, types: Mapping[str, str], drop: Sequence[str], transform: str
    ) -> Coding:
        """Return the coding of `frame`."""
        ...


class Suggestion(NamedTuple):
    """The plan of a fit for which no recipe was chosen.

    Attributes:
        fields: fields of the plan besides the recipe.
        reason: why the recipe suits the data, as the end of a sentence.
    """

    fields: Mapping[str, Any]
    reason: str


Suits = Callable[[Whole, Mapping[str, object]], Suggestion | None]


@dataclass(frozen=True)
class Recipe:
    """A named model: how it is built, what data it reads, and how it is fitted.

    Only `build` and `coding` are needed. `Recipe.of` makes a record of a plain function.

    Args:
        build: returns the model. Its keyword arguments are plain JSON values: a saved model stores
            them, resolved, and is rebuilt by calling `build` again. Its name is the recipe's name.
        coding: from the settings of a fit to what codes the data for this model.
        example: arguments of the smallest model, for checking settings before data are read.
        arguments: arguments of a fit that are given where the user gives none.
        objective: settings of the objective that are used where the user gives none.
        minimise: from the model to an objective module, ``forward(batch, step) -> Loss``, that a
            fit minimises in place of the ELBO; see `lowerbound.nn.Elbo`.
        batch_size: rows of a step, in place of the preset's; such a fit ends with small steps.
        first_stage: arguments of the first of two stages of a fit; in the second one only the
            priors are trained, with the arguments that were asked for.
        iwae_above: number of training rows above which a fit takes the importance-weighted bound
            and twice the patience; None is never.
        restoration: what is restored, of models of one picture given another.
        from_data: further arguments that the data decide, so that the user cannot set them.
        explains: whether scores are explained by columns.
        sparse: whether sparse matrices are read as they are, and not as dense columns.
        searched: whether `tune` tries it besides the recipe that was asked for.
        suits: tells whether it suits data for which no recipe was chosen, and with which plan.
    """

    build: Callable[..., LatentModel]
    coding: Callable[[Mapping[str, Any]], CodingMaker]
    example: Mapping[str, Any] = field(default_factory=lambda: {"features": 2})
    arguments: Mapping[str, Any] = field(default_factory=dict)
    objective: Mapping[str, Any] = field(default_factory=dict)
    minimise: Callable[[LatentModel], nn.Module] | None = None
    batch_size: int | None = None
    first_stage: Mapping[str, Any] = field(default_factory=dict)
    iwae_above: int | None = None
    restoration: Restoration | None = None
    from_data: frozenset[str] = frozenset()
    explains: bool = True
    sparse: bool = False
    searched: bool = False
    suits: Suits | None = None

    @classmethod
    def of(cls, build: Callable[..., LatentModel]) -> Recipe:
        """Return the record of a plain function, whose first argument names the data it models.

        Args:
            build: a function with an argument ``features`` (columns of numbers), ``families``
                (columns of any kinds, with ``sizes``) or ``shape`` (pictures); see `recipes`.

        Raises:
            UsageError: E259 where the function has none of these arguments.
        """
        known = inspect.signature(build).parameters
        for argument, (coding, example) in _BY_ARGUMENT.items():
            if argument in known:
                return cls(build, coding, example)
        raise UsageError(
            "E259",
            f"the recipe {build.__name__!r} must have one of the arguments "
            f"{', '.join(_BY_ARGUMENT)}, which say what data it models; it has "
            f"{', '.join(known) or 'none'}",
            fix=f"def {build.__name__}(features, latent=8): ..., or lowerbound.Recipe(build=..., "
            "coding=...)",
        )

    @property
    def name(self) -> str:
        """The name under which models are saved."""
        return self.build.__name__

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The arguments of the recipe, with their defaults."""
        return inspect.signature(self.build).parameters

    @property
    def of_pictures(self) -> bool:
        """Whether it models pictures of one size."""
        return "shape" in self.parameters

    def make(self, arguments: Mapping[str, Any]) -> LatentModel:
        """Build the model.

        Raises:
            UsageError: E242 for an argument that the recipe does not have.
        """
        known = self.parameters
        for argument in arguments:
            if argument not in known:
                raise UsageError(
                    "E242",
                    f"the recipe {self.name!r} has no argument {argument!r} "
                    f"(it has {', '.join(known)})",
                    fix=f"did you mean {nearest(argument, known) or next(iter(known))!r}?",
                )
        return self.build(**arguments)


def of_tables(settings: Mapping[str, Any]) -> type[TableCoding]:
    """Return the coding of columns of any kinds."""
    return TableCoding


def of_numbers(settings: Mapping[str, Any]) -> type[TableCoding]:
    """Return the coding of columns of numbers, or of bits where the likelihood is of these."""
    return numbers_for(settings.get("likelihood"))


def of_pictures(settings: Mapping[str, Any]) -> CodingMaker:
    """Return the coding of pictures of one size."""
    return pictures_for(settings.get("likelihood"))


SMALLEST_PICTURE = {"shape": [1, 8, 8]}

_BY_ARGUMENT: dict[str, tuple[Callable[..., CodingMaker], Mapping[str, Any]]] = {
    "features": (of_numbers, {"features": 2}),
    "families": (of_tables, {"families": ["real"], "sizes": [1]}),
    "shape": (of_pictures, SMALLEST_PICTURE),
}
