"""Errors that a user can act on: what is wrong, where, why, and how to fix it.

Every error carries a code of the catalogue below. The first digit of a code gives its kind and
so its exit code; ``lowerbound explain E031`` prints the catalogue's entry.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple


class Entry(NamedTuple):
    """One entry of the catalogue: what the code means and what to do about it."""

    title: str
    explanation: str


CATALOGUE: dict[str, Entry] = {}


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate that looks most like `name`, ignoring case, or None."""
    folded = {c.casefold(): c for c in candidates}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return folded[close[0]] if close else None


class LowerboundError(Exception):
    """The base of every error that this library raises on purpose.

    Args:
        code: a key of `CATALOGUE`, such as ``"E031"``.
        message: what is wrong and where, in one sentence.
        fix: one command or change that would repair it.
        details: machine-readable facts (columns, rows, counts), for ``--json``.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, code: str, message: str, *, fix: str = "", **details: Any) -> None:
        super().__init__(message)
        assert code in CATALOGUE, f"{code} is not in the catalogue of errors"
        self.code, self.message, self.fix, self.details = code, message, fix, details

    def __str__(self) -> str:
        """One line a Python user sees; the command line lays the same parts out in a box."""
        tail = f"\n  fix: {self.fix}" if self.fix else ""
        return f"[{self.code}] {self.message}{tail}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive pickling between worker processes, which drops keyword arguments."""
        return _rebuild, (type(self), self.code, self.message, self.fix, self.details)


def _rebuild(
    kind: type[LowerboundError], code: str, message: str, fix: str, details: dict[str, Any]
) -> LowerboundError:
    return kind(code, message, fix=fix, **details)


class UsageError(LowerboundError, ValueError):
    """A wrong argument, flag or configuration (E2xx)."""

    exit_code = 2


class DataError(LowerboundError, ValueError):
    """Input data that cannot be used as it is (E0xx)."""

    exit_code = 3


class ModelFileError(LowerboundError):
    """A saved model that is damaged, foreign, or newer than this version (E1xx)."""

    exit_code = 4


class ResourceError(LowerboundError):
    """Memory, disk or device ran out, or an optional dependency is absent (E3xx)."""

    exit_code = 5


class NumericError(LowerboundError, ArithmeticError):
    """Training or scoring left the finite numbers, or the model collapsed (E4xx)."""

    exit_code = 6


class Stopped(LowerboundError):
    """The work was stopped before its end and can be continued (E5xx)."""

    exit_code = 7


class CheckFailed(LowerboundError):
    """A check that was asked for did not hold (E6xx)."""

    exit_code = 8


def _catalogue(**entries: tuple[str, str]) -> None:
    CATALOGUE.update({code: Entry(*entry) for code, entry in entries.items()})


