"""The chain of columns: a density for every subset of columns, and draws that follow it."""

import itertools
import math

import numpy as np
import pytest
import torch

from lowerbound.columns.base import Scale
from lowerbound.nn.distributions.chains import Chain
from lowerbound.nn.networks.seen_values import SeenValues
from lowerbound.nn.objectives import random_orders
from lowerbound.noise import generator
from lowerbound.training.row_stage import CodedColumns, measured

CODE, ATOM, WHOLE, COPY, REAL, TIED = range(6)
FAMILIES = ["categorical", "categorical", "real", "real", "real", "categorical"]
SIZES = [3, 2, 1, 1, 1, 3]
RESERVED = [0.0, 0.0, 0.0, 0.0, 0.0, 0.01]
STEP = 0.5  # of the whole numbers in coded units
GATES = [(WHOLE, ATOM, 1)]


def table(n: int = 400) -> np.ndarray:
    """Rows of all kinds: WHOLE has values only where ATOM is 1, COPY often repeats it."""
    rng = np.random.default_rng(0)
    code = rng.integers(0, 3, n).astype(float)
    atom = rng.integers(0, 2, n).astype(float)
    whole = np.where(atom == 1, STEP * rng.integers(-4, 5, n), np.nan)
    copy = np.where(rng.random(n) < 0.3, np.nan_to_num(whole), STEP * rng.integers(-4, 5, n))
    tied = np.array([1.0, 2.0, 2.0])[code.astype(int)]
    return np.column_stack([code, atom, whole, copy, rng.normal(size=n) + code, tied])


