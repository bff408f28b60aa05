"""Anomalous pictures: which score tells them from usual ones, against PCA and isolation forests.

Tasks:

- solar: cells of solar modules (ELPV). The data's authors give each a probability of a defect,
  from an expert's verdict and confidence: 0 functional, 1/3 functional but unsure, 2/3 defective
  but unsure, 1 defective. As they group them, 2/3 and 1 are the defective ones. A model learns
  from half of the cells of probability 0, and the others are told from the defective ones; that
  half is drawn with the seed. Those of 1/3 count as neither; what becomes of them, and of the sure
  ones alone, is reported too.
- mnist: a model of digits, and Fashion-MNIST as anomalies. fashion-mnist: the other way round,
  where raw likelihood is known to fail (Nalisnick et al., 2019).
- digit 0 to digit 9: a model of one digit, and the nine others as anomalies.

Scores of our models, higher being stranger: -log p ("likelihood"), its distance to the mean of
held-out rows ("typicality"), and LLR^{>k} of Havtorn et al. (2021) with the lowest level drawn
from its prior ("levels", k = 1). All were chosen before any result was seen, and nothing is tuned
on test pictures; further k are in the JSON for what they are, a look at the test pictures.
"default" is the recipe that `lowerbound fit FOLDER` takes for pictures of the size, "ladder" the
recipe conv_ladder as it is, "conv" one level of 64 latents whose pixels share a sigma: what it
has to say of a picture goes through one bottleneck, as with a PCA. That arm came after the others
had been seen, and was chosen on training pictures of the digits 2 and 8. A bar holds where a
score has a higher AUROC than both baselines.

Every fit is stored when it is done; the same command goes on after the last one.

    LOWERBOUND_DATA=folder python benchmarks/image_anomalies.py [--minutes 5] [--tasks ...]
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score

import results_file
from labelled_pictures import labelled, solar_cells
from lowerbound import Model, Plan
from lowerbound.files.read import read
from lowerbound.nn.trace import Trace, posterior_mean
from lowerbound.recipes import suggest
from lowerbound.tasks.typicality import LEVEL_SAMPLES, Typicality, level_bound
from lowerbound.training.fit import learn

MOST = 2_000  # test pictures of each kind
LEVELS = 1  # that the score "levels" draws from their prior
VARIANCE = 0.95  # that the components of the PCA keep
SCORES = ("likelihood", "typicality", "levels")
BASELINES = ("PCA", "IsolationForest")
OTHERS = {"mnist": "fashion-mnist", "fashion-mnist": "mnist"}
DIGITS = tuple(range(10))


class Task(NamedTuple):
    """What to learn from, and what to tell apart."""

    train: np.ndarray
    usual: np.ndarray
    anomalies: dict[str, np.ndarray]  # the first are those that count

    def pictures(self) -> np.ndarray:
        """All that is to be scored: the usual ones, then the anomalies of every kind."""
        return np.concatenate([self.usual, *self.anomalies.values()])


def some(pictures: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Return so many of the pictures at most, drawn at random."""
    return pictures[np.sort(rng.permutation(len(pictures))[:most])]


def solar(seed: int, most: int) -> Task:
    """Half of the functional cells, against the other half and those with defects."""
    cells, rng = solar_cells(), np.random.default_rng(seed)
    functional = rng.permutation(np.flatnonzero(cells.defect == 0))
    half = len(functional) // 2
    found = {
        "defective": cells.pictures[cells.defect > 0.5],
        "surely defective": cells.pictures[cells.defect == 1],
        "functional but unsure": cells.pictures[(cells.defect > 0) & (cells.defect < 0.5)],
    }
    train, usual = cells.pictures[functional[:half]], cells.pictures[functional[half:]]
    return Task(train, some(usual, most, rng), {k: some(v, most, rng) for k, v in found.items()})


def foreign(home: str, other: str, seed: int, most: int) -> Task:
    """One data set, and another one's pictures as anomalies."""
    rng, known = np.random.default_rng(seed), labelled(home)
    away = some(labelled(other).test, most, rng)
    return Task(known.train, some(known.test, most, rng), {other: away})


