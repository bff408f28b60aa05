"""A VAE written by hand in JAX: one jitted `lax.scan` over the steps of an epoch; side `jax`."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from common import (
    BERNOULLI,
    LEARNING_RATE,
    WIDTHS,
    Clock,
    Outcome,
    Work,
    nats_beside,
    report,
)

Layer = tuple[jax.Array, jax.Array]


class State(NamedTuple):
    """Weights, Adam's moments, and the number of steps done."""

    weights: dict[str, list[Layer]]
    first: Any
    second: Any
    step: jax.Array


def layer(key: jax.Array, wide: int, narrow: int) -> Layer:
    """Return weights and bias, uniform as torch's are."""
    bound, keys = wide**-0.5, jax.random.split(key)
    return (
        jax.random.uniform(keys[0], (wide, narrow), minval=-bound, maxval=bound),
        jax.random.uniform(keys[1], (narrow,), minval=-bound, maxval=bound),
    )


def start(seed: int, data: str) -> State:
    """Return fresh weights for the data of that name."""
    features, *hidden, latent = WIDTHS[data]
    down = [features, *hidden, 2 * latent]
    up = [latent, *hidden[::-1], features]
    keys = iter(jax.random.split(jax.random.key(seed), 2 * len(down)))
    weights = {
        name: [layer(next(keys), a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
        for name, sizes in (("encoder", down), ("decoder", up))
    }
    nothing = jax.tree.map(jnp.zeros_like, weights)
    return State(weights, nothing, jax.tree.map(jnp.zeros_like, weights), jnp.zeros((), jnp.int32))


def chain(layers: list[Layer], x: jax.Array) -> jax.Array:
    """Apply linear layers with ReLU between them."""
    for weight, bias in layers[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = layers[-1]
    return x @ weight + bias


def loss_of(
    weights: dict[str, list[Layer]], x: jax.Array, key: jax.Array, bernoulli: bool
) -> jax.Array:
    """Return the mean negative ELBO, without the Gaussian's constant."""
    mu, log_var = jnp.split(chain(weights["encoder"], x), 2, axis=1)
    z = mu + jnp.exp(0.5 * log_var) * jax.random.normal(key, mu.shape)
    y = chain(weights["decoder"], z)
    kl = -0.5 * jnp.sum(1 + log_var - mu**2 - jnp.exp(log_var))
    cost = jax.nn.softplus(y) - x * y if bernoulli else 0.5 * (y - x) ** 2
    return (cost.sum() + kl) / len(x)


def adam(state: State, gradient: Any) -> State:
    """Return the state after one step of Adam."""
    step = state.step + 1
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state.first, gradient)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, state.second, gradient)
    rate = LEARNING_RATE * jnp.sqrt(1 - 0.999**step) / (1 - 0.9**step)
    weights = jax.tree.map(
        lambda w, m, v: w - rate * m / (jnp.sqrt(v) + 1e-8), state.weights, first, second
    )
    return State(weights, first, second, step)


@partial(jax.jit, static_argnames=("batch", "bernoulli"), donate_argnums=0)
def epoch(
    state: State, data: jax.Array, key: jax.Array, batch: int, bernoulli: bool
) -> tuple[State, jax.Array]:
    """Shuffle, and take one step per batch; return the mean loss too."""
    order_key, noise_key = jax.random.split(key)
    steps = len(data) // batch
    order = jax.random.permutation(order_key, len(data))[: steps * batch].reshape(steps, batch)

    def one(state: State, what: tuple[jax.Array, jax.Array]) -> tuple[State, jax.Array]:
        index, key = what
        value, gradient = jax.value_and_grad(loss_of)(state.weights, data[index], key, bernoulli)
        return adam(state, gradient), value

    state, losses = jax.lax.scan(one, state, (order, jax.random.split(noise_key, steps)))
    return state, losses.mean()


def train(work: Work, data: np.ndarray) -> Outcome:
    x, state = jnp.asarray(data[: work.rows]), start(work.seed, work.data)
    keys = jax.random.split(jax.random.key(work.seed + 1), work.epochs)
    fixed = {"batch": work.batch, "bernoulli": work.data in BERNOULLI}
    with Clock() as compiling:
        compiled = epoch.lower(state, x, keys[0], **fixed).compile()
    loss = jnp.zeros(())
    jax.block_until_ready((x, state))
    with Clock() as clock:
        for key in keys:
            state, loss = compiled(state, x, key)
        jax.block_until_ready((state, loss))
    facts = {"compile_seconds": round(compiling.seconds, 3)}
    nats = float(loss) + nats_beside(work.data)
    return Outcome(clock.seconds, work.steps * work.batch, nats, facts)


if __name__ == "__main__":
    report(train, ["jax", "jaxlib", "numpy"])
