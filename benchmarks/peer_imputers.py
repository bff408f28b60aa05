"""Fill an incomplete table by another library; runs in the peers' environment.

Usage: peer_imputers.py miceforest|HyperImpute FOLDER SEED

Reads FOLDER/gaps.parquet, and writes FOLDER/point.parquet and, where the method has draws,
FOLDER/draw-*.parquet.
"""

# ruff: noqa: PLC0415 - each library takes seconds to import, and one is used

import sys
from pathlib import Path

import numpy as np
import pandas as pd

DRAWS = 5  # copies of miceforest, its own default for multiple imputation


def miceforest(frame, seed):
    import miceforest as mf

    data = frame.copy()
    for column in texts(frame):
        data[column] = data[column].astype("category")
    kernel = mf.ImputationKernel(data, num_datasets=DRAWS, random_state=seed)
    kernel.mice(5)
    made = [kernel.complete_data(dataset=i) for i in range(DRAWS)]
    point = frame.copy()
    for column in frame:
        each = [copy[column] for copy in made]
        if column not in texts(frame):
            point[column] = np.mean(each, axis=0)
        else:
            point[column] = pd.concat([e.astype(object) for e in each], axis=1).mode(axis=1)[0]
    return point, [copy.astype({c: str for c in texts(frame)}) for copy in made]


def hyperimpute(frame, seed):
    from hyperimpute.plugins.imputers import Imputers

    coded, levels = numbered(frame)
    method = Imputers().get("hyperimpute", random_state=seed)
    filled = method.fit_transform(coded)
    filled.columns = frame.columns
    return named(filled, levels), []


def texts(frame):
    """Return the columns of categories."""
    return [column for column in frame if frame[column].dtype.kind != "f"]


def numbered(frame):
    """Return a table with codes for categories, and their levels."""
    coded, levels = frame.copy(), {}
    for column in texts(frame):
        codes, levels[column] = pd.factorize(frame[column])
        coded[column] = np.where(codes < 0, np.nan, codes)
    return coded, levels


def named(filled, levels):
    """Return the table with levels in place of codes."""
    filled = filled.copy()
    for column, names in levels.items():
        codes = filled[column].astype(float).round().clip(0, len(names) - 1).astype(int)
        filled[column] = np.asarray(names, dtype=object)[codes]
    return filled


METHODS = {"miceforest": miceforest, "HyperImpute": hyperimpute}

if __name__ == "__main__":
    folder = Path(sys.argv[2])
    point, draws = METHODS[sys.argv[1]](pd.read_parquet(folder / "gaps.parquet"), int(sys.argv[3]))
    point.to_parquet(folder / "point.parquet")
    for i, copy in enumerate(draws):
        copy.to_parquet(folder / f"draw-{i}.parquet")
