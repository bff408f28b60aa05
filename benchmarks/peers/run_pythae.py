"""pythae's VAE with the networks of the workload and its BaseTrainer: the side `pythae`."""

from __future__ import annotations

import logging
import tempfile
from typing import Any

import numpy as np
import torch
from common import LEARNING_RATE, WIDTHS, Clock, Outcome, Work, report
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback
from torch import Tensor, nn
from torch_nets import Nets, nets_of


class Encoder(BaseEncoder):
    """The trunk and two heads, as pythae wants them."""

    def __init__(self, nets: Nets) -> None:
        super().__init__()
        self.trunk = nets.encoder
        self.mu = nn.Linear(nets.features, nets.latent)
        self.log_var = nn.Linear(nets.features, nets.latent)

    def forward(self, x: Tensor) -> ModelOutput:
        h = self.trunk(x)
        return ModelOutput(embedding=self.mu(h), log_covariance=self.log_var(h))


class Decoder(BaseDecoder):
    """The decoder with a sigmoid, as pythae wants it."""

    def __init__(self, nets: Nets) -> None:
        super().__init__()
        self.net = nn.Sequential(nets.decoder, nets.last, nn.Sigmoid())

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.net(z))


class Timed(TrainingCallback):
    """Starts the clock at the first epoch, and stops it after each."""

    def __init__(self) -> None:
        self.clock, self.loss = Clock(), 0.0

    def on_epoch_begin(self, training_config: Any, epoch: int, **kwargs: Any) -> None:
        if epoch == 1:
            self.clock.start()

    def on_epoch_end(self, training_config: Any, **kwargs: Any) -> None:
        self.clock.stop()

    def on_log(self, training_config: Any, logs: dict[str, float], **kwargs: Any) -> None:
        self.loss = logs["train_epoch_loss"]


class QuietTrainer(BaseTrainer):
    """pythae's trainer without its progress bar and without printing."""

    def _setup_callbacks(self) -> None:
        self.callback_handler = CallbackHandler(callbacks=self.callbacks, model=self.model)


def train(work: Work, data: np.ndarray) -> Outcome:
    logging.disable(logging.INFO)
    torch.manual_seed(work.seed)
    nets, timed = nets_of(work.data), Timed()
    settings = VAEConfig(
        input_dim=(WIDTHS[work.data][0],), latent_dim=nets.latent, reconstruction_loss="bce"
    )
    x = torch.from_numpy(data[: work.rows])
    with tempfile.TemporaryDirectory() as folder:
        trainer = QuietTrainer(
            model=VAE(settings, Encoder(nets), Decoder(nets)),
            train_dataset=BaseDataset(x, torch.zeros(len(x))),
            training_config=BaseTrainerConfig(
                output_dir=folder,
                num_epochs=work.epochs,
                per_device_train_batch_size=work.batch,
                learning_rate=LEARNING_RATE,
                seed=work.seed,
                no_cuda=True,
            ),
            callbacks=[timed],
        )
        trainer.train()
    threads = {"threads": torch.get_num_threads()}
    return Outcome(timed.clock.seconds, work.steps * work.batch, timed.loss, threads)


if __name__ == "__main__":
    report(train, ["pythae", "torch", "numpy"])
