"""The verb recipe: the experiments of the papers, listed, shown and run."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

from cyclopts import Parameter

from lowerbound.errors import UsageError, nearest
from lowerbound.progress import SILENT
from lowerbound.verbs.flags import Heard, Name, Out, Whole
from lowerbound.verbs.result import Result

_ACTIONS = ("list", "show", "run")


def recipe(  # noqa: PLR0913 - a verb's arguments are its flags
    action: str = "list",
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
    """Repeat the experiments of the papers: list them, show one, or run one.

    A run trains every model of the experiment, evaluates it on the test set, and writes a JSON
    with ours beside the paper's. It keeps its states: the same command goes on where it was.
    The data sets are looked for in the folder that LOWERBOUND_DATA names.

    Examples:
        lowerbound recipe list
        lowerbound recipe show iwae-mnist
        lowerbound recipe run iwae-mnist --scale smoke

    Args:
        action: list, show or run.
        name: the experiment.
        scale: smoke (does it run?), short, or full (as in the paper).
        seeds: how many times everything is done, with the seeds 0, 1, ...
        arm: one model of the experiment; repeat it for more. By default all of them.
        device: cpu, cuda, ...; a GPU where there is one.
        states: folder of the states and results of single models; by default NAME.states here.
        results: folder of the JSONs; by default benchmarks/results here.
        download: get a data set that is not there, to the folder that LOWERBOUND_DATA names.
        voice: hears how it goes; in Python nobody does.
    """
    if action not in _ACTIONS:
        close = nearest(action, _ACTIONS) or "list"
        raise UsageError(
            "E241",
            f"recipe has no action {action!r} (it has {', '.join(_ACTIONS)})",
            fix=f"lowerbound recipe {close}",
        )
    work = import_module("lowerbound.verbs.reproducing")  # torch: seconds --help does not wait
    folder = work.results_folder(results)
    if action == "list":
        return work.listed(folder)
    chosen = work.named(name, action)
    if action == "show":
        return work.shown(chosen, folder)
    return work.run(
        chosen, work.Extent(str(scale), seeds, tuple(arm), states, device, download), folder, voice
    )
