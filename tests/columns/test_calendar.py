"""Dates that are drawn: inside the range and at the resolution seen, written as they were."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
import torch

from lowerbound.coding.tables import TableCoding
from lowerbound.columns.arrow import pc, plain
from lowerbound.columns.calendar import Calendar, Style, to_local
from lowerbound.columns.dates import seconds
from lowerbound.columns.schema import infer
from lowerbound.files.read import read

RNG = np.random.default_rng(3)
N = 400
UTC = dt.UTC
START = dt.datetime(2024, 1, 3)


def steps(count, **step):
    """Return moments at random multiples of a step."""
    return [START + dt.timedelta(**step) * int(i) for i in RNG.integers(0, count, N)]


def weekdays(moments):
    return [m + dt.timedelta(days=-2) if m.weekday() > 4 else m for m in moments]


def firsts(months):
    return [dt.date(2020 + m // 12, m % 12 + 1, 1) for m in RNG.integers(0, months, N)]


def lasts(months):
    return [day - dt.timedelta(days=1) for day in firsts(months)]


def in_zone(moments, zone, unit="us"):
    return pa.array([m.replace(tzinfo=UTC) for m in moments], pa.timestamp(unit, zone))


def wall(moments, zone):
    """Return moments of a wall clock in a time zone."""
    naive = pa.array(moments, pa.timestamp("us"))
    return pc.assume_timezone(naive, zone, ambiguous="earliest", nonexistent="latest")


def spelled(moments, form):
    return pa.array([m.strftime(form) for m in moments])


def abroad(moments, *hours):
    """Return ISO texts of moments with the offsets of summer and winter, or one for all."""
    zone = [dt.timezone(dt.timedelta(hours=h)) for h in hours]
    return pa.array(
        [m.replace(tzinfo=UTC).astimezone(zone[m.month % len(zone)]).isoformat() for m in moments]
    )


COLUMNS = {
    "days": pa.array([m.date() for m in steps(86, days=1)]),
    "weekdays": pa.array([m.date() for m in weekdays(steps(86, days=1))]),
    "one week": pa.array([m.date() for m in steps(4, days=1)]),
    "month starts": pa.array(firsts(60)),
    "month ends": pa.array(lasts(60)),
    "quarters": pa.array([day.replace(month=day.month // 4 * 3 + 1) for day in firsts(60)]),
    "years": pa.array(
        [day.replace(year=1990 + i % 30, month=1) for i, day in enumerate(firsts(9))]
    ),
    "hours": pa.array(steps(2000, hours=1), pa.timestamp("s")),
    "half hours": pa.array(steps(2000, minutes=30), pa.timestamp("ms")),
    "minutes": pa.array(steps(90_000, minutes=1), pa.timestamp("us")),
    "seconds": pa.array(steps(10**7, seconds=1), pa.timestamp("ns")),
    "milliseconds": pa.array(steps(10**8, milliseconds=1)),
    "two hours of a day": pa.array(steps(7200, seconds=1)),
    "half past nine": pa.array([m.replace(hour=9, minute=30) for m in steps(80, days=1)]),
    "zoned hours": in_zone(steps(5000, hours=1), "Europe/Berlin"),
    "zoned days": wall(steps(300, days=1), "Europe/Berlin"),
    "zoned weekdays": wall(weekdays(steps(300, days=1)), "America/New_York"),
    "before 1970": pa.array([m - dt.timedelta(days=40_000) for m in steps(900, hours=1)]),
    "text of days": spelled(steps(86, days=1), "%Y-%m-%d"),
    "text of minutes": spelled(steps(90_000, minutes=1), "%Y-%m-%d %H:%M"),
    "text of seconds": spelled(steps(10**7, seconds=1), "%Y-%m-%dT%H:%M:%S"),
    "text of milliseconds": pa.array(
        [m.isoformat(timespec="milliseconds") for m in steps(10**8, milliseconds=1)]
    ),
    "text in UTC": spelled(steps(10**7, seconds=1), "%Y-%m-%dT%H:%M:%SZ"),
    "text of an offset": abroad(steps(5000, hours=1), 2),
    "text of two offsets": abroad(steps(9000, hours=1), 1, 2),
    "text of local dates": spelled(steps(400, days=1), "%d.%m.%Y"),
    "text of local minutes": spelled(steps(90_000, minutes=1), "%d/%m/%Y %H:%M"),
}


def column_of(cells, **types):
    (column,) = infer(pa.table({"a": cells}), types=types).columns
    assert column.kind == "datetime"
    return column


def drawn(column, rows=3000):
    """Return bounded draws from codes of all kinds, also of ones that training has not seen."""
    parts = [
        RNG.integers(0, part.size, rows) if part.size > 1 else RNG.normal(size=rows) * 3
        for part in column.parts
    ]
    return column.decode(np.stack(parts, 1).astype(np.float32), bounded=True)


def moments(cells):
    """Return seconds since 1970 of dates, moments or their text."""
    column = column_of(cells)
    return seconds(plain(pa.chunked_array([cells])), "a", column.pattern)


@pytest.mark.parametrize("name", list(COLUMNS))
def test_draws_keep_to_the_range_and_resolution_of_training(name):
    cells = COLUMNS[name]
    column = column_of(cells)
    made = drawn(column)
    assert made.type == cells.type
    seen, found = moments(cells), moments(made)
    assert seen.min() <= found.min() <= found.max() <= seen.max()
    zone = getattr(cells.type, "tz", None) or ""
    local, drawn_local = (to_local(m, zone, column.style) for m in (seen, found))
    own, other = Calendar.fit(local), Calendar.fit(drawn_local)
    assert set(other.weekdays) <= set(own.weekdays)
    assert (other.month_day, set(other.months) - set(own.months)) == (own.month_day, set())
    steps_apart = (other.base - own.base) / own.grain, other.grain / own.grain
    assert np.allclose(steps_apart, np.rint(steps_apart))
    assert len(np.unique(found)) > min(len(np.unique(seen)) / 4, 40)  # nothing piles up


@pytest.mark.parametrize("name", [name for name in COLUMNS if name.startswith("text")])
def test_text_is_written_as_it_was(name):
    cells = COLUMNS[name]
    column = column_of(cells)
    texts = drawn(column).to_pylist()
    assert {len(text) for text in texts} == {len(text) for text in cells.to_pylist()}
    for text, known in zip(texts, cells.to_pylist(), strict=False):
        assert [c for c in text[:19] if not c.isdigit()] == [
            c for c in known[:19] if not c.isdigit()
        ]
    ends = {text[19:] for text in cells.to_pylist() if text[-6:-5] == "+" or text[-1] == "Z"}
    assert {text[19:] for text in texts if ends} == ends


def test_the_offset_of_a_moment_is_that_of_its_season():
    cells = COLUMNS["text of two offsets"]
    style = column_of(cells).style
    summers = pa.array([dt.datetime(2024, m, 15) for m in range(2, 12)], pa.timestamp("s"))
    written = style.write(summers.cast(pa.int64()).to_numpy().astype(float)).to_pylist()
    assert {w[-6:] for w in written} == {"+01:00", "+02:00"}
    # Offsets that change from row to row are those of no place: the usual one is written.
    mixed = [
        m.replace(tzinfo=UTC).astimezone(dt.timezone(dt.timedelta(hours=int(h))))
        for m, h in zip(steps(9000, hours=1), RNG.choice([0, 5, 5], N), strict=True)
    ]
    style = column_of(pa.array([m.isoformat() for m in mixed])).style
    assert [shift for _, shift in style.offsets] == [5 * 3600]


@pytest.mark.parametrize(
    ("form", "wanted"),
    [
        ("%Y-%m-%d", "2024-03-01"),
        ("%Y-%m-%d %H:%M", "2024-03-01 06:07"),
        ("%Y-%m-%dT%H:%M:%S", "2024-03-01T06:07:08"),
        ("%Y-%m-%dT%H:%M:%S.%f", "2024-03-01T06:07:08.250000"),
        ("%Y-%m-%d %H:%M:%SZ", "2024-03-01 06:07:08Z"),
        ("%Y-%m-%dT%H:%M:%S+02:00", "2024-03-01T08:07:08+02:00"),
        ("%Y-%m-%dT%H:%M:%S-0330", "2024-03-01T02:37:08-0330"),
        ("%Y-%m-%dT%H:%M+05", "2024-03-01T11:07+05"),
        ("%Y-%m-%dT%H%M%S", "2024-03-01T060708"),
    ],
)
def test_styles(form, wanted):
    cells = spelled(steps(10**7, seconds=1), form).dictionary_encode()
    style = Style.fit(cells, np.zeros(N))
    at = dt.datetime(2024, 3, 1, 6, 7, 8, 250_000, tzinfo=UTC).timestamp()
    assert style.write(np.array([at, np.nan])).to_pylist() == [wanted, None]


def test_filled_dates_are_written_like_those_of_the_table():
    hours = steps(5000, hours=1)
    train = read(pa.table({"a": pa.array(hours, pa.timestamp("us")), "b": RNG.normal(size=N)}))
    coding = TableCoding.fit(train, types={}, drop=(), transform="standard")
    values = coding.encode(train).rows.take(torch.arange(N)).x.numpy()
    for cells in (
        spelled(hours, "%Y-%m-%dT%H:%M:%SZ"),
        spelled(hours, "%d.%m.%Y %H:%M"),
        in_zone(hours, "Asia/Tokyo", "ns"),
        pa.array(hours, pa.timestamp("s")),
        abroad(hours, 2),
    ):
        gaps = pa.array(
            [None if i % 7 == 0 else v for i, v in enumerate(cells.to_pylist())], cells.type
        )
        given = read(pa.table({"a": gaps, "b": train.table["b"]}))
        assert coding.filled(given, values)["a"].to_pylist() == cells.to_pylist()
