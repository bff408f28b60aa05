"""How well do the recipes `denoise` and `upscale` restore, by the published protocols?

denoise: learned on Train400 with Gaussian noise of sigma 25, neither rounded nor cut
(`noise=raw:25`); tested on BSD68 and Set12, one fixed seed of the noise per picture. Beside it:
non-local means and wavelet shrinkage of scikit-image, told sigma, and published means.

upscale: four times, on Y of YCbCr; learned on Train400, tested on Set5, Set14 and BSD100 from
their LRx4, four pixels shaved off. The bicubic baseline is computed again and must be the
published one. Train400 shares no picture with a test set: the correlation of each of its crops
with every place of every test picture, at a quarter of the size, is nowhere above 0.95. Nothing
else is learned from: BSD68 is part of BSD100, Set12 shares pictures with Set14, and the other
pictures at hand are no photographs.

What is kept, pictures held out of Train400 decide; nothing was tuned on a test picture. A killed
run goes on where it was: states and scores are in --states.

Run: LOWERBOUND_DATA=... python benchmarks/restoration.py [--task denoise] [--minutes 240]
Needs scikit-image and PyWavelets beside the library.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from skimage.restoration import denoise_nl_means, denoise_wavelet

import results_file
from lowerbound.coding.pairs import read_pairs
from lowerbound.files.pictures import image_file
from lowerbound.files.pictures.folders import pictures_in
from lowerbound.files.write import atomic_write
from lowerbound.recipes import find
from lowerbound.recipes.restoration import FOLD, multiple_of
from lowerbound.tasks import restore
from lowerbound.tasks.trained import Trained
from lowerbound.training.engine.run_folder import RunFolder
from lowerbound.training.fit import learn
from lowerbound.training.plan import Plan
from picture_scores import Grey, codes, luma, luma_of_grey, psnr, ssim

SIGMA, SCALE = 25.0, 4
DRAWS = 8  # whose mean is the result
SURE = 1.96  # standard deviations within which 95 % of a Gaussian lie
TASKS = ("denoise", "upscale")
SETTINGS: dict[str, dict[str, Any]] = {
    "denoise": {"noise": f"raw:{SIGMA:g}"},
    "upscale": {"scale": SCALE},
}
DENOISING, ENLARGING = "denoise_train400_bsd68_set12", "sr_set5_set14_bsd100"
TESTS = {"denoise": ("BSD68", "Set12"), "upscale": ("Set5", "Set14", "BSD100")}

# Mean PSNR as published: Zhang et al., 2017 (DnCNN) and its repository; Kim et al., 2016 (VDSR).
PUBLISHED: dict[str, dict[str, dict[str, float]]] = {
    "denoise": {"BSD68": {"BM3D": 28.57, "DnCNN": 29.23}},
    "upscale": {
        "Set5": {"bicubic": 28.42, "VDSR": 31.35},
        "Set14": {"bicubic": 25.99, "VDSR": 27.99},
        "BSD100": {"bicubic": 25.96},
    },
}
NEAR = 0.05  # dB that the bicubic baseline may be away from the published one
BARS = {  # what ours must be above; the SSIM is that of the repository of DnCNN
    "denoise": {
        "BSD68 above BM3D's 28.57 dB": ("BSD68", "psnr", 28.57),
        "BSD68 above BM3D's SSIM of 0.8017": ("BSD68", "ssim", 0.8017),
    },
    "upscale": {"Set5 above 30.0 dB": ("Set5", "psnr", 30.0)},
}

Scores = dict[str, Any]


def plan_of(task: str, options: argparse.Namespace) -> Plan:
    """Return the fit: the recipe's own settings, as long as --minutes say."""
    return Plan(
        recipe=task,
        settings={**SETTINGS[task], "width": options.width},
        preset="best",
        time_limit=60 * options.minutes,
        precision=options.precision,
    )


