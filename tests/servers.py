"""A server in a process of its own, and requests to it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

SRC = str(Path(__file__).parents[1] / "src")
JSON = "application/json"


class Reply(NamedTuple):
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def facts(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.facts["error"]


class Server:
    """`lowerbound serve` as a process, ended at the end of a with block."""

    def __init__(self, model, *flags, wait=120, **environment) -> None:
        self.log_file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the server
        words = [sys.executable, "-m", "lowerbound", "serve", str(model), "--port", "0", *flags]
        env = {**os.environ, "PYTHONPATH": SRC, "OMP_NUM_THREADS": "1", **environment}
        self.process = subprocess.Popen(
            words, env=env, stdout=subprocess.DEVNULL, stderr=self.log_file
        )
        self.port = self._port(wait)

    def _port(self, wait: float) -> int:
        try:
            return self._started(wait)
        except BaseException:
            self.process.kill()
            self.process.wait()
            self.log_file.close()
            raise

    def _started(self, wait: float) -> int:
        latest = time.monotonic() + wait
        while time.monotonic() < latest:
            for line in self.log:
                if line["event"] == "listening":
                    return line["port"]
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"the server has not started: {self.text}")

    @property
    def text(self) -> str:
        return os.pread(self.log_file.fileno(), 1 << 24, 0).decode()

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line["event"] == name]

    def wait_for(self, name: str, count: int = 1, seconds: float = 60) -> list[dict[str, Any]]:
        latest = time.monotonic() + seconds
        while len(found := self.events(name)) < count:
            assert time.monotonic() < latest, self.text[-3000:]
            time.sleep(0.05)
        return found

    def ask(self, method, path, body=None, kind=None, **headers) -> Reply:
        """Send one request on a connection of its own."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if kind is not None:
            named["Content-Type"] = kind
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, found, answer.read())
        finally:
            connection.close()

    def get(self, path, **headers) -> Reply:
        return self.ask("GET", path, **headers)

    def post(self, path, value, **headers) -> Reply:
        return self.ask("POST", path, json.dumps(value), JSON, **headers)

    def raw(self, *parts: bytes, pause=0.0, wait=30.0) -> Reply:
        """Send bytes, and return what comes until the connection ends."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait) as link:
            try:
                for part in parts:
                    link.sendall(part)
                    time.sleep(pause)
            except OSError:  # it was refused before all was sent
                pass
            got = b""
            try:
                while some := link.recv(65536):
                    got += some
                    if _complete(got):
                        break
            except ConnectionResetError:
                pass
        head, _, body = got.partition(b"\r\n\r\n")
        if not head:
            return Reply(0, {}, b"")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return Reply(int(first.split(" ")[1]), headers, body)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.log_file.flush()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error) -> None:
        self.end()
        self.log_file.close()


def _complete(got: bytes) -> bool:
    head, found, body = got.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return bool(found and length) and len(body) >= int(length[1])
