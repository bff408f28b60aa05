"""Draw the README's picture: the real output of `lowerbound score` in the demo, as an SVG.

python benchmarks/readme_picture.py     # writes docs/images/score.svg; needs no network
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

WIDTH = 104
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "score.svg"
SHOWN = "score titanic.vae new.csv --explain 2 --out scores.csv"


def run(words: str, folder: Path) -> str:
    """Run a command of lowerbound in a folder, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "lowerbound", *words.split()],
        cwd=folder,
        env={**os.environ, "COLUMNS": str(WIDTH)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    return done.stdout


def main() -> None:
    """Run the demo, score again, and write the picture of that command."""
    with tempfile.TemporaryDirectory() as name:
        run("demo --out demo", Path(name))
        folder = Path(name) / "demo"
        printed = run(f"{SHOWN} --overwrite", folder).replace(f"{folder.resolve()}{os.sep}", "")
    console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False)
    console.print(Text(f"$ lowerbound {SHOWN}", style="bold"), soft_wrap=True)
    console.print(Text(printed.rstrip()), soft_wrap=True)
    PICTURE.parent.mkdir(exist_ok=True)
    # Without rich's fonts from the network: the reader's own monospaced font is used.
    frame = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    console.save_svg(str(PICTURE), title="lowerbound", code_format=frame)
    print(PICTURE)


if __name__ == "__main__":
    main()
