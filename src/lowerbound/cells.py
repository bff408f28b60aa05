"""Single cells in Python: fit, embed and compare an AnnData, with results written into it.

>>> import anndata, numpy as np
>>> counts = np.random.default_rng(0).poisson(2.0, (200, 8)).astype("float32")
>>> adata = anndata.AnnData(counts)
>>> model = fit(adata, preset="fast", max_epochs=1)
>>> adata.obsm["X_lowerbound"].shape, adata.obs["lowerbound_score"].shape
((200, 5), (200,))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lowerbound.files import anndata
from lowerbound.files.genes import of_genes
from lowerbound.tasks.labels import LEVEL, NEIGHBOURS, transferred
from lowerbound.tasks.trained import Expression, Model
from lowerbound.training.adapt import STEPS, adapted
from lowerbound.training.fit import fit as _fit

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame

EMBEDDING, SCORE, EXPRESSION = anndata.EMBEDDING, "lowerbound_score", "expression"
__all__ = [
    "adapt",
    "annotate",
    "differential_expression",
    "expression",
    "fit",
    "label",
    "transfer_labels",
]


def fit(
    adata: AnnData,
    *,
    layer: str | None = None,
    batch: str | Sequence[str] = (),
    covariates: str | Sequence[str] = (),
    labels: str | None = None,
    genes: str | Sequence[str] | None = None,
    copy: bool = False,
    **options: Any,
) -> Any:
    """Fit a model of counts to an AnnData, and write the embedding and the scores into it.

    Args:
        adata: the cells, with raw counts; or a MuData, whose modality "rna" is taken.
        layer: the layer with the raw counts; None takes "counts", X or raw.X, the first that
            holds counts.
        batch: columns of `obs` of levels that the model is conditional on, such as the donor.
        covariates: columns of `obs` of numbers that it is conditional on.
        labels: a column of `obs` with labels that some cells have; see `label`.
        genes: the genes to model: "hvg:2000" for the most variable ones by scanpy, the name of a
            truth-valued column of `var` such as "highly_variable", or names; None for all.
        copy: leave `adata` as it is, and write into a copy.
        options: further options of `lowerbound.fit`, such as ``preset="fast"`` or ``out=``.

    Returns:
        The model; with `copy`, the model and the copy. The embedding is in
        ``obsm["X_lowerbound"]``, the scores (nats, higher is more unusual) in
        ``obs["lowerbound_score"]``.

    Raises:
        UsageError, DataError: as `lowerbound.fit`; DataError E045 for an unknown layer or gene.
    """
    cells = anndata.rna_of(adata)
    given = anndata.from_anndata(cells, layer=layer or "")
    if genes is not None:
        given = of_genes(given, cells, genes)
    recipe = options.pop("recipe", "counts")
    how = {"batch": batch, "covariates": covariates, "labels": labels}
    model = _fit(given, recipe, **how, **options)
    if copy:
        return model, annotate(model, adata, copy=True)
    annotate(model, adata)
    return model


def annotate(model: Model, adata: AnnData, *, copy: bool = False) -> AnnData | None:
    """Write the embedding and the scores of cells into ``obsm`` and ``obs``.

    Args:
        model: a model of counts.
        adata: the cells.
        copy: leave `adata` as it is, and return a copy with the results.

    Returns:
        The copy, or None.
    """
    made = adata.copy() if copy else adata
    cells = anndata.rna_of(made)
    coded = model.encode(cells)[1]
    cells.obsm[EMBEDDING] = model.embed_coded(coded)
    cells.obs[SCORE] = model.score_coded(coded)
    return made if copy else None


def adapt(model: Model, adata: AnnData, *, steps: int = STEPS, seed: int = 0) -> Model:
    """Return a model that also knows the batches of new cells, which it learns from them alone.

    Embeddings of cells of the batches that `model` knows stay as they are, to the bit.

    Args:
        model: a model of counts with batches.
        adata: the new cells.
        steps: steps of training.
        seed: seed of the order of the cells and of the draws.

    Raises:
        DataError: E046 for a new batch with too few cells.
    """
    return adapted(model, anndata.rna_of(adata), steps=steps, seed=seed)


def label(
    model: Model,
    adata: AnnData,
    *,
    alpha: float | None = None,
    draws: int = 25,
    copy: bool = False,
) -> AnnData | None:
    """Write the likeliest label of every cell by a model that was fitted with `labels`.

    It is in ``obs["lowerbound_label"]``, or "none of these" for cells whose counts are not like
    those of the training; its probability is in ``obs["lowerbound_label_probability"]``, and the
    p-value of the typicality of the counts in ``obs["lowerbound_label_p_value"]``.

    Args:
        model: a model of counts that learned labels.
        adata: the cells.
        alpha: the expected share of cells like those of the training that get "none of these";
            None takes the alarm rate of the fit, 0 labels all cells.
        draws: draws from the posterior of each cell.
        copy: leave `adata` as it is, and return a copy with the results.

    Returns:
        The copy, or None.
    """
    made = adata.copy() if copy else adata
    cells = anndata.rna_of(made)
    found = model.label_probabilities(cells, alpha=alpha, draws=draws)
    cells.obs["lowerbound_label"] = found["label"].to_pylist()
    cells.obs["lowerbound_label_probability"] = found["probability"].to_numpy()
    if "p_value" in found.column_names:  # models of earlier versions have none
        cells.obs["lowerbound_label_p_value"] = found["p_value"].to_numpy()
    return made if copy else None


def transfer_labels(
    model: Model,
    reference: AnnData,
    query: AnnData,
    label: str,
    *,
    neighbours: int = NEIGHBOURS,
    level: float = LEVEL,
) -> None:
    """Write labels of new cells, from their nearest labelled neighbours in latent space.

    ``query.obs[label]`` has the likeliest label, or a missing value for none of these:
    cells that are further from the labelled ones than all but a share `level` of these are from
    each other. ``f"{label}_probability"`` and ``f"{label}_p_value"`` are written, too.

    Args:
        model: a model of counts.
        reference: labelled cells, such as those of the fit.
        query: cells to label.
        label: the column of ``reference.obs``.
        neighbours: number of neighbours.
        level: share of cells like the labelled ones that get no label.
    """
    known, cells = anndata.rna_of(reference), anndata.rna_of(query)
    labels = known.obs[label].astype(object)
    labels = labels.where(labels.notna(), None).to_numpy()
    found = transferred(
        model.embed(known), labels, model.embed(cells), neighbours=neighbours, level=level
    )
    cells.obs[label] = found.label
    cells.obs[f"{label}_probability"] = found.probability
    cells.obs[f"{label}_p_value"] = found.p_value


def expression(  # noqa: PLR0913 - independent options, all with defaults
    model: Model,
    adata: AnnData,
    *,
    batch: object = None,
    library: float | None = 1e4,
    draws: int = 25,
    genes: Sequence[str] | None = None,
    seed: int = 0,
    copy: bool = False,
) -> AnnData | None:
    """Write normalised expression into the layers ``expression`` and ``expression_sd``.

    Genes of `adata` that the model does not have, or that are not asked for, are NaN.

    Args:
        model: a model of counts.
        adata: the cells.
        batch: show all cells in this batch, see `lowerbound.Model.expression`.
        library: the total that rates add up to; None keeps each cell's own.
        draws: draws from the posterior of each cell.
        genes: the genes to write; None for all of the model.
        seed: seed of the draws.
        copy: leave `adata` as it is, and return a copy with the layers.

    Returns:
        The copy, or None.
    """
    made = adata.copy() if copy else adata
    cells = anndata.rna_of(made)
    at = model.decoded_at(batch, library, genes)
    tables = Expression(*model.expression_coded(model.encode(cells)[1], at, draws, seed))
    place = {str(name): i for i, name in enumerate(cells.var_names)}
    both = [name for name in tables.mean.column_names if name in place]
    columns = [place[name] for name in both]
    for layer, table in ((EXPRESSION, tables.mean), (f"{EXPRESSION}_sd", tables.sd)):
        values = np.full(cells.shape, np.nan, np.float32)
        for name, column in zip(both, columns, strict=True):
            values[:, column] = table[name].to_numpy()
        cells.layers[layer] = values
    return made if copy else None


def differential_expression(
    model: Model, adata: AnnData, groupby: str, group1: str, group2: str | None = None, **how: Any
) -> DataFrame:
    """Return the genes that differ between two groups of cells, the most probable ones first.

    Args:
        model: a model of counts.
        adata: the cells.
        groupby: the column of `obs` with the group of each cell.
        group1: a group.
        group2: the group it is compared with; None for all other cells.
        how: further options of `lowerbound.Model.differential_expression`, whose columns the
            result has, with the gene as index.

    Raises:
        UsageError: E201 where `adata` is no AnnData, and as that method.
    """
    cells = anndata.rna_of(adata)
    table = model.differential_expression(cells, groupby, group1, group2, **how)
    return table.to_pandas().set_index("gene")
