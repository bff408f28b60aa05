"""Hostile weights, documents and paths: one error each, and nothing runs, waits or is written."""

import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

import bundles
from bundles import refused
from lowerbound import bundle
from lowerbound.bundle import reading, tensors
from lowerbound.errors import ModelFileError


@pytest.fixture
def model(tmp_path):
    return bundles.make(tmp_path / "M.vae")


class Explosive:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def zipped():
    import io

    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Explosive()))
    return raw.getvalue()


def one(**changes):
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


def two(start, stop):
    return one() | {"b": {"dtype": "U8", "shape": [stop - start], "data_offsets": [start, stop]}}


make = bundles.safetensors
PAIR = b'{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'

WEIGHTS = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "no header": b"\0" * 8,
    "pickle": pickle.dumps(Explosive()),
    "zip": zipped(),
    "header of 2^63": b"\xff" * 8 + b"{}",
    "header past the end": (100).to_bytes(8, "little") + b"{}",
    "header too large": make(b"{}" + b" " * tensors.MAX_HEADER),
    "header not JSON": make(b"{'a': 1}"),
    "header a list": make([]),
    "header NaN": make(b'{"a": NaN}'),
    "name twice": make(b'{"a":%b,"a":%b}' % (PAIR, PAIR), bytes(8)),
    "key twice": make(b'{"a":{"dtype":"F32",%b}' % PAIR[1:], bytes(8)),
    "metadata": make({"__metadata__": {"format": "pt"}} | one(), bytes(8)),
    "unknown type": make(one(dtype="C64"), bytes(8)),
    "object type": make(one(dtype="O"), bytes(8)),
    "type missing": make({"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "extra key": make(one(code="x"), bytes(8)),
    "negative shape": make(one(shape=[-2]), bytes(8)),
    "two negatives": make(one(shape=[-2, -1]), bytes(8)),
    "shape as text": make(one(shape="2"), bytes(8)),
    "shape as float": make(one(shape=[2.0]), bytes(8)),
    "shape as truth": make(one(shape=[2, True]), bytes(8)),
    "shape overflows": make(one(shape=[2**40, 2**40]), bytes(8)),
    "shape beyond 64 bits": make(one(shape=[2**64 + 2]), bytes(8)),
    "empty but vast": make(one(shape=[0] + [2**40] * 3, data_offsets=[0, 0])),
    "many dimensions": make(one(shape=[2] + [1] * 100), bytes(8)),
    "too few bytes": make(one(), bytes(4)),
    "bytes left over": make(one(), bytes(9)),
    "offsets backwards": make(one(data_offsets=[8, 0]), bytes(8)),
    "one offset": make(one(data_offsets=[0]), bytes(8)),
    "negative offset": make(one(data_offsets=[-8, 0]), bytes(8)),
    "offsets do not fit the shape": make(one(shape=[1]), bytes(8)),
    "overlap": make(two(4, 12), bytes(12)),
    "hole": make(two(12, 16), bytes(16)),
    "neither true nor false": make(one(dtype="BOOL", shape=[8]), bytes(7) + b"\2"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_hostile_weights(model, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bundles.replace(model, "weights.safetensors", WEIGHTS[case])
    assert "weights.safetensors" in refused(model, "E116").message
    assert [p.name for p in tmp_path.iterdir()] == ["M.vae"]


def test_many_tensors(model):
    piece = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    header = {str(i): piece for i in range(tensors.MAX_TENSORS + 1)}
    bundles.replace(model, "weights.safetensors", make(header))
    assert refused(model, "E116").code == "E116"


def test_tensors_at_odd_places_are_read(model):
    header = {"x": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}}
    header |= {"y": {"dtype": "F32", "shape": [2], "data_offsets": [3, 11]}}
    numbers = np.array([1.5, -2], "<f4").tobytes()
    bundles.replace(model, "weights.safetensors", make(header, b"abc" + numbers))
    weights = bundle.load(model).weights
    np.testing.assert_array_equal(weights["y"], [1.5, -2])
    assert weights["y"].flags.aligned


CONFIG = b'"recipe": "table", "arguments": {}'

DOCUMENTS = {
    "key twice": ("schema.json", b'{"a": 1, "a": 1}'),
    "inner key twice": ("calibration.json", b'{"a": [{"b": 1, "b": 2}]}'),
    "NaN": ("metrics.json", b'{"elbo": NaN}'),
    "infinity": ("metrics.json", b"[-Infinity]"),
    "overflow": ("metrics.json", b"[1e400]"),
    "not UTF-8": ("schema.json", b'"\xff"'),
    "empty": ("schema.json", b""),
    "two values": ("schema.json", b"{} {}"),
    "comment": ("schema.json", b"{} // x"),
    "deep": ("schema.json", b"[" * 200_000 + b"]" * 200_000),
    "card not UTF-8": ("card.md", b"\xff\xfe"),
    "config a list": ("config.json", b"[]"),
    "config without recipe": ("config.json", b'{"arguments": {}}'),
    "config without arguments": ("config.json", b'{"recipe": "table"}'),
    "recipe no text": ("config.json", b'{"recipe": 3, "arguments": {}}'),
    "arguments a list": ("config.json", b'{"recipe": "table", "arguments": []}'),
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_hostile_documents(model, case):
    name, raw = DOCUMENTS[case]
    bundles.replace(model, name, raw)
    assert name in refused(model, "E116").message


@pytest.mark.parametrize("name", ["manifest.json", "config.json", "weights.safetensors"])
def test_sizes_are_limited_before_anything_is_read(model, name, monkeypatch):
    if name == "manifest.json":
        with (model / name).open("ab") as file:
            file.truncate(reading.MAX_MANIFEST + 1)
    else:
        largest = (model / name).stat().st_size - 1
        limit = "MAX_WEIGHTS" if name == "weights.safetensors" else "MAX_TEXT"
        monkeypatch.setattr(reading, limit, largest)
    assert name in refused(model, "E118").message


# What is no model.

FOREIGN = [
    *("net.pt", "net.pth", "net.bin", "net.ckpt", "net.pkl", "net.pickle", "net.joblib"),
    *("net.keras", "net.h5", "net.HDF5", "net.onnx", "net.safetensors", "M.vae.tar", "net.zip"),
    *("data.csv", "data.parquet", "data.npz"),
]


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_other_tools(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Explosive()))
    error = refused(tmp_path / name, "E102")
    assert error.message.startswith("refused: ")
    assert error.fix


def named(tmp_path, name):
    return tmp_path / name


def plain_file(tmp_path):
    (tmp_path / "M.vae").write_bytes(b"x")
    return tmp_path / "M.vae"


def pipe(tmp_path):
    os.mkfifo(tmp_path / "M.vae")
    return tmp_path / "M.vae"


def empty_folder(tmp_path):
    (tmp_path / "M.vae").mkdir()
    return tmp_path / "M.vae"


def other_folder(tmp_path):
    (tmp_path / "data.csv").touch()
    return tmp_path


def half_copied(tmp_path):
    path = bundles.make(tmp_path / "M.vae")
    (path / "manifest.json").unlink()
    return path


def run_folder(tmp_path):
    (tmp_path / "fraud.run").mkdir()
    bundles.make(tmp_path / "fraud.run" / "a.vae")
    bundles.make(tmp_path / "fraud.run" / "best.vae")
    return tmp_path / "fraud.run"


def young_run(tmp_path):
    (tmp_path / "fraud.run").mkdir()
    (tmp_path / "fraud.run" / "log.jsonl").touch()
    return tmp_path / "fraud.run"


def loop(tmp_path):
    (tmp_path / "M.vae").symlink_to(tmp_path / "M.vae")
    return tmp_path / "M.vae"


def dangling(tmp_path):
    (tmp_path / "M.vae").symlink_to(tmp_path / "gone")
    return tmp_path / "M.vae"


@pytest.mark.parametrize(
    ("prepare", "code", "says"),
    [
        (lambda t: t / "nothing.vae", "E101", "no model at"),
        (lambda t: bundles.make(t / "fraud.vae").with_name("frau.vae"), "E101", "fraud.vae"),
        (lambda t: bundles.make(t / "fraud.vae").with_name("Fraud.VAE"), "E101", "fraud.vae"),
        (lambda t: t / "no" / "folder.vae", "E101", "does not exist"),
        (lambda t: bundles.make(t / "M.vae") / "card.md" / "x", "E101", "is no path"),
        (lambda t: "https://example.org/M.vae", "E101", "models are not downloaded"),
        (lambda t: "a\0b.vae", "E101", "is no path"),
        (lambda t: "x" * 5000, "E101", "is no path"),
        (lambda t: "", "E104", "is empty"),
        (loop, "E101", "is no path"),
        (dangling, "E101", "no model at"),
        (plain_file, "E103", "is a file"),
        (pipe, "E103", "is a pipe"),
        (lambda t: "/dev/null", "E103", "is a device"),
        (lambda t: bundles.make(t / "M.vae") / "manifest.json", "E103", "one file of a model"),
        (empty_folder, "E104", "is empty"),
        (other_folder, "E104", "no manifest.json"),
        (half_copied, "E104", "no manifest.json"),
        (run_folder, "E105", "best.vae"),
        (young_run, "E105", "training run"),
    ],
)
def test_what_is_no_model(tmp_path, prepare, code, says, monkeypatch):
    path = prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    error = refused(path, code)
    assert says in f"{error.message} {error.fix}"
    assert len(error.message) < 600


@pytest.mark.parametrize("function", ["os.open", "os.scandir"])
def test_what_the_system_refuses(model, function, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(function, refuse)
    with pytest.raises(ModelFileError, match="Permission denied") as error:
        bundle.load(model)
    assert error.value.code == "E106"


def test_a_file_that_changes_its_identity_is_refused(model, monkeypatch):
    real = os.open

    def swapped(path, *args, **kwargs):
        if Path(path).name == "config.json":
            path = model / "schema.json"
        return real(path, *args, **kwargs)

    monkeypatch.setattr("os.open", swapped)
    assert refused(model, "E113").code == "E113"


AUDITED = """
import json, os, sys
from lowerbound import bundle
from lowerbound.errors import ModelFileError
good, *bad = sys.argv[1:]
bundle.load(good)  # modules that are imported on first use
seen, opened = [], []
allowed = {"os.scandir", "builtins.id"}
def hook(event, arguments):
    if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        opened.append(str(arguments[0]))  # a number is a file that is open already
    elif event not in allowed:
        seen.append((event, ascii(arguments)[:200]))
sys.addaudithook(hook)
bundle.load(good)
once = [path for path in opened if not path.isdigit()]
refused = 0
for path in bad:
    try:
        bundle.load(path)
    except ModelFileError:
        refused += 1
print(json.dumps([seen, once, refused, "torch" in sys.modules]))
"""


MEASURED = """
import sys
from pathlib import Path
from lowerbound import bundle
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
bundle.load(sys.argv[1])
before = peak()
bundle.load(sys.argv[2])
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_loading_needs_the_memory_of_one_copy(model, tmp_path):
    size = 80_000_000
    large = {"w": np.zeros(size, np.uint8)}
    path = bundle.save(tmp_path / "L.vae", documents=bundles.documents(), weights=large)
    assert int(bundles.run(MEASURED, model, path)) < 1.2 * size


def test_loading_runs_nothing_and_opens_each_file_once(model, tmp_path):
    bad = []
    for number, raw in enumerate(WEIGHTS.values()):
        bad.append(bundles.make(tmp_path / f"w{number}.vae"))
        bundles.replace(bad[-1], "weights.safetensors", raw)
    for number, (name, raw) in enumerate(DOCUMENTS.values()):
        bad.append(bundles.make(tmp_path / f"d{number}.vae"))
        bundles.replace(bad[-1], name, raw)
    for name in FOREIGN:
        bad.append(tmp_path / name)
        bad[-1].write_bytes(pickle.dumps(Explosive()))
    said = bundles.run(AUDITED, model, *bad, cwd=tmp_path)
    seen, once, refusals, torch_there = json.loads(said)
    assert {event for event, _ in seen} == set()
    assert sorted(map(os.path.basename, once)) == sorted(bundles.contents(model))
    assert refusals == len(bad)
    assert not torch_there
    assert not (tmp_path / "exploded").exists()
