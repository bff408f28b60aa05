"""Where a fit keeps its state, so that it can be killed at any moment and go on.

A commit is a folder that appears whole, under a manifest of digests, or not at all. Randomness is
keyed by step, so no random state is kept. The two newest commits stay; a damaged one (a disk
fault, since a killed process leaves none) is passed over for the one before it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from lowerbound.bundle import documents, tensors
from lowerbound.bundle.manifest import WEIGHTS
from lowerbound.bundle.reading import read_sealed
from lowerbound.bundle.writing import write_sealed
from lowerbound.errors import ModelFileError, ResourceError

STATE = "state.json"
EVERY = 5.0  # seconds between two commits at least
SHARE = 0.01  # of the time may be spent committing
KEPT = 2


class State(NamedTuple):
    """What a commit holds: JSON values and tensors, by name."""

    values: dict[str, Any]
    tensors: dict[str, Tensor]


class Checkpoints(Protocol):
    """Where one fit commits its state."""

    def latest(self) -> State | None:
        """Return the newest commit that is intact, or None."""
        ...

    def reserve(self, size: int) -> None:
        """Make sure that states of `size` bytes can be kept."""
        ...

    def due(self) -> bool:
        """Tell whether it is time for the next commit."""
        ...

    def commit(self, values: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> None:
        """Keep a state; it is on the disk when this returns."""
        ...


class OnDisk:
    """Commits in a folder, numbered from 1, of which one process is the only user.

    When a commit is made does not change what is computed, so the clock may decide it.

    Args:
        root: the folder, which exists.
        every: seconds between two commits at least.
        share: of the time that may be spent committing.
    """

    def __init__(self, root: Path, every: float = EVERY, share: float = SHARE) -> None:
        self.root, self.every, self.share = root, every, share
        self._ended, self._took = time.monotonic(), 0.0
        for left in root.glob(".commit-*.saving-*"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)

    def latest(self) -> State | None:
        """Return the newest commit that is intact, or None where there is none at all.

        Raises:
            ModelFileError: E120 where there are commits, but no intact one.
        """
        damage: ModelFileError | None = None
        for found in reversed(self._commits()):
            try:
                return _read(found)
            except ModelFileError as error:
                damage = damage or error
        if damage is not None:
            raise ModelFileError(
                "E120",
                f"no state in {self.root} can be read: {damage.message}",
                fix="--resume never starts anew",
                path=str(self.root),
            )
        return None

    def due(self) -> bool:
        """Tell whether it is time."""
        return time.monotonic() - self._ended >= max(self.every, self._took / self.share)

    def reserve(self, size: int) -> None:
        """Refuse to begin where the disk has no room for the states of `size` bytes.

        Raises:
            ResourceError: E301.
        """
        need, have = size * (KEPT + 1), shutil.disk_usage(self.root).free
        if have < need:
            raise ResourceError(
                "E301",
                f"disk full: {self.root} has {have / 1e6:,.1f} MB, "
                f"the states of this fit need {need / 1e6:,.1f} MB",
                fix="free some space, or choose an --out on another disk",
                need=need,
                have=have,
            )

    def commit(self, values: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> None:
        """Keep a state.

        Raises:
            ResourceError: E301 where the disk is full, E302 where it cannot be written to; the
                commits before this one are as they were.
        """
        began = time.monotonic()
        commits = self._commits()
        number = int(commits[-1].name.split("-")[1]) + 1 if commits else 1
        target = self.root / f"commit-{number:08d}"
        contents = {
            STATE: [documents.render(STATE, dict(values))],
            WEIGHTS: tensors.encode(arrays),
        }
        write_sealed(target, contents, what="a checkpoint")
        for old in commits[: 1 - KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        self._ended = time.monotonic()
        self._took = self._ended - began

    def _commits(self) -> list[Path]:
        return sorted(self.root.glob("commit-????????"))


def _read(commit: Path) -> State:
    _, _, contents = read_sealed(commit, frozenset({STATE, WEIGHTS}))
    values = documents.parse(STATE, contents[STATE].tobytes())
    arrays = tensors.decode(contents[WEIGHTS], WEIGHTS).arrays
    return State(values, {name: torch.from_numpy(array) for name, array in arrays.items()})