def one_digit(digit: int, seed: int, most: int) -> Task:
    """One digit, and all others as anomalies."""
    rng, known = np.random.default_rng(seed), labelled("mnist")
    same = known.test_labels == digit
    return Task(
        known.train[known.train_labels == digit],
        some(known.test[same], most, rng),
        {"other digits": some(known.test[~same], most, rng)},
    )


def task_of(name: str, seed: int, most: int, learned: int) -> Task:
    """Return a task by its name, with so many pictures to learn from at most."""
    if name == "solar":
        task = solar(seed, most)
    elif name.startswith("digit"):
        task = one_digit(int(name.split()[1]), seed, most)
    else:
        task = foreign(name, OTHERS[name], seed, most)
    return task._replace(train=some(task.train, learned, np.random.default_rng(seed)))


ARMS: dict[str, dict[str, Any]] = {
    "ladder": {"recipe": "conv_ladder"},
    "conv": {"recipe": "conv", "settings": {"likelihood": "shared"}},
}


def plan_of(arm: str, task: Task, seed: int, seconds: float) -> Plan:
    """Return the plan of one of our arms."""
    usual = suggest(read(task.train[:2]), {}).plan if arm == "default" else ARMS[arm]
    return Plan(**{**usual, "time_limit": seconds, "seed": seed})


def level_count(model: Model, pictures: np.ndarray) -> int:
    """Return how many levels of latents a model has."""
    batch = model.encode(pictures[:2])[1].rows.take(torch.arange(2))
    trace = Trace(posterior_mean, 2)
    with torch.no_grad():
        model.model(batch.x, trace, batch.context)
    return len(trace.sites)


def by_model(model: Model, pictures: np.ndarray) -> dict[str, np.ndarray]:
    """Return every score of every picture."""
    coded = model.encode(pictures)[1]
    nats = model.score_coded(coded)
    found = {
        "likelihood": nats,
        "typicality": Typicality(model.calibration).deviation(nats),
    }
    whole = level_bound(model.model, coded.rows, 0).numpy()
    for k in range(1, level_count(model, pictures)):
        name = "levels" if k == LEVELS else f"levels, k = {k}"
        found[name] = whole - level_bound(model.model, coded.rows, k).numpy()
    return found


def ours(arm: str, task: Task, seed: int, seconds: float) -> tuple[dict[str, np.ndarray], Any]:
    """Fit one of our arms; return its scores, and what is to be known of the fit."""
    began = time.perf_counter()
    model = learn(task.train, plan_of(arm, task, seed, seconds))
    fitted = time.perf_counter()
    found = by_model(model, task.pictures())
    check = model.facts["history"]["checks"][-1]
    facts = {
        "recipe": model.recipe.name,
        "arguments": model.arguments,
        "parameters": model.facts["parameters"],
        "steps": check["step"],
        "stopped": model.facts["history"]["stopped"],
        "fit_seconds": round(fitted - began, 1),
        "score_seconds": round(time.perf_counter() - fitted, 1),
    }
    return found, facts


def principal(task: Task, seed: int) -> np.ndarray:
    """Return the squared error of a reconstruction by principal components."""
    flat = [x.reshape(len(x), -1) / 255.0 for x in (task.train, task.pictures())]
    pca = PCA(VARIANCE, svd_solver="full").fit(flat[0])
    return np.square(pca.inverse_transform(pca.transform(flat[1])) - flat[1]).sum(1)


def forest(task: Task, seed: int) -> np.ndarray:
    """Return the anomaly score of an isolation forest on pixels."""
    flat = [x.reshape(len(x), -1) / 255.0 for x in (task.train, task.pictures())]
    return -IsolationForest(random_state=seed).fit(flat[0]).score_samples(flat[1])


def aurocs(task: Task, scores: np.ndarray) -> dict[str, float]:
    """Return the AUROC, in percent, of each kind of anomaly against the usual pictures."""
    sizes = np.cumsum([len(task.usual), *(len(x) for x in task.anomalies.values())])[:-1]
    usual, *strange = np.split(np.nan_to_num(scores, nan=np.inf), sizes)
    return {
        kind: 100
        * float(roc_auc_score(np.arange(len(usual) + len(s)) >= len(usual), np.r_[usual, s]))
        for kind, s in zip(task.anomalies, strange, strict=True)
    }


