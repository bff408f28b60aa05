"""The objective of a proposal for importance sampling, fitted after training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lowerbound.nn.latents.importance import ByProposal
from lowerbound.nn.model import LatentModel
from lowerbound.nn.objectives.elbo import Iwae, Loss
from lowerbound.nn.objectives.hidden_cells import RandomGaps
from lowerbound.noise import Noise

DRAWS = 4  # of z for each row of a step
SHARE = 4  # one row of this many has cells hidden


class ProposalBound(Iwae):
    """The importance-weighted bound by draws of the proposal, of a model that is not trained.

    Where the encoder knows which cells are missing, every fourth row of a batch has cells hidden
    at random, so that r(z | x_o) is fitted for rows with gaps too.

    References:
        Burda, Grosse & Salakhutdinov, "Importance weighted autoencoders", 2016, eq. 8; Tucker et
        al., "Doubly reparameterized gradient estimators for Monte Carlo objectives", 2019, eq. 7

    Args:
        model: a model of one level with a proposal.
        hidden: groups of columns whose cells are hidden together, see `RandomGaps`; None hides
            none.
    """

    def __init__(self, model: LatentModel, hidden: Sequence[Sequence[int]] | None = None) -> None:
        super().__init__(ByProposal(model), DRAWS)
        self.gaps = None if hidden is None else RandomGaps(hidden)

    def train(self, mode: bool = True) -> ProposalBound:
        """Change the mode of the proposal; the model stays in evaluation mode."""
        super().train(False)
        self.training = mode
        proposal = self.model.get_submodule("model").get_submodule("proposal")
        proposal.train(mode)
        return self

    def forward(self, x: Tensor, step: int, noise: Noise, context: Tensor | None = None) -> Loss:
        """Return the loss of a batch of rows, (B, columns): see `Iwae.forward`."""
        if self.training and self.gaps is not None:
            second = (torch.arange(len(x), device=x.device) % SHARE == 1)[:, None]
            x = torch.where(second, self.gaps(x, noise), x)
        return super().forward(x, step, noise, context)
