"""CTGAN's TVAE on a mixed table, its data transform included: the side `ctgan`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from common import TABLE_HIDDEN, TABLE_LATENT, Clock, Outcome, Work, report
from ctgan.data_transformer import DataTransformer
from ctgan.synthesizers import tvae


class TimedTransformer(DataTransformer):
    """CTGAN's transformer, which tells how long it took."""

    seconds = 0.0

    def fit(self, *arguments: Any, **named: Any) -> None:
        with Clock() as clock:
            super().fit(*arguments, **named)
        self.seconds += clock.seconds

    def transform(self, *arguments: Any, **named: Any) -> np.ndarray:
        with Clock() as clock:
            coded = super().transform(*arguments, **named)
        self.seconds += clock.seconds
        return coded


def train(work: Work, data: dict[str, np.ndarray]) -> Outcome:
    np.random.seed(work.seed)
    torch.manual_seed(work.seed)
    tvae.DataTransformer = TimedTransformer
    frame = pd.DataFrame(data)
    discrete = [name for name in frame.columns if frame[name].dtype.kind != "f"]
    hidden = (TABLE_HIDDEN, TABLE_HIDDEN)
    model = tvae.TVAE(
        embedding_dim=TABLE_LATENT,
        compress_dims=hidden,
        decompress_dims=hidden,
        batch_size=work.batch,
        epochs=work.epochs,
        enable_gpu=False,
    )
    with Clock() as clock:
        model.fit(frame, discrete)
    transform = round(model.transformer.seconds, 3)
    facts = {"transform_seconds": transform, "threads": torch.get_num_threads()}
    return Outcome(clock.seconds, work.epochs * work.rows, None, facts)


if __name__ == "__main__":
    report(train, ["ctgan", "rdt", "torch", "numpy", "pandas"])
