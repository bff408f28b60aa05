"""Saving: the model is there complete or not at all, and nothing that is not ours is replaced."""

import os
import shutil
import stat
from collections import namedtuple

import numpy as np
import pytest
import torch

import bundles
from lowerbound import bundle
from lowerbound.errors import ModelFileError, ResourceError, UsageError
from lowerbound.files import publish as folder

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(params=["exchange", "two renames"])
def either_way(request, monkeypatch):
    """Replace folders with and without the system's atomic exchange."""
    if request.param == "two renames":
        monkeypatch.setattr(folder, "_exchange", lambda one, other: False)


def names(path):
    return sorted(p.name for p in path.iterdir())


def test_returns_the_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert bundles.make("M.vae") == tmp_path / "M.vae"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002, 0o027])
def test_modes_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        path = bundles.make(tmp_path / "M.vae")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777 & ~umask
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o666 & ~umask}


# Overwriting.


def test_an_existing_model_is_kept(tmp_path):
    path = bundles.make(tmp_path / "M.vae")
    before = bundles.contents(path)
    with pytest.raises(UsageError, match="exists already") as error:
        bundles.make(path, "two")
    assert error.value.code == "E220"
    assert error.value.exit_code == 2
    assert "--overwrite" in error.value.fix
    assert bundles.contents(path) == before
    assert names(tmp_path) == ["M.vae"]


def test_overwrite(tmp_path, either_way):
    path = bundles.make(tmp_path / "M.vae", "one", 0)
    before = bundles.contents(path)
    bundles.make(path, "two", 1, overwrite=True)
    assert bundle.load(path).documents == bundles.documents("two")
    assert bundles.contents(path).keys() == before.keys()
    assert names(tmp_path) == ["M.vae"]


def test_overwrite_where_nothing_is(tmp_path, either_way):
    bundle.verify(bundles.make(tmp_path / "M.vae", overwrite=True))
    assert names(tmp_path) == ["M.vae"]


@pytest.mark.parametrize("damage", ["manifest.json", "weights.safetensors"])
def test_a_damaged_model_can_be_replaced(tmp_path, damage):
    path = bundles.make(tmp_path / "M.vae")
    (path / damage).write_bytes(b"damaged")
    bundles.make(path, "two", overwrite=True)
    assert bundle.load(path).documents == bundles.documents("two")


def test_an_empty_folder_can_be_replaced(tmp_path):
    (tmp_path / "M.vae").mkdir()
    with pytest.raises(UsageError, match="E220"):
        bundles.make(tmp_path / "M.vae")
    bundle.verify(bundles.make(tmp_path / "M.vae", overwrite=True))


def web_extension(path):
    path.mkdir()
    (path / "manifest.json").write_text("{}")
    (path / "page.html").write_text("mine")


def model_with_notes(path):
    bundles.make(path)
    (path / "notes.txt").write_text("mine")


@pytest.mark.parametrize(
    "prepare",
    [web_extension, model_with_notes, lambda path: path.write_text("a file")],
    ids=["another folder", "a model with notes", "a file"],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_ours_is_never_replaced(tmp_path, prepare, overwrite):
    path = tmp_path / "M.vae"
    prepare(path)
    before = bundles.contents(path) if path.is_dir() else path.read_text()
    with pytest.raises(UsageError) as error:
        bundles.make(path, overwrite=overwrite)
    assert error.value.code == "E221"
    assert before == (bundles.contents(path) if path.is_dir() else path.read_text())
    assert names(tmp_path) == ["M.vae"]


def test_a_link_stays_a_link(tmp_path, either_way):
    path = bundles.make(tmp_path / "M.vae")
    (tmp_path / "best.vae").symlink_to("M.vae")
    assert bundles.make(tmp_path / "best.vae", "two", overwrite=True) == path
    assert (tmp_path / "best.vae").is_symlink()
    assert bundle.load(path).documents == bundles.documents("two")


def test_a_model_that_appears_meanwhile_is_kept(tmp_path, monkeypatch):
    real = folder._sync

    def slow(path):
        real(path)
        if not (tmp_path / "M.vae").exists():
            shutil.copytree(path, tmp_path / "M.vae")

    monkeypatch.setattr(folder, "_sync", slow)
    with pytest.raises(UsageError, match="appeared"):
        bundles.make(tmp_path / "M.vae")
    assert names(tmp_path) == ["M.vae"]


# What cannot be saved.


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"metrics.json": {"elbo": float("nan")}}, "metrics.json"),
        ({"metrics.json": {"elbo": np.float32(1)}}, "metrics.json"),
        ({"metrics.json": {1: "a"}}, "no keys but text"),
        ({"metrics.json": {"when": object()}}, "metrics.json"),
        ({"card.md": {"not": "text"}}, "card.md"),
        ({"card.md": "half a pair: \ud800"}, "card.md"),
        ({"config.json": {"arguments": {}}}, "config.json"),
        ({"../config.json": {}}, "name of a document"),
        ({"manifest.json": {}}, "name of a document"),
        ({"weights.safetensors": {}}, "name of a document"),
        ({"model.pkl": {}}, "name of a document"),
        ({"A.json": {}}, "name of a document"),
    ],
)
def test_documents_that_have_no_form(tmp_path, changes, says):
    documents = bundles.documents() | changes
    with pytest.raises(ModelFileError, match=says) as error:
        bundle.save(tmp_path / "M.vae", documents=documents, weights={})
    assert error.value.code == "E119"
    assert names(tmp_path) == []


