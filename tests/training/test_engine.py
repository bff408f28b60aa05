"""How the machine is used: kernels, flat parameters, the rules, and what is known of a machine."""

import copy
import json
import math
import os
import signal

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lowerbound import noise, recipes
from lowerbound.coding.rows import Batch, Dense
from lowerbound.nn.distributions import families
from lowerbound.nn.latents.posteriors import Plain
from lowerbound.nn.latents.priors import StandardNormal
from lowerbound.nn.model import LatentModel, Level
from lowerbound.nn.networks.mlp import Concat, Empty, Single
from lowerbound.nn.objectives.elbo import Elbo
from lowerbound.training.engine import engine, kernels, loop, machine
from lowerbound.training.engine.engine import Engine
from lowerbound.training.engine.flat import Adam, Flat, MovingAverage, Weights
from lowerbound.training.engine.interrupts import DelayedSignals
from lowerbound.training.engine.machine import Machine
from lowerbound.training.engine.settings import Budget, Optimiser


def net():
    with noise.isolated("net"):
        return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3, bias=False))


def values(*shape):
    return torch.randn(shape, generator=noise.generator(shape))


# Kernels.

needs_onednn = pytest.mark.skipif(not kernels.available(), reason="torch has no such kernel here")


@needs_onednn
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("shape", [(5, 7), (1, 7), (3, 4, 7)], ids=str)
def test_the_other_linear_layer_is_the_same_layer(shape, biased):
    x, weight = values(*shape), values(11, 7)
    bias = values(11) if biased else None
    found = []
    for layer in (F.linear, kernels.onednn):
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias) if t is not None]
        out = layer(*leaves, *([] if biased else [None]))
        found.append([out, *torch.autograd.grad(out.sin().sum(), leaves)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@needs_onednn
def test_layers_get_their_own_kernel_back():
    module, x = net(), values(4, 6)
    before = module(x)
    with kernels.replaced(module, "onednn"):
        assert "forward" in vars(module[0])
        torch.testing.assert_close(module(x), before)
        with torch.no_grad():  # scores do not depend on how a model was trained
            assert torch.equal(module(x), before)
    assert "forward" not in vars(module[0])
    assert torch.equal(module(x), before)


@needs_onednn
@pytest.mark.parametrize("change", [torch.Tensor.double, torch.Tensor.bfloat16], ids=str)
def test_other_types_take_the_usual_kernel(change):
    x, weight = change(values(4, 6)).requires_grad_(), change(values(3, 6))
    assert torch.equal(kernels.onednn(x, weight, None), F.linear(x, weight))


# Flat parameters.


def test_adam_on_flat_parameters_is_torchs():
    one, other = net(), net()
    theirs = torch.optim.AdamW(one.parameters(), lr=1e-2, weight_decay=0.1)
    flat = Flat(other)
    ours = Adam(flat, 0.1)
    for i in range(20):
        x = values(8, 6) + i
        theirs.zero_grad()
        one(x).square().mean().backward()
        theirs.step()
        flat.clear()
        other(x).square().mean().backward()
        ours.step(1e-2)
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_the_norm_is_that_of_all_gradients_of_any_type():
    module = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2).double()])
    flat = Flat(module)
    assert len(flat.values) == 2
    (module[0](values(4, 3)).sum() + module[1](values(4, 3).double()).sum()).backward()
    each = torch.stack([p.grad.double().norm() for p in module.parameters()])
    assert float(flat.norm()) == pytest.approx(float(each.norm()), rel=1e-6)


def test_frozen_and_shared_parameters():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    module[1].weight = module[0].weight
    module[2].requires_grad_(False)
    before = module[2].weight.clone()
    flat = Flat(module)
    assert sum(v.numel() for v in flat.values) == 16 + 4 + 4
    module(values(5, 4)).square().sum().backward()
    Adam(flat).step(0.1)
    assert module[1].weight is module[0].weight
    assert torch.equal(module[2].weight, before)


def test_convolutions_keep_their_layout_and_everything_its_own_memory_in_the_end():
    module = nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)
    weight = module.weight.detach().clone()
    flat = Flat(module)
    assert module.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(module.weight, weight)
    assert module.weight.data_ptr() == flat.values[0].data_ptr()
    flat.release()
    assert torch.equal(module.weight, weight)
    assert module.weight.data_ptr() != flat.values[0].data_ptr()
    assert module.weight.grad is None


