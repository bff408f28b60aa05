"""Export of a trained model to an ONNX file, checked against the model before it is written."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.distributions import Distribution

from lowerbound._version import __version__
from lowerbound.coding.tables import TableCoding
from lowerbound.columns.arrow import MISSING_TEXT
from lowerbound.errors import CheckFailed, ResourceError, UsageError
from lowerbound.files.write import atomic_write, check_place
from lowerbound.tasks.onnx import SAMPLES
from lowerbound.tasks.onnx.checking import Parity, compare, drawn_rows
from lowerbound.tasks.onnx.inputs import inputs_of
from lowerbound.tasks.onnx.scorer import Scorer
from lowerbound.tasks.trained import Model

INPUT, OUTPUTS = "cells", ("anomaly_score", "p_value", "is_anomaly")
NEEDED = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Attributes:
        path: the file.
        bytes: size of the file.
        samples: draws of z per row.
        columns: names of the input columns, in order.
        parity: comparison of its outputs with those of the model.
    """

    path: Path
    bytes: int
    samples: int
    columns: tuple[str, ...]
    parity: Parity


def export_onnx(  # noqa: PLR0913 - each is a choice of the user's
    trained: Model,
    path: str | Path,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    check: object = None,
    overwrite: bool = False,
    allow_collapsed: bool = False,
) -> Exported:
    """Write the anomaly score of `trained` as an ONNX file, if its scores equal the model's.

    Args:
        trained: a model of table columns; models of pictures and models with a context, such as
            counts with a library size, cannot be exported.
        path: the file to write; it is written atomically.
        samples: draws of z per row; more draws are more accurate and slower.
        seed: seed of the draws, which are constants of the file.
        check: rows to compare on; by default rows drawn from the model, some values missing.
        overwrite: replace an existing file.
        allow_collapsed: also export a model whose latents carry no information.

    Raises:
        UsageError: E220 to E223 for the path, E246 for a model that cannot be exported.
        ResourceError: E310 if the extra ``export`` is not installed, E301 or E302 for the disk.
        CheckFailed: E602 if the scores of the file differ, E603 for a collapsed model.
    """
    check_place(path, overwrite)
    schema = exportable(trained, allow_collapsed).schema
    require()
    rows = drawn_rows(trained, seed) if check is None else trained.encode(check)[0]
    scorer = Scorer(trained, schema, samples, seed).eval()
    proto = _graph(scorer, len(inputs_of(schema)))
    _describe(proto, trained, samples, seed)
    content = proto.SerializeToString()
    parity = compare(trained, scorer, content, rows, given=check is not None)
    if not parity.holds:
        raise CheckFailed(
            "E602",
            f"the graph's scores differ from the model's by up to {parity.largest:.2g} nats on "
            f"{parity.rows:,} rows, and its coded values by up to {parity.coding:.2g}; nothing "
            "was written",
            fix="please report the file config.json of the model, and the output of "
            "`lowerbound doctor --json`",
            **parity.facts(),
        )

    def write(file: BinaryIO) -> None:
        file.write(content)

    written = atomic_write(path, write, overwrite, need=len(content))
    names = tuple(column.name for column in inputs_of(schema))
    return Exported(written, len(content), samples, names, parity)


def exportable(trained: Model, allow_collapsed: bool = False) -> TableCoding:
    """Return the coding of a model that can be exported.

    Raises:
        UsageError: E246 for models of pictures, and models whose rows have a context.
        CheckFailed: E603 for a collapsed model, unless `allow_collapsed` is set.
    """
    if not isinstance(trained.coding, TableCoding):
        raise UsageError(
            "E246",
            f"a model of the recipe {trained.recipe.name!r} cannot be exported to ONNX: "
            + ("it models pictures" if trained.holds == "pictures" else "its rows need a context"),
            fix="--onnx-encoder FILE --onnx-decoder FILE"
            if trained.encodes
            else "fit with --recipe table",
        )
    verdict = trained.facts.get("health", {}).get("verdict")
    if verdict == "collapsed" and not allow_collapsed:
        raise CheckFailed(
            "E603",
            "the model has collapsed: its latents carry no information about a row",
            fix="--allow-collapsed",
        )
    return trained.coding


def require() -> None:
    """Check that the packages of the extra ``export`` are installed.

    Raises:
        ResourceError: E310 if one is not installed.
    """
    for name in NEEDED:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            raise ResourceError(
                "E310",
                f"export needs {error.name}, which is not installed here",
                fix="pip install 'lowerbound[export]'",
                package=error.name,
            ) from None


@torch.no_grad()
def _graph(scorer: Scorer, inputs: int) -> Any:
    """Return the ONNX model, for any number of rows.

    Raises:
        UsageError: E246 if a part of the model has no ONNX translation.
    """
    table = import_module("lowerbound.tasks.onnx.operators").table()
    example = torch.zeros(3, inputs, dtype=torch.float64)
    scorer(example)  # the draws become constants
    rows = ({0: torch.export.Dim("rows")},)
    try:
        with undisturbed():
            walked = torch.export.export(scorer, (example,), dynamic_shapes=rows, strict=False)
            program = torch.onnx.export(
                walked,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                custom_translation_table=table,
                opset_version=18,
                dynamo=True,
                verbose=False,
            )
    except RuntimeError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0][:200]
        raise UsageError(
            "E246",
            f"a part of this model cannot be exported to ONNX: {reason}",
            fix="fit with --recipe table",
        ) from None
    assert program is not None
    return program.model_proto


@contextmanager
def undisturbed() -> Iterator[None]:
    """Silence the exporter, and turn off torch's validation of distribution arguments.

    Some of torch's distributions create others with validation even if it is turned off for
    themselves, and a graph cannot raise errors.
    """
    checks, loud = Distribution._validate_args, logging.getLogger("torch")
    before = loud.level
    loud.setLevel(logging.CRITICAL)
    Distribution.set_default_validate_args(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Distribution.set_default_validate_args(checks)
        loud.setLevel(before)


def _describe(proto: Any, trained: Model, samples: int, seed: int) -> None:
    """Add a description of inputs and outputs to the metadata of the file, as JSON."""
    coding = exportable(trained, allow_collapsed=True)
    alarm = trained.alarm
    document = {
        "lowerbound": __version__,
        "format": 1,
        "recipe": trained.recipe.name,
        "input": {"name": INPUT, "dtype": "float64", "shape": ["rows", "columns"]},
        "columns": [column.document() for column in inputs_of(coding.schema)],
        "missing": list(MISSING_TEXT),
        "outputs": {
            "anomaly_score": "nats: -log p of the coded row, higher is more unusual",
            "p_value": "share of held-out rows that score as high",
            "is_anomaly": "whether the score is above the threshold",
        },
        "threshold": alarm.threshold,
        "alarm_rate": {"expected": alarm.rate, "low": alarm.low, "high": alarm.high},
        "held_out_rows": len(trained.calibration.scores),
        "samples": samples,
        "seed": seed,
    }
    entry = proto.metadata_props.add()
    entry.key, entry.value = "lowerbound", json.dumps(document, ensure_ascii=False)
    proto.producer_name, proto.producer_version = "lowerbound", __version__
