# Small made-up files with the names that this guide uses. Put your own in their place.
import anndata
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix


def cells(rows, seed):
    """Return raw counts of twenty genes, from two sites, with further annotations."""
    rng = np.random.default_rng(seed)
    means = np.exp(rng.normal(size=(rows, 3)) @ rng.normal(size=(3, 20)) / 2)
    obs = pd.DataFrame(
        {
            "site": rng.choice(["lima", "oslo"], rows),
            "kit": rng.choice(["v2", "v3"], rows),
            "pct_mito": rng.gamma(2.0, 2.0, rows),
            "louvain": rng.choice(["B", "T"], rows),
        },
        index=list(map(str, range(rows))),
    )
    names = [f"gene{j}" for j in range(20)]
    genes = pd.DataFrame({"highly_variable": [j < 15 for j in range(20)]}, index=names)
    counts = csr_matrix(rng.poisson(means).astype(np.float32))
    return anndata.AnnData(counts, obs, genes, layers={"counts": counts.copy()})


cells(600, seed=0).write_h5ad("pbmc.h5ad")
cells(60, seed=1).write_h5ad("new.h5ad")