def test_the_average_is_torchs():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    rule = torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    theirs = torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=rule, use_buffers=True)
    flat, ours = Flat(module), MovingAverage(0.9)
    for step in range(100, 107):
        module(values(6, 3)).sum()
        for v in flat.values:
            v.add_(torch.randn(v.shape, generator=noise.generator("move")))
        theirs.update_parameters(module)
        ours.update(flat, step)
    own = flat.weights()
    with flat.showing(ours.weights):
        for (name, one), other in zip(
            theirs.module.named_parameters(), module.parameters(), strict=True
        ):
            torch.testing.assert_close(one, other, msg=name)
        torch.testing.assert_close(theirs.module[1].running_mean, module[1].running_mean)
    assert all(torch.equal(a, b) for a, b in zip(own.values, flat.values, strict=True))


def test_the_average_of_a_short_fit_is_not_of_its_beginning():
    module = nn.Linear(1, 1, bias=False)
    flat, ours = Flat(module), MovingAverage(0.999)
    for step in range(1, 401):
        flat.values[0].fill_(float(step))
        ours.update(flat, step)
    # sum of the shares times the steps ago: 400 / 10, nearly
    assert float(ours.weights.values[0]) == pytest.approx(400 - 40, abs=2)


def test_weights_travel_through_names():
    weights = Flat(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))).weights()
    again = Weights.restored(weights.arrays("kept"), "kept")
    assert torch.equal(again.values[0], weights.values[0])
    assert again.buffers.keys() == weights.buffers.keys()
    assert Weights.restored(weights.arrays("kept"), "average") is None


# Rules.


def convolutional():
    """A small VAE of 1x8x8 images, of the library's parts."""
    encoder = nn.Sequential(nn.Conv2d(1, 4, 4, 2, 1), nn.ReLU(), nn.Flatten())
    decoder = nn.Sequential(nn.Linear(2, 64), nn.Unflatten(1, (4, 4, 4)), nn.ReLU())
    last = nn.ConvTranspose2d(4, 1, 4, 2, 1)
    level = Level("z", StandardNormal(2), Plain(nn.Linear(64, 4)), Concat(decoder))
    likelihood = families.Conditional(last, families.Bits())
    return LatentModel(Single(encoder), [level], likelihood, Empty())


def test_products_are_counted():
    linear = Elbo(recipes.gaussian(10, 3, (20,)))
    macs = 10 * 20 + 20 * 6 + 3 * 20 + 20 * 10
    assert engine.flops(linear, Batch(values(7, 10))) == 2 * 7 * macs
    images = Elbo(convolutional())
    macs = 16 * 4 * 16 + 64 * 4 + 2 * 64 + 4 * 16 * 16
    assert engine.flops(images, Batch(torch.zeros(3, 1, 8, 8))) == 2 * 3 * macs


def test_counting_changes_nothing():
    model = recipes.sigma(4, 2, (8,), "optimal")  # its sigma runs along in training
    objective = Elbo(model).train()
    before = copy.deepcopy(objective.state_dict())
    engine.flops(objective, Batch(values(5, 4)))
    assert objective.training
    assert all(torch.equal(v, before[n]) for n, v in objective.state_dict().items())


FASTER = Machine({str(n): [(128 * 64 * 64, 0.5), (128 * 256 * 256, 1.5)] for n in (1, 2, 4)})


@pytest.mark.parametrize(
    ("known", "width", "kernel"),
    [(FASTER, 32, "torch"), (FASTER, 256, "onednn"), (Machine(), 256, "torch")],
)
def test_the_kernel_follows_what_was_measured(known, width, kernel):
    objective = Elbo(recipes.gaussian(width, 2, (width,)))
    assert engine.choose(objective, Batch(values(128, width)), known).linear == kernel


def test_a_kernel_must_win_from_some_size_on():
    assert FASTER.onednn_from(1) == 128 * 256 * 256
    assert Machine().onednn_from(1) == math.inf
    assert Machine({"1": [(10, 2.0), (20, 1.0)]}).onednn_from(1) == math.inf
    assert Machine({"1": [(10, 2.0), (20, 1.3)]}).onednn_from(1) == 10


def test_small_steps_run_on_one_thread_and_images_in_their_layout():
    small = Elbo(recipes.gaussian(10, 2, (8,)))
    chosen = engine.choose(small, Batch(values(16, 10)), Machine())
    assert (chosen.threads, chosen.channels_last) == (1, False)
    images = Elbo(convolutional())
    for ratio, wanted in ((0.0, False), (1.0, False), (1.5, True)):
        known = Machine(channels_last=ratio)
        chosen = engine.choose(images, Batch(torch.zeros(2, 1, 8, 8)), known)
        assert chosen.channels_last is wanted
    depthwise = Elbo(recipes.nvae([1, 8, 8], [1], 4, 2))
    assert engine.choose(depthwise, Batch(torch.zeros(2, 1, 8, 8)), Machine()).channels_last
    before = torch.get_num_threads()
    with Engine(threads=1).running(small):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("chosen", [Engine(), Engine(channels_last=True)])
