"""Checkpoints of a fit, so that it can be killed at any time and resumed.

A commit is a folder with a manifest of digests, written atomically. Random numbers are keyed by
step, so no random state is saved. The two newest commits are kept; if the newer one is damaged,
the older one is used. A killed process leaves no damaged commit, but a disk fault may.
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
EVERY = 5.0  # smallest number of seconds between two commits
SHARE = 0.01  # largest share of the time spent committing
KEPT = 2  # number of commits that are kept


class State(NamedTuple):
    """The contents of a commit: JSON values and tensors, by name."""

    values: dict[str, Any]
    tensors: dict[str, Tensor]


class Checkpoints(Protocol):
    """The interface of a storage for the commits of one fit."""

    def latest(self) -> State | None:
        """Return the newest commit that is intact, or None."""
        ...

    def reserve(self, size: int) -> None:
        """Check that there is room for states of `size` bytes."""
        ...

    def due(self) -> bool:
        """Return whether the next commit is due."""
        ...

    def commit(self, values: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> None:
        """Store a state durably."""
        ...


class OnDisk:
    """Commits in a folder, numbered from 1, used by one process at a time.

    Commits are timed by the clock: their timing does not affect the result of the fit.

    Args:
        root: an existing folder.
        every: smallest number of seconds between two commits.
        share: largest share of the time spent committing.
    """

    def __init__(self, root: Path, every: float = EVERY, share: float = SHARE) -> None:
        self.root, self.every, self.share = root, every, share
        self._ended, self._took = time.monotonic(), 0.0
        for left in root.glob(".commit-*.saving-*"):  # left by a process that was killed
            shutil.rmtree(left, ignore_errors=True)

    def latest(self) -> State | None:
        """Return the newest intact commit, or None if there are no commits.

        Raises:
            ModelFileError: E120 if there are commits, but none is intact.
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
                fix="--resume never, which starts again",
                path=str(self.root),
            )
        return None

    def due(self) -> bool:
        """Return whether the next commit is due."""
        # Waiting for took / share seconds keeps the time spent committing below that share.
        return time.monotonic() - self._ended >= max(self.every, self._took / self.share)

    def reserve(self, size: int) -> None:
        """Check that the disk has room for states of `size` bytes.

        Raises:
            ResourceError: E301 if it has not.
        """
        need, have = size * (KEPT + 1), shutil.disk_usage(self.root).free
        if have < need:
            raise ResourceError(
                "E301",
                f"disk full: {self.root} has {have / 1e6:,.1f} MB, "
                f"the checkpoints of this fit need {need / 1e6:,.1f} MB",
                fix="free some space, or choose an --out on another disk",
                need=need,
                have=have,
            )

    def commit(self, values: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> None:
        """Store a state; earlier commits are not affected by a failure.

        Raises:
            ResourceError: E301 if the disk is full, E302 if the folder is not writable.
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
