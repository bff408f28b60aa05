"""Record a fit in a local store of TensorBoard or MLflow, through their own client libraries.

A store is a folder, such as ``tensorboard:logs`` or ``mlflow:store``. Nothing is sent anywhere: a
location on a server is refused, and the usage statistics that MLflow would send are switched off.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from lowerbound._version import __version__
from lowerbound.errors import LowerboundError, UsageError, nearest
from lowerbound.optional import library
from lowerbound.tasks.trained import Model
from lowerbound.training.callbacks import TrainingCheck
from lowerbound.training.plan import Plan
from lowerbound.training.split import Say

EXPERIMENT = "lowerbound"
_MEASURED = ("bound", "loss", "train_elbo", "active", "rows_per_second")


class Store(Protocol):
    """A store that one fit is recorded in.

    Attributes:
        place: where the fit is recorded, for the user.
    """

    place: str

    def begin(self, parameters: Mapping[str, str]) -> None:
        """Record the parameters of the fit."""
        ...

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Record values by name at a step."""
        ...

    def end(self, finished: bool) -> None:
        """Close the record; `finished` is False if the fit failed or was interrupted."""
        ...


class TensorBoard:
    """Event files, written by torch's ``SummaryWriter``.

    Args:
        folder: the folder of all runs.
        name: of the run, a folder in it. A new fit of the same name hides the earlier one.
        resumed: whether the fit continues an earlier one, and so its curves.
    """

    def __init__(self, folder: Path, name: str, resumed: bool) -> None:
        library("tensorboard", "recording in TensorBoard needs", "track")
        writer = library("torch.utils.tensorboard", "recording in TensorBoard needs", "track")
        self.place = str(folder / name)
        self._writer = writer.SummaryWriter(self.place, purge_step=None if resumed else 0)

    def begin(self, parameters: Mapping[str, str]) -> None:
        """Record the parameters as text, in a table."""
        lines = [f"| {name} | {value} |" for name, value in parameters.items()]
        self._writer.add_text("plan", "\n".join(["| option | value |", "| - | - |", *lines]))

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Record values by name at a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def end(self, finished: bool) -> None:
        """Close the event file."""
        self._writer.close()


