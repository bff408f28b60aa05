"""Does the server hold under load, and under requests that mean harm?

A model of a mixed table (Adult, or a made-up table without LOWERBOUND_DATA) is served by
`lowerbound serve` on 127.0.0.1, and this process is its clients. Each check has a bar:

- connections: 1,000 keep-alive connections for a minute, each with one row after another: no
  status of 500 or above, and every score equal to that of `lowerbound score`, to the last bit
- latency: the 99th percentile of one-row scores at 200 requests a second, of Poisson arrivals
- throughput: Arrow bodies of 1,000 rows against `Model.score` in this process
- fuzz: requests that hypothesis makes, of wrong paths, headers, types, values and bytes: no 500
- hostile: slow clients, and oversized, deep, bomb-like bodies: answered, and memory bounded
- memory: the resident memory over many requests
- killed: SIGKILL of one of two workers under load loses only its own requests
- swapped: SIGHUP under load loses no request; SIGTERM answers those in progress

Run: LOWERBOUND_DATA=... python benchmarks/serving.py [--smoke] [--only NAME] [--model M.vae]
Nothing else may run meanwhile. --smoke takes a minute and writes no results; --only replaces those
of one check.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import gzip
import io
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import lowerbound
import results_file

ARROW, JSON = "application/vnd.apache.arrow.stream", "application/json"
BARS = {
    "connections_5xx": 0,
    "connections_wrong": 0,
    "latency_p99_ms": 25.0,
    "throughput_share": 0.5,
    "fuzz_500": 0,
    "hostile_unanswered": 0,
    "hostile_growth_mb": 200,
    "memory_growth": 0.05,
    "killed_lost_of_others": 0,
    "swapped_lost": 0,
}


class Size:
    """How long each check takes."""

    def __init__(self, smoke: bool) -> None:
        self.connections, self.seconds = (100, 5.0) if smoke else (1000, 60.0)
        self.rate, self.latency_seconds = 200, 5.0 if smoke else 60.0
        self.bodies, self.rounds = (5, 1) if smoke else (40, 5)
        self.fuzzed = 300 if smoke else 10_000
        self.slow = 20 if smoke else 500
        self.requests = 2_000 if smoke else 100_000
        self.clients = 16


def table() -> pa.Table:
    """Return rows of numbers and categories."""
    home = os.environ.get("LOWERBOUND_DATA")
    if home:
        return pq.read_table(Path(home) / "finance_tabular" / "adult_train.parquet")
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "amount": np.exp(rng.normal(3, 1, 5000)).round(2),
            "age": rng.integers(18, 90, 5000),
            "country": rng.choice(["FR", "DE", "US"], 5000),
        }
    )


class Server:
    """A server in a process of its own."""

    def __init__(self, model: Path, *flags: str) -> None:
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the server
        words = [sys.executable, "-m", "lowerbound", "serve", str(model), "--port", "0", *flags]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=self.log)
        while not (found := self.events("listening")):
            assert self.process.poll() is None, self.text()[-2000:]
            time.sleep(0.05)
        self.port = found[0]["port"]

    def text(self) -> str:
        """Return the log."""
        return os.pread(self.log.fileno(), 1 << 30, 0).decode()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the lines of the log about an event."""
        found = [line for line in self.text().splitlines() if f'"event": "{name}"' in line]
        return [json.loads(line) for line in found]

    def memory(self) -> int:
        """Return the resident bytes of the process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmRSS:\s+(\d+)", status)[1])

    def end(self) -> int:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.end()
        self.log.close()


class Client:
    """One keep-alive connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.own = 0  # port of this end
        self.reader: asyncio.StreamReader | None = None

    async def send(self, raw: bytes) -> tuple[int, bytes]:
        """Send a request; return the status and the body of the answer."""
        if self.reader is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
            self.own = self.writer.get_extra_info("sockname")[1]
        try:
            self.writer.write(raw)
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"content-length: (\d+)", head)[1])
            body = await self.reader.readexactly(length)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.close()
            raise
        if b"connection: close" in head:
            self.close()
        return int(head[9:12]), body

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self.reader is not None:
            self.writer.close()
            self.reader = None


