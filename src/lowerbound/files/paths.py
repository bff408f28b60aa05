"""Find the files that a path stands for, and check before opening that they are plain files."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lowerbound.columns.arrow import listed, place, snippet
from lowerbound.errors import DataError, nearest

VAGUE = (".txt", ".dat", ".data")
_KINDS = {
    "text": (".csv", ".tsv", ".tab", *VAGUE),
    "parquet": (".parquet", ".pq"),
    "arrow": (".arrow", ".feather", ".ipc"),
    "array": (".npy", ".npz"),
    "cells": (".h5ad", ".h5mu"),
}
KNOWN = ".csv, .tsv, .tab, .txt (also .gz), .parquet, .arrow, .npy, .npz, .h5ad, .h5mu, idx"

# The names of idx files, such as train-images-idx3-ubyte.gz.
_IDX = re.compile(r"(idx\d?[-.]ubyte|\.idx\d?)(\.gz)?$", re.IGNORECASE)
_NUMBERED = re.compile(r"^(?P<stem>.*?)(?P<number>\d+)(?P<rest>(-of-(?P<of>\d+))?\D*)$")
_UNFINISHED = (".part", ".partial", ".crdownload", ".tmp", ".download")

# The first bytes of files, the format they belong to, and whether it is one of ours.
_MAGIC = (
    (b"PAR1", "parquet"),
    (b"PARE", "encrypted Parquet"),
    (b"\x1f\x8b", "gzip"),
    (b"\x93NUMPY", "npy"),
    (b"PK\x03\x04", "zip"),
    (b"\x89HDF", "HDF5"),
    (b"ARROW1", "Arrow IPC"),
    (b"SQLite", "SQLite"),
    (b"%PDF", "PDF"),
    (b"\xd0\xcf\x11\xe0", "Excel 97"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x80\x02", "pickle"),
    (b"\x80\x03", "pickle"),
    (b"\x80\x04", "pickle"),
    (b"\x80\x05", "pickle"),
    (b"\x89PNG", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"GIF8", "GIF"),
)
_OTHER_SUFFIXES = {
    ".xlsx": "an Excel workbook: save the sheet as CSV",
    ".xls": "an Excel workbook: save the sheet as CSV",
    ".ods": "a workbook: save the sheet as CSV",
    ".pkl": "a pickle, which can run code when it is opened: save the table as Parquet",
    ".pickle": "a pickle, which can run code when it is opened: save the table as Parquet",
    ".pt": "a pickle, which can run code when it is opened: save the array as .npy",
    ".json": "JSON: convert it with pandas.read_json(...).to_parquet(...)",
    ".jsonl": "JSON lines: convert them with pandas.read_json(..., lines=True).to_parquet(...)",
    ".orc": "ORC: convert it to Parquet",
    ".h5": "HDF5: save the array as .npy or the table as Parquet",
    ".mat": "a MATLAB file: save the array as .npy",
    ".sav": "an SPSS file: export it as CSV",
    ".dta": "a Stata file: export it as CSV",
    ".zip": "a zip archive: unpack it first",
    ".bz2": "compressed with bzip2: unpack it first, or compress it with gzip",
    ".xz": "compressed with xz: unpack it first, or compress it with gzip",
    ".zst": "compressed with zstd: unpack it first, or compress it with gzip",
}


class Found(NamedTuple):
    """The files that a path stands for."""

    files: list[Path]
    root: Path  # the folder, or the parent of a single file
    notes: tuple[str, ...] = ()


@contextmanager
def readable(path: Path | str) -> Iterator[None]:
    """Turn the system's refusals while a file is open into one of our errors."""
    try:
        yield
    except OSError as error:
        raise refusal(path, error) from error


