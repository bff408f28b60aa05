"""The dependencies of a table in words: those of its rows, and no others."""

import numpy as np
import pandas as pd
import torch

import lowerbound
from lowerbound.cli.main import main
from lowerbound.coding.tables import TableCoding
from lowerbound.files.read import read
from lowerbound.nn.distributions.chains import Chain
from lowerbound.tasks.rules import rules, shown
from lowerbound.training.row_stage import CodedColumns, measured

N = 500


def orders():
    rng = np.random.default_rng(0)
    price, pieces = np.round(rng.lognormal(3, 0.8, N), 2), 1 + rng.poisson(2, N)
    height, mass = np.round(rng.normal(1.7, 0.1, N), 2), np.round(rng.normal(75, 12, N), 1)
    net, fee = np.round(rng.lognormal(3, 0.8, N), 2), np.round(rng.exponential(4, N), 2)
    amount = rng.lognormal(4, 1, N)
    ordered = pd.Timestamp("2023-01-02") + pd.to_timedelta(rng.integers(0, 300, N), "D")
    days, age = rng.geometric(0.3, N), rng.integers(20, 90, N)
    shop = rng.choice(["a", "b", "c", "d"], N)
    return pd.DataFrame(
        {
            "price": price,
            "pieces": pieces,
            "total": np.round(price * pieces, 2),
            "net": net,
            "fee": fee,
            "gross": np.round(net + fee, 2),
            "height": height,
            "mass": mass,
            "bmi": np.round(mass / height**2, 1),
            "amount": amount,
            "ln_amount": np.log(amount),
            "ordered": ordered,
            "days": days,
            "delivered": ordered + pd.to_timedelta(days, "D"),
            "age": age,
            "since": np.floor(age * rng.beta(4, 2, N)).astype(int),
            "old": np.where(age < 65, "no", "yes"),
            "month": ordered.month,
            "shop": shop,
            "city": pd.Series(shop).map({"a": "ulm", "b": "bonn", "c": "ulm", "d": "kiel"}),
            "grams\x1b[31m": rng.integers(100, 9000, N),
        }
    ).assign(kilos=lambda d: d["grams\x1b[31m"] / 1000)


def rules_of(frame):
    """Return the rules of a chain that is measured on a frame, and not trained."""
    data = read(frame)
    coding = TableCoding.fit(data, types={}, drop=(), transform="quantile")
    parts = coding.arguments()
    columns = CodedColumns.of(coding)
    found = measured(coding.encode(data).rows.take(torch.arange(len(frame))).x.numpy(), columns, 8)
    chain = Chain(parts["families"], parts["sizes"], parts["reserved"], **found.layout)
    found.give(chain)
    return rules(chain, coding)


def test_each_dependency_is_named_once():
    found = rules_of(orders())
    alike = {" ".join(sorted(rule.replace("=", "+").split(" + "))) for rule in found}
    assert len(alike) == len(found)
    given = {
        "total = price * pieces",
        "bmi = mass / height^2",
        "shop determines city",
        "since <= age",
    }
    assert given <= set(found)
    (month,) = {rule for rule in found if rule.startswith("ordered determines month")}
    assert month == (
        "ordered determines month, at 2023-02-01, 2023-03-01, 2023-04-01, 2023-05-01 and 5 more"
    )
    either = [
        {"gross = net + fee", "gross = fee + net"},
        {"delivered = ordered + days", "delivered = days + ordered"},
        {"ln_amount = log(amount)", "amount = exp(ln_amount)"},
        {"age determines old", "age determines old, at 65"},
        {"kilos = grams·[31m / 1000", "grams·[31m = 1000 * kilos"},
    ]
    assert all(each & set(found) for each in either), found
    assert len(found) == 1 + len(given) + len(either), found


def test_info_prints_them_and_a_fit_the_first_few(tmp_path, capsys):
    few = orders()[["shop", "city", "grams\x1b[31m", "kilos"]]
    lowerbound.fit(few, preset="fast", max_epochs=1).save(tmp_path / "m.vae")
    assert main(["info", str(tmp_path / "m.vae")]) == 0
    told = capsys.readouterr().out
    assert "drawn and filled rows keep: shop determines city" in told
    assert "\x1b[31m" not in told
    first = shown([f"{i} <= {i + 1}" for i in range(9)])
    assert len(first) == 5
    assert first[0] == "rules      0 <= 1"
    assert first[-1] == "           and 5 more, which `lowerbound info` lists"
    assert len(shown(["a <= b"] * 5)) == 5
    assert shown([]) == []


def test_a_table_without_dependencies_has_none():
    rng = np.random.default_rng(0)
    assert rules_of(pd.DataFrame(rng.normal(size=(300, 3)), columns=list("abc"))) == []
