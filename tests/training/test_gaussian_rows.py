"""The Gaussian of rows with gaps, and the choice of its shrinkage."""

import pytest
import torch

from lowerbound.noise import generator
from lowerbound.training import gaussian_rows

COVARIANCE = torch.tensor([[4.0, 1.8, 0.0], [1.8, 1.0, -0.3], [0.0, -0.3, 1.0]]).double()


def rows(n, source):
    root = torch.linalg.cholesky(COVARIANCE)
    return torch.randn(n, 3, generator=source, dtype=torch.float64) @ root.T + 5.0


def test_of_complete_rows_it_has_their_moments():
    x = rows(50, generator("complete"))
    found = gaussian_rows.fitted(x)
    assert torch.allclose(found.mean, x.mean(0))
    assert torch.allclose(found.covariance, torch.cov(x.T, correction=0))


def test_gaps_that_depend_on_seen_values_do_not_bias_it():
    source = generator("gaps")
    x = rows(20_000, source)
    x[x[:, 1] > 5.5, 0] = torch.nan  # the mean of what is left of column 0 is far too low
    x[torch.rand(len(x), generator=source) < 0.2, 2] = torch.nan
    assert float(x[:, 0].nanmean()) < 4.5
    found = gaussian_rows.fitted(x)
    assert torch.allclose(found.mean, torch.full((3,), 5.0).double(), atol=0.06)
    assert torch.allclose(found.covariance, COVARIANCE, atol=0.12)


@pytest.mark.parametrize(("n", "least", "most"), [(12, 0.05, 1.0), (4000, 0.0, 0.01)])
def test_few_rows_are_shrunk_more(n, least, most):
    x = torch.randn(n, 8, generator=generator("shrunk", n), dtype=torch.float64)
    x[:, 1] += x[:, 0]

    def predict(gaussian, some):
        """Each column given all others."""
        precision = torch.linalg.inv(gaussian.covariance)
        own = precision.diagonal()
        pull = (x[some] - gaussian.mean) @ precision / own
        return gaussian_rows.Predicted(x[some] - pull, own.rsqrt().expand(len(some), -1))

    found = gaussian_rows.judged(x, x, predict)
    raw = gaussian_rows.fitted(x).covariance
    share = 1 - float(found.gaussian.covariance[0, 1] / raw[0, 1])
    assert least <= share <= most + 1e-9
    assert len(found.rows) == (n if n <= gaussian_rows.FEW else n // gaussian_rows.FOLDS)


def test_a_single_row_has_one():
    x = torch.tensor([[1.0, 2.0]]).double()
    found = gaussian_rows.judged(
        x, x, lambda g, some: gaussian_rows.Predicted(x[some] * 0, x[some] * 0 + 1)
    )
    assert found.gaussian.covariance.isfinite().all()
    assert found.mean.shape == (1, 2)
