"""A VAE for counts, such as gene counts of single cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.coding.counts import CountsCoding
from lowerbound.files.data import Whole
from lowerbound.nn.distributions.base import Observed, sample
from lowerbound.nn.distributions.counts import sample_of_total
from lowerbound.nn.distributions.families import Conditional
from lowerbound.nn.distributions.labelled import Labelled
from lowerbound.nn.distributions.learned_library import IntegratedLibrary, LearnedLibraryCounts
from lowerbound.nn.distributions.table_rows import LibraryCounts
from lowerbound.nn.latents.posteriors import Plain
from lowerbound.nn.latents.priors import Mixture, StandardNormal
from lowerbound.nn.model import LatentModel, Level
from lowerbound.nn.networks.mlp import MLP, FilledReader, MappedReader, Single, trunk
from lowerbound.recipes.choosing import choice
from lowerbound.recipes.record import Recipe, Suggestion

HEAD = 32  # hidden units of the network of labels


class LibraryStart(nn.Module):
    """The first state of a count model: its context, log library size and then covariates.

    Without a context, the training rows' mean context is used.
    """

    usual: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("usual", torch.zeros(width))

    def forward(self, context: Tensor | None, batch: int) -> Tensor:
        """Return (batch, width)."""
        return self.usual.expand(batch, -1) if context is None else context


class CountsDecoder(nn.Module):
    """Decoder (context, z) -> [hidden, log library size]; the library size skips the network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """Return (B, width + 1): net of [covariates, z], then the log library size."""
        return torch.cat([self.net(torch.cat([h[:, 1:], z], 1)), h[:, :1]], 1)


class ConditionalEncoder(nn.Module):
    """Encoder (x, context) -> [features], which reads counts and covariates.

    A posterior that knows the batch need not tell it from the counts, and the latents are freer
    of it.

    Args:
        reader: of the counts.
        sizes: widths from the counts to the features.
        covariates: the numbers of the context behind the log library size.
    """

    def __init__(self, reader: nn.Module, sizes: Sequence[int], covariates: int) -> None:
        super().__init__()
        self.reader, self.net = reader, trunk(sizes)
        # Added to the first layer: to concatenate counts and covariates would copy all counts.
        self.covariates = nn.Linear(covariates, sizes[1], bias=False)

    def forward(self, x: Tensor, context: Tensor | None) -> list[Tensor]:
        """Return the one feature tensor."""
        assert context is not None, "this encoder reads a context"
        first, *others = self.net
        features = first(self.reader(x)) + self.covariates(context[:, 1:].contiguous())
        for layer in others:
            features = layer(features)
        return [features]


