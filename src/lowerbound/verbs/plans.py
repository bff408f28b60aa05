"""From flags and a configuration file to a `Plan`, with every problem in one message."""

from __future__ import annotations

import inspect
import json
import math
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from lowerbound import recipes
from lowerbound.errors import LowerboundError, UsageError, nearest
from lowerbound.learning import Plan
from lowerbound.verbs import parsing

_OBJECTIVE = {"beta": 1.0, "free_bits": 0.0}
# What the data or the fit itself decide, so that --set may not.
_DECIDED = {"families", "sizes", "features", "missing", "components", "latent", "batches"}
# A model of the smallest table there is, to try settings on before any data are read.
_SMALLEST = {"table": {"families": ["real"], "sizes": [1]}}
_MOST_BYTES = 1 << 20


def _flag(field: str) -> str:
    return "--set" if field == "settings" else "--" + field.replace("_", "-")


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
    "alarm_rate": parsing.share,
    "max_epochs": partial(parsing.whole, flag="--max-epochs"),
    "time_limit": parsing.seconds,
    "seed": partial(parsing.whole, flag="--seed"),
    "device": partial(parsing.text, flag="--device"),
}
assert set(_READERS) == {field.name for field in fields(Plan)}


def plan_from(flags: Mapping[str, object], config: str | os.PathLike[str] | None = None) -> Plan:
    """Make the plan of a fit; flags go before the configuration file.

    Args:
        flags: values of the plan's fields as people write them; None and empty mean not given.
        config: a TOML file whose keys are the plan's fields.

    Raises:
        UsageError: what is wrong, all of it in one message.
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
    for name, value in values.items():
        try:
            Plan(**{name: value})  # each field alone, so that one problem does not hide another
        except UsageError as error:
            problems.append(error)
    recipe = values.get("recipe", "table")
    if recipe in recipes.__all__:
        problems += _settings_problems(recipe, values.get("settings", {}))
    parsing.raise_all(problems)
    return Plan(**values)


def read_config(
    path: str | os.PathLike[str],
) -> tuple[dict[str, Any], list[LowerboundError]]:
    """Read a configuration file; unknown keys come back as problems."""
    path = Path(path)
    try:
        if not path.is_file():
            raise OSError("it is no file" if path.exists() else "there is no such file")
        if path.stat().st_size > _MOST_BYTES:
            raise OSError("it has more than 1 MB, which no configuration needs")
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


def _settings_problems(recipe: str, settings: Mapping[str, Any]) -> list[LowerboundError]:
    """Find what is wrong with --set by name, by type, and by building a tiny model."""
    known = _known_settings(recipe)
    problems: list[LowerboundError] = []
    for key, value in settings.items():
        if key not in known:
            problems.append(_unknown_setting(recipe, key, known))
        elif key in _OBJECTIVE and not _is_weight(value):
            problems.append(parsing.refusal(f"--set {key}", value, "a number from 0", f"--set {key}=1"))
    if problems:
        return problems
    arguments = {key: value for key, value in settings.items() if key not in _OBJECTIVE}
    try:
        recipes.build(recipe, {**_SMALLEST.get(recipe, {"features": 2}), **arguments})
    except LowerboundError as error:
        problems.append(error)
    except (TypeError, ValueError, RuntimeError, IndexError, AssertionError) as error:
        word = ", ".join(f"{key}={json.dumps(value)}" for key, value in arguments.items())
        fix = ", ".join(f"{key}={json.dumps(known[key])}" for key in arguments)
        problems.append(
            UsageError(
                "E231",
                f"--set {word} makes no model: {str(error).splitlines()[0][:120]}",
                fix=f"values that work: --set {fix}",
            )
        )
    return problems


def _known_settings(recipe: str) -> dict[str, Any]:
    """Return the settings of a recipe with their defaults."""
    parameters = inspect.signature(getattr(recipes, recipe)).parameters
    own = {name: p.default for name, p in parameters.items() if name not in _DECIDED}
    return {**own, **_OBJECTIVE}


def _is_weight(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 0


def _unknown_setting(recipe: str, key: str, known: Mapping[str, Any]) -> UsageError:
    if key == "latent":
        return UsageError("E236", "the latent size has a flag of its own", fix="--latent 16")
    close = nearest(key, known)
    return UsageError(
        "E242",
        f"the recipe {recipe!r} has no setting {key!r}; it has {', '.join(sorted(known))}",
        fix=f"did you mean --set {close}=...?" if close else "leave it out",
        similar=close,
    )


def as_toml(plan: Plan) -> str:
    """Write a plan as a configuration file; what is left to the data is a comment."""
    plain, sections = ["# lowerbound fit PATH --config FILE"], []
    for field in fields(plan):
        value = getattr(plan, field.name)
        if isinstance(value, Mapping):
            sections.append(f"\n[{field.name}]")
            known = {key: item for key, item in value.items() if item is not None}
            sections += [f"{_toml(key)} = {_toml(item)}" for key, item in known.items()]
        elif value is None:
            plain.append(f"# {field.name} = chosen from the data and the preset")
        else:
            plain.append(f"{field.name} = {_toml(value)}")
    return "\n".join([*plain, *sections]) + "\n"


def _toml(value: Any) -> str:
    # JSON's strings, numbers, truth values and lists are TOML's too.
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
