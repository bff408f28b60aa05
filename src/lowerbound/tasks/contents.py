"""Check the documents of a saved model before any of them is used; torch is not imported.

The digests of a model file show that it was not changed by accident. They do not show who made
it: a stranger can seal any content. What the documents may hold is therefore written down here,
and everything else in the library may rely on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from lowerbound.bundle.documents import invalid
from lowerbound.columns.arrow import arrow_type, snippet, spell, storage
from lowerbound.columns.levels import Known
from lowerbound.columns.schema import Schema
from lowerbound.tasks.objective_settings import SETTINGS

MOST_SAMPLES = 4096  # importance samples of one score
MOST_LISTED = 1_000_000  # scores, columns or genes
SIDE = 1 << 16  # pixels of a side of a picture
APART = {"levels", "unlabelled"}  # scorings whose held-out scores are stored apart
PIXELS = 1 << 26  # numbers of one picture

Share = Annotated[float, Field(ge=0, le=1)]
Size = Annotated[int, Field(ge=1, le=SIDE)]
White = Annotated[int, Field(ge=1, lt=1 << 16)] | None  # of pictures of 16 bits


class _Part(BaseModel):
    """Part of a document; keys that a later version adds are ignored."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class Threshold(_Part):
    """A threshold on a score, and the share of normal rows above it."""

    threshold: float
    rate: Share
    low: Share
    high: Share


class Calibrated(_Part):
    """Scores of held-out rows in ascending order, and the threshold from them."""

    scores: list[float] = Field(max_length=MOST_LISTED)
    alarm: Threshold

    @model_validator(mode="after")
    def _ascending(self) -> Calibrated:
        if (np.diff(self.scores) < 0).any():
            raise ValueError("scores must be in ascending order")
        return self


class _Scoring(_Part):
    k: int = Field(default=1, ge=1, le=1000)
    samples: int = Field(default=1, ge=1, le=MOST_SAMPLES)
    usual: list[float] = Field(default=[], max_length=MOST_LISTED)
    depth: list[float] = Field(default=[0.0, 1.0, 0.0], min_length=3, max_length=10)


class _Further(Calibrated):
    measure: _Scoring


Many = Annotated[int, Field(ge=0, le=1 << 53)]


class _HeldOutPart(_Part):
    values: list[float] = Field(max_length=MOST_LISTED)
    counts: list[Many]

    @model_validator(mode="after")
    def _rising(self) -> _HeldOutPart:
        if len(self.values) != len(self.counts) or (np.diff(self.values) <= 0).any():
            raise ValueError("values must rise, and each must have a count")
        return self


class _HeldOutColumn(_Part):
    missing: Many
    parts: list[_HeldOutPart] = Field(max_length=MOST_LISTED)


class _HeldOut(_Part):
    rows: Many = 0
    columns: dict[str, _HeldOutColumn] = Field(default={}, max_length=MOST_LISTED)

    @model_validator(mode="after")
    def _within_rows(self) -> _HeldOut:
        for column in self.columns.values():
            most = max([column.missing, *(sum(part.counts) for part in column.parts)])
            if most > self.rows:
                raise ValueError("counts must be of at most `rows` rows")
        return self


class CalibrationDocument(Calibrated):
    """The content of calibration.json."""

    further: dict[str, JsonValue] = Field(default={}, max_length=100)
    held_out: _HeldOut = _HeldOut()

    @model_validator(mode="after")
    def _known_scorings(self) -> CalibrationDocument:
        for by in APART & self.further.keys():  # others are of later versions
            _Further.model_validate(self.further[by])
        return self


class _Plan(_Part):
    alarm_rate: float = Field(gt=0, lt=1)
    preset: str | None = None
    seed: int | None = None


class _Engine(_Part):
    threads: int
    precision: str
    burst: int = 0


class _Level(_Part):
    name: str
    rate: float | None
    active: int
    latent: int
    perplexity: float | None = None


class _Health(_Part):
    active: int | None = None
    latent: int | None = Field(default=None, ge=0)
    rate: float | None = None
    verdict: str | None = None
    lines: list[str] = Field(default=[], max_length=1000)
    levels: list[_Level] = Field(default=[], max_length=10_000)


class _Labels(_Part):
    labels: list[JsonValue] = Field(max_length=MOST_LISTED)
    names: list[JsonValue] = Field(max_length=100)
    of: str | None = Field(default=None, max_length=100)


class _Frame(_Part):
    types: dict[str, JsonValue] = Field(default={}, max_length=MOST_LISTED)
    labels: _Labels | None = None