class MLflow:
    """A run of the experiment "lowerbound" in ``mlflow.db``, written by ``MlflowClient``.

    Args:
        folder: the folder of ``mlflow.db``.
        name: of the run.
        resumed: whether the fit continues an earlier one, and so its run.
    """

    def __init__(self, folder: Path, name: str, resumed: bool) -> None:
        # Read when mlflow is first imported: it would send statistics on its use.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for each in ("sqlalchemy", "alembic"):
            library(each, "recording in MLflow needs", "track")
        tracking = library("mlflow.tracking", "recording in MLflow needs", "track")
        for noisy in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "mlflow.db"
        self.place = f"{path}, run {name}"
        self._client = tracking.MlflowClient(tracking_uri=f"sqlite:///{path}")
        found = self._client.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found else self._made(folder)
        earlier = self._earlier(experiment, name) if resumed else None
        run = earlier or self._client.create_run(experiment, run_name=name).info.run_id
        self._run = run
        self._client.update_run(run, status="RUNNING")

    def _made(self, folder: Path) -> str:
        artifacts = (folder / "mlartifacts").as_uri()
        return self._client.create_experiment(EXPERIMENT, artifact_location=artifacts)

    def _earlier(self, experiment: str, name: str) -> str | None:
        """Return the last run of this name that did not finish."""
        for run in self._client.search_runs([experiment], order_by=["start_time DESC"]):
            if run.info.run_name == name:
                return None if run.info.status == "FINISHED" else run.info.run_id
        return None

    def begin(self, parameters: Mapping[str, str]) -> None:
        """Record the parameters."""
        for name, value in parameters.items():
            with suppress(Exception):  # a parameter of a resumed run cannot be changed
                self._client.log_param(self._run, name, value[:500])
        self._client.set_tag(self._run, "lowerbound", __version__)

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Record values by name at a step."""
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def end(self, finished: bool) -> None:
        """End the run: finished, or killed, so that a resumed fit continues it."""
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")


STORES = {"tensorboard": TensorBoard, "mlflow": MLflow}
_FOLDERS = {"tensorboard": "runs", "mlflow": "."}  # the usual place of each, beside the model


class Tracking:
    """The stores that a fit is recorded in; none may end it.

    Args:
        stores: the open stores.
        say: told if a store fails, which is then left out.
    """

    def __init__(self, stores: Sequence[Store] = (), say: Say = lambda line: None) -> None:
        self._stores, self._say, self._last = list(stores), say, 0

    def _each(self, work: Any) -> None:
        for store in list(self._stores):
            try:
                work(store)
            except Exception as error:
                self._stores.remove(store)
                reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
                self._say(f"track      stopped recording in {store.place}: {reason}")

    def begin(self, plan: Plan, rows: int) -> None:
        """Record the options of the fit."""
        flat = dict(_flat(plan.document()))
        told = {**flat, "rows": f"{rows}", "lowerbound": __version__}
        for store in self._stores:
            self._say(f"track      {store.place}")
        self._each(lambda store: store.begin(told))

    def check(self, told: TrainingCheck) -> None:
        """Record a check; a callback of the fit."""
        values = {f"{told.stage}/{name}": float(getattr(told, name)) for name in _MEASURED}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._last = told.step
        self._each(lambda store: store.add(finite, told.step))

    def end(self, model: Model | None, interrupted: bool = False) -> None:
        """Record the results of the fit, and close the stores.

        Args:
            model: the model, or None if the fit failed.
            interrupted: whether the fit was ended early and can be continued.
        """
        if model is not None and not interrupted:
            found = {
                "final/valid_elbo": model.facts.get("valid_elbo"),
                "final/threshold": model.alarm.threshold,
                "final/expected_alarm_rate": model.alarm.rate,
                "final/active": model.facts.get("health", {}).get("active"),
            }
            values = {
                name: float(value)
                for name, value in found.items()
                if isinstance(value, int | float) and math.isfinite(value)
            }
            self._each(lambda store: store.add(values, self._last))
        self._each(lambda store: store.end(model is not None and not interrupted))
        self._stores.clear()


def _flat(document: Mapping[str, Any], start: str = "") -> list[tuple[str, str]]:
    """Return the options of a plan as names and texts; those without a value are left out."""
    found = []
    for name, value in document.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{start}{name}.")
        elif value not in (None, [], ()):
            safe = re.sub(r"[^\w./ -]", "_", f"{start}{name}")  # the characters that MLflow allows
            found.append((safe, str(value)))
    return found


def checked_stores(track: str | Sequence[str] | None) -> tuple[tuple[str, str], ...]:
    """Return the names and folders that ``track=`` or ``--track`` asks for.

    Args:
        track: "tensorboard", "mlflow", either with ":FOLDER", or several of them.

    Raises:
        UsageError: E241 for another name, E277 for a location that is not a folder.
    """
    some = (track,) if isinstance(track, str) else track or ()
    found = []
    for text in (part.strip() for each in some for part in str(each).split(",")):
        name, colon, place = text.partition(":")
        if name not in STORES:
            close = nearest(name, STORES) or "tensorboard"
            raise UsageError(
                "E241",
                f"--track must be one of {', '.join(STORES)}, each with a folder if wanted "
                f"(tensorboard:logs), got {text!r}",
                fix=f"--track {close}",
            )
        if "://" in place or (colon and not place):
            raise UsageError(
                "E277",
                f"--track {name} takes a folder, got {place!r}",
                fix=f"--track {name}:FOLDER, or --track {name}",
            )
        found.append((name, place))
    return tuple(dict.fromkeys(found))


def tracking(
    stores: Sequence[tuple[str, str]], target: Path | None, resumed: bool, say: Say
) -> Tracking:
    """Open the stores that a fit is recorded in.

    Args:
        stores: names and folders, from `checked_stores`; a folder of "" is beside the model.
        target: the path of the model, whose name is that of the run, or None.
        resumed: whether the fit continues an earlier one.
        say: told of the stores, and if one fails.

    Raises:
        ResourceError: E310 if a library is not installed.
        UsageError: E278 if a store cannot be opened.
    """
    opened: list[Store] = []
    beside = Path.cwd() if target is None else target.absolute().parent
    run = "model" if target is None else target.stem or "model"
    for name, place in stores:
        folder = Path(place).absolute() if place else beside / _FOLDERS[name]
        try:
            opened.append(STORES[name](folder, run, resumed))
        except LowerboundError:
            raise
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
            raise UsageError(
                "E278",
                f"{name} cannot record in {folder}: {reason}",
                fix=f"--track {name}:FOLDER with another folder",
            ) from error
    return Tracking(opened, say)
