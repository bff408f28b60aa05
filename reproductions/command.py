"""The commands list, show and run of ``python -m reproductions``."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

from cyclopts import Parameter

from lowerbound.cli.flags import Heard, Name, Out, Whole
from lowerbound.cli.progress import SILENT
from lowerbound.cli.result import Result
from lowerbound.cli.verbs import Program, Verb

_GROUP = "Commands"

PROGRAM = Program(
    "python -m reproductions",
    "repeat the published experiments",
    {
        "list": Verb("reproductions.command:every", _GROUP, "", "all experiments"),
        "show": Verb("reproductions.command:show", _GROUP, "NAME", "one experiment"),
        "run": Verb("reproductions.command:run", _GROUP, "NAME", "train and evaluate its models"),
    },
    {},
    "list",
)


def _work() -> Any:
    return import_module("reproductions.report")  # imports torch: --help does not wait


def every(*, results: Out = None) -> Result:
    """List the experiments: the published value of every model, and ours.

    Examples:
        python -m reproductions list

    Args:
        results: folder of the JSON files; by default reproductions/results.
    """
    work = _work()
    return work.listed(work.results_folder(results))


def show(name: str | None = None, /, *, results: Out = None) -> Result:
    """Show one experiment: its paper, data, models and scales, and which claims hold.

    Examples:
        python -m reproductions show iwae-mnist

    Args:
        name: the experiment.
        results: folder of the JSON files; by default reproductions/results.
    """
    work = _work()
    return work.shown(work.named(name, "show"), work.results_folder(results))


def run(  # noqa: PLR0913 - the arguments are the flags
    name: str | None = None,
    /,
    *,
    scale: Name = "short",
    seeds: Whole = 1,
    arm: Annotated[Sequence[str], Parameter(metavar="ARM", negative=())] = (),
    device: Name = None,
    states: Out = None,
    results: Out = None,
    download: bool = False,
    voice: Heard = SILENT,
) -> Result:
    """Train every model of an experiment, evaluate it on the test set, and write a JSON file.

    The file holds the published values and ours. The same command continues an interrupted run.
    Data sets are read from the folder named by LOWERBOUND_DATA.

    Examples:
        python -m reproductions run iwae-mnist --scale smoke

    Args:
        name: the experiment.
        scale: smoke (a quick test), short, or full (as in the paper).
        seeds: number of repetitions, with the seeds 0, 1, ...
        arm: one model of the experiment; repeat it for more. By default all of them.
        device: cpu, cuda, ...; by default a GPU where there is one.
        states: folder of the states and results of single models; by default ./NAME.states.
        results: folder of the JSON files; by default reproductions/results.
        download: download missing data sets to the folder named by LOWERBOUND_DATA.
        voice: receives the progress.
    """
    work = _work()
    folder = work.results_folder(results)
    extent = work.Extent(str(scale), seeds, tuple(arm), states, device, download)
    return work.run(work.named(name, "run"), extent, folder, voice)
