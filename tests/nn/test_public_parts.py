"""The public names of `lowerbound.nn`: each exists, is lazy, and is documented by a doctest."""

import subprocess
import sys

import pytest

from lowerbound import nn


def test_every_name_is_listed_once_and_found():
    assert len(set(nn.__all__)) == len(nn.__all__)
    assert set(nn.__all__) == set(nn._HOMES)
    assert set(nn.__all__) <= set(dir(nn))
    for name in nn.__all__:
        assert getattr(nn, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Poison'"):
        nn.Poison  # noqa: B018


@pytest.mark.parametrize("name", nn.__all__)
def test_every_public_part_shows_an_example(name):
    assert ">>>" in (getattr(nn, name).__doc__ or ""), name


def test_importing_the_room_imports_no_torch():
    code = "import sys, lowerbound.nn; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
