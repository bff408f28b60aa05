"""Inspect picture files: sizes, colours and unreadable files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from lowerbound.cli.outputs import Clock, spell_path
from lowerbound.cli.result import Result, Sheet
from lowerbound.errors import DataError, LowerboundError
from lowerbound.files.parallel import in_order
from lowerbound.files.pictures import image_file
from lowerbound.files.pictures.bad_files import counted, reason_of, too_many
from lowerbound.files.pictures.folders import Survey, pictures_in, survey
from lowerbound.files.pictures.source import USUAL_SIDE

DECODED = 300  # pictures decoded to find damaged files; --full decodes all
LISTED = 5


def inspect(
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], full: bool, clock: Clock
) -> Result:
    """Read the header of every picture and decode some of them."""
    listing = pictures_in(data)
    text = os.fspath(data) if isinstance(data, str | os.PathLike) else listing.origin
    seen = survey(listing, "skip")
    broken, looked = _broken(seen, full)
    bad = [*seen.bad, *broken]
    total, labels = len(listing.files), Counter(listing.labels)
    if len(bad) == total:
        seen.tally.check()
        raise DataError(
            "E084",
            f"none of {counted(total, 'picture')} can be read: {bad[0][0]} ({bad[0][1]})",
            fix="save them again as PNG or JPEG",
        )
    facts = {
        "origin": text,
        "rows": total,
        "readable": total - len(bad),
        "bad": [{"file": name, "reason": why} for name, why in bad],
        "decoded": looked,
        "sizes": _sizes(seen),
        "channels": seen.channels,
        "grey": sum(h.channels == 1 for h in seen.headers),
        "deep": sum(h.deep for h in seen.headers),
        "frames": sum(h.frames for h in seen.headers),
        "ignored": listing.others,
        "labels": dict(labels),
        "seconds": clock(),
    }
    sizes = ", ".join(f"{s['height']} x {s['width']} ({s['pictures']:,})" for s in facts["sizes"])
    lines = [
        f"{text}: {counted(total, 'picture')}, {_colours(seen)}, {len(bad):,} unreadable "
        f"({'all' if looked == len(seen.headers) else f'{looked:,}'} decoded, {clock():.1f} s)",
        f"sizes (height x width): {sizes}{_more(seen)}",
    ]
    if set(labels) != {""}:
        told = ", ".join(f"{name or '.'} ({n:,})" for name, n in labels.most_common(LISTED))
        lines.append(f"folders: {told}" + (" ..." if len(labels) > LISTED else ""))
    return Result(
        facts,
        lines=lines,
        notes=_notes(seen, facts),
        sheet=Sheet(("file", "why it cannot be read"), bad[: 4 * LISTED]) if bad else None,
        next=f"lowerbound fit {spell_path(text)}"
        + " --on-bad-file skip" * too_many(len(bad), total),
    )


def _broken(seen: Survey, full: bool) -> tuple[list[tuple[str, str]], int]:
    """Decode evenly spaced pictures; return the broken ones, and the number decoded."""
    n = len(seen.headers)
    count = n if full else min(n, DECODED)
    chosen = np.unique(np.linspace(0, n - 1, count).astype(int)) if n else []
    files = [seen.listing.files[i] for i in chosen]
    found = [
        (seen.listing.names[chosen[i]], reason_of(result))
        for i, result in in_order(image_file.check, files)
        if isinstance(result, LowerboundError)
    ]
    return found, len(files)


def _sizes(seen: Survey) -> list[dict[str, int]]:
    return [
        {"height": height, "width": width, "pictures": n}
        for (height, width), n in seen.sizes.most_common(LISTED)
    ]


def _more(seen: Survey) -> str:
    others = len(seen.sizes) - LISTED
    return f" and {others:,} more" if others > 0 else ""


def _colours(seen: Survey) -> str:
    grey = sum(h.channels == 1 for h in seen.headers)
    if grey in (0, len(seen.headers)):
        return "grey" if grey else "RGB"
    return f"RGB ({grey:,} of them grey)"


def _notes(seen: Survey, facts: dict[str, Any]) -> list[str]:
    notes = seen.listing.notes
    if facts["deep"]:
        notes.append(f"{counted(facts['deep'], 'picture')} of 16 bits: fit rounds them to 8")
    if facts["frames"]:
        notes.append(f"{counted(facts['frames'], 'picture')} with several frames or pages")
    if len(seen.sizes) > 1:
        notes.append(
            f"several sizes: fit scales and cuts them to {USUAL_SIDE} x {USUAL_SIDE}, or to --size"
        )
    return notes