class _Input(_Part):
    model_config = ConfigDict(extra="forbid")

    kind: str = "arrow"
    named: bool = True
    frame: _Frame = _Frame()


class FactsDocument(_Part):
    """The content of metrics.json, as far as it is read."""

    columns: list[str] = Field(max_length=MOST_LISTED)
    rows: int = Field(default=0, ge=0)
    version: str = ""
    torch: str = ""
    origin: str = ""
    split: dict[str, int] = {}
    plan: _Plan
    objective: dict[str, JsonValue] | None = None
    engine: _Engine | None = None
    health: _Health = _Health()
    typical_nats: dict[str, float] = {}
    rules: list[str] = Field(default=[], max_length=1000)
    valid_elbo: float | None = None
    latent: int | None = Field(default=None, ge=0)
    importance_samples: int = Field(default=1, ge=1, le=MOST_SAMPLES)
    input: _Input = _Input()

    @model_validator(mode="after")
    def _known_objective(self) -> FactsDocument:
        given = self.objective or {}
        for each in SETTINGS:
            value = given.get(each.name, each.default)
            number = type(each.default) in (int, float) and type(value) in (int, float)
            if not number and type(value) is not type(each.default):
                raise ValueError(f"objective.{each.name} has another type")
        if self.engine is not None and self.objective is None:
            raise ValueError("objective is missing")
        return self


class _Arguments(_Part):
    latent: int | None = None
    latents: list[int] = []


class ConfigDocument(_Part):
    """The content of config.json; the recipe checks its other arguments."""

    recipe: str
    arguments: _Arguments


class _TableDocument(_Part):
    coding: Literal["table", "numbers", "bits"]
    gaps: bool
    columns: Annotated[Any, Field(alias="schema")]


Rows = Annotated[int, Field(ge=1, le=1 << 53)]


class _Factor(_Part):
    kind: Literal["batch"]
    name: str = Field(min_length=1)
    levels: dict[str, Rows] = Field(min_length=1, max_length=MOST_LISTED)
    dtype: str = Field(max_length=200)
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="after")
    def _spelled(self) -> _Factor:
        _check_spelled(list(self.levels), self.dtype)
        return self


class _Measure(_Part):
    kind: Literal["covariate"]
    name: str = Field(min_length=1)
    mean: float
    scale: float = Field(gt=0)
    low: float
    high: float
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="after")
    def _range(self) -> _Measure:
        if self.low > self.high:
            raise ValueError("low must not be above high")
        return self


class _Profile(_Part):
    codes: list[Annotated[int, Field(ge=0)]]
    rows: Rows
    totals: list[Annotated[int, Field(ge=0, le=1 << 53)]]
    numbers: list[list[float]]


class _CountsDocument(_Part):
    """Of counts; versions before 1.0 have `batch`, `batches`, `dtype` and `depths` instead."""

    coding: Literal["counts"]
    names: list[str] = Field(min_length=1, max_length=MOST_LISTED)
    covariates: list[Annotated[_Factor | _Measure, Field(discriminator="kind")]] = []
    layer: str = Field(default="", max_length=200)
    shares: list[Share] = Field(default=[], max_length=MOST_LISTED)
    labels: _Factor | None = None
    profiles: list[_Profile] | None = Field(default=None, min_length=1, max_length=MOST_LISTED)
    batch: str = ""
    batches: dict[str, Rows] | None = None
    dtype: str = Field(default="string", max_length=200)
    depths: dict[str, list[Annotated[int, Field(ge=0, le=1 << 53)]]] | None = None

    @model_validator(mode="after")
    def _distinct(self) -> _CountsDocument:
        named = [*self.names, *(each.name for each in self.covariates)]
        if len(set(named)) < len(named) or self.batch in self.names:
            raise ValueError("names must be distinct")
        if self.batches and not self.batch:
            raise ValueError("the column of batches must have a name")
        return self

    @model_validator(mode="after")
    def _shared(self) -> _CountsDocument:
        if len(self.shares) not in (0, len(self.names)):
            raise ValueError("shares must be of the names")
        return self

    @model_validator(mode="after")
    def _profiled(self) -> _CountsDocument:
        sizes = [len(each.levels) for each in self.covariates if isinstance(each, _Factor)]
        measures = len(self.covariates) - len(sizes)
        if self.profiles is not None and not any(each.totals for each in self.profiles):
            raise ValueError("profiles must not be empty")
        for each in self.profiles or ():
            fits = len(each.codes) == len(sizes)
            if not fits or any(c >= n for c, n in zip(each.codes, sizes, strict=True)):
                raise ValueError("profiles must be of the covariates")
            if (np.diff(each.totals) < 0).any():
                raise ValueError("totals must be in ascending order")
            wanted = len(each.totals) if measures else 0
            if len(each.numbers) != wanted or any(len(n) != measures for n in each.numbers):
                raise ValueError("profiles must have the numbers of their rows")
        return self

    @model_validator(mode="after")
    def _totals(self) -> _CountsDocument:
        if self.depths is None:
            return self
        if set(self.depths) != set(self.batches or [""]):
            raise ValueError("depths must be of the batches")
        if not any(self.depths.values()):
            raise ValueError("depths must not be empty")
        if any((np.diff(own) < 0).any() for own in self.depths.values()):
            raise ValueError("depths must be in ascending order")
        return self

    @model_validator(mode="after")
    def _spelled(self) -> _CountsDocument:
        _check_spelled(list(self.batches or ()), self.dtype)
        return self


