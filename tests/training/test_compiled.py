"""The compiled engine: the same fits as torch's, its limits, and what happens without JAX."""

import os
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
import torch

from lowerbound import Plan, noise, recipes
from lowerbound.coding.rows import Batch, Dense
from lowerbound.errors import NumericError, ResourceError
from lowerbound.nn.latents.importance import ImportanceProposal
from lowerbound.nn.objectives.elbo import Elbo, Iwae, Ramp, StickingTheLanding
from lowerbound.nn.objectives.hidden_cells import HiddenCells
from lowerbound.nn.objectives.proposal_bound import ProposalBound
from lowerbound.training.engine import engine as engines
from lowerbound.training.engine import graphs, jax_operations, loop, machine
from lowerbound.training.engine.compiled import Program
from lowerbound.training.engine.engine import Engine, compiling
from lowerbound.training.engine.flat import Flat
from lowerbound.training.engine.settings import Budget, Optimiser
from lowerbound.training.fit import learn


def rows(n=400, d=6):
    g = noise.generator("compiled", n, d)
    return torch.randn(n, 2, generator=g) @ torch.randn(2, d, generator=g) + 0.3 * torch.randn(
        n, d, generator=g
    )


def mixed(n=400):
    """Rows of two numbers, one category of four and one bit, some missing."""
    x = rows(n, 4)
    x[:, 2] = (x[:, 2].abs() * 2).floor().clamp_max(3)
    x[:, 3] = (x[:, 3] > 0).float()
    x[::7, 1] = torch.nan
    return x


def counts(n=128):
    g = noise.generator("counts")
    return torch.poisson(torch.rand(n, 12, generator=g) * 3, generator=g)


def table(**settings):
    parts = ["real", "real", "categorical", "binary"], [1, 1, 4, 1]
    return recipes.table(*parts, 2, (16,), gaps=0.1, **settings)


def of_counts(likelihood):
    def build():
        return recipes.counts(12, latent=2, hidden=[16], likelihood=likelihood)

    return build


def proposing():
    model = recipes.gaussian(6, latent=3, hidden=(16,), missing=True)
    model.requires_grad_(False)
    model.proposal = ImportanceProposal.like(model)
    torch.nn.init.normal_(model.proposal.mixing.weight)  # at 0, nothing depends on it
    return ProposalBound(model, [[i] for i in range(6)])


OBJECTIVES = {
    "gaussian": (lambda: Elbo(recipes.gaussian(6, latent=2, hidden=(16,))), rows),
    "sigma": (lambda: Elbo(recipes.sigma(6, 2, (16,), "optimal"), beta=Ramp(0, 1, 50)), rows),
    "iaf": (lambda: Elbo(recipes.iaf(6, latent=2, hidden=(16,))), rows),
    "iwae": (lambda: Iwae(recipes.gaussian(6, latent=2, hidden=(16,)), 4), rows),
    "sticking": (lambda: StickingTheLanding(recipes.gaussian(6, latent=2, hidden=(16,))), rows),
    "proposal": (proposing, rows),
    "table": (lambda: HiddenCells(Elbo(table())), mixed),
    "mixture": (lambda: Elbo(table(components=3)), mixed),
    "nb": (lambda: Elbo(of_counts("nb")()), counts),
    "zinb": (lambda: Elbo(of_counts("zinb")()), counts),
}


def built(name):
    make, data = OBJECTIVES[name]
    with noise.isolated(3):
        objective = make()
    x = data()
    return objective, x, x.sum(1, keepdim=True).log() if data is counts else None


def fit(engine, *, x=None, steps=200, checkpoints=None, **budget):
    with noise.isolated(3):
        model = recipes.sigma(6, 3, (16,), "optimal")
    x = rows() if x is None else x
    history = loop.fit(
        Elbo(model, beta=Ramp(0, 1, 100)),
        Dense(x[:300]),
        Dense(x[300:]),
        budget=Budget(epochs=10**6, most=steps, patience=10**6, **budget),
        optimiser=Optimiser(batch_size=64, learning_rate=3e-3, ema=0.9, weight_decay=0.1),
        engine=engine,
        checkpoints=checkpoints,
    )
    return model, history


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_graph_of_an_objective_gives_torchs_loss_and_gradient(name):
    objective, x, context = built(name)
    objective.train()
    batch = Batch(x[:32], None if context is None else context[:32])
    with noise.isolated(1):  # the program itself compares its gradient with torch's
        program = Program(objective, Flat(objective), batch, Optimiser(batch_size=32), 2, 1)
    assert len(program.graph.operations) > 20


