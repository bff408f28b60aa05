"""Families of grey levels: codes 0 to 255 as they stand in an image file, and shares from 0 to 1.

Numbers come as (B, numbers, H, W), values are (B, channels, H, W); vectors do as well.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.distributions import Independent

from lowerbound.nn.distributions.families import Family, summed
from lowerbound.nn.distributions.grey_levels import (
    ContinuousBernoulliLogits,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    GreyCodes,
)
from lowerbound.nn.distributions.scales import scale_of

LOG_SCALE_LIMIT = 7.0  # of a logistic whose values span [-1, 1]: from 0.1 codes to all alike


class ContinuousBits(Family):
    """Continuous Bernoulli from logits: for grey levels in [0, 1]."""

    def forward(self, numbers: Tensor) -> Independent:
        """Return the factorised continuous Bernoulli."""
        return summed(ContinuousBernoulliLogits(numbers))


class _Codes(Family):
    """What the families of codes share: networks speak of values in [-1, 1], not of codes.

    Args:
        levels: number of codes: 256 for 8 bits, 32 for 5.
    """

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        self.levels = levels

    def loc(self, raw: Tensor) -> Tensor:
        """Return a location in codes: -1 is the first code and 1 the last."""
        return (raw + 1) * ((self.levels - 1) / 2)

    def scale(self, raw: Tensor) -> Tensor:
        """Return a scale in codes from its logarithm."""
        limit = math.exp(LOG_SCALE_LIMIT)
        return scale_of(raw, 1 / limit, limit) * ((self.levels - 1) / 2)


class Logistics(_Codes):
    """Discretised logistic with location and scale of every element from the network.

    References:
        Kingma et al., "Improved variational inference with inverse autoregressive flow", 2016,
        eq. 17; Salimans et al., "PixelCNN++", 2017, eq. 2.
    """

    width = 2

    def forward(self, numbers: Tensor) -> Independent:
        """Return the factorised codes; `numbers` are locations, then log-scales."""
        loc, raw = numbers.chunk(2, 1)
        return summed(DiscretizedLogistic(self.loc(loc), self.scale(raw), self.levels))


class LogisticMixture(_Codes):
    """Mixture of K discretised logistics per pixel, its channels coupled as in PixelCNN++.

    References:
        Salimans et al., "PixelCNN++", 2017, eq. 2-3, https://arxiv.org/abs/1701.05517

    Args:
        channels: C, of the image.
        components: K.
        levels: number of codes.
    """

    def __init__(self, channels: int, components: int = 10, levels: int = 256) -> None:
        super().__init__(levels)
        self.channels, self.components = channels, components
        self.each = (1, channels, channels, channels * (channels - 1) // 2)

    def numbers(self, features: int) -> int:
        """Per component a weight, the locations, the log-scales and the couplings."""
        assert features == self.channels, "a mixture is of the channels that it was made for"
        return self.components * sum(self.each)

    def forward(self, numbers: Tensor) -> Independent:
        """Return the distribution of codes, pixels independent."""
        parts = numbers.split([self.components * n for n in self.each], 1)
        logits, loc, raw, coupling = (
            part.unflatten(1, (self.components, n))
            for part, n in zip(parts, self.each, strict=True)
        )
        return summed(
            DiscretizedLogisticMixture(
                logits.squeeze(2), self.loc(loc), self.scale(raw), coupling.tanh(), self.levels
            )
        )


class Softmax(Family):
    """Any probabilities of the codes of every element, from a network: 256 numbers for 8 bits.

    It knows nothing of the codes' order, and so wants more data than the logistics do.

    References:
        van den Oord, Kalchbrenner & Kavukcuoglu, "Pixel recurrent neural networks", 2016,
        section 3.2, https://arxiv.org/abs/1601.06759

    Args:
        levels: number of codes.
    """

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        self.width = levels

    def forward(self, numbers: Tensor) -> Independent:
        """Return the factorised codes; `numbers` are all logits of the first channel, then on."""
        return summed(GreyCodes(numbers.unflatten(1, (-1, self.width)).movedim(2, -1)))
