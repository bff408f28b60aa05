"""Text files of a saved model: strict JSON, and Markdown."""

from __future__ import annotations

import json
import math
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from lowerbound.errors import ModelFileError


class _Config(BaseModel):
    """Required content of config.json."""

    model_config = ConfigDict(strict=True, extra="allow")

    recipe: str
    arguments: dict[str, JsonValue]


def parse_json(raw: bytes, where: str) -> Any:
    """Read UTF-8 JSON strictly: no duplicate keys, no NaN or Infinity, no overflow to infinity.

    Args:
        raw: the file's bytes.
        where: the file's name, for the message.

    Raises:
        ModelFileError: E116 if the bytes are not such JSON.
    """
    try:
        return json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_finite,
        )
    # Deep nesting exhausts the parser's stack; every other fault is a ValueError.
    except (ValueError, RecursionError) as error:
        raise invalid(where, f"is not valid JSON ({error})") from error


def parse(name: str, raw: bytes) -> Any:
    """Return the content of a document: values of a .json file, or text of a .md file."""
    if name.endswith(".json"):
        return parse_json(raw, name)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise invalid(name, f"is not UTF-8 text ({error})") from error


def render(name: str, content: object) -> bytes:
    """Return the bytes of a document, which `parse` reads back (tuples as lists).

    Raises:
        ModelFileError: E119, when the content has no exact form in the file.
    """
    try:
        raw = _text(name, content).encode("utf-8")
        kept = parse(name, raw) == _listed(content)
    except (TypeError, ValueError, RecursionError) as error:
        raise unsaveable(name, str(error)) from error
    if not kept:
        raise unsaveable(name, "JSON has no keys but text")
    return raw


def config_problem(content: object) -> str:
    """Return the problem with the content of config.json, or an empty string."""
    try:
        _Config.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        return f"is wrong at {'.'.join(map(str, first['loc']))[:100]!r}: {first['msg']}"
    return ""


def unsaveable(name: str, problem: str) -> ModelFileError:
    """Return the error for content that has no exact form in a file."""
    return ModelFileError("E119", f"{name} cannot be saved: {problem}", file=name)


def invalid(where: str, problem: str) -> ModelFileError:
    """Return the error for a file whose digest is right but whose content is invalid."""
    return ModelFileError(
        "E116",
        f"{where} {problem}",
        fix="take the model from its source again, or fit it anew",
        file=where,
    )


def _text(name: str, content: object) -> str:
    if name.endswith(".md"):
        if not isinstance(content, str):
            raise TypeError(f"text was expected, not {type(content).__name__}")
        return content
    return json.dumps(content, allow_nan=False, indent=1) + "\n"


def _listed(content: object) -> object:
    if isinstance(content, dict):
        return {key: _listed(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_listed(value) for value in content]
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"key {twice[:60]!r} appears twice")
    return found


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:20]} does not fit a 64-bit number")
    return value
