"""Silence pillow's warnings in all threads that decode."""

from __future__ import annotations

import threading
import warnings
from typing import Any

from PIL import Image


class _Quiet:
    """Silences pillow's warnings while any thread decodes.

    They come as errors of ours, or mean nothing to the reader. Filters are global, so the first
    thread sets and the last one restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters: warnings.catch_warnings[Any] | None = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._filters is not None:
                self._filters.__exit__(None, None, None)


while_decoding = _Quiet()
