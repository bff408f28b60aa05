"""The work of the verb export --docker: write the folder of a container image."""

from __future__ import annotations

import os
from pathlib import Path

from lowerbound.errors import UsageError
from lowerbound.files.write_folder import atomic_folder, check_folder
from lowerbound.tasks.trained import Model
from lowerbound.web.server import image

_MARK = "Dockerfile"  # in every folder that was written here
_KINDS = ("", ".md", ".yaml", ".json", ".safetensors", ".whl")


def check_target(path: str, overwrite: bool) -> Path:
    """Return the folder to write, checked before any work.

    Raises:
        UsageError: E220 if it exists, E221 if it is not a folder of an image, E223 for a file.
        ResourceError: E302 if it cannot be written.
    """
    target = check_folder(path, overwrite, _KINDS)
    if target.is_dir() and any(target.iterdir()) and not (target / _MARK).is_file():
        raise UsageError(
            "E221",
            f"{target} exists and is not the folder of an image, so it is not replaced",
            fix="choose another --docker",
            path=str(target),
        )
    return target


def write_image(trained: Model, target: Path, overwrite: bool) -> int:
    """Write the folder, complete or not at all.

    Args:
        trained: the model.
        target: the folder.
        overwrite: replace an earlier one.

    Returns:
        The bytes of all files.
    """
    with atomic_folder(target, overwrite, _KINDS) as stage:
        for name, text in image.files().items():
            path = stage / name
            path.parent.mkdir(exist_ok=True)
            with open(path, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        trained.save(stage / image.MODEL)
        return sum(path.stat().st_size for path in stage.rglob("*") if path.is_file())
