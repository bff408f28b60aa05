"""The verb demo: the whole way on a real table that ships inside scikit-learn."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score

from lowerbound.cli.commands.embed import embed
from lowerbound.cli.commands.fit import fit
from lowerbound.cli.commands.sample import sample
from lowerbound.cli.commands.score import score
from lowerbound.cli.flags import Heard, Out
from lowerbound.cli.outputs import Clock, spell_path
from lowerbound.cli.progress import SILENT, Voice
from lowerbound.cli.result import Result, Sheet
from lowerbound.errors import ResourceError, UsageError
from lowerbound.files.write import write_table

_MADE = ("train.csv", "test.csv", "benign.vae", "scores.csv", "embedding.csv", "samples.csv")
_SEED = 0


class _Tissue(NamedTuple):
    """The measurements of the benign training rows and of the test rows."""

    train: pa.Table
    test: pa.Table
    malignant: np.ndarray


def demo(*, out: Out = "demo", overwrite: bool = False, voice: Heard = SILENT) -> Result:
    """Learn what benign breast tissue looks like and find the malignant samples by it.

    The table has 569 samples of 30 measurements and ships inside scikit-learn. Half of the benign
    ones are learned; the model never sees a malignant one. Needs no network.

    Examples:
        lowerbound demo
        lowerbound demo --out /tmp/demo --overwrite

    Args:
        out: the folder to leave the data, the model and the results in.
        overwrite: replace an earlier demo.
        voice: receives the progress.
    """
    clock, folder = Clock(), _folder(out or "demo", overwrite)
    tissue = _tissue()
    paths = {name: folder / name for name in _MADE}
    write_table(tissue.train, paths["train.csv"], overwrite)
    test = tissue.test.append_column(
        "diagnosis", pa.array(np.where(tissue.malignant, "malignant", "benign"))
    )
    write_table(test, paths["test.csv"], overwrite)
    voice.say(
        f"{spell_path(paths['train.csv'])}: {tissue.train.num_rows} benign samples to learn from\n"
        f"{spell_path(paths['test.csv'])}: {test.num_rows} others, "
        f"{int(tissue.malignant.sum())} of them malignant"
    )
    table = _walk(paths, overwrite, voice)
    ours = np.asarray(table["anomaly_score"])
    facts = {
        "folder": str(folder),
        "seconds": clock(),
        "train_rows": tissue.train.num_rows,
        "test_rows": test.num_rows,
        "auroc": _auroc(tissue, ours),
        "auroc_isolation_forest": _auroc(tissue, _forest(tissue)),
        "files": [str(path) for path in paths.values()],
    }
    rows = [
        ("lowerbound", f"{facts['auroc']:.4f}"),
        ("IsolationForest", f"{facts['auroc_isolation_forest']:.4f}"),
    ]
    return Result(
        facts,
        lines=[
            f"OK: the whole demo took {clock():.0f} s. How well do the scores tell malignant "
            "samples from benign ones? (AUROC: 1 is perfect, 0.5 is guessing)"
        ],
        sheet=Sheet(("method", "AUROC"), rows, right=("AUROC",)),
        path=folder,
        next="lowerbound inspect YOUR.csv",
    )


def _folder(out: str | os.PathLike[str], overwrite: bool) -> Path:
    """Make the folder, or refuse it before any work."""
    folder = Path(out).absolute()
    taken = [name for name in _MADE if os.path.lexists(folder / name)]
    if taken and not overwrite:
        raise UsageError(
            "E220", f"{folder} has {taken[0]} in it already", fix="--overwrite", path=str(folder)
        )
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ResourceError(
            "E302",
            f"{folder} cannot be made: {error.strerror or error}",
            fix="--out /tmp/demo",
            path=str(folder),
        ) from None
    return folder


def _tissue() -> _Tissue:
    """Split the table: half of the benign rows to learn from, all others to test."""
    found: Any = load_breast_cancer()
    names = [str(name).replace(" ", "_") for name in found.feature_names]
    benign = np.flatnonzero(found.target == 1)
    malignant = np.flatnonzero(found.target == 0)
    order = np.random.default_rng(_SEED).permutation(benign)
    half = len(order) // 2
    test = np.sort(np.concatenate([order[half:], malignant]))

    def rows(index: np.ndarray) -> pa.Table:
        return pa.table({name: found.data[index, i] for i, name in enumerate(names)})

    return _Tissue(rows(np.sort(order[:half])), rows(test), found.target[test] == 0)


def _walk(paths: dict[str, Path], overwrite: bool, voice: Voice) -> Any:
    """Run the commands that a user would, and show them; return the scores."""
    train, test, model, scores, embedding, samples = (paths[name] for name in _MADE)
    spelt = {name: spell_path(path) for name, path in paths.items()}

    def step(command: str, result: Result) -> Any:
        for line in [
            f"\n$ lowerbound {command}",
            *result.lines,
            *(f"! {n}" for n in result.notes),
        ]:
            voice.say(line)
        return result.table

    on = f"{spelt['benign.vae']} {spelt['test.csv']}"
    step(
        f"fit {spelt['train.csv']} --out {spelt['benign.vae']} --alarm-rate 5%",
        fit(train, out=str(model), alarm_rate="5%", overwrite=overwrite, voice=_Steps(voice)),
    )
    table = step(
        f"score {on} --out {spelt['scores.csv']} --explain 3",
        score(model, test, out=str(scores), explain=3, overwrite=overwrite),
    )
    step(
        f"embed {on} --out {spelt['embedding.csv']}",
        embed(model, test, out=str(embedding), overwrite=overwrite),
    )
    step(
        f"sample {spelt['benign.vae']} -n 500 --out {spelt['samples.csv']}",
        sample(model, n=500, out=str(samples), overwrite=overwrite),
    )
    return table


class _Steps:
    """Pass on the progress of training, not its banner: the demo shows the command instead."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self.report, self.show = voice.report, voice.show
        self.close = voice.close

    def say(self, line: str) -> None:
        """Do nothing."""


def _auroc(tissue: _Tissue, scores: np.ndarray) -> float:
    return float(roc_auc_score(tissue.malignant, scores))


def _forest(tissue: _Tissue) -> np.ndarray:
    """Score the test rows with scikit-learn's own anomaly detector."""

    def matrix(table: pa.Table) -> np.ndarray:
        return np.stack([column.to_numpy() for column in table.columns], axis=1)

    forest = IsolationForest(random_state=_SEED).fit(matrix(tissue.train))
    return -forest.score_samples(matrix(tissue.test))
