"""The one fit loop: batches, steps, held-out checks, early stopping, and guards.

It knows an objective, rows to learn from and rows to check on. The caller's global random state is
left as it was: order and noise come from generators keyed by (seed, purpose, step).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lowerbound import metrics, noise
from lowerbound.data.batches import Batch, Rows, subset
from lowerbound.errors import NumericError, UsageError

SKIPPED_LIMIT = 20  # steps in a row that may be skipped for a loss that is not finite
CHECK_SAMPLES = 32  # importance samples of a check
WILD = 10.0  # nats per column below the median from where on a held-out row is wild
CHECK_ROWS = 1000  # held-out rows that a check looks at
SMALL_STEP = 2e7  # multiply-adds of a step below which one thread is faster than two
MIN_GAIN = 1e-3  # nats per column: a smaller gain of the held-out bound is no gain


@dataclass(frozen=True)
class Budget:
    """When to stop.

    Attributes:
        epochs: passes over the data at most.
        seconds: wall time at most, or None.
        patience: checks without a gain of the held-out bound before stopping.
        steps: optimiser steps at least, whatever `epochs` says, for small tables.
    """

    epochs: int = 200
    seconds: float | None = None
    patience: int = 10
    steps: int = 0


@dataclass(frozen=True)
class Optimiser:
    """How to step.

    Attributes:
        batch_size: rows per step.
        learning_rate: of Adam, lowered by `decay` when checks stop gaining.
        weight_decay: decoupled (AdamW).
        clip: the largest norm of the gradient.
        warmup: steps over which the learning rate rises to its value.
        ema: decay of the exponential moving average of the weights that is checked and kept, or
            0 to keep the weights themselves.
        decay: factor of the learning rate after half of the patience without a gain; 1 leaves it
            alone, and the moving average does its work.
    """

    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    clip: float = 100.0
    warmup: int = 50
    ema: float = 0.0
    decay: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        for name, low in [("batch_size", 1), ("learning_rate", 0.0), ("clip", 0.0)]:
            value = getattr(self, name)
            if not (value >= low and value > 0):
                raise UsageError("E240", f"{name} is {value}, which is not above 0", fix=name)
        if not 0.0 <= self.ema < 1.0:
            raise UsageError("E240", f"ema is {self.ema}, not in [0, 1)", fix="ema=0.999")


class Check(NamedTuple):
    """One look at the held-out rows.

    Attributes:
        step: optimiser steps done.
        epoch: passes done, with a fraction.
        loss: mean training loss since the last check, nats.
        train_elbo: mean plain ELBO of the training batches since the last check, nats.
        valid_bound: importance-weighted bound on the held-out rows, nats (see `held_out`).
        active: latent dimensions in use.
        latent: latent dimensions in all.
        rows_per_second: of training since the last check.
        seconds: since the start.
    """

    step: int
    epoch: float
    loss: float
    train_elbo: float
    valid_bound: float
    active: int
    latent: int
    rows_per_second: float
    seconds: float


@dataclass
class History:
    """What happened in a fit.

    Attributes:
        checks: the looks at the held-out rows, in order.
        best: index into `checks` of the weights that were kept.
        stopped: why training ended: "patience", "epochs", "time" or "interrupt".
        skipped: steps that were skipped because the loss or the gradient was not finite.
    """

    checks: list[Check] = field(default_factory=list)
    best: int = 0
    stopped: str = ""
    skipped: int = 0

    def as_dict(self) -> dict[str, object]:
        """Return plain JSON values."""
        return {**asdict(self), "checks": [check._asdict() for check in self.checks]}


Report = Callable[[Check, Budget], None]


def fit(
    objective: nn.Module,
    train: Rows,
    valid: Rows,
    *,
    budget: Budget | None = None,
    optimiser: Optimiser | None = None,
    seed: int = 0,
    report: Report | None = None,
) -> History:
    """Train `objective` on `train`, keep the weights with the best bound on `valid`.

    Args:
        objective: a `lowerbound.objectives` objective; its model is trained in place.
        train: rows to learn from.
        valid: held-out rows; the bound on them (see `held_out`) decides when to stop and what is
            kept.
        budget: when to stop.
        optimiser: how to step.
        seed: of order and noise; together with the model's initial weights it fixes the result.
        report: called after every check.

    Returns:
        What happened. Ctrl-C ends the fit in good order, with the best weights so far, once
        the held-out rows have been looked at; before that it is an ordinary KeyboardInterrupt.

    Raises:
        NumericError: E401 when the loss stays non-finite, E402 when the gradient does.
    """
    run = _Run(objective, train, valid, budget or Budget(), optimiser or Optimiser(), seed)
    weights = sum(p.numel() for p in objective.parameters())
    try:
        with _threads_for(weights * run.batch_size):
            run.train(report)
    except KeyboardInterrupt:
        if not run.history.checks:  # nothing is known of these weights yet
            raise
        run.history.stopped = "interrupt"
    run.restore()
    return run.history


@contextmanager
def _threads_for(products: int) -> Iterator[None]:
    """Run small steps on one thread: waking a second one costs more than it computes."""
    before = torch.get_num_threads()
    if products < SMALL_STEP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Run:
    """The state of one fit."""

    def __init__(
        self,
        objective: nn.Module,
        train: Rows,
        valid: Rows,
        budget: Budget,
        optimiser: Optimiser,
        seed: int,
    ) -> None:
        self.objective, self.rows, self.seed = objective, train, seed
        self.valid = subset(valid, torch.arange(min(len(valid), CHECK_ROWS)))
        self.budget, self.settings = budget, optimiser
        self.batch_size = min(optimiser.batch_size, len(train))
        self.per_epoch = max(1, len(train) // self.batch_size)
        self.steps = max(budget.epochs * self.per_epoch, budget.steps)
        self.every = min(max(self.per_epoch, 100), 1000)
        self.columns = math.prod(valid.take(torch.zeros(1, dtype=torch.long)).x.shape)
        self.rate = optimiser.learning_rate
        self.optimiser = torch.optim.AdamW(
            objective.parameters(),
            lr=optimiser.learning_rate,
            weight_decay=optimiser.weight_decay,
            fused=True,
        )
        self.average = _average(objective, optimiser.ema)
        self.device = next(objective.parameters()).device
        self.history = History()
        self.kept: dict[str, Tensor] | None = None
        self.waited = self.in_a_row = 0
        self.meter = _Meter()

    @property
    def checked(self) -> nn.Module:
        """The objective whose weights are checked and kept: the average, where there is one."""
        return self.objective if self.average is None else self.average.module

    def train(self, report: Report | None) -> None:
        """Step until the budget is spent or the held-out bound stops rising."""
        self.objective.train()
        self.meter.start()
        for step, index in enumerate(self._order(), start=1):
            self._step(step, self.rows.take(index))
            last = step == self.steps or self._out_of_time()
            if step % self.every and not last:
                continue
            check = self._check(step)
            if report is not None:
                report(check, self.budget)
            if self.waited >= self.budget.patience:
                self.history.stopped = "patience"
                return
            if last:
                self.history.stopped = "epochs" if step == self.steps else "time"
                return

    def _order(self) -> Iterator[Tensor]:
        """Yield the rows of each step: a new permutation for every pass."""
        epoch = 0
        while True:
            source = noise.generator(self.seed, "order", epoch)
            order = torch.randperm(len(self.rows), generator=source)
            for i in range(self.per_epoch):
                yield order[i * self.batch_size : (i + 1) * self.batch_size]
            epoch += 1

    def _step(self, step: int, batch: Batch) -> None:
        """Take one optimiser step, or skip it where a number is not finite."""
        x, context = batch.to(self.device)
        stream = noise.Stream(noise.generator(self.seed, "noise", step, device=self.device))
        # Layers that draw for themselves, such as `Hidden`, use torch's own generators.
        with noise.isolated(self.seed, "layers", step):
            loss = self.objective(x, step - 1, stream, context)
            self.optimiser.zero_grad(set_to_none=True)
            loss.value.backward()
        norm = nn.utils.clip_grad_norm_(self.objective.parameters(), self.settings.clip)
        if not torch.isfinite(norm + loss.value.detach()):
            self._skip(batch, step)
            return
        self.in_a_row = 0
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * min(1.0, step / max(1, self.settings.warmup))
        self.optimiser.step()
        if self.average is not None:
            self.average.update_parameters(self.objective)
        self.meter.add(loss.value.detach(), loss.terms["elbo"], len(batch.x))

    def _skip(self, batch: Batch, step: int) -> None:
        """Count a skipped step; give up when they do not end."""
        self.history.skipped += 1
        self.in_a_row += 1
        if self.in_a_row < SKIPPED_LIMIT:
            return
        flat = batch.x.flatten(1)
        size = flat.abs().nan_to_num(0.0, posinf=torch.inf)
        row, column = divmod(int(size.argmax()), flat.shape[1])
        raise NumericError(
            "E401",
            f"the loss was not finite in {SKIPPED_LIMIT} steps in a row (step {step}); the "
            f"largest value of the last batch is {flat[row, column]:.3g} in column {column}",
            fix="lower the learning rate, or look at that column for a wrong unit or a typo",
            step=step,
            column=column,
            value=float(flat[row, column]),
        )

    def _out_of_time(self) -> bool:
        return self.budget.seconds is not None and self.meter.elapsed() >= self.budget.seconds

    def _check(self, step: int) -> Check:
        """Measure the held-out bound, keep the weights if it is the best, adapt the rate."""
        loss, train_elbo, speed = self.meter.read()
        model = self.checked.model
        valid_bound = held_out(model, self.valid)  # pyright: ignore[reportArgumentType]
        used = metrics.latent_use(model, self.valid).active  # pyright: ignore[reportArgumentType]
        check = Check(
            step=step,
            epoch=step / self.per_epoch,
            loss=loss,
            train_elbo=train_elbo,
            valid_bound=valid_bound,
            active=int(used.sum()),
            latent=len(used),
            rows_per_second=speed,
            seconds=self.meter.elapsed(),
        )
        self.history.checks.append(check)
        best = self.history.checks[self.history.best].valid_bound
        # The kept weights are the best seen; only a gain worth waiting for resets the patience.
        if self.kept is None or valid_bound > best:
            self.history.best = len(self.history.checks) - 1
            self.kept = deepcopy(self.checked.state_dict())
        threshold = best + MIN_GAIN * self.columns
        if len(self.history.checks) == 1 or valid_bound > threshold:
            self.waited = 0
        else:
            self.waited += 1
            if self.waited % max(1, self.budget.patience // 2) == 0:
                self.rate *= self.settings.decay
        self.meter.restart()
        return check

    def restore(self) -> None:
        """Put the best weights into the objective, in evaluation mode."""
        if self.kept is not None:
            self.objective.load_state_dict(self.kept)
        self.objective.eval()


def held_out(model: nn.Module, rows: Rows) -> float:
    """Return the mean importance-weighted bound on held-out rows, nats; no wild row decides.

    The plain ELBO stops small tables too early: it falls as soon as the encoder fits the training
    rows too closely, while p(x) itself still rises. The bound with `CHECK_SAMPLES` samples is
    nearer to log p(x), and it is what scores are made of.

    A held-out outlier can cost a million nats, and would make early stopping a matter of luck: a
    row counts for at most `WILD` nats per column below the median.
    """
    log_p = metrics.log_likelihood(model, rows, CHECK_SAMPLES).log_p
    columns = math.prod(rows.take(torch.zeros(1, dtype=torch.long)).x.shape)
    return log_p.clamp_min(log_p.median() - WILD * columns).mean().item()


def _average(objective: nn.Module, decay: float) -> torch.optim.swa_utils.AveragedModel | None:
    """Return the moving average of the objective, or None for a decay of 0."""
    if not decay:
        return None
    rule = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
    return torch.optim.swa_utils.AveragedModel(objective, multi_avg_fn=rule, use_buffers=True)


class _Meter:
    """Means of the training terms and the speed between two checks."""

    def start(self) -> None:
        self.began = time.monotonic()
        self.restart()

    def restart(self) -> None:
        self.loss, self.elbo, self.steps, self.rows = 0.0, 0.0, 0, 0
        self.since = time.monotonic()

    def add(self, loss: Tensor, elbo: Tensor, rows: int) -> None:
        # Kept as tensors: reading them at every step would stall an accelerator.
        self.loss, self.elbo = self.loss + loss, self.elbo + elbo
        self.steps, self.rows = self.steps + 1, self.rows + rows

    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def read(self) -> tuple[float, float, float]:
        if not self.steps:
            return math.nan, math.nan, 0.0
        spent = max(time.monotonic() - self.since, 1e-9)
        return float(self.loss) / self.steps, float(self.elbo) / self.steps, self.rows / spent
