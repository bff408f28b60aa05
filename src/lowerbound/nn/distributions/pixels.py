"""Families of pixels: codes 0 to 255 as stored in an image file, and values in [0, 1].

Numbers have the shape (B, numbers, H, W) and values (B, channels, H, W); vectors work too.
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

LOG_SCALE_LIMIT = 7.0  # of a logistic on [-1, 1]: scales from 0.1 codes to nearly uniform


class ContinuousBits(Family):
    """Continuous Bernoulli from logits, for values in [0, 1].

    References:
        Loaiza-Ganem & Cunningham, "The continuous Bernoulli: fixing a pervasive error in
        variational autoencoders", 2019, https://arxiv.org/abs/1907.06845

    >>> from torch import zeros
    >>> abs(float(ContinuousBits()(zeros(1, 2)).log_prob(zeros(1, 2) + 0.3))) < 1e-6  # uniform
    True
    """

    def forward(self, numbers: Tensor) -> Independent:
        """Return the factorised continuous Bernoulli."""
        return summed(ContinuousBernoulliLogits(numbers))


class _Codes(Family):
    """Base class of families of codes, which maps network outputs in [-1, 1] to codes.

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
        eq. 17, https://arxiv.org/abs/1606.04934; Salimans et al., "PixelCNN++", 2017, eq. 2,
        https://arxiv.org/abs/1701.05517

    Args:
        levels: number of codes: 256 for 8 bits, 32 for 5.

    >>> from torch import zeros
    >>> Logistics()(zeros(2, 6, 4, 4)).log_prob(zeros(2, 3, 4, 4)).shape  # nats
    torch.Size([2])
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

    >>> from torch import zeros
    >>> family = LogisticMixture(3, components=2)
    >>> family(zeros(2, family.numbers(3), 4, 4)).log_prob(zeros(2, 3, 4, 4)).shape
    torch.Size([2])
    """

    def __init__(self, channels: int, components: int = 10, levels: int = 256) -> None:
        super().__init__(levels)
        self.channels, self.components = channels, components
        self.each = (1, channels, channels, channels * (channels - 1) // 2)

    def numbers(self, features: int) -> int:
        """Return the network outputs per pixel: weight, locations, log-scales and couplings."""
        assert features == self.channels, "a mixture has the channels that it was built with"
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
    """Categorical distribution over the codes of every element: 256 numbers for 8 bits.

    It does not use the order of the codes, so that it needs more data than the logistics.

    References:
        van den Oord, Kalchbrenner & Kavukcuoglu, "Pixel recurrent neural networks", 2016,
        section 3.2, https://arxiv.org/abs/1601.06759

    Args:
        levels: number of codes.

    >>> from torch import zeros
    >>> Softmax(4)(zeros(1, 8)).log_prob(zeros(1, 2))  # 2 log(1/4)
    tensor([-2.7726])
    """

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        self.width = levels

    def forward(self, numbers: Tensor) -> Independent:
        """Return the factorised codes; `numbers` are the logits of one channel after another."""
        return summed(GreyCodes(numbers.unflatten(1, (-1, self.width)).movedim(2, -1)))