def trained(task: str, options: argparse.Namespace, folder: Path) -> Trained:
    """Train, or go on with it."""
    frame = read_pairs(options.data / DENOISING / "Train400", None, find(task).restoration)
    if options.smoke:
        frame = frame.first(10)
    if task == "upscale":
        frame = replace(frame, pictures=[luma_of_grey(picture) for picture in frame.pictures])

    def report(check: Any, budget: Any) -> None:
        told = f"step {check.step}, {check.seconds:.0f} s, {check.valid_bound:.1f} nats"
        print(f"  {told}", flush=True)

    with RunFolder(folder / "training") as run:
        made = learn(frame, plan_of(task, options), run=run, report=report, say=print)
    if made.facts["history"]["stopped"] == "interrupt":
        raise SystemExit("stopped; the same command goes on")
    made.save(folder / f"{task}.vae", overwrite=True)
    return made


def judged(guesses: Mapping[str, Grey], truth: Grey, shave: int = 0) -> Scores:
    """Return PSNR and SSIM of every guess."""
    inner = slice(shave, -shave or None), slice(shave, -shave or None)
    return {
        what: {name: measure(guess[inner], truth[inner]) for name, guess in guesses.items()}
        for what, measure in (("psnr", psnr), ("ssim", ssim))
    }


def sureness(found: restore.Restored, truth: Grey) -> Scores:
    """Return how the uncertainty and the error go together."""
    error, spread = truth / 255 - found.mean[0], found.spread[0]
    return {
        "covered": float((np.abs(error) <= SURE * spread).mean()),
        "mean_square_error": float(np.square(255 * error).mean()),
        "mean_variance": float(np.square(255 * spread).mean()),
    }


def denoised(model: torch.nn.Module, path: Path, number: int) -> Scores:
    """Add noise to one picture, remove it in every way, and look how well."""
    clean = image_file.decode(path, 1)[..., 0].astype(np.float64)
    noisy = clean + np.random.default_rng(number).normal(0.0, SIGMA, clean.shape)
    shares, sigma = noisy / 255, SIGMA / 255
    begun = time.perf_counter()
    found = restore.restore(
        model,
        torch.from_numpy(shares[None]).float(),
        draws=DRAWS,
        multiple=multiple_of(FOLD),
    )
    seconds = time.perf_counter() - begun
    # As scikit-image's own examples have it for a known sigma.
    means = denoise_nl_means(
        shares, h=0.6 * sigma, sigma=sigma, patch_size=5, patch_distance=6, fast_mode=False
    )
    shrunk = denoise_wavelet(shares, sigma=sigma, method="BayesShrink", rescale_sigma=True)
    guesses = {"non-local means": means, "wavelet": shrunk, "ours": found.mean[0]}
    made = {name: codes(255 * guess.astype(np.float64)) for name, guess in guesses.items()}
    scores = judged({"noisy": noisy, **made}, clean)
    return {**scores, **sureness(found, clean), "seconds": seconds}


def enlarged(model: torch.nn.Module, path: Path, number: int) -> Scores:  # noqa: ARG001
    """Enlarge one picture of LRx4 and look how well; its noise needs no seed."""
    truth, small = luma(path), luma(path.parents[1] / f"LRx{SCALE}" / path.name)
    given = torch.from_numpy(small[None] / 255).float()
    begun = time.perf_counter()
    found = restore.restore(model, given, draws=DRAWS, scale=SCALE, multiple=multiple_of(1))
    seconds = time.perf_counter() - begun
    # With antialiasing torch takes MATLAB's kernel (a = -0.5); enlarging there is none to do.
    x = torch.from_numpy(small)[None, None]
    bicubic = F.interpolate(x, size=truth.shape, mode="bicubic", antialias=True)[0, 0].numpy()
    guesses = {"bicubic": codes(bicubic), "ours": codes(255 * found.mean[0].astype(np.float64))}
    return {**judged(guesses, truth, SCALE), **sureness(found, truth), "seconds": seconds}


