"""Reproductions of published experiments: models, published values, and measurements.

- command: the commands list, show and run
- report: what the commands print and write
- running: train and evaluate each model of an experiment, with exact resume
- experiment: records of an experiment, its models, published values and checks
- mnist, sigmas, digits, deep, faces, factors: the experiments
- datasets, files, sprites: public data sets, their files and digests, drawn sprites
- disentanglement: five measures of disentanglement
- page: the tables of docs/reproductions.md
"""

from __future__ import annotations

from reproductions import deep, digits, faces, factors, mnist, sigmas
from reproductions.experiment import Arm, Check, Experiment, Published, Scale
from reproductions.running import Job, document, run_arm

__all__ = ["EXPERIMENTS", "Arm", "Check", "Experiment", "Job", "Published", "Scale", "document"]
__all__ += ["run_arm"]

EXPERIMENTS: dict[str, Experiment] = {
    "iwae-mnist": mnist.IWAE,
    "sigma-mnist": sigmas.MNIST,
    "vamp-mnist": digits.VAMP,
    "ladder-mnist": digits.LADDER,
    "flows-frey": faces.FREY,
    "iaf-mnist": digits.IAF,
    "static-mnist": deep.LADDER,
    "nvae-mnist": deep.NVAE,
    "nvae-lesions": deep.LESIONS,
    "betatc-dsprites": factors.SPRITES,
}
