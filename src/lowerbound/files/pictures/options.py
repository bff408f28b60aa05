"""Options for reading pictures and cells."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wanted:
    """Options for reading the pictures of a folder into one array, and cells.

    Attributes:
        size: (height, width) of every picture; None keeps the size that all have.
        channels: 1 or 3; None takes 1 where all are grey.
        on_bad_file: "auto" leaves out up to 1 % of unreadable files, "skip" any number, "fail"
            none.
        layer: the layer of an AnnData with the counts; "" chooses it.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    on_bad_file: str = "auto"
    layer: str = ""


ANY = Wanted()
