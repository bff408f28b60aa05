"""Does the recipe `segment` tell classes as well as a U-Net, and what are few labels worth?

ISBI 2012, 30 slices in five folds of neighbours: Dice of the membranes (the foreground) with the
masks of all 24 other slices, of 3 and of 1. Data Science Bowl 2018, the 334 grey pictures, four
fifths to learn from: Dice of the nuclei, and how far the probabilities are from the frequencies.

Beside ours a U-Net: the same networks with the latents left out, which leaves the cross-entropy.
Both see the same crops in the same order for the same number of steps: as many as ours takes in
--minutes. With few labels both are trained a second time from the weights of a `denoise` model of
the fold's 24 slices, which needs no masks; these steps are extra. The lowest quarter of every
labelled slice, of the nuclei a tenth of the pictures, decide which weights are kept; nothing was
tuned on a test picture.

Every fit is stored when it is done; the same command goes on after the last one. The weights of
the `denoise` models are in --states, and are made again where they are gone.

Run: LOWERBOUND_DATA=... python benchmarks/segmentation.py [--minutes 5] [--width 16]
Needs scikit-image beside the library.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributions import Distribution

import results_file
from lowerbound import noise, recipes
from lowerbound.coding.augmentations import Composed, View, turned
from lowerbound.coding.crops import AugmentedRows, Crops, Paired, shares
from lowerbound.coding.degradations import USUAL_NOISE, noise_of
from lowerbound.coding.rows import Rows, subset
from lowerbound.nn.distributions.families import LatentGaussian
from lowerbound.nn.model import LatentModel
from lowerbound.nn.networks.unet import blocks
from lowerbound.nn.trace import Trace
from lowerbound.recipes.restoration import FOLD, multiple_of
from lowerbound.tasks import restore
from lowerbound.training.engine.loop import fit
from lowerbound.training.engine.settings import Budget
from lowerbound.training.fit import CLIP
from lowerbound.training.objective import objective_of
from lowerbound.training.plan import Plan, objective_settings, optimiser_of
from picture_scores import calibration_error, counts, dice, reliability
from segmentation_sets import FOLDS, Case, Pages, Part, membranes, nuclei

CROP = 64  # pixels, as in `lowerbound fit`
CROPS, HELD_CROPS = 4000, 128
DRAWS = 8  # whose mean are ours' probabilities
FEW, ALL = (1, 3), 24  # labelled slices
NUCLEI = 267  # labelled pictures of nuclei
NEAR = 0.01  # of Dice that ours may be below the U-Net's with all labels
PROBE = 20  # steps that tell how long one takes
MODELS = ("ours", "unet")
SEED = 0

Document = dict[str, Any]


@dataclass(frozen=True)
class Fit:
    """One training: of which set and fold, with so many labelled pictures, from which weights."""

    data: str
    fold: int
    labels: int
    model: str
    pretrained: bool = False

    def case(self, folder: Path) -> Case:
        """Return the pictures."""
        if self.data == "membranes":
            return membranes(folder, self.fold, self.labels)
        return nuclei(folder)

    @property
    def arm(self) -> str:
        """What its mean over the folds is called."""
        start = ", pretrained" if self.pretrained else ""
        return f"{self.data}, {self.labels} labelled, {self.model}{start}"

    @property
    def key(self) -> str:
        """What its result is stored under."""
        return f"{self.arm}, fold {self.fold}"


def fits(folds: int, few: Sequence[int]) -> Iterator[Fit]:
    """Yield every training, one fold after the other."""
    for fold in range(folds):
        for model in MODELS:
            yield Fit("membranes", fold, ALL, model)
        for labels in few:
            for pretrained in (False, True):
                for model in MODELS:
                    yield Fit("membranes", fold, labels, model, pretrained)
    for model in MODELS:
        yield Fit("nuclei", 0, NUCLEI, model)


class Plain(nn.Module):
    """The networks of a model of the recipe `segment` without its latents: a U-Net.

    Args:
        model: whose U-Net and likelihood are taken, as they were initialised.
        width: channels of the U-Net's finest scale.
    """

    def __init__(self, model: LatentModel, width: int) -> None:
        super().__init__()
        self.start, self.likelihood = model.start, model.likelihood
        self.body = blocks(width, len(model.levels))  # of which a level has one
        self.nothing = LatentGaussian()

    def forward(self, x: Tensor | None, trace: Trace, context: Tensor | None) -> Distribution:
        """Return p(x | y); the one latent is N(0, 1) whatever is given, and is not looked at."""
        h = trace.expand(self.start(context, trace.rows))
        p = self.nothing(h.new_zeros(trace.batch, 2, 1, 1))
        trace.draw("nothing", p, p)
        return self.likelihood(self.body(h))


def built(model: str, width: int) -> nn.Module:
    """Return a model with its first weights: those of both are alike as far as they go."""
    recipe = "denoise" if model == "denoise" else "segment"
    with noise.isolated(SEED, "weights"):
        made = recipes.find(recipe).make({"channels": 1, "width": width})
        made = Plain(made, width) if model == "unet" else made
    return made.to("cuda" if torch.cuda.is_available() else "cpu")


def crops(pages: Pages, rows: int) -> Crops:
    """Return about so many crops of pictures, at places that depend on their number alone."""
    return Crops(pages, CROP, -(-rows // len(pages)))


def pairs(part: Part, rows: int) -> Paired:
    """Return crops of masks and pictures at the same places."""
    return Paired(crops(part.masks, rows), crops(part.pictures, rows))


def some(rows: Rows) -> Rows:
    """Return the crops that a check looks at."""
    return subset(rows, torch.arange(min(len(rows), HELD_CROPS)))


def train(model: nn.Module, recipe: str, data: tuple[Rows, Rows], view: View, steps: int) -> Any:
    """Train in place for so many steps, as `lowerbound fit` would, and return the history."""
    rows, valid = data
    plain = {"prior_share": 0.0} if isinstance(model, Plain) else {}  # the cross-entropy, once
    plan = Plan(recipe=recipe, settings=plain, seed=SEED)
    objective = objective_of(model, objective_settings(plan), len(rows), steps)
    return fit(
        objective,
        rows,
        valid,
        budget=Budget(epochs=0, steps=steps, patience=10**6),
        optimiser=replace(optimiser_of(plan), clip=CLIP * CROP),
        seed=SEED,
        view=view,
    )


def steps_in(minutes: float, width: int, case: Case) -> int:
    """Return how many steps ours takes in a number of minutes, from a few of them."""
    rows, valid = pairs(case.train, CROPS), some(pairs(case.valid, HELD_CROPS))
    history = train(built("ours", width), "segment", (rows, valid), turned, PROBE)
    speed = history.checks[-1].rows_per_second / optimiser_of(Plan(recipe="segment")).batch_size
    return max(PROBE, round(60 * minutes * speed))


def start_of(job: Fit, case: Case, steps: int, options: argparse.Namespace) -> dict[str, Tensor]:
    """Return what a `denoise` model of the fold's slices has learned of pictures: its U-Net."""
    path = options.states / f"{options.width}-{steps}" / f"denoise-{job.fold}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        noisy = noise_of(USUAL_NOISE)
        clean, held = (crops(pages, CROPS) for pages in case.unlabelled)
        model = built("denoise", options.width)
        view = Composed(turned, noisy)
        train(model, "denoise", (clean, some(AugmentedRows(held, noisy))), view, steps)
        start = model.get_submodule("start").state_dict()
        weights = {name: t.cpu().contiguous() for name, t in start.items()}
        save_file(weights, path.with_suffix(".saving"))
        path.with_suffix(".saving").replace(path)
    return load_file(path)


