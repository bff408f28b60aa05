"""What processes that train together do, each told to a file; run as a program by the tests.

python tests/ranks.py PROCESSES FOLDER
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist

from lowerbound import noise, recipes
from lowerbound.coding import large
from lowerbound.coding.rows import Dense
from lowerbound.errors import UsageError
from lowerbound.files import data
from lowerbound.nn.objectives.elbo import Elbo, Iwae
from lowerbound.training.engine import loop
from lowerbound.training.engine.engine import Engine
from lowerbound.training.engine.processes import ALONE, Ranks
from lowerbound.training.engine.settings import Budget, Optimiser
from lowerbound.training.fit import _refuse_other_data, learn
from lowerbound.training.plan import Plan
from recipe_parts import RECIPES, WHOLE_BATCH, recipe

ROWS, BATCH = 8, 64
SPLIT = [name for name in RECIPES if name not in WHOLE_BATCH]  # whose loss is a mean over rows


def gradient(name, team, wrap):
    """The gradient of one batch, of which each process takes its share."""
    sample, objective = RECIPES[name], Elbo(recipe(name))
    wrapped = wrap(objective)
    batch = Dense(*sample.data(ROWS)).take(team.share(torch.arange(ROWS)))
    stream = noise.Stream(noise.generator("ranks", name))
    with noise.isolated("layers", name):
        loss = wrapped(batch.x, 0, team.noise(stream), batch.context)
    loss.value.backward()
    value = team.mean(loss.value.detach())[0]
    found = {n: p.grad for n, p in objective.named_parameters() if p.grad is not None}
    return {"loss": value, **found}


def gradients(team, folder):
    """Of every recipe."""
    found = {name: gradient(name, team, team.wrapped) for name in SPLIT}
    torch.save(found, folder / f"gradients-{team.size}-{team.rank}.pt")


def refused(team, columns):
    """Whether a process that has read other columns than the first one is refused."""
    try:
        _refuse_other_data(team, {"rows": 3, "columns": columns})
    except UsageError as error:
        return error.code == "E252"
    return False


def sharded(team, folder):
    """Of parameters that are spread over the processes; and what is done about other data."""
    assert refused(team, ["a" if team.rank else "b"]) == (team.rank > 0)
    assert not refused(team, ["a"])
    from torch.distributed.fsdp import fully_shard  # noqa: PLC0415 - 2 s that tests never need

    found = gradient("ladder without batch norm", team, fully_shard if team.size > 1 else id_)
    whole = {n: g.full_tensor() if hasattr(g, "full_tensor") else g for n, g in found.items()}
    torch.save(whole, folder / f"sharded-{team.size}-{team.rank}.pt")


def id_(objective):
    return objective


class Noted(Dense):
    """Rows that note which of them were taken in training."""

    taken: list[list[int]] = []  # noqa: RUF012 - of this process

    def take(self, index):
        if len(index) > 1:
            self.taken.append(index.tolist())
        return super().take(index)


def fit(team, folder, **further):
    """Train a small net; tell the rows of every step, what was checked and the weights."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(400, 2, generator=g) @ torch.randn(2, 6, generator=g)
    with noise.isolated(3):
        model = recipes.sigma(6, 3, (16,), "shared")
    Noted.taken.clear()
    history = loop.fit(
        Iwae(model, 3),
        Noted(x[:320]),
        Dense(x[320:]),
        budget=Budget(epochs=40, patience=50),
        optimiser=Optimiser(batch_size=BATCH, learning_rate=3e-3, ema=0.9),
        team=team,
        engine=Engine(),
        **further,
    )
    checks = [check[:7] for check in history.checks]
    told = {"taken": Noted.taken, "checks": checks, "stopped": history.stopped}
    (folder / f"fit-{team.size}-{team.rank}.json").write_text(json.dumps(told))
    torch.save(model.state_dict(), folder / f"fit-{team.size}-{team.rank}.pt")


def made(team, refusing):
    """What one process of this machine makes or refuses, in each of them; and who made it."""
    calls = []

    def make():
        calls.append(team.rank)
        if refusing:
            raise UsageError("E240", "not this")
        return {"by": team.rank}

    try:
        return team.per_machine(make), len(calls)
    except UsageError as error:
        return error.message, len(calls)


def stream(team, folder):
    """Fit a table that is not held; tell how often it was coded here, and the weights."""
    data.PART, large.HELD_VALUES = 256, 1000
    table, coded = folder / "table.parquet", []
    if team.size == 1:
        g = torch.Generator().manual_seed(2)
        x = torch.randn(2000, 2, generator=g) @ torch.randn(2, 5, generator=g)
        pq.write_table(pa.table({f"v{j}": x[:, j].numpy() for j in range(5)}), table)
    store = large.stored
    large.stored = lambda *given: coded.append(team.rank) or store(*given)
    trained = learn(table, Plan(preset="fast", max_epochs=2, seed=4), team=team)
    told = {"coded": coded, "made": made(team, False), "refused": made(team, True)}
    (folder / f"stream-{team.size}-{team.rank}.json").write_text(json.dumps(told))
    torch.save(trained.model.state_dict(), folder / f"stream-{team.size}-{team.rank}.pt")


JOBS = (gradients, sharded, fit, stream)  # the last one changes what is held of a table


def main(size, folder):
    torch.set_num_threads(1)
    if size == 1:
        for job in JOBS:
            job(ALONE, folder)
        return
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                store = f"file://{folder}/store"
                dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
                for job in JOBS:
                    job(Ranks(), folder)
                dist.destroy_process_group()
                code = 0
            except Exception:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