# E0xx: input data.
_catalogue(
    E001=(
        "there is no file at this path",
        "Nothing exists under this name. The message names the entry of the same folder whose "
        "name is nearest. A path is read from the current folder unless it begins with /.",
    ),
    E002=(
        "this is not a plain file",
        "Pipes, devices and sockets have no size and may block or never end, so they are refused "
        "before they are opened. Write the data to a file first.",
    ),
    E003=(
        "the file cannot be opened",
        "The system refused: permissions, a loop of links, a name that is too long or contains a "
        "NUL. The message gives the system's reason.",
    ),
    E004=(
        "the file is empty",
        "It has no bytes, or blank lines only. A download or an export probably failed.",
    ),
    E005=(
        "this kind of file cannot be read",
        "Tables are read from .csv, .tsv, .txt (also .gz), .parquet, .npy and .npz, told apart by "
        "the suffix and by the first bytes. Pickles are refused because opening one can run code; "
        "save a workbook as CSV.",
    ),
    E006=(
        "an address was given where a path is needed",
        "The library opens no network connections. Download the file and give its path.",
    ),
    E007=(
        "the pattern or folder contains no table",
        "A pattern must match at least one file and a folder must contain at least one .parquet "
        "or .csv file; names that begin with a dot or an underscore are passed over.",
    ),
    E008=(
        "the files of the folder do not belong together",
        "All files of one table must be of one kind. Choose them with a pattern such as "
        "'folder/*.parquet'.",
    ),
    E009=(
        "the file changed or could not be read to its end",
        "It was removed, cut short or replaced while it was being read, or the disk failed.",
    ),
    E010=(
        "a row has another number of cells than the header",
        "Every line of a CSV file must have as many cells as its first. A separator inside a "
        "value needs quotes around the value. Nothing is dropped silently, so such a file is "
        "refused; the message gives the line and its text.",
    ),
    E011=(
        "a quotation mark is not closed",
        "A value that begins with a quotation mark goes on to the next one, across lines. Double "
        "the mark inside a value, or remove it.",
    ),
    E012=(
        "two columns have the same name",
        "Columns are found by name, so each needs its own.",
    ),
    E013=(
        "the table has no rows",
        "There is a header but no data under it, or every row was filtered away.",
    ),
    E014=(
        "the file is not text",
        "It contains NUL bytes, or bytes that no supported encoding explains. UTF-8, UTF-16 with "
        "a byte order mark, and Windows-1252 are read; convert others with iconv.",
    ),
    E015=(
        "a line or a header is too large",
        "Lines of more than 16 MB and tables of more than 100,000 columns are refused, because "
        "they are nearly always a wrong separator or missing line ends, and would exhaust memory.",
    ),
    E016=(
        "the compressed file is damaged",
        "It is cut short or its checksum does not match. Download or compress it again.",
    ),
    E017=(
        "the compressed file unpacks to too much",
        "Files that unpack to more than 2 GB, or to more than a hundred times their size, are "
        "refused, because a few kilobytes could otherwise fill the memory. If you trust the "
        "file, unpack it yourself and read the result.",
    ),
    E018=(
        "numbers are written in an ambiguous way",
        "1,234 is one thousand in some countries and a little more than one in others, and "
        "nothing in the column tells which is meant. Write a point for decimals and no mark for "
        "thousands.",
    ),
    E019=(
        "the file is no valid CSV",
        "The message gives the parser's reason and the place.",
    ),
    E020=(
        "the Parquet file is damaged",
        "Its footer or one of its pages cannot be decoded: an incomplete download, another kind "
        "of file under this name, or a fault of the disk.",
    ),
    E021=(
        "the Parquet file is encrypted",
        "Write it without encryption; keys are not accepted.",
    ),
    E022=(
        "the files of one table have different columns",
        "All shards must have the same column names and types that agree. The message names the "
        "first shard that differs, and in what.",
    ),
    E023=(
        "a column holds more than one value per cell",
        "Lists, structures, maps and raw bytes are no numbers or levels. Split the column into "
        "plain ones, or leave it out with --drop.",
    ),
    E024=(
        "a shard is missing",
        "The numbers in the file names have a gap, or one file is still being downloaded, so "
        "rows would be missing without a word. Give a pattern such as 'folder/*.parquet' to read "
        "what is there on purpose.",
    ),
    E025=(
        "the array file is damaged",
        "Its header and its size do not agree, or it is no .npy or .npz file at all.",
    ),
    E026=(
        "the array contains Python objects",
        "Such arrays are pickles: opening one can run code, so they are refused. Save numbers or "
        "text instead.",
    ),
    E027=(
        "the array does not have two dimensions",
        "A table has rows and columns. Reshape your data: array.reshape(-1, 1) makes one column, "
        "array.reshape(len(array), -1) flattens each example to a row.",
    ),
    E028=(
        "the archive does not say which array is the table",
        "An .npz file is read from the array X, or from its only two-dimensional array, or from "
        "a matrix saved by scipy.sparse.save_npz.",
    ),
    E029=(
        "a column mixes kinds of values",
        "One column must hold one kind of value. The message names the first cell that differs.",
    ),
    E030=(
        "a column has infinite values",
        "No density is finite at infinity. Leave such cells empty, which marks them as missing, "
        "or correct them. Numbers beyond 1e308 are read as infinite too.",
    ),
    E031=(
        "a column that the model needs is missing",
        "The model was fitted on named columns and every one of them must be present; extra "
        "columns are ignored and the order does not matter. If the column has another name, "
        "pass --rename THEIRS=OURS. If it is unknown for every row, add it with empty cells: "
        "the model treats missing cells as missing.",
    ),
    E032=(
        "a column holds something else than the model expects",
        "Types are converted where nothing is lost: 1.0 to 1, '12' to 12, text to dates. These "
        "cells cannot be. The message names the first of them and how many there are.",
    ),
    E033=(
        "a column cannot be of the kind it was given",
        "The kind given with --types contradicts the cells, such as binary with three levels or "
        "positive with negative numbers.",
    ),
    E034=(
        "a column is nearly all numbers",
        "A few cells of it are no numbers, which is usually a mistake in the file. Correct them, "
        "or say with --types that the column is categorical, text or id.",
    ),
    E035=(
        "a column of counts has other numbers in it",
        "Counts are whole numbers from 0. Normalised or log-transformed counts are none: pass "
        "the raw ones, or give the column the kind real.",
    ),
    E037=(
        "no column can be modelled",
        "Every column is an id, free text, or constant, or was dropped.",
    ),
    E038=(
        "the table has too few rows",
        "What columns hold, and how they vary, is learned from the rows.",
    ),
    E039=(
        "a column has too many levels",
        "More than a million levels cannot be learned from any table of realistic size.",
    ),
    E040=(
        "the values are of a type that holds no numbers, text or dates",
        "Complex numbers, Python objects and the like must be converted first.",
    ),
    E041=(
        "dates are written in an ambiguous way",
        "Both day/month and month/day fit every cell. Write dates as 2024-01-31.",
    ),
    E042=(
        "the sparse matrix is damaged",
        "Its index arrays point outside its shape or are not in order.",
    ),
    E043=(
        "numbers are too precise for this library",
        "Some values do not fit into 64-bit floating point without loss.",
    ),
    E080=(
        "the array has another number of columns than the model",
        "The columns of an array are told apart by their place only, so there must be as many as "
        "the model was fitted on. A data frame is matched by names instead.",
    ),
    E081=(
        "the array is no embedding of this model",
        "inverse_transform takes what transform returns: a row of as many numbers as the model "
        "has latent dimensions.",
    ),
    E071=(
        "the recipe models numbers only",
        "Every column must be a number for this recipe. The recipe table takes columns of any "
        "kind.",
    ),
    E072=(
        "no column is left to model",
        "Every column is an id, free text or constant, or was dropped.",
    ),
    E073=(
        "the values are no counts",
        "This recipe takes whole numbers from 0. Normalised or log-transformed counts are none: "
        "give the raw ones, or take another recipe.",
    ),
    E074=(
        "training never saw this value",
        "A condition of --where must be one of the levels that the column had when the model was "
        "fitted; `lowerbound info M.vae` lists them.",
    ),
    E075=(
        "the table has too few rows",
        "A model is learned from at least two rows, and a useful one from hundreds.",
    ),
)

