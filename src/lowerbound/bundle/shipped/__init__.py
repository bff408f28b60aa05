"""Models inside the package, used by name where there is no such path.

Each is a saved model in this folder, ``NAME.vae``, whose card says how it was trained:

- photos-denoise: removes Gaussian noise from grey photographs
"""

from __future__ import annotations

import os
from pathlib import Path

from lowerbound.errors import nearest

_HERE = Path(__file__).parent
NAMES = ("photos-denoise",)


def found(path: str | os.PathLike[str]) -> Path | None:
    """Return the folder of the model that a path without a file names, or None.

    >>> found("photos-denoise").name
    'photos-denoise.vae'
    >>> found("M.vae") is None
    True

    Args:
        path: where a model was looked for and nothing is.
    """
    name = os.fspath(path)
    return _HERE / f"{name}.vae" if name in NAMES else None


def similar(path: str | os.PathLike[str]) -> str | None:
    """Return the name closest to a misspelt one, or None if no name is close."""
    return nearest(os.fspath(path), NAMES)


def holds(folder: Path) -> bool:
    """Return whether a folder is one of these models, whose files an installer may link."""
    return folder.parent == _HERE.resolve()