@pytest.fixture(scope="module")
def chain() -> Chain:
    whole = Scale((-1.0, 1.0), (-2.0, 2.0), grain=1.0)
    scales = [None, None, whole, whole, Scale(), None]
    found = measured(table(), CodedColumns(FAMILIES, SIZES, scales, GATES), 16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Chain(FAMILIES, SIZES, RESERVED, **found.layout)
        found.give(made)
        with torch.no_grad():
            for each in made.parameters():  # far from the first weights
                each.add_(0.3 * torch.randn_like(each))
    return made.eval()


def domain(column: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return points of a column, and the measure that each of them stands for."""
    if FAMILIES[column] == "categorical":
        points = torch.arange(float(SIZES[column]))
        return points, torch.ones(len(points))
    if column == REAL:  # dense around 0
        u = torch.linspace(-6, 6, 40_001, dtype=torch.float64)
        return u.sinh().float(), u.cosh() * (u[1] - u[0])
    points = STEP * torch.arange(-300.0, 301.0)
    return points, torch.full_like(points, STEP)


def conditional(chain: Chain, x: torch.Tensor, column: int) -> torch.Tensor:
    """Return log p(column | the other values that are not NaN), (B,) nats."""
    first = ~x.isnan()
    first[:, column] = False
    return chain.log_prob(x, first)


def test_measured_layout(chain):
    ties = {(tie["seen"], tie["column"]) for tie in chain.ties}
    assert ties == {(CODE, TIED), (TIED, CODE)}
    copies = {each["column"]: each["copies"] for each in chain.numbers}
    assert WHOLE in copies[COPY]
    assert sorted(chain.order) == list(range(6))
    assert chain.order.index(ATOM) < chain.order.index(WHOLE)


@pytest.mark.parametrize("column", range(6))
@torch.no_grad()
def test_every_conditional_sums_or_integrates_to_one(chain, column):
    rng = np.random.default_rng(column)
    points, measure = domain(column)
    rows = torch.tensor(table(6), dtype=torch.float32)
    others = [c for c in range(6) if c != column]
    for row in rows:
        given = row.clone()
        hidden = rng.choice(others, rng.integers(0, 6), replace=False)
        given[hidden.tolist()] = torch.nan
        if column == WHOLE:
            given[ATOM] = 1.0
        if column == ATOM:  # a gated value is never seen before its gate
            given[WHOLE] = torch.nan
        x = given.repeat(len(points), 1)
        x[:, column] = points
        nats = conditional(chain, x, column)
        assert (nats.double().exp() @ measure.double()).item() == pytest.approx(1.0, abs=2e-4)


@torch.no_grad()
def test_every_subset_of_codes_sums_to_one(chain):
    codes = [CODE, ATOM, TIED]
    for size in (1, 2, 3):
        for some in itertools.combinations(codes, size):
            grid = itertools.product(*(range(SIZES[c]) for c in some))
            x = torch.full((math.prod(SIZES[c] for c in some), 6), torch.nan)
            x[:, list(some)] = torch.tensor(list(grid), dtype=torch.float32)
            total = chain.log_prob(x).double().exp().sum().item()
            assert total == pytest.approx(1.0, abs=1e-5)


@torch.no_grad()
def test_columns_together_are_as_each_alone_in_any_order(chain):
    rows = torch.tensor(table(20), dtype=torch.float32)
    rows[::3, CODE] = torch.nan
    first = torch.rand(rows.shape, generator=generator("first")) < 0.3
    order = [TIED, REAL, ATOM, COPY, WHOLE, CODE]
    for given in (None, first):
        together = chain.log_prob_of_places(rows, order, range(6), given)
        each = [chain.log_prob_of_places(rows, order, range(i, i + 1), given) for i in range(6)]
        assert torch.allclose(together, torch.cat(each, 1), atol=1e-5)


@torch.no_grad()
def test_batches_in_several_orders_are_prepared_as_each_alone(chain):
    x = torch.from_numpy(table(12)).float().view(4, 3, 6)
    x[1, 0, REAL] = torch.nan
    orders = [[0, 1, 2, 3, 4, 5], [5, 1, 4, 2, 3, 0], [0, 1, 2, 3, 4, 5], [1, 0, 2, 4, 3, 5]]
    ranks = torch.tensor(orders).argsort(1)
    together = chain.prepared_in_orders(x, ranks)
    for place in range(4):
        alone = chain.prepared(x[place], ranks[place])
        for one, other in zip(alone.rows, together.rows, strict=True):
            torch.testing.assert_close(one, other[place], equal_nan=True)
        for one, other in zip(alone[1:], together[1:], strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other[place])


def test_vectors_are_those_of_each_column_and_0_where_unseen(chain):
    x = torch.tensor(table(20), dtype=torch.float32)
    x[::3, REAL] = torch.nan
    rows, seen = chain.read(x), chain.known(x)
    found = chain.vectors(rows, seen)
    assert found.shape == (6, 20, 16)
    assert (found[REAL, ::3] == 0).all()
    for column in range(6):
        number = chain.place.get(column)
        own = rows.values[:, 0 if number is None else number]
        one = chain.net.vector(column, rows.codes[:, column], number, own)
        at = seen[:, column]
        assert at.any()
        assert torch.allclose(found[column][at], one[at], atol=1e-5)


@torch.no_grad()
def test_first_vectors_of_numbers_are_the_same_for_all_codes():
    net = SeenValues([3, 4], [1], width=8)
    codes = torch.tensor([[0, 0], [1, 3]])
    found = net.vectors(codes, torch.full((2, 1), 0.7), torch.ones(2, 2).bool())
    assert torch.equal(found[1, 0], found[1, 1])
    assert not torch.equal(found[0, 0], found[0, 1])


@torch.no_grad()
def test_numbers_without_a_grid_stay_as_they_are(chain):
    x = torch.tensor([[0.3, 0.3, 0.3], [-1.2, -1.2, -1.2]])
    middle, low, high = chain.rounded(x, torch.arange(3))  # WHOLE, COPY and REAL
    for each in (middle, low, high):
        assert torch.equal(each[:, 2], x[:, 2])
    assert middle[:, :2].tolist() == [[0.5, 0.5], [-1.0, -1.0]]
    assert (low[:, :2] < middle[:, :2]).all()
    assert (middle[:, :2] < high[:, :2]).all()
    alone = chain.rounded(x[:, 2:], torch.tensor([2]))
    assert all(torch.equal(each, x[:, 2:]) for each in alone)


@torch.no_grad()
def test_a_closed_gate_adds_nothing(chain):
    row = torch.tensor([[1.0, 0.0, torch.nan, 0.5, 0.1, 2.0]])
    other = row.clone()
    other[0, WHOLE] = 1.5
    assert chain.log_prob(row).isfinite().all()
    assert torch.equal(chain.log_prob(row), chain.log_prob(other))


def test_draws_given_a_subset_have_the_conditional_frequencies(chain):
    n = 20_000
    given = torch.full((6,), torch.nan)
    given[COPY] = 0.5
    drawn = chain.draw(given.repeat(n, 1), generator("draws"))
    first = next(c for c in chain.order if c != COPY)
    assert FAMILIES[first] == "categorical"
    rows = torch.full((SIZES[first], 6), torch.nan)
    rows[:, COPY], rows[:, first] = 0.5, torch.arange(float(SIZES[first]))
    with torch.no_grad():
        expected = conditional(chain, rows, first).exp().tolist()
    share = [(drawn[:, first] == code).float().mean().item() for code in range(SIZES[first])]
    assert share == pytest.approx(expected, abs=0.015)
    assert (drawn[:, COPY] == 0.5).all()


@pytest.mark.parametrize("column", [CODE, ATOM, WHOLE, REAL])
@torch.no_grad()
def test_draws_of_one_column_given_all_others_follow_its_density(chain, column):
    n, row = 20_000, torch.tensor([2.0, 1.0, 0.5, 0.5, 1.2, 2.0])
    if column == ATOM:
        row[WHOLE] = torch.nan
    if column == CODE:
        row[TIED] = torch.nan
    given = row.clone()
    given[column] = torch.nan
    drawn = chain.draw(given.repeat(n, 1), generator("one", column))[:, column]
    points, measure = domain(column)
    rows = row.repeat(len(points), 1)
    rows[:, column] = points
    mass = conditional(chain, rows, column).exp().double() * measure
    if column == WHOLE:  # only its nine values are drawn
        assert "only_spikes" in chain.numbers[chain.place[WHOLE]]
        mass *= points.abs() <= 4 * STEP
        mass /= mass.sum()
    shares = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]).double()
    for cut in points[torch.searchsorted(mass.cumsum(0), shares)]:
        below = mass[points <= cut].sum().item()
        assert (drawn <= cut + 1e-6).float().mean().item() == pytest.approx(below, abs=0.015)


def test_no_draw_breaks_a_dependency_or_a_grid(chain):
    drawn = chain.draw(torch.full((5000, 6), torch.nan), generator("all"))
    assert torch.equal(drawn[:, TIED], torch.tensor([1.0, 2.0, 2.0])[drawn[:, CODE].long()])
    assert torch.equal(drawn[:, COPY], (drawn[:, COPY] / STEP).round() * STEP)
    for code, tied in ((0, 1.0), (1, 2.0), (2, 2.0)):
        given = torch.full((200, 6), torch.nan)
        given[:, CODE] = code
        assert (chain.draw(given, generator("by code"))[:, TIED] == tied).all()
        assert (chain.expected(given)[:, TIED] == tied).all()
    given = torch.full((200, 6), torch.nan)
    given[:, TIED] = 1.0
    assert (chain.draw(given, generator("by tied"))[:, CODE] == 0).all()


def test_given_values_stay(chain):
    x = torch.tensor(table(50), dtype=torch.float32)
    x[::2, REAL] = torch.nan
    for done in (chain.draw(x, generator("stay")), chain.expected(x)):
        kept = ~x.isnan()
        assert torch.equal(done[kept], x[kept])
        assert done.isfinite().all()


@torch.no_grad()
def test_the_expected_number_is_the_mean_of_its_conditional(chain):
    given = torch.full((6,), torch.nan)
    given[[CODE, COPY]] = torch.tensor([1.0, 1.0])
    points, measure = domain(REAL)
    rows = given.repeat(len(points), 1)
    rows[:, REAL] = points
    number = chain.place[REAL]  # what is beyond the training rows counts as their ends
    ends = chain.edges[number, 0], chain.edges[number, chain.numbers[number]["cells"]]
    weights = conditional(chain, rows, REAL).exp().double() * measure
    mean = (weights @ points.clamp(*ends).double()).item()
    assert chain.expected(given[None])[0, REAL].item() == pytest.approx(mean, abs=0.02)


def test_windows_of_many_columns_estimate_the_likelihood(chain, monkeypatch):
    """The weights of the places make the mean over windows the whole sum."""
    monkeypatch.setattr(random_orders, "TOGETHER", 4)
    monkeypatch.setattr(random_orders, "FIXED", 1.0)
    starts = iter(range(3))  # the three windows of six columns
    monkeypatch.setattr(random_orders.torch, "randint", lambda *_, **__: next(starts))
    x = torch.tensor(table(30), dtype=torch.float32)
    with torch.no_grad():
        found = [random_orders._windowed(chain, x, step) for step in range(3)]
        whole = chain.log_prob(x)
    assert torch.stack(found).mean(0) == pytest.approx(whole, abs=1e-4)


def test_an_expected_amount_is_the_mean_in_raw_units():
    rng = np.random.default_rng(1)
    log = rng.normal(size=(500, 1))
    amounts = Scale((-1.0, 1.0), (-1.0, 1.0), log=True)
    found = measured(log, CodedColumns(["real"], [1], [amounts], []), 8)
    chain = Chain(["real"], [1], **found.layout)
    found.give(chain)
    mean = math.exp(chain.eval().expected(torch.full((1, 1), torch.nan))[0, 0].item())
    assert mean == pytest.approx(float(np.exp(log).mean()), rel=0.05)  # and not exp(0)


@pytest.mark.parametrize("given", [(), (0,), (0, 1)], ids=["alone", "given one", "given both"])
@torch.no_grad()
def test_a_number_with_a_formula_has_a_density_too(given):
    rng = np.random.default_rng(0)
    parts = rng.integers(-4, 5, (200, 2)) * STEP
    rows = np.column_stack([parts, parts.sum(1)])
    whole = Scale((-1.0, 1.0), (-2.0, 2.0), grain=1.0)
    found = measured(rows, CodedColumns(["real"] * 3, [1] * 3, [whole] * 3, []), 8)
    assert all("formula" in each for each in found.layout["numbers"])
    with torch.random.fork_rng():
        torch.manual_seed(1)
        chain = Chain(["real"] * 3, [1] * 3, **found.layout)
        found.give(chain)
        for each in chain.parameters():
            each.add_(0.3 * torch.randn_like(each))
    points = STEP * torch.arange(-300.0, 301.0)
    x = torch.full((len(points), 3), torch.nan)
    x[:, list(given)] = torch.tensor([1.0, -0.5])[: len(given)]
    x[:, 2] = points
    nats = conditional(chain, x, 2)
    assert (nats.double().exp().sum() * STEP).item() == pytest.approx(1.0, abs=2e-4)
    drawn = chain.draw(torch.full((500, 3), torch.nan), generator("sums"))
    assert torch.allclose(drawn[:, 2], drawn[:, 0] + drawn[:, 1], atol=1e-5)
    assert not chain.breaks(drawn, torch.ones_like(drawn, dtype=torch.bool)).any()
    drawn[0, 2] += STEP
    assert chain.breaks(drawn, torch.ones_like(drawn, dtype=torch.bool)).tolist()[:2] == [
        True,
        False,
    ]


@torch.no_grad()
def test_rare_combinations_are_matched_to_their_frequency():
    rng = np.random.default_rng(0)
    one = rng.integers(0, 3, 3000)
    other = np.where(one == 0, rng.integers(1, 3, 3000), rng.integers(0, 3, 3000))
    other[np.flatnonzero(one == 0)[:2]] = 0  # two rows of about 330
    rows = np.column_stack([one, other, rng.integers(0, 2, 3000)]).astype(np.float32)
    found = measured(rows, CodedColumns(["categorical"] * 3, [3, 3, 2], [None] * 3, []), 8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        chain = Chain(["categorical"] * 3, [3, 3, 2], **found.layout)
        found.give(chain)
        for each in chain.parameters():
            each.add_(0.2 * torch.randn_like(each))
    x = torch.from_numpy(rows)
    pair = next(
        t for t in chain.rare if chain.order.index(t["seen"]) < chain.order.index(t["column"])
    )
    assert {pair["seen"], pair["column"]} == {0, 1}

    def expected():
        """Rows in which the pair of 0 and 0 is expected, given what was drawn before."""
        some = x[x[:, pair["seen"]] == 0].clone()
        some[:, pair["column"]] = 0
        place = chain.order.index(pair["column"])
        p = chain.log_prob_of_places(some, chain.order, range(place, place + 1)).exp()
        return p.sum().item()

    chain.get_buffer(f"rare{chain.rare.index(pair)}")[0, 0] += 3.0  # as if it had been unlearned
    assert expected() > 10
    chain.match_rare(x)
    assert expected() == pytest.approx(2, abs=0.3)


A, B_ATOM, B, C_ATOM, C, LIMIT, HEIGHT = range(7)


@pytest.fixture(scope="module")
def followed() -> Chain:
    """A chain of rows with c = a + b, 0 being an atom of b and c, and a limit to a height."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 400), rng.integers(0, 3, 400)
    c = a + b
    numbers = [np.where(each > 0, STEP * each, np.nan) for each in (b, c)]
    height = rng.normal(size=400)
    codes = [each.astype(float) for each in (b > 0, c > 0, height >= 0.5)]
    rows = np.column_stack(
        [STEP * a, codes[0], numbers[0], codes[1], numbers[1], codes[2], height]
    )
    whole = Scale((-1.0, 1.0), (-2.0, 2.0), grain=1.0)
    scales = [whole, None, whole, None, whole, None, Scale()]
    families = ["categorical" if scale is None else "real" for scale in scales]
    sizes, gates = [1, 2, 1, 2, 1, 2, 1], [(B, B_ATOM, 1), (C, C_ATOM, 1)]
    values = [None, (0.0, None), None, (0.0, None), None, None, None]
    found = measured(rows, CodedColumns(families, sizes, scales, gates, values), 8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        chain = Chain(families, sizes, **found.layout)
        found.give(chain)
        with torch.no_grad():
            for each in chain.parameters():
                each.add_(0.3 * torch.randn_like(each))
    return chain.eval()


@torch.no_grad()
def test_a_row_whose_gate_follows_and_opens_lacks_the_value_behind_it():
    """Another model drew no amount, though there is one wherever the balance is positive."""
    rng = np.random.default_rng(0)
    balance = rng.normal(size=400)
    amount = np.where(balance > 0, rng.normal(size=400), np.nan)
    rows = np.column_stack([balance, (balance > 0).astype(float), amount])
    families, sizes = ["real", "categorical", "real"], [1, 2, 1]
    coded = CodedColumns(families, sizes, [Scale(), None, Scale()], [(2, 1, 1)], [None] * 3)
    found = measured(rows, coded, 8)
    follows = {"column": 1, "columns": [0], "weights": [1.0], "constant": 0.0}
    found.layout["steps"] = [{**follows, "cuts": [0.0], "codes": [0, 1]}]
    chain = Chain(families, sizes, **found.layout).eval()
    found.give(chain)
    drawn = torch.tensor([[1.0, 0, torch.nan], [1.0, 1, 0.5], [-1.0, 0, torch.nan]])
    free = torch.tensor([[False, True, True]]).expand(3, -1)
    made = chain.consistent(drawn, free)
    assert made[:, 1].tolist() == [1, 1, 0]
    assert chain.breaks(made, free).tolist() == [True, False, False]


@pytest.mark.parametrize("column", range(6))
@torch.no_grad()
def test_what_follows_from_numbers_has_a_density_too(followed, column):
    (limit,) = followed.steps
    assert (limit["column"], limit["columns"], limit["cuts"]) == (LIMIT, [HEIGHT], [0.5])
    assert followed.code_values[C_ATOM]["formula"]["columns"] == [A, B]
    points, measure = torch.arange(2.0), torch.ones(2)
    if column in followed.place:
        points = STEP * torch.arange(-300.0, 301.0)
        measure = torch.full_like(points, STEP)
    rng = np.random.default_rng(column)
    none = torch.nan
    whole = torch.tensor([[0.0, 0, none, 0, none, 0, 0.1], [2.0, 1, 0.5, 1, 2.5, 1, 0.9]])
    for row in whole.repeat(4, 1):
        hidden = rng.choice(7, rng.integers(0, 7), replace=False)
        row[hidden.tolist()] = torch.nan
        for number, gate in ((B, B_ATOM), (C, C_ATOM)):
            if column == number:
                row[gate] = 1.0
            if column == gate:
                row[number] = torch.nan
        x = row.repeat(len(points), 1)
        x[:, column] = points
        nats = conditional(followed, x, column)
        assert (nats.double().exp() @ measure.double()).item() == pytest.approx(1.0, abs=2e-4)


def test_draws_keep_to_what_follows_whatever_is_given(followed):
    def number(drawn, gate, column):
        return torch.where(drawn[:, gate] == 1, drawn[:, column], 0.0)

    cases = [
        {},
        {C_ATOM: 0.0},
        {C_ATOM: 1.0, C: 3.0},
        {LIMIT: 1.0},
        {HEIGHT: 0.6, A: 0.0},
        {B_ATOM: 0.0},
    ]
    for given in cases:
        x = torch.full((300, 7), torch.nan)
        for column, value in given.items():
            x[:, column] = value
        drawn = followed.draw(x, generator("follow", str(given)))
        b, c = (number(drawn, *each) for each in ((B_ATOM, B), (C_ATOM, C)))
        assert torch.allclose(drawn[:, A] + b, c, atol=1e-5)
        assert torch.equal(drawn[:, LIMIT] == 1, drawn[:, HEIGHT] >= 0.5)
        assert not followed.breaks(drawn, x.isnan()).any()
        assert all((drawn[:, column] == value).all() for column, value in given.items())
