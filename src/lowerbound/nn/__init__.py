"""The mathematics: parts to compose a variational autoencoder from.

Names are imported when first used. The map of the files:

- model: levels of latents, and the forward pass over them
- trace: the way z is drawn, and a record of the draws
- recording: whether operations are being recorded as a graph
- distributions/: likelihoods and their families
- latents/: posteriors, priors, flows, codebooks
- objectives/: losses to minimise
- networks/: modules without probability

A Gaussian VAE of 4 features and 2 latents, and its loss in nats per row:

>>> import torch
>>> from lowerbound import nn, noise
>>> posterior = nn.Plain(torch.nn.Linear(8, 4))
>>> level = nn.Level("z", nn.StandardNormal(2), posterior, nn.Concat(nn.MLP([2, 8])))
>>> likelihood = nn.Conditional(torch.nn.Linear(8, 4), nn.SharedSigma())
>>> model = nn.LatentModel(nn.Single(nn.MLP([4, 8])), [level], likelihood, nn.Empty())
>>> source = noise.Stream(noise.generator("example"))
>>> loss = nn.Elbo(model)(torch.zeros(16, 4), 0, source)
>>> loss.value.shape, sorted(loss.terms)
(torch.Size([]), ['beta', 'distortion', 'elbo', 'rate'])
>>> model(None, nn.Trace(nn.from_prior(torch.Generator()), rows=3)).mean.shape
torch.Size([3, 4])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lowerbound.nn.distributions.families import Bits as Bits
    from lowerbound.nn.distributions.families import Categories as Categories
    from lowerbound.nn.distributions.families import Conditional as Conditional
    from lowerbound.nn.distributions.families import Family as Family
    from lowerbound.nn.distributions.families import FeatureSigma as FeatureSigma
    from lowerbound.nn.distributions.families import FixedSigma as FixedSigma
    from lowerbound.nn.distributions.families import Gaussian as Gaussian
    from lowerbound.nn.distributions.families import LaplaceFamily as LaplaceFamily
    from lowerbound.nn.distributions.families import LatentGaussian as LatentGaussian
    from lowerbound.nn.distributions.families import (
        NegativeBinomialFamily as NegativeBinomialFamily,
    )
    from lowerbound.nn.distributions.families import OptimalSigma as OptimalSigma
    from lowerbound.nn.distributions.families import Ordinals as Ordinals
    from lowerbound.nn.distributions.families import SharedSigma as SharedSigma
    from lowerbound.nn.distributions.families import Student as Student
    from lowerbound.nn.distributions.level_trees import TreeCategories as TreeCategories
    from lowerbound.nn.distributions.pixels import ContinuousBits as ContinuousBits
    from lowerbound.nn.distributions.pixels import LogisticMixture as LogisticMixture
    from lowerbound.nn.distributions.pixels import Logistics as Logistics
    from lowerbound.nn.distributions.pixels import Softmax as Softmax
    from lowerbound.nn.distributions.table_rows import LibraryCounts as LibraryCounts
    from lowerbound.nn.distributions.table_rows import Table as Table
    from lowerbound.nn.distributions.table_rows import WithMissing as WithMissing
    from lowerbound.nn.latents.code_priors import PixelCodes as PixelCodes
    from lowerbound.nn.latents.code_priors import UniformCodes as UniformCodes
    from lowerbound.nn.latents.codebooks import Codebook as Codebook
    from lowerbound.nn.latents.codebooks import EmaCodebook as EmaCodebook
    from lowerbound.nn.latents.codebooks import EmaRestartCodebook as EmaRestartCodebook
    from lowerbound.nn.latents.codebooks import FsqCodebook as FsqCodebook
    from lowerbound.nn.latents.codebooks import GradientCodebook as GradientCodebook
    from lowerbound.nn.latents.codebooks import SimVqCodebook as SimVqCodebook
    from lowerbound.nn.latents.flows import Autoregressive as Autoregressive
    from lowerbound.nn.latents.flows import Planar as Planar
    from lowerbound.nn.latents.flows import Spline as Spline
    from lowerbound.nn.latents.mixture_priors import EncoderReference as EncoderReference
    from lowerbound.nn.latents.mixture_priors import Exemplar as Exemplar
    from lowerbound.nn.latents.mixture_priors import Vamp as Vamp
    from lowerbound.nn.latents.posteriors import Flow as Flow
    from lowerbound.nn.latents.posteriors import Informed as Informed
    from lowerbound.nn.latents.posteriors import Plain as Plain
    from lowerbound.nn.latents.posteriors import Precision as Precision
    from lowerbound.nn.latents.posteriors import Proposal as Proposal
    from lowerbound.nn.latents.posteriors import Quantise as Quantise
    from lowerbound.nn.latents.posteriors import Residual as Residual
    from lowerbound.nn.latents.priors import FlowPrior as FlowPrior
    from lowerbound.nn.latents.priors import LearnedNormal as LearnedNormal
    from lowerbound.nn.latents.priors import Mixture as Mixture
    from lowerbound.nn.latents.priors import StandardNormal as StandardNormal
    from lowerbound.nn.model import LatentModel as LatentModel
    from lowerbound.nn.model import Level as Level
    from lowerbound.nn.networks.convolutions import Decoder as Decoder
    from lowerbound.nn.networks.convolutions import Encoder as Encoder
    from lowerbound.nn.networks.convolutions import LearnedStart as LearnedStart
    from lowerbound.nn.networks.mlp import MLP as MLP
    from lowerbound.nn.networks.mlp import Concat as Concat
    from lowerbound.nn.networks.mlp import Empty as Empty
    from lowerbound.nn.networks.mlp import FilledReader as FilledReader
    from lowerbound.nn.networks.mlp import Single as Single
    from lowerbound.nn.networks.mlp import TableFeatures as TableFeatures
    from lowerbound.nn.networks.mlp import trunk as trunk
    from lowerbound.nn.networks.pixelcnn import PixelCNN as PixelCNN
    from lowerbound.nn.networks.unet import UNet as UNet
    from lowerbound.nn.objectives.adversarial import Adversarial as Adversarial
    from lowerbound.nn.objectives.aggregate import BetaTc as BetaTc
    from lowerbound.nn.objectives.aggregate import InfoMmd as InfoMmd
    from lowerbound.nn.objectives.elbo import Constant as Constant
    from lowerbound.nn.objectives.elbo import Elbo as Elbo
    from lowerbound.nn.objectives.elbo import Iwae as Iwae
    from lowerbound.nn.objectives.elbo import Loss as Loss
    from lowerbound.nn.objectives.elbo import Map as Map
    from lowerbound.nn.objectives.elbo import Ramp as Ramp
    from lowerbound.nn.objectives.elbo import StickingTheLanding as StickingTheLanding
    from lowerbound.nn.objectives.elbo import ThetaPrior as ThetaPrior
    from lowerbound.nn.objectives.hybrid import Hybrid as Hybrid
    from lowerbound.nn.objectives.spectral import Spectral as Spectral
    from lowerbound.nn.trace import Trace as Trace
    from lowerbound.nn.trace import from_posterior as from_posterior
    from lowerbound.nn.trace import from_prior as from_prior
    from lowerbound.nn.trace import path_derivative as path_derivative
    from lowerbound.nn.trace import posterior_mean as posterior_mean
    from lowerbound.nn.trace import replay as replay

_HOMES = {
    "Adversarial": "objectives.adversarial",
    "Autoregressive": "latents.flows",
    "EmaCodebook": "latents.codebooks",
    "BetaTc": "objectives.aggregate",
    "Bits": "distributions.families",
    "EncoderReference": "latents.mixture_priors",
    "Categories": "distributions.families",
    "Codebook": "latents.codebooks",
    "Concat": "networks.mlp",
    "Conditional": "distributions.families",
    "Constant": "objectives.elbo",
    "ContinuousBits": "distributions.pixels",
    "Decoder": "networks.convolutions",
    "Elbo": "objectives.elbo",
    "Empty": "networks.mlp",
    "FilledReader": "networks.mlp",
    "Encoder": "networks.convolutions",
    "Exemplar": "latents.mixture_priors",
    "Family": "distributions.families",
    "FeatureSigma": "distributions.families",
    "FixedSigma": "distributions.families",
    "Flow": "latents.posteriors",
    "FlowPrior": "latents.priors",
    "Gaussian": "distributions.families",
    "Hybrid": "objectives.hybrid",
    "InfoMmd": "objectives.aggregate",
    "Informed": "latents.posteriors",
    "Iwae": "objectives.elbo",
    "LaplaceFamily": "distributions.families",
    "LatentGaussian": "distributions.families",
    "LatentModel": "model",
    "FsqCodebook": "latents.codebooks",
    "LearnedNormal": "latents.priors",
    "LearnedStart": "networks.convolutions",
    "Level": "model",
    "LibraryCounts": "distributions.table_rows",
    "LogisticMixture": "distributions.pixels",
    "Logistics": "distributions.pixels",
    "Loss": "objectives.elbo",
    "MLP": "networks.mlp",
    "Map": "objectives.elbo",
    "Mixture": "latents.priors",
    "NegativeBinomialFamily": "distributions.families",
    "OptimalSigma": "distributions.families",
    "Ordinals": "distributions.families",
    "PixelCNN": "networks.pixelcnn",
    "PixelCodes": "latents.code_priors",
    "Plain": "latents.posteriors",
    "Planar": "latents.flows",
    "Precision": "latents.posteriors",
    "Proposal": "latents.posteriors",
    "GradientCodebook": "latents.codebooks",
    "Quantise": "latents.posteriors",
    "Ramp": "objectives.elbo",
    "Residual": "latents.posteriors",
    "EmaRestartCodebook": "latents.codebooks",
    "SharedSigma": "distributions.families",
    "Single": "networks.mlp",
    "Softmax": "distributions.pixels",
    "Spectral": "objectives.spectral",
    "Spline": "latents.flows",
    "StandardNormal": "latents.priors",
    "StickingTheLanding": "objectives.elbo",
    "Student": "distributions.families",
    "Table": "distributions.table_rows",
    "TableFeatures": "networks.mlp",
    "ThetaPrior": "objectives.elbo",
    "Trace": "trace",
    "TreeCategories": "distributions.level_trees",
    "SimVqCodebook": "latents.codebooks",
    "UNet": "networks.unet",
    "UniformCodes": "latents.code_priors",
    "Vamp": "latents.mixture_priors",
    "WithMissing": "distributions.table_rows",
    "from_posterior": "trace",
    "from_prior": "trace",
    "path_derivative": "trace",
    "posterior_mean": "trace",
    "replay": "trace",
    "trunk": "networks.mlp",
}
__all__ = [
    "Adversarial",
    "Autoregressive",
    "EmaCodebook",
    "BetaTc",
    "Bits",
    "EncoderReference",
    "Categories",
    "Codebook",
    "Concat",
    "Conditional",
    "Constant",
    "ContinuousBits",
    "Decoder",
    "Elbo",
    "Empty",
    "FilledReader",
    "Encoder",
    "Exemplar",
    "Family",
    "FeatureSigma",
    "FixedSigma",
    "Flow",
    "FlowPrior",
    "Gaussian",
    "Hybrid",
    "InfoMmd",
    "Informed",
    "Iwae",
    "LaplaceFamily",
    "LatentGaussian",
    "LatentModel",
    "FsqCodebook",
    "LearnedNormal",
    "LearnedStart",
    "Level",
    "LibraryCounts",
    "LogisticMixture",
    "Logistics",
    "Loss",
    "MLP",
    "Map",
    "Mixture",
    "NegativeBinomialFamily",
    "OptimalSigma",
    "Ordinals",
    "PixelCNN",
    "PixelCodes",
    "Plain",
    "Planar",
    "Precision",
    "Proposal",
    "GradientCodebook",
    "Quantise",
    "Ramp",
    "Residual",
    "EmaRestartCodebook",
    "SharedSigma",
    "Single",
    "Softmax",
    "Spectral",
    "Spline",
    "StandardNormal",
    "StickingTheLanding",
    "Student",
    "Table",
    "TableFeatures",
    "ThetaPrior",
    "Trace",
    "TreeCategories",
    "SimVqCodebook",
    "UNet",
    "UniformCodes",
    "Vamp",
    "WithMissing",
    "from_posterior",
    "from_prior",
    "path_derivative",
    "posterior_mean",
    "replay",
    "trunk",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lowerbound.nn' has no attribute {name!r}")
    return getattr(import_module(f"lowerbound.nn.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
