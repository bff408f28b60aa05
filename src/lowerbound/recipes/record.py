"""The class `Recipe`: everything that the rest of the library needs to know of a named model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.coding.base import Coding
from lowerbound.coding.pairs import Restoration
from lowerbound.coding.pictures import pictures_for
from lowerbound.coding.tables import TableCoding, numbers_for
from lowerbound.errors import UsageError, nearest
from lowerbound.files.data import Whole
from lowerbound.nn.distributions import base
from lowerbound.nn.model import LatentModel

TELLS_OF_GAPS = ("missing", "gaps")  # arguments: False or None is for rows without gaps


class CodingMaker(Protocol):
    """The interface of a class or factory that fits codings to data."""

    def fit(
        self, frame: Whole, *, types: Mapping[str, str], drop: Sequence[str], transform: str
    ) -> Coding:
        """Fit a coding to `frame`.

        Args:
            frame: the data.
            types: kinds of columns by name, in place of the inferred ones.
            drop: columns to leave out.
            transform: scaling of numeric columns: "blend", "standard" or "quantile".
        """
        ...


class Suggestion(NamedTuple):
    """A recipe's suggestion for the plan of a fit without a chosen recipe.

    Attributes:
        fields: fields of the plan besides the recipe.
        reason: the reason why the recipe suits the data, as the end of a sentence.
    """

    fields: Mapping[str, Any]
    reason: str


class Draw(Protocol):
    """The interface of a function that draws rows from a likelihood."""

    def __call__(
        self,
        px: Distribution,
        context: Tensor | None,
        source: torch.Generator,
        given: Tensor | None = None,
    ) -> Tensor:
        """Draw rows.

        Args:
            px: p(x | z), batch shape (B,).
            context: (B, ...) or None.
            source: the source of randomness.
            given: one row of values that the rows will have, NaN where it is open; or None.
        """
        ...


def draw_each(
    px: Distribution,
    context: Tensor | None,
    source: torch.Generator,
    given: Tensor | None = None,
) -> Tensor:
    """Draw every value from its likelihood."""
    return base.sample(px, source)


Suits = Callable[[Whole, Mapping[str, object]], Suggestion | None]


@dataclass(frozen=True)
class Recipe:
    """A named model: how it is built, what data it reads, and how it is fitted.

    Only `build` and `coding` are required. `Recipe.of` makes a record from a plain function.

    Args:
        build: a function that returns the model; its name is the recipe's name. Its keyword
            arguments are plain JSON values: a saved model stores them, with defaults filled in,
            and is rebuilt by calling `build` again.
        coding: a function from the settings of a fit to the coding class for this model's data.
        example: arguments of a smallest model, for checking settings before data are read.
        arguments: default arguments of a fit, in place of the defaults of `build`.
        objective: default settings of the objective.
        minimise: a function from the model to an objective module, ``forward(batch, step) ->
            Loss``, that replaces the ELBO; see `lowerbound.nn.Elbo`.
        batch_size: rows per step, in place of the preset's; the learning rate is then annealed.
        first_stage: arguments for the first of two stages of a fit. The second stage trains only
            the priors, with the arguments that the user chose.
        chained: whether a chain of columns is trained after the model, from which rows are drawn
            and completed; the recipe then has an argument ``chain``.
        iwae_above_missing: share of missing values above which a fit uses the
            importance-weighted bound; None is never.
        restoration: the task of models of pictures of any size: one picture given another, or
            maps of latents; None for other models.
        from_data: additional arguments that the data determine and the user cannot set.
        in_training: arguments that describe the training examples and not the network, so that a
            fit that starts from the weights of another model may change them.
        explains: whether scores can be explained by columns.
        sparse: whether sparse matrices are read without converting them to dense columns.
        searched: whether `tune` tries this recipe in addition to the chosen one.
        suits: a function from the data and the user's plan fields to a `Suggestion`, or to None
            if the recipe does not suit the data; None never suggests it.
        draw: the function that draws rows from the likelihood.
        most_latents: the largest size of z that is chosen for wide rows by default.
    """

    build: Callable[..., LatentModel]
    coding: Callable[[Mapping[str, Any]], CodingMaker]
    example: Mapping[str, Any] = field(default_factory=lambda: {"features": 2})
    arguments: Mapping[str, Any] = field(default_factory=dict)
    objective: Mapping[str, Any] = field(default_factory=dict)
    minimise: Callable[[LatentModel], nn.Module] | None = None
    batch_size: int | None = None
    first_stage: Mapping[str, Any] = field(default_factory=dict)
    chained: bool = False
    iwae_above_missing: float | None = None
    restoration: Restoration | None = None
    from_data: frozenset[str] = frozenset()
    in_training: frozenset[str] = frozenset()
    explains: bool = True
    sparse: bool = False
    searched: bool = False
    suits: Suits | None = None
    draw: Draw = draw_each
    most_latents: int = 128

    @classmethod
    def of(cls, build: Callable[..., LatentModel]) -> Recipe:
        """Make a record from a plain function, whose arguments determine the data it models.

        Args:
            build: a function with an argument ``features`` (columns of numbers), ``families``
                (columns of any kinds, with ``sizes``) or ``shape`` (pictures); see `recipes`.

        Raises:
            UsageError: E259 if the function has none of these arguments.
        """
        known = inspect.signature(build).parameters
        for argument, (coding, example) in _BY_ARGUMENT.items():
            if argument in known:
                return cls(build, coding, example)
        raise UsageError(
            "E259",
            f"the recipe {build.__name__!r} must have one of the arguments "
            f"{', '.join(_BY_ARGUMENT)}, which determine the data it models; its arguments are: "
            f"{', '.join(known) or 'none'}",
            fix=f"def {build.__name__}(features, latent=8): ..., or lowerbound.Recipe(build=..., "
            "coding=...)",
        )

    @property
    def name(self) -> str:
        """The name of the recipe in model files and plans."""
        return self.build.__name__

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The arguments of the recipe, with their defaults."""
        return inspect.signature(self.build).parameters

    def tells_of_gaps(self, arguments: Mapping[str, Any]) -> bool:
        """Return whether the encoder of a model of rows is told which values are missing."""
        given = [arguments.get(name) for name in TELLS_OF_GAPS]
        return not self.of_pictures and any(v is not None and v is not False for v in given)

    @property
    def of_pictures(self) -> bool:
        """True for models of pictures of one size."""
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
                    f"(its arguments are {', '.join(known)})",
                    fix=f"did you mean {nearest(argument, known) or next(iter(known))!r}?",
                )
        return self.build(**arguments)


def of_tables(settings: Mapping[str, Any]) -> type[TableCoding]:
    """Return the coding class for columns of any kinds."""
    return TableCoding


def of_numbers(settings: Mapping[str, Any]) -> type[TableCoding]:
    """Return the coding class for columns of numbers, or of bits for a Bernoulli likelihood."""
    return numbers_for(settings.get("likelihood"))


def of_pictures(settings: Mapping[str, Any]) -> CodingMaker:
    """Return the coding class for pictures of one size."""
    return pictures_for(settings.get("likelihood"))


SMALLEST_PICTURE = {"shape": [1, 8, 8]}

_BY_ARGUMENT: dict[str, tuple[Callable[..., CodingMaker], Mapping[str, Any]]] = {
    "features": (of_numbers, {"features": 2}),
    "families": (of_tables, {"families": ["real"], "sizes": [1]}),
    "shape": (of_pictures, SMALLEST_PICTURE),
}