def refusal(path: Path | str, error: OSError) -> DataError:
    """Return our error for the system's refusal of a file."""
    reason = error.strerror or str(error)
    if error.errno == errno.ENOENT:
        told, fix = "disappeared while it was being read", "keep the file in place, and run again"
        if os.path.islink(path):
            told, fix = "is a link to nothing", "repair the link, or remove it"
        return DataError(
            "E009",
            f"{place(path)} {told}",
            fix=fix,
            path=str(path),
        )
    fixes = {
        errno.EACCES: f"chmod u+r '{path}'",
        errno.ELOOP: "remove the loop of links and give the path of the file itself",
        errno.ENAMETOOLONG: "give a shorter path",
    }
    code = "E003" if error.errno in fixes else "E009"
    verb = "cannot be opened" if code == "E003" else "cannot be read to its end"
    return DataError(
        code,
        f"{place(path)} {verb}: {reason}",
        fix=fixes.get(error.errno or 0, "copy the file again, and check the disk"),
        path=str(path),
    )


class ExistingPath(NamedTuple):
    """A path that exists, or the matches of a pattern.

    Attributes:
        path: the path itself; for a pattern, the folder that it searches.
        is_folder: whether it is a folder.
        matches: the paths that a pattern matches; None where the path is not a pattern.
    """

    path: Path
    is_folder: bool
    matches: list[Path] | None = None


def standing(text: str) -> ExistingPath:
    """Return the file, folder or matches that a path stands for, without opening any.

    Raises:
        DataError: E001, E003, E006 or E007.
    """
    if re.match(r"^[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise DataError(
            "E006",
            f"{place(text)} is an address, and lowerbound reads local files only",
            fix="download the file, for instance with curl -O, and give its path",
            path=text,
        )
    if "\0" in text or not text:
        raise DataError(
            "E003",
            f"the path {place(text)} " + ("contains a NUL byte" if text else "is empty"),
            fix="give the path of a file",
            path=text,
        )
    path = Path(text).expanduser()
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        if any(c in text for c in "*?["):
            return ExistingPath(_existing_parent(path), False, _matches(path, text))
        raise _absent(path) from error
    except NotADirectoryError as error:
        raise _absent(path) from error
    except OSError as error:
        raise refusal(text, error) from error
    return ExistingPath(path, stat.S_ISDIR(mode))


def named(data: object) -> list[str]:
    """Return data as a list of paths, from one path or a list; [] if data are not paths."""
    if isinstance(data, str | os.PathLike):
        return [os.fsdecode(data)]
    if not isinstance(data, list | tuple) or not all(
        isinstance(p, str | os.PathLike) for p in data
    ):
        return []
    return [os.fsdecode(path) for path in data]


def named_in(*inputs: object) -> list[str]:
    """Return the paths of several inputs; an input that is no path, such as an array, has none."""
    return [path for data in inputs for path in named(data)]


def locate(text: str, *, strict: bool = True) -> Found:
    """Return the files that a path, a folder or a pattern stands for.

    Args:
        text: the path, the folder or the pattern.
        strict: raise E004 for an empty file among others, and E024. Otherwise notes say so.

    Raises:
        DataError: E001 to E008 and E024, before any file was opened.
    """
    found = standing(text)
    if found.matches is not None:
        return _checked(found.matches, found.path, text, deliberate=True, strict=strict)
    if found.is_folder:
        return _folder(found.path, strict)
    check_plain(found.path)
    return Found([found.path], found.path.parent)


def locate_all(texts: list[str], *, strict: bool = True) -> Found:
    """Return the files of several paths that form one table together; see `locate`."""
    hits = [path for text in texts for path in locate(text, strict=strict).files]
    return _checked(hits, hits[0].parent, "the list of files", deliberate=True, strict=strict)


def _absent(path: Path) -> DataError:
    folder = path.parent
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.name != path.name]
    except OSError:
        return DataError(
            "E001",
            f"{place(path)} does not exist, nor does its folder {place(folder)}",
            fix="check the path; paths are read from the current folder",
            path=str(path),
        )
    close = nearest(path.name, names)
    return DataError(
        "E001",
        f"{place(path)} does not exist",
        fix=f"did you mean '{folder / close}'?" if close else f"list the folder: ls '{folder}'",
        path=str(path),
        similar=close,
    )


