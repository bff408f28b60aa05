"""Codebooks, the distributions over their vectors, and the PixelCNN priors over grids of codes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.cluster import KMeans
from torch.distributions import kl_divergence

from core_parts import CODE_PRIORS, CODEBOOKS, quantise, randomise
from lowerbound import noise, recipes
from lowerbound.coding.rows import Batch, Dense
from lowerbound.errors import UsageError
from lowerbound.nn.distributions import base as dist
from lowerbound.nn.distributions.codewords import (
    NearestCode,
    OnCodebook,
    UniformCodeGrid,
    nearest,
    perplexity,
    vectors_of,
)
from lowerbound.nn.latents import codebooks
from lowerbound.nn.latents.code_priors import PixelCodes, Raster, UniformCodes
from lowerbound.nn.networks.pixelcnn import PixelCNN, Walk
from lowerbound.nn.objectives.elbo import Elbo
from lowerbound.nn.trace import Trace, from_posterior, from_prior
from lowerbound.tasks import latent_use, metrics
from recipe_parts import HIERARCHIES_OF_CODES, QUANTISED, RECIPES, recipe

every_book = pytest.mark.parametrize("kind", CODEBOOKS)
every_prior = pytest.mark.parametrize("name", CODE_PRIORS)
AVERAGED = {"ema", "ema_restart"}
PULLED = {"gradient", "simvq"}


def normals(key, *shape):
    return torch.randn(shape, generator=noise.generator("codes", key), dtype=torch.float64)


def made(kind, size=8, dim=3):
    """A codebook in float64, with vectors wide enough that random z are near to all of them."""
    with noise.isolated("book", kind):
        book = CODEBOOKS[kind](size, dim)
    with torch.no_grad():
        for name in ("vector", "total"):
            if name in dict(itertools.chain(book.named_parameters(), book.named_buffers())):
                vector = book.get_buffer(name) if kind in AVERAGED else book.vector
                vector.copy_(normals("vector", size, dim))
    return book.double()


def test_the_nearest_is_the_nearest_however_far_the_book_is_from_0():
    z, book = normals("z", 5, 4, 6, 7), normals("e", 33, 4)
    for shift in (0.0, 1e5):
        found = nearest(z + shift, book + shift)
        away = (z[:, None] - book[None, :, :, None, None]).square().sum(2)
        assert torch.equal(found, away.argmin(1))
    assert torch.equal(nearest(z.float(), book.float()), found)
    flat = nearest(z[:, :, 0, 0], book)  # vectors without a grid are quantised alike
    assert torch.equal(flat, found[:, 0, 0])
    assert torch.equal(vectors_of(found, book)[2, :, 3, 4], book[found[2, 3, 4]])


def test_what_is_held_at_a_time_does_not_change_what_is_found(monkeypatch):
    z, book = normals("z", 5, 4, 6, 7), normals("e", 33, 4)
    whole = nearest(z, book)
    monkeypatch.setattr("lowerbound.nn.distributions.codewords.MAX_DISTANCES", 100)
    assert torch.equal(nearest(z, book), whole)


def test_codes_a_bit_apart_have_their_own_mass_each():
    book = normals("e", 33, 4).float()
    book[20, 2] = 1e-3
    book[7] = book[20]
    book[7, 2] = torch.nextafter(book[20, 2], torch.tensor(9.0))
    assert not torch.equal(book[7], book[20])
    prior = PixelCNN(33, (1, 2), 8, 1)
    randomise(prior, "a bit apart")
    grids = torch.tensor([[[7, 20]], [[20, 7]], [[7, 7]], [[20, 3]]])
    codebooks = Raster(prior, torch.zeros(4, 0, 1, 2, dtype=torch.float64))
    z = vectors_of(grids, book)
    assert torch.equal(OnCodebook(book, codebooks).log_prob(z), codebooks.log_prob(grids))
    z[1, 0, 0, 1] += 0.1
    z[2, 3, 0, 0] = torch.nextafter(z[2, 3, 0, 0], torch.tensor(9.0))
    off = OnCodebook(book, codebooks).log_prob(z).isneginf()
    assert off.tolist() == [False, True, True, False]


@every_book
def test_a_codebook_gives_its_own_vectors_and_the_gradient_goes_straight_through(kind):
    book = made(kind).eval()
    z = normals("z", 6, book.dim, 2, 3).requires_grad_()
    q, penalty = book(z)
    assert q.batch_shape + q.event_shape == z.shape
    assert torch.equal(q.mean, vectors_of(q.codes, book.vectors()).to(z))
    assert len(q.codes.unique()) > 3
    towards = normals("towards", *z.shape)
    (slope,) = torch.autograd.grad((q.mean * towards).sum(), z, retain_graph=True)
    if kind == "fsq":  # through the bound, which squeezes
        assert ((slope / towards) > 0).all()
        assert penalty.abs().max() == 0
        return
    assert torch.equal(slope, towards)
    assert torch.equal(q.codes, nearest(z.detach(), book.vectors()))
    gap = (z - vectors_of(q.codes, book.vectors())).square().sum((1, 2, 3))
    weight = 1.25 if kind in PULLED else 0.25
    torch.testing.assert_close(penalty, weight * gap)  # a sum per row, whatever the batch
    (slope,) = torch.autograd.grad(penalty.sum(), z, retain_graph=True)
    torch.testing.assert_close(slope, 0.5 * (z - q.mean).detach())
    if kind in AVERAGED:
        assert not list(book.parameters())
        return
    (weights,) = list(book.parameters())
    assert torch.autograd.grad(q.mean.sum(), weights, retain_graph=True, allow_unused=True) == (
        None,
    )
    (pull,) = torch.autograd.grad(penalty.sum(), weights)
    assert pull.isfinite().all()
    if kind == "gradient":
        chosen = torch.nn.functional.one_hot(q.codes, 8).double().flatten(0, 2)
        away = (q.mean - z).detach().movedim(1, -1).flatten(0, 2)
        torch.testing.assert_close(pull, 2 * chosen.T @ away)


@every_book
def test_only_training_moves_a_codebook_and_all_it_knows_is_saved(kind):
    book, z = made(kind), normals("z", 6, made(kind).dim, 2, 3)
    before = {n: t.clone() for n, t in book.state_dict().items()}
    book.eval()(z)
    assert all(torch.equal(before[n], t) for n, t in book.state_dict().items())
    book.train()(z)
    moved = [n for n, t in book.state_dict().items() if not torch.equal(before[n], t)]
    assert bool(moved) == (kind in AVERAGED)
    with noise.isolated("another"):
        other = CODEBOOKS[kind](8, 3).double().train()
    other.load_state_dict(book.state_dict())
    for step in range(3):  # goes on alike
        a, b = (x(normals(step, *z.shape))[0].mean for x in (book, other))
        assert torch.equal(a, b)
    assert all(torch.equal(other.state_dict()[n], t) for n, t in book.state_dict().items())


def batches(steps, rows=40, dim=3):
    return [normals(("batch", i), rows, dim, 2, 2) for i in range(steps)]


def test_moving_averages_are_those_of_the_paper():
    book, size, decay = made("ema").train(), 8, 0.99
    e, count, total = book.vector.clone(), torch.ones(size).double(), book.vector.clone()
    for z in batches(30):
        flat = z.movedim(1, -1).reshape(-1, 3)
        whose = (flat[:, None] - e).square().sum(2).argmin(1)
        for k in range(size):
            n = (whose == k).sum()
            count[k] = decay * count[k] + (1 - decay) * n
            total[k] = decay * total[k] + (1 - decay) * flat[whose == k].sum(0)
        smooth = (count + 1e-5) / (count.sum() + size * 1e-5) * count.sum()
        e = total / smooth[:, None]
        q, _ = book(z)
        assert torch.equal(q.codes.flatten(), whose)
        torch.testing.assert_close(book.vector, e)
        torch.testing.assert_close(book.count, count)  # which the smoothing is not written to


def test_a_code_that_nothing_is_near_to_stays_where_it_is():
    """Averages that begin at 0 throw such codes to norms of 200 or 1e5 and lose them."""
    book = made("ema").train()
    far = torch.tensor([50.0, -40.0, 30.0]).double()
    book.vector[5] = book.total[5] = far
    for z in batches(100):
        assert not (book(z)[0].codes == 5).any()
    torch.testing.assert_close(book.vector[5], far, rtol=1e-3, atol=0)
    assert book.vector.norm(dim=1).max() < 80


@pytest.mark.parametrize("kind", sorted(AVERAGED))
def test_a_batch_that_is_not_finite_leaves_the_averages_alone(kind):
    book = made(kind).train()
    before = {n: t.clone() for n, t in book.state_dict().items()}
    for bad in (torch.nan, torch.inf):
        z = normals("z", 6, 3, 2, 3)
        z[2, 1, 0, 0] = bad
        book(z)
    assert all(torch.equal(before[n], t) for n, t in book.state_dict().items())


def clusters(key, places=600, spread=0.05):
    middle = 3 * torch.eye(3).double()
    which = torch.randint(3, (places,), generator=noise.generator("which", key))
    return (middle[which] + spread * normals(key, places, 3)).view(-1, 3, 1, 1), middle


def test_restarted_codes_begin_at_k_means():
    with noise.isolated("k-means"):
        book = codebooks.EmaRestartCodebook(12, 3).double().train()
    z, middle = clusters("k")
    q, _ = book(z)
    assert q.mean.abs().max() < 1  # by the vectors as they were
    assert int(book.steps) == 1
    away = torch.cdist(book.vector, middle).min(1).values
    assert away.max() < 0.15
    assert torch.cdist(middle, book.vector).min(1).values.max() < 0.1
    q, penalty = book.eval()(z)
    assert perplexity(q.use().sum(0)) > 8
    assert penalty.mean() < 0.25 * 3 * 0.05**2


def test_k_means_is_that_of_scikit_learn():
    places, start = normals("k-means", 500, 3), normals("start", 7, 3)
    ours = codebooks.kmeans(places, start, steps=60)
    theirs = KMeans(7, init=start.numpy(), n_init=1, tol=0.0).fit(places.numpy())
    torch.testing.assert_close(ours, torch.from_numpy(theirs.cluster_centers_))
    far = torch.cat([start, torch.full((1, 3), 1e3).double()])
    assert torch.equal(codebooks.kmeans(places, far, steps=60)[7], far[7])  # nothing is near it


def test_fewer_places_than_codes_are_enough_to_begin():
    book = made("ema_restart", size=50).train()
    book(normals("few", 4, 3, 2, 2))
    assert book.vector.isfinite().all()
    assert len(book.vector.unique(dim=0)) == 50


def test_dead_codes_are_put_on_places_of_the_batch_and_nobody_elses_draws_change():
    book, state = made("ema_restart", size=16).train(), torch.get_rng_state()
    z = clusters("start")[0]
    book(z)
    book.vector[7:] = book.total[7:] = 100.0 + torch.arange(9).double()[:, None]
    book.count[7:] = 1e-3
    again = made("ema_restart", size=16).train()
    again.load_state_dict(book.state_dict())
    for each in (book, again):
        each(z)
    assert torch.equal(book.vector, again.vector)
    places = z[:, :, 0, 0]
    assert torch.cdist(book.vector[7:], places).min(1).values.max() == 0
    assert len(book.vector[7:].unique(dim=0)) == 9
    assert (book.count[7:] == codebooks.FRESH * len(places) / 16).all()
    assert torch.equal(torch.get_rng_state(), state)


def test_restarts_bring_back_a_collapsed_codebook():
    """What perplexity is for: 64 codes that all begin far from the data."""
    used = {}
    for kind in ("ema", "ema_restart"):
        book = made(kind, size=64).train()
        for step, z in enumerate(batches(260, rows=100)):
            book(z)
            if step == 0:
                book.vector[:60] = book.total[:60] = 30 + normals("far", 60, 3)
                book.count.fill_(1.0)
        q, _ = book.eval()(normals("test", 500, 3, 2, 2))
        use = q.use().sum(0)
        used[kind] = int((use > 0).sum()), perplexity(use)
    assert used["ema_restart"][0] == 64
    assert used["ema_restart"][1] > 45
    assert used["ema"][0] < 10
    assert used["ema"][1] < 10


def test_perplexity_is_how_many_codes_would_do():
    assert math.isclose(perplexity(torch.tensor([1.0, 1.0, 1.0, 0.0])), 3.0)
    assert math.isclose(perplexity(torch.tensor([5.0, 0.0])), 1.0)
    assert perplexity(torch.zeros(4)) == 1.0


@pytest.mark.parametrize("size", [3, 7, 8, 9, 10, 64, 100, 240, 512, 1000, 1024, 16384])
def test_a_lattice_has_about_as_many_codes_as_are_asked_for(size):
    levels = codebooks.lattice(size)
    assert min(levels) >= 3
    assert 0.75 * size <= math.prod(levels) <= size


def test_finite_scalar_quantisation_reaches_every_code_and_is_bounded():
    book = codebooks.FsqCodebook([4, 5])
    z = 4 * normals("z", 4000, 2, 1, 1).float()
    q, penalty = book(z)
    assert len(q.codes.unique()) == 20
    assert (penalty == 0).all()
    assert q.mean.abs().max() <= 1
    assert torch.equal(nearest(q.mean, book.vectors()), q.codes)


@pytest.mark.parametrize("levels", [[3], [4], [7, 8], [8, 5, 5, 5]])
def test_finite_scalar_quantisation_is_that_of_the_paper(levels):
    """Appendix A.1 of Mentzer et al., 2023, in numpy; the first variable is the last digit."""
    book, z = codebooks.FsqCodebook(levels).double(), 3 * normals("z", 500, len(levels))
    z.requires_grad_()
    q, _ = book(z)
    scale = np.array([(n - 1) * 1.001 / 2 for n in levels])
    offset = np.array([0.5 * (n % 2 == 0) for n in levels])
    bounded = np.tanh(z.detach().numpy() + np.arctanh(offset / scale)) * scale - offset
    half = np.array([n // 2 for n in levels])
    np.testing.assert_array_equal(q.mean.detach().numpy(), np.float32(np.round(bounded) / half))
    basis = np.cumprod([1, *levels[:-1]])
    assert q.codes.tolist() == ((np.round(bounded) + half) @ basis).tolist()
    (slope,) = torch.autograd.grad(q.mean.sum(), z)
    inside = 1 - ((bounded + offset) / scale) ** 2
    np.testing.assert_allclose(slope.numpy(), inside * scale / half, rtol=1e-5, atol=1e-6)


def test_one_linear_map_of_frozen_vectors():
    book, z = codebooks.SimVqCodebook(16, 4), normals("z", 6, 4, 3, 3).float()
    q, penalty = book(z)
    vectors = book.frozen @ book.turn.T
    assert torch.equal(q.codes, nearest(z, vectors))
    away = (z - vectors_of(q.codes, vectors)).square().sum((1, 2, 3))
    torch.testing.assert_close(penalty, 1.25 * away)
    (slope,) = torch.autograd.grad(penalty.sum(), book.turn)
    pulled = 2 * (vectors_of(q.codes, vectors) - z).movedim(1, -1).flatten(0, 2)
    torch.testing.assert_close(slope, pulled.T @ book.frozen[q.codes.flatten()])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: codebooks.GradientCodebook(1, 4),
        lambda: codebooks.EmaCodebook(8, 0),
        lambda: codebooks.FsqCodebook([8, 2]),
        lambda: codebooks.lattice(2),
        lambda: recipes.vqvae([1, 8, 8], codes=1),
        lambda: recipes.vqvae([1, 8, 8], codes=2, codebook="fsq"),
    ],
)
def test_codebooks_of_no_use_are_refused(wrong):
    with pytest.raises(UsageError) as caught:
        wrong()
    assert caught.value.code == "E254"


H = normals("h", 3, 2, 2, 2)


def prior(name, size=3, state=2, grid=(2, 2)):
    """A prior over grids of the codes of a small codebook, with random weights, and the book."""
    with noise.isolated("prior", name):
        book = codebooks.EmaCodebook(size, 2).double()
        module = randomise(CODE_PRIORS[name](state, book, grid), name, 0.5)
    return module, book


def grids(size, places):
    return torch.tensor(list(itertools.product(range(size), repeat=places))).view(-1, 2, 2)


VARIANTS = {
    "as it is": lambda p: p,
    "cold": lambda p: dist.tempered(p, 0.5),
    "hot": lambda p: dist.tempered(p, 1.7),
}
CUT = {
    "top 2": lambda p: dist.truncated(p, 2),
    "cold top 2": lambda p: dist.truncated(dist.tempered(p, 0.5), 2),
}


def variants(name):
    return VARIANTS if name == "uniform" else {**VARIANTS, **CUT}


@every_prior
def test_the_masses_of_all_grids_sum_to_1_and_draws_have_them(name):
    module, book = prior(name)
    every, n = grids(3, 4), 6000
    for told, change in variants(name).items():
        p = change(module(H[:1].expand(len(every), 2, 2, 2)))
        mass = p.log_prob(vectors_of(every, book.vectors())).exp().detach()
        torch.testing.assert_close(mass.sum(), torch.tensor(1.0).double())
        with noise.isolated("draws", name, told):
            drawn = change(module(H[:1].expand(n, 2, 2, 2))).sample()
        seen = nearest(drawn, book.vectors()).flatten(1) @ torch.tensor([27, 9, 3, 1])
        counts = torch.bincount(seen, minlength=81).double()
        assert (counts[mass == 0] == 0).all()
        some = n * mass > 5
        expected = torch.cat([n * mass[some], n * mass[~some].sum()[None]])
        found = torch.cat([counts[some], counts[~some].sum()[None]])
        assert stats.chisquare(found[expected > 0], expected[expected > 0]).pvalue > 1e-4


@every_prior
def test_a_prior_is_conditional_on_the_state_alone_and_all_of_it_learns(name):
    module, book = prior(name)
    z = vectors_of(grids(3, 4)[[5, 50, 70]], book.vectors())
    p = module(H)
    log_p = p.log_prob(z)
    assert log_p.shape == (3,)
    for i in range(3):
        torch.testing.assert_close(module(H[i : i + 1]).log_prob(z[i : i + 1]), log_p[i : i + 1])
    moved = module(H + 1).log_prob(z)
    assert (moved != log_p).all() == (name != "uniform")
    off = z.clone()
    off[1, 0, 0, 0] += 1e-9
    assert p.log_prob(off)[1] == -torch.inf  # nothing is off the codebook
    assert p.sample((4,)).shape == (4, 3, 2, 2, 2)
    if name == "uniform":
        torch.testing.assert_close(log_p, torch.full_like(log_p, -4 * math.log(3)))
        return
    log_p.sum().backward()
    assert all(w.grad.isfinite().all() and w.grad.any() for w in module.parameters())
    assert "lent" not in str(list(module.state_dict()))


@every_prior
@every_book
def test_the_kl_of_a_quantised_site_is_exact_and_that_of_its_draw(name, kind):
    with noise.isolated("site", kind, name):
        rule = randomise(quantise(kind), kind, 0.8)
        module = randomise(CODE_PRIORS[name](2, rule.book, (4, 5)), name, 0.3)
    h, f = normals("h", 6, 2, 4, 5), normals("f", 6, 3, 4, 5)
    p = module(h)
    q, penalty = rule.train()(h, f, p)
    assert penalty.shape == (6,)
    trace = Trace(from_posterior(noise.Stream(noise.generator("none"))), 6)
    z = trace.draw("z", p, q, penalty)
    site = trace.sites["z"]
    assert torch.equal(trace.penalty(), penalty)
    assert torch.equal(site.log_q, torch.zeros(6).double())
    torch.testing.assert_close(site.exact_kl(), -site.log_ratio())
    torch.testing.assert_close(trace.kl(), kl_divergence(q, p))
    assert dist.kl_per_dimension(q, p) is None
    if name == "uniform":
        torch.testing.assert_close(
            trace.kl(), torch.full((6,), 20 * math.log(rule.book.size)).double()
        )
    assert dist.is_certain(q)
    assert not dist.is_continuous(p)
    assert dist.stopped(q) is q
    assert torch.equal(dist.centre(q), z)
    other = q.mean + 1
    assert (q.log_prob(other) == -torch.inf).all()
    assert q.sample(torch.Size([2])).shape == (2, *z.shape)
    torch.testing.assert_close(q.use().sum(1), torch.ones(6).double())


def test_what_is_not_over_codes_has_no_likeliest():
    normal = dist.normal(torch.zeros(2, 3), torch.ones(2, 3))
    for p in (normal, UniformCodes(codebooks.EmaCodebook(3, 2), 2, 2)(H)):
        with pytest.raises(UsageError) as caught:
            from_prior(noise.generator("k"), top_k=3)("z", p, None)
        assert caught.value.code == "E256"
    with pytest.raises(UsageError, match="got 0") as caught:
        dist.truncated(prior("pixelcnn")[0](H), 0)
    assert caught.value.code == "E240"
    alike = UniformCodeGrid(torch.zeros(2), (3,), 5)
    assert dist.tempered(alike, 0.3) is alike


def net(heads, given=2, grid=(4, 5), size=7):
    with noise.isolated("net", heads, given):
        return randomise(PixelCNN(size, grid, 8, 5, given, heads), "net", 0.3)


@pytest.mark.parametrize("heads", [0, 2])
@pytest.mark.parametrize("given", [0, 2])
def test_a_place_sees_all_places_before_it_and_none_other(heads, given):
    """No look ahead, and no blind spot: the derivatives of its numbers by the embedded codes."""
    module, h = net(heads, given), normals("given", 1, given, 4, 5)
    embedded = normals("embedded", 1, 8, 4, 5)
    jacobian = torch.autograd.functional.jacobian(
        lambda e: module.numbers(e, h).sum((0, 1)), embedded
    )
    sees = jacobian[:, :, 0].abs().sum(2).view(20, 20) > 0
    assert torch.equal(sees, torch.ones(20, 20).tril(-1).bool())


@pytest.mark.parametrize("heads", [0, 2])
@pytest.mark.parametrize("given", [0, 2])
def test_place_by_place_the_numbers_are_those_of_whole_grids(heads, given):
    module, h = net(heads, given), normals("given", 3, given, 4, 5)
    index = torch.randint(7, (3, 4, 5), generator=noise.generator("grid"))
    with torch.no_grad():
        walk, found = Walk(module, h), []
        for t in range(20):
            found.append(walk.numbers())
            walk.put(index.flatten(1)[:, t])
        torch.testing.assert_close(torch.stack(found, 2).view(3, 7, 4, 5), module(index, h))


@pytest.mark.parametrize("heads", [0, 2])
@pytest.mark.parametrize("change", [*VARIANTS, *CUT])
def test_cached_draws_are_the_naive_ones(heads, change):
    module, h = net(heads), normals("given", 9, 2, 4, 5)
    raster = {**VARIANTS, **CUT}[change](OnCodebook(normals("e", 7, 3), Raster(module, h))).codes
    uniform = torch.rand(9, 4, 5, generator=noise.generator("u"), dtype=torch.float64)
    naive = torch.zeros(9, 4, 5, dtype=torch.long)
    with torch.no_grad():
        for i, j in itertools.product(range(4), range(5)):
            naive[:, i, j] = raster.pick(module(naive, h)[:, :, i, j], uniform[:, i, j])
    assert torch.equal(raster.drawn(uniform), naive)
    assert len(naive.unique()) > 2
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64).expand(9, 2).T
    numbers = normals("numbers", 9, 7)
    first, last = (raster.pick(numbers, u) for u in ends)
    log_p = raster.log_probs(numbers)
    assert log_p.gather(1, first[:, None]).isfinite().all()
    assert log_p.gather(1, last[:, None]).isfinite().all()


def test_an_unlearned_prior_holds_all_codes_alike():
    with noise.isolated("unlearned"):
        module = PixelCNN(7, (4, 5), 8, 3, 2, heads=2)
    index = torch.randint(7, (3, 4, 5), generator=noise.generator("grid"))
    log_p = Raster(module, normals("given", 3, 2, 4, 5).float()).log_prob(index)
    torch.testing.assert_close(log_p, torch.full((3,), -20 * math.log(7)))


SMALL = {"codes": 8, "channels": 4, "blocks": 1, "prior_channels": 8, "prior_layers": 2}


@pytest.mark.parametrize(
    ("name", "more", "sizes"),
    [
        ("vqvae", {"shape": [1, 28, 28]}, {"z0": (7, 7)}),
        ("vqvae", {"shape": [3, 33, 20], "halvings": 3}, {"z0": (5, 3)}),
        ("vqvae", {"shape": [1, 5, 4], "halvings": 1, "blocks": 0}, {"z0": (3, 2)}),
        ("vqvae2", {"shape": [3, 32, 32]}, {"z0": (4, 4), "z1": (8, 8)}),
        (
            "vqvae2",
            {"shape": [1, 21, 40], "levels": 3},
            {"z0": (2, 3), "z1": (4, 6), "z2": (8, 12)},
        ),
    ],
)
def test_levels_and_sizes(name, more, sizes):
    with noise.isolated("sizes"):
        model = recipes.find(name).make({**SMALL, **more}).eval()
        x = torch.rand(2, *more["shape"])
    trace = Trace(from_posterior(noise.Keyed(noise.row_keys(x))), 2)
    px = model(x, trace)
    assert {n: tuple(site.z.shape[2:]) for n, site in trace.sites.items()} == sizes
    assert px.log_prob(x).shape == (2,)
    looks = [len(level.prior.net.attention) for level in model.levels]
    assert looks == [2, 0, 0][: len(looks)]  # attention at the top alone


@pytest.mark.parametrize("name", sorted(HIERARCHIES_OF_CODES))
def test_finer_codes_and_their_priors_depend_on_coarser_ones(name):
    model = recipe(name).eval()
    x, _ = RECIPES[name].data(6)
    one, other = (Trace(from_posterior(noise.Keyed(noise.row_keys(x))), 6) for _ in range(2))
    model(x, one)
    coarse = model.levels[0].posterior.book
    source = noise.generator("heads")
    for level in model.levels if name == "vqvae2" else ():
        last = level.prior.net.head[1].weight.data
        last.copy_(torch.randn(last.shape, generator=source))
    with torch.no_grad():
        coarse.vector += 9.0  # other vectors for the same codes
    model(x, other)
    near = [trace.sites["z1"].q.near for trace in (one, other)]
    assert (near[0] != near[1]).flatten(1).any(1).all()
    if name == "vqvae2":
        grid = one.sites["z1"].q.codes
        log_p = [trace.sites["z1"].p.codes.log_prob(grid) for trace in (one, other)]
        assert (log_p[0] != log_p[1]).all()


@pytest.mark.parametrize("name", sorted(QUANTISED))
def test_the_rate_of_uniform_codes_is_a_constant_and_training_uses_every_weight(name):
    model = recipe(name).train()
    x, _ = RECIPES[name].data(8)
    loss = Elbo(model)(x, 0, noise.Keyed(noise.row_keys(x)))
    if RECIPES[name].arguments.get("prior") == "uniform":
        sites = Trace(from_prior(noise.generator("sites")), 1)
        model(None, sites)
        places = sum(site.z[0, 0].numel() for site in sites.sites.values())
        size = model.levels[0].posterior.book.size
        assert math.isclose(loss.terms["rate"].item(), places * math.log(size), rel_tol=1e-6)
    loss.value.backward()
    for parameter, p in model.named_parameters():
        assert p.grad is not None, parameter
        assert p.grad.isfinite().all(), parameter


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"levels": 4}, "levels"),
        ({"levels": 1}, "levels"),
        ({"prior_channels": 6}, "prior_channels"),
        ({"halvings": 0}, "halvings"),
        ({"dim": 0}, "dim"),
        ({"blocks": -1}, "blocks"),
        ({"codebook": "emma"}, "'ema'"),
        ({"prior": "pixel_cnn"}, "pixelcnn"),
    ],
)
def test_what_is_no_model_of_codes_is_refused(arguments, said):
    with pytest.raises(UsageError, match=said):
        recipes.find("vqvae2").make({"shape": [1, 8, 8], **SMALL, **arguments})


def test_draws_of_a_code_are_all_the_same_and_are_decoded_once():
    model = recipe("vqvae").eval()
    rows = Dense(RECIPES["vqvae"].data(5)[0])
    seen = []
    handle = model.likelihood.register_forward_hook(lambda m, x, out: seen.append(len(x[0])))
    one, many = (metrics.log_likelihood(model, rows, k, most=5) for k in (1, 50))
    handle.remove()
    assert seen == [5, 5, 5, 5]  # a first look, then one draw per chunk
    torch.testing.assert_close(one.log_p, many.log_p)
    torch.testing.assert_close(one.log_p, metrics.elbo(model, rows).elbo)
    torch.testing.assert_close(many.effective_samples, torch.full((5,), 50.0).double())
    assert many.standard_error.max() < 1e-6


def test_units_of_a_site_of_codes_are_its_codes():
    model = recipe("vqvae2").eval()
    x, _ = RECIPES["vqvae2"].data(40)
    use = latent_use.latent_use(model, Dense(x))
    assert len(use.active) == 16
    trace = Trace(from_posterior(noise.Keyed(noise.row_keys(x))), 40)
    model(x, trace)
    for i, site in enumerate(trace.sites.values()):
        share = torch.bincount(site.q.codes.flatten(), minlength=8) / site.q.codes.numel()
        found = use.activity[8 * i : 8 * i + 8]
        torch.testing.assert_close(found, 8 * share.double(), rtol=1e-5, atol=1e-6)
    assert torch.equal(use.active, use.activity > 0.01)


def test_annealing_does_not_move_codes():
    x, _ = RECIPES["vqvae"].data(3)
    with pytest.raises(UsageError, match="'z0' are codes") as caught:
        metrics.ais(recipe("vqvae"), Batch(x, None))
    assert caught.value.code == "E255"


def test_a_prior_runs_no_network_before_it_is_asked():
    module, _ = prior("pixelcnn")
    assert isinstance(module, PixelCodes)
    called = []
    module.net.register_forward_hook(lambda m, x, out: called.append(1))
    p = module(H)
    assert called == []
    p.log_prob(p.sample())
    assert called == [1]


def test_a_point_mass_is_its_own_kind_of_posterior():
    q = NearestCode(H, H, torch.zeros(3, 2, 2, dtype=torch.long), 4)
    z, source = dist.draw(q, lambda shape, like: normals("x", *shape))
    assert torch.equal(z, H)
    assert source is q
