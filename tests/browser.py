"""Pages in a real browser: a headless Chromium without a network, driven by Playwright."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
FLAGS = [
    "--no-sandbox",
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SERIOUS = ("serious", "critical")


@contextmanager
def chromium(offline=True):
    """A browser with an empty profile, or None where there is no Chromium.

    Args:
        offline: False for pages of a server on this computer.
    """
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as play:
        context = play.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=FLAGS, offline=offline, env={**os.environ}
        )
        try:
            yield context
        finally:
            context.close()


class Watched:
    """A page whose messages and requests are noted.

    Attributes:
        page: the page, as of Playwright.
        problems: errors and warnings of its console, and uncaught exceptions.
        asked: the addresses that it asked for.
    """

    def __init__(self, context, width=1280, scheme="light"):
        self.page, self.problems, self.asked = context.new_page(), [], []
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def _note(self, message):
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def open(self, where, ready):
        """Open a file or an address, and wait until an expression of JavaScript is true."""
        url = where.as_uri() if isinstance(where, Path) else where
        self.page.goto(url)
        self.page.wait_for_function(ready, timeout=60_000)
        return self.page

    def outside(self, *own):
        """The addresses asked for that begin with none of `own`."""
        return [url for url in self.asked if not url.startswith((*own, "data:"))]

    def violations(self):
        """The serious violations of accessibility that axe-core finds, as text."""
        axe = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
        self.page.evaluate(axe)
        found = self.page.evaluate("axe.run()")
        return [
            f"{each['id']}: {each['help']}: {[node['html'][:200] for node in each['nodes'][:3]]}"
            for each in found["violations"]
            if each["impact"] in SERIOUS
        ]