# E1xx: model files.
_catalogue(
    E101=(
        "there is no saved model at this path",
        "A saved model is a folder such as fraud.vae. The message names the entry of the same "
        "folder whose name is nearest. Addresses are not fetched: download the folder first.",
    ),
    E102=(
        "the file belongs to another tool",
        "Pickles, PyTorch and Keras files can run code when they are opened, so they are refused "
        "unread; other formats lack the schema, the calibration or the recipe. Train a model with "
        "`lowerbound fit`, or give the model before the data if the two were swapped.",
    ),
    E103=(
        "a saved model is a folder, and this is not one",
        "Pass the folder that contains manifest.json, not a file in it, a pipe or a device.",
    ),
    E104=(
        "the folder is no saved model",
        "Every saved model has a manifest.json, which is written last. Without it the folder was "
        "never a model, or was copied in part.",
    ),
    E105=(
        "the folder contains models but is none itself",
        "A training run keeps its models in folders of their own; the fix names the best one.",
    ),
    E106=(
        "the model cannot be read",
        "The system refused to open the folder or one of its files: permissions, or a fault of "
        "the disk. Nothing was loaded.",
    ),
    E110=(
        "the manifest of the model is damaged",
        "manifest.json contains the SHA-256 of its own content and must be, byte for byte, what "
        "was written. It was edited, cut short or changed on the way; copy the model again.",
    ),
    E111=(
        "a file of the model is missing",
        "The manifest lists every file of the model and all are needed. Copy the whole folder.",
    ),
    E112=(
        "the model's folder contains a file that is not part of it",
        "Only the files that the manifest lists may be there, so that nothing unverified travels "
        "with a model. Remove the file; keep notes beside the folder.",
    ),
    E113=(
        "a file of the model is not a plain file",
        "Links, pipes and devices are refused: what they lead to can change after it was checked. "
        "`cp -rL` makes a copy without links.",
    ),
    E114=(
        "a file of the model has the wrong size",
        "It was cut short or appended to after the model was saved. Copy the model again.",
    ),
    E115=(
        "a file of the model is damaged",
        "Its SHA-256 is not the one in the manifest: at least one bit changed, or the file comes "
        "from another model. Copy the model again; it is never loaded in part.",
    ),
    E116=(
        "a file of the model has the right digest but impossible content",
        "The file is as it was written, but what was written is no valid JSON or safetensors: a "
        "repeated key, NaN, a tensor that points outside the file. Such a file does not come from "
        "`lowerbound fit`; do not trust its source.",
    ),
    E117=(
        "the model needs a newer version of lowerbound",
        "Every model loads in all later versions, not in earlier ones. Install the version that "
        "the message names, or a later one.",
    ),
    E118=(
        "a file of the model is too large",
        "Sizes are limited before anything is read: 1 MB for the manifest, 64 MB for a JSON file, "
        "32 GB for the weights.",
    ),
    E119=(
        "this cannot be saved in a model",
        "A model file holds finite numbers, text, lists and named values as JSON, and arrays of "
        "floats, integers or truth values. The message names what has no such form.",
    ),
    E140=(
        "the weights do not fit the recipe",
        "The file is intact, but its recipe builds another network than the one that was saved: "
        "the model was made by an incompatible version. Fit it again, or install that version.",
    ),
)

