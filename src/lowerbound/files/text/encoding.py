"""Unpack, decode and scan the bytes of a text table within bounded memory."""

from __future__ import annotations

import codecs
import io
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lowerbound.columns.arrow import place, snippet
from lowerbound.errors import DataError
from lowerbound.files.paths import magic, readable

LONGEST_LINE = 16 * 2**20
MOST_BYTES = 2 * 2**30
MOST_RATIO = 100
RATIO_FROM = 64 * 2**20  # smaller results are accepted at any ratio
_CHUNK = 2**20
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Text:
    """A text file: its path, its decoded bytes if they differ from the file's, and repairs."""

    path: Path
    content: bytes | None
    notes: tuple[str, ...] = ()

    def open(self) -> BinaryIO:
        """Open the UTF-8 bytes for reading from the start."""
        return self.path.open("rb") if self.content is None else io.BytesIO(self.content)

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes in chunks."""
        with readable(self.path), self.open() as file:
            while chunk := file.read(_CHUNK):
                yield chunk

    def head(self, size: int = _CHUNK) -> bytes:
        """Return the first bytes."""
        with readable(self.path), self.open() as file:
            return file.read(size)

    def line_of(self, wanted: bytes) -> int | None:
        """Return the number of the first line that begins with these bytes."""
        with readable(self.path), self.open() as file:
            return next((n for n, line in enumerate(file, 1) if line.startswith(wanted)), None)


@dataclass(frozen=True)
class EncodingScan:
    """The findings of one pass over the bytes."""

    quotes: int
    multiline: bool  # some line ends inside quotation marks
    zeros: bool  # some value begins with a zero followed by a digit
    longest: int  # an upper bound of the length of a line, in bytes


def load(path: Path, head_lines: int | None = None, *, strict: bool = True) -> Text:
    """Prepare a text file for the parser: unpack, decode, and cut it to its first lines.

    Args:
        path: the file.
        head_lines: read only this many lines.
        strict: raise E014. Otherwise NUL bytes are removed and others that are no text replaced,
            and a note says so.

    Raises:
        DataError: E014, E016 or E017 if this is not possible.
    """
    packed = magic(path) == "gzip"
    notes: list[str] = []
    if packed and path.suffix.lower() != ".gz":
        notes.append(f"{path.name}: compressed with gzip, although its name has no suffix .gz")
    content = None
    if head_lines is not None:
        content = _first_lines(unpack(path) if packed else Text(path, None).chunks(), head_lines)
    elif packed:
        content = b"".join(unpack(path))
    text = Text(path, content)
    try:
        text, encoding = _decode(text, cut=head_lines is not None)
    except DataError as error:
        if strict:
            raise
        whole = b"".join(text.chunks()).decode("cp1252", "replace")
        text, encoding = Text(path, whole.encode()), ""
        notes.append(f"{error.message}; {_REPLACED}")
    notes += [f"{path.name}: {encoding}"] if encoding else []
    if not strict and (at := next(_nul_places(text), None)) is not None:
        notes.append(f"{_binary(text, *at).message}; {_REPLACED}")
        text = Text(path, b"".join(text.chunks()).replace(b"\0", b""))
    return Text(text.path, text.content, tuple(notes))


_REPLACED = "removed or replaced here, and refused by fit (E014)"


def _nul_places(text: Text) -> Iterator[tuple[int, int]]:
    """Yield the first NUL byte of each chunk: its offset and its line."""
    done = lines = 0
    for chunk in text.chunks():
        if b"\0" in chunk:
            at = chunk.index(b"\0")
            yield done + at, lines + chunk[:at].count(b"\n") + 1
        done, lines = done + len(chunk), lines + chunk.count(b"\n")


def without_quotes(text: Text, first: int, last: int | None, note: str) -> Text:
    """Return a text without the quotation marks of some lines, None to its end, with a note."""
    with readable(text.path), text.open() as file:
        lines = list(file)
    inside = slice(first - 1, last)
    lines[inside] = [line.replace(b'"', b"") for line in lines[inside]]
    return Text(text.path, b"".join(lines), (*text.notes, note))


def _first_lines(pieces: Iterator[bytes], wanted: int) -> bytes:
    """Return the first lines that are not blank; a quoted value may span several."""
    taken = bytearray()
    lines = quotes = start = 0
    for piece in pieces:
        taken += piece
        end = b"\n" if b"\n" in taken else b"\r"
        while (at := taken.find(end, start)) >= 0:
            line = taken[start:at]
            quotes += line.count(b'"')
            lines += quotes % 2 == 0 and bool(line.strip())
            start = at + 1
            if lines >= wanted:
                return bytes(taken[:start])
        if len(taken) - start > LONGEST_LINE:
            break  # reported by the scan that follows
    return bytes(taken)


def unpack(path: Path) -> Iterator[bytes]:
    """Unpack a gzip file piece by piece, within bounds.

    Raises:
        DataError: E016 if it is damaged, E017 if the unpacked size is too large.
    """
    done, inside, data = 0, False, b""
    engine = zlib.decompressobj(wbits=31)
    with readable(path), path.open("rb") as file:
        packed = os.fstat(file.fileno()).st_size
        while (data := data or file.read(2**16)) or inside:
            try:
                piece = engine.decompress(data, _CHUNK)
            except zlib.error as error:
                raise _damaged(path, done, str(error)) from error
            if not data and not piece:
                raise _damaged(path, done, "it ends in the middle")
            done += len(piece)
            _check_size(path, done, packed)
            yield piece
            inside, data = not engine.eof, engine.unconsumed_tail
            if engine.eof:  # another member may follow, or padding
                data = engine.unused_data.lstrip(b"\0")
                engine = zlib.decompressobj(wbits=31)


def _damaged(path: Path, got: int, why: str) -> DataError:
    return DataError(
        "E016",
        f"{place(path)} is damaged after {got:,} unpacked bytes: {why}",
        fix=f"download or compress it again; to test it: gzip -t '{path}'",
        path=str(path),
    )


def _check_size(path: Path, size: int, packed: int) -> None:
    bomb = size > RATIO_FROM and size > MOST_RATIO * packed
    if bomb or size > MOST_BYTES:
        raise DataError(
            "E017",
            f"{place(path)} has {packed:,} bytes and unpacks to more than {size:,}",
            fix=f"if you trust it: gunzip -k '{path}', then read the result",
            path=str(path),
        )


def _decode(text: Text, *, cut: bool) -> tuple[Text, str]:
    """Return the same text in UTF-8 without a byte order mark, and what was changed."""
    encoding = _encoding(text.head(4096))
    if encoding in ("utf-8", "utf-8-sig") and _is_utf8(text):
        # The parser skips the mark.
        return text, "the byte order mark was skipped" if encoding == "utf-8-sig" else ""
    encoding = "cp1252" if encoding == "utf-8" else encoding
    whole = b"".join(text.chunks())
    try:
        # The cut may lie within a character of several bytes.
        decoded = codecs.getincrementaldecoder(encoding)().decode(whole, final=not cut)
    except UnicodeDecodeError as error:
        line = whole[: error.start].count(b"\n") + 1
        raise DataError(
            "E014",
            f"{place(text.path)} is not text: line {line:,} has bytes that {encoding.upper()} "
            "cannot decode",
            fix=f"convert it, for instance: iconv -f LATIN1 -t UTF-8 '{text.path}' > utf8.csv",
            path=str(text.path),
            line=line,
        ) from error
    name = {"cp1252": "Windows-1252 (not UTF-8)"}.get(encoding, encoding.upper())
    return Text(text.path, decoded.encode()), f"decoded as {name}"


def _encoding(head: bytes) -> str:
    """Return the encoding, from a byte order mark or from NUL in every other byte."""
    for mark, name in _BOMS:
        if head.startswith(mark):
            return name
    if b"\0" in head[1:]:
        zeros = np.frombuffer(head[: len(head) // 2 * 2], np.uint8).reshape(-1, 2) == 0
        shares = zeros.mean(axis=0)
        if max(shares) > 0.8 and min(shares) < 0.2:
            return "utf-16-le" if shares[1] > shares[0] else "utf-16-be"
    return "utf-8"


def _is_utf8(text: Text) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for chunk in text.chunks():
            # Pure ASCII, the usual case, is ten times faster to recognise than to decode.
            if not chunk.isascii() or decoder.getstate()[0]:
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def scan(text: Text, delimiter: str) -> EncodingScan:
    """Look for quotes, NUL bytes, over-long lines and leading zeros in one pass.

    Raises:
        DataError: E014 for NUL bytes, E015 for a line that is too long.
    """
    quotes = lines = run = longest = done = 0
    multiline = zeros = False
    before = b"\n"
    starts = tuple(ord(c) for c in (delimiter, "\n", "\r", '"', " "))
    for chunk in text.chunks():
        if b"\0" in chunk:
            at = chunk.index(b"\0")
            raise _binary(text, done + at, lines + chunk[:at].count(b"\n") + 1)
        ends = chunk.count(b"\n") or chunk.count(b"\r")
        longest = max(longest, run + len(chunk))
        if longest > LONGEST_LINE + 2 * _CHUNK:
            raise _long(text, lines + 1)
        last_end = max(chunk.rfind(b"\n"), chunk.rfind(b"\r"))
        run = len(chunk) - last_end if ends else run + len(chunk)
        lines += ends
        if marks := chunk.count(b'"'):
            multiline = multiline or _odd_at_line_end(chunk, quotes)
            quotes += marks
        elif quotes % 2:
            multiline = multiline or ends > 0
        zeros = zeros or _leading_zero(before + chunk, starts)
        before = chunk[-2:]
        done += len(chunk)
    return EncodingScan(quotes, multiline, zeros, longest)


def _odd_at_line_end(chunk: bytes, before: int) -> bool:
    """Return whether a line ends after an odd number of quotation marks."""
    letters = np.frombuffer(chunk, np.uint8)
    marks = np.flatnonzero(letters == ord('"'))
    ends = np.flatnonzero((letters == ord("\n")) | (letters == ord("\r")))
    return bool(((np.searchsorted(marks, ends) + before) % 2).any())


def _leading_zero(chunk: bytes, starts: tuple[int, ...]) -> bool:
    """Return whether a zero and a digit follow one of these bytes, without a Python loop."""
    letters = np.frombuffer(chunk, np.uint8)
    hit = (letters[1:-1] == ord("0")) & ((letters[2:] - ord("0")) < 10)
    return any((hit & (letters[:-2] == start)).any() for start in starts)


def _binary(text: Text, offset: int, line: int) -> DataError:
    return DataError(
        "E014",
        f"{place(text.path)} is not text: byte {offset:,}, in line {line:,}, is NUL",
        fix=f"to remove the NULs: tr -d '\\000' < '{text.path}' > clean.csv",
        path=str(text.path),
        line=line,
    )


def _long(text: Text, line: int) -> DataError:
    return DataError(
        "E015",
        f"line {line:,} of {place(text.path)} is longer than {LONGEST_LINE // 2**20} MB: "
        f"{snippet(text.head(200).decode(errors='replace'))}",
        fix="check the separator and the line ends; keep long texts in a file of their own",
        path=str(text.path),
        line=line,
    )