def _check_spelled(words: list[str], dtype: str) -> None:
    """Raise an error if levels cannot be written in their type."""
    try:
        spell(np.arange(len(words)), words, dtype)
        Known(words, storage(arrow_type(dtype)))
    except (pa.ArrowException, AttributeError, OverflowError, TypeError) as error:
        raise ValueError(f"levels are not of the type: {snippet(error)}") from None


class _PicturesDocument(_Part):
    coding: Literal["pictures"]
    shape: list[Size] = Field(min_length=2, max_length=3)
    last: bool
    kind: Literal["bits", "codes", "grey"]
    scale: float
    gaps: bool
    white: White = None
    all_frames: bool = False

    @model_validator(mode="after")
    def _held(self) -> _PicturesDocument:
        if np.prod(self.shape, dtype=float) > PIXELS:
            raise ValueError(f"a picture has at most {PIXELS:,} numbers")
        if self.scale not in (1.0, 255.0):
            raise ValueError("scale must be 1 or 255")
        return self


class _PairsDocument(_Part):
    coding: Literal["pairs"]
    recipe: str
    channels: int = Field(ge=1, le=SIDE)
    scale: int = Field(ge=1, le=16)
    settings: dict[str, JsonValue]
    classes: list[Annotated[int, Field(ge=0, lt=1 << 25)]]
    white: White = None
    all_frames: bool = False

    @model_validator(mode="after")
    def _ascending(self) -> _PairsDocument:
        if (np.diff(self.classes) <= 0).any():
            raise ValueError("classes must be in ascending order")
        return self


_CODINGS: dict[str, type[_Part]] = {
    **dict.fromkeys(("table", "numbers", "bits"), _TableDocument),
    "counts": _CountsDocument,
    "pictures": _PicturesDocument,
    "pairs": _PairsDocument,
}

_DOCUMENTS: dict[str, type[_Part]] = {
    "config.json": ConfigDocument,
    "calibration.json": CalibrationDocument,
    "metrics.json": FactsDocument,
}


def check(documents: Mapping[str, Any]) -> None:
    """Check the content of every document that is read after loading.

    Args:
        documents: JSON values by file name.

    Raises:
        ModelFileError: E116 naming the document and the place in it.
    """
    for name, kind in _DOCUMENTS.items():
        if name not in documents:
            raise invalid(name, "is missing")
        _validated(name, kind, documents[name])
    schema = documents["schema.json"]
    coding = schema.get("coding") if isinstance(schema, dict) else None
    if not isinstance(coding, str) or coding not in _CODINGS:
        raise invalid("schema.json", f"has the unknown coding {snippet(coding)}")
    _validated("schema.json", _CODINGS[coding], schema)
    if _CODINGS[coding] is _TableDocument:
        _validated("schema.json", _Decodable, schema["schema"])


class _Decodable(Schema):
    """A schema of columns whose types and levels can be written."""

    @model_validator(mode="after")
    def _decodes(self) -> _Decodable:
        codes = np.zeros((1, len(self.parts)))
        for bounded in (False, True):
            self.decode(codes, bounded=bounded)
        return self


def _validated(name: str, kind: type[BaseModel], content: object) -> None:
    try:
        with np.errstate(all="ignore"):
            kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = snippet(".".join(map(str, first["loc"])))
        raise invalid(name, f"is wrong at {place}: {snippet(first['msg'], 200)}") from None
    except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise invalid(name, f"is wrong: {snippet(error, 200)}") from None
