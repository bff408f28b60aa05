"""The command doctor: check this computer, a model, or a model on new rows."""

from __future__ import annotations

from importlib import import_module

from lowerbound.cli.flags import Data, ModelPath, Policy, Renames
from lowerbound.cli.result import Result


def doctor(
    model: ModelPath = None,
    data: Data = None,
    /,
    *,
    rename: Renames = (),
    on_bad_file: Policy = None,
) -> Result:
    """Check this computer, a model, or a model on new rows.

    Examples:
        lowerbound doctor
        lowerbound doctor fraud.vae
        lowerbound doctor fraud.vae new.csv

    Args:
        model: a folder that `lowerbound fit` saved.
        data: rows to check the model on: a file, a folder or a "pattern*".
        rename: rename a column of the data to the name in the model; repeat it for more.
        on_bad_file: skip or fail, for unreadable pictures; by default up to 1 % are left out.
    """
    work = import_module("lowerbound.cli.work.doctor")  # imports torch: --help does not wait
    if model is None:
        return work.computer()
    return work.model(model) if data is None else work.rows(model, data, rename, on_bad_file)
