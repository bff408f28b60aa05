"""Find the picture files of a folder, and decode them within bounded memory."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lowerbound.columns.arrow import place, spelled
from lowerbound.errors import DataError, LowerboundError
from lowerbound.files import paths as files
from lowerbound.files import scratch
from lowerbound.files.modality import PICTURES
from lowerbound.files.parallel import in_order
from lowerbound.files.pictures import image_file
from lowerbound.files.pictures.bad_files import Tally, Unreadable, counted
from lowerbound.files.pictures.options import FULL

KINDS = 5  # of other files that are named
# Written next to restored pictures: a sheet of the first few, and folders of maps and draws.
OVERVIEW, UNCERTAINTY, DRAW = "_overview.png", "uncertainty", "draw"
_ARCHIVED = "__MACOSX"  # an extra folder in archives made on a Mac


@dataclass(frozen=True)
class Listing:
    """The picture files that a path stands for.

    Attributes:
        root: the folder, or the parent of a single file.
        files: the pictures, in the order of their names.
        names: of the files, relative to `root`, with "/" between the parts.
        labels: the sub-folder that each file is in, "" at the root.
        others: the number of files of other kinds in the same folders, by suffix.
        origin: the name of the pictures in messages.
        pages: the frame or page of each file; () where each is the first.
    """

    root: Path
    files: list[Path]
    names: list[str]
    labels: list[str]
    others: dict[str, int] = field(default_factory=dict)
    origin: str = "the pictures"
    pages: Sequence[int] = ()

    @property
    def places(self) -> list[tuple[Path, int]]:
        """The file of each picture, and its frame or page."""
        return list(zip(self.files, self.pages or [0] * len(self.files), strict=True))

    @property
    def ignored(self) -> int:
        """The number of files that are not pictures, or of kinds that are not read."""
        return sum(self.others.values())

    def first(self, count: int | None) -> Listing:
        """Return the first `count` pictures; None means all."""
        return self.chosen(range(len(self.files))[:count])

    def chosen(self, index: Iterable[int]) -> Listing:
        """Return the pictures at these places, in this order."""
        places = list(index)
        columns = ("files", "names", "labels", *(("pages",) if self.pages else ()))
        return replace(
            self, **{name: [getattr(self, name)[i] for i in places] for name in columns}
        )

    def expanded(self, counts: Sequence[int]) -> Listing:
        """Return a picture for each frame or page of the files, of which there are `counts`."""
        index = [i for i, count in enumerate(counts) for _ in range(count)]
        if max(counts, default=0) <= 1:
            return self.chosen(index)
        pages = [page for count in counts for page in range(count)]
        names = [
            f"{self.names[i]}#{page:0{len(str(counts[i] - 1))}d}"
            if counts[i] > 1
            else self.names[i]
            for i, page in zip(index, pages, strict=True)
        ]
        return replace(self.chosen(index), names=names, pages=pages)

    @property
    def notes(self) -> list[str]:
        """Notes about files that were left out."""
        if not self.others:
            return []
        kinds = sorted(self.others.items(), key=lambda item: (-item[1], item[0]))
        told = ", ".join(f"{count:,} {suffix}" for suffix, count in kinds[:KINDS])
        return [
            f"{counted(self.ignored, 'file')} ignored, not pictures of a supported kind: {told}"
        ]


def pictures_in(data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Listing:
    """List the pictures of a folder, a file, a pattern or a list of these, without opening any.

    A folder is searched with its sub-folders, but not through links to folders. Hidden files are
    ignored, and so are the maps, draws and overviews next to restored pictures.

    Raises:
        DataError: E001 to E007 for a path that is not there, E082 where there is no picture.
    """
    texts = files.named(data)
    if isinstance(data, str | os.PathLike):
        return _beneath(texts[0])
    listings = [_beneath(text) for text in texts]
    if not listings:
        raise _no_picture("the list of paths", {})
    paths = [Path(os.path.abspath(path)) for listing in listings for path in listing.files]
    root = Path(os.path.commonpath([path.parent for path in paths]))
    names = [spelled(path.relative_to(root).as_posix()) for path in paths]
    others: Counter[str] = Counter()
    for listing in listings:
        others.update(listing.others)
    return Listing(root, paths, names, _parents(names), dict(others), "the pictures")


def _beneath(text: str) -> Listing:
    """List the pictures of a folder, a file or a pattern."""
    found = files.standing(text)
    if found.matches is not None:
        return _listing(found.path, *_parted(found.matches), text)
    if found.is_folder:
        return _listing(found.path, *_parted(_walk(found.path)), text)
    return _listing(found.path.parent, [found.path], {}, text)


def _walk(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise files.refusal(error.filename or folder, error) from error

    for here, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [f for f in folders if not f.startswith(".") and f != _ARCHIVED]
        yield from (Path(here) / name for name in names)
        # Not entered, since they may lead back here; their number is reported.
        yield from (Path(here) / f for f in folders if os.path.islink(os.path.join(here, f)))


def _parted(paths: Iterable[Path]) -> tuple[list[Path], dict[str, int]]:
    """Return the pictures, and the counts of other files by their suffix."""
    found = list(paths)
    earlier = {path.parent for path in found if path.name == OVERVIEW}
    hits, others = [], Counter()
    for path in found:
        if path.name.startswith("."):
            others["hidden"] += 1
        elif path.name == OVERVIEW or _is_map(path, earlier):
            others["beside earlier results"] += 1
        elif path.is_symlink() and path.is_dir():
            others["behind a link"] += 1
        elif path.suffix.lower() in PICTURES:
            hits.append(path)
        else:
            others[path.suffix.lower() or "without suffix"] += 1
    return hits, dict(others)


def _is_map(path: Path, earlier: Set[Path]) -> bool:
    """Return whether a picture is an uncertainty map or a draw of an earlier result."""
    return any(
        over.parent in earlier and re.fullmatch(rf"{UNCERTAINTY}|{DRAW}\d+", over.name)
        for over in path.parents
    )


def _listing(root: Path, hits: list[Path], others: dict[str, int], text: str) -> Listing:
    if not hits:
        raise _no_picture(text, others)
    named = sorted((spelled(path.relative_to(root).as_posix()), path) for path in hits)
    names = [name for name, _ in named]
    origin = spelled(Path(text).name or text)
    return Listing(root, [path for _, path in named], names, _parents(names), others, origin)


def _parents(names: Iterable[str]) -> list[str]:
    return [name.rpartition("/")[0] for name in names]


def _no_picture(text: str, others: Iterable[str]) -> DataError:
    kinds = f" (only {', '.join(sorted(others)[:KINDS])})" if others else ""
    return DataError(
        "E082",
        f"{place(text)} contains no picture{kinds}",
        fix=f"it should contain files such as {', '.join(PICTURES[:2])}, "
        f"{PICTURES[5]} or {PICTURES[6]}",
        path=text,
    )


class Pictures(Sequence[NDArray[np.uint8]]):
    """Images of 8 bits in one block of memory; ``p[i]`` is (H, W, C), without a copy.

    Args:
        store: (bytes,) the pixels of all pictures, one after the other.
        shapes: (H, W, C) of each picture.
        names: of the files, relative to their folder.
        labels: the sub-folders that they are in.
        unreadable: the files that were left out, and why.
        notes: notes for the user.
        white: the value of white in those of 16 bits; None where there are none.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - columns of one list of files
        self,
        store: NDArray[np.uint8],
        shapes: list[tuple[int, int, int]],
        names: list[str],
        labels: list[str],
        unreadable: Unreadable,
        notes: list[str],
        white: int | None,
    ) -> None:
        self.shapes, self.names, self.labels, self.notes = shapes, names, labels, notes
        self.unreadable, self.white = unreadable, white
        self._store = store
        self._starts = np.concatenate([[0], np.cumsum([h * w * c for h, w, c in shapes])])

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.shapes)

    def __getitem__(self, place):  # noqa: ANN001, ANN204 - as Sequence has it
        """Return one picture, (H, W, C) uint8, or a list of them for a slice."""
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        start, stop = self._starts[place : place + 2]
        return self._store[start:stop].reshape(self.shapes[place])

    def stacked(self) -> NDArray[np.uint8]:
        """Return all pictures as one array, (n, H, W, C), without a copy.

        Raises:
            DataError: E086 where they have several sizes.
        """
        sizes = Counter(self.shapes)
        if len(sizes) > 1:
            (most, count), *_ = sizes.most_common()
            raise DataError(
                "E086",
                f"the pictures have {len(sizes)} sizes; {count:,} of {len(self):,} have "
                f"{most[0]} x {most[1]}",
                fix="bring them to one: --size 64, or --size 64x96",
                sizes=len(sizes),
            )
        return self._store[: self._starts[-1]].reshape(len(self), *self.shapes[0])


