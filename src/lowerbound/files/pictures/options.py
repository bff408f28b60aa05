"""Options for reading pictures and cells."""

from __future__ import annotations

from dataclasses import dataclass

FULL = 65535  # white, where all of 16 bits are in use


@dataclass(frozen=True)
class Wanted:
    """Options for reading the pictures of a folder into one array, and cells.

    Attributes:
        size: (height, width) of every picture; None keeps the size that all have.
        channels: 1 or 3; None takes 1 where all are grey.
        on_bad_file: "auto" leaves out up to 1 % of unreadable files, "skip" any number, "fail"
            none.
        white: the value of white in grey pictures of 16 bits; None chooses the least of 8, 10,
            12, 14 or 16 bits that holds the values of all of them.
        all_frames: take each frame or page of a file as a picture, and not only the first.
        layer: the layer of an AnnData with the counts; "" chooses it.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    on_bad_file: str = "auto"
    white: int | None = None
    all_frames: bool = False
    layer: str = ""


ANY = Wanted()
