"""scvi-tools' SCVI on counts: the side `scvi`. What is not given here is its default."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import scvi
import torch
from anndata import AnnData
from common import GENE_HIDDEN, GENE_LATENT, LEARNING_RATE, Clock, Outcome, Work, report
from lightning.pytorch.callbacks import Callback


class Timed(Callback):
    """Times the training epochs, and keeps the last epoch's loss."""

    def __init__(self) -> None:
        self.clock, self.loss = Clock(), None

    def on_train_start(self, *_: Any) -> None:
        self.clock.start()

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        self.clock.stop()
        loss = trainer.callback_metrics.get("elbo_train")
        self.loss = None if loss is None else float(loss)


def train(work: Work, data: np.ndarray) -> Outcome:
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    scvi.settings.seed = work.seed
    table = AnnData(data[: work.rows])
    scvi.model.SCVI.setup_anndata(table)
    model = scvi.model.SCVI(
        table,
        n_hidden=GENE_HIDDEN,
        n_latent=GENE_LATENT,
        n_layers=1,
        gene_likelihood="nb",
        dispersion="gene",
    )
    timed = Timed()
    model.train(
        max_epochs=work.epochs,
        batch_size=work.batch,
        train_size=1.0,
        accelerator="cpu",
        plan_kwargs={"lr": LEARNING_RATE},
        callbacks=[timed],
        enable_progress_bar=False,
        enable_checkpointing=False,
        logger=False,
    )
    threads = {"threads": torch.get_num_threads()}
    return Outcome(timed.clock.seconds, work.steps * work.batch, timed.loss, threads)


if __name__ == "__main__":
    report(train, ["scvi-tools", "lightning", "anndata", "torch", "numpy"])
