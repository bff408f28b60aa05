# Small made-up files with the names that this guide uses. Put your own in their place.
import numpy as np
import pandas as pd


def purchases(rows, seed):
    """Return numbers, a category, counts, a date and some gaps."""
    rng = np.random.default_rng(seed)
    country = rng.choice(["FR", "DE", "US"], rows, p=[0.5, 0.3, 0.2])
    amount = np.exp(rng.normal(3 + (country == "US"), 1)).round(2)
    fee = (0.02 * amount + rng.normal(0, 0.1, rows)).round(3)
    minutes = pd.to_timedelta(rng.integers(0, 200_000, rows), unit="min")
    return pd.DataFrame(
        {
            "amount": amount,
            "fee": np.where(rng.random(rows) < 0.1, np.nan, fee),
            "country": country,
            "visits": rng.poisson(2, rows),
            "ts": pd.Timestamp("2024-01-01") + minutes,
        }
    )


frame, new = purchases(600, seed=0), purchases(100, seed=1)
frame.to_csv("tx.csv", index=False)
new.to_csv("new.csv", index=False)
