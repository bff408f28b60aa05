"""Make a `Plan` from flags and a configuration file; report all problems in one message."""

from __future__ import annotations

import json
import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from lowerbound.cli import parsing
from lowerbound.errors import LowerboundError, UsageError, nearest, raise_all
from lowerbound.recipes import RECIPES, Recipe
from lowerbound.tasks.objective_settings import OBJECTIVE
from lowerbound.training import start, units
from lowerbound.training.objective import objective_of
from lowerbound.training.plan import Plan, device_of

# Decided by the data or the fit, so that --set cannot.
_DECIDED = {
    "families",
    "sizes",
    "reserved",
    "features",
    "missing",
    "components",
    "latent",
    "batches",
    "labels",
    "shape",
}
_MOST_BYTES = 1 << 20


def _settings(value: object) -> dict[str, Any]:
    found = parsing.pairs(value, "--set", "beta=2")
    return {key: parsing.value_of(word) for key, word in found.items()}


def _types(value: object) -> dict[str, str]:
    found = parsing.pairs(value, "--types", "zip=categorical", commas=True)
    return {key: parsing.text(kind, "--types") for key, kind in found.items()}


_READERS: dict[str, Callable[[Any], Any]] = {
    "recipe": partial(parsing.text, flag="--recipe"),
    "settings": _settings,
    "preset": partial(parsing.text, flag="--preset"),
    "latent": parsing.latent,
    "types": _types,
    "drop": partial(parsing.texts, flag="--drop"),
    "transform": partial(parsing.text, flag="--transform"),
    "alarm_rate": units.share,
    "max_epochs": partial(parsing.whole, flag="--max-epochs"),
    "time_limit": units.seconds,
    "learning_rate": partial(parsing.number, flag="--learning-rate"),
    "seed": partial(parsing.whole, flag="--seed"),
    "device": partial(parsing.text, flag="--device"),
    "precision": partial(parsing.text, flag="--precision"),
    "start": partial(parsing.text, flag="--from"),
}
assert set(_READERS) == {field.name for field in fields(Plan)}


def plan_from(
    flags: Mapping[str, object],
    config: str | os.PathLike[str] | None = None,
    usual: Mapping[str, Any] | None = None,
) -> Plan:
    """Make the plan of a fit; flags take precedence over the configuration file.

    Args:
        flags: values of the plan's fields as text; None and empty values are not given.
        config: a TOML file whose keys are the plan's fields.
        usual: fields that suit the data, used if neither of the two chooses a recipe.

    Raises:
        UsageError: with all problems in one message.
    """
    given, problems = read_config(config) if config is not None else ({}, [])
    values, found = parsing.all_of(given, _READERS)
    problems += found
    said = {name: value for name, value in flags.items() if value is not None and value != ()}
    spoken, found = parsing.all_of(said, _READERS)
    problems += found
    for name, value in spoken.items():
        both = isinstance(value, dict) and name in values
        values[name] = {**values[name], **value} if both else value
    if "start" in values:
        settings = values.get("settings", {})
        values |= start.terms(values["start"], values.get("recipe"), settings)
    if usual and "recipe" not in values:
        settings = {**usual.get("settings", {}), **values.get("settings", {})}
        values = {**usual, **values, "settings": settings}
    name, refused = values.get("recipe", Plan.recipe), set()
    recipe = RECIPES.get(name)
    for name, value in values.items():
        # Checked one by one, so that one problem does not hide another; settings need the recipe.
        given = {"recipe": recipe} if name == "settings" and recipe is not None else {}
        try:
            device_of(Plan(**{**given, name: value}).device)
        except UsageError as error:
            problems.append(error)
            refused.add(name)
    if recipe is not None:
        given = values.get("settings", {})
        misnamed = _misnamed(recipe, given)
        problems += misnamed
        if not misnamed and "settings" not in refused:
            problems += _tried(recipe, given)
    raise_all(problems)
    return Plan(**values)


def read_config(
    path: str | os.PathLike[str],
) -> tuple[dict[str, Any], list[LowerboundError]]:
    """Read a configuration file; unknown keys are returned as problems."""
    path = Path(path)
    try:
        if not path.is_file():
            raise OSError("it is not a file" if path.exists() else "it does not exist")
        if path.stat().st_size > _MOST_BYTES:
            raise OSError("it is larger than 1 MB")
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            "E234",
            f"the configuration {path} cannot be read: {reason}",
            fix="lowerbound fit PATH --print-config > config.toml makes one",
        ) from None
    problems: list[LowerboundError] = []
    for key in [key for key in content if key not in _READERS]:
        close = nearest(key, _READERS)
        problems.append(
            UsageError(
                "E235",
                f"{path} has the unknown key {key!r}",
                fix=f"did you mean {close!r}?" if close else f"the keys are {', '.join(_READERS)}",
            )
        )
        del content[key]
    return content, problems


