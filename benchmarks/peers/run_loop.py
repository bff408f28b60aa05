"""The usual training loop, as most people write it: the side `loop`."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from common import LEARNING_RATE, Clock, Outcome, Work, nats_beside, report
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch_nets import nets_of


class UsualVae(nn.Module):
    """Encoder, two heads, decoder, and a sigmoid where x is binary."""

    def __init__(self, data: str) -> None:
        super().__init__()
        nets = nets_of(data)
        self.encoder, self.bernoulli = nets.encoder, nets.bernoulli
        self.mu = nn.Linear(nets.features, nets.latent)
        self.log_var = nn.Linear(nets.features, nets.latent)
        self.decoder = nn.Sequential(nets.decoder, nets.last)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mu, log_var = self.mu(h), self.log_var(h)
        z = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
        y = self.decoder(z)
        return torch.sigmoid(y) if self.bernoulli else y, mu, log_var


def loss_of(model: UsualVae, x: Tensor) -> Tensor:
    """Return the sum of the negative ELBO, without the Gaussian's constant."""
    y, mu, log_var = model(x)
    kl = -0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp())
    if model.bernoulli:
        return F.binary_cross_entropy(y, x, reduction="sum") + kl
    return 0.5 * F.mse_loss(y, x, reduction="sum") + kl


def train(work: Work, data: np.ndarray) -> Outcome:
    torch.manual_seed(work.seed)
    model = UsualVae(work.data)
    rows = TensorDataset(torch.from_numpy(data[: work.rows]))
    loader = DataLoader(rows, batch_size=work.batch, shuffle=True)
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    total = 0.0
    with Clock() as clock:
        for _ in range(work.epochs):
            total = 0.0
            for (x,) in loader:
                optimiser.zero_grad()
                loss = loss_of(model, x)
                loss.backward()
                total += loss.item()
                optimiser.step()
    threads = {"threads": torch.get_num_threads()}
    nats = total / work.rows + nats_beside(work.data)
    return Outcome(clock.seconds, work.steps * work.batch, nats, threads)


if __name__ == "__main__":
    report(train, ["torch", "numpy"])
