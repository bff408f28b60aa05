"""`lowerbound explore` in a process of its own, and its page in this one on a thread."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from lowerbound.cli.progress import SILENT
from lowerbound.cli.work import explore as work
from lowerbound.web.explore import process
from lowerbound.web.server.settings import listen
from servers import SRC, Reply


class Address:
    """The address of a page, and requests to it as the page sends them."""

    def __init__(self, url):
        self.url, parts = url, urlsplit(url)
        self.host, self.port, self.path = parts.hostname, parts.port, parts.path
        self.origin = f"http://{parts.netloc}"

    def ask(self, method, path, body=None, **headers):
        """Send one request; headers with a value of None are left out."""
        named = {"Origin": self.origin} if method != "GET" else {}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        named = {name: value for name, value in named.items() if value is not None}
        whole = path if path.startswith("/") else self.path + path
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.request(method, whole, body, named)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, found, answer.read())
        finally:
            connection.close()

    def get(self, path, **headers):
        return self.ask("GET", path, **headers)

    def post(self, path, value, **headers):
        kind = {"Content_Type": "application/json"} | headers
        return self.ask("POST", path, json.dumps(value), **kind)


def unpacked(body):
    """Return the JSON and the bytes of an answer that has both."""
    size = int.from_bytes(body[:4], "little")
    return json.loads(body[4 : 4 + size]), body[4 + size :]


@contextlib.contextmanager
def live(model, path, data, order):
    """Serve a page on a thread; yield its address and its `Page`."""
    page, facts, _ = work.prepared(model, path, data, order, SILENT)
    secret = process.new_secret()
    with listen("127.0.0.1", 0) as listening:
        address = Address(process.address(listening, secret))
        address.facts = facts
        address.told = []
        made = process.server(page, secret, address.told.append)
        thread = threading.Thread(target=process.serve, args=(made, listening), daemon=True)
        thread.start()
        try:
            yield address, page
        finally:
            made.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


class Explorer:
    """`lowerbound explore` as a process, ended by Ctrl-C at the end of a with block."""

    def __init__(self, *words, wait=120, **environment):
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the end
        command = [sys.executable, "-m", "lowerbound", "explore", *map(str, words)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([SRC, *_further()])}
        env |= {"OMP_NUM_THREADS": "1", **environment}
        self.process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        self.address = self._address(wait)

    def _address(self, wait):
        latest = time.monotonic() + wait
        while time.monotonic() < latest:
            if found := re.search(r"http://\S+", self.text):
                return Address(found[0])
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        self.process.kill()
        self.process.communicate()
        raise AssertionError(f"the page has not started: {self.text}")

    @property
    def text(self):
        return os.pread(self.log.fileno(), 1 << 20, 0).decode()

    def end(self, number=signal.SIGINT):
        """End the process by a signal, and return its exit code and its output."""
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=30)
        return self.process.returncode, out

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.end()
        self.process.stdout.close()
        self.log.close()


def _further():
    """The folders of libraries that this process was started with."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [each for each in given if each and Path(each) != Path(SRC)]
