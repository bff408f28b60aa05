"""Draw real rows of Adult beside rows that the default model draws: three columns and one pair.

The model learns from one half of the rows, and as many are drawn; the real rows are the unseen
half, as in benchmarks/synthetic_tables.py.

Run: LOWERBOUND_DATA=... python benchmarks/drawn_picture.py     # writes docs/images/drawn_rows.svg
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from synthetic_tables import TABLES, halves, ours

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "drawn_rows.svg"
SEED = 0
REAL, DRAWN = "#3b6ea5", "#e08a3c"
PAIR = "education", "education-num"


def numbers(axes: Axes, real: pd.Series, drawn: pd.Series, bins: np.ndarray) -> None:
    """Draw the histograms of a column of numbers."""
    shares = {"weights": np.full(len(real), 1 / len(real))}
    axes.hist(real, bins, color=REAL, alpha=0.55, label="real, unseen", **shares)
    shares = {"weights": np.full(len(drawn), 1 / len(drawn))}
    axes.hist(drawn, bins, histtype="step", color=DRAWN, lw=1.5, label="drawn", **shares)


def levels(axes: Axes, real: pd.Series, drawn: pd.Series) -> None:
    """Draw the shares of the levels of a column."""
    names = real.value_counts().index
    place = np.arange(len(names))
    for offset, values, colour in ((-0.2, real, REAL), (0.2, drawn, DRAWN)):
        shares = values.value_counts(normalize=True).reindex(names).fillna(0.0)
        axes.bar(place + offset, shares, 0.4, color=colour, alpha=0.8)
    axes.set_xticks(place, names, rotation=60, ha="right", fontsize=7)


def pair(axes: Axes, rows: pd.DataFrame, names: list[str], title: str) -> None:
    """Draw how often the values of two columns occur together."""
    counts = pd.crosstab(rows[PAIR[0]], rows[PAIR[1]]).reindex(names).fillna(0)
    axes.imshow(np.log1p(counts), cmap="Blues", aspect="auto")
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.set_xticks(range(0, counts.shape[1], 3), [f"{v:g}" for v in counts.columns[::3]])
    axes.set_xlabel(PAIR[1])
    axes.set_title(title, fontsize=9)


def main() -> None:
    """Fit, draw and write the picture."""
    mpl.rcParams.update({"svg.hashsalt": "drawn rows", "font.size": 8})
    train, unseen = halves(TABLES["adult"].load(), SEED)
    drawn, real = ours(train, SEED)[0].to_pandas(), unseen.to_pandas()
    figure, axes = plt.subplots(2, 3, figsize=(10, 6.4))
    numbers(axes[0, 0], real["age"], drawn["age"], np.arange(16, 92, 2))
    numbers(axes[0, 1], real["hours-per-week"], drawn["hours-per-week"], np.arange(0, 100, 5))
    levels(axes[0, 2], real["occupation"], drawn["occupation"])
    for each, name in zip(axes[0], ("age", "hours-per-week", "occupation"), strict=True):
        each.set_title(name, fontsize=9)
        each.set_ylabel("share of rows")
    axes[0, 0].legend(frameon=False)
    order = real.groupby(PAIR[0])[PAIR[1]].mean().sort_values().index.tolist()
    pair(axes[1, 0], real, order, "real, unseen")
    pair(axes[1, 1], drawn, order, "drawn")
    known = set(zip(real[PAIR[0]], real[PAIR[1]], strict=True))
    never = [p not in known for p in zip(drawn[PAIR[0]], drawn[PAIR[1]], strict=True)]
    axes[1, 2].axis("off")
    told = f"{np.mean(never):.2%} of the drawn rows have\na pair that no real row has."
    axes[1, 2].text(0.0, 0.6, told, fontsize=10)
    figure.tight_layout()
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, metadata={"Date": None})
    print(PICTURE, f"{PICTURE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
