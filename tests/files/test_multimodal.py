"""Files and objects of several modalities (MuData): the cells are those of the RNA."""

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import lowerbound
import lowerbound.cells
from lowerbound.cli.main import main
from lowerbound.errors import DataError
from lowerbound.files import anndata as anndatas
from lowerbound.files.read import read, walk

CELLS, GENES = 60, 10
FIT = ["--preset", "fast", "--max-epochs", "2", "-q"]


class MuData:
    """The part of a MuData that is used."""

    def __init__(self, **mod):
        self.mod = mod


MuData.__module__ = "mudata._core.mudata"


def counts(rows=CELLS, width=GENES, prefix="g", seed=0):
    rng = np.random.default_rng(seed)
    index = [f"c{i}" for i in range(rows)]
    made = anndata.AnnData(
        sp.csr_matrix(rng.poisson(3.0, (rows, width)).astype(np.float32)),
        obs=pd.DataFrame({"site": ["a", "b"] * (rows // 2)}, index=index),
        var=pd.DataFrame(index=[f"{prefix}{j}" for j in range(width)]),
    )
    made.var["highly_variable"] = np.arange(width) < 4
    return made


def scaled(width=4):
    made = counts(width=width, prefix="p")
    made.X = made.X.log1p()
    return made


def write(path, **mod):
    """Write modalities as mudata lays them out."""
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "MuData", "encoding-version": "0.1.0"})
        file.create_group("mod")
        for name, each in mod.items():
            anndata.io.write_elem(file["mod"], name, each)
        anndata.io.write_elem(file, "obs", next(iter(mod.values())).obs)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("both.h5mu", prot=scaled(), rna=counts())
    counts().write_h5ad("rna.h5ad")
    return tmp_path


def test_the_rna_of_a_file_is_read(here):
    plain, found = read("rna.h5ad"), read("both.h5mu")
    assert found.names == plain.names
    assert (found.matrix != plain.matrix).nnz == 0
    assert found.obs.equals(plain.obs)
    assert found.notes == ("both.h5mu: the modality 'rna' was read; it has 'prot', 'rna'",)
    assert read("both.h5mu", rows=5).matrix.shape == (5, GENES)
    objects = read(MuData(prot=scaled(), rna=counts()))
    assert (objects.matrix != plain.matrix).nnz == 0
    assert anndatas.marked("both.h5mu", "highly_variable") == ["g0", "g1", "g2", "g3"]
    assert anndatas.marked(MuData(rna=counts()), "highly_variable")[-1] == "g3"


def test_large_files_are_read_part_by_part(here, monkeypatch):
    monkeypatch.setattr(anndatas, "PART", 16)
    monkeypatch.setattr("lowerbound.files.read.part_rows", lambda columns: 16)
    stream = walk("both.h5mu")
    parts = list(stream.parts())
    assert [part.rows for part in parts] == [16, 16, 16, 12]
    assert "the modality 'rna' was read" in stream.notes[0]
    whole = sp.vstack([part.matrix for part in parts])
    assert (whole != counts().X).nnz == 0


def test_another_name_will_do_where_one_modality_alone_holds_counts(here):
    write("named.h5mu", prot=scaled(), cells=counts())
    assert (read("named.h5mu").matrix != counts().X).nnz == 0
    assert read(MuData(prot=scaled(), cells=counts())).names == read("rna.h5ad").names
    write("two.h5mu", prot=counts(prefix="p"), cells=counts())
    write("none.h5mu", prot=scaled())
    for given, told, fix in (
        ("two.h5mu", "several hold counts: 'cells', 'prot'", "mdata['cells'].write_h5ad"),
        ("none.h5mu", "none holds counts; its modalities are 'prot'", "mdata['prot']"),
        (MuData(a=counts(), b=counts()), "several hold counts: 'a', 'b'", "mdata['a']"),
    ):
        with pytest.raises(DataError) as error:
            read(given)
        assert error.value.code == "E045"
        assert told in error.value.message
        assert fix in error.value.fix
    assert main(["inspect", "two.h5mu"]) == 3


def test_commands_take_files_and_write_into_a_copy(here, capsys):
    assert main(["fit", "both.h5mu", "--batch", "site", *FIT, "--out", "m.vae"]) == 0
    assert main(["embed", "m.vae", "both.h5mu", "--out", "z.h5mu"]) == 0
    assert "the modality 'rna' was read" in " ".join(capsys.readouterr().out.split())
    model = lowerbound.load("m.vae")
    assert model.recipe.name == "counts"
    z = model.embed("rna.h5ad")
    with h5py.File("z.h5mu") as file:
        np.testing.assert_array_equal(anndata.io.read_elem(file["mod/rna/obsm/X_lowerbound"]), z)
        assert "obsm" not in file
        prot = anndata.io.read_elem(file["mod/prot"])
    assert (prot.X != scaled().X).nnz == 0
    rates = ["reconstruct", "m.vae", "both.h5mu", "--as", "expression", "--draws", "2"]
    assert main([*rates, "--out", "rates.h5mu"]) == 0
    with h5py.File("rates.h5mu") as file:
        assert file["mod/rna/layers/expression"].shape == (CELLS, GENES)
    capsys.readouterr()
    assert main(["embed", "m.vae", "both.h5mu", "--out", "z.h5ad"]) == 2
    assert "not an .h5ad file" in capsys.readouterr().err
    genes = ["--genes", "highly_variable", "--out", "variable.vae"]
    assert main(["fit", "both.h5mu", *FIT, *genes]) == 0
    assert lowerbound.load("variable.vae").coding.names == ("g0", "g1", "g2", "g3")


@pytest.mark.parametrize("cut", [3000, 200])
def test_damaged_files_are_refused(here, cut):
    (here / "cut.h5mu").write_bytes((here / "both.h5mu").read_bytes()[:cut])
    with pytest.raises(DataError) as error:
        read("cut.h5mu")
    assert error.value.code == "E025"
    (here / "rna.h5mu").write_bytes((here / "rna.h5ad").read_bytes())  # no MuData
    with pytest.raises(DataError) as error:
        read("rna.h5mu")
    assert error.value.code == "E025"