class AllButLast(nn.Module):
    """Apply a network to all but the last feature."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, h: Tensor) -> Tensor:
        """Return net(h[:, :-1])."""
        # Products of non-contiguous rows take up to twice as long.
        return self.net(h[:, :-1].contiguous())


class CovariatesDecoder(CountsDecoder):
    """Decoder (context, z) -> [hidden, covariates], for a library size that is not given."""

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """Return (B, width + covariates)."""
        return torch.cat([self.net(torch.cat([h[:, 1:], z], 1)), h[:, 1:]], 1)


class LearnedLibraryConditional(Conditional):
    """p(x | h, covariates), whose library size is integrated out.

    Args:
        net: module from the hidden features to the numbers of the family.
        family: of the counts.
        width: number of hidden features; the covariates stand behind them.
    """

    def __init__(self, net: nn.Module, family: LearnedLibraryCounts, width: int) -> None:
        super().__init__(net, family)
        self.width = width

    def forward(self, h: Tensor, *context: Tensor) -> Distribution:
        """Return the distribution of the counts of all genes."""
        covariates = h[:, self.width :]
        return super().forward(h[:, : self.width].contiguous(), covariates, *context)


class LibraryConditional(Conditional):
    """p(x | h, library), with the last feature of the state, log library size, for the family."""

    def forward(self, h: Tensor, *context: Tensor) -> Distribution:
        """Return the distribution of the counts of all genes."""
        return super().forward(h, h[:, -1:], *context)


class WithoutLabels(nn.Module):
    """An encoder that does not see the labels, which are the last numbers of the context.

    Args:
        inner: the encoder.
        labels: number of labels.
    """

    def __init__(self, inner: nn.Module, labels: int) -> None:
        super().__init__()
        self.inner, self.labels = inner, labels

    def forward(self, x: Tensor, context: Tensor | None) -> list[Tensor]:
        """Return the features of each level."""
        return self.inner(x, None if context is None else context[:, : -self.labels])


class LabelledDecoder(nn.Module):
    """Decoder (context, z) -> [the state of another decoder, z, labels].

    Args:
        inner: the decoder, which does not see the labels.
        labels: number of labels, the last numbers of the context.
    """

    def __init__(self, inner: nn.Module, labels: int) -> None:
        super().__init__()
        self.inner, self.labels = inner, labels

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """Return the next state."""
        own = self.inner(h[:, : -self.labels], z)
        return torch.cat([own, z, h[:, -self.labels :]], 1)


class LabelledConditional(nn.Module):
    """p(x, y | z, context) of counts x and a label y, if the row has one.

    Args:
        inner: p(x | h).
        latent: size of z.
        labels: number of labels.
    """

    def __init__(self, inner: nn.Module, latent: int, labels: int) -> None:
        super().__init__()
        self.inner, self.head = inner, MLP([latent, HEAD, labels])
        self.sizes = latent, labels

    def forward(self, h: Tensor) -> Labelled:
        """Return the joint distribution."""
        latent, labels = self.sizes
        own, z, given = h.split([h.shape[1] - latent - labels, latent, labels], 1)
        return Labelled(self.inner(own.contiguous()), self.logits(z), given)

    def logits(self, z: Tensor) -> Tensor:
        """Return unnormalised log p(y | z), (B, labels)."""
        return self.head(z.contiguous()).float()


def counts(  # noqa: PLR0913, PLR0917 - what a recipe takes is what the model file holds
    features: int,
    latent: int = 10,
    hidden: Sequence[int] = (128,),
    likelihood: str = "nb",
    batches: int = 0,
    components: int = 0,
    conditional_encoder: bool = False,
    library: str = "given",
    labels: int = 0,
) -> LatentModel:
    """A VAE for counts with a library size, such as single cells: p(x | z, library, covariates).

    Each gene has its own dispersion. The context is [log library size, covariates].

    References:
        Lopez et al., "Deep generative modeling for single-cell transcriptomics", 2018,
        https://doi.org/10.1038/s41592-018-0229-2

    Args:
        features: number of genes.
        latent: size of z.
        hidden: widths of the encoder's layers; the decoder mirrors them.
        likelihood: "nb", "zinb" or "poisson".
        batches: numbers of the covariates in the context: one for each level of a batch, and one
            for each covariate of numbers.
        components: components of a mixture prior fitted after training; 0 is N(0, I).
        conditional_encoder: whether the encoder reads the covariates, too. A fit sets it; models
            of versions before 1.0 give them to the decoder alone.
        library: "given": the total of a row is known, and the model is of its composition;
            "learned": it has a log-normal distribution that depends on the covariates and is
            integrated out, so that the model is of the total, too (slower).
        labels: number of labels, of which a row may have one: the last numbers of the context.
            The model is then of counts and label together, p(x | z) p(y | z), and a row without
            a label has p(x | z).
    """
    choice("likelihood", likelihood, dict.fromkeys(["nb", "zinb", "poisson"]))
    learned = choice("library", library, {"given": False, "learned": True})
    hidden = list(hidden)
    reader = MappedReader(torch.ones(features), 0.0, True, FilledReader(features, False))
    decoder = CovariatesDecoder if learned else CountsDecoder
    level = Level(
        "z",
        Mixture(components, latent) if components else StandardNormal(latent),
        Plain(nn.Linear(hidden[-1], 2 * latent)),
        decoder(trunk([batches + latent, *hidden[::-1]])),
    )
    if batches and conditional_encoder:
        encoder: nn.Module = ConditionalEncoder(reader, [features, *hidden], batches)
    else:
        encoder = Single(nn.Sequential(reader, trunk([features, *hidden])))
    if learned:
        own = LearnedLibraryCounts(features, likelihood, batches)
        net = nn.Linear(hidden[0], own.numbers(features))
        likely: Conditional = LearnedLibraryConditional(net, own, hidden[0])
    else:
        family = LibraryCounts(features, likelihood)
        net = nn.Linear(hidden[0], family.numbers(features))
        likely = LibraryConditional(AllButLast(net), family)
    likelihood_of: nn.Module = likely
    if labels:
        encoder = WithoutLabels(encoder, labels)
        level.advance = LabelledDecoder(level.advance, labels)
        likelihood_of = LabelledConditional(likely, latent, labels)
    return LatentModel(encoder, [level], likelihood_of, LibraryStart(1 + batches + labels))


def with_covariates(model: LatentModel, wide: LatentModel, mix: Tensor) -> list[nn.Parameter]:
    """Give a model with further numbers in its context the weights of a trained one.

    Args:
        model: the trained model.
        wide: one of the same arguments except more `batches`, whose weights are replaced.
        mix: (new, old) each number of the new context as a sum of those of the old one: its
            weights begin as this sum.

    Returns:
        The parameters of `wide` whose first columns are the weights of the covariates.
    """
    old, count = model.state_dict(), mix.shape[1]
    covariates = [name for name in old if name.replace("inner.", "") in _OF_COVARIATES]
    new = {name: weights.clone() for name, weights in old.items()}
    for name in covariates:
        own, others = old[name][:, :count], old[name][:, count:]
        new[name] = torch.cat([own @ mix.T.to(own), others], 1)
    usual = torch.zeros(1 + len(mix) + len(old[_USUAL]) - 1 - count)
    usual[0], usual[1 + len(mix) :] = old[_USUAL][0], old[_USUAL][1 + count :]
    for place, each in enumerate(mix):
        known = (each == 1).nonzero()
        usual[1 + place] = old[_USUAL][1 + known[0]] if len(known) else 0.0
    wide.load_state_dict({**new, _USUAL: usual})
    named = dict(wide.named_parameters())
    return [named[name] for name in covariates]


# The weights whose first columns are of the covariates.
_OF_COVARIATES = (
    "levels.0.advance.net.0.weight",
    "encoder.covariates.weight",
    "likelihood.family.weight",
)
_USUAL = "start.usual"  # the mean context of training rows


def _suits(frame: Whole, chosen: Mapping[str, object]) -> Suggestion | None:
    """Suggest the recipe for sparse matrices of whole numbers."""
    return Suggestion({}, "raw counts of cells") if frame.holds_counts else None


def _draw_totals(
    px: Distribution,
    context: Tensor | None,
    source: torch.Generator,
    given: Tensor | None = None,
) -> Tensor:
    """Draw counts that add up to the library size of their row."""
    if context is None:
        return sample(px, source)
    px = px.rows if isinstance(px, Labelled) else px
    cells = px.cells if isinstance(px, Observed) else px
    if isinstance(cells, IntegratedLibrary):
        cells = cells.drawn(source)
    return sample_of_total(cells, context[:, 0].exp().round(), source, given)


COUNTS = Recipe(
    counts,
    lambda settings: CountsCoding,
    arguments={"conditional_encoder": True},
    explains=False,
    sparse=True,
    suits=_suits,
    draw=_draw_totals,
    most_latents=30,
)
