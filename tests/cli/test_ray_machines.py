"""Ray on two machines: one of them is taken away while a fit runs."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster

from lowerbound.cli.commands.fit import fit
from lowerbound.training.engine.checkpoints import EVERY

pytestmark = [pytest.mark.nightly, pytest.mark.filterwarnings("ignore")]

ROWS = 2_000  # seconds of training are left when the first check is made
HOW = {"preset": "fast", "max_epochs": 100, "seed": 3}


class Taking:
    """Hear a fit, and take a machine away at its first check."""

    def __init__(self, take):
        self.take, self.said, self.checks = take, [], []

    def say(self, line):
        self.said.append(line)

    def report(self, check, budget):
        self.checks.append(check)
        take, self.take = self.take, None
        if take:
            take()

    def show(self, share, line):
        pass

    def close(self):
        pass


def made_again(checks):
    """Return over how many seconds the checks reach that were made once more."""
    again = [i for i in range(1, len(checks)) if checks[i].epoch <= checks[i - 1].epoch]
    assert len(again) <= 1, "one machine was lost, once"
    twice = [c.seconds for i in again for c in checks[:i] if c.epoch >= checks[i].epoch]
    return max(twice, default=0) - min(twice, default=0)


@pytest.fixture
def machines(monkeypatch):
    """A cluster of two, each with its own scheduler and store; gives what takes one away."""
    for name, value in {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}.items():
        monkeypatch.setenv(name, value)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = made.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    yield lambda: made.remove_node(second, allow_graceful=False)
    made.shutdown()


def test_a_machine_that_is_lost_costs_no_more_than_what_was_not_committed(
    machines, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 2)) @ rng.normal(size=(2, 4)) + 0.3 * rng.normal(size=(ROWS, 4))
    rows = pa.table({name: x[:, j] for j, name in enumerate("abcd")})
    pq.write_table(rows, "tx.parquet")
    voice = Taking(machines)
    made = fit("tx.parquet", out="two.vae", ray=True, workers="2", voice=voice, **HOW)
    assert voice.take is None
    assert any(line.startswith("resume") for line in voice.said), voice.said
    assert len(voice.checks) > 2
    assert made_again(voice.checks) < EVERY + 1
    alone = fit("tx.parquet", out="alone.vae", **HOW)
    one, two = (fitted.model.log_likelihood(rows).mean() for fitted in (alone, made))
    assert abs(one - two) < 0.05
    assert not list(tmp_path.glob("*.run"))
