"""Models from strangers: any content under right digests ends in E1xx, or works; never worse."""

import contextlib
import io
import itertools
import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.csv
import pytest
import torch
from torch import nn

import bundles
import mutants
import zoo
from lowerbound import Model
from lowerbound.bundle import tensors
from lowerbound.cli import visible
from lowerbound.cli.main import main
from lowerbound.errors import ModelFileError
from lowerbound.recipes import RECIPES
from lowerbound.tasks.building import _Beyond, _Bounded
from lowerbound.tasks.finite import using

GOLDEN = Path(__file__).parent / "golden"
ROWS = 20
GIGABYTE = 1 << 30
SECONDS = 10  # of processor time that one command may take; most take 0.05
CODES = ["codes=4", "dim=2", "channels=4", "blocks=1", "halvings=1", "prior_channels=4"]

# A small model of each kind of prior, posterior, likelihood and coding.
FITS = {
    "gaussian": ["prior=exemplar", "pseudo_inputs=4", "hidden=[8]"],
    "sigma": ["prior=vamp", "pseudo_inputs=4", "hidden=[8]", "likelihood=student"],
    "iaf": ["flows=2", "hidden=[8]", "flow_hidden=[8]"],
    "binary": ["prior=flow", "hidden=[8]"],
    "counts": ["hidden=[8]"],
    "table": ["hidden=[8]"],
    "conv": ["channels=[4]", "flows=1", "flow_hidden=[8]"],
    "nvae": ["channels=4", "groups=[1,1]", "latent_channels=2"],
    "vqvae": [*CODES, "prior_layers=1"],
}


