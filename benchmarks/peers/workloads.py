"""What `throughput.py` measures: workloads, sides and goals."""

from __future__ import annotations

from dataclasses import dataclass

ROWS = (
    19_968  # the most rows below 20,000 that every batch size divides: no side has a short batch
)
SEVERAL, DEFAULT = -1, None  # threads: those of the command line; whatever each side takes itself
QUICK_STEPS = 8


@dataclass(frozen=True)
class Workload:
    """One comparison.

    Attributes:
        about: the net and the likelihood.
        data: name of the data, see `common.Work`.
        batch: rows per step.
        epochs: passes over the rows.
        peers: the sides that ours is compared with.
        rows: training rows.
        threads: 1, `SEVERAL` or `DEFAULT`.
    """

    about: str
    data: str
    batch: int
    epochs: int
    peers: tuple[str, ...]
    rows: int = ROWS
    threads: int | None = SEVERAL

    def work(self, seed: int, quick: bool) -> dict[str, object]:
        """Return the arguments of `common.Work`, the same for every side."""
        rows, epochs = (QUICK_STEPS * self.batch, 1) if quick else (self.rows, self.epochs)
        return {
            "data": self.data,
            "rows": rows,
            "batch": self.batch,
            "epochs": epochs,
            "seed": seed,
        }


_MLP = "784-400-20-400-784 ReLU, Bernoulli"
_TINY = "30-64-32-8-32-64-30 ReLU, Gaussian with unit variance"
_MLP_PEERS = ("loop", "pythae", "pyod", "jax")
_TINY_PEERS = ("loop", "pyod", "jax")

WORKLOADS = {
    "mlp_64": Workload(_MLP, "bits", 64, 4, _MLP_PEERS),
    "mlp_128": Workload(_MLP, "bits", 128, 5, _MLP_PEERS),
    "mlp_512": Workload(_MLP, "bits", 512, 8, _MLP_PEERS),
    "tiny_32_t1": Workload(_TINY, "table", 32, 5, _TINY_PEERS, threads=1),
    "tiny_256_t1": Workload(_TINY, "table", 256, 20, ("loop", "jax"), threads=1),
    "tiny_32": Workload(_TINY, "table", 32, 5, _TINY_PEERS, threads=DEFAULT),
    "tiny_256": Workload(_TINY, "table", 256, 20, ("loop", "jax"), threads=DEFAULT),
    "conv_28": Workload(
        "1x28x28, 4x4 convolutions of stride 2 with 32-64 channels, z 32, and the mirror of them, "
        "Bernoulli",
        "images28", 128, 1, ("loop",),
    ),
    "conv_64": Workload(
        "3x64x64, 4x4 convolutions of stride 2 with 32-64-128 channels, z 32, and the mirror of "
        "them, Gaussian with unit variance",
        "images64", 128, 1, ("loop",), rows=12_800,
    ),
    "counts": Workload(
        "2,000 genes, 128 hidden, z 10, negative binomial", "counts", 128, 2, ("scvi",)
    ),
    "mixed": Workload(
        "7 numbers and 8 categories, the whole fit with the data transform, cold; hidden 128-128, "
        "z 128",
        "mixed", 128, 10, ("ctgan",), rows=50_000,
    ),
}  # fmt: skip

EQUAL = (
    "networks, likelihood and prior, Adam at 1e-3, batch size, rows, passes over them, float32, "
    "cores; all but mixed after a warm-up fit of up to 20 steps in the same process, which is not "
    "in the time; every measurement is a process of its own"
)

SIDES = {
    "ours": "lowerbound's training.fit with the engine that a fit of many steps chooses, compiled "
    "before the clock starts (compile_seconds): AdamW with weight decay 0, the gradient's norm "
    "clipped, the ELBO of every batch kept, and checks on 256 held-out rows (with up to 32 "
    "samples each) and a copy of the best weights in the time. mixed: learn(...), which trains on "
    "41,000 of the 50,000 rows and with the other 9,000 decides and calibrates",
    "loop": "TensorDataset, DataLoader(shuffle=True), torch.optim.Adam, sigmoid and "
    "binary_cross_entropy (or mse_loss), KL in closed form, loss.item() at every step",
    "pythae": "its VAE with the same networks and its BaseTrainer, without progress bar, printing "
    "and the saving at the end; keeps a copy of the best model, as it does by default",
    "pyod": "its VAE with the same widths, its own loss (squared error also for bits) and loop; "
    "its default dropout, weight decay and scaling are off; the scoring that fit adds is outside "
    "the time",
    "jax": "written by hand: jit of one lax.scan over an epoch's steps, loss from logits, Adam; "
    "compiled before the clock starts (compile_seconds)",
    "scvi": "SCVI with n_hidden 128, n_latent 10, nb, on dense float32 as ours; batch norm, "
    "dropout 0.1, softmax, weight decay, KL warm-up and gene dispersion are its defaults, ours "
    "has SiLU in their place",
    "ctgan": "TVAE with the same widths, size of z, batch and epochs, its default l2scale and "
    "loss_factor; trains on all 50,000 rows, holds none out and does not calibrate",
}


@dataclass(frozen=True)
class Goal:
    """A goal of PERFORMANCE.md: ours / peer is to be at least this.

    Attributes:
        number: of the goal there.
        workload: of ours.
        peer: the other side.
        at_least: the ratio.
        against: workload of the peer, where it is another one.
    """

    number: int
    workload: str
    peer: str
    at_least: float
    against: str = ""


GOALS = (
    Goal(1, "mlp_64", "loop", 3.0),
    Goal(1, "mlp_128", "loop", 3.0),
    Goal(1, "mlp_64", "pythae", 3.5),
    Goal(1, "mlp_128", "pythae", 3.5),
    Goal(1, "mlp_512", "loop", 2.0),
    Goal(2, "mlp_64", "jax", 1.0),
    Goal(2, "mlp_128", "jax", 1.0),
    Goal(2, "mlp_512", "jax", 1 / 1.2),
    Goal(3, "conv_28", "loop", 1.8),
    Goal(3, "conv_64", "loop", 2.4),
    Goal(4, "tiny_256_t1", "loop", 2.5),
    Goal(4, "tiny_256", "loop", 2.5),
    Goal(4, "tiny_256_t1", "pyod", 8.0, against="tiny_32_t1"),
    Goal(4, "tiny_256", "pyod", 8.0, against="tiny_32"),
    Goal(5, "counts", "scvi", 2.0),
    Goal(5, "mixed", "ctgan", 5.0),
)
