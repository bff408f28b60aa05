"""The command export: write a model's score as an ONNX file, or a folder for an image."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from lowerbound.cli import parsing
from lowerbound.cli.flags import Data, File, Folder, ModelPath, Number, Renames
from lowerbound.cli.models import load
from lowerbound.cli.outputs import (
    Clock,
    check_apart,
    open_data,
    spell_bytes,
    spell_flags,
    spell_path,
)
from lowerbound.cli.result import Result
from lowerbound.errors import UsageError
from lowerbound.files.write import check_place
from lowerbound.tasks.onnx import SAMPLES

if TYPE_CHECKING:
    from lowerbound.tasks.onnx.checking import Parity

_SUFFIX = ".onnx"


def export(  # noqa: PLR0913 - the arguments are the command's flags
    model: ModelPath,
    /,
    *,
    onnx: File = None,
    onnx_encoder: File = None,
    onnx_decoder: File = None,
    docker: Folder = None,
    check: Data = None,
    samples: Number = SAMPLES,
    seed: Number = 0,
    rename: Renames = (),
    allow_collapsed: bool = False,
    overwrite: bool = False,
) -> Result:
    """Write the score as an ONNX file, or a folder for a container that serves the model.

    The ONNX file runs with onnxruntime and without torch.
    Its input is float64, one column per column of the table, with NaN for missing values; the
    outputs are anomaly_score, p_value and is_anomaly of each row. The metadata `lowerbound`
    describes the columns and the codes of their categories as JSON. Before the file is written,
    its scores are compared with the model's on rows.

    Of a model of the recipe autoencoder, encoder and decoder are written as files of their own:
    pictures from 0 to 1 to latents (and their standard deviations), and latents to pictures.

    Examples:
        lowerbound export fraud.vae --onnx fraud.onnx --check new.csv
        lowerbound export fraud.vae --docker service
        lowerbound export photos.vae --onnx-encoder e.onnx --onnx-decoder d.onnx

    Args:
        model: a folder that `lowerbound fit` saved.
        onnx: the file to write.
        onnx_encoder: the file to write the encoder of an autoencoder to.
        onnx_decoder: the file to write the decoder of an autoencoder to.
        docker: the folder to write, with a Dockerfile, the model and a Kubernetes deployment: the
            image runs `lowerbound serve` without root and on a read-only file system.
        check: rows to compare on, at most 10,000; by default rows drawn from the model.
        samples: latent draws per row, stored in the file: more are more exact, and slower.
        seed: the random seed of these draws.
        rename: rename a column of --check to the name in the model; repeat it for more.
        allow_collapsed: also export a model whose latents carry no information.
        overwrite: replace an earlier output.
    """
    if docker is not None:
        others = {"--onnx": onnx, "--check": check, "--onnx-encoder": onnx_encoder}
        return _docker(model, docker, overwrite, {**others, "--onnx-decoder": onnx_decoder})
    if onnx_encoder is not None or onnx_decoder is not None:
        return _halves(
            model, (onnx_encoder, onnx_decoder), overwrite, {"--onnx": onnx, "--check": check}
        )
    samples = parsing.at_least(samples, 1, "--samples")
    seed = parsing.at_least(seed, 0, "--seed")
    clock, target = Clock(), _target(onnx, overwrite, check)
    frame = None if check is None else open_data(check, rename)
    trained = load(model)
    work = import_module("lowerbound.tasks.onnx.graph")  # imports torch: --help does not wait
    made = work.export_onnx(
        trained,
        target,
        samples=samples,
        seed=seed,
        check=frame,
        overwrite=overwrite,
        allow_collapsed=allow_collapsed,
    )
    facts = {
        "columns": list(made.columns),
        "samples": samples,
        "seed": seed,
        "bytes": made.bytes,
        "parity": made.parity.facts(),
        "seconds": clock(),
    }
    return Result(
        facts,
        lines=[
            f"{len(made.columns):,} columns, {samples} draws per row, {spell_bytes(made.bytes)}, "
            f"{clock():.1f} s",
            *_told(made.parity),
        ],
        path=made.path,
        next=f"lowerbound info {spell_path(model, 'M.vae')}"
        if check is not None
        else f"lowerbound export {spell_path(model, 'M.vae')} --onnx {spell_path(target)} "
        f"--check NEW.csv --overwrite{spell_flags(rename=rename)}",
    )


def _halves(
    model: object,
    places: tuple[str | None, str | None],
    overwrite: bool,
    others: dict[str, object],
) -> Result:
    """Write the encoder, the decoder or both of an autoencoder."""
    _alone("--onnx-encoder and --onnx-decoder", others)
    clock = Clock()
    flags = ("--onnx-encoder", "--onnx-decoder")
    targets = [
        None if path is None else _target(path, overwrite, None, flag)
        for path, flag in zip(places, flags, strict=True)
    ]
    trained = load(model)
    work = import_module("lowerbound.tasks.onnx.pictures")  # imports torch: --help does not wait
    made = work.export_parts(trained, *targets, overwrite)
    facts = {
        name: {"path": str(part.path), "bytes": part.bytes, "largest_difference": part.largest}
        for name, part in made.items()
    }
    return Result(
        {**facts, "seconds": clock()},
        lines=[
            f"{name}: {spell_bytes(part.bytes)}, max |diff| {part.largest:.1g} to torch"
            for name, part in made.items()
        ],
        path=next(part.path for part in made.values()),
        next=f"lowerbound info {spell_path(model, 'M.vae')}",
    )


def _alone(flag: str, others: dict[str, object]) -> None:
    """Raise an error for flags that cannot be given with another one."""
    for name, value in others.items():
        if value is not None:
            told = f"{flag} and {name} cannot be combined"
            raise UsageError("E236", told, fix=f"leave out {name}")


def _docker(model: object, path: str, overwrite: bool, others: dict[str, object]) -> Result:
    """Write the folder of an image."""
    _alone("--docker", others)
    check_apart(path)
    work = import_module("lowerbound.cli.work.export")  # imports torch: --help does not wait
    target = work.check_target(path, overwrite)
    clock = Clock()
    size = work.write_image(load(model), target, overwrite)
    name = spell_path(target)
    return Result(
        {"bytes": size, "seconds": clock()},
        lines=[f"a Dockerfile, a deployment and the model, {spell_bytes(size)}"],
        path=target,
        next=f"docker build -t scorer {name}",
    )


def _target(path: str | None, overwrite: bool, data: object, flag: str = "--onnx") -> Path:
    """Return the file to write, checked before any computation."""
    if path is None:
        fix = "--onnx model.onnx"
        told = "export needs --onnx: the file to write, or --docker: the folder"
        raise UsageError("E232", told, fix=fix)
    if Path(path).suffix.lower() != _SUFFIX:
        raise UsageError(
            "E222",
            f"{flag} must end in {_SUFFIX}, got {str(path)[:200]!r}",
            fix=f"{flag} {spell_path(Path(path).with_suffix(_SUFFIX))}"
            if Path(path).name
            else f"{flag} model.onnx",
            path=str(path)[:1000],
        )
    check_apart(path, data)
    return check_place(path, overwrite)


def _told(parity: Parity) -> list[str]:
    """Return lines that compare the scores of the file with those of the model."""
    whose = "given" if parity.given else "drawn"
    return [
        f"parity on {parity.rows:,} {whose} rows: max |diff| {parity.largest:.1g} nats to torch "
        "with the same draws",
        f"to `score`: median |diff| {parity.typical:.2g} nats "
        f"({parity.shift:+.2g} in the middle); of {parity.flags:,} flags {parity.flips:,} differ",
    ]
