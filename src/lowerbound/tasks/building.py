"""Build the network of a saved model, whose arguments are from a stranger.

The arguments are compared with the weights before memory is taken for them: a number in a model
file cannot be larger than the count of the numbers in its weights, parameters are built without
storage (on the meta device) until their shapes are those of the weights, and the weights then
become the parameters without a copy.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lowerbound.bundle.documents import invalid
from lowerbound.bundle.manifest import WEIGHTS
from lowerbound.coding.base import Coding
from lowerbound.columns.arrow import snippet
from lowerbound.errors import LowerboundError, ModelFileError
from lowerbound.nn.model import LatentModel
from lowerbound.recipes import RECIPES, Recipe

# A network may hold further numbers than its weights, such as masks and indices.
TIMES, SPARE = 16, 1 << 24
# Calls of torch functions: of any network, and for each of its weights.
CALLS, CALLS_EACH = 5_000, 50
# An operation that may make more numbers than this is tried without storage first. The first such
# trial of a process takes torch a second, which only wide networks of masks need.
CERTAIN = 1 << 24

# Statistics, by the last word of their names, that are scales and must be above 0.
SCALES = frozenset({"running_var", "variance", "sigma"})

# Arguments of recipes that follow from the data: the schema must say the same.
_OF_DATA = frozenset({"families", "sizes", "features", "shape", "batches", "labels"})

# Arguments that sizes are only compared with, which may be larger than the count of the weights.
_LIMITS = frozenset({"tree_above"})

_RAW = torch.empty  # the first values of parameters
# Without storage there is nothing to fill, and torch would import its compiler for that: seconds.
_FILLS = (Tensor.normal_, Tensor.uniform_)


def build(
    recipe: Recipe,
    arguments: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    origin: str,
) -> LatentModel:
    """Build a network and give it its weights.

    The network of a built-in recipe uses the memory of `arrays` itself.

    Args:
        recipe: the recipe that the model file names.
        arguments: the arguments of the recipe in the model file.
        arrays: the weights by name.
        origin: name of the model in messages.

    Raises:
        ModelFileError: E116 for statistics that must be scales and are not, E140 if the weights
            do not fit the recipe.
    """
    known = RECIPES.get(recipe.name) is recipe
    held = sum(array.size for array in arrays.values())
    try:
        with _Bounded(TIMES * held + SPARE, CALLS + CALLS_EACH * len(arrays), known):
            model = recipe.make(arguments)
    except _Beyond as error:
        raise _unfit(recipe, origin, str(error)) from None
    except LowerboundError as error:
        raise _unfit(recipe, origin, error.message) from None
    except Exception as error:
        if not known:  # the user's own code
            raise
        raise _unfit(recipe, origin, f"{type(error).__name__}: {error}") from None
    _load(model, arrays, recipe, origin, known)
    _check_scales(arrays)
    return model


def check_arguments(
    recipe: Recipe, arguments: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Compare arguments with the signature of a built-in recipe and with the size of the weights.

    Args:
        recipe: the recipe.
        arguments: plain JSON values.
        arrays: the weights by name.

    Raises:
        ModelFileError: E116 naming the argument.
    """
    kinds = typing.get_type_hints(recipe.build)
    held = sum(array.size for array in arrays.values())
    for name, value in arguments.items():
        where = f"arguments.{name}"
        if name not in recipe.parameters:
            raise invalid("config.json", f"has the unknown argument {snippet(where)}")
        try:
            TypeAdapter(kinds[name], config=ConfigDict(strict=True)).validate_python(value)
        except ValidationError as error:
            told = snippet(error.errors()[0]["msg"], 200)
            raise invalid("config.json", f"is wrong at {snippet(where)}: {told}") from None
        if value == recipe.parameters[name].default:
            continue
        values = value if isinstance(value, list) else [value]
        sizes = [len(values), *(n for n in values if type(n) is int)]
        most = math.inf if name in _LIMITS else held
        if max(sizes) > most or min(sizes) < 0:
            raise invalid(
                "config.json",
                f"is wrong at {snippet(where)}: the weights hold {held:,} numbers",
            )


def check_coding(recipe: Recipe, arguments: Mapping[str, Any], coding: Coding) -> None:
    """Compare the coding of a model file with its recipe and the recipe's arguments.

    Raises:
        ModelFileError: E116 where they contradict each other.
    """
    try:
        wanted, settings = recipe.coding(arguments), getattr(coding, "settings", {})
        scale = None if recipe.restoration is None else recipe.restoration.scale(arguments)
    except (ValueError, TypeError) as error:
        raise invalid("config.json", f"has wrong arguments: {snippet(error, 200)}") from None
    if isinstance(wanted, type) and not isinstance(coding, wanted | wanted.__base__):
        raise invalid("schema.json", f"has a coding that the recipe {recipe.name!r} does not use")
    usual = {name: each.default for name, each in recipe.parameters.items()}
    given = {**usual, **arguments}
    names = (_OF_DATA | recipe.from_data | settings.keys()) & recipe.parameters.keys()
    found = {**dict.fromkeys(names, 0), **coding.arguments(), **settings}
    if scale is not None and scale != getattr(coding, "scale", None):
        raise invalid("schema.json", "does not have the scale of config.json")
    for name in sorted(names):
        if given[name] != found[name]:
            raise invalid(
                "schema.json", f"does not fit config.json, whose argument {name!r} differs"
            )


