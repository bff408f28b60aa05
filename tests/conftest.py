"""What all tests need of the process that they run in."""

import gc
import signal

import pytest

import browser as browsers


def pytest_configure(config):
    """Hear Ctrl-C even where the tests were started in the background, which ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Beginnings of the names of tests that take tens of seconds. Every worker begins with some of
# them; what uses one fixture stays together.
LONG = (
    "tests/training/test_killed.py",
    "tests/test_docs.py::test_commands",
    "tests/cli/test_ray.py",
    "tests/tasks/test_exporting.py",
    "tests/training/test_distributed.py",
    "tests/training/test_resuming.py",
    "tests/training/test_codes_learning.py",
    "tests/cli/test_process.py::test_a_stopped_fit",
)


def pytest_collection_modifyitems(config, items):
    """Let each worker begin with long tests, so that none is left alone with one at the end.

    A worker begins with an equal share of the list, and later takes from the end of others'.
    """
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    groups = [[] for _ in range(workers)]
    rest = []
    for item in items:
        found = [i for i, name in enumerate(LONG) if item.nodeid.startswith(name)]
        (groups[found[0] % workers] if found else rest).append(item)
    share, ordered = len(items) // workers, []
    for group in groups:
        count = max(0, share - len(group))
        ordered += group + rest[:count]
        del rest[:count]
    items[:] = ordered + rest


def pytest_collection_finish(session):
    """Let the garbage collector pass over what was imported: a tenth of the time of all tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium without a network; tests of pages are skipped where there is none."""
    with browsers.chromium() as context:
        if context is None:
            pytest.skip("no Chromium is installed (on Debian: apt-get install chromium)")
        yield context


@pytest.fixture
def watch(browser):
    """Open pages of the browser; each is closed after the test."""
    opened = []

    def open_page(**options):
        opened.append(browsers.Watched(browser, **options))
        return opened[-1]

    yield open_page
    for each in opened:
        each.page.close()
