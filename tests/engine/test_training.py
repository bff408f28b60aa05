"""The fit loop: what it keeps, when it stops, what it refuses, and what it leaves alone."""

import random
import signal
import threading

import numpy as np
import pytest
import torch

from lowerbound import noise, recipes
from lowerbound.coding.rows import Dense, subset
from lowerbound.errors import NumericError, UsageError
from lowerbound.nn.objectives.elbo import Elbo
from lowerbound.tasks import metrics
from lowerbound.training.engine import loop
from lowerbound.training.engine.history import Check
from lowerbound.training.engine.settings import Budget, Optimiser


def blob(n=600, d=5, seed=0):
    """Rows near a two-dimensional plane."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 2, generator=g)
    w = torch.randn(2, d, generator=torch.Generator().manual_seed(99))
    return z @ w + 0.3 * torch.randn(n, d, generator=g)


def model(seed=0, d=5, latent=2):
    with noise.isolated(seed):
        return recipes.sigma(d, latent, (16,), "shared")


def fit(m, *, seed=0, report=None, x=None, **budget):
    x = blob() if x is None else x
    return loop.fit(
        Elbo(m),
        Dense(x[:500]),
        Dense(x[500:]),
        budget=Budget(**{"epochs": 10, **budget}),
        optimiser=Optimiser(batch_size=50, learning_rate=5e-3),
        seed=seed,
        report=report,
    )


def test_training_raises_the_held_out():
    m = model()
    before = metrics.elbo(m, Dense(blob()[500:])).elbo.mean()
    history = fit(m, epochs=30)
    after = metrics.elbo(m, Dense(blob()[500:])).elbo.mean()
    assert after > before + 1.0
    kept = loop.held_out(m, Dense(blob()[500:]))
    assert history.checks[history.best].valid_bound == pytest.approx(kept, abs=1e-6)


def test_the_best_weights_are_kept_not_the_last():
    m = model()
    history = fit(m, epochs=60, patience=1000)
    kept = loop.held_out(m, Dense(blob()[500:]))
    assert kept == pytest.approx(max(c.valid_bound for c in history.checks), abs=1e-6)


def declining(settled):
    """A fit whose bound falls on its second half: the rate's weight leaps from 1 to 50."""
    m, x = model(), blob()
    history = loop.fit(
        Elbo(m, beta=lambda step: 1.0 if step < 350 else 50.0),
        Dense(x[:500]),
        Dense(x[500:]),
        budget=Budget(epochs=80, patience=1000, settled=settled),
        optimiser=Optimiser(batch_size=50, learning_rate=5e-3),
    )
    return history, loop.held_out(m, Dense(x[500:]))


def test_the_best_is_kept_of_the_checks_from_when_the_objective_has_settled():
    free, _ = declining(0)
    assert free.checks[free.best].step < 400  # or the bound did not fall
    bounds = {check.step: check.valid_bound for check in free.checks}
    late = {step: bound for step, bound in bounds.items() if step >= 500}
    history, kept = declining(500)
    assert {check.step: check.valid_bound for check in history.checks} == bounds
    assert history.checks[history.best].step == max(late, key=late.__getitem__)
    assert kept == pytest.approx(max(late.values()), abs=1e-6)
    assert max(late.values()) < max(bounds.values()) - 0.5


def test_where_a_fit_ends_before_that_its_last_weights_are_kept():
    history, kept = declining(10**6)
    assert history.best == len(history.checks) - 1
    assert kept == pytest.approx(history.checks[-1].valid_bound, abs=1e-6)


def test_patience_counts_from_when_the_objective_has_settled():
    x, stops = Dense(blob(200)), []
    for begin in (0, 900):
        budget = Budget(epochs=10**6, steps=0, most=3000, patience=2, settled=begin)
        still = Optimiser(batch_size=50, learning_rate=1e-12)  # nothing is ever gained
        history = loop.fit(Elbo(model()), x, x, budget=budget, optimiser=still)
        assert history.stopped == "patience"
        stops.append(history.checks[-1].step)
    assert stops == [300, 1100]


