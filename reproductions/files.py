"""Files of public data sets: their places, digests and downloads.

Only `fetch` downloads.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
from numpy.typing import NDArray

from lowerbound.errors import DataError, UsageError
from lowerbound.files.write import atomic_write

PLACE = "LOWERBOUND_DATA"  # the environment variable that names the folder of all data sets
_PATIENCE = 60.0  # seconds to wait for an answer
_MOST = 1 << 30  # largest download in bytes

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class File:
    """One file in its published form.

    Attributes:
        path: relative to the data folder.
        sha256: of its bytes.
        home: the web page of the data set.
        url: the address of the file.
    """

    path: str
    sha256: str
    home: str
    url: str

    def bytes(self) -> bytes:
        """Return the content of the file.

        Raises:
            DataError: E001 if it does not exist, E009 if its digest differs.
        """
        place, found = _read(self.path, self.home)
        return _checked(found, self.sha256, place, self.home)

    def fetch(self) -> None:
        """Download the file to its place.

        Raises:
            UsageError: E232 where no folder is named.
            DataError: E078 if it cannot be downloaded, E009 if its digest differs.
        """
        place = _reserved(self.path)
        content = _checked(download(self.url), self.sha256, place, self.home)
        atomic_write(place, lambda file: file.writelines([content]), overwrite=True)


@dataclass(frozen=True)
class Packed:
    """Arrays in an .npz file, converted from files published in another format.

    Attributes:
        path: relative to the data folder.
        sha256: of the bytes of all arrays in order, because the .npz itself contains the time.
        names: of the arrays, in order.
        home: the web page of the originals.
        urls: of the originals.
        pack: the bytes of the originals -> the arrays by name.
    """

    path: str
    sha256: str
    names: Sequence[str]
    home: str
    urls: Sequence[str]
    pack: Callable[[Sequence[bytes]], Arrays]

    def arrays(self) -> Arrays:
        """Return the arrays.

        Raises:
            DataError: E001 if the file does not exist, E009 if its digest differs.
        """
        place, found = _read(self.path, self.home)
        try:
            with np.load(BytesIO(found), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in self.names}
        except (OSError, ValueError, KeyError, EOFError):
            arrays = {}
        return self._same(arrays, place)

    def _same(self, arrays: Arrays, place: Path) -> Arrays:
        content = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())
        _checked(content, self.sha256, place, self.home)
        return arrays

    def fetch(self) -> None:
        """Download the originals and pack them.

        Raises:
            UsageError: E232 where no folder is named.
            DataError: E078 if they cannot be downloaded, E009 if the digest differs.
        """
        place = _reserved(self.path)
        originals = [download(url) for url in self.urls]
        try:
            arrays = self.pack(originals)
        except (ValueError, KeyError, TypeError):  # the published files have changed
            arrays = {}
        stored: dict[str, Any] = self._same(arrays, place)
        atomic_write(place, lambda file: np.savez_compressed(file, **stored), overwrite=True)


def fetch(files: Sequence[File | Packed], say: Callable[[str], None]) -> None:
    """Download the missing files."""
    for file in files:
        if (_folder() / file.path).exists():
            continue
        say(f"downloading {file.path} from {file.home}")
        file.fetch()


def download(url: str) -> bytes:
    """Return the content of a web address.

    Raises:
        DataError: E078 if it cannot be downloaded.
    """
    try:
        with urlopen(url, timeout=_PATIENCE) as answer:  # noqa: S310 - addresses of this package
            content = answer.read(_MOST + 1)
    except (URLError, OSError, ValueError) as error:
        raise _not_downloaded(url, str(getattr(error, "reason", error))) from None
    if len(content) > _MOST:
        raise _not_downloaded(url, "it is larger than 1 GiB")
    return content


def _not_downloaded(url: str, reason: str) -> DataError:
    return DataError(
        "E078",
        f"{url} could not be downloaded: {reason}",
        fix="check the network connection, or put the file in its place by hand",
        url=url,
    )


def _folder() -> Path:
    return Path(os.environ.get(PLACE) or ".")


def _reserved(path: str) -> Path:
    """Return the path of a file to write, and make its folder."""
    if not os.environ.get(PLACE):
        raise UsageError(
            "E232", f"downloads need a folder, but {PLACE} is not set", fix=f"{PLACE}=FOLDER"
        )
    place = _folder() / path
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _read(path: str, home: str) -> tuple[Path, bytes]:
    place = _folder() / path
    try:
        return place, place.read_bytes()
    except OSError:
        set_up = bool(os.environ.get(PLACE))
        where = f"{place} does not exist" if set_up else f"{PLACE} is not set"
        raise DataError(
            "E001",
            f"the data set {path} was not found: {where}",
            fix=f"set {PLACE}=FOLDER and add --download; or get it from {home}, as FOLDER/{path}",
            path=str(place),
        ) from None


def _checked(content: bytes, sha256: str, place: Path, home: str) -> bytes:
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(
            "E009",
            f"{place} is not the published file: its SHA-256 is not {sha256[:12]}...",
            fix=f"remove it and download it again from {home}",
            path=str(place),
        )
    return content
