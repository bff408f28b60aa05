"""Errors for paths that are not a saved model."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from lowerbound.bundle import shipped
from lowerbound.bundle.manifest import MANIFEST
from lowerbound.errors import ModelFileError, nearest
from lowerbound.files import publish

_FIT = "train a model of this library's own format: lowerbound fit DATA --out M.vae"
_SWAPPED = "the model comes before the data: lowerbound score M.vae DATA --out F"
_MAY_RUN = "which may run code when it is opened"

# Description of a file by its suffix, and the fix.
_FOREIGN = {
    **dict.fromkeys((".pt", ".pth", ".bin"), (f"a PyTorch file, {_MAY_RUN}", _FIT)),
    ".ckpt": (f"a training checkpoint, {_MAY_RUN}", _FIT),
    **dict.fromkeys((".pkl", ".pickle", ".joblib", ".dill"), (f"a pickle, {_MAY_RUN}", _FIT)),
    **dict.fromkeys((".keras", ".h5", ".hdf5"), (f"a Keras or HDF5 file, {_MAY_RUN}", _FIT)),
    ".onnx": ("an ONNX graph, which carries neither schema nor calibration", _FIT),
    ".safetensors": ("weights alone, without the recipe and the schema", _FIT),
    **dict.fromkeys((".tar", ".zip", ".gz", ".tgz"), ("an archive", "unpack it first")),
    **dict.fromkeys((".csv", ".tsv", ".parquet", ".npy", ".npz"), ("a data file", _SWAPPED)),
}

_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

_MAX_LISTED = 10_000


def model_folder(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a folder that has a manifest.

    The name of a model inside the package is its folder, if there is nothing at that path.

    Raises:
        ModelFileError: E101 to E106, which names what `path` is instead.
    """
    root = Path(path)
    if not os.path.lexists(root):
        root = shipped.found(path) or root
    if "://" in os.fspath(path):
        raise ModelFileError(
            "E101",
            f"{os.fspath(path)} is an address, and models are not downloaded",
            fix="download the model's folder and pass its path",
        )
    try:
        mode = root.stat().st_mode
    except FileNotFoundError as error:
        raise _absent(root) from error
    except PermissionError as error:
        raise unreadable(root, error) from error
    except (OSError, ValueError) as error:  # a file as a folder, too long, NUL, a loop of links
        raise ModelFileError("E101", f"{str(root)[:200]!a} is no path: {error}"[:300]) from error
    root = root.resolve()
    if not stat.S_ISDIR(mode):
        raise _not_a_folder(root, mode)
    names = listing(root)
    if MANIFEST not in names:
        raise _no_manifest(root, names)
    return root


def listing(root: Path) -> list[str]:
    """Return the names in a folder, at most 10,000."""
    names: list[str] = []
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                names.append(entry.name)
                if len(names) >= _MAX_LISTED:
                    break
    except OSError as error:
        raise unreadable(root, error) from error
    return names


def kind(mode: int) -> str:
    """Return the kind of a path, from its mode."""
    return _KINDS.get(stat.S_IFMT(mode), "something else")


def unreadable(path: Path, error: OSError) -> ModelFileError:
    """Return the error for a path that cannot be read."""
    return ModelFileError(
        "E106",
        f"cannot read {path}: {error.strerror or error}",
        fix=f"check its permissions: ls -l {path}",
        path=str(path),
    )


def _absent(root: Path) -> ModelFileError:
    given, root = root, root.absolute()
    fix = "lowerbound fit DATA --out M.vae makes a model"
    message = f"there is no model at {root}"
    if not root.parent.is_dir():
        return ModelFileError("E101", f"{message}: {root.parent} does not exist", fix=fix)
    siblings = listing(root.parent)
    if aside := publish.moved_aside(root, siblings):
        message += "; saving its successor was cut short"
        fix = f"mv {aside} {root}"
    elif own := shipped.similar(given):
        message += f"; a model of the package has a similar name: {own}"
        fix = f"pass {own}"
    elif similar := nearest(root.name, (s for s in siblings if s[0] != ".")):
        message += f"; a similar name is there: {similar}"
        fix = f"pass {root.parent / similar}"
    return ModelFileError("E101", message, fix=fix, path=str(root))


def _not_a_folder(root: Path, mode: int) -> ModelFileError:
    if not stat.S_ISREG(mode):
        return ModelFileError("E103", f"{root} is {kind(mode)}; a saved model is a folder")
    if root.name == MANIFEST:
        return ModelFileError("E103", f"{root} is one file of a model", fix=f"pass {root.parent}")
    if foreign := _FOREIGN.get(root.suffix.lower()):
        what, fix = foreign
        return ModelFileError("E102", f"refused: {root} is {what}", fix=fix, path=str(root))
    return ModelFileError(
        "E103",
        f"{root} is a file; a saved model is a folder such as M.vae",
        fix=_FIT,
        path=str(root),
    )


def _no_manifest(root: Path, names: list[str]) -> ModelFileError:
    if not names:
        return ModelFileError("E104", f"{root} is empty", fix=_FIT, path=str(root))
    inside = [name for name in sorted(names) if (root / name / MANIFEST).is_file()]
    if inside or root.suffix == ".run":
        what = "the folder of a training run" if root.suffix == ".run" else "a folder"
        best = "best.vae" if "best.vae" in inside else next(iter(inside), None)
        return ModelFileError(
            "E105",
            f"{root} is {what} with {len(inside)} saved model(s) in it, not one itself",
            fix=f"pass {root / best}" if best else "let the training finish, then pass its model",
            path=str(root),
        )
    return ModelFileError(
        "E104",
        f"{root} is no saved model: it has no {MANIFEST}",
        fix="copy the whole folder from its source again; " + _FIT,
        path=str(root),
    )
