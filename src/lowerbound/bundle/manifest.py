"""The manifest: the list of a saved model's files, and its seal.

Every future format keeps three things, so that an old version can name the newer version that it
needs: the canonical JSON of the file, its own ``sha256`` over everything else in it, and the keys
``schema``, ``created_by`` and ``requires.min_version``.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lowerbound._version import __version__
from lowerbound.bundle.documents import parse_json
from lowerbound.errors import ModelFileError

FORMAT = 1
"""The number of the format that this version writes; it reads every number up to it."""

MIN_VERSION = "0.1.0"
"""The first version that reads `FORMAT`."""

MANIFEST, WEIGHTS = "manifest.json", "weights.safetensors"
REQUIRED = frozenset({"config.json", "schema.json", WEIGHTS})
STANDARD = REQUIRED | {MANIFEST, "calibration.json", "metrics.json", "card.md"}

FILE_NAME = r"^[a-z0-9][a-z0-9_-]{0,63}\.(json|md|safetensors)$"

_Version = Annotated[str, Field(pattern=r"^\d{1,6}(\.\d{1,6}){0,3}$")]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Entry(_Strict):
    """One file of the model."""

    name: str = Field(pattern=FILE_NAME)
    bytes: int = Field(ge=0)
    sha256: _Digest


class Requires(_Strict):
    """Requirements on a reader; a reader that does not know a key must refuse the model."""

    min_version: _Version


class Manifest(BaseModel):
    """The list of a model's files, as `manifest.json` holds it.

    Other keys are ignored: a later version may add keys that an older one does not need.
    """

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    format: int = Field(alias="schema", ge=1, le=FORMAT)
    created_by: str = Field(pattern=r"^[ -~]{1,100}$")
    requires: Requires
    files: list[Entry] = Field(max_length=64)
    sha256: _Digest


class _Head(BaseModel):
    """The part common to all formats."""

    model_config = ConfigDict(strict=True, extra="ignore")

    format: int = Field(alias="schema", ge=1)
    created_by: str = Field(pattern=r"^[ -~]{1,100}$")
    requires: dict[str, Any]


def seal(entries: list[Entry]) -> bytes:
    """Return the bytes of the manifest over these files."""
    content: dict[str, Any] = {
        "schema": FORMAT,
        "created_by": f"lowerbound {__version__}",
        "requires": {"min_version": MIN_VERSION},
        "files": [entry.model_dump() for entry in entries],
    }
    content["sha256"] = hashlib.sha256(_canonical(content)).hexdigest()
    return _canonical(content)


def parse(raw: bytes, required: frozenset[str] = REQUIRED) -> Manifest:
    """Read a manifest's bytes.

    Args:
        raw: the bytes.
        required: the files that it must list.

    Raises:
        ModelFileError: E110 when one byte differs from what was written, E117 when a newer
            version of lowerbound is needed.
    """
    content = _unsealed(raw)
    try:
        head = _Head.model_validate(content)
        _refuse_newer(head)
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise damaged(f"its entry {place!r} is wrong ({first['msg']})") from error
    _check_files(manifest, required)
    return manifest


def damaged(problem: str, **digests: str) -> ModelFileError:
    """Return the error for a manifest that cannot be trusted."""
    return ModelFileError(
        "E110",
        f"{MANIFEST} is damaged: {problem}",
        fix="copy the model from its source again, or fit it anew",
        file=MANIFEST,
        **digests,
    )


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"


def _unsealed(raw: bytes) -> dict[str, Any]:
    try:
        content = parse_json(raw, MANIFEST)
    except ModelFileError as error:
        raise damaged(error.message.removeprefix(f"{MANIFEST} ")) from error
    if not isinstance(content, dict):
        raise damaged("it is not a JSON object")
    expected = content.get("sha256")
    actual = hashlib.sha256(
        _canonical({key: value for key, value in content.items() if key != "sha256"})
    ).hexdigest()
    if expected != actual:
        problem = f"its own sha256 says {str(expected)[:64]!a}, its content gives {actual!r}"
        raise damaged(problem, expected=str(expected)[:64], actual=actual)
    # Spaces and escapes do not change the content, but they do change the file.
    if _canonical(content) != raw:
        raise damaged("its bytes are not the ones that were written")
    return content


def _refuse_newer(head: _Head) -> None:
    needs = Requires.model_validate({"min_version": head.requires.get("min_version")}).min_version
    unknown = sorted(set(head.requires) - set(Requires.model_fields))
    if head.format <= FORMAT and not unknown and _key(needs) <= _key(__version__):
        return
    reason = f"; it requires {', '.join(map(ascii, unknown))}"[:200] if unknown else ""
    raise ModelFileError(
        "E117",
        f"this model was made by {head.created_by} in format {head.format} and needs "
        f"lowerbound >= {needs}, but this is {__version__} (format {FORMAT}){reason}",
        fix=f"pip install 'lowerbound>={needs}'",
        created_by=head.created_by,
        needs=needs,
    )


def _key(text: str) -> tuple[int, ...]:
    """Order versions by their numbers; the suffix of a pre-release is ignored."""
    numbers = []
    for part in text.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _check_files(manifest: Manifest, required: frozenset[str]) -> None:
    names = [entry.name for entry in manifest.files]
    if len(set(names)) < len(names) or MANIFEST in names:
        raise damaged("it lists a file twice, or itself")
    if absent := sorted(required - set(names)):
        raise damaged(f"it does not list {', '.join(absent)}")
    if foreign := [n for n in names if n.endswith(".safetensors") and n != WEIGHTS]:
        raise damaged(f"it lists {foreign[0]}, but only {WEIGHTS} holds numbers")
