"""The machine: its fastest kernels, measured once and cached for all runs, and torch's threads.

A run must not measure for itself: its result would depend on the load of the machine. Where the
user's cache cannot be written, nothing is measured and the plain kernels are used.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from threading import Lock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.training.engine import kernels

FORMAT = 2
GAIN = 1.15  # a kernel must be this much faster before it is preferred
BATCH = 128
WIDTHS = (64, 256, 784)  # of the square layers that are timed
ROUNDS = 7


@dataclass(frozen=True)
class Machine:
    """Measurements of a machine.

    Attributes:
        linear: for a number of threads, the ratio of torch's time to oneDNN's for layers of
            (multiply-adds, ratio), smallest layer first; empty where nothing was measured.
        channels_last: the ratio of the times of convolutions with channels outermost and
            innermost; 0 where it was not measured.
    """

    linear: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    channels_last: float = 0.0

    def onednn_from(self, threads: int) -> float:
        """Return the size of a layer, in multiply-adds, from which on oneDNN is faster."""
        smallest = math.inf
        for size, ratio in reversed(self.linear.get(str(threads), [])):
            if ratio < GAIN:
                break
            smallest = size
        return smallest


_MEASURING = Lock()  # two fits that begin together must get the same numbers


def this() -> Machine:
    """Return the measurements of this machine, taken now if there are none in the cache."""
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
    with suppress(OSError):
        part = place.with_name(f"{place.name}.{os.getpid()}")
        part.write_text(json.dumps({"format": FORMAT, **asdict(measured)}))
        os.replace(part, place)
    return _read(place) or Machine()  # another process may have been first: its numbers count


@contextmanager
def one_left() -> Iterator[None]:
    """Leave one processor to a thread that reads ahead: torch's own take the others.

    Threads of a product wait for each other without giving way: one that has to share its
    processor with the reading holds up all of them.
    """
    with threads(max(1, torch.get_num_threads() - 1)):
        yield


_SWITCHING = Lock()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute with `count` threads for the calling thread, inside the block.

    ``torch.set_num_threads`` sets the number of the calling thread, and that of threads which use
    torch for the first time afterwards. The latter is put back at once: sums and products may
    differ in their last bits between numbers of threads, and a fit must not change the results
    of other threads.
    """
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    _set_threads(count)
    try:
        yield
    finally:
        _set_threads(before)


def _set_threads(count: int) -> None:
    """Set the number of threads that torch uses for the calling thread, and for no other."""
    with _SWITCHING, ThreadPoolExecutor(1) as new:
        others = new.submit(torch.get_num_threads).result()
        torch.set_num_threads(count)
        new.submit(torch.set_num_threads, others).result()


def measure() -> Machine:
    """Time the kernels that there is a choice of, in a second or two."""
    found: dict[str, list[tuple[int, float]]] = {}
    for count in sorted({1, torch.get_num_threads()}) if kernels.available() else ():
        with threads(count):
            found[str(count)] = [(BATCH * w * w, _ratio(w, kernels.onednn)) for w in WIDTHS]
    return Machine(found, _layouts())


def _layouts() -> float:
    """Return the time of convolutions in torch's usual layout over that with channels last."""
    seconds = []
    for layout in (torch.contiguous_format, torch.channels_last):
        with noise.isolated("machine"):
            net = nn.Sequential(nn.Conv2d(32, 64, 4, 2, 1), nn.ConvTranspose2d(64, 32, 4, 2, 1))
            x = torch.randn(32, 32, 16, 16).contiguous(memory_format=layout)
        # torch's own stub does not know the keyword of this overload.
        net.to(memory_format=layout)  # pyright: ignore[reportCallIssue]
        seconds.append(min(_seconds(lambda: net(x).sum().backward()) for _ in range(ROUNDS)))  # noqa: B023
    return seconds[0] / seconds[1]


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


def _place() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    what = f"{_processor()} {os.cpu_count()} {torch.get_num_threads()} {torch.__version__}"
    digest = hashlib.sha256(what.encode()).hexdigest()[:16]
    return Path(home) / "lowerbound" / f"machine-{digest}.json"


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _read(place: Path) -> Machine | None:
    try:
        content = json.loads(place.read_text())
        if content.pop("format") != FORMAT:
            return None
        linear = {k: [(int(s), float(r)) for s, r in v] for k, v in content["linear"].items()}
        return Machine(linear, float(content["channels_last"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