def begin_from(model: nn.Module, weights: dict[str, Tensor]) -> int:
    """Copy the weights that fit into a model's U-Net, and return how many numbers they are."""
    start = model.get_submodule("start")
    own = start.state_dict()
    same = {n: t for n, t in weights.items() if n in own and own[n].shape == t.shape}
    start.load_state_dict({**own, **same})
    return sum(t.numel() for t in same.values())


def tested(model: nn.Module, part: Part, draws: int) -> Document:
    """Return what a model makes of the test pictures, each restored as a whole."""
    front, back, bins, begun = [], [], [], time.perf_counter()
    for picture, mask in zip(part.pictures, part.masks, strict=True):
        given = torch.from_numpy(np.moveaxis(shares(picture), -1, 0).copy())
        found = restore.restore(model, given, draws=draws, multiple=multiple_of(FOLD))
        p, truth = found.mean[1], mask[..., 0] > 0.5
        front.append(counts(p > 0.5, truth))
        back.append(counts(p <= 0.5, ~truth))
        bins.append(reliability(p, truth))
    return {
        "dice": dice(front),
        "background_dice": dice(back),
        "mean_dice_of_pictures": float(np.mean([dice([mask]) for mask in front])),
        "calibration_error": calibration_error(bins),
        "pictures": len(front),
        "test_seconds": time.perf_counter() - begun,
    }


