"""The training loop: batches, steps, held-out checks, early stopping, guards and checkpoints.

All random numbers come from generators keyed by (seed, purpose, step): a fit that was killed
continues from its last checkpoint to the same bytes, and fits in several threads do not disturb
each other. No global random state is read or written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice

import torch
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.coding.augmentations import View
from lowerbound.coding.rows import Batch, Rows, batched, subset, visits
from lowerbound.errors import NumericError, UsageError
from lowerbound.nn.networks.mlp import lent
from lowerbound.tasks import latent_use, metrics
from lowerbound.training.engine import machine
from lowerbound.training.engine.checkpoints import Checkpoints, State
from lowerbound.training.engine.engine import SMALL_STEP, Engine, choose, flops
from lowerbound.training.engine.flat import Adam, Average, Buffers, Flat, Weights
from lowerbound.training.engine.history import Check, History, Meter
from lowerbound.training.engine.interrupts import Held
from lowerbound.training.engine.processes import ALONE, Team
from lowerbound.training.engine.settings import Budget, Optimiser

Report = Callable[[Check, Budget], None]

SKIPPED_LIMIT = 20  # steps in a row that may be skipped for a loss that is not finite
CHECK_SAMPLES = 32  # importance samples of a check, fewer where they would cost too much
FEW_SAMPLES = 4  # a check has at least as many, within CHECK_CELLS
CHECK_CELLS = 1 << 22  # cells that a check evaluates at most
CHECK_SHARE = 1 / 16  # draws of a check per row trained on since the last one, in large networks
WILD = 10.0  # nats per column below the median from where on a held-out row is wild
CHECK_ROWS = 1000  # held-out rows that a check looks at
MIN_GAIN = 1e-3  # nats per column: a smaller gain of the held-out bound is no gain


def fit(  # noqa: PLR0913 - each is a thing of its own, and all but the data have a default
    objective: nn.Module,
    train: Rows,
    valid: Rows,
    *,
    budget: Budget | None = None,
    optimiser: Optimiser | None = None,
    seed: int = 0,
    engine: Engine | None = None,
    checkpoints: Checkpoints | None = None,
    report: Report | None = None,
    view: View | None = None,
    team: Team = ALONE,
) -> History:
    """Train `objective` on `train`, keep the weights with the best bound on `valid`.

    Args:
        objective: a `lowerbound.nn.objectives.elbo` objective; its model is trained in place.
        train: rows to learn from.
        valid: held-out rows; the bound on them (see `held_out`) decides when to stop and what is
            kept.
        budget: when to stop.
        optimiser: how to step.
        seed: of order and noise; together with the model's initial weights it fixes the result.
        engine: how the machine is used; by default it is chosen by rules (see `choose`).
        checkpoints: where states are kept: a fit that was killed goes on from the last one.
        report: called after every check.
        view: what training sees of a batch, drawn anew at every step: see `data.views`.
        team: the processes that train together, all of which call this with the same arguments;
            a batch is that of all of them. Only the first one's `checkpoints` are used.

    Returns:
        What happened. Ctrl-C ends the fit in good order, with the best weights so far, once
        the held-out rows have been looked at; before that it is an ordinary KeyboardInterrupt.

    Raises:
        NumericError: E401 when the loss or its gradient stays non-finite.
        ResourceError: E301, E302 when a state cannot be kept.
        UsageError: E237 for more processes than rows in a batch.
    """
    checkpoints = checkpoints if team.rank == 0 else None
    settings = budget or Budget(), optimiser or Optimiser()
    saved = team.first(lambda: None if checkpoints is None else checkpoints.latest())
    if saved is not None:  # as it began, so that it ends in the same bytes
        engine = Engine(**saved.values["engine"])
    elif engine is None:
        rows = min(settings[1].batch_size, len(train))
        engine = team.first(lambda: chosen(objective, valid, rows))
    engine.prepare(objective)
    trainer = _Trainer(objective, (train, valid), settings, seed, (engine, team))
    trainer.view = view
    if saved is not None:
        trainer.restore(saved)
    elif checkpoints is not None:
        checkpoints.reserve(trainer.bytes())
    ended = bool(trainer.history.stopped)
    try:
        if not ended:
            with engine.running(objective):
                trainer.train(checkpoints, report)
    except KeyboardInterrupt:
        if not trainer.history.checks:  # nothing is known of these weights yet
            raise
        trainer.history.stopped = "interrupt"
    else:
        if checkpoints is not None and not ended:
            checkpoints.commit(*trainer.state())
    trainer.finish()
    return trainer.history


def chosen(
    objective: nn.Module, rows: Rows, batch_size: int, precision: str = "float32"
) -> Engine:
    """Return how to use this machine for batches of so many rows like these."""
    device = next(objective.parameters()).device
    batch = rows.take(torch.zeros(batch_size, dtype=torch.long))
    return choose(objective, batch.to(device), machine.this(), precision)


class _Trainer:
    """The state of one fit."""

    def __init__(
        self,
        objective: nn.Module,
        data: tuple[Rows, Rows],
        settings: tuple[Budget, Optimiser],
        seed: int,
        means: tuple[Engine, Team],
    ) -> None:
        train, valid = data
        self.objective, self.rows = objective, train
        self.engine, self.team = means
        self.budget, self.settings = settings
        self.seed = seed
        self.valid = subset(valid, torch.arange(min(len(valid), CHECK_ROWS)))
        self.batch_size = _whole_batch(min(self.settings.batch_size, len(train)), self.team.size)
        self.per_epoch = max(1, len(train) // self.batch_size)
        self.steps = self.budget.total(self.per_epoch)
        self.every = min(max(self.per_epoch, 100), 1000)
        first = valid.take(torch.zeros(1, dtype=torch.long))
        self.columns = math.prod(first.x.shape)
        self.flat = Flat(objective)
        self.wrapped = self.team.wrapped(objective)
        self.buffers = Buffers(objective)
        given = self.settings
        self.adam = Adam(self.flat, given.weight_decay, given.betas, given.epsilon)
        self.average = Average(self.settings.ema) if self.settings.ema else None
        self.device = next(objective.parameters()).device
        large = self.batch_size * flops(objective, first.to(self.device)) >= SMALL_STEP
        self.samples = self._samples(large)
        self.history, self.meter = History(), Meter()
        self.kept: Weights | None = None
        self.view: View | None = None
        self.rate = self.settings.learning_rate
        self.step = self.waited = self.in_a_row = 0
        self.layers = torch.Generator(self.device)  # for layers that draw, seeded at every step
        self.supplied = draws_globally(objective)

    def _samples(self, large: bool) -> int:
        """Return the importance samples of a check, so that it stays cheap beside training.

        Where arithmetic is what a step costs, 32 samples of every held-out row took an eighth of
        a convolutional net's time.
        """
        most = min(CHECK_SAMPLES, CHECK_CELLS // (len(self.valid) * self.columns))
        if large:
            draws = CHECK_SHARE * self.every * self.batch_size
            most = min(most, max(FEW_SAMPLES, int(draws / len(self.valid))))
        return max(1, most)

    def train(self, checkpoints: Checkpoints | None, report: Report | None) -> None:
        """Step until the budget is spent or the held-out bound stops rising."""
        self.objective.train()
        with lent(self.objective, self.layers), Held() as signals:
            for index in self._order():
                if self.history.stopped:
                    return
                self._advance(self.team.share(index), report)
                interrupted = self.team.any(signals.waiting)
                if checkpoints is not None and (interrupted or checkpoints.due()):
                    checkpoints.commit(*self.state())
                signals.deliver()
                if interrupted and self.team.size > 1:  # which another process was
                    raise KeyboardInterrupt

    def _advance(self, index: Tensor, report: Report | None) -> None:
        """Take one step, and look at the held-out rows where it is time."""
        self.step += 1
        batch = self.rows.take(index)
        if self.view is not None:
            key = (self.seed, "view", self.step, *self.team.key)
            batch = self.view(batch, noise.generator(*key))
        self._step(batch)
        last = self.step == self.steps or self._out_of_time()
        if self.step % self.every and not last:
            return
        check = self._check()
        if report is not None:
            report(check, self.budget)
        if self.waited >= self.budget.patience:
            self.history.stopped = "patience"
        elif last:
            self.history.stopped = "epochs" if self.step == self.steps else "time"

    def _order(self) -> Iterator[Tensor]:
        """Yield the rows of each step from the present one on: each pass a new permutation."""
        epoch, first = divmod(self.step, self.per_epoch)
        while True:
            pieces = visits(self.rows, noise.generator(self.seed, "order", epoch))
            yield from islice(batched(pieces, self.batch_size), first, self.per_epoch)
            epoch, first = epoch + 1, 0

    def _step(self, batch: Batch) -> None:
        """Take one optimiser step, or skip it where a number is not finite."""
        self.buffers.keep()
        x, context = batch.to(self.device)
        x = self.engine.arranged(x)
        source = noise.generator(self.seed, "noise", self.step, device=self.device)
        self.flat.clear()
        self.layers.manual_seed(noise.derive(self.seed, "layers", self.step, *self.team.key))
        supplied = noise.Supplied(lambda _: self.layers) if self.supplied else nullcontext()
        with self.engine.mixed(self.device), supplied:
            drawn = self.team.noise(noise.Stream(source))
            loss = self.wrapped(x, self.step - 1, drawn, context)
        loss.value.backward()
        norm = self.flat.norm()
        value, elbo = self.team.mean(loss.value.detach(), loss.terms["elbo"])
        size = float(norm)
        if not math.isfinite(size + float(value)):
            self._skip(batch)
            return
        self.in_a_row = 0
        if size > self.settings.clip:
            self.flat.scale(self.settings.clip / (size + 1e-6))
        last = self.history.checks[-1] if self.history.checks else None
        spent = self.budget.spent(self.step, self.steps, last)
        self.adam.step(self.settings.rate(self.step, self.rate, spent))
        if self.average is not None:
            self.average.update(self.flat, self.step)
        self.meter.add(value, elbo, len(batch.x) * self.team.size)

    def _skip(self, batch: Batch) -> None:
        """Undo and count a skipped step; give up when they do not end."""
        self.buffers.restore()
        self.history.skipped += 1
        self.in_a_row += 1
        if self.in_a_row < SKIPPED_LIMIT:
            return
        flat = batch.x.flatten(1)
        size = flat.abs().nan_to_num(0.0, posinf=torch.inf)
        row, column = divmod(int(size.argmax()), flat.shape[1])
        raise NumericError(
            "E401",
            f"the loss was not finite in {SKIPPED_LIMIT} steps in a row (step {self.step}); the "
            f"largest value of the last batch is {flat[row, column]:.3g} in column {column}",
            fix="lower the learning rate, or look at that column for a wrong unit or a typo",
            step=self.step,
            column=column,
            value=float(flat[row, column]),
        )

    def _out_of_time(self) -> bool:
        limit = self.budget.seconds
        return limit is not None and self.team.any(self.meter.elapsed() >= limit)

    @property
    def shown(self) -> Weights:
        """The weights that are checked and kept: the average, where there is one."""
        average = None if self.average is None else self.average.weights
        return average or self.flat.weights()

    def _check(self) -> Check:
        """Measure the held-out bound, keep the weights if it is the best, adapt the rate."""
        loss, train_elbo, speed = self.meter.read()
        shown, look = self.shown, self._look
        found = self.team.first(lambda: (*look(shown), self.meter.elapsed()))
        valid_bound, active, latent, seconds = found
        check = Check(
            step=self.step,
            epoch=self.step / self.per_epoch,
            loss=loss,
            train_elbo=train_elbo,
            valid_bound=valid_bound,
            active=active,
            latent=latent,
            rows_per_second=speed,
            seconds=seconds,
        )
        self.history.checks.append(check)
        best = self.history.checks[self.history.best].valid_bound
        # None to compare with, or only some of an objective that was still changing.
        first = sum(each.step >= self.budget.settled for each in self.history.checks) <= 1
        # The kept weights are the best seen; only a gain worth waiting for resets the patience.
        if first or valid_bound > best:
            self.history.best = len(self.history.checks) - 1
            self.kept = shown.copy()
        threshold = best + MIN_GAIN * self.columns
        if first or valid_bound > threshold:
            self.waited = 0
        else:
            self.waited += 1
            if self.waited % max(1, self.budget.patience // 2) == 0:
                self.rate *= self.settings.decay
        self.meter.restart()
        return check

    def _look(self, shown: Weights) -> tuple[float, int, int]:
        """Return the bound on the held-out rows, and how many latents of how many are in use."""
        model = self.objective.model
        assert isinstance(model, nn.Module)
        with self.flat.showing(shown):
            bound = held_out(model, self.valid, self.samples)
            used = latent_use.latent_use(model, self.valid).active
        return bound, int(used.sum()), len(used)

    def finish(self) -> None:
        """Put the best weights into the objective, in evaluation mode."""
        if self.kept is not None:
            self.flat.load(self.kept)
        self.team.align(self.objective)
        self.flat.release()
        self.objective.eval()

    def bytes(self) -> int:
        """Return the size of a state: weights, average, kept weights and two moments."""
        return 5 * sum(v.numel() * v.element_size() for v in self.flat.values)

    def state(self) -> State:
        """Return everything that the rest of the fit depends on."""
        happened, checks = self.history.state()
        values = {
            "history": happened,
            "step": self.step,
            "waited": self.waited,
            "in_a_row": self.in_a_row,
            "rate": self.rate,
            "batch": self.batch_size,
            "seconds": self.meter.elapsed(),
            "engine": self.engine.as_dict(),
        }
        arrays = {
            "checks": torch.from_numpy(checks),
            "meter": torch.from_numpy(self.meter.state()),
            **self.adam.arrays(),
            **self.flat.weights().arrays("weights"),
            **({} if self.kept is None else self.kept.arrays("kept")),
        }
        if self.average is not None and self.average.weights is not None:
            arrays |= self.average.weights.arrays("average")
        return State(values, arrays)

    def restore(self, state: State) -> None:
        """Go on from a committed state."""
        values, arrays = state
        if values["batch"] != self.batch_size:  # of so many processes that share it evenly
            raise UsageError(
                "E250",
                f"the unfinished run has batches of {values['batch']:,} rows, and "
                f"{self.team.size} processes have {self.batch_size:,}",
                fix="start as many processes as before, or --resume never to start anew",
            )
        weights = Weights.restored(arrays, "weights")
        assert weights is not None
        self.flat.load(weights)
        self.adam.restore(arrays)
        self.kept = Weights.restored(arrays, "kept")
        if self.average is not None:
            self.average.weights = Weights.restored(arrays, "average")
        self.history = History.restored(values["history"], arrays["checks"].numpy())
        self.meter = Meter(values["seconds"])
        self.meter.restore(arrays["meter"].numpy())
        self.step, self.waited = values["step"], values["waited"]
        self.in_a_row, self.rate = values["in_a_row"], values["rate"]


# Layers of torch that draw while training, and cannot be given a generator.
_DRAWING = (nn.modules.dropout._DropoutNd, nn.RReLU, nn.MultiheadAttention, nn.RNNBase)


def draws_globally(module: nn.Module) -> bool:
    """Tell whether a layer may draw from torch's global generator: dropout, or a user's own class.

    Training such a layer needs `noise.Supplied`, which costs a few microseconds per operation.
    Layers of this library draw from a generator that is lent to them.
    """
    return any(
        isinstance(layer, _DRAWING)
        or not type(layer).__module__.startswith(("lowerbound.", "torch."))
        for layer in module.modules()
    )


def _whole_batch(rows: int, size: int) -> int:
    """Return how many rows a batch has that so many processes share evenly."""
    if rows < size:
        raise UsageError(
            "E237",
            f"a batch of {rows} rows can be shared by at most {rows} processes, got {size}",
            fix=f"start {rows} processes at most",
        )
    return rows - rows % size


def held_out(model: nn.Module, rows: Rows, samples: int = CHECK_SAMPLES) -> float:
    """Return the mean importance-weighted bound on held-out rows, nats; no wild row decides.

    The plain ELBO stops small tables too early: it falls as soon as the encoder fits the training
    rows too closely, while p(x) itself still rises. The bound with several samples is nearer to
    log p(x), and it is what scores are made of.

    A held-out outlier can cost a million nats, and would make early stopping a matter of luck: a
    row counts for at most `WILD` nats per column below the median.
    """
    columns = math.prod(rows.take(torch.zeros(1, dtype=torch.long)).x.shape)
    log_p = metrics.log_likelihood(model, rows, samples).log_p
    return log_p.clamp_min(log_p.median() - WILD * columns).mean().item()
