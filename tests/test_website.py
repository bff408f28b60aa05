"""The documentation site: its notebooks run, it builds without a warning, and works offline."""

import asyncio
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from lowerbound.recipes import RECIPES

nbformat = pytest.importorskip("nbformat", reason="the extra docs is not installed: make nightly")

from website import build, notebooks  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def quick(line):
    """What makes a shown command a matter of seconds."""
    words = shlex.split(line, comments=True)[1:]
    more = []
    if words[0] == "tune":
        more = ["--max-epochs", "2", "--trials", "2"]
    elif words[0] == "fit":
        restoring = {name for name, recipe in RECIPES.items() if recipe.restoration is not None}
        narrow = ["--set", "width=8"] if restoring & set(words) else []
        if "photos/" in words and "--recipe" not in words:
            narrow = ["--set", "channels=4"]
        more = ["--max-epochs", "2", "--time-limit", "0.1", *narrow]
    return shlex.join(["lowerbound", *words, *more])


@pytest.mark.parametrize("guide", notebooks.GUIDES)
def test_a_guide_is_a_valid_notebook_with_all_its_code(guide):
    made = notebooks.notebook(guide)
    nbformat.validate(made)
    assert made.cells[0].source.startswith("# ")
    code = [cell.source for cell in made.cells if cell.cell_type == "code"]
    page = (build.SOURCE / f"{guide}.md").read_text("utf-8")
    blocks = notebooks.BLOCK.findall(page)
    assert all(text.strip() in code for language, text in blocks if language == "python")
    commands = "\n".join(code).count("\nlowerbound ")
    assert commands == sum(
        line.startswith("lowerbound ")
        for language, text in blocks
        if not language
        for line in text.splitlines()
    )


@pytest.mark.nightly
@pytest.mark.parametrize("guide", notebooks.GUIDES)
@pytest.mark.filterwarnings("ignore")  # of the kernel's own libraries
def test_a_notebook_runs_from_top_to_bottom(guide, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    here = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{here}{os.pathsep}{os.environ['PATH']}")
    made = notebooks.notebook(guide, quick)
    where = {"metadata": {"path": str(tmp_path)}}
    done = NotebookClient(made, timeout=1200, kernel_name="python3", resources=where).execute()
    cells = [cell for cell in done.cells if cell.cell_type == "code"]
    assert cells
    assert all(cell.execution_count for cell in cells)


class Page(HTMLParser):
    """The links, the anchors and what a page of the site loads."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors, self.loaded = [], set(), []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors |= {values[key] for key in ("id", "name") if values.get(key)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag in ("script", "img") and values.get("src"):
            self.loaded.append(values["src"])
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.append(values["href"])


def check_links(site):
    """Check that links lead to a page and an anchor, and that nothing is loaded from elsewhere."""
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 40
    for path, page in pages.items():
        if path.name == "404.html":  # its links are relative to the root of a server
            continue
        for target in page.loaded:
            assert not target.startswith(("http", "//")), f"{path.name} loads {target}"
            assert (path.parent / unquote(target.partition("#")[0])).exists(), (path.name, target)
        for target in page.links:
            file, _, anchor = target.partition("#")
            if file.startswith(("http", "mailto")):
                continue
            there = (path.parent / unquote(file)).resolve() if file else path
            assert there.exists(), f"{path.name} links to {target}"
            if anchor and there in pages:
                assert unquote(anchor) in pages[there].anchors, f"{path.name} links to {target}"


@pytest.mark.nightly
def test_the_site_builds_without_a_warning_and_works_offline():
    if not build.KATEX.exists():
        pytest.skip("KaTeX is not installed: make nightly")
    done = subprocess.run(
        [sys.executable, "-m", "website.build"],
        cwd=build.ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout + done.stderr
    check_links(build.SITE)
    if CHROMIUM is None:
        pytest.skip("the site is built and its links hold; chromium is not installed to open it")
    asyncio.run(opened(build.SITE))


FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --remote-debugging-port=0 "
    "--host-resolver-rules='MAP * ~NOTFOUND'"
)


DIALOG = "[...document.querySelectorAll('*')].filter(e => e.shadowRoot)"


async def opened(site):
    """Open pages from files in Chromium: formulas are set, search finds, nothing fails."""
    with tempfile.TemporaryDirectory() as profile:
        command = [str(CHROMIUM), *shlex.split(FLAGS), f"--user-data-dir={profile}"]
        with subprocess.Popen([*command, "about:blank"], stderr=subprocess.DEVNULL) as browser:
            try:
                await looked_at(site, Path(profile) / "DevToolsActivePort")
            finally:
                browser.terminate()


async def looked_at(site, port_file):
    from tornado.httpclient import AsyncHTTPClient
    from tornado.websocket import websocket_connect

    for _ in range(300):
        if port_file.exists() and port_file.read_text().count("\n"):
            break
        await asyncio.sleep(0.1)
    port = port_file.read_text().splitlines()[0]
    tabs = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/json")
    tab = next(each for each in json.loads(tabs.body) if each["type"] == "page")
    socket = await websocket_connect(tab["webSocketDebuggerUrl"], ping_interval=0)
    events, number = [], 0

    async def call(method, **params):
        nonlocal number
        number += 1
        await socket.write_message(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            answer = json.loads(await asyncio.wait_for(socket.read_message(), 60))
            if answer.get("id") == number:
                return answer.get("result", {})
            events.append(answer)

    async def value(expression):
        found = await call("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    async def until(expression):
        for _ in range(200):
            if await value(expression):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"never true in the browser: {expression}")

    async def closed():
        socket.close()
        while await socket.read_message() is not None:
            pass

    await call("Runtime.enable")
    await call("Log.enable")
    await call("Page.enable")
    for page in sorted((site / "learn").glob("*.html")):
        await call("Page.navigate", url=page.as_uri())
        await until(f"location.href.endsWith('{page.name}') && document.readyState == 'complete'")
        formulas = "document.querySelectorAll('.arithmatex').length"
        await until(f"document.querySelectorAll('.arithmatex .katex').length >= {formulas}")
        assert await value("document.querySelectorAll('.katex-error').length") == 0, page.name
        broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).length"
        assert await value(broken) == 0, page.name
        assert page.name == "index.html" or await value(formulas), page.name
    await call("Page.navigate", url=(site / "index.html").as_uri())
    await until("document.readyState == 'complete' && !!document.querySelector('.md-search')")
    await call("Page.bringToFront")
    await until("!!document.querySelector('.md-search__button')")
    await value("document.querySelector('.md-search__button').click()")
    await until(f"{DIALOG}.some(e => e.shadowRoot.activeElement?.tagName == 'INPUT')")
    await call("Input.insertText", text="reparametrisation")
    hit = "a.href.includes('learn/reparametrisation.html')"
    await until(f"{DIALOG}.some(e => [...e.shadowRoot.querySelectorAll('a')].some(a => {hit}))")
    await closed()
    failed = [
        event["params"]
        for event in events
        if event.get("method") == "Runtime.exceptionThrown"
        or event.get("params", {}).get("entry", {}).get("level") == "error"
    ]
    assert not failed
