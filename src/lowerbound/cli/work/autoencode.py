"""The work of the verbs encode and decode, and of evaluate for their models."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lowerbound import bundle
from lowerbound.cli import parsing, places
from lowerbound.cli.models import load
from lowerbound.cli.outputs import Clock, check_apart, spell_path
from lowerbound.cli.progress import Voice
from lowerbound.cli.result import Result, Sheet, left_out
from lowerbound.errors import DataError, LowerboundError, UsageError
from lowerbound.files import paths
from lowerbound.files.array_files import read_npy
from lowerbound.files.pictures import folders, image_file
from lowerbound.files.pictures.bad_files import POLICIES, alone, counted
from lowerbound.files.write import atomic_write, check_place
from lowerbound.files.write_folder import atomic_folder, check_folder
from lowerbound.tasks import autoencode
from lowerbound.tasks.autoencode import Latents, Page
from lowerbound.tasks.trained import Model

INDEX = "latents.json"
KINDS = (".npy", ".json")


class Given(NamedTuple):
    """A picture that was read.

    Attributes:
        name: of the file.
        page: the pixels.
        white: the value of white of 16 bits; None for 8 bits.
    """

    name: str
    page: Page
    white: int | None


@dataclass
class Readable:
    """The pictures that can be read, one at a time, with the channels of a model.

    Args:
        trained: the model.
        data: a path, or several.
        on_bad_file: skip or fail, or None.
    """

    trained: Model
    data: Any
    on_bad_file: str | None

    def __post_init__(self) -> None:
        policy = self.on_bad_file or POLICIES[0]
        parsing.one_of(policy, POLICIES, "--on-bad-file")
        listing, how = folders.pictures_in(self.data), self.trained.coding.wanted()
        policy = alone(len(listing.files), policy)
        self.seen = folders.survey(listing, policy, how.all_frames)
        self.tally, self.names = self.seen.tally, self.seen.listing.names
        self.channels = autoencode.sizes_of(self.trained).channels

    def __iter__(self) -> Iterator[Given]:
        """Yield the pictures in order; count the unreadable ones."""
        whites = self.seen.whites(self.trained.coding.wanted().white)
        for name, (path, number) in zip(self.names, self.seen.listing.places, strict=True):
            try:
                page = image_file.decode(path, self.channels, number)
            except LowerboundError as error:
                self.tally.add(name, error)
                continue
            yield Given(name, page, whites.get(name))
        self.tally.check()

    @property
    def notes(self) -> list[str]:
        """Notes about files that were left out, and about colours that were lost."""
        lost = sum(header.channels > self.channels for header in self.seen.headers)
        grey = [f"{counted(lost, 'picture')} in colour became grey, as the model's are"]
        listing = self.seen.listing
        return [*listing.notes, *self.tally.notes, *self.seen.notes, *(grey if lost else [])]


def encode(  # noqa: PLR0913, PLR0917 - the arguments are the command's flags
    model: Any, data: Any, on_bad_file: str | None, out: Any, overwrite: bool, voice: Voice
) -> Result:
    """Encode pictures; write them, or return the latents of each if `out` is None."""
    clock, target = Clock(), _target(out, overwrite, data)
    trained = load(model)
    sizes = autoencode.sizes_of(trained)
    given = Readable(trained, data, on_bad_file)
    count = len(given.names)
    names = [f"{name[:-4]}.npy" for name in places.names_of(given.names, count)]
    files = dict(zip(given.names, names, strict=True))
    entries: dict[str, dict[str, Any]] = {}
    bits = pixels = 0.0

    def made() -> Iterator[tuple[str, Latents]]:
        nonlocal bits, pixels
        for number, each in enumerate(given):
            found = autoencode.encode_page(trained, each.page, each.white)
            height, width = each.page.shape[:2]
            bits, pixels = bits + found.bits, pixels + height * width
            file = files[each.name]
            white = each.white if sizes.channels == 1 else None  # PNG has no colours of 16 bits
            entries[file] = {"height": height, "width": width, "white": white}
            voice.show((number + 1) / count, f"{number + 1:,} of {count:,} pictures")
            yield file, found

    table = None
    if target is None:
        table = [found.mean for _, found in made()]
    elif target.suffix.lower() == ".npy":
        together = _stacked([(file, found.mean) for file, found in made()])
        atomic_write(target, lambda file: np.save(file, together), overwrite)
    else:
        with atomic_folder(target, overwrite, KINDS) as folder:
            for file, found in made():
                _save(folder / file, found.mean)
            index = {
                "format": 1,
                "model": _digest(model),
                **{name: getattr(sizes, name) for name in ("channels", "latent", "downscale")},
                "pictures": entries,
            }
            (folder / INDEX).write_text(json.dumps(index, indent=1), "utf-8")
    rate = bits / max(pixels, 1.0)
    facts = {
        "pictures": len(entries),
        "latent": sizes.latent,
        "downscale": sizes.downscale,
        "bits_per_pixel": rate,
        "seconds": clock(),
        **left_out(given.tally),
    }
    return Result(
        facts,
        table=table,
        lines=[
            f"{counted(len(entries), 'picture')}, {sizes.latent} channels of latents "
            f"{sizes.downscale} times smaller, {rate:.3f} bits per pixel, {clock():.1f} s"
        ],
        notes=given.notes,
        path=target,
        next=f"lowerbound decode {spell_path(model, 'M.vae')} "
        f"{spell_path(target, 'LATENTS')} --out pictures",
    )


def _target(out: Any, overwrite: bool, data: Any) -> Path | None:
    """Return the folder or file to write, checked before any work."""
    if out is None:
        return None
    text = os.fspath(out)
    if text.lower().endswith(".npy"):
        check_apart(text, data)
        return places.check_replaces_no_input(check_place(text, overwrite), data)
    target = places.check_picture_folder(text, overwrite, data, KINDS)
    if target.is_dir() and any(target.iterdir()) and not (target / INDEX).is_file():
        raise UsageError(
            "E221",
            f"{target} contains other files than latents, so it is not replaced",
            fix="choose another --out",
            path=str(target),
        )
    return target


def _stacked(found: list[tuple[str, NDArray[np.float32]]]) -> NDArray[np.float32]:
    """Return all maps as one array, (n, latent, h, w)."""
    shapes = {each.shape for _, each in found}
    if len(shapes) > 1:
        raise DataError(
            "E086",
            f"the latents have {len(shapes)} sizes, and one array holds one size",
            fix="--out LATENTS, a folder with a file for each picture",
            sizes=len(shapes),
        )
    return np.stack([each for _, each in found])


def _save(path: Path, z: NDArray[np.float32]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        np.save(file, z)


def _digest(model: Any) -> str | None:
    """Return the digest of a saved model; None for one in memory."""
    return bundle.load(model).digest if isinstance(model, str | os.PathLike) else None


class Entry(NamedTuple):
    """A map of latents to decode.

    Attributes:
        name: of the picture to write.
        z: the map, (latent, h, w).
        size: (height, width) of the picture, or None.
        white: the value of white of 16 bits, or None for 8 bits.
    """

    name: str
    z: NDArray[Any]
    size: tuple[int, int] | None
    white: int | None


def decode(model: Any, data: Any, out: Any, overwrite: bool, voice: Voice) -> Result:
    """Decode maps of latents; write PNG files, or return arrays if `out` is None."""
    clock = Clock()
    if out is not None:
        check_apart(out, data)
    target = None if out is None else check_folder(out, overwrite)
    trained = load(model)
    step = autoencode.sizes_of(trained).downscale
    files, index = _maps(data, _digest(model))
    count, made = 0, []

    def pages() -> Iterator[tuple[str, Page]]:
        nonlocal count
        for number, path in enumerate(files):
            for name, z, size, white in _entries(path, files[path], index, step):
                count += 1
                yield name, autoencode.decode_page(trained, z, size, white)
            voice.show((number + 1) / len(files), f"{number + 1:,} of {len(files):,} files")

    if target is None:
        made = [page for _, page in pages()]
    else:
        with atomic_folder(target, overwrite) as folder:
            for name, page in pages():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as file:
                    image_file.writer_of(path, page)(file)
    return Result(
        {"pictures": count, "seconds": clock()},
        table=made if target is None else None,
        lines=[f"{counted(count, 'picture')}, {clock():.1f} s"],
        path=target,
    )


def _maps(data: Any, digest: str | None) -> tuple[dict[Path, str], Mapping[str, Any]]:
    """Return the .npy files of a path with their names, and what is known of each picture."""
    found = paths.standing(os.fspath(data))
    if found.matches is not None or not found.is_folder:
        hits = list(found.matches) if found.matches is not None else [found.path]
        root = found.path if found.matches is not None else found.path.parent
    else:
        root, hits = found.path, sorted(found.path.rglob("*.npy"))
    hits = [path for path in hits if path.suffix.lower() == ".npy"]
    if not hits:
        raise DataError(
            "E090",
            f"{os.fspath(data)} contains no latents: no .npy file",
            fix="lowerbound encode M.vae PICTURES --out LATENTS",
            path=os.fspath(data),
        )
    files = {path: path.relative_to(root).as_posix() for path in hits}
    place = root / INDEX
    return files, _index(place, digest) if place.is_file() else {}


def _index(path: Path, digest: str | None) -> Mapping[str, Any]:
    """Return the entries of latents.json.

    Raises:
        DataError: E090 for one that no `encode` has written, or that another model has.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
        model, pictures = found["model"], found["pictures"]
        for each in pictures.values():
            numbers = [each["height"], each["width"], each["white"] or 1]
            if not all(type(n) is int and 1 <= n < 1 << 20 for n in numbers):
                raise ValueError("a size is none")
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        raise DataError(
            "E090",
            f"{path} is damaged: {type(error).__name__}",
            fix="encode the pictures again, or remove it: sizes are then multiples of the "
            "downscale",
            path=str(path),
        ) from error
    if digest is not None and model is not None and model != digest:
        raise DataError(
            "E090",
            f"{path.parent} was encoded by another model, whose sha256 begins {str(model)[:12]}",
            fix="give the model that has encoded it",
            path=str(path),
        )
    return pictures