def measured(arm: str, name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Fit one arm on one task and return its AUROCs."""
    task, began = task_of(name, seed, options.most, options.learn), time.perf_counter()
    facts: dict[str, Any] = {}
    if arm in BASELINES:
        scores = {arm: (principal if arm == "PCA" else forest)(task, seed)}
    else:
        minutes = options.solar_minutes if name == "solar" else options.minutes
        scores, facts = ours(arm, task, seed, 60 * minutes)
    return {
        "auroc": {score: aurocs(task, found) for score, found in scores.items()},
        "train": len(task.train),
        "usual": len(task.usual),
        "anomalies": {kind: len(found) for kind, found in task.anomalies.items()},
        "seconds": round(time.perf_counter() - began, 1),
        **facts,
    }


def table_of(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the AUROC of what counts, mean over seeds: {task: {arm and score: percent}}."""
    table: dict[str, dict[str, float]] = {}
    for name, arms in results.items():
        row = table.setdefault(name, {})
        for arm, seeds in arms.items():
            every = [found["auroc"] for found in seeds.values()]
            for score in every[0]:
                label = score if arm in BASELINES else f"{arm}: {score}"
                row[label] = float(np.mean([next(iter(found[score].values())) for found in every]))
    digits = [row for name, row in table.items() if name.startswith("digit")]
    if len(digits) > 1:
        shared = [label for label in digits[0] if all(label in row for row in digits)]
        mean = {label: float(np.mean([row[label] for row in digits])) for label in shared}
        table["digits, mean"] = mean
    return table


def bars(table: dict[str, dict[str, float]]) -> dict[str, dict[str, bool]]:
    """Tell for each task which of the scores chosen beforehand beat both baselines."""
    return {
        name: {
            label: value > max(row[b] for b in BASELINES)
            for label, value in row.items()
            if label.rpartition(": ")[2] in SCORES
        }
        for name, row in table.items()
        if all(b in row for b in BASELINES)
    }


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--tasks", nargs="+", default=["solar", "mnist", "fashion-mnist", "digits"]
    )
    parser.add_argument("--classes", type=int, nargs="+", default=list(DIGITS), choices=DIGITS)
    parser.add_argument("--arms", nargs="+", default=["default", *ARMS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="of every fit")
    parser.add_argument(
        "--solar-minutes",
        type=float,
        default=20.0,
        help="of fits to solar cells: 5 times as large",
    )
    parser.add_argument("--most", type=int, default=MOST, help="test pictures of each kind")
    parser.add_argument("--learn", type=int, default=60_000, help="pictures to learn from at most")
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it works")
    options = parser.parse_args()
    if options.smoke:
        options.minutes = options.solar_minutes = 1 / 20
        options.most, options.learn, options.classes = 40, 400, [1]
        options.arms, options.seeds = ["default"], [0]
    digits = [f"digit {d}" for d in options.classes] if "digits" in options.tasks else []
    options.tasks = [name for name in options.tasks if name != "digits"] + digits
    return options


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    file = "image_anomalies" + ".smoke" * options.smoke
    chosen = ("minutes", "solar_minutes", "most", "learn")
    setting = {name: getattr(options, name) for name in chosen}
    setting["level_samples"] = LEVEL_SAMPLES
    results = results_file.earlier(file, setting)
    jobs = [
        (n, a, s)
        for n in options.tasks
        for s in options.seeds
        for a in (*BASELINES, *options.arms)
    ]
    for name, arm, seed in jobs:
        seeds = results.setdefault(name, {}).setdefault(arm, {})
        if str(seed) not in seeds:
            seeds[str(seed)] = measured(arm, name, seed, options)
        found = seeds[str(seed)]
        shown = {s: round(next(iter(a.values())), 1) for s, a in found["auroc"].items()}
        print(f"{name:14s} {arm:16s} seed {seed}: {shown}, {found['seconds']:.0f} s", flush=True)
        table = table_of(results)
        path = results_file.write(
            file,
            setting=setting,
            seeds=options.seeds,
            bars=bars(table),
            auroc=table,
            results=results,
        )
    print(path)


if __name__ == "__main__":
    main()