def test_both_engines_compute_the_same_fit():
    (a, before), (b, after) = fit(Engine()), fit(Engine(burst=7))
    assert [check.step for check in before.checks] == [check.step for check in after.checks]
    for one, two in zip(before.checks, after.checks, strict=True):
        assert two.loss == pytest.approx(one.loss, abs=1e-4)
        assert two.valid_bound == pytest.approx(one.valid_bound, abs=1e-4)
    for (name, p), q in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.allclose(p, q, atol=1e-3), name


def test_twenty_steps_agree_to_five_digits():
    for (_, p), (_, q) in zip(
        fit(Engine(), steps=20)[0].named_parameters(),
        fit(Engine(burst=20), steps=20)[0].named_parameters(),
        strict=True,
    ):
        assert torch.allclose(p, q, atol=1e-5, rtol=1e-5)


def test_the_same_seed_gives_the_same_bytes_however_the_steps_are_grouped():
    one, two = fit(Engine(burst=7))[0], fit(Engine(burst=7))[0]
    for p, q in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(p, q)


def test_a_step_that_is_not_finite_is_skipped_by_both_engines():
    x = rows()
    x[5, 2] = torch.inf
    (_, before), (_, after) = fit(Engine(), x=x), fit(Engine(burst=10), x=x)
    assert before.skipped == after.skipped > 0
    assert after.checks[-1].valid_bound == pytest.approx(before.checks[-1].valid_bound, abs=1e-3)


def test_a_loss_that_stays_infinite_is_an_error_with_its_column():
    x = rows()
    x[:, 3] = torch.inf
    with pytest.raises(NumericError, match="column 3") as caught:
        fit(Engine(burst=10), x=x)
    assert caught.value.code == "E401"


def test_a_time_limit_ends_a_compiled_fit():
    _, history = fit(Engine(burst=50), steps=10**6, seconds=4.0)
    assert history.stopped == "time"
    assert history.checks[-1].seconds < 4.5


class Unsteady(Elbo):
    """An objective that does something else in every step."""

    def forward(self, x, step, noise, context=None):
        return super().forward(x * (1 + step % 2), step, noise, context)


class Peeking(Elbo):
    """An objective that looks at values."""

    def forward(self, x, step, noise, context=None):
        return super().forward(x.abs() if x.sum() > 0 else x, step, noise, context)


@pytest.mark.parametrize(
    ("objective", "reason"), [(Unsteady, "step to step"), (Peeking, "depend on values")]
)
def test_what_cannot_be_recorded_says_why(objective, reason):
    with pytest.raises(graphs.Unrecordable, match=reason):
        graphs.record(objective(recipes.gaussian(6)).train(), Batch(rows()[:8]))


def test_recording_leaves_the_objective_as_it_was():
    objective, x, _ = built("sigma")
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    graphs.record(objective.train(), Batch(x[:32]))
    for name, value in objective.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in objective.parameters())


def test_long_fits_of_small_steps_are_compiled_and_others_are_not():
    objective, x, _ = built("table")
    batch, plain = Batch(x[:64]), Engine()
    assert compiling(plain, objective, batch, 100) == plain
    assert compiling(plain, objective, batch, 10**5).burst > 1
    assert compiling(plain, objective, batch, 10**5, seconds=5.0) == plain
    assert not objective.model.training or objective.training
    bfloat16 = replace(plain, precision="bfloat16")
    assert compiling(bfloat16, objective, batch, 10**5) == bfloat16
    pictures = Elbo(recipes.conv((1, 8, 8), latent=2))
    assert compiling(plain, pictures, Batch(torch.zeros(4, 1, 8, 8)), 10**6) == plain


def test_counts_of_many_genes_stay_with_torch():
    """Torch skips their zeros; a graph computes them all."""
    model = recipes.counts(2000, latent=2, hidden=[16], likelihood="nb")
    batch = Batch(torch.ones(64, 2000), torch.full((64, 1), 7.6))
    assert compiling(Engine(), Elbo(model), batch, 10**5) == Engine()