# E2xx: usage.
_catalogue(
    E201=(
        "this is nothing that can be read as a table",
        "Give a path, a NumPy array, a data frame (pandas, polars, Arrow and others), a dict of "
        "columns, or a SciPy sparse matrix.",
    ),
    E202=(
        "this is no kind of column",
        "The kinds are real, positive, count, binary, categorical, ordinal, datetime, id, text "
        "and constant.",
    ),
    E203=(
        "an option names a column that the table does not have",
        "Names are exact, with capitals; a pattern such as 'x*' must match at least one column.",
    ),
    E205=(
        "the order of an ordinal column is not known",
        "Say it from lowest to highest: --types 'grade=ordinal:low<mid<high'.",
    ),
    E206=(
        "the number of rows is not usable",
        "It must be a whole number of at least 1.",
    ),
    E220=(
        "the output exists already",
        "Nothing is replaced unless --overwrite (overwrite=True in Python) says so.",
    ),
    E221=(
        "what exists at the output path may not be replaced",
        "--overwrite replaces an earlier output of the same kind only. A folder with other files "
        "in it, or a file where a folder would go, stays as it is; choose another --out.",
    ),
    E222=(
        "the suffix of the output names no format",
        "Tables are written as .csv, .tsv, .csv.gz, .tsv.gz, .parquet, .npy or .npz.",
    ),
    E223=(
        "no file can be written at this path",
        "It is a folder, a device, or no path at all. Add the name of the file.",
    ),
    E224=(
        "the format cannot hold these columns",
        ".npy and .npz hold numbers only, .csv and .tsv no lists or structures. Parquet holds "
        "everything.",
    ),
    E230=(
        "there is no such command or flag",
        "Commands and flags are found by their exact names. The fix repeats the command with the "
        "nearest name; `lowerbound --help` lists the commands and `lowerbound COMMAND --help` "
        "the flags.",
    ),
    E231=(
        "a value has the wrong form",
        "The message names the flag, the value, and what it may be: times are written 90s, 10m "
        "or 1h, shares 0.1% or 0.001, pairs key=value.",
    ),
    E232=(
        "an argument is missing",
        "The command cannot begin without it; the fix shows where it goes.",
    ),
    E233=(
        "several arguments cannot be used",
        "All that is wrong with the flags and the configuration file is listed at once, each "
        "with its own code and fix. Nothing was computed.",
    ),
    E234=(
        "the configuration file cannot be read",
        "It must be a TOML file of at most 1 MB in UTF-8. `lowerbound fit PATH --print-config` "
        "prints a complete one.",
    ),
    E235=(
        "the configuration file has an unknown key",
        "Its keys are those that --print-config prints. Unknown ones are refused, since a "
        "misspelt key would otherwise be ignored silently.",
    ),
    E236=(
        "two arguments contradict each other",
        "The same thing was said twice, or two things that exclude each other; the message "
        "names them.",
    ),
    E238=(
        "there is no such error code",
        "Codes are printed in brackets after the word error; `lowerbound explain` lists them.",
    ),
    E239=(
        "a column cannot be renamed",
        "--rename THEIRS=OURS needs a column THEIRS in the data and a free name OURS.",
    ),
    E240=(
        "an argument is out of its range",
        "The message names the argument, the value it was given and what it may be.",
    ),
    E241=(
        "a name is not one of the known ones",
        "Recipes, likelihoods, presets and kinds are known by name; the message lists them and "
        "the fix gives the nearest.",
    ),
    E242=(
        "a setting does not exist",
        "--set key=value changes an argument of the recipe, and this recipe has no such argument. "
        "The message lists those it has.",
    ),
    E243=(
        "a condition names a column that the model does not have",
        "--where takes columns that are modelled; `lowerbound info M.vae` lists them.",
    ),
    E244=(
        "the device is not available",
        "The name is unknown, or this computer has no such device, or torch was installed without "
        "support for it. `lowerbound doctor` shows what is there; --device cpu always works.",
    ),
    E246=(
        "this part of the model cannot do what was asked of it",
        "Some combinations of posterior, prior and task have no rule yet: a temperature for a "
        "prior without a scale, or a path derivative through a posterior that has none.",
    ),
    E269=(
        "this is a bug",
        "The program met something that nobody foresaw. Nothing of yours is wrong. Please report "
        "the command, its output with --debug, and what `lowerbound doctor --json` prints; no "
        "data need to be sent.",
    ),
)

# E3xx: resources.
_catalogue(
    E301=(
        "the disk is full",
        "The message says how much is free and how much is needed. Nothing incomplete was left "
        "behind, and an earlier output at the same path is as it was.",
    ),
    E302=(
        "the output cannot be written there",
        "The folder is missing, read-only, or closed to you; the message gives the system's "
        "reason. Make it with mkdir -p, or choose another --out.",
    ),
    E303=(
        "there is not enough memory",
        "The message says what was needed and for what.",
    ),
    E310=(
        "an optional library is not installed",
        "The message names it and the fix installs it. Models that were fitted on a data frame "
        "give rows back as a frame of the same library.",
    ),
)

# E4xx: numbers.
_catalogue(
    E401=(
        "the loss did not stay finite",
        "A step whose loss or gradient is not finite is skipped and counted; when too many follow "
        "one another, training stops rather than going on with nothing. The message names the "
        "largest value of the last batch: a column in a wrong unit is the usual cause, a learning "
        "rate that is too high the next.",
    ),
)

# E6xx: checks.
_catalogue(
    E601=(
        "a saved model does not score as it did before",
        "A dry run saves the model, loads it and scores the same rows again: the results must be "
        "equal to the last bit. This machine, or its libraries, computed something else.",
    ),
)
