"""Build the documentation site: run the course, generate the reference, and set the pages.

    python -m website.build            # build/site, from docs/ and the docstrings
    python -m website.build --quick    # the same without running the course

The site works offline and from a file: open build/site/index.html.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from website import notebooks, pages, reference

ROOT = Path(__file__).parent.parent
SOURCE, HERE = ROOT / "docs", ROOT / "website"
PAGES, SITE = ROOT / "build" / "site-pages", ROOT / "build" / "site"
MODULES = ROOT / ".venv" / "site" / "node_modules"
KATEX, WORKER = MODULES / "katex" / "dist", MODULES / "iframe-worker" / "shim" / "index.js"
COURSE = "learn"
# Without a server, the search of Zensical takes this script from elsewhere: we keep a copy.
FOREIGN_WORKER, OWN_WORKER = "https://unpkg.com/iframe-worker/shim", "iframe-worker.js"


def gather(run: bool) -> None:
    """Write all pages to build/site-pages: those of docs/, the run course, the generated ones.

    Args:
        run: whether the blocks of the course are run.
    """
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(SOURCE, PAGES)
    if run:
        for page in sorted((SOURCE / COURSE).glob("*.md")):
            began = time.monotonic()
            text = pages.rendered(page, PAGES / COURSE / "figures", "figures")
            (PAGES / COURSE / page.name).write_text(text, "utf-8")
            print(f"{page.relative_to(ROOT)}: {time.monotonic() - began:.1f} s", flush=True)
    readme = (ROOT / "README.md").read_text("utf-8")
    for path, text in reference.generated(readme):
        target = PAGES / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")
    notebooks.write(PAGES / "notebooks")
    for guide in notebooks.GUIDES:
        with (PAGES / f"{guide}.md").open("a", encoding="utf-8") as page:
            page.write(f"\n\n[This guide as a Jupyter notebook](notebooks/{guide}.ipynb)\n")
    for page in PAGES.rglob("*.md"):
        page.write_text(outside(page.read_text("utf-8")), "utf-8")
    shutil.copytree(HERE / "assets", PAGES / "assets", dirs_exist_ok=True)
    shutil.copytree(KATEX, PAGES / "assets" / "katex", ignore=unused)
    shutil.copy(WORKER, PAGES / "assets" / OWN_WORKER)


def outside(text: str) -> str:
    """Return a page whose links to files of the repository outside docs/ are plain names."""
    return re.sub(r"\[([^\]]*)\]\((?:\.\./)+(?!learn/)(?!\w+\.md)[^)]*\)", r"\1", text)


def unused(folder: str, names: list[str]) -> set[str]:
    """Return the files of KaTeX that the site does not need."""
    needed = {"katex.min.css", "katex.min.js", "fonts"}
    return {n for n in names if n not in needed and not n.endswith(".woff2")}


def build() -> int:
    """Build the site with Zensical; a warning is an error. Return the exit code."""
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.copy(HERE / "zensical.toml", SITE.parent)  # it must lie above the pages and the site
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    code = subprocess.run(command, cwd=SITE.parent, check=False).returncode
    for page in SITE.rglob("*.html"):
        to_root = "../" * len(page.relative_to(SITE).parent.parts)
        text = page.read_text("utf-8").replace(FOREIGN_WORKER, f"{to_root}assets/{OWN_WORKER}")
        page.write_text(text, "utf-8")
    return code


def main() -> int:
    """Build the site and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="do not run the course")
    gather(run=not parser.parse_args().quick)
    code = build()
    if not code:
        print(f"open {SITE / 'index.html'}")
    return code


if __name__ == "__main__":
    sys.exit(main())