def tested_fit(job: Fit, steps: int, options: argparse.Namespace) -> Document:
    """Train and test one model."""
    case = job.case(options.data)
    model, copied = built(job.model, options.width), 0
    if job.pretrained:
        copied = begin_from(model, start_of(job, case, steps, options))
    rows, valid = pairs(case.train, CROPS), some(pairs(case.valid, HELD_CROPS))
    history = train(model, "segment", (rows, valid), turned, steps)
    few = slice(2 if options.smoke else None)
    part = Part(case.test.pictures[few], case.test.masks[few])
    return {
        **asdict(job),
        **tested(model, part, DRAWS if job.model == "ours" else 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "copied_parameters": copied,
        "steps": history.checks[-1].step,
        "kept_step": history.checks[history.best].step,
        "seconds": history.checks[-1].seconds,
    }


def summary(results: Sequence[Document]) -> dict[str, Document]:
    """Return means and standard deviations over the folds of every arm."""
    arms: dict[str, list[Document]] = {}
    for each in results:
        names = ("data", "fold", "labels", "model", "pretrained")
        arms.setdefault(Fit(**{name: each[name] for name in names}).arm, []).append(each)
    told = ("dice", "background_dice", "mean_dice_of_pictures", "calibration_error", "seconds")
    return {
        arm: {
            **{k: each[0][k] for k in ("data", "labels", "model", "pretrained", "parameters")},
            "folds": len(each),
            "mean": {k: float(np.mean([e[k] for e in each])) for k in told},
            "sd": {k: float(np.std([e[k] for e in each], ddof=1)) for k in told}
            if len(each) > 1
            else {},
        }
        for arm, each in arms.items()
    }


def bars(arms: dict[str, Document]) -> dict[str, bool]:
    """Tell which bars hold, in the mean over the folds: of those whose two arms are there."""
    found: dict[str, bool] = {}

    def compare(claim: str, job: Fit, pretrained: bool, below: float) -> None:
        ours, unet = (
            arms.get(replace(job, **change).arm)
            for change in ({"model": "ours", "pretrained": pretrained}, {"model": "unet"})
        )
        if ours and unet and ours["folds"] == unet["folds"]:
            found[claim] = ours["mean"]["dice"] > unet["mean"]["dice"] - below

    for data, labels in (("membranes", ALL), ("nuclei", NUCLEI)):
        claim = f"{data}, all labels: within {100 * NEAR:g} Dice of the U-Net"
        compare(claim, Fit(data, 0, labels, ""), False, NEAR)
    for labels in FEW:
        claim = f"membranes, {labels} labelled: pretrained above the U-Net"
        compare(claim, Fit("membranes", 0, labels, ""), True, 0.0)
    return found


def setting_of(options: argparse.Namespace, steps: int) -> Document:
    """Return what two runs must share for the one to go on with the other's fits."""
    return {
        "width": options.width,
        "minutes": options.minutes,
        "steps": steps,
        "crop": CROP,
        "optimiser": repr(optimiser_of(Plan(recipe="segment"))),
        "prior_share": objective_settings(Plan(recipe="segment"))["prior_share"],
        "draws": DRAWS,
        "foreground": {"membranes": "membrane", "nuclei": "nucleus"},
        "pretraining": f"denoise, {USUAL_NOISE}, all {ALL} slices of the fold, "
        "as many steps again",
    }


def begun(file: str, options: argparse.Namespace) -> tuple[int, Document]:
    """Return the steps of every fit, and the fits that an earlier run has done."""
    path = results_file.RESULTS / f"{file}.json"
    if path.exists():
        steps = json.loads(path.read_text())["setting"]["steps"]
        if done := results_file.earlier(file, setting_of(options, steps)):
            return steps, done
    return steps_in(options.minutes, options.width, membranes(options.data, 0, ALL)), {}


def shown(key: str, each: Document) -> None:
    """Print what came of one fit."""
    print(
        f"{key}: Dice {100 * each['dice']:.2f}, calibration error "
        f"{each['calibration_error']:.2%}, {each['steps']} steps in {each['seconds']:.0f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="of a fit of ours")
    parser.add_argument("--width", type=int, default=16, help="of the U-Net")
    parser.add_argument("--folds", type=int, default=FOLDS, help="the first so many of 5")
    parser.add_argument("--few", type=int, nargs="*", default=list(FEW), help="labelled slices")
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that all of it runs")
    parser.add_argument("--data", type=Path, default=os.environ.get("LOWERBOUND_DATA", "data"))
    parser.add_argument("--states", type=Path, default=Path("segmentation.states"))
    options = parser.parse_args()
    if options.smoke:
        options.minutes, options.width, options.folds, options.few = 0.0, 4, 1, [1]
    file = "segmentation.smoke" if options.smoke else "segmentation"
    steps, results = begun(file, options)
    for job in fits(options.folds, options.few):
        if job.key not in results:
            results[job.key] = tested_fit(job, steps, options)
            arms = summary(list(results.values()))
            results_file.write(
                file,
                setting=setting_of(options, steps),
                bars=bars(arms),
                arms=arms,
                results=results,
            )
        shown(job.key, results[job.key])
    print(results_file.RESULTS / f"{file}.json")


if __name__ == "__main__":
    main()
