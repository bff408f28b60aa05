"""--max-memory: what may be held, said before it is read."""

import numpy as np
import pytest

from lowerbound.cli import main
from lowerbound.errors import UsageError
from lowerbound.files import memory, scratch
from lowerbound.files.memory import available, limited, size_of


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2e9), ("1.5g", 1.5e9), (" 800 MB ", 8e8), ("2GiB", 2e9), ("600000000", 6e8)],
)
def test_sizes_as_people_write_them(text, size):
    assert size_of(text) == size


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "E231"),
        ("2 bananas", "E231"),
        ("-1GB", "E231"),
        ("GB", "E231"),
        ("10MB", "E240"),
        ("0", "E240"),
    ],
)
def test_sizes_that_are_none_or_too_small(text, code):
    with pytest.raises(UsageError) as refusal:
        size_of(text)
    assert refusal.value.code == code
    assert "--max-memory" in refusal.value.fix


def test_what_is_held_already_counts():
    resident = memory._resident()
    assert 50e6 < resident < 50e9
    with limited(resident + 10**8):
        assert available() < 1.5e8
        with limited(None):
            assert available() > 1.5e8
        assert isinstance(scratch.room(10**8).base, np.memmap) or scratch.room(10**8).size == 10**8
    with limited(resident // 2):
        assert available() == 0


def test_a_table_that_is_too_large_is_refused_before_it_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("a,b\n" + "".join(f"{i},{i % 7}.5\n" for i in range(50)))
    monkeypatch.setattr(memory, "_resident", lambda: 500 * 10**6 - 100)
    assert main.main(["inspect", "t.csv", "--full", "--max-memory", "500MB"]) == 5
    assert "E303" in capsys.readouterr().err
    assert main.main(["inspect", "--max-memory=1GB", "--full", "t.csv", "-q"]) == 0
    assert main.main(["inspect", "t.csv", "--max-memory"]) == 2
    assert "E231" in capsys.readouterr().err
    assert main.main(["inspect", "t.csv", "--max-memory", "much"]) == 2