@dataclass(frozen=True)
class Survey:
    """The headers of picture files.

    Attributes:
        listing: of the files whose headers could be read.
        headers: of each of them.
        tally: of the others.
    """

    listing: Listing
    headers: list[image_file.Header]
    tally: Tally

    @property
    def channels(self) -> int:
        """1 where every picture is grey, else 3."""
        return max(h.channels for h in self.headers)

    @property
    def sizes(self) -> Counter[tuple[int, int]]:
        """The number of pictures of each (height, width)."""
        return Counter((h.height, h.width) for h in self.headers)

    @property
    def readable(self) -> Survey:
        """The pictures that are not in the tally of the unreadable."""
        bad = {name for name, _ in self.tally.unreadable}
        kept = [i for i, name in enumerate(self.listing.names) if name not in bad]
        return replace(
            self,
            listing=self.listing.chosen(kept),
            headers=[self.headers[i] for i in kept],
        )

    def whites(self, known: int | None = None) -> dict[str, int | None]:
        """Return the value of white of each picture by its name; None for those of 8 bits.

        Args:
            known: that of grey pictures of 16 bits, where a model or the user tells it.
        """
        highest = highest_value(self) if known is None else None
        usual = known if highest is None else image_file.white_for(highest)
        return {
            name: FULL if header.real else usual if header.deep else None
            for name, header in zip(self.listing.names, self.headers, strict=True)
        }

    @property
    def notes(self) -> list[str]:
        """Notes about frames and pages that are not read."""
        several = [h.frames for h in self.headers if h.frames > 1]
        if not several:
            return []
        rest = counted(sum(several) - len(several), "frame")
        return [
            f"{counted(len(several), 'file')} with several frames or pages: the first of each is "
            f"read, {rest} more left out (a fit with --all-frames takes each as a picture)"
        ]


