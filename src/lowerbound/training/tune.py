"""Search for the settings that fit a table best.

Each trial is trained on part of the rows and judged by log p of the other rows, in the units of
the raw values. Recipes are comparable only if they treat each column as the same kind.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lowerbound import noise
from lowerbound.coding.base import Coding
from lowerbound.coding.rows import fingerprint
from lowerbound.errors import DataError, LowerboundError, UsageError
from lowerbound.files.data import Table, Whole
from lowerbound.optional import library
from lowerbound.recipes import RECIPES
from lowerbound.tasks.draws import SCORE_SAMPLES
from lowerbound.training.engine.time_limit import TimeLimit
from lowerbound.training.fit import default_latent, learn
from lowerbound.training.plan import Plan, objective_settings, optimiser_of

JUDGED = 4_000  # largest number of rows that trials are judged by
SHARE = 0.2  # largest share of all rows that trials are judged by
RANGES = {"beta": (1 / 4, 4.0), "learning_rate": (1 / 4, 4.0)}  # factors of the plan's values

Told = Callable[["Trial", "Trial"], None]  # the latest, and the best so far


@dataclass(frozen=True)
class Trial:
    """One set of settings and its result on rows that it was not trained on.

    Attributes:
        number: index of the trial from 0; trial 0 is the unchanged plan.
        changes: settings that differ from the plan: recipe, latent, beta, learning_rate.
        log_p: mean log-likelihood of the judged rows, nats per row; None if the fit failed.
        error: standard error of that mean, nats.
        latent: size of z.
        seconds: duration of the fit.
        failure: the reason of a failure, or "".
    """

    number: int
    changes: Mapping[str, Any]
    log_p: float | None = None
    error: float = 0.0
    latent: int = 0
    seconds: float = 0.0
    failure: str = ""


class Parts(NamedTuple):
    """The rows that trials are trained on, and the rows that they are judged by."""

    learned: Table
    judged: Table

    @classmethod
    def of(cls, frame: Whole, seed: int) -> Parts:
        """Split rows at random.

        Raises:
            UsageError: E241 if the data are not a table.
            DataError: E075 for fewer than 10 rows.
        """
        if not isinstance(frame, Table):
            raise UsageError(
                "E241",
                f"{frame.origin}: tune needs a table, got pictures or a sparse matrix",
                fix="lowerbound fit, which fits the model without a search",
            )
        count = min(JUDGED, int(SHARE * frame.rows))
        if count < 2:
            raise DataError(
                "E075",
                f"{frame.origin}: tune needs at least 10 rows, got {frame.rows}",
                fix="give 10 or more rows",
            )
        order = np.random.default_rng(noise.derive(seed, "judged")).permutation(frame.rows)
        chosen = np.sort(order[count:]), np.sort(order[:count])
        learned, judged = (replace(frame.take(index), total=len(index)) for index in chosen)
        return cls(learned, judged)


def comparable(plan: Plan, frame: Whole) -> list[str]:
    """Return the recipes whose log-likelihoods are comparable with that of the plan's recipe."""
    wanted = measure(_coding(plan, frame))
    found = [plan.recipe.name]
    for recipe in RECIPES.values():
        if not recipe.searched or recipe.name in found:
            continue
        if plan.settings.keys() - recipe.parameters:
            continue
        try:
            coding = _coding(replace(plan, recipe=recipe), frame)
        except LowerboundError:  # it cannot model some of the columns
            continue
        if measure(coding) == wanted:
            found.append(recipe.name)
    return found


def _coding(plan: Plan, frame: Whole) -> Coding:
    kind = plan.recipe.coding(plan.settings)
    return kind.fit(frame, types=plan.types, drop=plan.drop, transform=plan.transform)


def measure(coding: Coding) -> list[tuple[str, ...]]:
    """Return (name, family, size) of each coded column: log p is comparable if these are equal."""
    schema = getattr(coding, "schema", None)
    parts = () if schema is None else schema.parts
    return [(part.name, part.family, str(part.size)) for part in parts]