def _load(
    model: LatentModel,
    arrays: Mapping[str, NDArray[Any]],
    recipe: Recipe,
    origin: str,
    known: bool,
) -> None:
    """Give a network its weights, after a comparison of all names, shapes and types."""
    own = model.state_dict()
    weights = {
        name: torch.from_numpy(array if array.flags.writeable else array.copy())
        for name, array in arrays.items()
    }
    for name in dict.fromkeys([*own, *weights]):
        if name not in weights or name not in own:
            where = "file" if name in own else "network"
            raise _unfit(recipe, origin, f"the {where} has no {snippet(name)}")
        given, wanted = weights[name], own[name]
        if given.shape != wanted.shape:
            told = f"{list(given.shape)}, not {list(wanted.shape)}"
            raise _unfit(recipe, origin, f"the shape of {snippet(name)} is {told}")
        # Files hold bfloat16 too, which NumPy reads as float32.
        if wanted.dtype not in (given.dtype, torch.bfloat16):
            told = f"{given.dtype}, not {wanted.dtype}".replace("torch.", "")
            raise _unfit(recipe, origin, f"the type of {snippet(name)} is {told}")
    model.load_state_dict(weights, assign=known)


def _unfit(recipe: Recipe, origin: str, reason: str) -> ModelFileError:
    return ModelFileError(
        "E140",
        f"{origin}: the weights do not fit the recipe {recipe.name!r}: {reason[:300]}",
        fix="fit the model again with this version",
    )


def _check_scales(arrays: Mapping[str, NDArray[Any]]) -> None:
    for name, array in arrays.items():
        if name.rpartition(".")[2] in SCALES and array.size and not array.min() > 0:
            raise invalid(WEIGHTS, f"has a scale that is not above 0, in {snippet(name)}")


class _Beyond(Exception):
    """Building a network takes more than its weights explain."""


class _Bounded(TorchFunctionMode):
    """Limit the memory and the steps that building a network takes.

    Args:
        numbers: numbers that all new tensors may hold together.
        calls: calls of torch functions.
        bare: make the first values of parameters without storage.
    """

    def __init__(self, numbers: int, calls: int, bare: bool) -> None:
        super().__init__()
        self.numbers, self.calls, self.bare = numbers, calls, bare

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call a function of torch, unless that goes beyond the limits."""
        named = kwargs or {}
        self.calls -= 1
        if self.calls < 0:
            raise _Beyond("the network has many more parts than there are weights")
        if self.bare and func is _RAW:
            return func(*args, **{**named, "device": "meta"})
        if self.bare and func in _FILLS and args[0].is_meta:
            return args[0]
        if _product([*args, *named.values()]) > CERTAIN:
            self._spend(_expected(func, args, named))
        made = func(*args, **named)
        new = isinstance(made, Tensor) and made._base is None and not made.is_meta
        if new and not any(made is each for each in args):
            self._spend(made.numel())
            self.numbers -= made.numel()
        return made

    def _spend(self, count: int) -> None:
        if count > self.numbers:
            raise _Beyond(f"the network holds {count:,} numbers besides the weights")


def _product(values: Iterable[Any]) -> int:
    """Return a bound on the count of numbers that a call with these arguments makes."""
    found = 1
    for value in values:
        if isinstance(value, list | tuple):
            found *= _product(value)
        elif isinstance(value, Tensor):
            found *= max(1, value.numel())
        elif type(value) is int:
            found *= max(1, abs(value))
    return found


def _expected(func: Any, args: Sequence[Any], named: Mapping[str, Any]) -> int:
    """Return the count of numbers that a call would make; 0 if values of tensors decide it."""
    given = list(_tensors([*args, *named.values()]))
    if given and all(each.is_meta for each in given):
        return 0
    bare, bare_named = _bare(list(args)), {name: _bare(each) for name, each in named.items()}
    if not given:
        bare_named["device"] = "meta"
    try:
        made = func(*bare, **bare_named)
    except (NotImplementedError, RuntimeError, TypeError) as error:
        if "overflow" in str(error):
            raise _Beyond("the network holds more numbers than there is memory") from None
        return 0
    return made.numel() if isinstance(made, Tensor) else 0


def _bare(value: Any) -> Any:
    """Return a value with tensors of the same shapes that have no storage."""
    if isinstance(value, list | tuple):
        return type(value)(_bare(each) for each in value)
    if isinstance(value, Tensor):
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    return value


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among arguments."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
