"""Jobs on a Ray cluster: distributed training, and independent pieces of work.

Ray starts and places the processes and restarts those that die; they run the same code as on one
machine. Ray is imported only here.

References:
    Moritz et al., "Ray: a distributed framework for emerging AI applications", 2018,
    https://arxiv.org/abs/1712.05889
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lowerbound.cli.progress import SILENT, Voice
from lowerbound.errors import LowerboundError, ResourceError, Stopped
from lowerbound.optional import library

RESTARTS = 3  # restarts after the death of a worker, before the job fails
# No usage reports. Workers of a local cluster get the usual priority: with Ray's default, a low
# one, they never start on a busy machine.
_USUAL = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",
}
_ANSWER = 10.0  # seconds to wait for the answer of a cluster
_POLL = 0.5  # seconds between two polls of the workers' messages


@contextmanager
def cluster() -> Iterator[Any]:
    """Connect to the cluster at RAY_ADDRESS, or start a local one for the time of the block.

    Yields:
        The module ray.

    Raises:
        ResourceError: E310 if Ray is not installed, E311 if no cluster answers.
    """
    for name, value in _USUAL.items():
        os.environ.setdefault(name, value)
    ray = _part("ray")
    begun = not ray.is_initialized()
    if begun:
        _join(ray, os.environ.get("RAY_ADDRESS", ""))
    try:
        yield ray
    finally:
        if begun and ray.is_initialized():
            ray.shutdown()


def _join(ray: Any, address: str) -> None:
    here = {} if address else {"include_dashboard": False}
    try:
        _knock(address)
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **here)
    except (OSError, ray.exceptions.RayError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ResourceError(
            "E311",
            f"no Ray cluster answers{address and ' at '}{address}: {reason[:200]}",
            fix="ray start --head, or unset RAY_ADDRESS to start a local one; a cluster that "
            "requires tokens needs RAY_AUTH_MODE=token here too",
        ) from error


def _knock(address: str) -> None:
    """Raise an OSError if nothing listens at an address; Ray itself would try for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), _ANSWER).close()


