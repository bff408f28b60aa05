# Small made-up files with the names that this guide uses. Put your own in their place.
import anndata
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix


def cells(rows, seed):
    """Return raw counts of twenty genes, from two sites."""
    rng = np.random.default_rng(seed)
    means = np.exp(rng.normal(size=(rows, 3)) @ rng.normal(size=(3, 20)) / 2)
    site = pd.DataFrame({"site": rng.choice(["lima", "oslo"], rows)}, index=map(str, range(rows)))
    genes = pd.DataFrame(index=[f"gene{j}" for j in range(20)])
    return anndata.AnnData(csr_matrix(rng.poisson(means).astype(np.float32)), site, genes)


cells(600, seed=0).write_h5ad("pbmc.h5ad")
cells(60, seed=1).write_h5ad("new.h5ad")
