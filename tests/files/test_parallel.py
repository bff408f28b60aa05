"""Work that is done ahead comes in order, one item at a time, and its errors where they belong."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from lowerbound.errors import DataError
from lowerbound.files.parallel import ahead, share, workers


def test_the_next_item_is_made_while_this_one_is_used_and_no_more():
    made, third = [], threading.Event()

    def items() -> Iterator[int]:
        for i in range(5):
            if i == 2:
                third.wait(10)
            made.append(i)
            yield i

    seen = []
    for i in ahead(items()):
        if i == 0:  # the second is made now, and the third only when the second is taken
            third.set()
        seen.append(i)
        assert len(made) <= i + 2
    assert seen == made == [0, 1, 2, 3, 4]
    assert list(ahead([])) == []


@pytest.mark.parametrize(
    ("name", "limit", "limited"),
    [
        ("cpu.max", "max 100000\n", False),
        ("cpu.max", "150000 100000\n", True),
        ("cpu/cpu.cfs_quota_us", "-1\n", False),
        ("cpu/cpu.cfs_quota_us", "200000\n", True),
    ],
)
def test_the_limit_of_a_container_is_seen(tmp_path, name, limit, limited):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(limit)
    assert share(tmp_path) == (workers() if limited else None)
    assert share(tmp_path / "nothing") is None


def test_an_error_comes_after_the_items_before_it():
    def items() -> Iterator[int]:
        yield 1
        raise DataError("E001", "no more", fix="none")

    walk = ahead(items())
    assert next(walk) == 1
    with pytest.raises(DataError, match="no more"):
        next(walk)


def test_a_reader_that_stops_leaves_no_thread_behind():
    before = threading.active_count()
    walk = ahead(iter(range(100)))
    assert next(walk) == 0
    walk.close()
    assert threading.active_count() == before