def scored(path: Path, files: Sequence[Path], score: Callable[[Path, int], Scores]) -> Scores:
    """Return the scores of every file; those in `path` already are not computed again."""
    known: Scores = json.loads(path.read_text()) if path.exists() else {}
    for number, file in enumerate(files):
        if file.name not in known:
            known[file.name] = score(file, number)
            raw = json.dumps(known).encode()
            atomic_write(path, lambda out, raw=raw: out.writelines([raw]), overwrite=True)
    return {file.name: known[file.name] for file in files}


def averaged(scores: Sequence[Scores]) -> Scores:
    """Return the means over pictures."""
    means: Scores = {"pictures": len(scores)}
    for key, first in scores[0].items():
        if isinstance(first, dict):
            means[key] = {n: float(np.mean([s[key][n] for s in scores])) for n in first}
        else:
            means[key] = float(np.mean([s[key] for s in scores]))
    return means


def bars(task: str, results: Mapping[str, Scores]) -> Iterator[tuple[str, bool]]:
    """Yield what had to be reached, and whether it was."""
    for claim, (where, measure, value) in BARS[task].items():
        yield claim, results[where][measure]["ours"] > value
    if task == "upscale":
        for where, each in results.items():
            yield f"{where} above bicubic", each["psnr"]["ours"] > each["psnr"]["bicubic"]
            away = abs(each["psnr"]["bicubic"] - PUBLISHED[task][where]["bicubic"])
            yield f"bicubic on {where} as published", away <= NEAR


def measured(task: str, options: argparse.Namespace) -> Scores:
    """Train and test one task."""
    folder = options.states / f"{task}-{options.width}-{options.minutes:g}min-{options.precision}"
    folder.mkdir(parents=True, exist_ok=True)
    fitted = trained(task, options, folder)
    model = fitted.model.to("cuda" if torch.cuda.is_available() else "cpu")
    results = {}
    for where in TESTS[task]:
        place = (DENOISING, where) if task == "denoise" else (ENLARGING, where, "HR")
        files = pictures_in(options.data.joinpath(*place)).files[: 2 if options.smoke else None]
        score = partial(denoised if task == "denoise" else enlarged, model)
        each = scored(folder / f"{where}.json", files, score)
        alone = {name: scores["psnr"]["ours"] for name, scores in each.items()}
        results[where] = {**averaged(list(each.values())), "psnr_of_each": alone}
        told = ", ".join(f"{name} {value:.2f}" for name, value in results[where]["psnr"].items())
        print(f"{where:7s} {told} dB; {results[where]['covered']:.1%} covered", flush=True)
    history = fitted.facts["history"]
    return {
        "setting": {
            "arguments": fitted.arguments,
            "plan": fitted.facts["plan"],
            "engine": fitted.facts["engine"],
            "draws": DRAWS,
            "learned_from": "Train400",
        },
        "training": {
            "parameters": fitted.facts["parameters"],
            "steps": history["checks"][-1]["step"],
            "kept_step": history["checks"][history["best"]]["step"],
            "seconds": history["checks"][-1]["seconds"],
            "stopped": history["stopped"],
        },
        "published": PUBLISHED[task],
        "bars": dict(bars(task, results)),
        "environment": results_file.environment(),
        "results": results,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=TASKS, nargs="+", default=list(TASKS))
    parser.add_argument("--minutes", type=float, default=240.0, help="of training, per task")
    parser.add_argument("--width", type=int, default=48, help="of the U-Net")
    parser.add_argument("--precision", default="float32", help="of training: or bfloat16")
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that all of it runs")
    parser.add_argument("--data", type=Path, default=os.environ.get("LOWERBOUND_DATA", "data"))
    parser.add_argument("--states", type=Path, default=Path("restoration.states"))
    options = parser.parse_args()
    name = "restoration.smoke" if options.smoke else "restoration"
    if options.smoke:
        options.minutes, options.width = 0.05, 8
        options.states = options.states.with_name(f"smoke.{options.states.name}")
    path, tasks = results_file.RESULTS / f"{name}.json", {}
    if path.exists():
        tasks = json.loads(path.read_text())["tasks"]
    for task in options.task:
        tasks[task] = measured(task, options)
        results_file.write(name, tasks=tasks)
    print(path)


if __name__ == "__main__":
    main()