def survey(listing: Listing, on_bad_file: str = "auto", all_frames: bool = False) -> Survey:
    """Read the header of every picture; nothing is decoded.

    Args:
        listing: the files.
        on_bad_file: as of `gather`.
        all_frames: take each frame or page of a file as a picture, called ``name#0`` and so on.

    Raises:
        DataError: E083 or E085 at the first unreadable file where `on_bad_file` is "fail".
    """
    tally = Tally(len(listing.files), on_bad_file)
    counts: list[int] = []
    headers: list[image_file.Header] = []
    read = image_file.headers if all_frames else lambda path: [image_file.header(path)]
    for i, found in in_order(read, listing.files):
        if isinstance(found, LowerboundError):
            tally.add(listing.names[i], found)
            counts.append(0)
            continue
        counts.append(len(found))
        headers += found
    tally.total += sum(max(0, count - 1) for count in counts)
    return Survey(listing.expanded(counts), headers, tally)


def examined(seen: Survey, most: int | None = None) -> int:
    """Decode pictures at their lowest resolution; count the broken ones in the survey's tally.

    Args:
        seen: the headers.
        most: number of pictures to decode, evenly spaced; None decodes all.

    Returns:
        The number of pictures that were decoded.
    """
    total = len(seen.headers)
    count = total if most is None else min(total, most)
    chosen = np.unique(np.linspace(0, max(0, total - 1), count).astype(int)).tolist()
    places = seen.listing.places
    for i, found in in_order(lambda i: image_file.check(*places[i]), chosen):
        if isinstance(found, LowerboundError):
            seen.tally.add(seen.listing.names[chosen[i]], found)
    return len(chosen)


def highest_value(*surveys: Survey) -> int | None:
    """Return the highest value of all grey pictures of 16 bits; None where there are none.

    Nothing in such a file tells how many of its bits a camera has used. One white for a whole
    folder keeps its pictures comparable.
    """
    deep = [
        place
        for seen in surveys
        for place, h in zip(seen.listing.places, seen.headers, strict=True)
        if h.deep
    ]
    found = in_order(lambda place: image_file.highest(*place), deep)
    found = [n for _, n in found if isinstance(n, int)]  # others are counted when decoded
    return max(found, default=None)


