"""Read the flags --ray and --workers, without importing Ray or torch unless they are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from lowerbound.errors import UsageError


def workers_of(ray: bool, workers: object, whole: Mapping[str, object]) -> int | None:
    """Return the number of workers, or None to let Ray choose it.

    Args:
        ray: the value of --ray.
        workers: the value of --workers.
        whole: flags that need all rows at once, and their values.

    Raises:
        UsageError: E236 for --ray with one of these flags, or --workers without --ray.
    """
    if not ray and workers is None:
        return None
    for flag, asked in whole.items():
        if ray and asked is not None:
            raise UsageError(
                "E236",
                f"--ray and {flag} cannot be combined: {flag} needs all rows at once, and each "
                "worker reads one file",
                fix=f"leave out --ray, or {flag}",
            )
    return _work().count(ray, workers)


def target_of(out: Any, overwrite: bool, data: Any, ray: bool, check: Callable[..., Any]) -> Any:
    """Return the target of rows: with --ray a folder of Parquet files, else that of `check`.

    Raises:
        UsageError: if the target cannot be written.
    """
    return (_work().check_parts if ray else check)(out, overwrite, data)


def _work() -> Any:
    return import_module("lowerbound.cli.work.cluster")
