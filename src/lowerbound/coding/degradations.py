"""Parse descriptions of noise that a model learns to remove: ``gaussian:0-50``, ``salt:0.1``."""

from __future__ import annotations

import re
from collections.abc import Callable

from lowerbound.coding.augmentations import GaussianNoise, PoissonNoise, SaltAndPepperNoise, View
from lowerbound.errors import UsageError

USUAL_NOISE = "gaussian:0-50"

_KINDS: dict[str, tuple[Callable[[float, float], View], float, str]] = {
    "gaussian": (GaussianNoise, 255.0, "standard deviation in codes of 8 bits"),
    "raw": (
        lambda low, high: GaussianNoise(low, high, stored=False),
        255.0,
        "the same, not rounded",
    ),
    "poisson": (PoissonNoise, 1e6, "photons of a white pixel"),
    "salt": (SaltAndPepperNoise, 1.0, "share of the pixels that are black or white"),
}
_SPELLED = re.compile(r"(?P<kind>[a-z]+):(?P<low>\d+(\.\d+)?)(-(?P<high>\d+(\.\d+)?))?")


def noise_of(text: str) -> View:
    """Return the noise that a text describes: a kind, and a strength or a range of strengths.

    Args:
        text: ``gaussian:25`` or ``gaussian:0-50`` (standard deviation, in codes of 8 bits, in
            files of 8 bits), ``raw:25`` (the same, neither rounded nor cut: as published
            comparisons have it), ``poisson:10-100`` (photons), ``salt:0.05`` (share of pixels).

    Raises:
        UsageError: E231 for a text that is none of these.
    """
    found = _SPELLED.fullmatch(str(text))
    kind = found["kind"] if found else ""
    if found is None or kind not in _KINDS:
        raise _refusal(text)
    make, most, _ = _KINDS[kind]
    low = float(found["low"])
    high = float(found["high"] or low)
    if not low <= high <= most or high == 0 or (kind == "poisson" and low == 0):
        raise _refusal(text)
    return make(low, high)


def _refusal(text: object) -> UsageError:
    kinds = "; ".join(f"{kind}: {meaning}" for kind, (_, _, meaning) in _KINDS.items())
    return UsageError(
        "E231",
        f"noise must be a kind and a strength or a range of it ({kinds}), got {text!r}",
        fix="--set noise=gaussian:25, or noise=gaussian:0-50 for any strength up to 50",
    )