class Search:
    """Trials of one plan on one table, stored in a folder so that the search can be resumed.

    Args:
        frame: the table.
        plan: the settings that are not searched for.
        folder: the folder that stores the trials; None stores nothing.
        names: recipes to try; by default all that are comparable with the plan's.

    Raises:
        UsageError: E250 if the folder holds another search, E241 for recipes that are not
            comparable.
        ResourceError: E310 if optuna is not installed.
    """

    def __init__(
        self, frame: Whole, plan: Plan, folder: Path | None = None, names: Sequence[str] = ()
    ) -> None:
        self.plan, self.parts = plan, Parts.of(frame, plan.seed)
        known = comparable(plan, self.parts.learned)
        self.names = list(names) or known
        for name in self.names:
            if name not in known:
                raise UsageError(
                    "E241",
                    f"log p of the recipe {name!r} cannot be compared with that of {known[0]!r}: "
                    "they treat some columns as different kinds",
                    fix=f"search among {', '.join(known)}",
                )
        learned = self.parts.learned
        coding = _coding(plan, learned)
        missing = coding.encode(learned).missing_share
        self.weights = objective_settings(plan, missing)
        self.width = default_latent(coding.arguments(), plan.recipe.most_latents)
        self.study, self.optuna = _study(folder, self._identity()), _optuna()

    def _identity(self) -> str:
        """Return a digest of everything that the trials depend on."""
        coding = _coding(self.plan, self.parts.learned)
        digests = [fingerprint(coding.encode(part).rows) for part in self.parts]
        # The keys are part of the digest: another one would make earlier searches unreadable.
        known = {"plan": self.plan.document(), "recipes": self.names, "cells": digests}
        text = json.dumps(known, sort_keys=True, default=str)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def done(self) -> list[Trial]:
        """The finished trials, in order."""
        ended = [t for t in self.study.get_trials(deepcopy=False) if "trial" in t.user_attrs]
        return [Trial(**t.user_attrs["trial"]) for t in ended]

    @property
    def ranked(self) -> list[Trial]:
        """The trials that gave a model, best first."""
        fitted = [(trial.log_p, trial) for trial in self.done if trial.log_p is not None]
        return [trial for _, trial in sorted(fitted, key=lambda pair: -pair[0])]

    def run(
        self,
        trials: int,
        told: Told = lambda latest, best: None,
        seconds: float = math.inf,
    ) -> None:
        """Run trials until `trials` have finished in total; the first is the unchanged plan.

        Args:
            trials: number of finished trials to reach, including earlier ones.
            told: called after each trial with that trial and the best one so far.
            seconds: largest time of each trial, if the plan does not limit it further.

        Raises:
            LowerboundError: if the unchanged plan cannot be fitted.
        """
        while (number := len(self.done)) < trials:
            # Seeded by the trial's number, so that a resumed search makes the same choices.
            seed = noise.derive(self.plan.seed, "trials", number) % 2**32
            self.study.sampler = self.optuna.samplers.TPESampler(seed=seed)
            if not number:
                self.study.enqueue_trial(self._usual())
            asked = self.study.ask()
            trial = self._tried(number, self._drawn(asked), seconds)
            asked.set_user_attr("trial", asdict(trial))
            if trial.log_p is None:
                self.study.tell(asked, state=self.optuna.trial.TrialState.FAIL)
            else:
                self.study.tell(asked, trial.log_p)
            told(trial, self.ranked[0])

    def best(self) -> Plan:
        """Return the plan of the best trial."""
        return changed(self.plan, self.ranked[0].changes)

    def _usual(self) -> dict[str, Any]:
        """Return the plan's value of each setting that is searched for."""
        usual: dict[str, Any] = {}
        if len(self.names) > 1:
            usual["recipe"] = self.plan.recipe.name
        if self.plan.latent is None:
            usual["latent"] = self.width
        if self.plan.learning_rate is None:
            usual["learning_rate"] = optimiser_of(self.plan).learning_rate
        weighted = any(self.weights[name] for name in ("iwae", "tc", "mmd", "path", "capacity"))
        if "beta" not in self.plan.settings and not weighted:
            usual["beta"] = float(self.weights["beta"])
        return usual

    def _drawn(self, asked: Any) -> dict[str, Any]:
        """Draw the changes of one trial."""
        drawn: dict[str, Any] = {}
        for name, usual in self._usual().items():
            if name == "recipe":
                drawn[name] = asked.suggest_categorical(name, self.names)
            elif name == "latent":
                drawn[name] = asked.suggest_int(name, 1, max(4, 2 * usual), log=True)
            else:
                low, high = (usual * factor for factor in RANGES[name])
                drawn[name] = asked.suggest_float(name, low, high, log=True)
        return drawn

    def _tried(self, number: int, changes: Mapping[str, Any], seconds: float) -> Trial:
        """Fit and judge one trial; a fit that raises one of our errors is a failed trial."""
        within = TimeLimit(seconds).within(self.plan.time_limit)
        try:
            trained = learn(self.parts.learned, changed(self.plan, changes), limit=within)
        except LowerboundError as error:
            if not number:
                raise
            return Trial(number, dict(changes), failure=f"{error.code} {error.message}")
        history = trained.facts["history"]
        if history["stopped"] == "interrupt":
            raise KeyboardInterrupt
        # The same number of samples for every trial: the bound depends on it.
        nats = trained.log_likelihood(self.parts.judged, SCORE_SAMPLES)
        spread = float(nats.std(ddof=1)) / math.sqrt(len(nats))
        seconds = history["checks"][-1]["seconds"]
        return Trial(number, dict(changes), float(nats.mean()), spread, trained.latent, seconds)


def changed(plan: Plan, changes: Mapping[str, Any]) -> Plan:
    """Return the plan with the changes of a trial."""
    fields = {name: value for name, value in changes.items() if name != "beta"}
    more = {"beta": changes["beta"]} if "beta" in changes else {}
    return replace(plan, settings={**plan.settings, **more}, **fields)


def _optuna() -> Any:
    optuna = library("optuna", "searches need", "tune")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _study(folder: Path | None, identity: str) -> Any:
    """Return optuna's study; its trials are stored in a file in the folder."""
    optuna, storage = _optuna(), None
    if folder is not None:
        journal = importlib.import_module("optuna.storages.journal")
        file = journal.JournalFileBackend(str(folder / "trials.log"))
        storage = optuna.storages.JournalStorage(file)
        _refuse_another(storage, identity, folder)
    return optuna.create_study(
        study_name=identity, direction="maximize", storage=storage, load_if_exists=True
    )


def _refuse_another(storage: Any, identity: str, folder: Path) -> None:
    others = [study.study_name for study in storage.get_all_studies()]
    if others and identity not in others:
        raise UsageError(
            "E250",
            f"{folder.name} holds the trials of another search: other data, plan or recipes",
            fix="repeat the earlier command to continue it, or --resume never to start again",
            path=str(folder),
        )
