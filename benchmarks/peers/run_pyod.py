"""PyOD's VAE with the widths of the workload: the side `pyod`.

Its own loss (squared error also where x is binary) and loop. Dropout, weight decay and scaling,
which it has by default and the other sides have not, are off.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from common import LEARNING_RATE, WIDTHS, Clock, Outcome, Work, report
from pyod.models.vae import VAE


class Timed(VAE):
    """PyOD's VAE that times its training; the scoring that `fit` adds stays outside."""

    def train(self, train_loader: Any) -> None:
        with Clock() as self.clock:
            super().train(train_loader)


def train(work: Work, data: np.ndarray) -> Outcome:
    _, *hidden, latent = WIDTHS[work.data]
    model = Timed(
        preprocessing=False,
        lr=LEARNING_RATE,
        epoch_num=work.epochs,
        batch_size=work.batch,
        device=torch.device("cpu"),
        random_state=work.seed,
        verbose=0,
        optimizer_params={},
        encoder_neuron_list=hidden,
        decoder_neuron_list=hidden[::-1],
        latent_dim=latent,
        dropout_rate=0.0,
    )
    model.fit(data[: work.rows])
    threads = {"threads": torch.get_num_threads()}
    return Outcome(model.clock.seconds, work.steps * work.batch, None, threads)


if __name__ == "__main__":
    report(train, ["pyod", "torch", "numpy"])