def gather(
    listing: Listing,
    *,
    channels: int | None = None,
    on_bad_file: str = "auto",
    resize: tuple[int, int] | None = None,
    white: int | None = None,
    all_frames: bool = False,
) -> Pictures:
    """Decode the pictures of a listing, in parallel and in its order, to 8 bits.

    They are held in memory where they take less than a quarter of what is free, and otherwise in
    a scratch file that vanishes with them.

    Args:
        listing: the result of `pictures_in`.
        channels: 1 or 3; None takes 1 where all pictures are grey.
        on_bad_file: "auto" leaves out unreadable files up to 1 % of all and names them; "skip"
            leaves out any number, "fail" stops at the first.
        resize: (height, width): every picture is scaled to cover it, then cut around its middle;
            None keeps their sizes.
        white: as of `decoded`.
        all_frames: as of `survey`.

    Raises:
        DataError: E083 or E085 for an unreadable file, E084 where there are too many of them.
        ResourceError: E301 where the pixels fit neither into memory nor on the disk.
    """
    seen = survey(listing, on_bad_file, all_frames)
    return decoded(seen, channels=channels, resize=resize, white=white)


def decoded(
    seen: Survey,
    *,
    channels: int | None = None,
    resize: tuple[int, int] | None = None,
    white: int | None = None,
) -> Pictures:
    """Decode the pictures whose headers were read, as `gather` does.

    Args:
        seen: the headers.
        channels: as of `gather`.
        resize: as of `gather`.
        white: the value of white in grey pictures of 16 bits; None chooses the least of 8, 10,
            12, 14 or 16 bits that holds the values of all of them.
    """
    seen.tally.check()
    highest = highest_value(seen)
    usual = None if highest is None else image_file.white_for(highest)
    white = white or usual
    top = white or FULL
    deepest = channels or seen.channels
    shapes = [(*(resize or (h.height, h.width)), deepest) for h in seen.headers]
    store = scratch.room(sum(h * w * c for h, w, c in shapes))
    places = seen.listing.places

    def pixels(i: int) -> NDArray[np.uint8]:
        path, page = places[i]
        if resize is not None:
            return image_file.fitted(path, resize, deepest, top, page)
        whole = FULL if seen.headers[i].real else top
        found = image_file.bytes_of(image_file.decode(path, deepest, page), whole)
        if found.shape != shapes[i]:
            raise files.refusal(path, FileNotFoundError(2, "it changed"))
        return found

    kept, end = [], 0
    for i, found in in_order(pixels, range(len(shapes))):
        if isinstance(found, LowerboundError):
            seen.tally.add(seen.listing.names[i], found)
            continue
        store[end : end + found.size] = found.ravel()
        end += found.size
        kept.append(i)
    seen.tally.check()
    left = seen.listing.chosen(kept)
    headers = [seen.headers[i] for i in kept]
    notes = [
        *left.notes,
        *seen.tally.notes,
        *replace(seen, headers=headers).notes,
        *_of_depth(headers, highest, top),
        *_of_size(headers, resize),
    ]
    unreadable = seen.tally.unreadable
    sizes = [shapes[i] for i in kept]
    # Where every picture has 8 bits, nothing was decided about white.
    known = white if usual is not None else None
    return Pictures(store, sizes, left.names, left.labels, unreadable, notes, known)


def _of_depth(headers: list[image_file.Header], highest: int | None, white: int) -> list[str]:
    """Return notes on pictures that became 8 bits."""
    deep, real = (sum(getattr(h, name) for h in headers) for name in ("deep", "real"))
    notes = []
    if deep:
        full = white == FULL
        told = "" if full else f" with values up to {highest:,}: white is {white:,}"
        notes.append(f"{counted(deep, 'picture')} of 16 bits{told}: rounded to 8")
    if deep and highest is not None and highest > white:
        notes.append(f"values above {white:,}, the white of the training pictures, become white")
    if real:
        notes.append(f"{counted(real, 'picture')} of floating-point numbers: rounded to 8 bits")
    return notes


def _of_size(headers: list[image_file.Header], resize: tuple[int, int] | None) -> list[str]:
    """Return notes on pictures that were scaled."""
    notes = []
    if resize is not None:
        height, width = resize
        scaled = sum((h.height, h.width) != resize for h in headers)
        if scaled:
            notes.append(f"{counted(scaled, 'picture')} scaled and cut to {height} x {width}")
        small = sum(h.height < height or h.width < width for h in headers)
        if small:
            notes.append(f"{counted(small, 'picture')} smaller than {height} x {width}: enlarged")
    return notes