def test_same_seed_same_bytes_other_seed_other_weights():
    runs = []
    for seed in (0, 0, 1):
        m = model()
        fit(m, seed=seed, epochs=3)
        runs.append(torch.cat([p.flatten() for p in m.state_dict().values()]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_global_random_state_is_left_alone():
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    fit(model(), epochs=2)
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()
    assert states[2] == random.getstate()


def test_patience_stops_a_fit_that_gains_nothing():
    x = torch.zeros(600, 5)
    history = fit(
        model(),
        x=x + torch.randn(600, 5, generator=noise.generator("flat")),
        epochs=10_000,
        patience=3,
    )
    assert history.stopped == "patience"


def test_time_limit_stops():
    history = fit(model(), epochs=10**6, patience=10**6, seconds=0.5)
    assert history.stopped == "time"
    assert history.checks[-1].seconds < 5.0


def test_interrupt_keeps_the_best_so_far():
    m = model()
    started = threading.Event()

    def interrupt():
        started.wait(20)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    # A process that was started in the background ignores SIGINT until it says otherwise.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        budget = {"epochs": 10**6, "patience": 10**6, "seconds": 60}
        history = fit(m, **budget, report=lambda c, b: started.set())
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert history.stopped == "interrupt"
    kept = loop.held_out(m, Dense(blob()[500:]))
    assert kept == pytest.approx(max(c.valid_bound for c in history.checks), abs=1e-6)
    assert not m.training


def test_steps_with_numbers_that_are_not_finite_are_skipped_and_counted():
    x = blob()
    x[3, 2] = torch.inf
    m = model()
    history = fit(m, x=x, epochs=3)
    assert history.skipped == 3  # once in each pass
    assert all(torch.isfinite(p).all() for p in m.parameters())


def test_a_skipped_step_leaves_running_statistics_as_they_were():
    with noise.isolated(0):
        m = recipes.find("ladder").make({"features": 5, "latents": [2, 2], "hidden": [8, 8]})
    x = blob()
    x[7] = torch.inf
    history = fit(m, x=x, epochs=3)
    assert history.skipped == 3
    running = [b for name, b in m.named_buffers() if "running" in name]
    assert running
    assert all(torch.isfinite(b).all() for b in running)
    assert all(b.abs().sum() > 0 for b in running)


def test_a_loss_that_stays_infinite_names_the_column():
    x = blob()
    x[:, 4] = torch.inf
    with pytest.raises(NumericError, match="column 4") as caught:
        fit(model(), x=x)
    assert caught.value.code == "E401"
    assert caught.value.exit_code == 6


def test_one_wild_held_out_row_does_not_decide():
    m, x = model(), blob()
    calm = loop.held_out(m, Dense(x[:100]))
    x[7] = 1e4
    assert metrics.elbo(m, Dense(x[:100])).elbo.mean() < -1e5
    assert calm - 1.5 < loop.held_out(m, Dense(x[:100])) < calm + 1.5


def test_the_learning_rate_falls_over_what_ends_first_steps_or_seconds():
    calm = Optimiser(learning_rate=0.1, warmup=1, anneal=0.01)
    rates = [calm.rate(1, 0.1, share) for share in (0.0, 0.5, 1.0, 2.0)]
    assert rates == pytest.approx([0.1, 0.0505, 0.001, 0.001])
    look = Check(100, 1.0, 0.0, 0.0, 0.0, 0, 0, 0.0, seconds=30.0)
    assert Budget(seconds=60.0).spent(50, 1000, None) == 0.05  # nobody has looked at a clock
    assert Budget(seconds=60.0).spent(150, 1000, look) == pytest.approx(0.75)
    assert Budget(seconds=60.0).spent(900, 1000, look) > 1
    assert Budget(seconds=600.0).spent(900, 1000, look) == 0.9
    assert Budget().spent(900, 1000, look) == 0.9


def test_annealing_makes_the_last_steps_small():
    shares = []
    for anneal in (1.0, 1e-9):
        m, x, seen = model(), blob(), []

        def keep(*_: object, m=m, seen=seen) -> None:
            seen.append(torch.nn.utils.parameters_to_vector(m.parameters()).detach().clone())

        loop.fit(
            Elbo(m),
            Dense(x[:500]),
            Dense(x[500:]),
            budget=Budget(epochs=60, patience=99),
            optimiser=Optimiser(batch_size=50, learning_rate=5e-3, anneal=anneal),
            report=keep,
        )
        shares.append(float((seen[-1] - seen[-2]).norm() / (seen[1] - seen[0]).norm()))
    assert shares[1] < 0.3 * shares[0]


def test_moving_average_is_what_is_kept():
    m, x = model(), blob()
    before = loop.held_out(m, Dense(x[500:]))
    loop.fit(
        Elbo(m),
        Dense(x[:500]),
        Dense(x[500:]),
        budget=Budget(epochs=20),
        optimiser=Optimiser(batch_size=50, learning_rate=5e-3, ema=0.9),
    )
    assert loop.held_out(m, Dense(x[500:])) > before + 1.0


def test_rows_fewer_than_a_batch():
    x = blob(12)
    m = model()
    history = loop.fit(Elbo(m), Dense(x[:7]), Dense(x[7:]), budget=Budget(epochs=30))
    assert history.checks


@pytest.mark.parametrize(
    "bad", [{"batch_size": 0}, {"learning_rate": 0.0}, {"learning_rate": -1}, {"ema": 1.0}]
)
def test_settings_that_cannot_train_are_refused(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        Optimiser(**bad)


def test_every_row_is_seen_once_in_each_epoch():
    seen = []

    class Watched:
        def __len__(self):
            return 100

        def take(self, index):
            seen.extend(index.tolist())
            return Dense(blob(100)).take(index)

    loop.fit(
        Elbo(model()),
        Watched(),
        Dense(blob(20)),
        budget=Budget(epochs=5),
        optimiser=Optimiser(batch_size=20),
    )
    epochs = [seen[i : i + 100] for i in range(0, 500, 100)]
    assert all(sorted(e) == list(range(100)) for e in epochs)
    assert epochs[0] != epochs[1]


def test_subset_takes_rows_of_rows():
    rows = Dense(torch.arange(10.0)[:, None])
    some = subset(rows, torch.tensor([7, 3, 5]))
    assert some.take(torch.tensor([2, 0])).x.flatten().tolist() == [5.0, 7.0]