def _misnamed(recipe: Recipe, settings: Mapping[str, Any]) -> list[LowerboundError]:
    """Return the errors in the names and the types of --set."""
    known = _known_settings(recipe)
    problems: list[LowerboundError] = []
    for key, value in settings.items():
        if key not in known:
            problems.append(_unknown_setting(recipe, key, known))
            continue
        wanted = _WANTED[type(known[key])]
        if not wanted.fits(value):
            example = f"--set {key}={json.dumps(known[key])}"
            problems.append(parsing.refusal(f"--set {key}", value, wanted.what, example))
    return problems


def _tried(recipe: Recipe, settings: Mapping[str, Any]) -> list[LowerboundError]:
    """Return the errors in the values of --set, found by building a tiny model."""
    known, problems = _known_settings(recipe), []
    arguments = {key: value for key, value in settings.items() if key not in OBJECTIVE}
    weights = {**OBJECTIVE, **{key: settings[key] for key in OBJECTIVE if key in settings}}
    try:
        model = recipe.make({**recipe.example, **arguments})
        objective_of(model, weights, examples=1, steps=1)
    except LowerboundError as error:
        problems.append(error)
    except (TypeError, ValueError, RuntimeError) as error:
        word = ", ".join(f"{key}={json.dumps(value)}" for key, value in arguments.items())
        fix = ", ".join(f"{key}={json.dumps(known[key])}" for key in arguments)
        problems.append(
            UsageError(
                "E231",
                f"--set {word} is not valid: {str(error).splitlines()[0][:120]}",
                fix=f"values that work: --set {fix}",
            )
        )
    return problems


def _known_settings(recipe: Recipe) -> dict[str, Any]:
    """Return the settings of a recipe with their defaults."""
    decided = _DECIDED | recipe.from_data
    own = {name: p.default for name, p in recipe.parameters.items() if name not in decided}
    return {**own, **OBJECTIVE}


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 0


def _are_widths(value: Any) -> bool:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return is_list and bool(value) and all(type(v) is int and v > 0 for v in value)


class _Wanted(NamedTuple):
    """Values allowed for a setting, judged by the type of its default."""

    what: str
    fits: Callable[[Any], bool]


_WANTED = {
    float: _Wanted("a number from 0", _is_number),
    int: _Wanted("a whole number from 0", lambda value: type(value) is int and value >= 0),
    str: _Wanted("a word", lambda value: isinstance(value, str)),
    bool: _Wanted("true or false", lambda value: isinstance(value, bool)),
    tuple: _Wanted("a list of whole numbers such as [128,128]", _are_widths),
    type(None): _Wanted("a share from 0 to 1", lambda v: v is None or _is_number(v) and v <= 1),
}


def _unknown_setting(recipe: Recipe, key: str, known: Mapping[str, Any]) -> UsageError:
    if key == "latent":
        return UsageError("E236", "the latent size is set by its own flag", fix="--latent 16")
    close = nearest(key, known)
    return UsageError(
        "E242",
        f"the recipe {recipe.name!r} has no setting {key!r}; it has {', '.join(sorted(known))}",
        fix=f"did you mean --set {close}=...?" if close else "leave it out",
        similar=close,
    )


def as_toml(plan: Plan) -> str:
    """Return a plan as a TOML configuration; fields decided at fit time are comments."""
    plain, sections = ["# lowerbound fit PATH --config FILE"], []
    for name, value in plan.document().items():
        if isinstance(value, Mapping):
            sections.append(f"\n[{name}]")
            known = {key: item for key, item in value.items() if item is not None}
            sections += [f"{_key(key)} = {_toml(item)}" for key, item in known.items()]
        elif value is None:
            plain.append(f"# {name}: decided by the data, the preset and the computer")
        else:
            plain.append(f"{name} = {_toml(value)}")
    return "\n".join([*plain, *sections]) + "\n"


def _key(name: str) -> str:
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: Any) -> str:
    # Strings, numbers, booleans and lists are written alike in JSON and TOML.
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
