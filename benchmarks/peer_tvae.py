"""Fit TVAE or CTGAN with its defaults and sample as many rows; runs in the peers' environment.

Usage: peer_tvae.py TRAIN.parquet OUT.parquet SEED [TVAE | CTGAN]
"""

import sys
import time

import numpy as np
import pyarrow.parquet as pq
import torch
from ctgan import CTGAN, TVAE

train, out, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
np.random.seed(seed)
torch.manual_seed(seed)
frame = pq.read_table(train).to_pandas()
discrete = [c for c in frame.columns if frame[c].dtype.kind not in "iuf"]
began = time.perf_counter()
model = CTGAN() if sys.argv[4:] == ["CTGAN"] else TVAE()
model.fit(frame, discrete)
fit_seconds = time.perf_counter() - began
model.sample(len(frame)).to_parquet(out)
print(f'{{"fit_seconds": {fit_seconds:.1f}, "torch": "{torch.__version__}"}}')
