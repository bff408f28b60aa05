"""Kernel timings of this machine, measured once and cached for all runs; torch's thread count.

A fit does not measure for itself, because its result would then depend on the load of the machine.
If the user's cache folder is not writable, nothing is measured and the default kernels are used.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import stat
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.tasks.parts import threads
from lowerbound.training.engine import kernels

FORMAT = 3
GAIN = 1.15  # speed-up from which a kernel is preferred to torch's default
BATCH = 128
WIDTHS = (64, 256, 784)  # widths of the square layers that are timed
ROUNDS = 7
MOST_BYTES = 1 << 16  # of the file of measurements

# Never follow a link, never wait for the other end of a pipe; Windows has neither flag.
_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


@dataclass(frozen=True)
class Machine:
    """Measurements of a machine.

    Attributes:
        linear: for each number of threads, pairs (multiply-adds of a layer, ratio of torch's time
            to oneDNN's), smallest layer first; empty if nothing was measured.
        channels_last: ratio of the time of convolutions in torch's default layout to that in the
            channels-last layout; 0 if not measured.
    """

    linear: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    channels_last: float = 0.0

    def onednn_from(self, threads: int) -> float:
        """Return the smallest layer, in multiply-adds, for which oneDNN is faster, or infinity."""
        smallest = math.inf
        for size, ratio in reversed(self.linear.get(str(threads), [])):
            if ratio < GAIN:
                break
            smallest = size
        return smallest


Ratio = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Content(BaseModel):
    """The content of the file of measurements."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[3]  # FORMAT
    linear: dict[str, list[tuple[Annotated[int, Field(gt=0)], Ratio]]] = Field(max_length=1000)
    channels_last: Ratio


_MEASURING = Lock()  # fits that start at the same time must use the same measurements


def this() -> Machine:
    """Return the measurements of this machine from the cache, measuring if there are none."""
    with _MEASURING:
        return _this()


@cache
def _this() -> Machine:
    place = _place()
    known = _read(place)
    if known is not None:
        return known
    if not _writable(place.parent):
        return Machine()
    measured = measure()
    _write(place, json.dumps({"format": FORMAT, **asdict(measured)}))
    return _read(place) or Machine()  # if another process has written the file, use its numbers


def measure() -> Machine:
    """Time the alternative kernels; this takes a second or two."""
    found: dict[str, list[tuple[int, float]]] = {}
    for count in sorted({1, torch.get_num_threads()}) if kernels.available() else ():
        with threads(count):
            found[str(count)] = [(BATCH * w * w, _ratio(w, kernels.onednn)) for w in WIDTHS]
    return Machine(found, _layouts())


def _layouts() -> float:
    """Return the time of convolutions in torch's default layout over that with channels last.

    The gain is largest in the first and the last layer, of few channels, so they are included.
    """
    widths = (3, 32, 64)
    with noise.isolated("machine"):
        picture = torch.randn(32, 3, 32, 32)
        down = [nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise(widths)]
        up = [nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in pairwise(widths[::-1])]
        usual = nn.Sequential(*down, *up)
    last = deepcopy(usual).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    sides = [(usual, picture), (last, picture.contiguous(memory_format=torch.channels_last))]

    def step(net: nn.Module, x: Tensor) -> None:
        net(x).sum().backward()

    pairs = [tuple(_seconds(partial(step, *side)) for side in sides) for _ in range(ROUNDS)]
    return min(a for a, _ in pairs) / min(b for _, b in pairs)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def _ratio(width: int, other: Linear) -> float:
    """Return the time of torch's layer, forward and backward, over that of `other`."""
    source = noise.generator("machine")
    x = torch.randn(BATCH, width, generator=source)
    weight = torch.randn(width, width, generator=source)
    bias = torch.zeros(width)
    for tensor in (x, weight, bias):
        tensor.requires_grad_()
    repeat = max(1, round(3e-3 * 1e11 / (6 * BATCH * width * width)))

    def steps(layer: Linear) -> None:
        for _ in range(repeat):
            layer(x, weight, bias).sum().backward()

    pairs = [tuple(_seconds(partial(steps, f)) for f in (F.linear, other)) for _ in range(ROUNDS)]
    return min(a for a, _ in pairs) / min(b for _, b in pairs)


def cache_folder(name: str) -> Path | None:
    """Return a folder for files that only this machine can use; None if it is not writable."""
    folder = _home() / f"{name}-{_digest(_processor())}"
    return folder if _writable(folder) else None


def _home() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "lowerbound"


def _digest(what: str) -> str:
    return hashlib.sha256(what.encode()).hexdigest()[:16]


def _place() -> Path:
    what = f"{_processor()} {os.cpu_count()} {torch.get_num_threads()} {torch.__version__}"
    return _home() / f"machine-{_digest(what)}.json"


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _read(place: Path) -> Machine | None:
    """Return the measurements in a file, which anyone may have put there; None if there are none.

    Links, pipes, devices and large files are not read: each would take time or memory.
    """
    try:
        with open(os.open(place, _FLAGS), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
                return None
            content = _Content.model_validate_json(file.read(MOST_BYTES))
    except (OSError, ValueError):
        return None
    return Machine(dict(content.linear), content.channels_last)


def _write(place: Path, text: str) -> None:
    """Replace a file atomically, if that is possible; a link or a pipe is replaced itself."""
    with suppress(OSError):
        handle, part = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
        try:
            with os.fdopen(handle, "w") as file:
                file.write(text)
            os.replace(part, place)
        except OSError:
            os.unlink(part)


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
