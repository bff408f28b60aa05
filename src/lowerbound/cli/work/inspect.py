"""Inspect picture files: sizes, colours and unreadable files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from lowerbound.cli.outputs import Clock, spell_path
from lowerbound.cli.result import Result, Sheet, left_out
from lowerbound.files.pictures.bad_files import counted, too_many
from lowerbound.files.pictures.folders import (
    Survey,
    examined,
    highest_value,
    pictures_in,
    survey,
)
from lowerbound.files.pictures.image_file import white_for
from lowerbound.files.pictures.source import USUAL_SIDE

DECODED = 2000  # pictures decoded to find damaged files; --full decodes all
LISTED = 5


def inspect(
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    full: bool,
    clock: Clock,
    all_frames: bool = False,
) -> Result:
    """Read the header of every picture and decode all of them, or many of very many."""
    listing = pictures_in(data)
    text = os.fspath(data) if isinstance(data, str | os.PathLike) else listing.origin
    # Of a single file, the error itself says how to repair it.
    seen = survey(listing, "fail" if len(listing.files) == 1 else "skip", all_frames)
    looked = examined(seen, None if full else DECODED)
    seen.tally.check()
    every, seen = looked == len(seen.headers), seen.readable
    bad = seen.tally.unreadable
    total, labels = seen.tally.total, Counter(listing.labels)
    highest = highest_value(seen)
    facts = {
        "origin": text,
        "rows": total,
        "readable": total - len(bad),
        **left_out(seen.tally),
        "decoded": looked,
        "sizes": _sizes(seen),
        "channels": seen.channels,
        "grey": sum(h.channels == 1 for h in seen.headers),
        "deep": sum(h.deep for h in seen.headers),
        "white": None if highest is None else white_for(highest),
        "real": sum(h.real for h in seen.headers),
        "frames": sum(h.frames > 1 for h in seen.headers),
        "ignored": listing.others,
        "labels": dict(labels),
        "labelled": "" not in labels,
        "seconds": clock(),
    }
    sizes = ", ".join(f"{s['height']} x {s['width']} ({s['pictures']:,})" for s in facts["sizes"])
    lines = [
        f"{text}: {counted(total, 'picture')}, {_colours(seen)}, "
        f"{'' if every else 'at least '}{len(bad):,} unreadable "
        f"({'all' if every else f'{looked:,}'} decoded, {clock():.1f} s)",
        f"sizes (height x width): {sizes}{_more(seen)}",
    ]
    if set(labels) != {""}:
        told = ", ".join(f"{name or '.'} ({n:,})" for name, n in labels.most_common(LISTED))
        told += " ..." if len(labels) > LISTED else ""
        lines.append(f"folders: {told}" if "" in labels else f"labels, by their folders: {told}")
    return Result(
        facts,
        lines=lines,
        notes=_notes(seen, facts),
        sheet=Sheet(("file", "why it cannot be read"), bad[: 4 * LISTED]) if bad else None,
        next=f"lowerbound fit {spell_path(text)}"
        + " --all-frames" * all_frames
        + " --on-bad-file skip" * too_many(len(bad), total),
    )


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
    notes = [*seen.listing.notes, *seen.notes]
    if facts["deep"]:
        notes.append(
            f"{counted(facts['deep'], 'picture')} of 16 bits: fit rounds them to 8, with white at "
            f"{facts['white']:,}"
        )
    if facts["real"]:
        notes.append(
            f"{counted(facts['real'], 'picture')} of floating-point numbers: fit takes 0 as black "
            "and 1 as white"
        )
    if len(seen.sizes) > 1:
        notes.append(
            f"several sizes: fit scales and cuts them to {USUAL_SIDE} x {USUAL_SIDE}, or to --size"
        )
    return notes
