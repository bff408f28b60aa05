"""Generated pictures: how close to real ones, how new, how sharp, by recipe and at equal time.

Every recipe learns MNIST and Fashion-MNIST, 60,000 pictures, for the same time on the same
machine, and draws as many new ones as there are test pictures. Their likelihood is a normal of
one learned sigma for all, but for "gaussian", whose sigma is 1: what differs is the latents.

- vqvae2: codes at two scales and a PixelCNN over them; three tenths of its time are for the codes.
- sigma: one level, convolutional, sigma learned. gaussian: the same, sigma = 1.
- ladder: levels of latents at two scales.
- adversarial: sigma, with a discriminator that pulls at the pixels with 0.3 of the likelihood's
  force. That is no pure ELBO, and so no arm of the bar: it shows what sharpness costs.

What is measured is the mean of p(x | z) at a z drawn from the prior, as is usual; "draws" have the
likelihood's noise as well. The Frechet distance is between features of a small classifier that is
trained here, its test accuracy in the JSON: it can be compared within this table alone, not with
published FIDs, which are of Inception's features. Its floor is that of training pictures. New
pictures are as far from the training ones as test pictures are (ratio of the medians 1), and none
is a copy. Sharpness is the mean variance of the Laplacian, as a multiple of the test pictures'.

The bar: vqvae2 has a lower distance than every single-level recipe that is trained by its bound
alone. Beside the pictures stands the held-out ELBO, in nats of grey levels in [0, 1]. Every fit is
stored when it is done; the same command goes on after the last one.

    LOWERBOUND_DATA=folder python benchmarks/generation.py [--minutes 20] [--sets mnist]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch

import results_file
from labelled_pictures import Labelled, labelled
from lowerbound import Plan, Trained, learn, noise
from lowerbound.files.pictures.columns import pixels_of
from lowerbound.nn.distributions.base import sample
from lowerbound.nn.trace import Trace, from_prior
from picture_quality import Judge, accuracy, classifier

SETS = ("mnist", "fashion-mnist")
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "vqvae2": ("vqvae2", {"likelihood": "shared"}),
    "sigma": ("conv", {"likelihood": "shared"}),
    "gaussian": ("conv", {"likelihood": "gaussian"}),
    "ladder": ("conv_ladder", {"likelihood": "shared"}),
    "adversarial": ("conv", {"likelihood": "shared", "adversarial": 0.3}),
}
SINGLE = ("sigma", "gaussian")  # of the bar
CHUNK = 500  # pictures that are drawn together
CLASSIFIER_SEED = 0


@torch.no_grad()
def drawn(model: Trained, n: int, seed: int) -> dict[str, np.ndarray]:
    """Return n new pictures as the means of p(x | z), and drawn from it at the same z."""
    found: dict[str, list[torch.Tensor]] = {"means": [], "draws": []}
    source = noise.generator("generation", seed)
    for start in range(0, n, CHUNK):
        px = model.model(None, Trace(from_prior(source), min(CHUNK, n - start)))
        found["means"].append(px.mean)
        found["draws"].append(sample(px, source))
    return {
        name: pixels_of(
            model.coding.decode(torch.cat(parts).numpy(), bounded=True), model.coding.shape
        )
        for name, parts in found.items()
    }


def measured(
    arm: str, pictures: Labelled, judge: Judge, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Fit one recipe and measure what it draws."""
    recipe, settings = RECIPES[arm]
    began = time.perf_counter()
    plan = Plan(recipe=recipe, settings=settings, time_limit=60 * options.minutes, seed=seed)
    model = learn(pictures.train, plan)
    fitted = time.perf_counter()
    new = drawn(model, len(pictures.test), seed)
    generated = time.perf_counter()
    stages = [model.facts[s] for s in ("history", "priors_history") if s in model.facts]
    return {
        **judge.all_of(new["means"]),
        "frechet_of_draws": judge.alike(new["draws"]),
        "valid_elbo": model.facts["valid_elbo"],
        "parameters": model.facts["parameters"],
        "arguments": model.arguments,
        "steps": [stage["checks"][-1]["step"] for stage in stages],
        "stopped": [stage["stopped"] for stage in stages],
        "fit_seconds": round(fitted - began, 1),
        "sample_seconds": round(generated - fitted, 1),
    }


def judged(pictures: Labelled, epochs: int) -> tuple[Judge, dict[str, Any]]:
    """Train the classifier; return what judges, and what it says of real pictures."""
    began = time.perf_counter()
    net = classifier(pictures.train, pictures.train_labels, epochs, CLASSIFIER_SEED)
    judge = Judge(net, pictures.train, pictures.test)
    order = np.random.default_rng(0).permutation(len(pictures.train))
    real = pictures.train[order[: len(pictures.test)]]
    return judge, {
        "accuracy": accuracy(net, pictures.test, pictures.test_labels),
        "frechet_of_training_pictures": judge.alike(real),
        "median_distance_of_test_pictures": float(np.median(judge.usual)),
        "copies_among_test_pictures": float((judge.usual == 0).mean()),
        "seconds": round(time.perf_counter() - began, 1),
    }


def bars(results: dict[str, Any]) -> dict[str, bool]:
    """Tell whether codes are closer to real pictures than each single level, mean over seeds."""
    held: dict[str, bool] = {}
    for name, found in results.items():
        mean = {
            arm: float(np.mean([run["frechet"] for run in seeds.values()]))
            for arm, seeds in found["arms"].items()
            if seeds
        }
        if "vqvae2" in mean:
            for arm in SINGLE:
                if arm in mean:
                    held[f"{name}: vqvae2 below {arm}"] = mean["vqvae2"] < mean[arm]
    return held


def missing(found: dict[str, Any], options: argparse.Namespace) -> list[tuple[str, str]]:
    """Return the fits of a data set that are still to be made."""
    return [
        (arm, str(seed))
        for seed in options.seeds
        for arm in options.arms
        if str(seed) not in found["arms"].get(arm, {})
    ]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--arms", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--minutes", type=float, default=20.0, help="of every fit")
    parser.add_argument("--epochs", type=int, default=4, help="of the classifier")
    parser.add_argument("--most", type=int, default=60_000, help="pictures of each part at most")
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it works")
    options = parser.parse_args()
    if options.smoke:
        options.minutes, options.epochs, options.most, options.seeds = 1 / 20, 1, 400, [0]
    return options


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    file = "generation" + ".smoke" * options.smoke
    setting = {name: getattr(options, name) for name in ("minutes", "epochs", "most")}
    results = results_file.earlier(file, setting)
    for name in options.sets:
        found = results.setdefault(name, {"arms": {}})
        jobs = missing(found, options)
        if not jobs:
            continue
        pictures = Labelled(*(part[: options.most] for part in labelled(name)))
        judge, found["reference"] = judged(pictures, options.epochs)
        print(f"{name}: classifier {found['reference']['accuracy']:.2%}", flush=True)
        for arm, seed in jobs:
            run = measured(arm, pictures, judge, int(seed), options)
            found["arms"].setdefault(arm, {})[seed] = run
            print(
                f"{name:14s} {arm:9s} seed {seed}: distance {run['frechet']:.2f}, nearest "
                f"{run['nearest_ratio']:.2f}, sharpness {run['sharpness']:.2f}, "
                f"{run['fit_seconds']:.0f} s + {run['sample_seconds']:.0f} s",
                flush=True,
            )
            results_file.write(
                file, setting=setting, seeds=options.seeds, bars=bars(results), results=results
            )
    print(results_file.RESULTS / f"{file}.json")


if __name__ == "__main__":
    main()
