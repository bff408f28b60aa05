"""The training loop: batches, steps, held-out checks, early stopping, guards and checkpoints.

All random numbers come from generators keyed by (seed, purpose, step). A fit that was killed
therefore continues from its last checkpoint to a bit-identical result, and fits in several threads
do not affect each other. No global random state is read or written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lowerbound import noise
from lowerbound.coding.augmentations import View
from lowerbound.coding.rows import Batch, Rows, batched, subset, visits
from lowerbound.errors import NumericError, UsageError
from lowerbound.nn.networks.mlp import lent
from lowerbound.optional import library
from lowerbound.tasks import latent_use, metrics
from lowerbound.training.engine import machine
from lowerbound.training.engine.checkpoints import Checkpoints, State
from lowerbound.training.engine.engine import SMALL_STEP, Engine, choose, compiling, flops
from lowerbound.training.engine.flat import Adam, Buffers, Flat, MovingAverage, Weights
from lowerbound.training.engine.graphs import Unrecordable
from lowerbound.training.engine.history import Check, History, Meter, Pulse
from lowerbound.training.engine.interrupts import DelayedSignals
from lowerbound.training.engine.processes import ALONE, Team
from lowerbound.training.engine.settings import Budget, Optimiser
from lowerbound.training.engine.time_limit import TimeLimit

if TYPE_CHECKING:
    from lowerbound.training.engine.compiled import Inputs, Program

Report = Callable[[Check, Budget], bool | None]  # True ends the fit
Beat = Callable[[Pulse], None]

SKIPPED_LIMIT = 20  # consecutive steps with a non-finite loss after which a fit fails
CHECK_SAMPLES = 32  # largest number of importance samples per row in a check
FEW_SAMPLES = 4  # smallest number of importance samples, within CHECK_CELLS
CHECK_CELLS = 1 << 22  # largest number of values (rows x columns x samples) in a check
CHECK_SHARE = 1 / 16  # draws of a check per row trained on since the last one, in large networks
WILD = 10.0  # nats per column below the median at which the log p of a held-out row is clipped
CHECK_ROWS = 1000  # held-out rows used in a check
CHECK_TIME = 0.05  # largest share of a time limit that one check takes
FEWEST_CHECKED = 16  # held-out rows of a check even if it takes longer
EVERY_BEAT = 1.0  # seconds between two reports of the pace
PROBED = 4  # held-out rows by which the time of a check is forecast
STEADY = 3  # steps after which the pace is known


def fit(  # noqa: PLR0913 - independent options, all with defaults
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
    limit: TimeLimit | None = None,
    beat: Beat | None = None,
) -> History:
    """Train `objective` on `train`, and keep the weights with the best bound on `valid`.

    Args:
        objective: a `lowerbound.nn.objectives.elbo` objective; its model is trained in place.
        train: training rows.
        valid: held-out rows; the bound on them (see `held_out`) decides when to stop and which
            weights are kept.
        budget: limits on the length of the fit; None uses the defaults.
        optimiser: settings of the optimiser; None uses the defaults.
        seed: seed of the order of rows and of the noise; together with the initial weights it
            determines the result.
        engine: threads, kernels and precision; None chooses them (see `choose`).
        checkpoints: storage of checkpoints; a fit that was killed resumes from the last one.
        report: called after every check; the fit ends if it returns True.
        view: random augmentation of a training batch, see `lowerbound.coding.augmentations`.
        team: the processes that train together. All call this function with the same arguments
            and share each batch; only the first one's `checkpoints` are used.
        limit: the time limit of the whole fit, while `budget` limits this stage; a resumed fit
            counts the time of the interrupted run. None counts the training alone.
        beat: called with the pace of training, about once per second.

    Returns:
        The history. Ctrl-C after the first check ends the fit normally, with the best weights so
        far, and so does a report that returns True.

    Raises:
        KeyboardInterrupt: for Ctrl-C before the first check.
        NumericError: E401 if the loss or its gradient stays non-finite.
        ResourceError: E301 or E302 if a checkpoint cannot be written.
        UsageError: E237 for more processes than rows in a batch, E250 if the number of processes
            does not match the checkpoint.
    """
    checkpoints = checkpoints if team.rank == 0 else None
    settings = budget or Budget(), optimiser or Optimiser()
    saved = team.first(lambda: None if checkpoints is None else checkpoints.latest())
    if saved is not None:  # the same engine, so that the result is bit-identical
        engine = Engine(**saved.values["engine"])
    elif engine is None:
        rows = min(settings[1].batch_size, len(train))
        engine = team.first(lambda: chosen(objective, valid, rows))
    engine = replace(engine, burst=0) if team.size > 1 else engine
    engine.prepare(objective)
    trainer = _Trainer(objective, (train, valid), settings, seed, (engine, team))
    trainer.view, trainer.limit, trainer.beat = view, limit or TimeLimit(), beat
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
        if not trainer.history.checks:  # there are no checked weights to keep
            raise
        trainer.history.stopped = "interrupt"
    else:
        if checkpoints is not None and not ended:
            checkpoints.commit(*trainer.state())
    trainer.finish()
    return trainer.history


def chosen(
    objective: nn.Module,
    rows: Rows,
    batch_size: int,
    precision: str = "float32",
    steps: int = 0,
    seconds: float | None = None,
) -> Engine:
    """Return the engine of this machine for batches of `batch_size` rows like `rows`.

    Args:
        objective: the objective to train.
        rows: some rows, with their context.
        batch_size: rows of a step.
        precision: "float32" or "bfloat16".
        steps: largest number of steps, if they may be compiled.
        seconds: the time limit of the fit, or None.
    """
    device = next(objective.parameters()).device
    batch = rows.take(torch.arange(batch_size) % len(rows)).to(device)
    engine = choose(objective, batch, machine.this(), precision)
    return compiling(engine, objective, batch, steps, seconds) if steps else engine


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
        self.average = MovingAverage(self.settings.ema) if self.settings.ema else None
        self.device = next(objective.parameters()).device
        large = self.batch_size * flops(objective, first.to(self.device)) >= SMALL_STEP
        self.samples = self._samples(large)
        self.history, self.meter = History(), Meter()
        self.kept: Weights | None = None
        self.view: View | None = None
        self.beat: Beat | None = None
        self.limit = TimeLimit()
        self.asked = False  # whether a report has asked to end the fit
        self.closing = 0.0  # seconds from the decision to stop to the end of the last check
        # A step and the seconds at its end: of the last beat, and from which the pace counts.
        self.beaten = self.steady = (0, 0.0)
        self.first: tuple[int, float] | None = None  # the first step, which includes the start-up
        self.paced = False  # whether steps after the first one have been timed
        self.program: Program | None = None
        self.ready: Inputs | None = None  # of the next steps of the program
        self.tile = metrics.TILE
        self.rate = self.settings.learning_rate
        self.step = self.waited = self.in_a_row = 0
        self.layers = torch.Generator(self.device)  # for layers that draw, seeded at every step
        self.supplied = draws_globally(objective)

    def _samples(self, large: bool) -> int:
        """Return the number of importance samples of a check, which keeps it cheap.

        For large networks, where arithmetic dominates, 32 samples of every held-out row took an
        eighth of the training time of a convolutional network.
        """
        most = min(CHECK_SAMPLES, CHECK_CELLS // (len(self.valid) * self.columns))
        if large:
            draws = CHECK_SHARE * self.every * self.batch_size
            most = min(most, max(FEW_SAMPLES, int(draws / len(self.valid))))
        return max(1, most)

    def train(self, checkpoints: Checkpoints | None, report: Report | None) -> None:
        """Train until the budget is spent or the held-out bound stops rising."""
        self.objective.train()
        with lent(self.objective, self.layers), DelayedSignals() as signals:
            self._forecast_check()
            self.steady = (self.step, self.meter.elapsed())
            for stretch, following in self._stretches():
                self._advance(stretch, following, report)
                interrupted = self.team.any(signals.waiting or self.asked)
                if checkpoints is not None and (interrupted or checkpoints.due()):
                    checkpoints.commit(*self.state())
                signals.deliver()
                if self.asked or (interrupted and self.team.size > 1):  # by another process
                    raise KeyboardInterrupt
                if self.history.stopped:
                    return

    def _stretches(self) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Yield the row indices of the next steps, and of those after them.

        They are the steps of one call of a compiled program, or one step of torch. A check is due
        at the end of a stretch, if at all.
        """
        order, at = self._order(), self.step

        def stretch() -> list[Tensor]:
            nonlocal at
            until = min(self.steps, at + self.every - at % self.every)
            count = max(1, min(self.engine.burst, until - at))
            if count > 1 and self.budget.seconds is not None:
                left = self.budget.seconds - self.meter.elapsed() - self.closing
                count = max(1, min(count, int(left / max(self._pace(), 1e-9) / 4)))
            at += count
            return [self.team.share(index) for index in islice(order, count)]

        now = stretch()
        while True:
            following = stretch()
            yield now, following
            now = following

    def _advance(
        self, stretch: list[Tensor], following: list[Tensor], report: Report | None
    ) -> None:
        """Take the steps of a stretch, and run a check if it is due."""
        if self.engine.burst and self.program is None:
            self._compile(self._batch(stretch[0], self.step + 1))
        if self.program is not None:
            self._take_compiled(stretch, following)
        for index in [] if self.program is not None else stretch:
            self.step += 1
            self._step(self._batch(index, self.step))
        self._tell_pace()
        last = self.step == self.steps or self._out_of_time(len(following))
        if self.step % self.every and not last:
            return
        check = self._check()
        if report is not None:
            self.asked = report(check, self.budget) is True
        if self.waited >= self.budget.patience:
            self.history.stopped = "patience"
        elif last:
            self.history.stopped = "epochs" if self.step == self.steps else "time"

    def _batch(self, index: Tensor, step: int) -> Batch:
        """Return the batch of a step, augmented if there is a view."""
        batch = self.rows.take(index)
        if self.view is None:
            return batch
        return self.view(batch, noise.generator(self.seed, "view", step, *self.team.key))

    def _inputs(self, stretch: list[Tensor], step: int) -> Inputs:
        """Return the inputs of the compiled steps of a stretch whose first one is `step`."""
        assert self.program is not None
        steps = range(step, step + len(stretch))
        return self.program.inputs(
            [self._batch(index, each) for index, each in zip(stretch, steps, strict=True)],
            [each - 1 for each in steps],
            self._sources(steps),
        )

    def _sources(self, steps: range) -> Iterator[tuple[torch.Generator, torch.Generator]]:
        """Yield the generators of the noise and of the layers of each step."""
        for step in steps:
            yield noise.generator(self.seed, "noise", step), self._seeded_layers(step)

    def _seeded_layers(self, step: int) -> torch.Generator:
        """Return the generator of the layers that draw, as it is at the start of a step."""
        return self.layers.manual_seed(noise.derive(self.seed, "layers", step, *self.team.key))

    def _compile(self, batch: Batch) -> None:
        """Compile the steps, or leave them to torch if that turns out to be impossible.

        Raises:
            ResourceError: E310 without JAX, which a fit that is resumed may lack.
        """
        library("jax", "this fit needs", "fast")
        compiled = import_module("lowerbound.training.engine.compiled")
        burst, threads = self.engine.burst, self.engine.threads
        parts = self.objective, self.flat, batch, self.settings
        try:
            self.program = compiled.Program(*parts, burst, threads)
        except Unrecordable as reason:
            self.engine = replace(self.engine, burst=0, why=str(reason))

    def _take_compiled(self, stretch: list[Tensor], following: list[Tensor]) -> None:
        """Take the steps of a stretch by the compiled program, and prepare those after it."""
        program, first = self.program, self.step + 1
        assert program is not None
        inputs = self.ready or self._inputs(stretch, first)
        rates = [self._rate(step) for step in range(first, first + len(stretch))]
        begun = program.start(self.adam, self.average, inputs, rates, first)
        self.ready = self._inputs(following, first + len(stretch)) if following else None
        outcome = program.finish(begun, self.adam, self.average)
        for index, loss, elbo, finite in zip(stretch, *outcome, strict=True):
            self.step += 1
            if not finite:
                self._count_skipped(self.rows.take(index))
                continue
            self.in_a_row = 0
            self.meter.add(torch.tensor(loss), torch.tensor(elbo), len(index))

    def _order(self) -> Iterator[Tensor]:
        """Yield the row indices of each remaining step; each pass is a new permutation."""
        epoch, first = divmod(self.step, self.per_epoch)
        while True:
            pieces = visits(self.rows, noise.generator(self.seed, "order", epoch))
            yield from islice(batched(pieces, self.batch_size), first, self.per_epoch)
            epoch, first = epoch + 1, 0

    def _step(self, batch: Batch) -> None:
        """Take one optimiser step, or skip it if the loss or the gradient is not finite."""
        self.buffers.keep()
        x, context = batch.to(self.device)
        x = self.engine.arranged(x)
        source = noise.generator(self.seed, "noise", self.step, device=self.device)
        self.flat.clear()
        self._seeded_layers(self.step)
        supplied = noise.GivenGenerators(lambda _: self.layers) if self.supplied else nullcontext()
        with self.engine.mixed(self.device), supplied:
            drawn = self.team.noise(noise.Stream(source))
            loss = self.wrapped(x, self.step - 1, drawn, context)
        loss.value.backward()
        norm = self.flat.norm()
        value, elbo = self.team.mean(loss.value.detach(), loss.terms["elbo"])
        size = float(norm)
        if not math.isfinite(size + float(value)):
            self.buffers.restore()
            self._count_skipped(batch)
            return
        self.in_a_row = 0
        if size > self.settings.clip:
            self.flat.scale(self.settings.clip / (size + 1e-6))
        self.adam.step(self._rate(self.step))
        if self.average is not None:
            self.average.update(self.flat, self.step)
        self.meter.add(value, elbo, len(batch.x) * self.team.size)

    def _rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        last = self.history.checks[-1] if self.history.checks else None
        spent = self.budget.spent(step, self.steps, last)
        return self.settings.rate(step, self.rate, spent)

    def _count_skipped(self, batch: Batch) -> None:
        """Count a skipped step; raise E401 after `SKIPPED_LIMIT` in a row."""
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

    def _out_of_time(self, steps: int) -> bool:
        """Return whether no time is left for some more steps and the last check."""
        limit = self.budget.seconds
        if limit is None:
            return False
        ends = self.meter.elapsed() + steps * self._pace() + self.closing
        return self.team.any(ends >= limit)

    def _forecast_check(self) -> None:
        """Under a time limit, forecast a check from one tile of it, and shorten a long one."""
        limit = self.budget.seconds
        if limit is None or self.step:
            return
        some = subset(self.valid, torch.arange(min(len(self.valid), PROBED)))
        model = self.objective.model
        assert isinstance(model, nn.Module)

        def timed() -> float:
            began = self.meter.elapsed()
            metrics.log_likelihood(model, some, self.samples, most=PROBED)
            return (self.meter.elapsed() - began) / len(some)

        each = self.team.first(timed)
        most = max(FEWEST_CHECKED, int(CHECK_TIME * limit / max(each, 1e-9)))
        if most < len(self.valid):
            self._shorten_checks(most)
        self.closing = each * len(self.valid)

    def _shorten_checks(self, rows: int) -> None:
        """Check on the first held-out rows only, in tiles that are not filled up."""
        self.valid = subset(self.valid, torch.arange(min(rows, len(self.valid))))
        self.tile = min(self.tile, rows)

    def _pace(self) -> float:
        """Return the seconds per step, without the first step if there are more."""
        step, seconds = self.steady
        return (self.meter.elapsed() - seconds) / max(1, self.step - step)

    def _tell_pace(self) -> None:
        """Report the pace of training."""
        elapsed, (step, since) = self.meter.elapsed(), self.beaten
        if self.first is None:
            self.first = (self.step, elapsed)
            return
        if not self.paced:
            self.steady, self.paced = self.first, True
        steady = self.step >= self.first[0] + STEADY or elapsed - self.first[1] >= EVERY_BEAT
        if self.beat is None or not steady or (step and elapsed - since < EVERY_BEAT):
            return
        self.beaten = (self.step, elapsed)
        each = self._pace()
        left = each * (self.steps - self.step)
        if self.budget.seconds is not None:
            left = min(left, max(0.0, self.budget.seconds - elapsed - self.closing))
        self.beat(
            Pulse(
                step=self.step,
                steps=self.steps,
                rows=self.batch_size,
                seconds_per_step=each,
                seconds_left=left,
                epoch=self.step / self.per_epoch,
            )
        )

    @property
    def shown(self) -> Weights:
        """The weights that are checked and kept: the moving average, if there is one."""
        average = None if self.average is None else self.average.weights
        return average or self.flat.weights()

    def _check(self) -> Check:
        """Measure the held-out bound, keep the weights if it is the best, and adapt the rate."""
        loss, train_elbo, speed = self.meter.read()
        shown, look = self.shown, self._look
        began = self.meter.elapsed()
        found = self.team.first(lambda: (*look(shown), self.meter.elapsed()))
        valid_bound, active, latent, seconds = found
        self.closing = seconds - began
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
        # Earlier checks, if any, were of an objective that was still changing.
        first = sum(each.step >= self.budget.settled for each in self.history.checks) <= 1
        # Any gain replaces the kept weights; only a gain above the threshold resets the patience.
        if first or valid_bound > best:
            self.history.best = len(self.history.checks) - 1
            self.kept = shown.copy()
        threshold = best + self.budget.gain * self.columns
        if first or valid_bound > threshold:
            self.waited = 0
        else:
            self.waited += 1
            if self.waited % max(1, self.budget.patience // 2) == 0:
                self.rate *= self.settings.decay
        self.meter.restart()
        return check

    def _look(self, shown: Weights) -> tuple[float, int, int]:
        """Return the bound on the held-out rows, the latents in use, and the number of latents."""
        model = self.objective.model
        assert isinstance(model, nn.Module)
        with self.flat.showing(shown):
            bound = held_out(model, self.valid, self.samples, self.tile)
            used = latent_use.latent_use(model, self.valid).active
        return bound, int(used.sum()), len(used)

    def finish(self) -> None:
        """Load the best weights into the objective and set it to evaluation mode."""
        if self.kept is not None:
            self.flat.load(self.kept)
        self.team.align(self.objective)
        self.flat.release()
        self.engine.finish(self.objective)
        self.objective.eval()

    def bytes(self) -> int:
        """Return the size of a checkpoint: weights, average, kept weights and two moments."""
        return 5 * sum(v.numel() * v.element_size() for v in self.flat.values)

    def state(self) -> State:
        """Return everything that the remaining fit depends on."""
        happened, checks = self.history.state()
        values = {
            "history": happened,
            "step": self.step,
            "waited": self.waited,
            "in_a_row": self.in_a_row,
            "rate": self.rate,
            "batch": self.batch_size,
            "seconds": self.meter.elapsed(),
            "used": self.limit.used(),
            "checked": len(self.valid),
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
        """Resume from a checkpoint.

        Raises:
            UsageError: E250 if the batch size differs, because the number of processes does.
        """
        values, arrays = state
        if values["batch"] != self.batch_size:  # it is a multiple of the number of processes
            raise UsageError(
                "E250",
                f"the unfinished run has batches of {values['batch']:,} rows, but "
                f"{self.team.size} processes have batches of {self.batch_size:,}",
                fix="start as many processes as before, or --resume never to start again",
            )
        weights = Weights.restored(arrays, "weights")
        assert weights is not None
        self.flat.load(weights)
        self.adam.restore(arrays)
        self.kept = Weights.restored(arrays, "kept")
        if self.average is not None:
            self.average.weights = Weights.restored(arrays, "average")
        if values["checked"] < len(self.valid):
            self._shorten_checks(values["checked"])
        if self.budget.seconds is not None:  # the time of the interrupted run is used up
            earlier = self.limit.resumed(values["used"])
            seconds = self.budget.seconds - earlier + values["seconds"]
            self.budget = replace(self.budget, seconds=max(seconds, 1e-3))
        self.history = History.restored(values["history"], arrays["checks"].numpy())
        self.meter = Meter(values["seconds"])
        self.meter.restore(arrays["meter"].numpy())
        self.step, self.waited = values["step"], values["waited"]
        self.in_a_row, self.rate = values["in_a_row"], values["rate"]


# torch's layers that draw random numbers in training and do not accept a generator.
_DRAWING = (nn.modules.dropout._DropoutNd, nn.RReLU, nn.MultiheadAttention, nn.RNNBase)


def draws_globally(module: nn.Module) -> bool:
    """Return whether a layer may draw from torch's global generator: dropout, or a user's class.

    Training such a layer needs `noise.Supplied`, which costs a few microseconds per operation.
    This library's own layers draw from a generator that they are given.
    """
    return any(
        isinstance(layer, _DRAWING)
        or not type(layer).__module__.startswith(("lowerbound.", "torch."))
        for layer in module.modules()
    )


def _whole_batch(rows: int, size: int) -> int:
    """Return the largest batch of at most `rows` rows that `size` processes share evenly.

    Raises:
        UsageError: E237 for more processes than rows.
    """
    if rows < size:
        raise UsageError(
            "E237",
            f"a batch of {rows} rows can be shared by at most {rows} processes, got {size}",
            fix=f"start {rows} processes at most",
        )
    return rows - rows % size


def held_out(
    model: nn.Module, rows: Rows, samples: int = CHECK_SAMPLES, most: int = metrics.TILE
) -> float:
    """Return the mean importance-weighted bound on held-out rows, nats, with outliers clipped.

    The plain ELBO stops small tables too early: it falls as soon as the encoder overfits the
    training rows, while p(x) itself still rises. The bound with several samples is closer to
    log p(x), and scores are computed from the same bound.

    Args:
        model: the model.
        rows: held-out rows.
        samples: importance samples per row.
        most: rows per pass.
    """
    return held_out_rows(model, rows, samples, most).mean().item()


def held_out_rows(
    model: nn.Module, rows: Rows, samples: int = CHECK_SAMPLES, most: int = metrics.TILE
) -> Tensor:
    """Return the bound that `held_out` is the mean of for each row, (n,) nats.

    A held-out outlier can cost a million nats and would dominate early stopping. Therefore each
    row counts at most `WILD` nats per column below the median.
    """
    columns = math.prod(rows.take(torch.zeros(1, dtype=torch.long)).x.shape)
    log_p = metrics.log_likelihood(model, rows, samples, most=most, start=0).log_p
    return log_p.clamp_min(log_p.median() - WILD * columns)
