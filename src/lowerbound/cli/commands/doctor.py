"""The verb doctor: is this computer, or this model, well?"""

from __future__ import annotations

from importlib import import_module

from lowerbound.cli.flags import Data, Model, Policy, Renames
from lowerbound.cli.result import Result


def doctor(
    model: Model = None,
    data: Data = None,
    /,
    *,
    rename: Renames = (),
    on_bad_file: Policy = None,
) -> Result:
    """Examine this computer; or a model; or a model on rows that it has not seen.

    Examples:
        lowerbound doctor
        lowerbound doctor fraud.vae
        lowerbound doctor fraud.vae new.csv

    Args:
        model: a folder that `lowerbound fit` saved.
        data: rows to examine it on: a file, a folder or a "pattern*".
        rename: give a column of the data the name that the model knows; repeat it for more.
        on_bad_file: skip or fail, of unreadable pictures; by default up to 1 % are left out.
    """
    work = import_module("lowerbound.cli.work.doctor")  # torch: seconds that --help does not wait
    if model is None:
        return work.computer()
    return work.model(model) if data is None else work.rows(model, data, rename, on_bad_file)
