"""Data from torch datasets and loaders, and from lists of picture files."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lowerbound import noise
from lowerbound.coding.pairs import read_pairs
from lowerbound.errors import DataError, UsageError
from lowerbound.files.containers import admit
from lowerbound.files.data import ImagePairs, Images, Table
from lowerbound.files.read import are_picture_files, may_be_pictures, read, walk
from lowerbound.recipes import find


class Examples(Dataset):
    """Any examples by their number, without an end that iteration would find."""

    def __init__(self, *examples):
        self.examples = examples

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, i):
        return self.examples[i]


class Flow(IterableDataset):
    """Examples that come one after the other."""

    def __iter__(self):
        return iter(torch.arange(12.0).reshape(6, 2))


def images(n, *shape):
    return torch.rand(n, *shape, generator=noise.generator("images", n))


def test_vectors_become_a_table_of_numbers():
    x = torch.arange(12.0).reshape(6, 2)
    for data in (
        TensorDataset(x),
        DataLoader(TensorDataset(x), batch_size=4),
        Flow(),
        Examples(*x),
    ):
        rows = read(data)
        assert isinstance(rows, Table)
        assert not rows.typed
        assert rows.names == ("x0", "x1")
        np.testing.assert_array_equal(rows.native.wrap(rows.table), x)
    assert read(DataLoader(Flow(), batch_size=None)).rows == 6
    assert read(TensorDataset(x), rows=2).rows == 2
    assert admit(TensorDataset(x), estimator=None).frame.rows == 6


def test_a_class_becomes_the_label_of_an_image():
    x, y = images(5, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1])
    for data in (TensorDataset(x, y), DataLoader(TensorDataset(x, y), batch_size=2)):
        rows = walk(data)
        assert isinstance(rows, Images)
        np.testing.assert_array_equal(rows.pixels, x)
        assert rows.labels == ("0", "1", "2", "0", "1")
        assert rows.first(2).labels == ("0", "1")


def test_an_image_as_context_makes_pairs():
    clean, noisy = images(4, 1, 12, 10), images(4, 1, 12, 10) / 2
    pairs = read(TensorDataset(clean, noisy))
    assert isinstance(pairs, ImagePairs)
    assert pairs.pictures[0].shape == (12, 10, 1)
    np.testing.assert_array_equal(pairs.pictures[2][..., 0], noisy[2, 0])
    np.testing.assert_array_equal(pairs.targets[2][..., 0], clean[2, 0])
    coding = find("denoise").coding({}).fit(pairs, types={}, drop=(), transform="blend")
    batch = coding.encode(pairs).raw.take(torch.arange(2))
    torch.testing.assert_close(batch.context, batch.x / 2)


@pytest.mark.parametrize(
    ("data", "error", "told"),
    [
        (Examples(), DataError, "E013"),
        (Examples(torch.ones(2), torch.ones(3)), DataError, "E029.*differ in shape"),
        (Examples({"x": torch.ones(2)}), UsageError, "E201.*a dict"),
        (Examples((torch.ones(2), 1, 2)), UsageError, "E201.*3 values"),
        (Examples((torch.ones(2), torch.ones(5))), UsageError, r"E201.*context of shape \(5,\)"),
        (Examples((torch.ones(2), 1), torch.ones(2)), UsageError, "E201.*not in others"),
        (Examples(torch.ones(2, dtype=torch.bfloat16)), DataError, "E040"),
    ],
)
def test_other_examples_are_refused(data, error, told):
    with pytest.raises(error, match=told):
        read(data)


def test_torch_is_not_imported_to_recognise_it():
    program = "import sys; from lowerbound.files.read import read; read([[1.0, 2.0]]); "
    subprocess.run(
        [sys.executable, "-c", program + "sys.exit('torch' in sys.modules)"], check=True
    )


@pytest.fixture
def photos(tmp_path):
    paths = [tmp_path / "b" / "1.png", tmp_path / "a" / "1.png", tmp_path / "a" / "2.png"]
    for grey, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((6, 5), grey, np.uint8)).save(path)
    return paths


def test_a_list_of_pictures_is_read_in_its_order(photos):
    rows = read(photos)
    assert isinstance(rows, Images)
    assert rows.pixels[:, 0, 0].tolist() == [0, 1, 2]
    assert rows.files == ("b/1.png", "a/1.png", "a/2.png")
    assert rows.labels == ("b", "a", "a")
    assert rows.origin == "the pictures"
    assert read(photos, rows=2).rows == 2
    assert read([photos[0], photos[1].parent]).files == rows.files
    assert may_be_pictures(photos)
    assert not are_picture_files([*photos, __file__])
    pairs = read_pairs(photos, photos[::-1], find("denoise").restoration)
    assert [int(target[0, 0, 0]) for target in pairs.targets] == [0, 1, 2]
    with pytest.raises(DataError, match="E001"):
        read([*photos, photos[0].with_name("gone.png")])


def test_data_that_were_read_are_taken_as_they_are(photos):
    rows = read(photos)
    assert read(rows) is walk(rows) is rows
    assert read(rows, rows=1).rows == 1
