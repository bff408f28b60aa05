"""Types of the verbs' arguments, which define how the command line reads its flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from cyclopts import Parameter, Token

from lowerbound.cli.progress import Voice


def _texts(kind: Any, tokens: Sequence[Token]) -> list[str]:
    return [token.value for token in tokens]


def _repeatable(metavar: str, name: str | None = None) -> Parameter:
    return Parameter(
        name=name,
        metavar=metavar,
        converter=_texts,
        n_tokens=1,
        accepts_keys=False,
        allow_repeating=True,
        consume_multiple=False,
        show_default=False,
    )


def _plain(metavar: str, name: str | None = None) -> Parameter:
    return Parameter(name=name, metavar=metavar)


def _text(kind: Any, tokens: Sequence[Token]) -> str:
    return tokens[0].value


Data = Annotated[Any, Parameter(converter=_text, n_tokens=1)]
ModelPath = Annotated[Any, Parameter(converter=_text, n_tokens=1)]
Number = Annotated[int | str, Parameter(converter=_text, n_tokens=1, metavar="N")]
Out = Annotated[str | None, _plain("FILE")]
Types = Annotated[Mapping[str, str] | Sequence[str], _repeatable("COLUMN=KIND")]
Settings = Annotated[Mapping[str, Any] | Sequence[str], _repeatable("KEY=VALUE", "--set")]
Where = Annotated[Mapping[str, Any] | Sequence[str], _repeatable("COLUMN=VALUE")]
Renames = Annotated[Mapping[str, str] | Sequence[str], _repeatable("THEIRS=OURS")]
Column = Annotated[str | None, _plain("COLUMN")]
Columns = Annotated[Sequence[str], _repeatable("COLUMN")]
Rows = Annotated[int | str, Parameter(name="-n", converter=_text, n_tokens=1, metavar="N")]
Learned = Annotated[Any, Parameter(converter=_text, n_tokens=1, metavar="PATH")]
Name = Annotated[str | None, _plain("NAME")]
Names = Annotated[Sequence[str], _repeatable("NAME")]
Levels = Annotated[Mapping[str, Any] | Sequence[str], _repeatable("LEVEL")]
Depth = Annotated[float | str | None, _plain("N|own")]
Kind = Annotated[str, _plain("mean|expression", "--as")]
File = Annotated[str | None, _plain("FILE")]
Place = Annotated[str | None, _plain("PATH")]
Rate = Annotated[float | str | None, _plain("RATE")]
Share = Annotated[float | str | None, _plain("SHARE")]
Seconds = Annotated[float | str | None, _plain("TIME")]
Size = Annotated[int | str | None, _plain("N|auto")]
Pixels = Annotated[int | str | None, _plain("N|HxW")]
Policy = Annotated[str | None, _plain("skip|fail")]
By = Annotated[str, _plain("WAY")]
Folder = Annotated[str | None, _plain("FOLDER")]
Whole = Annotated[int | str | None, _plain("N")]
Heard = Annotated[Voice, Parameter(parse=False)]