def data_of(recipe, rng):
    """Return the rows that a model of a recipe is fitted to."""
    if recipe in ("conv", "nvae", "vqvae"):
        return rng.integers(0, 255, (ROWS, 6, 6)).astype(np.uint8)
    if recipe == "table":  # its rows are drawn by a chain of columns that depend on each other
        some, town = rng.normal(size=(100, 2)).round(1), rng.integers(0, 4, 100)
        numbers = {"a": some[:, 0], "b": some[:, 1], "c": some.sum(1).round(1)}
        return numbers | {
            "town": np.array(list("wxyz"))[town],
            "area": np.array(list("pqqr"))[town],
        }
    x = rng.normal(size=(ROWS, 3)).round(3)
    x = (
        (x > 0) * 1
        if recipe == "binary"
        else rng.poisson(5, (ROWS, 3))
        if recipe == "counts"
        else x
    )
    table = {name: x[:, i] for i, name in enumerate("abc")}
    return table | ({"lab": ["p", "q"] * (ROWS // 2)} if recipe == "counts" else {})


def models(folder):
    """A model and its rows for each entry of `FITS`, and the golden models."""
    rng = np.random.default_rng(0)
    for recipe, settings in FITS.items():
        data = data_of(recipe, rng)
        if isinstance(data, dict):
            path = folder / f"{recipe}.csv"
            pyarrow.csv.write_csv(pyarrow.table(data), path)
        else:
            path = folder / f"{recipe}.npz"
            np.savez(path, data)
        words = ["fit", str(path), "--recipe", recipe, "--preset", "fast", "--max-epochs", "1"]
        words += ["--types", "lab=batch"] if recipe == "counts" else []
        words += [word for each in settings for word in ("--set", each)]
        assert main([*words, "-q", "--out", str(folder / f"{recipe}.vae")]) == 0
    for golden in GOLDEN.glob("*-*"):
        shutil.copytree(golden / "model", folder / f"{golden.name}.vae")
        lines = (golden / "rows.csv").read_text().splitlines(keepends=True)
        (folder / f"{golden.name}.csv").write_text("".join(lines[: ROWS + 1]))


@pytest.fixture(scope="module")
def made():
    return zoo.folder(models)


class Hang(BaseException):
    """A command took too much processor time."""


@contextlib.contextmanager
def limits():
    """Allow a command `SECONDS` of processor time and a gigabyte of further addresses."""

    def stop(number, frame):
        raise Hang

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + GIGABYTE
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGPROF, stop)
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGPROF, handler)


def ran(words):
    """Run a command in this process, within limits; return its exit code and what it printed."""
    out = io.StringIO()
    with limits(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(words)
    return code, out.getvalue()


def uses(model, data, out):
    """Return the commands that use a model, by name."""
    rows, target = [str(model), str(data)], ["--out", str(out), "--overwrite"]
    return {
        "score": ["score", *rows, *target],
        "info": ["info", str(model)],
        "typicality": ["score", *rows, *target, "--by", "typicality"],
        "levels": ["score", *rows, *target, "--by", "levels"],
        "explain": ["score", *rows, *target, "--explain", "2"],
        "evaluate": ["evaluate", *rows, "--samples", "2"],
        "sample": ["sample", str(model), "-n", "3", *target],
        "embed": ["embed", *rows, *target],
        "impute": ["impute", *rows, *target],
        "reconstruct": ["reconstruct", *rows, *target],
        "doctor": ["doctor", *rows],
    }


def check(made, folder, name, seed, others=1):
    """Alter one model, use it, and check every exit code and every score."""
    pristine, model = made / f"{name}.vae", folder / "m.vae"
    shutil.copytree(pristine, model)
    changed = mutants.alter(model, seed)
    data = next(path for path in made.glob(f"{name}.*") if path.suffix in (".csv", ".npz"))
    known = uses(model, data, folder / "o.csv")
    names = list(known)
    further = [names[2 + (seed + i) % (len(names) - 2)] for i in range(others)]
    for use in ["score", "info", *further]:
        (folder / "o.csv").unlink(missing_ok=True)
        told = f"{name} {seed} ({changed}): {use}"
        try:
            code, text = ran(known[use])
        except Hang:
            pytest.fail(f"{told} hangs")
        # 2: what a model of this kind cannot do; 3: the rows are of other columns.
        assert code in (0, 3, 4) or (code == 2 and use in ("levels", "explain")), (told, text)
        assert not visible._HIDDEN.search(text.replace("\x1b[", "")), told
        if code == 0 and known[use][0] == "score":
            table = pyarrow.csv.read_csv(folder / "o.csv")
            assert np.isfinite(table["anomaly_score"].to_numpy()).all(), told
            assert np.isfinite(table["p_value"].to_numpy()).all(), told
        if use == "score" and code == 4:
            break  # other commands load it in the same way
    shutil.rmtree(model)


NAMES = [*FITS, *(path.name for path in sorted(GOLDEN.glob("*-*")))]
EACH = -(-300 // len(NAMES))


@pytest.mark.skipif(sys.platform != "linux", reason="limits of addresses")
@pytest.mark.parametrize("name", NAMES)
def test_altered_models(made, tmp_path, name):
    for use in ("score", "evaluate", "sample", "doctor"):  # imports do not count
        data = next(path for path in made.glob(f"{name}.*") if path.suffix != ".vae")
        assert main([*uses(made / f"{name}.vae", data, tmp_path / "o.csv")[use], "-q"]) == 0
    for seed in range(EACH):
        check(made, tmp_path, name, seed, others=seed % 3 == 0)


@pytest.mark.nightly
@pytest.mark.parametrize("name", NAMES)
def test_five_thousand_altered_models(made, tmp_path, name):
    failed = []
    for seed in range(1000, 1000 + -(-5000 // len(NAMES))):
        try:
            check(made, tmp_path, name, seed, others=2)
        except (Exception, pytest.fail.Exception) as error:
            failed.append(f"{seed}: {error}")
            shutil.rmtree(tmp_path / "m.vae")
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("use", ["score", "typicality", "explain", "evaluate", "embed"])
def test_weights_that_overflow_give_no_result(made, tmp_path, use):
    model, out = tmp_path / "m.vae", tmp_path / "o.csv"
    shutil.copytree(made / "sigma.vae", model)
    weights = Model.load(model).model.state_dict()
    large = {name: t * 0 + 3e38 if t.is_floating_point() else t for name, t in weights.items()}
    raw = b"".join(map(bytes, tensors.encode(large)))
    bundles.replace(model, "weights.safetensors", raw)
    code, text = ran(uses(model, made / "sigma.csv", out)[use])
    assert (code, "E142" in text) == (4, True), text
    assert not out.exists()


@pytest.mark.parametrize("name", ["sigma", "gaussian", "counts"])
@pytest.mark.parametrize("use", ["score", "sample"])
def test_a_layer_of_large_weights_ends_in_an_error_or_works(made, tmp_path, name, use):
    """The scales that follow are infinite or NaN: also those of a prior by the encoder."""
    model, out = tmp_path / "m.vae", tmp_path / "o.csv"
    shutil.copytree(made / f"{name}.vae", model)
    weights = Model.load(model).model.state_dict()
    for layer in [key for key, each in weights.items() if each.dim() > 1]:
        changed = weights | {layer: torch.full_like(weights[layer], 3e38)}
        raw = b"".join(map(bytes, tensors.encode(changed)))
        bundles.replace(model, "weights.safetensors", raw)
        out.unlink(missing_ok=True)
        code, text = ran(uses(model, made / f"{name}.csv", out)[use])
        assert code == 0 or (code == 4 and "E142" in text), (layer, text)
        assert out.exists() == (code == 0), layer


# What torch says when it cannot draw: `using` knows these messages.
DRAWS = {
    "normal": lambda v, g: torch.normal(torch.zeros(3), v, generator=g),
    "multinomial": lambda v, g: torch.multinomial(v, 2, replacement=True, generator=g),
    "one multinomial": lambda v, g: torch.multinomial(v, 1, generator=g),
    "no share": lambda v, g: torch.multinomial(torch.zeros(3), 2, replacement=True, generator=g),
    "poisson": lambda v, g: torch.poisson(v, generator=g),
    "bernoulli": lambda v, g: torch.bernoulli(v, generator=g),
}


@pytest.mark.parametrize("bad", [torch.nan, -1.0])
@pytest.mark.parametrize("how", DRAWS)
def test_draws_that_torch_refuses_are_the_error_of_a_model(how, bad):
    with (
        pytest.raises(ModelFileError, match="not finite numbers") as error,
        using(nn.Linear(1, 1)),
    ):
        DRAWS[how](torch.full((3,), bad), torch.Generator())
    assert error.value.code == "E142"


def test_other_errors_of_torch_are_not_the_error_of_a_model():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), using(nn.Linear(1, 1)):
        torch.zeros(2, 3) @ torch.zeros(2, 3)


def calibrated(model, change):
    """Change the calibration of a saved model in place, under a valid digest."""
    document = json.loads((model / "calibration.json").read_text())
    change(document)
    bundles.replace(model, "calibration.json", json.dumps(document).encode())


@pytest.mark.parametrize("use", ["score", "levels"])
def test_further_settings_in_a_calibration_are_ignored(made, tmp_path, use):
    model, out = tmp_path / "m.vae", tmp_path / "o.csv"
    shutil.copytree(made / "nvae.vae", model)
    words = uses(model, made / "nvae.npz", out)[use]
    assert ran(words)[0] == 0
    before = out.read_bytes()

    def change(document):
        levels = document["further"]["levels"]
        for part in (document, document["alarm"], levels, levels["alarm"], levels["measure"]):
            part["stranger"] = 1

    calibrated(model, change)
    assert ran(words)[0] == 0
    assert out.read_bytes() == before


@pytest.mark.parametrize(("key", "value"), [("k", 2), ("k", 0), ("k", 1.5), ("samples", 10**9)])
def test_wrong_settings_of_a_score_by_levels_are_the_error_of_the_file(made, tmp_path, key, value):
    model, out = tmp_path / "m.vae", tmp_path / "o.csv"
    shutil.copytree(made / "nvae.vae", model)
    calibrated(model, lambda each: each["further"]["levels"]["measure"].update({key: value}))
    code, text = ran(uses(model, made / "nvae.npz", out)["levels"])
    assert (code, "E116" in text, "calibration.json" in text) == (4, True, True), text
    assert not out.exists()


def test_a_constant_of_another_name_is_not_filled(made, tmp_path):
    model, out = tmp_path / "m.vae", tmp_path / "o.csv"
    shutil.copytree(made / "table-0.1.0.vae", model)
    document = json.loads((model / "schema.json").read_text())
    for column in document["schema"]["columns"]:
        if column["kind"] in ("constant", "id", "text"):
            column["name"] += "x"
    bundles.replace(model, "schema.json", json.dumps(document).encode())
    code, text = ran(uses(model, made / "table-0.1.0.csv", out)["impute"])
    assert code == 0, text


# A process of its own: the exit code and the memory of what a user runs.


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(i, marks=pytest.mark.nightly) for i in (1, 2))]
)
def test_altered_models_in_a_process(made, tmp_path, seed):
    model = tmp_path / "m.vae"
    shutil.copytree(made / "sigma.vae", model)
    mutants.alter(model, seed)
    words = ["score", str(model), str(made / "sigma.csv"), "--out", str(tmp_path / "o.csv")]
    done = subprocess.run(
        [sys.executable, "-m", "lowerbound", *words],
        env={"PYTHONPATH": bundles.SOURCE, "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in (0, 4), done.stderr
    assert "Traceback" not in done.stderr


# Sizes that the weights do not explain.

HUGE = {
    "one layer": {"hidden": [8, 10**9]},
    "many layers": {"hidden": [1] * 100_000},
    "latents": {"latent": 10**12},
    "features": {"features": 10**9},
    "components": {"components": 10**8},
    "exemplars": {"prior": "exemplar", "pseudo_inputs": 10**8},
    "beyond 64 bits": {"latent": 10**30},
    "negative": {"latent": -5},
    "text": {"latent": "many"},
    "truth": {"latent": True},
    "unknown": {"layer": 1},
}


@pytest.mark.parametrize("case", HUGE)
def test_sizes_beyond_the_weights_are_refused_at_once(made, tmp_path, case):
    model = tmp_path / "m.vae"
    shutil.copytree(made / "sigma.vae", model)
    config = json.loads((model / "config.json").read_text())
    config["arguments"] |= HUGE[case]
    bundles.replace(model, "config.json", json.dumps(config).encode())
    begun = time.process_time()
    code, text = ran(["score", str(model), str(made / "sigma.csv"), "--out", str(tmp_path / "o")])
    code, text = ran(
        ["embed", str(model), str(made / "sigma.csv"), "--out", str(tmp_path / "o.csv")]
    )
    assert code == 4, text
    assert "E116" in text or "E140" in text
    assert time.process_time() - begun < 2


def test_a_network_may_not_hold_much_besides_its_weights():
    """Masks of a flow are as large as its latents squared, whatever the weights are."""
    with (
        pytest.raises(Exception, match="numbers besides the weights"),
        _Bounded(10**6, 10**6, True),
    ):
        RECIPES["iaf"].make({"features": 2, "latent": 20_000, "hidden": [2], "flow_hidden": [2]})


def test_a_network_may_not_have_many_more_parts_than_weights():
    with pytest.raises(_Beyond, match="many more parts"), _Bounded(10**9, 1000, True):
        RECIPES["iaf"].make({"features": 2, "latent": 2, "flows": 10**6})


# Networks of every recipe are built without memory for their weights.

FAMILIES = ["real", "count", "binary", "categorical", "ordinal", "categorical"]
VARIED = {
    "gaussian": [{"prior": p} for p in ("mixture", "flow", "vamp", "exemplar")],
    "sigma": [{"likelihood": each} for each in ("shared", "optimal", "element", "student")],
    "iaf": [{"kind": each} for each in ("iaf", "spline", "planar")],
    "conv": [{"likelihood": each} for each in ("logistic_mixture", "softmax", "optimal")],
    "ladder": [{"batch_norm_heads": True}, {"components": 2}],
    "counts": [
        {"likelihood": "zinb", "batches": 2},
        {"likelihood": "nb", "batches": 2, "conditional_encoder": True},
    ],
    "table": [{"families": FAMILIES, "sizes": [1, 1, 1, 70, 4, 5], "gaps": 0.1}],
    "nvae": [{"flows": 1, "weight_normalised": True}],
}
BUILT = [(name, more) for name in RECIPES for more in [{}, *VARIED.get(name, [])]]


@pytest.mark.parametrize(("name", "more"), BUILT, ids=str)
def test_every_recipe_is_built_without_memory(name, more):
    recipe = RECIPES[name]
    arguments = {**recipe.example, **more}
    usual = recipe.make(arguments)
    wanted = usual.state_dict()
    held = sum(t.numel() for t in wanted.values())
    spent = _Bounded(16 * held + (1 << 20), 5_000 + 50 * len(wanted), True)
    with spent:
        model = recipe.make(arguments)
    model.load_state_dict(wanted, assign=True)
    both = [itertools.chain(m.named_parameters(), m.named_buffers()) for m in (model, usual)]
    for (key, ours), (other, theirs) in zip(*both, strict=True):
        assert key == other
        assert torch.equal(ours, theirs), key


def test_loading_a_network_needs_the_memory_of_one_copy(tmp_path):
    """And of no second one, as a network that is built first and filled later would."""
    rng = np.random.default_rng(0)
    table = {name: rng.normal(size=60).tolist() for name in "ab"}
    pyarrow.csv.write_csv(pyarrow.table(table), tmp_path / "t.csv")
    words = ["fit", str(tmp_path / "t.csv"), "--recipe", "sigma", "--max-epochs", "1", "-q"]
    assert main([*words, "--preset", "fast", "--out", str(tmp_path / "m.vae")]) == 0
    small = Model.load(tmp_path / "m.vae")
    wide = RECIPES["sigma"].make({**small.arguments, "hidden": [2500, 2500]})
    small.arguments["hidden"], small.model = [2500, 2500], wide
    small.save(tmp_path / "L.vae")
    size = (tmp_path / "L.vae" / "weights.safetensors").stat().st_size
    peak, seconds = bundles.run(MEASURED, tmp_path / "m.vae", tmp_path / "L.vae").split()
    assert size > 25e6
    assert int(peak) < 1.2 * size
    assert float(seconds) < 1


MEASURED = """
import sys, time
from pathlib import Path
from lowerbound import Model
from lowerbound.bundle import tensors
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
Model.load(sys.argv[1])
before, begun = peak(), time.process_time()
model = Model.load(sys.argv[2])
print(peak() - before, time.process_time() - begun)
"""
