"""The commands of the command line, each a plain function, in one table.

The command line and the package's own namespace read `VERBS`; a function's signature gives the
flags and its docstring the help text. Nothing is imported until a verb is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple


class Verb(NamedTuple):
    """An entry in the table of commands.

    Attributes:
        place: ``module:function``.
        group: its heading in the list of commands.
        arguments: its arguments, for the list of commands.
        summary: its purpose, in at most fifty characters.
        writes: whether it writes a file, so that the command line requires ``--out``.
        needs: a flag that it requires in addition to ``--out``.
    """

    place: str
    group: str
    arguments: str
    summary: str
    writes: bool = False
    needs: str = ""

    def load(self) -> Callable[..., Any]:
        """Import the function."""
        module, _, name = self.place.partition(":")
        return getattr(import_module(module), name)


EVERYWHERE = """\
Every command also takes
  --json             one JSON object instead of text, errors too
  -q, --quiet        errors only, and the path of what was written
  --max-memory SIZE  the most memory to use, such as 2GB
  --debug            the traceback of an error
  -h, --help         the arguments, with examples"""

_BEGIN, _USE, _TRUST = "Begin", "Use a model", "Trust it"
_HERE = "lowerbound.cli.commands"

VERBS: dict[str, Verb] = {
    "demo": Verb(f"{_HERE}.demo:demo", _BEGIN, "", "see it all work on a real table (1 min)"),
    "inspect": Verb(
        f"{_HERE}.inspect:inspect", _BEGIN, "PATH", "describe a table or a folder of pictures"
    ),
    "fit": Verb(f"{_HERE}.fit:fit", _BEGIN, "PATH", "train a model on a table or on pictures"),
    "tune": Verb(f"{_HERE}.tune:tune", _BEGIN, "PATH", "search for the settings that fit best"),
    "score": Verb(
        f"{_HERE}.score:score",
        _USE,
        "M.vae PATH",
        "score how unusual each row or picture is",
        True,
    ),
    "embed": Verb(
        f"{_HERE}.embed:embed", _USE, "M.vae PATH", "write a few latent numbers for each row", True
    ),
    "label": Verb(
        f"{_HERE}.label:label",
        _USE,
        "M.vae PATH",
        "give rows or cells the likeliest labels",
        True,
    ),
    "sample": Verb(f"{_HERE}.sample:sample", _USE, "M.vae", "draw new rows or pictures", True),
    "impute": Verb(f"{_HERE}.impute:impute", _USE, "M.vae PATH", "fill in missing values", True),
    "reconstruct": Verb(
        f"{_HERE}.reconstruct:reconstruct",
        _USE,
        "M.vae PATH",
        "write each row as the model expects it",
        True,
    ),
    "differential": Verb(
        f"{_HERE}.differential:differential",
        _USE,
        "M.vae PATH",
        "find the genes that differ between cells",
        True,
        " --groupby COLUMN --group LEVEL",
    ),
    "denoise": Verb(
        f"{_HERE}.restore:denoise", _USE, "M.vae PATH", "remove the noise from pictures", True
    ),
    "upscale": Verb(f"{_HERE}.restore:upscale", _USE, "M.vae PATH", "enlarge pictures", True),
    "inpaint": Verb(
        f"{_HERE}.restore:inpaint",
        _USE,
        "M.vae PATH",
        "fill the holes of pictures",
        True,
        " --mask HOLES",
    ),
    "segment": Verb(
        f"{_HERE}.restore:segment", _USE, "M.vae PATH", "find the class of every pixel", True
    ),
    "encode": Verb(
        f"{_HERE}.autoencode:encode", _USE, "M.vae PATH", "write pictures as maps of latents", True
    ),
    "decode": Verb(
        f"{_HERE}.autoencode:decode", _USE, "M.vae LATENTS", "write the pictures of latents", True
    ),
    "evaluate": Verb(
        f"{_HERE}.evaluate:evaluate", _USE, "M.vae PATH", "measure how well a model fits rows"
    ),
    "compare": Verb(
        f"{_HERE}.compare:compare", _USE, "M.vae REAL", "compare drawn rows with real ones"
    ),
    "plot": Verb(
        f"{_HERE}.plot:plot", _USE, "M.vae KIND", "draw scores, a map, columns, or pictures"
    ),
    "export": Verb(f"{_HERE}.export:export", _USE, "M.vae", "write an ONNX file, or a container"),
    "serve": Verb(f"{_HERE}.serve:serve", _USE, "M.vae", "answer requests over HTTP"),
    "explore": Verb(
        f"{_HERE}.explore:explore", _TRUST, "M.vae PATH", "look at a model and rows in a browser"
    ),
    "report": Verb(
        f"{_HERE}.report:report",
        _TRUST,
        "M.vae [PATH]",
        "write a page about a model and rows",
        True,
    ),
    "info": Verb(
        f"{_HERE}.inspect:info", _TRUST, "M.vae", "describe a model and its training data"
    ),
    "verify": Verb(
        f"{_HERE}.inspect:verify", _TRUST, "M.vae", "check that a model file is intact"
    ),
    "check": Verb(
        f"{_HERE}.check:check", _TRUST, "M.vae PATH", "a gate for pipelines: schema, drift, alarms"
    ),
    "doctor": Verb(
        f"{_HERE}.doctor:doctor", _TRUST, "[M.vae [PATH]]", "check this computer, or a model"
    ),
    "error": Verb(f"{_HERE}.error:error", _TRUST, "CODE", "describe an error code"),
}


class Program(NamedTuple):
    """A command-line program: its name and its commands.

    Attributes:
        name: the words that run it, such as ``python -m reproductions``.
        summary: its purpose, in one line.
        verbs: the commands by name.
        synonyms: names of commands in other tools, and the names here.
        begin: the command to try first.
        elsewhere: words that are no commands, and where to find what they mean.
    """

    name: str
    summary: str
    verbs: Mapping[str, Verb]
    synonyms: Mapping[str, str]
    begin: str
    elsewhere: Mapping[str, str] = {}


_REPRODUCTIONS = (
    "the experiments of papers run by `python -m reproductions list | show | run`, in a checkout "
    "of the repository; `lowerbound fit PATH --recipe NAME` chooses a recipe"
)

LOWERBOUND = Program(
    "lowerbound",
    "learn what is normal, in tables and pictures",
    VERBS,
    {
        "train": "fit",
        "learn": "fit",
        "predict": "score",
        "detect": "score",
        "anomaly": "score",
        "transform": "embed",
        "generate": "sample",
        "fill": "impute",
        "describe": "inspect",
        "show": "info",
        "gate": "check",
        "drift": "check",
        "monitor": "check",
        "map": "explore",
        "browse": "explore",
        "eval": "evaluate",
        "explain": "error",  # its name in 0.1.0
    },
    "demo",
    dict.fromkeys(
        ("recipe", "recipes", "reproduce", "reproduction", "reproductions"), _REPRODUCTIONS
    ),
)
