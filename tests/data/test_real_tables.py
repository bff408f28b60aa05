"""Real tables, when the folder that LOWERBOUND_DATA names is there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lowerbound.columns.schema import Schema, infer
from lowerbound.files.data import Matrix
from lowerbound.files.read import read
from lowerbound.files.write import write_table

ROOT = os.environ.get("LOWERBOUND_DATA", "")


def real(name: str) -> Path:
    path = Path(ROOT) / name
    if not ROOT or not path.exists():
        pytest.skip(f"LOWERBOUND_DATA does not name a folder with {name}")
    return path


def round_trip(table: pa.Table) -> Schema:
    """Infer, code and decode a table; whole numbers and levels come back exactly."""
    schema = infer(table)
    coded = schema.encode(table)
    assert not coded.unseen
    assert not coded.clipped
    assert coded.notes == ()
    assert np.isfinite(schema.log_jacobian(coded.values)).all()
    back = schema.decode(coded.values)
    for name in back.column_names:
        mine, theirs = table[name].to_pylist(), back[name].to_pylist()
        if pa.types.is_floating(table[name].type):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)
        else:
            gone = [t is None for t in theirs]
            assert sum(gone) == coded.missing.get(name, 0)
            assert [m for m, g in zip(mine, gone, strict=True) if not g] == [
                t for t in theirs if t is not None
            ]
    return schema


def test_adult():
    table = read(real("finance_tabular/adult_train.parquet")).table
    assert table.num_rows == 32_561
    schema = round_trip(table)
    by_name = {column.name: column for column in schema.columns}
    assert {name: column.kind for name, column in by_name.items()} == {
        "age": "real",
        "workclass": "categorical",
        "fnlwgt": "real",
        "education": "categorical",
        "education-num": "real",
        "marital-status": "categorical",
        "occupation": "categorical",
        "relationship": "categorical",
        "race": "categorical",
        "sex": "binary",
        "capital-gain": "positive",
        "capital-loss": "real",
        "hours-per-week": "real",
        "native-country": "categorical",
        "income-per-year": "binary",
    }
    assert by_name["age"].whole
    assert by_name["capital-gain"].atoms == (0.0,)
    assert by_name["capital-loss"].atoms == (0.0,)
    assert 40.0 in by_name["hours-per-week"].atoms
    assert schema.encode(table).missing == {
        "workclass": 1836,
        "occupation": 1843,
        "native-country": 583,
    }
    assert len(by_name["education"].levels) == 16


def test_german_credit():
    schema = round_trip(read(real("finance_tabular/german_credit.parquet")).table)
    kinds = {column.name: column.kind for column in schema.columns}
    assert kinds["credit_amount"] == "positive"
    assert kinds["credit"] == "binary"
    assert kinds["purpose"] == "categorical"
    assert "id" not in kinds.values()


def test_credit_card_default():
    schema = round_trip(read(real("finance_tabular/uci_credit_card_default.parquet")).table)
    by_name = {column.name: column for column in schema.columns}
    assert by_name["ID"].kind == "id"
    assert by_name["PAY_AMT1"].kind == "positive"
    assert by_name["PAY_AMT1"].atoms == (0.0,)
    assert by_name["EDUCATION"].missing == 345
    assert by_name["MARRIAGE"].missing == 54


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_adult_through_files(suffix, tmp_path):
    table = read(real("finance_tabular/adult_train.parquet")).table.slice(0, 2000)
    again = read(write_table(table, tmp_path / f"adult{suffix}")).table
    one, two = infer(table), infer(again)
    np.testing.assert_array_equal(one.encode(table).values, two.encode(again).values)
    np.testing.assert_array_equal(one.encode(again).values, two.encode(table).values)


def test_anomaly_tables():
    folder = real("adbench_classical")
    for path in sorted(folder.glob("*.npz")):
        frame = read(path)
        schema = infer(frame.table, types={"x*": "real"}, exclude_atoms=True)
        coded = schema.encode(frame.table)
        assert np.isfinite(coded.values).all(), path.name
        assert np.abs(coded.values).max() < 2000, path.name


def test_counts_stay_sparse():
    frame = read(real("bio_pbmc3k/pbmc3k_counts.npz"))
    assert isinstance(frame, Matrix)
    assert frame.matrix.shape == (2700, 32_738)
    assert frame.matrix.nnz == 2_286_884


def test_a_folder_of_different_tables_is_refused():
    from lowerbound.errors import DataError

    with pytest.raises(DataError, match=r"german_credit\.parquet"):
        read(real("finance_tabular"))
