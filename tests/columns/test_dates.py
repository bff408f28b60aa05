"""Dates written as text or as whole numbers, and remarks on what may be a date or a code."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from lowerbound.columns import date_formats as formats
from lowerbound.columns.dates import Datetime
from lowerbound.columns.schema import infer
from lowerbound.errors import DataError, UsageError

RNG = np.random.default_rng(3)
MOMENTS = [
    dt.datetime(1972, 1, 1) + dt.timedelta(seconds=int(s)) for s in RNG.integers(0, 10**9, 90)
]

# Formats of strftime that are recognised, with the resolution of what they hold.
FORMATS = {
    "%d-%b-%y": "day",
    "%d-%b-%Y": "day",
    "%d %B %Y": "day",
    "%d%b%Y": "day",
    "%b %d, %Y": "day",
    "%A, %d %B %Y": "day",
    "%Y-%b-%d": "day",
    "%Y%m%d": "day",
    "%m%d%Y": "day",
    "%d.%m.%y": "day",
    "%m/%d/%y": "day",
    "%y-%m-%d": "day",
    "%m-%d-%Y": "day",
    "%Y.%m.%d": "day",
    "%b-%Y": "month",
    "%B %Y": "month",
    "%Y-%m": "month",
    "%m/%Y": "month",
    "%m/%d/%Y %I:%M %p": "minute",
    "%d/%m/%Y %I:%M:%S %p": "second",
    "%Y-%m-%d %I:%M:%S %p": "second",
    "%m/%d/%Y %I%p": "hour",
    "%Y%m%d%H%M%S": "second",
    "%Y/%m/%d %H:%M:%S": "second",
    "%d/%b/%Y:%H:%M:%S": "second",
    "%a %b %d %H:%M:%S %Y": "second",
    "%a, %d %b %Y %H:%M:%S +0000": "second",
    "%d-%b-%y %I.%M.%S.%f %p": "second",
    "%Y-%m-%d %H:%M:%S,%f": "second",
}
CUT = {
    "month": {"day": 1, "hour": 0, "minute": 0, "second": 0},
    "day": {"hour": 0, "minute": 0, "second": 0},
    "hour": {"minute": 0, "second": 0},
    "minute": {"second": 0},
    "second": {},
}


def column(values, name="when", **options):
    table = pa.table({name: values, "x": RNG.normal(size=len(values))})
    return infer(table, **options).columns[0]


@pytest.mark.parametrize("pattern", FORMATS)
def test_text_of_dates_is_read_and_written_back(pattern):
    words = pa.array([moment.strftime(pattern) for moment in MOMENTS])
    found = column(words)
    assert found.kind == "datetime"
    wanted = [moment.replace(**CUT[FORMATS[pattern]]) for moment in MOMENTS]
    assert formats.read(words, found.pattern).to_pylist() == wanted
    seconds = np.array([moment.replace(tzinfo=dt.UTC).timestamp() for moment in wanted])
    assert formats.write(seconds, found.pattern).to_pylist() == words.to_pylist()


def test_dates_are_written_as_they_were():
    for words in (["1/2/2020", "12/31/2021", "3/14/2020"], ["01-FEB-1999", "28-MAR-2001"] * 2):
        pattern = formats.styled(formats.fitting(pa.array(words))[-1].pattern, pa.array(words))
        moments = formats.read(pa.array(words), pattern).cast(pa.int64()).to_numpy() / 1e6
        assert formats.write(moments, pattern).to_pylist() == words
    evening = pa.array(["3/4/2020 9:15 pm", "12/14/2020 12:05 am", "5/20/2020 12:00 pm"])
    pattern = column(evening).pattern
    read = formats.read(evening, pattern).to_pylist()
    assert [moment.hour for moment in read] == [21, 0, 12]
    moments = formats.read(evening, pattern).cast(pa.int64()).to_numpy() / 1e6
    assert formats.write(moments, pattern).to_pylist() == evening.to_pylist()


@pytest.mark.parametrize(
    ("years", "first"),
    [
        (range(1970, 2030), 1970),
        (range(1962, 2015), 1962),  # over the limit of POSIX: one century, not two
        (range(1930, 2006), 1930),
        (range(2015, 2056), 2015),
    ],
)
def test_two_digits_of_years_that_belong_together(years, first):
    words = pa.array([f"{1 + y % 28:02d}-Feb-{y % 100:02d}" for y in years])
    read = formats.read(words, column(words).pattern)
    assert [moment.year for moment in read.to_pylist()] == list(years)
    assert (
        column(words)
        .notes[0]
        .endswith(f"read as {read[0].as_py():%Y-%m-%d} to {read[-1].as_py():%Y-%m-%d}")
    )
    assert read[0].as_py().year == first


def test_a_day_that_does_not_exist_is_no_date():
    words = pa.array(["30-Feb-1999", "29-Feb-1999", "29-Feb-2000", "31-Apr-2000", "1-Mai-2000"])
    assert formats.read(words, "%d-%b-%Y").null_count == 4
    hours = pa.array(["01/02/2020 13:00 PM", "01/02/2020 00:30 AM", "01/02/2020 12:30 AM"])
    assert formats.read(hours, "%m/%d/%Y %I:%M %p").null_count == 2


@pytest.mark.parametrize("kind", [pa.int64(), pa.int32(), pa.float64(), pa.string()])
def test_dates_that_are_whole_numbers(kind):
    days = [20190101 + 100 * (i % 12) + i % 28 for i in range(60)]
    cells = pa.array(days).cast(kind)
    cells = pa.chunked_array([pa.array([None], kind), cells])
    table = pa.table({"day": cells, "x": RNG.normal(size=61)})
    schema = infer(table)
    assert schema.columns[0].kind == "datetime"
    assert schema.columns[0].missing == 1
    back = schema.decode(schema.encode(table).values)["day"]
    assert back.type == kind
    assert back.to_pylist() == cells.to_pylist()
    # The same dates in another spelling have the same codes.
    text = pa.array([None, *(f"{d // 10**4}-{d // 100 % 100:02d}-{d % 100:02d}" for d in days)])
    iso = table.set_column(0, "day", text)
    np.testing.assert_array_equal(schema.encode(iso).values, schema.encode(table).values)


def test_numbers_that_are_not_dates_stay_numbers():
    amounts = pa.array(RNG.integers(10**7, 10**8, 200))
    assert column(amounts, "amount").kind in ("real", "positive")
    almost = pa.array([20190101 + i % 28 for i in range(95)] + [0, 20191399, 20190230, 0, 0])
    found = column(almost)
    assert found.kind != "datetime"
    assert "looks like dates written as YYYYMMDD, but 5 of 100 values" in found.notes[0]
    assert column(pa.array(["1.2015", "3.2016", "5.2015"] * 9)).kind != "datetime"


def test_day_or_month_first_can_be_given():
    words = pa.array(["03/04/2020", "05/06/2020", "07/08/2020"] * 5)
    with pytest.raises(DataError) as caught:
        column(words, types={"when": "datetime"})
    assert caught.value.code == "E041"
    assert "--types 'when=datetime:%d/%m/%Y'" in caught.value.fix
    assert "--types 'when=datetime:%d/%m/%Y'" in column(words).notes[0]
    for pattern, first in (("%d/%m/%Y", (4, 3)), ("%m/%d/%Y", (3, 4))):
        found = column(words, types={"when": f"datetime:{pattern}"})
        moment = formats.read(words, found.pattern)[0].as_py()
        assert (moment.month, moment.day) == first
    for wrong in ("%d/%m", "day first", "%Q", "%Y%%%m"):
        with pytest.raises(UsageError) as refused:
            column(words, types={"when": f"datetime:{wrong}"})
        assert refused.value.code == "E205"


@pytest.mark.parametrize(
    ("name", "values", "remark"),
    [
        ("loan", 1_000_014_003 + 10 * RNG.permutation(9999)[:300], "10 digits"),
        ("Zip", RNG.choice([47711, 6062, 74012, 501], 300), "--types Zip=categorical or Zip=id"),
        ("NAICS", RNG.choice([451120, 0, 722410, 238221], 300), "NAICS=categorical"),
        ("branch", RNG.choice(RNG.integers(10**5, 10**6, 40), 300), "branch=categorical"),
        ("FranchiseCode", RNG.choice([0, 1, 68020, 3512], 300), "FranchiseCode=categorical"),
        ("zip code", RNG.choice([47711, 6062, 74012], 300), "--types 'zip code=categorical'"),
        ("account_no", RNG.integers(10**5, 10**9, 300), "--types account_no=id"),
        ("line", np.arange(300) + 17, "numbers every row: --types line=id"),
        ("ym", 201001 + RNG.integers(0, 12, 300) + 100 * RNG.integers(0, 9, 300), "datetime:%Y%m"),
        ("created", RNG.integers(14 * 10**8, 16 * 10**8, 300), "seconds since 1970"),
        ("date", RNG.integers(41000, 44000, 300), "spreadsheet"),
    ],
)
def test_numbers_that_are_codes_or_dates_are_pointed_out(name, values, remark):
    notes = " ".join(column(pa.array(values), name).notes)
    assert remark in notes
    told = " ".join(column(pa.array(values), name, types={name: "real"}).notes)
    assert not told or told.startswith("only ")  # a kind that was given is not doubted


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("salary", RNG.integers(200, 900, 300) * 100),
        ("income", np.rint(RNG.lognormal(10, 0.5, 300))),
        ("age", RNG.integers(18, 90, 300)),
        ("NoEmp", RNG.integers(1, 2000, 300)),
        ("year", RNG.integers(1960, 2014, 300)),
        ("pressure", RNG.integers(100_000, 102_000, 300)),
        ("number_of_calls", RNG.integers(0, 3000, 300)),
    ],
)
def test_quantities_are_not_taken_for_codes(name, values):
    assert not [note for note in column(pa.array(values), name).notes if "code" in note]


def test_text_that_looks_like_dates_is_pointed_out():
    days = [f"{1 + i % 28:02d}-Mar-{1980 + i % 30}" for i in range(200)]
    found = column(pa.array([*days, "unknown", "31-Feb-1999"]))
    assert found.kind != "datetime"
    assert "looks like dates such as '01-Mar-19" in found.notes[0]
    assert "but 2 of 202 values are not, the first 'unknown' in row 201" in found.notes[0]
    clocks = pa.array([f"{1 + i % 12}:{i % 60:02d} PM" for i in range(200)])
    assert "looks like times of day" in column(clocks).notes[0]
    months = pa.array([f"{m}-{y:02d}" for m in ("Jan", "Feb", "Dec") for y in range(10, 20)] * 3)
    assert "looks like months without a day" in column(months).notes[0]


@pytest.mark.parametrize("pattern", ["%Q", "%99999999999y-%m", "%d/%m", "%Y-%m %", "%Y%m" * 40])
def test_a_saved_column_has_a_format_that_can_be_read(pattern):
    saved = column(pa.array(["28-Feb-97", "01-Mar-98", "02-Apr-99"])).model_dump()
    Datetime.model_validate(saved)
    with pytest.raises(ValidationError):
        Datetime.model_validate({**saved, "pattern": pattern})


def test_other_spellings_of_the_same_moments_have_the_same_codes():
    days = [dt.date(1990, 1, 1) + dt.timedelta(days=int(d)) for d in RNG.integers(0, 9000, 50)]
    table = pa.table({"d": [f"{d:%d-%b-%y}" for d in days], "x": RNG.normal(size=50)})
    schema = infer(table)
    wanted = schema.encode(table).values
    stamps = pa.array(days, pa.date32())
    for cells in (
        stamps,
        stamps.cast(pa.timestamp("ms")),
        stamps.cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC")),
        pa.array([f"{d:%Y-%m-%d}" for d in days]),
        pa.array([f"{d:%d-%b-%y}".upper() for d in days], pa.large_string()),
        pa.array([int(f"{d:%Y%m%d}") for d in days]),
    ):
        found = schema.encode(table.set_column(0, "d", cells)).values
        np.testing.assert_array_equal(found, wanted)


# --- moments that stand for something else -------------------------------------------------------

DAYS = np.datetime64("2018-01-01") + RNG.integers(0, 2000, 1000).astype("timedelta64[D]")
BIRTHS = np.datetime64("1950-01-01") + RNG.integers(0, 18_000, 1000).astype("timedelta64[D]")
STAMPS = np.datetime64("2023-01-01T00:00:00") + RNG.integers(0, 3 * 10**7, 1000)


def marked(dates, marks):
    """Return dates of which some shares are replaced."""
    out, at = dates.copy(), 0
    for moment, count in marks.items():
        out[at : at + count] = np.datetime64(moment)
        at += count
    return out


NEVER = "9999-12-31"
SENTINELS = {
    "many": (DAYS, {NEVER: 200}),
    "few": (DAYS, {NEVER: 2}),
    "one": (DAYS, {NEVER: 1}),
    "nearly all": (DAYS, {NEVER: 980}),
    "at the beginning": (BIRTHS, {"1900-01-01": 30}),
    "in the middle": (BIRTHS, {"1970-01-01": 80}),
    "several": (DAYS, {NEVER: 40, "1900-01-01": 20, "0001-01-01": 3}),
    "moments": (STAMPS, {"9999-12-31T23:59:59": 50}),
    "nanoseconds": (STAMPS, {"2262-04-11T00:00:00": 50}),
}


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("name", SENTINELS)
def test_moments_that_stand_for_something_else_are_atoms(name, text):
    dates, marks = SENTINELS[name]
    values = pa.array(marked(dates, marks))
    values = pa.array([str(each) for each in marked(dates, marks)]) if text else values
    when = column(values)
    atoms = np.array(when.atoms).astype("int64").astype("datetime64[s]")
    assert sorted(atoms) == sorted(np.datetime64(each, "s") for each in marks)
    assert f"{sum(marks.values()):,} row" in when.notes[-1]
    schema = infer(pa.table({"when": values, "x": RNG.normal(size=len(dates))}))
    schema = type(schema).model_validate_json(schema.model_dump_json())
    codes = schema.encode(pa.table({"when": values, "x": np.zeros(len(dates))})).values
    spans = [i for i, part in enumerate(schema.parts) if part.column == "when"]
    back = when.decode(codes[:, spans], bounded=True)
    known = np.isin(marked(dates, marks), [np.datetime64(each) for each in marks])
    assert back.filter(pa.array(known)) == values.filter(pa.array(known))
    if dates is not STAMPS:  # whose position in the hour is uniform
        assert back == values
    # The parts of a value are either the code of an atom, or those of a date and the code of none.
    own = codes[:, spans]
    assert (np.isnan(own[:, :-1]).all(1) == known).all()
    assert ((own[:, -1] == len(marks)) == ~known).all()
    assert not when.log_jacobian(own)[known].any()


def test_draws_stay_where_the_dates_are():
    when = column(pa.array(marked(DAYS, {NEVER: 100})))
    wild = RNG.normal(0, 5, (5000, len(when.parts)))
    wild[:, 1] = RNG.integers(0, 7, 5000)
    wild[:, -1] = RNG.integers(0, 2, 5000)
    drawn = np.array(when.decode(wild, bounded=True).to_pylist(), "datetime64[D]")
    never = wild[:, -1] == 0
    assert (drawn[never] == np.datetime64(NEVER)).all()
    assert drawn[~never].min() >= DAYS.min()
    assert drawn[~never].max() <= DAYS.max()


def test_an_atom_can_be_asked_and_what_lies_between_cannot():
    when = column(pa.array(marked(DAYS, {NEVER: 100})))
    asked = when.asked(NEVER)
    assert asked.cell.to_pylist() == [dt.date(9999, 12, 31)]
    assert asked.codes[-1] == 0
    assert np.isnan(asked.codes[:-1]).all()
    for other in ("5000-01-01", "9999-12-30"):
        with pytest.raises(DataError) as error:
            when.asked(other)
        assert error.value.code == "E074"


@pytest.mark.parametrize(
    "dates",
    [
        DAYS,
        BIRTHS,
        STAMPS,
        np.sort(DAYS)[::-1],
        np.datetime64("2020-01-01") + np.arange(300).astype("timedelta64[D]"),
        np.datetime64("2024-01-01") - (RNG.pareto(1, 1000) * 20).astype("timedelta64[D]"),
        np.repeat(np.array(["2020-01", "2020-02", "2020-03"], "datetime64[D]"), [50, 70, 60]),
        np.array(["2020-01-01", "9999-12-31", "2020-01-03"] * 3, "datetime64[D]"),
    ],
)
def test_usual_dates_have_no_atoms(dates):
    assert column(pa.array(dates)).atoms == ()
    assert column(pa.array(marked(DAYS, {NEVER: 100})), exclude_atoms=True).atoms == ()
