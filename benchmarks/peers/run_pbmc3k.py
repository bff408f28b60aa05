"""scvi-tools' SCVI on an .h5ad file of raw counts; what is not given here is its default.

    python run_pbmc3k.py train.h5ad test.h5ad '{"likelihood": "nb", "epochs": 100, "seed": 0}'

Prints one line of JSON: seconds of training, and the ELBO of the held-out cells, nats per cell.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings

import anndata
import scvi
import torch


def main() -> None:
    """Train, measure the held-out cells, and print the report."""
    train, test = (anndata.read_h5ad(path) for path in sys.argv[1:3])
    wanted = json.loads(sys.argv[3])
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    scvi.settings.seed = wanted["seed"]
    scvi.model.SCVI.setup_anndata(train)
    model = scvi.model.SCVI(
        train,
        n_hidden=wanted["hidden"],
        n_latent=wanted["latent"],
        n_layers=1,
        gene_likelihood=wanted["likelihood"],
        dispersion="gene",
    )
    began = time.perf_counter()
    model.train(
        max_epochs=wanted["epochs"],
        batch_size=wanted["batch"],
        train_size=1.0,
        accelerator="cpu",
        plan_kwargs={"lr": wanted["learning_rate"]},
        enable_progress_bar=False,
        enable_checkpointing=False,
        logger=False,
    )
    seconds = time.perf_counter() - began
    sums, cells = 0.0, 0
    model.module.eval()
    with torch.inference_mode():
        for tensors in model._make_data_loader(model._validate_anndata(test), batch_size=256):
            loss = model.module(tensors)[2]
            both = loss.reconstruction_loss_sum + loss.kl_local_sum
            sums, cells = sums + float(both), cells + loss.n_obs_minibatch
    print(json.dumps({"seconds": seconds, "elbo": -sums / cells, "cells": cells}))


if __name__ == "__main__":
    main()
