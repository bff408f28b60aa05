"""Export of the encoder and the decoder of an autoencoder of pictures, each as an ONNX file.

The encoder takes pictures in [0, 1] and returns the mean and the standard deviation of their
latents; the decoder takes latents and returns the mean of the pictures. Batch, height and width
are free; heights and widths of pictures are multiples of the model's downscale.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from lowerbound import noise
from lowerbound._version import __version__
from lowerbound.errors import CheckFailed, UsageError
from lowerbound.files.write import atomic_write, check_place
from lowerbound.nn.distributions.base import moments
from lowerbound.tasks.autoencode import Sizes, decoded, posterior, sizes_of
from lowerbound.tasks.onnx.checking import session
from lowerbound.tasks.onnx.graph import require, undisturbed
from lowerbound.tasks.trained import Model

TOLERANCE = 1e-4  # of outputs: of standard deviations of latents, and of white
CHECKED = ((2, 5, 3), (1, 8, 11))  # batch, and height and width in latents


class PictureEncoder(nn.Module):
    """Pictures, (B, C, H, W) in [0, 1] -> mean and standard deviation of q(z | x)."""

    def __init__(self, model: nn.Module, downscale: int) -> None:
        super().__init__()
        self.model, self.downscale = model, downscale

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return (B, latent, H / downscale, W / downscale) each."""
        return tuple(moments(posterior(self.model, x, self.downscale)))


class PictureDecoder(nn.Module):
    """Latents, (B, latent, h, w) -> E[x | z]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor) -> Tensor:
        """Return (B, C, h downscale, w downscale), values around [0, 1]."""
        return decoded(self.model, z)


@dataclass(frozen=True)
class Part:
    """One half of an autoencoder as an ONNX file.

    Attributes:
        path: the file.
        bytes: its size.
        largest: largest difference of an output from the model's.
    """

    path: Path
    bytes: int
    largest: float


def export_parts(
    trained: Model, encoder: str | Path | None, decoder: str | Path | None, overwrite: bool = False
) -> dict[str, Part]:
    """Write the halves of a model as ONNX files, if their outputs equal the model's.

    Args:
        trained: a model that encodes pictures.
        encoder: the file for the encoder, or None.
        decoder: the file for the decoder, or None.
        overwrite: replace existing files.

    Returns:
        The files that were written, by "encoder" and "decoder".

    Raises:
        UsageError: E220 to E223 for the paths, E247 for another model.
        ResourceError: E310 if the extra ``export`` is not installed, E301 or E302 for the disk.
        CheckFailed: E602 if the outputs of a file differ.
    """
    sizes, model = sizes_of(trained), trained.model.eval()
    step = sizes.downscale
    wanted = {
        "encoder": (encoder, PictureEncoder(model, step), ("pictures", sizes.channels, step)),
        "decoder": (decoder, PictureDecoder(model), ("latents", sizes.latent, 1)),
    }
    outputs = {"encoder": ("latents", "scales"), "decoder": ("pictures",)}
    require()
    made: dict[str, tuple[str | Path, bytes, float]] = {}
    for name, (path, module, given) in wanted.items():
        if path is None:
            continue
        check_place(path, overwrite)
        proto = _graph(module.eval(), given, outputs[name])
        _describe(proto, trained, sizes, name)
        content = proto.SerializeToString()
        made[name] = path, content, _apart(module, content, given)
    written = {}
    for name, (path, content, apart) in made.items():

        def write(file: BinaryIO, content: bytes = content) -> None:
            file.write(content)

        place = atomic_write(path, write, overwrite, need=len(content))
        written[name] = Part(place, len(content), apart)
    return written


@torch.no_grad()
def _graph(module: nn.Module, given: tuple[str, int, int], outputs: Sequence[str]) -> Any:
    """Return the ONNX model, for any batch, height and width.

    Args:
        module: the half to export.
        given: name and channels of its input, and what height and width are multiples of.
        outputs: names of its outputs.
    """
    name, channels, step = given
    example = torch.zeros(2, channels, 4 * step, 6 * step)
    rows, high, wide = (torch.export.Dim(axis) for axis in ("rows", "high", "wide"))
    sides = (step * high, step * wide) if step > 1 else (high, wide)
    axes = (dict(zip((0, 2, 3), (rows, *sides), strict=True)),)
    try:
        with undisturbed():
            walked = torch.export.export(module, (example,), dynamic_shapes=axes, strict=False)
            program = torch.onnx.export(
                walked,
                input_names=[name],
                output_names=list(outputs),
                opset_version=18,
                dynamo=True,
                verbose=False,
            )
    except RuntimeError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0][:200]
        raise UsageError(
            "E246",
            f"a part of this model cannot be exported to ONNX: {reason}",
            fix="please report the file config.json of the model",
        ) from None
    assert program is not None
    return program.model_proto


@torch.no_grad()
def _apart(module: nn.Module, content: bytes, given: tuple[str, int, int]) -> float:
    """Return the largest difference of the file's outputs from the module's.

    Raises:
        CheckFailed: E602 if it is above `TOLERANCE`.
    """
    name, channels, step = given
    runs, largest = session(content), 0.0
    for rows, high, wide in CHECKED:
        source = noise.generator("export", name)
        shape = rows, channels, high * step, wide * step
        draw = torch.rand if step > 1 else torch.randn
        x = draw(shape, generator=source)
        found, same = runs.run(None, {name: x.numpy()}), module(x)
        mine = same if isinstance(same, tuple) else (same,)
        for one, other in zip(found, mine, strict=True):
            largest = max(largest, float(np.abs(one - other.numpy()).max()))
    if not largest <= TOLERANCE:
        raise CheckFailed(
            "E602",
            f"the graph's outputs differ from the model's by up to {largest:.2g}; nothing was "
            "written",
            fix="please report the file config.json of the model, and the output of "
            "`lowerbound doctor --json`",
            largest=largest,
        )
    return largest


def _describe(proto: Any, trained: Model, sizes: Sizes, half: str) -> None:
    """Add a description to the metadata of the file, as JSON."""
    document = {
        "lowerbound": __version__,
        "format": 1,
        "recipe": trained.recipe.name,
        "half": half,
        "channels": sizes.channels,
        "latent": sizes.latent,
        "downscale": sizes.downscale,
        "pictures": "float32 from 0 to 1, (batch, channels, height, width); height and width are "
        "multiples of downscale",
        "latents": "float32, (batch, latent, height / downscale, width / downscale)",
    }
    entry = proto.metadata_props.add()
    entry.key, entry.value = "lowerbound", json.dumps(document)
    proto.producer_name, proto.producer_version = "lowerbound", __version__
