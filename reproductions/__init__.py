"""The experiments of the papers, as data: what was published, and how it is measured again."""

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