def _entries(path: Path, name: str, index: Mapping[str, Any], step: int) -> Iterator[Entry]:
    """Yield the maps of one file.

    Raises:
        DataError: E090 for a map of another size than latents.json tells.
    """
    stem, known = str(PurePosixPath(name).with_suffix("")), index.get(name)
    size = None if known is None else (known["height"], known["width"])
    white = None if known is None else known["white"]
    z = read_npy(path)
    if size is not None and z.shape[-2:] != tuple(-(-side // step) for side in size):
        raise DataError(
            "E090",
            f"{path} has the shape {list(z.shape)}, and {INDEX} tells of a picture of {size[0]} x "
            f"{size[1]} pixels",
            fix=f"encode the pictures again, or remove {INDEX}",
            path=str(path),
        )
    if z.ndim and not len(z):
        raise DataError(
            "E090",
            f"{path} contains no latents: its shape is {list(z.shape)}",
            fix="lowerbound encode M.vae PICTURES --out LATENTS",
            path=str(path),
        )
    if z.ndim != 4:
        yield Entry(f"{stem}.png", z, size, white)
        return
    for each, number in zip(z, places.names_of((), len(z)), strict=True):
        yield Entry(number if len(index) == 0 else f"{stem}/{number}", each, size, white)


def evaluate(model: Any, trained: Model, data: Any, on_bad_file: str | None) -> Result:
    """Measure how well pictures come back from their latents, and what these cost."""
    clock, given = Clock(), Readable(trained, data, on_bad_file)
    decibels, bits, pixels = [], 0.0, 0
    for each in given:
        found = autoencode.encode_page(trained, each.page, each.white)
        height, width = each.page.shape[:2]
        again = autoencode.decode_page(trained, found.mean, (height, width), each.white)
        top = autoencode.white_of(trained, each.page.dtype, each.white)
        error = np.minimum(each.page, top).astype(np.float64) - again
        decibels.append(-10 * np.log10(max(np.square(error / top).mean(), 1e-12)))
        bits, pixels = bits + found.bits, pixels + height * width
    report = {
        "pictures": len(decibels),
        "psnr": float(np.mean(decibels)),
        "psnr_lowest": float(np.min(decibels)),
        "bits_per_pixel": bits / pixels,
    }
    rows = [
        ("PSNR", f"{report['psnr']:.2f} dB", "of decoded pictures, mean; higher is better"),
        ("lowest", f"{report['psnr_lowest']:.2f} dB", "PSNR of the worst picture"),
        ("rate", f"{report['bits_per_pixel']:.4f}", "bits per pixel: KL of posterior from prior"),
    ]
    return Result(
        {**report, "seconds": clock(), **left_out(given.tally)},
        lines=[f"{counted(len(decibels), 'picture')}, {clock():.1f} s"],
        notes=given.notes,
        sheet=Sheet(("measure", "value", "meaning"), rows, right=("value",)),
        next=f"lowerbound encode {spell_path(model, 'M.vae')} {spell_path(data)} --out latents",
    )
