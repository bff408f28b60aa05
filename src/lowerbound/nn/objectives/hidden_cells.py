"""Learn the posterior of rows with missing cells, whether or not the data have any."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lowerbound.nn.model import LatentModel, evaluating
from lowerbound.nn.objectives.elbo import Elbo, Loss
from lowerbound.nn.trace import Trace
from lowerbound.noise import Noise

EVERY = 2  # one row of this many is learned with hidden cells too


class RandomGaps(nn.Module):
    """Rows with cells replaced by NaN at random, for training an encoder for rows with gaps.

    The share of hidden cells of a row is uniform in [0, 1], so that all numbers of hidden cells
    are equally frequent. Missing cells stay missing.

    Args:
        groups: all columns, in groups that are hidden together, such as the parts of a date; by
            default, each column is hidden alone.
    """

    group: Tensor  # of each column; empty where each column is hidden alone

    def __init__(self, groups: Sequence[Sequence[int]] = ()) -> None:
        super().__init__()
        self.number = len(groups)
        of_column = {column: i for i, columns in enumerate(groups) for column in columns}
        order = torch.tensor([of_column[i] for i in range(len(of_column))], dtype=torch.long)
        self.register_buffer("group", order, persistent=False)

    def forward(self, x: Tensor, noise: Noise) -> Tensor:
        """Return rows (B, columns) with cells replaced by NaN at random."""
        share = noise("hidden share", torch.Size([len(x), 1]), x)
        each = noise("hidden cells", torch.Size([len(x), self.number or x.shape[1]]), x)
        # Of two standard normals, one is below the other with a probability that is uniform.
        hidden = each < share
        return x.masked_fill(hidden[:, self.group] if self.number else hidden, torch.nan)


class HiddenCells(nn.Module):
    """Another objective, plus the ELBO of rows whose cells are hidden at random.

    The second term trains the encoder and the posteriors alone: all other weights are constants
    in it. For the rows x_o that remain after hiding, it is the negative ELBO of log p(x_o), so
    q(z | x_o) is trained towards the posterior of every subset of the columns, for the imputation
    and the scores of rows with gaps, and the generative model is that of the other objective.

    See `RandomGaps` for the cells that are hidden. In evaluation, the term is left out.

    References:
        The ELBO of incomplete rows: Nazabal et al., "Handling incomplete heterogeneous data using
        VAEs", 2020, eq. 3, https://arxiv.org/abs/1807.03653; the uniform share: Ivanov, Figurnov
        & Vetrov, "Variational autoencoder with arbitrary conditioning", 2019,
        https://arxiv.org/abs/1806.02382

    Args:
        objective: the other objective, whose model tells its encoder which cells are missing.
        groups: all columns, in groups that are hidden together, such as the parts of a date; by
            default, each column is hidden alone.

    >>> from lowerbound import recipes
    >>> from lowerbound.noise import Stream, generator
    >>> model = recipes.gaussian(4, missing=True)
    >>> loss = HiddenCells(Elbo(model))(torch.zeros(8, 4), 0, Stream(generator("example")))
    >>> sorted(loss.terms)
    ['beta', 'distortion', 'elbo', 'hidden', 'rate']
    """

    def __init__(
        self,
        objective: nn.Module,
        groups: Sequence[Sequence[int]] = (),
    ) -> None:
        super().__init__()
        self.objective, self.hide = objective, RandomGaps(groups)

    @property
    def model(self) -> LatentModel:
        """The model of the other objective."""
        model = self.objective.get_submodule("model")
        assert isinstance(model, LatentModel)
        return model

    def forward(self, x: Tensor, step: int, noise: Noise, context: Tensor | None = None) -> Loss:
        """Return the loss of a batch of rows, (B, columns); its terms include "hidden"."""
        value, terms = self.objective(x, step, noise, context)
        if not self.training:
            return Loss(value, terms)
        some = self.hide(x[::EVERY], noise)
        given = None if context is None else context[::EVERY]
        with evaluating(self.model):  # no layer may learn its statistics from these rows
            hidden = Elbo(_PosteriorOnly(self.model))(some, step, noise, given)
        return Loss(value + hidden.value, {**terms, "hidden": hidden.value.detach()})


class _PosteriorOnly(nn.Module):
    """A model in which all weights but those of the encoder and the posteriors are constants."""

    def __init__(self, model: LatentModel) -> None:
        super().__init__()
        learned = {id(p) for p in model.encoder.parameters()}
        for level in model.levels:
            learned |= {id(p) for p in level.get_submodule("posterior").parameters()}
        self.model = model
        self.weights = {
            name: p if id(p) in learned else p.detach() for name, p in model.named_parameters()
        }

    def forward(self, x: Tensor, trace: Trace, context: Tensor | None = None) -> object:
        """Call the model."""
        return functional_call(self.model, self.weights, (x, trace, context))
