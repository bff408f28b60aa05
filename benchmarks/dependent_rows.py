"""Do drawn and filled rows keep what holds on all training rows?

Six made tables: invoices, a payroll, a questionnaire, orders, sensors and stays in a hospital.
Their columns follow from others as sums (also with numbers that are 0 on most rows), products,
logarithms, limits, differences of dates, or by a key, or are at most another one. Counted is the
share of 5,000 drawn rows that break each rule, and of the training rows filled in again with
`GAPS` of their cells removed; beside it the C2ST of drawn rows against fresh rows of the source
(1 is indistinguishable).

Run: python benchmarks/dependent_rows.py [--tables invoices ...]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa

import lowerbound
import results_file
from lowerbound.tasks import compare

ROWS, DRAWN, GAPS = 3_000, 5_000, 0.05
BOSSES = {"it": "ann", "hr": "bo", "ops": "cy", "sales": "di", "legal": "bo"}
ARTICLES = 120
Rules = dict[str, "pd.Series[bool]"]


def invoices(rng: np.random.Generator) -> pd.DataFrame:
    net = np.round(rng.lognormal(4, 0.8, ROWS), 2)
    vat = np.round(0.19 * net, 2)
    shipping = rng.choice([0, 4.9, 9.9], ROWS, p=[0.3, 0.5, 0.2])
    gross = np.round(net + vat + shipping, 2)
    paid = np.where(rng.random(ROWS) < 0.6, gross, np.round(gross * rng.random(ROWS), 2))
    weight = np.round(rng.gamma(2, 3, ROWS) + 0.1, 1)
    return pd.DataFrame(
        {
            "city": rng.choice(["bonn", "kiel", "ulm"], ROWS),
            "net": net,
            "vat": vat,
            "shipping": shipping,
            "gross": gross,
            "paid": paid,
            "open": np.round(gross - paid, 2),
            "weight_kg": weight,
            "weight_lb": np.round(2.20462 * weight, 1),
            "plan": np.where(net < 50, "a", "b"),
        }
    )


def of_invoices(d: pd.DataFrame) -> Rules:
    return {
        "vat = 0.19 net": (d.vat - 0.19 * d.net).abs() > 0.0051,
        "gross = net + vat + shipping": (d.net + d.vat + d.shipping - d.gross).abs() > 0.011,
        "open = gross - paid": (d.gross - d.paid - d.open).abs() > 0.001,
        "pounds of kilograms": (d.weight_lb - 2.20462 * d.weight_kg).abs() > 0.051,
        "shipping of three values": ~d.shipping.isin([0, 4.9, 9.9]),
        "plan by net": (d.plan == "a") != (d.net < 50),
    }


def payroll(rng: np.random.Generator) -> pd.DataFrame:
    department = rng.choice(list(BOSSES), ROWS, p=[0.3, 0.1, 0.35, 0.2, 0.05])
    years = rng.gamma(2, 4, ROWS).astype(int)
    salary = np.round(rng.lognormal(10.3 + 0.03 * years, 0.25, ROWS), -2).astype(int)
    more = np.round(salary * rng.choice([0.05, 0.1], ROWS)).astype(int)
    bonus = np.where(rng.random(ROWS) < 0.7, 0, more)
    overtime = np.where(rng.random(ROWS) < 0.8, 0, 25 * rng.integers(1, 60, ROWS))
    return pd.DataFrame(
        {
            "department": department,
            "boss": [BOSSES[each] for each in department],
            "years": years,
            "grade": np.select([years < 3, years < 10], ["junior", "mid"], "senior"),
            "salary": salary,
            "bonus": bonus,
            "overtime": overtime,
            "gross": salary + bonus + overtime,
            "pension": np.round(0.05 * salary, 2),
            "monthly": np.round(salary / 12, 2),
        }
    )


def of_payroll(d: pd.DataFrame) -> Rules:
    grade = np.select([d.years < 3, d.years < 10], ["junior", "mid"], "senior")
    return {
        "boss by department": d.department.map(BOSSES) != d.boss,
        "grade by years": grade != d.grade,
        "gross = salary + bonus + overtime": d.salary + d.bonus + d.overtime != d.gross,
        "pension = 0.05 salary": (0.05 * d.salary - d.pension).abs() > 0.0051,
        "monthly = salary / 12": (d.salary / 12 - d.monthly).abs() > 0.0051,
    }


def questionnaire(rng: np.random.Generator) -> pd.DataFrame:
    trait = rng.normal(size=(ROWS, 1))
    items = np.clip(np.round(1 + 0.8 * trait + rng.normal(size=(ROWS, 7))), 0, 3).astype(int)
    total = items.sum(1)
    return pd.DataFrame(items, columns=[f"q{i}" for i in range(1, 8)]).assign(
        total=total,
        mean=np.round(total / 7, 2),
        severity=np.select(
            [total <= 4, total <= 9, total <= 14], ["none", "mild", "some"], "high"
        ),
        case=(total > 9).astype(int),
        age=rng.integers(18, 90, ROWS),
    )


def of_questionnaire(d: pd.DataFrame) -> Rules:
    total = d[[f"q{i}" for i in range(1, 8)]].sum(axis=1)
    severity = np.select([total <= 4, total <= 9, total <= 14], ["none", "mild", "some"], "high")
    return {
        "total of seven items": total != d.total,
        "mean of seven items": (total / 7 - d["mean"]).abs() > 0.0051,
        "severity by total": severity != d.severity,
        "case by total": (total > 9) != d.case,
    }


def _articles() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    price = np.round(rng.lognormal(3, 0.8, ARTICLES), 2)
    return price, rng.choice(["food", "toys", "tools", "books"], ARTICLES)


def orders(rng: np.random.Generator) -> pd.DataFrame:
    price, kind = _articles()
    share = 1 / np.arange(1, ARTICLES + 1) ** 0.7
    article = rng.choice(ARTICLES, ROWS, p=share / share.sum())
    pieces = 1 + rng.poisson(1.2, ROWS)
    height, mass = np.round(rng.normal(1.7, 0.1, ROWS), 2), np.round(rng.normal(75, 12, ROWS), 1)
    return pd.DataFrame(
        {
            "article": [f"a{i}" for i in article],
            "kind": kind[article],
            "price": price[article],
            "pieces": pieces,
            "total": np.round(price[article] * pieces, 2),
            "height": height,
            "mass": mass,
            "bmi": np.round(mass / height**2, 1),
        }
    )


def of_orders(d: pd.DataFrame) -> Rules:
    price, kind = _articles()
    article = d.article.str[1:].astype(int).to_numpy()
    return {
        "price by article": (d.price - price[article]).abs() > 1e-6,
        "kind by article": d.kind != kind[article],
        "total = price x pieces": (d.price * d.pieces - d.total).abs() > 0.0051,
        "bmi = mass / height^2": (d.mass / d.height**2 - d.bmi).abs() > 0.0501,
    }


def sensors(rng: np.random.Generator) -> pd.DataFrame:
    amount, celsius = rng.lognormal(4, 1, ROWS), np.round(rng.normal(12, 8, ROWS), 1)
    first = np.round(100 * rng.beta(2, 3, ROWS), 1)
    second = np.round((100 - first) * rng.random(ROWS), 1)
    low = np.round(0.9 * amount, 2)
    spread = np.round(rng.exponential(5, ROWS), 2)
    return pd.DataFrame(
        {
            "amount": amount,
            "log_amount": np.log(amount),
            "root": np.sqrt(amount),
            "celsius": celsius,
            "fahrenheit": np.round(1.8 * celsius + 32, 1),
            "kelvin": np.round(celsius + 273.15, 2),
            "first": first,
            "second": second,
            "third": np.round(100 - first - second, 1),
            "low": low,
            "high": np.round(low + spread, 2),
            "spread": spread,
        }
    )


def of_sensors(d: pd.DataFrame) -> Rules:
    return {
        "logarithm": (np.log(d.amount) - d.log_amount).abs() > 1e-4,
        "square root": (np.sqrt(d.amount) - d.root).abs() > 1e-3,
        "fahrenheit": (1.8 * d.celsius + 32 - d.fahrenheit).abs() > 0.051,
        "kelvin": (d.celsius + 273.15 - d.kelvin).abs() > 0.0051,
        "shares sum to 100": (d["first"] + d.second + d.third - 100).abs() > 0.051,
        "spread = high - low": (d.high - d.low - d.spread).abs() > 0.0051,
    }


def stays(rng: np.random.Generator) -> pd.DataFrame:
    admitted = pd.Timestamp("2023-01-02") + pd.to_timedelta(rng.integers(0, 700, ROWS), "D")
    days = rng.geometric(0.25, ROWS) - 1
    billed = np.round(rng.lognormal(6.5, 0.7, ROWS) * (1 + days / 4), 2)
    least = np.round(rng.normal(62, 9, ROWS))
    age = rng.integers(20, 95, ROWS)
    return pd.DataFrame(
        {
            "admitted": admitted,
            "discharged": admitted + pd.to_timedelta(days, "D"),
            "days": days,
            "due": admitted + pd.to_timedelta(days + 30, "D"),
            "month": admitted.month,
            "weeks": days // 7,
            "ward": rng.choice(["a", "b", "c"], ROWS),
            "age": age,
            "first_diagnosis": np.floor(age * rng.beta(4, 2, ROWS)).astype(int),
            "pulse_low": least,
            "pulse": least + np.round(rng.gamma(2, 5, ROWS)),
            "pulse_high": least + np.round(rng.gamma(2, 5, ROWS)) + 30,
            "billed": billed,
            "paid": np.round(billed * np.where(rng.random(ROWS) < 0.5, 1, rng.random(ROWS)), 2),
        }
    ).assign(pulse_high=lambda d: d[["pulse", "pulse_high"]].max(axis=1))


def of_stays(d: pd.DataFrame) -> Rules:
    return {
        "admitted before discharged": d.admitted > d.discharged,
        "days = discharged - admitted": (d.discharged - d.admitted).dt.days != d.days,
        "month of admission": d.admitted.dt.month != d.month,
        "weeks are whole": d.days // 7 != d.weeks,
        "due 30 days later": (d.due - d.discharged).dt.days != 30,
        "first diagnosis by age": d.first_diagnosis > d.age,
        "pulse at least the lowest": d.pulse_low > d.pulse,
        "pulse at most the highest": d.pulse > d.pulse_high,
        "paid at most billed": d.paid > d.billed,
    }


Table = tuple[Callable[[np.random.Generator], pd.DataFrame], Callable[[pd.DataFrame], Rules]]
TABLES: dict[str, Table] = {
    "invoices": (invoices, of_invoices),
    "payroll": (payroll, of_payroll),
    "questionnaire": (questionnaire, of_questionnaire),
    "orders": (orders, of_orders),
    "sensors": (sensors, of_sensors),
    "stays": (stays, of_stays),
}


def with_gaps(frame: pd.DataFrame) -> pd.DataFrame:
    hidden = np.random.default_rng(2).random(frame.shape) < GAPS
    return frame.astype(object).mask(hidden).infer_objects()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    found = {}
    for name in parser.parse_args().tables:
        make, rules = TABLES[name]
        frame, fresh = (make(np.random.default_rng(seed)) for seed in (7, 8))
        assert not any(broken.any() for broken in rules(frame).values())
        model = lowerbound.fit(frame, preset="fast")
        drawn, filled = model.sample(DRAWN), model.impute(with_gaps(frame))
        told = compare.c2st(pa.Table.from_pandas(fresh), pa.Table.from_pandas(drawn))
        found[name] = {
            "c2st": round(told.score.value, 3),
            "drawn": {rule: float(broken.mean()) for rule, broken in rules(drawn).items()},
            "filled": {rule: float(broken.mean()) for rule, broken in rules(filled).items()},
        }
        print(name, found[name], flush=True)
    setting = {"rows": ROWS, "drawn": DRAWN, "gaps": GAPS, "preset": "fast", "seed": 0}
    print(results_file.write("dependent_rows", setting=setting, results=found))


if __name__ == "__main__":
    main()
