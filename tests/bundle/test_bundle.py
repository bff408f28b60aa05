"""A saved model comes back as it was, and nothing else is ever taken for one."""

import hashlib
import os
import pickle
import random
import socket

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

import bundles
from bundles import NAMES, refused
from lowerbound import bundle
from lowerbound.bundle import tensors
from lowerbound.errors import ModelFileError


@pytest.fixture
def model(tmp_path):
    return bundles.make(tmp_path / "M.vae")


# Round trips.

BFLOAT = torch.tensor([1.0, -0.0, 3.14159, 1e-40, -3e38]).bfloat16()

ARRAYS = {
    "float32": torch.randn(3, 4),
    "float64": torch.randn(5, dtype=torch.float64),
    "float16": torch.randn(2, 3, 4).half(),
    "bfloat16": BFLOAT,
    "int64": torch.tensor([2**62, -1, 0]),
    "int32": torch.arange(6, dtype=torch.int32).reshape(2, 3),
    "uint8": torch.arange(256, dtype=torch.uint8),
    "bool": torch.tensor([True, False, True]),
    "scalar": torch.tensor(1.5),
    "empty": torch.zeros(0, 3),
    "transposed": torch.randn(4, 5).T,
    "strided": torch.randn(10)[::3],
    "parameter": torch.nn.Parameter(torch.randn(3)),
    "numpy": np.random.default_rng(0).normal(size=(3, 2)),
    "big-endian": np.arange(5, dtype=">f4"),
    "int16": np.arange(-3, 3, dtype=np.int16),
    "int8": np.arange(-3, 3, dtype=np.int8),
}


def as_numpy(value):
    if isinstance(value, np.ndarray):
        return value.astype(value.dtype.newbyteorder("="))
    value = value.detach()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_weights_that_are_not_finite_are_refused(tmp_path, value, dtype):
    weights = {"fine": np.ones(3), "it": np.array([1, value, 2], dtype)}
    path = bundle.save(tmp_path / "m.vae", documents=bundles.documents(), weights=weights)
    assert "'it'" in refused(path, "E116").message


@pytest.mark.parametrize("kind", ARRAYS)
def test_weights_come_back_exactly(tmp_path, kind):
    weights = {"odd": np.zeros(3, np.uint8), "it": ARRAYS[kind], "Z/ü": np.ones((2, 2))}
    path = bundle.save(tmp_path / "m.vae", documents=bundles.documents(), weights=weights)
    saved = bundle.load(path)
    expected = as_numpy(ARRAYS[kind])
    assert saved.weights["it"].dtype == expected.dtype
    np.testing.assert_array_equal(saved.weights["it"], expected, strict=True)
    assert set(saved.weights) == set(weights)
    assert saved.weights["it"].flags.writeable
    moved = kind in ("bfloat16", "empty")  # widened, or of no place
    assert moved or saved.weights["it"].ctypes.data % tensors.ALIGN == 0
    # The safetensors package reads the same numbers from the file.
    theirs = safetensors.torch.load((path / "weights.safetensors").read_bytes())["it"]
    assert theirs.dtype == (BFLOAT.dtype if kind == "bfloat16" else theirs.dtype)
    np.testing.assert_array_equal(as_numpy(theirs), expected)


def test_reads_what_the_safetensors_package_writes(model):
    weights = bundles.weights()
    bundles.replace(model, "weights.safetensors", safetensors.numpy.save(weights))
    for name, array in bundle.load(model).weights.items():
        np.testing.assert_array_equal(array, weights[name])


def test_documents_and_report(model):
    saved = bundle.load(model)
    assert saved.documents == bundles.documents()
    assert saved.dtypes == {"encoder.weight": "F32", "encoder.bias": "F32", "steps": "I64"}
    report = bundle.verify(model)
    assert report.path == model
    assert report.files == ("manifest.json", *NAMES)
    assert report.bytes == sum(len(raw) for name, raw in bundles.contents(model).items()) - len(
        (model / "manifest.json").read_bytes()
    )
    assert report.digest == hashlib.sha256((model / "manifest.json").read_bytes()).hexdigest()
    assert report.digest == saved.digest
    assert report.manifest.format == bundle.FORMAT
    assert report.manifest.created_by.startswith("lowerbound ")
    assert bundle.read_manifest(model) == report.manifest


