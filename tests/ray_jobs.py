"""What the workers of the Ray tests do: functions that can be sent to them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch.distributed as dist

from lowerbound.errors import DataError


def summed(voice):
    """Say something, and add up the numbers of all processes."""
    voice.say("one line")
    voice.show(0.5, "half of it")
    told = [None] * dist.get_world_size()
    dist.all_gather_object(told, dist.get_rank())
    return sum(told) + len(told)


def waiting(voice):
    """Say something, and then nothing for a minute."""
    voice.say("one line")
    time.sleep(60)


class Refused:
    """The second process refuses, while the first one waits for it; each start leaves a file."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def __call__(self, voice):
        rank = dist.get_rank()
        (self.folder / f"{rank}-{os.getpid()}").touch()
        if rank:
            raise DataError("E001", "there is no such file here", fix="look elsewhere", path="x")
        dist.barrier()


class Killed:
    """The first time, the second process is killed; the other one is started again with it."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def __call__(self, voice):
        mark = self.folder / "killed"
        if dist.get_rank() and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        dist.barrier()
        return summed(voice)


class Squares:
    """Work on pieces: their squares, but one of them is refused."""

    def __init__(self, refused=None):
        self.refused = refused

    def __call__(self):
        return self.squared

    def squared(self, number):
        """Return the square of a piece's number."""
        if number == self.refused:
            raise DataError("E020", f"piece {number} is damaged", fix="get it again")
        return number**2