def test_without_jax_a_fit_says_what_would_make_it_faster(monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    objective, x, _ = built("table")
    chosen = compiling(Engine(), objective, Batch(x[:64]), 10**5)
    assert not chosen.burst
    assert "pip install 'lowerbound[fast]'" in str(chosen)


def test_a_compiled_fit_that_is_resumed_without_jax_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(ResourceError, match="jax") as caught:
        fit(Engine(burst=10))
    assert caught.value.code == "E310"


def test_an_operation_that_is_not_in_the_table_leaves_the_fit_to_torch(monkeypatch):
    monkeypatch.delitem(sys.modules["lowerbound.training.engine.jax_operations"].OPERATIONS, "mm")
    model, history = fit(Engine(burst=10), steps=20)
    assert history.checks[-1].step == 20


def test_an_unwritable_cache_changes_nothing(tmp_path):
    script = (
        "import os, sys\n"
        "from lowerbound.training.engine import machine\n"
        "print(machine.cache_folder('xla'))\n"
    )
    place = tmp_path / "file"
    place.write_text("")
    environment = {**os.environ, "XDG_CACHE_HOME": str(place)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "None"


def test_a_program_is_compiled_without_a_cache_folder(monkeypatch):
    monkeypatch.setattr(machine, "cache_folder", lambda name: None)
    assert fit(Engine(burst=10), steps=10)[1].checks


def test_a_fit_of_a_table_is_compiled_from_end_to_end(monkeypatch):
    monkeypatch.setattr(engines, "SAVED", 1.0)  # so that compiling pays for a short fit
    g = np.random.default_rng(0)
    x = g.normal(size=(300, 3))
    x[:, 2] = x[:, 0] + x[:, 1]
    said = []
    model = learn(x, Plan(preset="fast", max_epochs=3), say=said.append)
    assert [line for line in said if "compiled by XLA" in line]
    assert np.isfinite(model.score(x)["anomaly_score"]).all()


def numbers(*shape):
    return torch.randn(*shape, generator=noise.generator("operation", *shape))


X, Y = numbers(4, 5), numbers(4, 5)
INDEX = torch.tensor([[0, 2], [1, 1], [3, 0], [2, 2]])
SORTED = numbers(4, 5).sort(1).values
OPERATIONS = [
    *[(name, (X,)) for name in ("exp", "neg", "sigmoid", "silu", "relu", "tanh", "expm1", "erf")],
    *[(name, (X.abs() + 0.1,)) for name in ("log", "log1p", "lgamma", "digamma", "sqrt", "rsqrt")],
    *[(name, (X, Y)) for name in ("mul", "sub", "div", "maximum", "logaddexp", "ge", "atan2")],
    ("softplus", (40 * X,)),
    ("softplus_backward", (Y, 40 * X, 1, 20)),
    ("elu", (X,)),
    ("elu_backward", (Y, 1.0, 1.0, 1.0, False, X)),
    ("leaky_relu_backward", (Y, X, 0.1, False)),
    ("gelu_backward", (Y, X)),
    ("silu_backward", (Y, X)),
    ("glu_backward", (numbers(4, 3), numbers(4, 6), 1)),
    ("threshold_backward", (Y, X, 0.0)),
    ("log_sigmoid_backward", (Y, X, (-X.abs()).exp())),
    ("_log_softmax", (X, 1, False)),
    ("_softmax_backward_data", (Y, X.softmax(1), 1, torch.float32)),
    ("_log_softmax_backward_data", (Y, X.log_softmax(1), 1, torch.float32)),
    ("native_layer_norm", (X, [5], numbers(5), numbers(5), 1e-5)),
    ("sum", (X, [0], True)),
    ("logsumexp", (X, [1])),
    ("cumsum", (X, 1)),
    ("amax", (X, [1])),
    ("max", (X, 1)),
    ("addmm", (numbers(3), X, numbers(5, 3))),
    ("constant_pad_nd", (X, [1, 2, 0, 1], 7.0)),
    ("split_with_sizes", (X, [2, 3], 1)),
    ("select_backward", (numbers(5), [4, 5], 0, 2)),
    ("slice_backward", (numbers(4, 2), [4, 5], 1, 1, 5, 2)),
    ("index_select", (X, 1, torch.tensor([4, 0]))),
    ("index_add", (X, 0, torch.tensor([1, 1]), numbers(2, 5))),
    ("index", (X, [None, torch.tensor([3, 0])])),
    ("gather", (X, 1, INDEX)),
    ("scatter_add", (X, 1, INDEX, numbers(4, 2))),
    ("embedding_dense_backward", (numbers(4, 2, 3), INDEX, 5, -1, False)),
    ("searchsorted", (SORTED, X)),
    ("bucketize", (X, SORTED[0])),
    ("sort", (X, 1)),
    ("nan_to_num", (torch.tensor([torch.nan, torch.inf, -torch.inf, 1.0]),)),
]


@pytest.mark.parametrize(("name", "arguments"), OPERATIONS, ids=[name for name, _ in OPERATIONS])
def test_an_operation_gives_torchs_numbers(name, arguments):
    wanted = getattr(torch.ops.aten, name)(*arguments)

    def given(value):
        if isinstance(value, torch.Tensor):
            return jax.numpy.asarray(value.numpy())
        if isinstance(value, list):
            return [given(each) for each in value]
        return jax_operations.DTYPES.get(value) if isinstance(value, torch.dtype) else value

    with jax.enable_x64(True):
        found = jax_operations.OPERATIONS[name](*map(given, arguments))
    several = isinstance(wanted, tuple | list)
    pairs = zip(wanted, found, strict=True) if several else [(wanted, found)]
    for one, other in pairs:
        assert one.shape == other.shape
        assert np.allclose(one.numpy(), np.asarray(other), rtol=1e-5, atol=1e-6)