def test_equal_models_are_equal_files(tmp_path):
    one = bundles.make(tmp_path / "one.vae")
    backwards = dict(reversed(bundles.weights().items()))
    two = bundle.save(tmp_path / "2.vae", documents=bundles.documents(), weights=backwards)
    assert bundles.contents(one) == bundles.contents(two)


def test_a_link_to_the_folder_is_followed(model, tmp_path):
    (tmp_path / "best.vae").symlink_to(model)
    assert bundle.verify(tmp_path / "best.vae").path == model


# Damage.


@pytest.mark.parametrize("name", NAMES)
def test_any_flipped_bit_is_refused(model, name):
    file = model / name
    raw = file.read_bytes()
    draw = random.Random(name)
    for _ in range(50):
        at, bit = draw.randrange(len(raw)), draw.randrange(8)
        file.write_bytes(raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :])
        with pytest.raises(ModelFileError, match=name) as error:
            bundle.verify(model)
        assert error.value.code == "E115"
        assert error.value.details["expected"] == hashlib.sha256(raw).hexdigest()
        assert error.value.details["actual"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_every_byte_of_the_manifest_matters(model):
    file = model / "manifest.json"
    raw = file.read_bytes()
    draw = random.Random(0)
    for at in range(len(raw)):
        changed = draw.choice([byte for byte in range(256) if byte != raw[at]])
        flipped = raw[at] ^ 1 << draw.randrange(8)
        for byte in (changed, flipped):
            file.write_bytes(raw[:at] + bytes([byte]) + raw[at + 1 :])
            with pytest.raises(ModelFileError) as error:
                bundle.verify(model)
            assert error.value.code == "E110"


@pytest.mark.parametrize("name", ["manifest.json", *NAMES])
def test_truncated_and_extended_files_are_refused(model, name):
    raw = (model / name).read_bytes()
    cuts = {0, 1, len(raw) - 1, *random.Random(name).sample(range(len(raw)), min(5, len(raw)))}
    for content in [*(raw[:cut] for cut in cuts), raw + b"\n", raw + raw]:
        (model / name).write_bytes(content)
        error = refused(model, "E110" if name == "manifest.json" else "E114")
        assert name in error.message


@pytest.mark.parametrize("name", ["config.json", "metrics.json", "card.md", "weights.safetensors"])
def test_files_of_two_models_do_not_mix(model, tmp_path, name):
    other = bundles.make(tmp_path / "other.vae", mark="two", seed=1)
    (model / name).write_bytes((other / name).read_bytes())
    assert name in refused(model, "E115").message
    bundle.verify(other)


def test_a_foreign_manifest_is_refused(model, tmp_path):
    other = bundles.make(tmp_path / "other.vae", mark="two", seed=1)
    (model / "manifest.json").write_bytes((other / "manifest.json").read_bytes())
    assert refused(model, "E115").code == "E115"


@pytest.mark.parametrize("name", NAMES)
def test_missing_file(model, name):
    (model / name).unlink()
    assert name in refused(model, "E111").message


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "weights.pkl", "config.JSON", "sub"])
def test_extra_file(model, name):
    if name == "sub":
        (model / name).mkdir()
    else:
        (model / name).write_text("x")
    assert name in refused(model, "E112").message


def link(file):
    file.rename(file.parent.parent / "moved")
    file.symlink_to(file.parent.parent / "moved")


def folder(file):
    file.unlink()
    file.mkdir()


def pipe(file):
    file.unlink()
    os.mkfifo(file)


def unix_socket(file):
    file.unlink()
    there = os.getcwd()
    os.chdir(file.parent)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(file.name)
    os.chdir(there)


@pytest.mark.parametrize("name", ["manifest.json", "config.json", "weights.safetensors"])
@pytest.mark.parametrize("change", [link, folder, pipe, unix_socket])
def test_only_plain_files(model, name, change):
    change(model / name)
    # A manifest that is a pipe or a folder is there, but is no manifest.
    assert name in refused(model, "E113").message


def test_hard_links_are_refused(model, tmp_path):
    os.link(model / "config.json", tmp_path / "alias")
    assert refused(model, "E113").code == "E113"


# Hostile content under valid digests.


def entry(content, **values):
    content["files"][0].update(values)