def _here(ray: Any, kind: type) -> Any:
    """Start an actor on this machine, so that the job does not depend on another one."""
    at = _part("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    node = at(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=node)(kind).remote()


class _Desk:
    """Queue of the workers' messages, kept by an actor and polled by the driver of the job."""

    def __init__(self) -> None:
        self.said: list[tuple[str, tuple[Any, ...]]] = []
        self.error: LowerboundError | None = None

    def tell(self, how: str, *what: Any) -> None:
        self.said.append((how, what))

    def taken(self) -> list[tuple[str, tuple[Any, ...]]]:
        said, self.said = self.said, []
        return said

    def fail(self, error: LowerboundError) -> None:
        self.error = self.error or error

    def failed(self) -> LowerboundError | None:
        return self.error


class _Remote:
    """A voice that sends its messages to the desk."""

    began: float | None = None  # clocks of two machines differ: time counts from the call

    def __init__(self, desk: Any) -> None:
        self.desk = desk

    def say(self, line: str) -> None:
        self.desk.tell.remote("say", line)

    def report(self, check: Any, budget: Any) -> None:
        self.desk.tell.remote("report", check, budget)

    def beat(self, pulse: Any) -> None:
        self.desk.tell.remote("beat", pulse)

    def show(self, share: float, line: str) -> None:
        self.desk.tell.remote("show", share, line)

    def close(self) -> None:
        """Do nothing: the driver closes its own voice."""


def together(
    work: Callable[[Voice], Any], workers: int | None, voice: Voice, device: str | None
) -> Any:
    """Run the same work in several processes that form torch's default group.

    A `LowerboundError` ends the job. If a worker dies, all workers are restarted and continue from
    their last committed state.

    Args:
        work: called in every process with the voice that receives its progress.
        workers: the number of processes; by default one per GPU, else one per core.
        voice: receives the progress of the first process.
        device: "cpu" to use no GPU.

    Returns:
        The return value of `work` in the first process.

    Raises:
        LowerboundError: an error of `work` in any process.
        ResourceError: E310, E311 as `cluster`.
        Stopped: E502 if workers died too often or Ray failed.
    """
    with cluster() as ray, tempfile.TemporaryDirectory(prefix="lowerbound-ray-") as storage:
        train, torch = _part("ray.train"), _part("ray.train.torch")
        gpus, count = _places(ray, workers, device)
        desk = _here(ray, _Desk)
        trainer = torch.TorchTrainer(
            _joined(work, desk),
            scaling_config=train.ScalingConfig(
                num_workers=count,
                use_gpu=gpus,
                resources_per_worker=_share(ray, count, gpus),
                placement_strategy="PACK" if gpus else "SPREAD",
            ),
            run_config=train.RunConfig(
                storage_path=storage, failure_config=train.FailureConfig(max_failures=RESTARTS)
            ),
        )
        with _heard(ray, desk, voice):
            try:
                made = _interruptible(trainer.fit).return_value
            except (train.TrainingFailedError, ray.exceptions.RayError) as error:
                raise (_refusal(ray, desk) or _died(error)) from error
        failed = ray.get(desk.failed.remote())
        if failed is not None:
            raise failed
        return made


def apart(
    make: Callable[[], Callable[[int], Any]], count: int, workers: int | None, voice: Voice
) -> Iterator[Any]:
    """Process pieces of work in a Ray Data job, and yield the result of each.

    Args:
        make: called once in every worker; returns the function that processes piece number i.
        count: the number of pieces.
        workers: the largest number of processes; by default as many as the cluster has room for.
        voice: receives the number of finished pieces.

    Raises:
        LowerboundError: an error of the work.
        ResourceError: E310, E311 as `cluster`.
        Stopped: E502 if Ray failed.
    """
    with cluster() as ray:
        data, errors = _part("ray.data"), ray.exceptions
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # progress goes to the voice instead
        gpus, most = _places(ray, workers, None)
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        places = {"num_gpus": 1} if gpus else {"num_cpus": _share(ray, most, gpus)["CPU"]}
        job = data.range(count, override_num_blocks=count).map(
            _Worker,
            fn_constructor_args=(make,),
            compute=data.ActorPoolStrategy(min_size=1, max_size=min(most, count)),
            **places,
        )
        try:
            for done, row in enumerate(job.iter_rows(), 1):
                made = pickle.loads(row["made"])
                if isinstance(made, LowerboundError):
                    raise made
                voice.show(done / count, f"{done:,} of {count:,} files")
                yield made
        except (errors.RayError, data.exceptions.UserCodeException) as error:
            raise _died(error) from error


class _Worker:
    """One process of a Ray Data job, which does costly work, such as loading a model, once."""

    def __init__(self, make: Callable[[], Callable[[int], Any]]) -> None:
        self.work = make()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            made = self.work(int(row["id"]))
        except LowerboundError as error:  # returned: Ray would retry a raised error in vain
            made = error
        return {"made": pickle.dumps(made)}


def _joined(work: Callable[[Voice], Any], desk: Any) -> Callable[[], Any]:
    """Return the function that each process runs."""

    def run() -> Any:
        ray, train = _part("ray"), _part("ray.train")
        if ray.get(desk.failed.remote()) is not None:  # failed before this restart
            return None
        first = train.get_context().get_world_rank() == 0
        try:
            return work(_Remote(desk) if first else SILENT)
        except Stopped:  # another worker died
            raise
        except LowerboundError as error:
            ray.get(desk.fail.remote(error))
            raise

    return run


def _part(name: str) -> Any:
    return library(name, "--ray needs", "ray")


def _places(ray: Any, workers: int | None, device: str | None) -> tuple[bool, int]:
    """Return whether each process has a GPU, and the number of processes."""
    there = ray.cluster_resources()
    gpus = int(there.get("GPU", 0)) if device != "cpu" else 0
    return gpus > 0, workers or gpus or max(1, int(there.get("CPU", 1)))


def _share(ray: Any, workers: int, gpus: bool) -> dict[str, float]:
    """Return the resources of a process; less than one core if Ray itself needs the room."""
    cores = ray.cluster_resources().get("CPU", 1)
    share = min(1.0, cores / (2 * workers))
    return {"CPU": share, **({"GPU": 1} if gpus else {})}


def _refusal(ray: Any, desk: Any) -> LowerboundError | None:
    """Return the error of a worker, or None without one or if the desk has died too."""
    with suppress(ray.exceptions.RayError):
        return ray.get(desk.failed.remote())
    return None


def _interruptible(fit: Callable[[], Any]) -> Any:
    """Turn the SystemExit of Ray's handler of Ctrl-C, which stops workers, into an interrupt."""
    before = signal.getsignal(signal.SIGINT)
    try:
        return fit()
    except SystemExit:
        raise KeyboardInterrupt("stopped; the same command goes on") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


@contextmanager
def _heard(ray: Any, desk: Any, voice: Voice) -> Iterator[None]:
    """Pass the messages of the first worker to `voice` while the block runs."""
    ended = threading.Event()

    def listen() -> None:
        last = False
        with suppress(ray.exceptions.RayError):  # the cluster may be gone
            while not last:
                last = ended.wait(_POLL)
                for how, what in ray.get(desk.taken.remote()):
                    getattr(voice, how)(*what)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=10)


def _died(error: Exception) -> Stopped:
    cause = error.__cause__ or error
    said = str(cause).strip().splitlines() or [""]
    return Stopped(
        "E502",
        f"workers of Ray died too often: {type(cause).__name__}: {said[-1][:200]}",
        fix="the same command goes on; --debug shows what Ray says",
    )