def post(path: str, body: bytes, kind: str = JSON, more: str = "") -> bytes:
    """Return the bytes of a request."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n{more}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Bench:
    """The model, its rows, and the true scores."""

    def __init__(self, folder: Path, size: Size, model: str | None) -> None:
        self.size, self.rows = size, table()
        self.path = folder / "m.vae"
        if model is None:
            fitted = lowerbound.fit(self.rows, preset="fast", max_epochs=2, alarm_rate="1%")
            fitted.save(self.path)
        else:
            shutil.copytree(model, self.path)
        self.model = lowerbound.load(self.path)
        self.some = self.rows.slice(0, 2000)
        self.truth = self.model.score(self.some)["anomaly_score"].to_pylist()
        plain = [json.dumps({"rows": [row]}).encode() for row in self.some.to_pylist()]
        self.asked = [post("/v1/score", body) for body in plain]

    def right(self, number: int, body: bytes) -> bool:
        """Return whether an answer has the score of the row."""
        return json.loads(body)["rows"][0]["anomaly_score"] == self.truth[number]


async def crowd(
    bench: Bench,
    port: int,
    clients: int,
    until: float,
    statuses: Counter[Any],
    times: list[float],
    lost: list[int] | None = None,
) -> None:
    """Send one-row requests from so many connections until a time; note the ports of lost ones."""

    async def one(first: int) -> None:
        client, number = Client(port), first
        while time.monotonic() < until:
            number = (number + clients) % len(bench.asked)
            began = time.perf_counter()
            try:
                status, body = await client.send(bench.asked[number])
            except (ConnectionError, asyncio.IncompleteReadError, OSError):
                statuses["lost"] += 1
                if lost is not None:
                    lost.append(client.own)
                continue
            times.append(time.perf_counter() - began)
            statuses[status] += 1
            if status == 200 and not bench.right(number, body):
                statuses["wrong"] += 1
        client.close()

    await asyncio.gather(*(one(i) for i in range(clients)))


def percentiles(times: list[float]) -> dict[str, float]:
    """Return percentiles of seconds, in milliseconds."""
    found = np.percentile(times, [50, 95, 99, 100]) * 1e3
    return dict(
        zip(("p50_ms", "p95_ms", "p99_ms", "max_ms"), found.round(2).tolist(), strict=True)
    )


def connections(bench: Bench) -> dict[str, Any]:
    """Many connections at once."""
    statuses: Counter[Any] = Counter()
    times: list[float] = []
    with Server(bench.path) as server:
        until = time.monotonic() + bench.size.seconds
        asyncio.run(crowd(bench, server.port, bench.size.connections, until, statuses, times))
    failed = sum(count for status, count in statuses.items() if status in ("lost",))
    failed += sum(n for status, n in statuses.items() if isinstance(status, int) and status >= 500)
    return {
        "connections": bench.size.connections,
        "requests": len(times),
        "requests_per_second": round(len(times) / bench.size.seconds),
        "statuses": {str(status): count for status, count in statuses.items()},
        **percentiles(times),
        "connections_5xx": failed,
        "connections_wrong": statuses["wrong"],
    }


def latency(bench: Bench) -> dict[str, Any]:
    """One-row requests at a rate, whether earlier ones are answered or not."""
    times: list[float] = []
    statuses: Counter[Any] = Counter()
    source = random.Random(0)

    async def run(port: int, seconds: float) -> None:
        free: list[Client] = []

        async def one(number: int, due: float) -> None:
            # The one that has rested longest: the server closes those that rest for 10 s.
            client = free.pop(0) if free else Client(port)
            status, body = await client.send(bench.asked[number])
            times.append(time.perf_counter() - due)  # from when it was due: no omission
            statuses[status] += 1
            statuses["wrong"] += not bench.right(number, body)
            free.append(client)

        due, tasks = time.perf_counter(), []
        end = due + seconds
        while due < end:
            due += source.expovariate(bench.size.rate)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            number = len(tasks) % len(bench.asked)
            tasks.append(asyncio.create_task(one(number, due)))
        await asyncio.gather(*tasks)

    with Server(bench.path, "-q") as server:
        asyncio.run(run(server.port, 2.0))
        times.clear()
        statuses.clear()
        asyncio.run(run(server.port, bench.size.latency_seconds))
    found = percentiles(times)
    return {
        "requests": len(times),
        "rate": bench.size.rate,
        "statuses": {str(k): n for k, n in statuses.items()},
        **found,
        "latency_p99_ms": found["p99_ms"],
    }


def throughput(bench: Bench) -> dict[str, Any]:
    """Arrow bodies of 1,000 rows, from two connections, against scores in this process."""
    part = bench.rows.slice(0, 1000)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, part.schema) as writer:
        writer.write_table(part)
    raw = post("/v1/score", sink.getvalue().to_pybytes(), ARROW)
    inside, served = [], []
    truth = bench.model.score(part)["anomaly_score"].to_pylist()

    async def run(port: int) -> None:
        async def one() -> None:
            client = Client(port)
            for _ in range(bench.size.bodies // 2 + 1):
                status, body = await client.send(raw)
                assert status == 200
                found = pa.ipc.open_stream(body).read_all()["anomaly_score"].to_pylist()
                assert found == truth, "the scores are those of the library"

        await asyncio.gather(one(), one())

    with Server(bench.path, "-q") as server:
        asyncio.run(run(server.port))
        for _ in range(bench.size.rounds):
            began = time.perf_counter()
            for _ in range(bench.size.bodies):
                bench.model.score(part)
            inside.append(1000 * bench.size.bodies / (time.perf_counter() - began))
            began = time.perf_counter()
            asyncio.run(run(server.port))
            sent = 2 * (bench.size.bodies // 2 + 1)
            served.append(1000 * sent / (time.perf_counter() - began))
    return {
        "rows_per_second": round(statistics.median(served)),
        "in_process_rows_per_second": round(statistics.median(inside)),
        "throughput_share": round(statistics.median(served) / statistics.median(inside), 3),
    }


PATHS = (
    "/v1/score", "/v1/embed", "/v1/impute", "/v1/sample", "/v1/explain", "/v1/counterfactual",
    "/v1/model", "/v2", "/v2/models/m", "/v2/models/m/infer", "/v2/models/m/ready", "/healthz",
    "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/page.js",
)  # fmt: skip


WORK = ["/v1/score"] * 24 + ["/v1/embed", "/v1/explain"] * 6 + ["/v1/impute"] * 3
WORK += ["/v1/counterfactual"]  # a search, seconds for a row
METHODS = ["POST"] * 12 + ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"]


def fuzzed(bench: Bench) -> st.SearchStrategy[dict[str, Any]]:
    """Return requests: half of them rows that are nearly right, the others of all kinds."""
    names = bench.rows.column_names
    rows = st.sampled_from(bench.some.slice(0, 50).to_pylist())
    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.text(max_size=10) | st.sampled_from(names), inner, max_size=4)
        ),
        max_leaves=12,
    )
    value = st.none() | st.integers(-100, 10**6) | st.floats() | st.text(max_size=20)
    near = st.builds(
        lambda row, some: {**row, **some},
        rows,
        st.dictionaries(st.sampled_from(names), value, max_size=2),
    )
    far = st.builds(
        lambda row, some: {**row, **some},
        rows,
        st.dictionaries(st.sampled_from(names) | st.text(max_size=10), anything, max_size=3),
    )
    some = st.lists(rows | near, min_size=1, max_size=3) | st.lists(rows | near | far, max_size=4)
    column = st.fixed_dictionaries(
        {
            "name": st.sampled_from([*names, "x"]),
            "shape": anything | st.just([1]),
            "datatype": st.sampled_from(["FP64", "BYTES", "INT64", "x"]),
            "data": anything | st.lists(anything, max_size=2),
        }
    )
    draws = st.fixed_dictionaries({"n": st.integers(-5, 20), "where": near | anything})
    inputs = st.lists(column, max_size=16).map(lambda each: {"inputs": each})

    def text(document: Any) -> bytes:
        return json.dumps(document).encode()

    def comma_separated(given: list[dict[str, Any]]) -> bytes:
        sink = io.StringIO()
        writer = csv.DictWriter(sink, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(given)
        return sink.getvalue().encode("utf-8", "surrogatepass")

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, bench.some.schema) as writer:
        writer.write_table(bench.some.slice(0, 2))
    plain = sink.getvalue().to_pybytes()

    def mutated(places: list[tuple[int, int]]) -> bytes:
        mutant = bytearray(plain)
        for place, byte in places:
            mutant[place % len(mutant)] = byte
        return bytes(mutant)

    places = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=6)
    documents = some.map(lambda each: {"rows": each}) | some | draws | inputs | anything
    bodies = documents.map(text) | st.binary(max_size=400) | places.map(mutated)
    bodies |= bodies.map(gzip.compress)
    token = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30)
    headers = st.dictionaries(token.filter(lambda t: ":" not in t), token, max_size=2)
    queries = st.just("") | st.sampled_from(
        ["?explain=3", "?draws=2&seed=4", "?by=levels", "?by=typicality", "?columns=0"]
    )

    def request(**parts: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
        return st.fixed_dictionaries(parts)

    none, paths = st.just(""), st.sampled_from(PATHS)
    work = st.sampled_from(WORK)
    right = request(
        method=st.just("POST"), path=work, query=none | queries, headers=st.just({}), coding=none,
        kind=st.just(JSON), body=some.map(lambda each: text({"rows": each})),
    )  # fmt: skip
    other = request(
        method=st.just("POST"), path=work, query=queries, headers=headers, coding=none,
        kind=st.just("text/csv"), body=some.map(comma_separated),
    )  # fmt: skip
    arrow = request(
        method=st.just("POST"), path=work, query=queries, headers=headers, coding=none,
        kind=st.just(ARROW), body=places.map(mutated),
    )  # fmt: skip
    infer = request(
        method=st.just("POST"), path=st.just("/v2/models/m/infer"), query=none, headers=headers,
        coding=none, kind=st.just(JSON), body=inputs.map(text),
    )  # fmt: skip
    wild = request(
        method=st.sampled_from(METHODS), path=paths | token.map(lambda t: f"/{t}"),
        query=queries | token.map(lambda t: f"?{t}"), headers=headers,
        coding=st.sampled_from([""] * 6 + ["gzip", "br"]),
        kind=st.sampled_from([JSON] * 4 + ["text/csv", ARROW, "text/plain", ""]), body=bodies,
    )  # fmt: skip
    return st.one_of(right, right, other, arrow, infer, wild, wild)


def fuzz(bench: Bench) -> dict[str, Any]:
    """Requests that hypothesis makes."""
    statuses: Counter[Any] = Counter()
    reached: Counter[tuple[str, int]] = Counter()
    requests = fuzzed(bench)

    with Server(bench.path, "-q") as server, asyncio.Runner() as runner:
        client = Client(server.port)

        @settings(
            max_examples=bench.size.fuzzed,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @seed(0)
        @given(requests)
        def one(asked: dict[str, Any]) -> None:
            lines = [f"{asked['method']} {asked['path']}{asked['query']} HTTP/1.1"]
            lines += ["Host: 127.0.0.1", f"Content-Length: {len(asked['body'])}"]
            lines += [f"Content-Type: {asked['kind']}"] if asked["kind"] else []
            lines += [f"Content-Encoding: {asked['coding']}"] if asked["coding"] else []
            lines += [f"{name}: {value}" for name, value in asked["headers"].items()]
            raw = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + asked["body"]
            try:
                if asked["method"] == "HEAD":  # an answer without a body
                    raw = raw.replace(b"HEAD", b"GET", 1)
                status, body = runner.run(asyncio.wait_for(client.send(raw), 40))
            except (ConnectionError, asyncio.IncompleteReadError):
                statuses["closed"] += 1
                return
            except TimeoutError:
                statuses["hung"] += 1
                client.close()
                return
            statuses[status] += 1
            reached[asked["path"] if asked["path"] in PATHS else "others", status] += 1
            if status >= 400:
                json.loads(body)

        one()
        client.close()
        bugs = server.events("bug")
        alive = runner.run(Client(server.port).send(bench.asked[0]))[0] == 200
    failed = sum(n for status, n in statuses.items() if status in (500, "hung")) + (not alive)
    return {
        "requests": sum(statuses.values()),
        "statuses": {str(k): n for k, n in sorted(statuses.items(), key=str)},
        "answered": {path: n for (path, status), n in sorted(reached.items()) if status == 200},
        "bugs": bugs[:5],
        "fuzz_500": failed,
    }


def hostile(bench: Bench) -> dict[str, Any]:
    """Slow clients, and bodies that are larger than they look."""
    head = "POST /v1/score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    wide = "Transfer-Encoding: chunked\r\n\r\n"
    chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    bomb = gzip.compress(b"[" + b" " * (1 << 30))
    bodies: dict[str, list[bytes]] = {
        "oversized": [f"{head}Content-Length: 99999999999\r\n\r\n".encode()],
        "oversized in chunks": [(head + wide).encode(), *[chunk] * 40],
        "deeply nested": [post("/v1/score", b"[" * 9_000_000)],
        "many objects": [post("/v1/score", b"[" + b"{}," * 3_000_000 + b"{}]")],
        "gzip bomb": [post("/v1/score", bomb, more="Content-Encoding: gzip\r\n")],
        "headers": [head.encode() + b"X: " + b"x" * 100_000],
        "rows of nulls": [],
    }
    sink = pa.BufferOutputStream()
    nulls = pa.table({"age": pa.nulls((1 << 31) - 1)})
    with pa.ipc.new_stream(sink, nulls.schema) as writer:
        writer.write_table(nulls)
    bodies["rows of nulls"] = [post("/v1/score", sink.getvalue().to_pybytes(), ARROW)]
    found: dict[str, Any] = {}
    with Server(bench.path, "-q", "--timeout", "15s") as server:

        async def slow(number: int) -> int:
            """Send a byte of the headers, or of the body, every two seconds."""
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            text = head if number % 2 else f"{head}Content-Length: 99\r\n\r\n"
            if number % 2 == 0:
                writer.write(text.encode())
                text = " " * 99
            try:
                for byte in text:
                    writer.write(byte.encode())
                    try:
                        line = await asyncio.wait_for(reader.readline(), 2.0)
                    except TimeoutError:
                        continue
                    return int(line[9:12]) if line else 0
            except ConnectionError:
                return 0
            finally:
                writer.close()
            return -1

        async def many() -> tuple[list[int], list[tuple[float, int]]]:
            held = [asyncio.create_task(slow(i)) for i in range(bench.size.slow)]
            client, others = Client(server.port), []
            for number in range(20):  # others are answered meanwhile
                began = time.perf_counter()
                status, _ = await client.send(bench.asked[number])
                others.append((time.perf_counter() - began, status))
                await asyncio.sleep(0.3)
            return await asyncio.gather(*held), others

        async def body_of(parts: list[bytes]) -> int:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            try:
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                line = await asyncio.wait_for(reader.readline(), 30)
                return int(line[9:12]) if line else 0
            except (ConnectionError, TimeoutError):
                line = await reader.readline() if not reader.at_eof() else b""
                return int(line[9:12]) if line else 0
            finally:
                writer.close()

        asyncio.run(Client(server.port).send(bench.asked[0]))
        before, most = server.memory(), 0
        unanswered = 0
        for name, parts in bodies.items():
            began = time.perf_counter()
            status = asyncio.run(body_of(parts))
            most = max(most, server.memory())
            found[name] = {"status": status, "seconds": round(time.perf_counter() - began, 2)}
            unanswered += not 400 <= status < 500
        statuses, others = asyncio.run(many())
        most = max(most, server.memory())
        found["slow clients"] = {
            "clients": bench.size.slow,
            "statuses": {str(k): n for k, n in Counter(statuses).items()},
            "others_max_ms": round(1e3 * max(t for t, _ in others), 1),
        }
        unanswered += sum(status != 408 for status in statuses)
        unanswered += sum(status != 200 for _, status in others)
    return {
        "bodies": found,
        "hostile_unanswered": unanswered,
        "hostile_growth_mb": round((most - before) / 1e6, 1),
    }


def memory(bench: Bench) -> dict[str, Any]:
    """Resident memory after the first tenth of the requests, and after all."""
    statuses: Counter[Any] = Counter()

    async def run(port: int, count: int) -> None:
        left = iter(range(count))

        async def one() -> None:
            client = Client(port)
            for number in left:
                status, _ = await client.send(bench.asked[number % len(bench.asked)])
                statuses[status] += 1
            client.close()

        await asyncio.gather(*(one() for _ in range(bench.size.clients)))

    seen = []
    with Server(bench.path) as server:
        for _ in range(10):
            asyncio.run(run(server.port, bench.size.requests // 10))
            seen.append(server.memory())
        files = len(os.listdir(f"/proc/{server.process.pid}/fd"))
    return {
        "requests": sum(statuses.values()),
        "statuses": {str(k): n for k, n in statuses.items()},
        "megabytes": [round(each / 1e6, 1) for each in seen],
        "open_files_after": files,
        "memory_growth": round(seen[-1] / seen[0] - 1, 4),
    }


async def disturbed(
    bench: Bench,
    port: int,
    seconds: float,
    disturb: Callable[[], Awaitable[None]],
    lost: list[int] | None = None,
) -> Counter[Any]:
    """Send requests from a few connections, and disturb the server in the middle."""
    statuses: Counter[Any] = Counter()
    until = time.monotonic() + seconds

    async def later() -> None:
        await asyncio.sleep(seconds / 3)
        await disturb()

    asking = crowd(bench, port, bench.size.clients, until, statuses, [], lost)
    await asyncio.gather(asking, later())
    return statuses


def clients_of(pid: int, port: int) -> set[int]:
    """Return the ports of the clients whose connections a process holds."""
    held = set()
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            held.add(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        here, there = (int(words[i].split(":")[1], 16) for i in (1, 2))
        if here == port and there and f"socket:[{words[9]}]" in held:
            found.add(there)
    return found


def killed(bench: Bench) -> dict[str, Any]:
    """SIGKILL of one of two workers under load."""
    with Server(bench.path, "--workers", "2") as server:
        while len(server.events("listening")) < 2:
            time.sleep(0.1)
        victim = server.events("listening")[0]["pid"]

        own: set[int] = set()
        lost: list[int] = []

        async def disturb() -> None:
            own.update(clients_of(victim, server.port))
            os.kill(victim, signal.SIGKILL)

        seconds = bench.size.seconds / 4
        statuses = asyncio.run(disturbed(bench, server.port, seconds, disturb, lost))
        deadline = time.monotonic() + 60
        while len(server.events("listening")) < 3 and time.monotonic() < deadline:
            time.sleep(0.1)
        again = len(server.events("listening")) == 3
    # Each connection has one request in progress: those of the victim are lost, and no other.
    others = [port for port in lost if port not in own]
    twice = len(lost) - len(others) - len(set(lost) & own)
    failed = sum(n for k, n in statuses.items() if isinstance(k, int) and k >= 500)
    return {
        "statuses": {str(k): n for k, n in statuses.items()},
        "connections_of_the_killed": len(own),
        "lost": len(lost),
        "started_again": again,
        "killed_lost_of_others": len(others) + twice + failed + statuses["wrong"] + (not again),
    }


def swapped(bench: Bench) -> dict[str, Any]:
    """SIGHUP with another model, then with a broken one, and SIGTERM, all under load."""
    folder = bench.path.with_name("swapped.vae")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(bench.path, folder)
    ended: dict[str, Any] = {}
    with Server(folder) as server:

        async def disturb() -> None:
            other = lowerbound.load(bench.path)
            other.facts["note"] = "another manifest"
            other.save(folder, overwrite=True)
            server.process.send_signal(signal.SIGHUP)
            while not server.events("loaded"):
                await asyncio.sleep(0.05)
            weights = folder / "weights.safetensors"
            weights.write_bytes(weights.read_bytes()[:-1])
            server.process.send_signal(signal.SIGHUP)
            while not server.events("load failed"):
                await asyncio.sleep(0.05)

        statuses = asyncio.run(disturbed(bench, server.port, bench.size.seconds / 4, disturb))
        body = json.dumps({"rows": bench.some.slice(0, 50).to_pylist()}).encode()

        async def end() -> list[int]:
            asked = [Client(server.port).send(post("/v1/explain", body)) for _ in range(4)]
            tasks = [asyncio.create_task(each) for each in asked]
            await asyncio.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            return [status for status, _ in await asyncio.gather(*tasks)]

        drained = asyncio.run(end())
        ended = {"drained": drained, "exit": server.process.wait(30)}
    lost = sum(n for k, n in statuses.items() if k not in (200,))
    return {
        "statuses": {str(k): n for k, n in statuses.items()},
        **ended,
        "swapped_lost": lost + sum(status != 200 for status in drained) + ended["exit"],
    }


CHECKS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    check.__name__: check
    for check in (connections, latency, throughput, fuzz, hostile, memory, killed, swapped)
}


def verdicts(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return each bar, the value, and whether it is met."""
    values = {name: value for each in found.values() for name, value in each.items()}
    return {
        name: {
            "bar": bar,
            "value": values[name],
            "met": values[name] >= bar if name == "throughput_share" else values[name] <= bar,
        }
        for name, bar in BARS.items()
        if name in values
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--only", choices=CHECKS)
    parser.add_argument("--model", help="a model of the same table, instead of a fit")
    options = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), Size(options.smoke), options.model)
        for name, check in CHECKS.items():
            if options.only in (None, name):
                began = time.monotonic()
                found[name] = check(bench)
                print(f"{name} ({time.monotonic() - began:.0f} s): {found[name]}", flush=True)
    bars = verdicts(found)
    for name, each in bars.items():
        told = "met" if each["met"] else "NOT MET"
        print(f"{name:<24} {each['value']!s:>10}  bar {each['bar']!s:>6}  {told}")
    if not options.smoke:
        path = results_file.RESULTS / "serving.json"
        if options.only is not None and path.exists():  # the others stay
            found = json.loads(path.read_text())["results"] | found
        about = (__doc__ or "").split("\n\nRun:")[0]
        facts = {"processors": os.cpu_count(), "load_at_start": load}
        results_file.write("serving", about=about, **facts, bars=verdicts(found), results=found)


if __name__ == "__main__":
    main()