MANIFESTS = {
    "path upwards": lambda c: entry(c, name="../config.json"),
    "absolute path": lambda c: entry(c, name="/etc/passwd.json"),
    "backslash": lambda c: entry(c, name="a\\b.json"),
    "device": lambda c: entry(c, name="nul\0.json"),
    "dots": lambda c: entry(c, name=".."),
    "suffix": lambda c: entry(c, name="model.pkl"),
    "upper case": lambda c: entry(c, name="Config.json"),
    "trailing newline": lambda c: entry(c, name="config.json\n"),
    "negative size": lambda c: entry(c, bytes=-1),
    "size as text": lambda c: entry(c, bytes="3"),
    "size as truth": lambda c: entry(c, bytes=True),
    "size as float": lambda c: entry(c, bytes=3.0),
    "short digest": lambda c: entry(c, sha256="00"),
    "digest in capitals": lambda c: entry(c, sha256="A" * 64),
    "extra key of a file": lambda c: entry(c, module="os"),
    "itself": lambda c: c["files"].append(dict(c["files"][0], name="manifest.json")),
    "twice": lambda c: c["files"].append(c["files"][0]),
    "two weights": lambda c: c["files"].append(dict(c["files"][0], name="more.safetensors")),
    "no weights": lambda c: c["files"].pop(),
    "no files": lambda c: c.pop("files"),
    "files as object": lambda c: c.update(files={}),
    "many files": lambda c: c.update(files=c["files"] * 100),
    "no format": lambda c: c.pop("schema"),
    "format 0": lambda c: c.update(schema=0),
    "format as truth": lambda c: c.update(schema=True),
    "format as text": lambda c: c.update(schema="1"),
    "no requirements": lambda c: c.pop("requires"),
    "no version": lambda c: c.update(requires={}),
    "odd version": lambda c: c["requires"].update(min_version="1.0; rm -rf"),
    "terminal escape": lambda c: c.update(created_by="\x1b[2J"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_hostile_manifest(model, case):
    bundles.change_manifest(model, MANIFESTS[case])
    assert refused(model, "E110").code == "E110"


RAW_MANIFESTS = {
    "empty": b"",
    "not an object": b"[]\n",
    "null": b"null",
    "not UTF-8": b"\xff\xfe{}",
    "byte order mark": b"\xef\xbb\xbf{}",
    "deep": b"[" * 500_000,
    "digits": b'{"schema": ' + b"9" * 10_000 + b"}",
    "NaN": b'{"schema": NaN}',
    "twice": b'{"schema": 1, "schema": 1}',
    "pickle": pickle.dumps({"schema": 1}),
}


@pytest.mark.parametrize("case", RAW_MANIFESTS)
def test_manifest_that_is_none(model, case):
    (model / "manifest.json").write_bytes(RAW_MANIFESTS[case])
    assert refused(model, "E110").code == "E110"


@pytest.mark.parametrize("change", [lambda raw: raw.replace(b" ", b""), lambda raw: b" " + raw])
def test_a_manifest_in_another_form_is_refused(model, change):
    file = model / "manifest.json"
    file.write_bytes(change(file.read_bytes()))
    assert refused(model, "E110").code == "E110"


@pytest.mark.parametrize(
    ("change", "needs"),
    [
        (lambda c: c.update(schema=99, requires={"min_version": "7.2"}), "7.2"),
        (lambda c: c.update(schema=2, files="moved elsewhere"), "0.1.0"),
        (lambda c: c["requires"].update(min_version="99.0.1"), "99.0.1"),
        (lambda c: c["requires"].update(sharded_weights=True), "0.1.0"),
    ],
)
def test_newer_format(model, change, needs, monkeypatch):
    monkeypatch.setattr("lowerbound.bundle.manifest.__version__", "0.1.0")
    bundles.change_manifest(model, lambda c: c.update(created_by="lowerbound 8.0"))
    bundles.change_manifest(model, change)
    error = refused(model, "E117")
    assert "made by lowerbound 8.0" in error.message
    assert f"needs lowerbound >= {needs}" in error.message
    assert error.fix == f"pip install 'lowerbound>={needs}'"


@pytest.mark.parametrize("ours", ["0.1.0", "0.1", "0.1.1.dev3", "0.2.0rc1", "1.0+local"])
def test_later_versions_read_this_format(model, ours, monkeypatch):
    monkeypatch.setattr("lowerbound.bundle.manifest.__version__", ours)
    bundle.verify(model)
    assert bundle.load(model).documents == bundles.documents()


def test_unknown_optional_keys_are_ignored(model):
    bundles.change_manifest(model, lambda c: c.update(comment={"by": "a later version"}))
    assert bundle.load(model).documents == bundles.documents()
