"""Run commands in processes of their own, and measure their peak of memory and their time."""

from __future__ import annotations

import json
import subprocess
import sys
import time

# The peak that the system tells of a process includes that of whoever started it, until it became
# a program of its own: so a small process starts it.
_STARTER = """
import json, os, sys
child = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[1:]], os.environ)
_, status, usage = os.wait4(child, 0)
code, seconds = os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
print(json.dumps([code, usage.ru_maxrss, seconds]))
"""


def measured(words: list[str], count: int) -> dict[str, float]:
    """Run a command of lowerbound; return its peak of memory, MB, its time and its rows a second.

    Args:
        words: the command and its arguments.
        count: of the rows that it works through.
    """
    began = time.perf_counter()
    command = ["-m", "lowerbound.cli.main", *words, "--overwrite", "--quiet"]
    starter = [sys.executable, "-S", "-c", _STARTER, *command]
    done = subprocess.run(starter, stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.perf_counter() - began
    code, kilobytes, processor = json.loads(done.stdout.splitlines()[-1])
    if code:
        raise SystemExit(f"{' '.join(words)} ended with {code}")
    return {
        "peak_mb": kilobytes / 1024,
        "seconds": seconds,
        "cpu_seconds": processor,
        "rows_per_second": count / seconds,
    }


def told(found: dict[str, float]) -> str:
    """Spell a measurement."""
    return (
        f"{found['peak_mb']:,.0f} MB, {found['seconds']:,.1f} s, "
        f"{found['rows_per_second']:,.0f} rows/s"
    )
