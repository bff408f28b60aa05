"""What every error code means and what to do about it, for ``lowerbound explain``."""

from __future__ import annotations

from typing import NamedTuple

from lowerbound.catalogue.data import DATA
from lowerbound.catalogue.models import MODELS
from lowerbound.catalogue.running import CHECKS, NUMBERS, RESOURCES, STOPS
from lowerbound.catalogue.usage import USAGE


class Entry(NamedTuple):
    """One entry of the catalogue: what the code means and what to do about it."""

    title: str
    explanation: str


CATALOGUE: dict[str, Entry] = {
    code: Entry(*entry)
    for part in (DATA, MODELS, USAGE, RESOURCES, NUMBERS, STOPS, CHECKS)
    for code, entry in part.items()
}
