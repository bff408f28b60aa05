"""Altered copies of saved models, whose digests are right: what a stranger could send."""

import copy
import json
import random

import numpy as np

import bundles
from lowerbound.bundle import tensors

BIG = 10**9

# Values that take the place of any value of a document.
STRANGE = [
    *(None, True, False, 0, 1, -1, 2, 7, BIG, -BIG, 10**18, 10**40, -(10**40)),
    *(0.5, -0.5, 1e-320, 1e30, -1e30, 1e308, -1e308),
    *("", "x", "a\nb", "\x1b[2J\x07", "\u202egnp", "NaN", "1e999", "x" * 5000, "\ud83d\ude00"),
    *([], {}, [[]], [0], [1, 2], [None], ["x"], {"x": 1}, [BIG], [1] * 5000, [[[[[]]]]]),
]


def places(value, path=()):
    """Return the paths of everything in a JSON value, itself included."""
    found = [path]
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    if isinstance(value, dict | list):
        for key, item in inner:
            found += places(item, (*path, key))
    return found


def chosen(value, rng):
    """Return the path of a part of a JSON value: every depth is as likely."""
    path = ()
    while isinstance(value, dict | list) and value and rng.random() < 0.85:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        value, path = value[key], (*path, key)
    return path


def like(old, rng):
    """Return another value of the same type, which a check of types alone would let pass."""
    if isinstance(old, bool) or old is None:
        return not old
    if isinstance(old, int):
        return rng.choice([0, -1, 1, old + 1, old - 1, 2 * old, -old, BIG, 10**6, 10**18])
    if isinstance(old, float):
        return rng.choice([0.0, -old, old * 1e6, 1e308, -1e308, 5e-324, -1.0, old + 1.0])
    if isinstance(old, str):
        return rng.choice(
            ["", old + "x", old[1:], old.upper(), "\x1b[31m" + old, "real", old * 99]
        )
    if isinstance(old, list):
        return rng.choice([[], old[1:], old[:-1], old[::-1], old + old, old * 50, old[:1]])
    return {key: old[key] for key in list(old)[1:]}


def altered_document(document, rng):
    """Return a copy of a JSON value with one part changed, removed or added."""
    changed = copy.deepcopy(document)
    path = chosen(changed, rng)
    if not path:
        return rng.choice(STRANGE)
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    key = path[-1]
    deed = rng.random()
    if deed < 0.1:
        del holder[key]
    elif deed < 0.15 and isinstance(holder, dict):
        holder["stranger"] = holder.pop(key)
    elif deed < 0.2 and isinstance(holder, list):
        holder.insert(key, rng.choice(STRANGE))
    elif deed < 0.65:
        holder[key] = like(holder[key], rng)
    else:
        holder[key] = copy.deepcopy(rng.choice(STRANGE))
    return changed


def _spoiled(array, rng):
    """Return a copy of an array with one value, or all, changed."""
    made = np.array(array)
    values = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e30, -1e30, 1e4, 0.0, -1.0]
    value = rng.choice(values if made.dtype.kind == "f" else [0, 1, -1, 100, 10**6])
    if made.dtype.kind == "b":
        return ~made
    where = rng.randrange(made.size) if made.size and rng.random() < 0.5 else slice(None)
    made.reshape(-1)[where] = np.asarray(value).astype(made.dtype)
    return made


def _shaped(array, rng):
    made = np.array(array)
    return rng.choice(
        [
            made.reshape(-1),
            made[None],
            made.T.copy(),
            made.reshape(-1)[:0],
            np.concatenate([made.reshape(-1)] * 2),
            np.zeros(1, made.dtype),
            np.zeros((1, 1), made.dtype),
        ]
    )


def _typed(array, rng):
    kind = rng.choice(["f8", "f4", "f2", "i8", "i1", "u1", "?"])
    with np.errstate(all="ignore"):
        return np.array(array).astype(kind)


def altered_weights(weights, rng):
    """Return the arrays with one changed, removed, added or renamed."""
    changed = dict(weights)
    name = rng.choice(sorted(changed))
    deed = rng.random()
    if deed < 0.5:
        changed[name] = _spoiled(changed[name], rng)
    elif deed < 0.7:
        changed[name] = _shaped(changed[name], rng)
    elif deed < 0.8:
        changed[name] = _typed(changed[name], rng)
    elif deed < 0.85:
        del changed[name]
    elif deed < 0.9:
        changed["stranger"] = changed[name]
    elif deed < 0.95:
        changed[f"{name}x"] = changed.pop(name)
    else:
        other = rng.choice(sorted(changed))
        changed[name], changed[other] = changed[other], changed[name]
    return changed


def alter(path, seed):
    """Alter a saved model in place under valid digests; return the name of the altered file."""
    rng = random.Random(seed)
    names = ["config.json"] * 3 + ["schema.json"] * 3 + ["calibration.json"] * 2
    names += ["metrics.json"] * 3 + ["weights.safetensors"] * 4
    name = rng.choice(names)
    if name == "weights.safetensors":
        raw = np.fromfile(path / name, np.uint8)
        weights = altered_weights(tensors.decode(raw, name).arrays, rng)
        bundles.replace(path, name, b"".join(map(bytes, tensors.encode(weights))))
    else:
        document = altered_document(json.loads((path / name).read_text()), rng)
        bundles.replace(path, name, json.dumps(document).encode())
    return name
