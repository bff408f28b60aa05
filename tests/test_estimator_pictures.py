"""The estimator on arrays of pictures: arrays of the same shape come back."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone

from lowerbound import VAE
from lowerbound.errors import DataError, LowerboundError, UsageError

N, HEIGHT, WIDTH = 60, 6, 5


def shades(*last):
    """Pictures of codes, 0 to 255, with axes of channels behind or none."""
    rng = np.random.default_rng(0)
    lit = np.zeros((2, HEIGHT, WIDTH))
    lit[0, :, :2] = lit[1, :3] = 1
    x = 0.8 * lit[rng.integers(0, 2, N)] + 0.1 * rng.random((N, HEIGHT, WIDTH))
    x = x.reshape(N, HEIGHT, WIDTH, *[1] * len(last)) * np.ones(last)
    return (255 * x).astype(np.uint8)


CODES = shades()
GREY = CODES / 255
GAPS = np.where(np.random.default_rng(1).random(GREY.shape) < 0.1, np.nan, GREY)
KINDS = {
    "codes": CODES,
    "grey": GREY,
    "float32": GREY.astype(np.float32),
    "bits": GREY > 0.4,
    "channels last": shades(3),
    "channels first": np.moveaxis(shades(3), -1, 1),
    "one channel": CODES[:, None],
}


def model(recipe="conv", **settings):
    small = {"channels": [4]} if recipe == "conv" else {"groups": [1, 1], "channels": 4}
    latent = 2 if recipe == "conv" else None
    plan = {"preset": "fast", "max_epochs": 1, "random_state": 0, "latent": latent}
    return VAE(recipe=recipe, settings={**small, **settings}, **plan)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_go_in_and_pictures_come_out(kind):
    x = KINDS[kind]
    vae = model().fit(x)
    shape = x.shape[1:]
    assert vae.n_features_in_ == np.prod(shape)
    assert not hasattr(vae, "feature_names_in_")
    scores = vae.score_samples(x)
    assert scores.shape == vae.predict(x).shape == (N,)
    assert np.isfinite(scores).all()
    assert np.isfinite(vae.score(x))
    z = vae.transform(x)
    assert z.shape == (N, 2)
    assert vae.inverse_transform(z).shape == (N, *shape)
    np.testing.assert_allclose(vae.inverse_transform(z), vae.reconstruct(x), atol=1)
    drawn = vae.sample(5)
    assert drawn.shape == (5, *shape)
    assert np.array_equal(drawn, vae.sample(5))
    assert np.isfinite(vae.score_samples(drawn)).all()  # what comes out can go in again
    assert vae.score_table(x)["anomaly_score"].shape == (N,)
    assert np.array_equal(vae.impute(x), x)


def test_gaps_are_filled_in_the_shape_of_the_pictures():
    vae = model().fit(GAPS)
    full, seen = vae.impute(GAPS), ~np.isnan(GAPS)
    assert full.shape == GAPS.shape
    assert np.array_equal(full[seen], GAPS[seen])
    assert np.isfinite(full).all()
    three = vae.impute(GAPS, draws=3)
    assert three.shape == (3, *GAPS.shape)
    assert all(np.array_equal(each[seen], GAPS[seen]) for each in three)
    masked = np.ma.masked_invalid(GAPS)
    np.testing.assert_allclose(vae.score_samples(masked), vae.score_samples(GAPS))
    given = vae.sample(40, where={"p0_0": 1.0})
    assert (given[:, 0, 0] == 1).all()


def test_a_hierarchy_of_pictures_serves_too():
    vae = model("nvae", latent_channels=1, blocks=0).fit(GREY > 0.4)
    z = vae.transform(GREY > 0.4)
    assert z.shape == (N, vae.latent_)
    assert vae.inverse_transform(z).shape == GREY.shape


def test_a_saved_model_gives_pictures_as_before(tmp_path):
    vae = model().fit(CODES)
    vae.save(tmp_path / "m.vae")
    again = VAE.load(tmp_path / "m.vae")
    assert np.array_equal(again.sample(4), vae.sample(4))
    assert np.array_equal(again.score_samples(CODES), vae.score_samples(CODES))
    assert clone(vae).fit(CODES).sample(4).shape == (4, HEIGHT, WIDTH)


def test_what_the_command_line_fitted_gives_pictures_too(tmp_path):

    np.save(tmp_path / "x.npy", CODES)
    import commands

    commands.fit(
        tmp_path / "x.npy",
        recipe="conv",
        settings=["channels=[4]"],
        latent=2,
        preset="fast",
        max_epochs=1,
        out=tmp_path / "m.vae",
    )
    vae = VAE.load(tmp_path / "m.vae")
    assert vae.sample(3).shape == (3, HEIGHT, WIDTH)
    assert np.isfinite(vae.score_samples(CODES)).all()


def test_what_cannot_be_is_refused_in_one_error():
    vae = model().fit(CODES)
    for wrong, code in [
        (lambda: model().fit(CODES.reshape(N, -1)), "E076"),
        (lambda: model().fit(GREY * 3 - 1), "E077"),
        (lambda: vae.score_samples(CODES.transpose(0, 2, 1)), "E076"),
        (lambda: vae.score_samples(CODES.reshape(N, -1)), "E076"),
        (lambda: vae.score_samples(CODES[:, :4]), "E076"),
        (lambda: vae.transform(shades(3)), "E076"),
        (lambda: vae.explain(CODES), "E246"),
    ]:
        with pytest.raises(LowerboundError) as caught:
            wrong()
        assert isinstance(caught.value, DataError | UsageError)
        assert caught.value.code == code
        assert caught.value.fix
    with pytest.raises(ValueError, match="dim 3"):  # scikit-learn's own words
        VAE(preset="fast", max_epochs=1).fit(CODES)
