"""Heat maps of the verb score: select the pictures, draw them, write the folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from lowerbound.cli.places import names_of, write_pictures
from lowerbound.cli.work import overlay
from lowerbound.coding.base import Coded
from lowerbound.coding.pictures import PictureCoding
from lowerbound.coding.rows import subset
from lowerbound.errors import UsageError
from lowerbound.files.data import Whole
from lowerbound.tasks import draws
from lowerbound.tasks.explain import remarkable

if TYPE_CHECKING:
    from lowerbound.tasks.trained import Model


def check(trained: Model) -> PictureCoding:
    """Return the coding of a model of pictures; raise an error for other models."""
    if not isinstance(trained.coding, PictureCoding):
        raise UsageError(
            "E246",
            "--heatmaps needs a model of pictures, and this model was trained on a table",
            fix="--explain 3",
        )
    return trained.coding


def write(
    trained: Model,
    given: tuple[Whole, Coded, pa.Table],
    folder: Path,
    overwrite: bool,
) -> dict[str, Any]:
    """Write heat maps of the flagged and highest-scoring pictures; return facts about them.

    Args:
        trained: the model.
        given: the pictures, coded, and their scores.
        folder: the folder to write.
        overwrite: replace an earlier folder.
    """
    coding, (frame, coded, scores) = check(trained), given
    chosen = remarkable(scores)
    rows = subset(coded.rows, torch.from_numpy(chosen))
    excess = draws.pixel_excess(trained.model, rows, trained.importance_samples)
    heat = overlay.smoothed(excess.numpy())
    pixels = coding.raw(frame)[chosen]
    drawn = overlay.draw(coding.shown(pixels), heat)
    names = names_of(frame.files, frame.rows)
    write_pictures(folder, [names[i] for i in chosen], drawn, overwrite)
    return {"heatmaps": {"folder": str(folder), "pictures": len(chosen)}}
