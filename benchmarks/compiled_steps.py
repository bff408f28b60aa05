"""How much faster is a training step compiled than by torch, and is it the same step?

The same objective, rows, noise and optimiser, by turns in one process: torch's steps, the compiled
program's, and for two nets a step written by hand in JAX. Milliseconds per step, medians of
rounds, and the seconds to record and compile. Checks on held-out rows are left out.

Run: LOWERBOUND_DATA=... python benchmarks/compiled_steps.py [--only tiny_32 ...] [--rounds 5]
Nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

sys.path.insert(0, str(Path(__file__).parent / "peers"))

import common
import run_jax
import run_ours

import results_file
from lowerbound import Plan, noise
from lowerbound.coding.rows import Dense, Rows
from lowerbound.nn.objectives.elbo import Elbo
from lowerbound.training import fit
from lowerbound.training.engine import loop
from lowerbound.training.engine.engine import compiling
from lowerbound.training.engine.processes import ALONE
from lowerbound.training.engine.settings import Budget, Optimiser

SECONDS = 1.5  # of a round
BURST = 50
Part = tuple[torch.nn.Module, Rows, Optimiser]


class Taken(Exception):
    """The objective of the wanted stage was taken; nothing more needs to run."""


def of_fit(table: pa.Table, plan: Plan, stage: int = 0) -> Part:
    """Return the objective, the rows and the optimiser of a stage of a fit of a table."""
    found: list[Part] = []
    real = loop.fit

    def taken(objective: torch.nn.Module, train: Rows, valid: Rows, **options: object) -> object:
        optimiser = options["optimiser"]
        assert isinstance(optimiser, Optimiser)
        found.append((objective, train, optimiser))
        if len(found) > stage:
            raise Taken
        few = {**options, "budget": Budget(epochs=1, most=10)}
        return real(objective, train, valid, **few)  # pyright: ignore[reportArgumentType]

    with mock.patch.object(loop, "fit", taken):
        try:
            fit.learn(table, plan)
        except Taken:
            return found[stage]
    raise AssertionError("the fit has no such stage")


def of_peers(data: str, batch: int) -> Callable[[], Part]:
    """Return the maker of a workload of `throughput.py`."""

    def make() -> Part:
        rows = 6144 if data == "counts" else 19_968
        x = torch.from_numpy(common.dataset(common.Work(data, rows, batch, 1)))[:rows]
        counts = data == "counts"
        with noise.isolated(0, "weights"):
            model = run_ours.count_model() if counts else run_ours.dense_model(data)
        given = Dense(x, run_ours.log_library(x) if counts else None)
        return Elbo(model), given, Optimiser(batch_size=batch)

    return make


def adult() -> pa.Table:
    folder = Path(os.environ["LOWERBOUND_DATA"]) / "finance_tabular"
    return pq.read_table(folder / "adult_train.parquet")


def card(rows: int = 40_000) -> pa.Table:
    """Return the first rows of the card transactions."""
    z = np.load(Path(os.environ["LOWERBOUND_DATA"]) / "creditcard_fraud" / "creditcard.npz")
    values = {f"V{i + 1}": z["V"][:, i] for i in range(28)}
    return pa.table({"Time": z["Time"], **values, "Amount": z["Amount"]}).slice(0, rows)


IWAE = {"iwae": 8}
WORKLOADS: dict[str, Callable[[], Part]] = {
    "tiny_32": of_peers("table", 32),
    "tiny_256": of_peers("table", 256),
    "card fraud, ELBO": lambda: of_fit(card(), Plan()),
    "card fraud, IWAE-8": lambda: of_fit(card(), Plan(settings=IWAE)),
    "adult, ELBO": lambda: of_fit(adult(), Plan()),
    "adult, chain": lambda: of_fit(adult(), Plan(), 1),
    "mlp_64": of_peers("bits", 64),
    "mlp_128": of_peers("bits", 128),
    "mlp_512": of_peers("bits", 512),
    "counts": of_peers("counts", 128),
}
BY_HAND = {"tiny_32": ("table", 32), "tiny_256": ("table", 256)} | {
    f"mlp_{batch}": ("bits", batch) for batch in (64, 128, 512)
}


class Side:
    """A trainer of one workload that takes steps with one engine."""

    def __init__(self, part: Part, burst: int) -> None:
        objective, rows, optimiser = part
        objective.train()
        engine = loop.chosen(objective, rows, optimiser.batch_size)
        self.predicted = compiling(
            engine, objective, rows.take(torch.arange(optimiser.batch_size)), 10**7
        )
        engine = replace(engine, burst=burst) if burst else engine
        engine.prepare(objective)
        budget = Budget(epochs=10**6, patience=10**6)
        self.trainer = loop._Trainer(
            objective, (rows, rows), (budget, optimiser), 0, (engine, ALONE)
        )
        self.trainer.every = 10**9
        self.engine, self.objective = engine, objective
        began = time.perf_counter()
        self.stretches = self.trainer._stretches()
        self.take(1)
        self.began = time.perf_counter() - began

    def take(self, steps: int) -> int:
        """Take some steps; return how many they were."""
        before = self.trainer.step
        with self.engine.running(self.objective):
            while self.trainer.step < before + steps:
                self.trainer._advance(*next(self.stretches), None)
        return self.trainer.step - before

    @property
    def loss(self) -> float:
        return self.trainer.meter.read()[0]


class ByHand:
    """The step written in JAX."""

    def __init__(self, data: str, batch: int) -> None:
        rows = 19_968
        x = common.dataset(common.Work(data, rows, batch, 1))[:rows]
        self.x, self.state = jnp.asarray(x), run_jax.start(0, data)
        self.steps = rows // batch
        keys = {"batch": batch, "bernoulli": data == "bits"}
        lowered = run_jax.epoch.lower(self.state, self.x, jax.random.key(0), **keys)
        self.run, self.epoch = lowered.compile(), 0

    def take(self, steps: int) -> int:
        """Take some epochs; return how many steps they had."""
        epochs = max(1, round(steps / self.steps))
        for _ in range(epochs):
            self.epoch += 1
            self.state, _ = self.run(self.state, self.x, jax.random.key(self.epoch))
        jax.block_until_ready(self.state)
        return epochs * self.steps


def measured(name: str, rounds: int) -> dict[str, object]:
    """Return the milliseconds of a step of each side of a workload."""
    make = WORKLOADS[name]
    sides: dict[str, Side | ByHand] = {"torch": Side(make(), 0), "compiled": Side(make(), BURST)}
    if name in BY_HAND:
        sides["by hand"] = ByHand(*BY_HAND[name])
    counts, spent = {}, {side: [] for side in sides}
    for side, each in sides.items():
        began = time.perf_counter()
        taken = each.take(2 * BURST)
        counts[side] = max(BURST, int(SECONDS / (time.perf_counter() - began) * taken))
    for _ in range(rounds):
        for side, each in sides.items():
            began = time.perf_counter()
            taken = each.take(counts[side])
            spent[side].append((time.perf_counter() - began) / taken * 1e3)
    medians = {side: statistics.median(each) for side, each in spent.items()}
    torchs, compiled = sides["torch"], sides["compiled"]
    assert isinstance(torchs, Side)
    assert isinstance(compiled, Side)
    program = compiled.trainer.program
    found = {
        "workload": name,
        "ms": {side: round(each, 4) for side, each in medians.items()},
        "range": {side: [round(min(e), 4), round(max(e), 4)] for side, e in spent.items()},
        "ratio": round(medians["torch"] / medians["compiled"], 2),
        "compile_seconds": round(compiled.began, 1),
        "operations": None if program is None else len(program.graph.operations),
        "engine": str(torchs.engine),
        "chosen": str(torchs.predicted),
    }
    if "by hand" in medians:
        found["by hand / compiled"] = round(medians["by hand"] / medians["compiled"], 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    runs = []
    for name in options.only:
        with (
            tempfile.TemporaryDirectory() as empty,
            mock.patch.dict(os.environ, {"XDG_CACHE_HOME": empty}),
        ):  # what was compiled before is not found
            runs.append(measured(name, options.rounds))
        print(runs[-1], flush=True)
    if options.only == list(WORKLOADS):
        print(results_file.write("compiled_steps", jax=jax.__version__, runs=runs))


if __name__ == "__main__":
    main()