def test_cyclic_document(tmp_path):
    cycle = {}
    cycle["self"] = cycle
    documents = bundles.documents() | {"metrics.json": cycle}
    with pytest.raises(ModelFileError, match="E119"):
        bundle.save(tmp_path / "M.vae", documents=documents, weights={})


def test_config_and_schema_are_needed(tmp_path):
    with pytest.raises(ModelFileError, match="config.json, schema.json"):
        bundle.save(tmp_path / "M.vae", documents={}, weights={})


@pytest.mark.parametrize(
    "weight", [np.array(["a"]), np.array([None]), np.array([1j]), torch.tensor([1j])]
)
def test_weights_that_have_no_form(tmp_path, weight):
    with pytest.raises(ModelFileError, match="'w' has type") as error:
        bundle.save(tmp_path / "M.vae", documents=bundles.documents(), weights={"w": weight})
    assert error.value.code == "E119"
    assert names(tmp_path) == []


def test_tuples_become_lists(tmp_path):
    documents = bundles.documents()
    documents["config.json"] = {"recipe": "table", "arguments": {"hidden": (64, 64)}}
    path = bundle.save(tmp_path / "M.vae", documents=documents, weights={})
    assert bundle.load(path).documents["config.json"]["arguments"] == {"hidden": [64, 64]}


# What the system refuses.


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("no/folder.vae", "No such file"),
        ("file/M.vae", "Not a directory"),
        ("a\0b.vae", "null"),
        ("x" * 300, "too long"),
        ("loop/M.vae", "loop|symbolic links"),
    ],
)
def test_places_where_nothing_can_be(tmp_path, place, says):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ResourceError, match=f"(?i){says}") as error:
        bundles.make(tmp_path / place)
    assert error.value.code == "E302"
    assert names(tmp_path) == ["file", "loop"]


def test_a_full_disk_is_foreseen(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 12_000, 12_000))
    with pytest.raises(ResourceError, match=r"has 12,000 bytes, .* needs [\d,]+ bytes") as error:
        bundles.make(tmp_path / "M.vae")
    assert error.value.code == "E301"
    assert error.value.details["have"] == 12_000
    assert names(tmp_path) == []


FILLED = """
import resource, sys
import numpy as np
import bundles
from lowerbound import bundle
from lowerbound.errors import ResourceError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    bundle.save(sys.argv[1], documents=bundles.documents(), weights={"w": np.zeros(10**6)},
                overwrite=True)
except ResourceError as error:
    print(error.code, error.message)
"""


def test_a_disk_that_fills_up_while_writing(tmp_path):
    path = bundles.make(tmp_path / "M.vae")
    before = bundles.contents(path)
    said = bundles.run(FILLED, path)
    assert said.startswith("E301 disk full")
    assert "needs 8.0 MB" in said
    assert bundles.contents(path) == before
    assert names(tmp_path) == ["M.vae"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(5, "Input/output error")])
@pytest.mark.parametrize("there", [False, True])
def test_nothing_is_left_of_a_failure(tmp_path, monkeypatch, failure, there):
    path = tmp_path / "M.vae"
    before = bundles.contents(bundles.make(path)) if there else None
    calls = []

    def fail(handle):
        calls.append(handle)
        if len(calls) == 4:
            raise failure

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((KeyboardInterrupt, ResourceError)):
        bundles.make(path, "two", overwrite=True)
    assert names(tmp_path) == (["M.vae"] if there else [])
    assert not there or bundles.contents(path) == before


def test_a_failed_second_rename_is_undone(tmp_path, monkeypatch):
    path = bundles.make(tmp_path / "M.vae")
    before = bundles.contents(path)
    monkeypatch.setattr(folder, "_exchange", lambda one, other: False)
    real, count = os.rename, []

    def fail(one, other):
        count.append(one)
        if len(count) == 3:
            raise OSError(5, "Input/output error")
        real(one, other)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(ResourceError):
        bundles.make(path, "two", overwrite=True)
    assert bundles.contents(path) == before
    assert names(tmp_path) == ["M.vae"]
