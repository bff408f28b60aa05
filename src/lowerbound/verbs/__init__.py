"""The verbs: what lowerbound does, each a plain function, in one table for every face.

The command line and the package's own namespace read `VERBS`; a function's signature gives the
flags and its docstring the help text. Nothing is imported until a verb is used.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple


class Verb(NamedTuple):
    """Where a verb is, and how it is announced.

    Attributes:
        place: ``module:function``.
        group: the heading that it stands under in the list of commands.
        arguments: what it takes, for the list of commands.
        summary: what it does, in at most fifty characters.
        writes: whether it makes a file, so that the command line insists on ``--out``.
    """

    place: str
    group: str
    arguments: str
    summary: str
    writes: bool = False

    def load(self) -> Callable[..., Any]:
        """Import the function."""
        module, _, name = self.place.partition(":")
        return getattr(import_module(module), name)


EVERYWHERE = """\
Every command also takes
  --json             one JSON object instead of text, errors too
  -q, --quiet        errors only, and the path of what was written
  --max-memory SIZE  hold no more than so much in memory, such as 2GB
  --debug            the traceback of an error
  -h, --help         what the command takes, with examples"""

_BEGIN, _USE, _TRUST = "Begin", "Use a model", "Trust it"
_HERE = "lowerbound.verbs"

VERBS: dict[str, Verb] = {
    "demo": Verb(
        f"{_HERE}.showing:demo", _BEGIN, "", "see it all work on a medical table (1 min)"
    ),
    "inspect": Verb(
        f"{_HERE}.looking:inspect", _BEGIN, "PATH", "what a table or a folder of pictures holds"
    ),
    "fit": Verb(f"{_HERE}.fitting:fit", _BEGIN, "PATH", "learn a model from a table or pictures"),
    "tune": Verb(f"{_HERE}.tuning:tune", _BEGIN, "PATH", "search for the settings that fit best"),
    "score": Verb(
        f"{_HERE}.using:score",
        _USE,
        "M.vae PATH",
        "how unusual each row or picture is, and why",
        True,
    ),
    "embed": Verb(f"{_HERE}.using:embed", _USE, "M.vae PATH", "a few numbers for each row", True),
    "sample": Verb(
        f"{_HERE}.making:sample", _USE, "M.vae", "new rows or pictures like the ones learned", True
    ),
    "impute": Verb(f"{_HERE}.making:impute", _USE, "M.vae PATH", "fill in missing cells", True),
    "reconstruct": Verb(
        f"{_HERE}.using:reconstruct", _USE, "M.vae PATH", "rows as the model expects them", True
    ),
    "denoise": Verb(
        f"{_HERE}.restoration:denoise", _USE, "M.vae PATH", "pictures without their noise", True
    ),
    "upscale": Verb(f"{_HERE}.restoration:upscale", _USE, "M.vae PATH", "larger pictures", True),
    "inpaint": Verb(
        f"{_HERE}.restoration:inpaint",
        _USE,
        "M.vae PATH",
        "pictures without their holes",
        True,
    ),
    "segment": Verb(
        f"{_HERE}.restoration:segment", _USE, "M.vae PATH", "the class of every pixel", True
    ),
    "evaluate": Verb(
        f"{_HERE}.measuring:evaluate", _USE, "M.vae PATH", "how well a model fits rows"
    ),
    "plot": Verb(
        f"{_HERE}.plotting:plot", _USE, "M.vae KIND", "pictures of what an image model learned"
    ),
    "export": Verb(
        f"{_HERE}.exporting:export", _USE, "M.vae", "the score as an ONNX file, without torch"
    ),
    "info": Verb(f"{_HERE}.looking:info", _TRUST, "M.vae", "what a model is and was learned from"),
    "verify": Verb(f"{_HERE}.looking:verify", _TRUST, "M.vae", "whether a model file is intact"),
    "doctor": Verb(
        f"{_HERE}.health:doctor", _TRUST, "[M.vae [PATH]]", "is this computer, or a model, well?"
    ),
    "recipe": Verb(
        f"{_HERE}.papers:recipe", _TRUST, "list|show|run", "published experiments, done again"
    ),
    "explain": Verb(f"{_HERE}.looking:explain", _TRUST, "CODE", "what an error code means"),
}