def check_plain(path: Path) -> None:
    """Check, without opening it, that a path is a plain, readable file that is not empty."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise refusal(path, error) from error
    mode = status.st_mode
    kinds = {
        stat.S_ISFIFO: "a pipe (FIFO)",
        stat.S_ISCHR: "a device",
        stat.S_ISBLK: "a device",
        stat.S_ISSOCK: "a socket",
        stat.S_ISDIR: "a folder",
    }
    for test, kind in kinds.items():
        if test(mode):
            raise DataError(
                "E002",
                f"{place(path)} is {kind}, not a plain file",
                fix="write the data to a file first, for instance: cat SOURCE > data.csv",
                path=str(path),
                kind=kind,
            )
    if not os.access(path, os.R_OK):
        raise refusal(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    if status.st_size == 0:
        raise DataError(
            "E004",
            f"{place(path)} is empty (0 bytes)",
            fix="export or download the file again",
            path=str(path),
        )


def _matches(pattern: Path, text: str) -> list[Path]:
    anchor = Path(pattern.anchor or ".")
    relative = str(pattern.relative_to(pattern.anchor)) if pattern.anchor else str(pattern)
    try:
        hits = sorted(p for p in anchor.glob(relative) if not p.is_dir())
    except (OSError, ValueError) as error:
        raise DataError(
            "E007",
            f"the pattern {place(text)} is not usable: {error}",
            fix="quote a simpler one",
        ) from error
    if not hits:
        raise DataError(
            "E007",
            f"the pattern {place(text)} matches no file",
            fix=f"list what is there: ls '{_existing_parent(pattern)}'",
            path=text,
        )
    return hits


def _existing_parent(pattern: Path) -> Path:
    fixed = [p for p in pattern.parents if not any(c in str(p) for c in "*?[")]
    return fixed[0] if fixed else Path(".")


def _folder(folder: Path, strict: bool) -> Found:
    """Collect the data files under a folder, except hidden ones and those beginning with _."""
    hits: list[Path] = []
    unfinished: list[Path] = []

    def fail(error: OSError) -> None:
        raise refusal(error.filename or folder, error) from error

    for here, folders, names in os.walk(folder, onerror=fail):
        folders[:] = sorted(f for f in folders if not f.startswith((".", "_")))
        for name in sorted(names):
            path = Path(here) / name
            if name.startswith((".", "_")):
                continue
            if path.suffix.lower() in _UNFINISHED:
                unfinished.append(path)
            elif kind_by_suffix(path):
                hits.append(path)
    # A README.txt next to the shards is not a shard.
    hits = [path for path in hits if path.suffix.lower() not in VAGUE] or hits
    notes = []
    if unfinished:
        error = DataError(
            "E024",
            f"{snippet(unfinished[0].name)} in {place(folder)} looks like an unfinished download",
            fix=f"finish or remove it, or read the others on purpose: '{folder}/*.parquet'",
            path=str(unfinished[0]),
        )
        if strict or not hits:
            raise error
        notes.append(f"{error.message}; left out here, and refused by fit (E024)")
    if not hits:
        raise DataError(
            "E007",
            f"the folder {place(folder)} contains no table and no picture",
            fix=f"it should contain files of the kinds {KNOWN}, or .png, .jpg, .webp, .tif, .bmp; "
            "links to folders are not followed",
            path=str(folder),
        )
    found = _checked(hits, folder, str(folder), deliberate=False, strict=strict)
    return found._replace(notes=(*notes, *found.notes))


def kind_by_suffix(path: Path) -> str | None:
    """Return the kind of a file by its suffix, one of `_KINDS`, or None."""
    if is_idx(path):
        return "array"
    suffixes = [s.lower() for s in path.suffixes]
    last = suffixes[-1] if suffixes else ""
    if last == ".gz":
        last = suffixes[-2] if len(suffixes) > 1 else ".csv"
        return "text" if last in _KINDS["text"] else None
    for kind, known in _KINDS.items():
        if last in known:
            return kind
    return None


def is_idx(path: Path) -> bool:
    """Return whether a file has a name of the idx format, plain or gzipped."""
    return _IDX.search(path.name) is not None


def _checked(hits: list[Path], root: Path, text: str, *, deliberate: bool, strict: bool) -> Found:
    kinds = Counter(kind_by_suffix(path) or path.suffix or "no suffix" for path in hits)
    if len(kinds) > 1:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
        raise DataError(
            "E008",
            f"{place(text)} holds files of several kinds: {counts}",
            fix=f"choose one kind with a pattern, such as '{root}/*{hits[0].suffix}'",
            path=text,
            kinds=dict(kinds),
        )
    empty = []
    for path in hits:
        try:
            check_plain(path)
        except DataError as error:
            if strict or error.code != "E004" or len(hits) == 1:
                raise
            empty.append(path)
    hits = [path for path in hits if path not in empty] or hits[:1]
    notes = [f"{place(path)} is empty; left out here, and refused by fit" for path in empty]
    gap = _gap([*hits, *empty])
    if gap and not deliberate and strict:
        raise DataError(
            "E024",
            f"{gap} seems to be missing from {place(text)}, which has {len(hits):,} files",
            fix=f"add it, or read what is there on purpose: '{root}/*{hits[0].suffix}'",
            path=text,
        )
    refused = "" if deliberate else "; refused by fit (E024)"
    notes += [f"{gap} seems to be missing; {len(hits):,} files were read{refused}"] if gap else []
    return Found(hits, root, tuple(notes))


def _gap(files: list[Path]) -> str | None:
    """Return the first missing number in numbered file names."""
    for folder in sorted({path.parent for path in files}):
        found = [_NUMBERED.match(p.name) for p in files if p.parent == folder]
        matches = [m for m in found if m]
        if len(matches) < max(len(found), 2) or len({(m["stem"], m["rest"]) for m in matches}) > 1:
            continue
        first, width = matches[0], len(matches[0]["number"])
        numbers = sorted(int(m["number"]) for m in matches)
        start, stop = numbers[0], numbers[-1] + 1
        if first["of"]:
            start, stop = min(start, 1), max(int(first["of"]) + min(start, 1), stop)
        if stop - start > 2 * len(numbers) + 10:  # dates or ids, not a running number
            continue
        absent = sorted(set(range(start, stop)) - set(numbers))
        if absent:
            return f"'{first['stem']}{absent[0]:0{width}d}{first['rest']}'"
    return None


def magic(path: Path) -> str | None:
    """Return the format by the first bytes of a file, or None for text."""
    with readable(path), path.open("rb") as file:
        head = file.read(8)
    return next((name for start, name in _MAGIC if head.startswith(start)), None)


def unreadable_kind(path: Path, found: str | None) -> DataError:
    """Return the error for a file of an unknown kind, with advice on how to convert it."""
    hint = _OTHER_SUFFIXES.get(path.suffix.lower())
    what = f"seems to be {found}" if found else f"has the suffix {snippet(path.suffix or 'none')}"
    reason = f"it is {hint.split(':')[0]}" if hint else f"it {what}"
    return DataError(
        "E005",
        f"{place(path)} cannot be read as a table: {reason}",
        fix=hint.partition(": ")[2] if hint else f"save the table as one of {KNOWN}",
        path=str(path),
        kind=found,
    )


def shards(files: list[Path]) -> str:
    """Return the names of the first files of a table, for messages."""
    return listed([path.name for path in files], 3)