def test_images_train_in_either_layout(chosen):
    x = (values(60, 1, 8, 8) > 0.5).float()
    with noise.isolated("images"):
        model = convolutional()
    history = loop.fit(
        Elbo(model),
        Dense(x[:50]),
        Dense(x[50:]),
        budget=Budget(epochs=60, patience=99),
        optimiser=Optimiser(batch_size=25, learning_rate=1e-2),
        engine=chosen,
    )
    first, last = history.checks[0], history.checks[-1]
    assert last.train_elbo > first.train_elbo > -64 * math.log(2)
    # Scores are those of the saved model, whose weights lie in the usual order.
    assert all(p.is_contiguous() for p in model.parameters())


# The machine.


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    machine._this.cache_clear()
    yield tmp_path
    machine._this.cache_clear()


def test_a_machine_is_measured_once(cache, monkeypatch):
    monkeypatch.setattr(machine, "measure", lambda: FASTER)
    assert machine.this() == FASTER
    (file,) = (cache / "lowerbound").iterdir()
    assert json.loads(file.read_text())["format"] == machine.FORMAT
    machine._this.cache_clear()
    monkeypatch.setattr(machine, "measure", lambda: pytest.fail("it was measured already"))
    assert machine.this() == FASTER


NOTE = '{"format": 3, "linear": {"1": [[9, %s]]}, "channels_last": 1}'
NOTES = ["", "{", "[]", '{"format": 0}', '{"format": 3}', "[" * 60_000, "\xff"]
NOTES += [NOTE % value for value in ("NaN", "1e999", "-1", '"x"', "null", "[1]")]
NOTES += [NOTE % ("1" + "0" * 5000), NOTE % 1 + " " * machine.MOST_BYTES]


@pytest.mark.parametrize("content", NOTES, ids=lambda note: note[-30:])
def test_a_damaged_note_is_measured_again(cache, monkeypatch, content):
    place = machine._place()
    place.parent.mkdir()
    place.write_text(content)
    monkeypatch.setattr(machine, "measure", lambda: FASTER)
    assert machine.this() == FASTER


def to_another_file(place):
    (place.parent / "another").write_text("untouched")
    place.symlink_to(place.parent / "another")


STRANGE = {
    "a pipe": os.mkfifo,
    "a folder": lambda place: (place / "x").mkdir(parents=True),
    "a link": to_another_file,
    "a link to a device": lambda place: place.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_file_is_not_read(cache, monkeypatch, kind):
    place = machine._place()
    place.parent.mkdir()
    STRANGE[kind](place)
    monkeypatch.setattr(machine, "measure", lambda: FASTER)
    assert machine.this() == (Machine() if kind == "a folder" else FASTER)
    names = {path.name for path in place.parent.iterdir()}
    assert names <= {place.name, "another"}
    if kind == "a link":
        assert (place.parent / "another").read_text() == "untouched"


def test_without_a_place_for_notes_nothing_is_measured(cache, monkeypatch):
    (cache / "lowerbound").write_text("a file where the folder would be")
    monkeypatch.setattr(machine, "measure", lambda: pytest.fail("nothing may be measured"))
    assert machine.this() == Machine()


def test_measuring_takes_a_moment():
    found = machine.measure()
    assert 0.05 < found.channels_last < 20
    if kernels.available():
        assert "1" in found.linear
        assert all(ratio > 0 for pairs in found.linear.values() for _, ratio in pairs)


# Signals.


@pytest.fixture
def told():
    """Handlers that note the signals they get."""
    seen = []
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda n, frame: seen.append(n))
    yield seen
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_waits_and_a_second_one_does_not(told):
    with DelayedSignals() as held:
        signal.raise_signal(signal.SIGTERM)
        assert held.waiting
        assert told == []
        signal.raise_signal(signal.SIGINT)
        assert told == [signal.SIGINT]
        held.deliver()
        assert told == [signal.SIGINT, signal.SIGTERM]
        assert not held.waiting
    signal.raise_signal(signal.SIGINT)
    assert told[-1] == signal.SIGINT
    assert len(told) == 3


def test_a_signal_that_is_still_waiting_is_delivered_at_the_end(told):
    with DelayedSignals():
        signal.raise_signal(signal.SIGINT)
    assert told == [signal.SIGINT]
