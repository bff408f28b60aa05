"""`lowerbound serve`: real processes that answer real requests."""

import concurrent.futures
import csv
import gzip
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pytest

import browser as browsers
import lowerbound
from lowerbound.cli.main import main
from servers import JSON, Server

ARROW = "application/vnd.apache.arrow.stream"
NUMBERS = {"amount": float, "fee": float, "visits": int}


@pytest.fixture(scope="module")
def server(made):
    with Server(made / "tx.vae", "--max-body", "300kB", "--max-rows", "500") as server:
        yield server


@pytest.fixture(scope="module")
def scores(made, tmp_path_factory):
    """The scores of `lowerbound score`, as texts."""
    out = tmp_path_factory.mktemp("scores") / "scores.csv"
    assert main(["score", str(made / "tx.vae"), str(made / "tx.csv"), "--out", str(out)]) == 0
    with open(out, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def rows(made):
    """The rows of tx.csv as JSON has them."""
    with open(made / "tx.csv", newline="") as file:
        return [
            {
                name: None
                if not text
                else NUMBERS[name](text)
                if name in NUMBERS
                else text == "True"
                if name == "is_new"
                else text
                for name, text in row.items()
            }
            for row in csv.DictReader(file)
        ]


def same(found, wanted):
    def numbers(rows):
        return [(float(row["anomaly_score"]), float(row["p_value"])) for row in rows]

    return numbers(found) == numbers(wanted)


def test_scores_of_json_csv_and_arrow_are_those_of_the_command(server, made, rows, scores):
    told = server.post("/v1/score", {"rows": rows})
    assert told.status == 200
    assert same(told.facts["rows"], scores)
    assert [row["is_anomaly"] for row in told.facts["rows"]] == [
        row["is_anomaly"] == "true" for row in scores
    ]
    text = (made / "tx.csv").read_bytes()
    by_csv = server.ask("POST", "/v1/score", text, "text/csv", Accept=JSON)
    assert same(by_csv.facts["rows"], scores)
    table = arrow_csv.read_csv(
        made / "tx.csv",
        convert_options=arrow_csv.ConvertOptions(column_types={"account": pa.string()}),
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    by_arrow = server.ask("POST", "/v1/score", sink.getvalue().to_pybytes(), ARROW)
    assert by_arrow.headers["content-type"] == ARROW
    assert same(pa.ipc.open_stream(by_arrow.body).read_all().to_pylist(), scores)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=50)
    kind = "application/vnd.apache.arrow.file"
    by_file = server.ask("POST", "/v1/score", sink.getvalue().to_pybytes(), kind, Accept=JSON)
    assert same(by_file.facts["rows"], scores)
    back = server.post("/v1/score", {"rows": rows[:3]}, Accept="text/csv")
    assert same(csv.DictReader(io.StringIO(back.body.decode())), scores[:3])


def test_rows_that_are_scored_together_have_the_scores_that_they_have_alone(server, rows, scores):
    """Concurrent requests of one to nine rows, each with values of other types in JSON."""
    source = random.Random(0)
    parts, start = [], 0
    while start < len(rows):
        size = source.randrange(1, 10)
        parts.append(slice(start, start + size))
        start += size

    def send(part):
        some = [dict(row) for row in rows[part]]
        source = random.Random(part.start)
        for row in some:  # whole numbers as floats
            if source.random() < 0.5:
                row["visits"] = float(row["visits"])
        return server.post("/v1/score", some)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for _ in range(3):
            source.shuffle(parts)
            for part, told in zip(parts, pool.map(send, parts), strict=True):
                assert told.status == 200, told.body
                assert same(told.facts["rows"], scores[part])
    counts = server.get("/metrics").body.decode()
    passes = float(counts.split("\nlowerbound_passes_total ")[1].split("\n")[0])
    assert passes < 3 * len(parts), "some requests shared a pass"


def test_a_wrong_request_in_a_pass_harms_no_other(server, rows, scores):
    def send(number):
        row = {**rows[number], "amount": "much"} if number % 3 == 0 else rows[number]
        return server.post("/v1/score", [row])

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for number, told in enumerate(pool.map(send, range(48))):
            if number % 3 == 0:
                assert (told.status, told.error["code"]) == (422, "E032")
            else:
                assert same(told.facts["rows"], [scores[number]])


def test_counts_of_unseen_values_are_those_of_the_request(server, rows):
    def send(number):
        row = {**rows[number], "country": "XX"} if number % 2 else rows[number]
        return server.post("/v1/score", [row]).facts.get("unseen")

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(send, range(24)))
    assert found == [{"country": 1} if n % 2 else None for n in range(24)]


def test_reasons_vectors_filled_and_drawn_rows_are_those_of_the_library(server, made, rows):
    model = lowerbound.load(made / "tx.vae")
    table = model.read_rows(made / "tx.csv").slice(0, 5)
    told = server.post("/v1/explain?columns=2", rows[:5]).facts["rows"]
    wanted = model.score(table, explain=2).to_pylist()
    for row, one in zip(told, wanted, strict=True):
        assert row["anomaly_score"] == one["anomaly_score"]
        assert [each["column"] for each in row["why"]] == [one["top1_column"], one["top2_column"]]
        assert row["why"][0]["nats"] == one["top1_nats"]
    vectors = server.post("/v1/embed", rows[:5]).facts["rows"]
    assert [list(row.values()) for row in vectors] == model.embed(table).tolist()
    gap = [{**rows[0], "amount": None, "visits": None}]
    filled = server.post("/v1/impute", gap).facts["rows"]
    assert filled[0]["country"] == rows[0]["country"]
    assert filled[0]["amount"] > 0
    assert filled[0]["visits"] >= 0
    assert list(filled[0]) == list(rows[0])
    copies = server.post("/v1/impute?draws=3&seed=1", gap).facts["rows"]
    assert [row["draw"] for row in copies] == [0, 1, 2]
    drawn = server.post("/v1/sample", {"n": 4, "seed": 7, "where": {"country": "DE"}}).facts
    assert [row["country"] for row in drawn["rows"]] == ["DE"] * 4
    same = model.samples(4, seed=7, where={"country": "DE"}).table.to_pylist()
    assert [row["amount"] for row in drawn["rows"]] == [row["amount"] for row in same]


def test_nearest_usual_rows(server, made, rows, scores):
    flagged = [i for i, row in enumerate(scores) if row["is_anomaly"] == "true"][:3]
    told = server.post("/v1/counterfactual", [rows[i] for i in (*flagged, 0)])
    assert told.status == 200, told.body
    facts = told.facts
    assert facts["changes"][-1] == []
    for i, row, changes in zip(flagged, facts["rows"], facts["changes"], strict=False):
        assert row["score_before"] == float(scores[i]["anomaly_score"])
        assert row["score_after"] <= facts["threshold"]
        assert changes
        for change in changes:
            assert change["from"] != change["to"] == row[change["column"]]
        usual = {name: row[name] for name in rows[i]}
        again = server.post("/v1/score", [usual]).facts["rows"][0]
        assert again["anomaly_score"] == row["score_after"]
        assert not again["is_anomaly"]
    assert server.post("/v1/counterfactual", rows[:21]).status == 413


def test_all_problems_of_a_body_are_told_at_once(server, rows):
    wrong = [dict(rows[0]), {**rows[1], "amont": 3, "fee": [1]}, 5]
    del wrong[0]["country"]
    text = json.dumps({"rows": wrong})
    text = text.replace(f'"amount": {rows[0]["amount"]}', '"amount": NaN, "visits": 1e999', 1)
    told = server.ask("POST", "/v1/score", text, JSON)
    assert (told.status, told.error["code"]) == (422, "E263")
    problems = told.error["details"]["problems"]
    found = {(each.get("row"), each.get("column")): each["problem"] for each in problems}
    assert found[1, "country"] == "the value is missing; null says that it is unknown"
    assert found[1, "amount"].startswith("NaN is not JSON")
    assert found[1, "visits"] == "the name occurs twice"
    assert found[2, "amont"].endswith("did you mean 'amount'?")
    assert "must be a number, text" in found[2, "fee"]
    assert found[3, None].startswith("the row must be an object")
    assert told.error["details"]["count"] == len(problems) == 6


def test_values_that_cannot_be_coded_are_told_for_every_column(server, rows):
    told = server.post("/v1/score", [{**rows[0], "amount": "much", "visits": "few"}])
    assert (told.status, told.error["code"]) == (422, "E263")
    assert {each["column"] for each in told.error["details"]["problems"]} == {"amount", "visits"}


BODIES = {
    "nothing": (b"", "E263"),
    "no JSON": (b"{rows}", "E263"),
    "no rows": (b'{"rows": []}', "E263"),
    "another name": (b'{"row": []}', "E263"),
    "no UTF-8": (b'{"rows": "\xff"}', "E263"),
    "an infinity": (b'[{"amount": -Infinity}]', "E263"),
    "deep": (b"[" * 100_000, "E263"),
    "deep objects": (b'{"a":' * 40_000, "E263"),
    "many lists": (b"[" + b"[]," * 90_000 + b"[]]", "E322"),
    "many rows": (b"[" + b"{}," * 501 + b"{}]", "E322"),
    "a long number": (b'[{"amount": ' + b"9" * 5000 + b"}]", "E263"),
    "half a string": (b'{"rows": "' + b'\\"' * 100_000, "E263"),
    "a lone surrogate": (b'[{"country": "\\ud800"}]', "E263"),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_are_refused(server, name):
    body, code = BODIES[name]
    began = time.monotonic()
    told = server.ask("POST", "/v1/score", body, JSON)
    assert told.error["code"] == code
    assert told.status == (413 if code == "E322" else 422)
    assert told.error["message"]
    assert time.monotonic() - began < 5


def test_types_that_are_not_read(server):
    for kind in ("application/x-www-form-urlencoded", "application/x-python-pickle", None):
        told = server.ask("POST", "/v1/score", b"{}", kind)
        assert (told.status, told.error["code"]) == (415, "E264")
    told = server.ask("POST", "/v1/score", b"{}", JSON, Content_Encoding="br")
    assert (told.status, told.error["code"]) == (415, "E264")


def test_csv_that_is_no_csv(server, tmp_path):
    packed = gzip.compress(b"a,b\n1,2\n")
    for body in (packed, b"\x93NUMPY\x01\x00", b"PAR1aaaaPAR1", b"a,b\n1\n2,3,4\n", b"\0"):
        told = server.ask("POST", "/v1/score", body, "text/csv")
        assert told.status == 422
        assert str(tmp_path.parent) not in told.body.decode()
        assert "lowerbound-" not in told.body.decode()
    told = server.ask("POST", "/v1/score", b"amount,countri\n1,FR\n2,DE\n", "text/csv")
    assert any("countri" in p["problem"] for p in told.error["details"]["problems"])


def arrow(table, **options):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as out:
        out.write_table(table)
    return sink.getvalue().to_pybytes()


def test_arrow_bodies_that_are_refused(server):
    """Compressed buffers, which say themselves how much memory they take, and rows of nulls."""
    table = pa.table({"amount": pa.array([0.0] * 400)})
    packed = server.ask("POST", "/v1/score", arrow(table, compression="zstd"), ARROW)
    assert "compressed Arrow buffers" in packed.error["message"]
    long = pa.table({"amount": pa.nulls(10**9)})
    assert server.ask("POST", "/v1/score", arrow(long), ARROW).error["code"] == "E322"
    words = pa.table({"country": pa.array(["FR"] * 9).dictionary_encode()})
    packed = server.ask("POST", "/v1/score", arrow(words, compression="lz4"), ARROW)
    assert "compressed Arrow buffers" in packed.error["message"]
    plain = arrow(table)
    source = random.Random(0)
    for _ in range(60):
        mutant = bytearray(plain)
        for _ in range(source.randrange(1, 6)):
            mutant[source.randrange(len(mutant))] = source.randrange(256)
        cut = bytes(mutant[: source.randrange(1, len(mutant) + 1)])
        assert server.ask("POST", "/v1/score", cut, ARROW).status in (413, 422)


def test_large_bodies_are_counted_while_they_stream(server):
    head = b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    told = server.raw(head + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 12)
    assert (told.status, told.error["code"]) == (413, "E321")
    assert told.headers["connection"] == "close"
    told = server.ask("POST", "/v1/score", b" " * 300_001, JSON)
    assert (told.status, told.error["code"]) == (413, "E321")


def test_gzip_bodies_are_bounded(server, rows, scores):
    body = gzip.compress(json.dumps(rows[:9]).encode())
    told = server.ask("POST", "/v1/score", body, JSON, Content_Encoding="gzip")
    assert same(told.facts["rows"], scores[:9])
    bomb = gzip.compress(b" " * 100_000_000)
    assert len(bomb) < 100_000
    told = server.ask("POST", "/v1/score", bomb, JSON, Content_Encoding="gzip")
    assert (told.status, told.error["code"]) == (413, "E321")
    for wrong in (b"no gzip", body[:-9], body + b"more", body + body):
        told = server.ask("POST", "/v1/score", wrong, JSON, Content_Encoding="gzip")
        assert (told.status, told.error["code"]) == (422, "E263")


def test_headers_are_bounded(server):
    long = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    one = server.raw(long + b"A: " + b"a" * 20_000 + b"\r\n\r\n")
    many = server.raw(long + b"".join(b"H%d: %s\r\n" % (i, b"a" * 90) for i in range(400)))
    line = server.raw(b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n")
    assert {one.status, many.status, line.status} == {431}
    assert one.error["code"] == many.error["code"] == line.error["code"] == "E323"
    for text in (b"\x16\x03\x01\x02\x00", b"no HTTP\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n"):
        told = server.raw(text)
        assert (told.status, told.error["code"]) == (400, "E323")


def test_paths_and_parameters_that_are_wrong(server):
    assert server.get("/v1/scores").error["code"] == "E265"
    assert server.get("/v1/scores").status == 404
    assert server.get("/v1/score").status == 405
    told = server.post("/v1/score?by=chance&explain=-1", [{}])
    assert {p["parameter"] for p in told.error["details"]["problems"]} == {"by", "explain"}
    told = server.post("/v1/sample", {"n": 0, "seed": -1, "rows": 2})
    assert told.error["details"]["count"] == 3
    assert server.post("/v1/sample", {"n": 501}).status == 413
    told = server.post("/v1/sample", {"where": {"country": "XX"}})
    assert (told.status, told.error["code"]) == (422, "E074")


def test_reasons_are_given_for_few_rows_at_a_time(server, rows):
    told = server.post("/v1/explain", rows[:101])
    assert (told.status, told.error["code"]) == (413, "E322")


def test_another_host_name_is_refused(server):
    told = server.get("/v1/model", Host="evil.example")
    assert (told.status, told.error["code"]) == (421, "E267")
    assert server.get("/v1/model", Host="LOCALHOST:80").status == 200
    assert server.get("/healthz", Host="10.1.2.3").status == 200


def test_the_inference_protocol(server, rows, scores):
    assert server.get("/v2").facts["name"] == "lowerbound"
    assert server.get("/v2/health/live").facts == {"live": True}
    assert server.get("/v2/health/ready").facts == {"ready": True}
    about = server.get("/v2/models/tx").facts
    assert server.get("/v2/models/tx/ready").facts == {"name": "tx", "ready": True}
    inputs = [
        {**each, "shape": [7], "data": [row[each["name"]] for row in rows[:7]]}
        for each in about["inputs"]
    ]
    inputs[0] |= {"shape": [7, 1], "data": [[value] for value in inputs[0]["data"]]}
    asked = {"id": "a1", "inputs": inputs}
    told = server.post("/v2/models/tx/infer", asked).facts
    assert told["id"] == "a1"
    assert told["model_version"] == about["versions"][0]
    columns = {each["name"]: each["data"] for each in told["outputs"]}
    assert columns["anomaly_score"] == [float(row["anomaly_score"]) for row in scores[:7]]
    one = server.post("/v2/models/tx/infer", {**asked, "outputs": [{"name": "p_value"}]}).facts
    assert [each["name"] for each in one["outputs"]] == ["p_value"]
    wrong = server.post("/v2/models/tx/infer", {"inputs": [{**inputs[1], "shape": [8]}]})
    assert wrong.status == 422
    assert isinstance(wrong.error, str)
    assert "shape says 8 values, data has 7" in wrong.error
    assert server.get("/v2/models/other").status == 404


def test_the_description_has_an_example_row_that_can_be_scored(server):
    document = server.get("/openapi.json").facts
    body = document["components"]["requestBodies"]["Rows"]["content"]
    assert server.post("/v1/score", body[JSON]["example"]).status == 200
    assert server.ask("POST", "/v1/score", body["text/csv"]["example"], "text/csv").status == 200
    page = server.get("/docs")
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "page.js", "page.css"):
        assert f"docs/{name}" in page.body.decode()
        assert server.get(f"/docs/{name}").status == 200
    assert "http" not in page.body.decode().replace("http-equiv", "")
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_the_log_has_no_values_of_rows(server, rows):
    secret, amount = "a word that nobody else uses", 31415.9265
    row = {**rows[0], "country": secret, "amount": amount}
    server.post("/v1/score", [row], X_Request_Id="my-id.1")
    server.post("/v1/score?by=" + secret.replace(" ", "_"), [rows[0]])
    line = next(line for line in server.events("request") if line["request_id"] == "my-id.1")
    assert line["route"] == "/v1/score"
    assert line["rows"] == 1
    assert secret not in server.text
    assert secret.replace(" ", "_") not in server.text
    assert str(amount) not in server.text


def test_nothing_above_was_a_bug(server):
    assert server.events("bug") == []
    assert server.get("/healthz").status == 200


# Processes of their own.


def test_a_token_is_needed_elsewhere_than_on_this_machine(run, made):
    told = run("serve", made / "tx.vae", "--host", "0.0.0.0", "--json")
    assert (told.code, told.error["code"]) == (2, "E260")
    told = run("serve", made / "tx.vae", "--token-file", "none", "--json")
    assert (told.code, told.error["code"]) == (2, "E261")
    with open("short", "w") as file:
        file.write("secret\n")
    told = run("serve", made / "tx.vae", "--token-file", "short", "--json")
    assert (told.code, told.error["code"]) == (2, "E261")


def test_a_port_in_use_and_a_model_of_pictures(run, made, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = run("serve", made / "tx.vae", "--port", port, "--json")
    assert (told.code, told.error["code"]) == (5, "E320")
    pictures = np.random.default_rng(0).random((40, 8, 8))
    made = lowerbound.fit(pictures, "conv", max_epochs=1, preset="fast", device="cpu")
    made.save(tmp_path / "pictures.vae")
    told = run("serve", tmp_path / "pictures.vae", "--port", 0, "--json")
    assert (told.code, told.error["code"]) == (2, "E262")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_of_the_api_sends_its_example_row(server, width, scheme):
    """Swagger UI in a real browser: what it needs is here, and its example row is scored."""
    own = f"http://127.0.0.1:{server.port}/"
    with browsers.chromium(offline=False) as context:
        if context is None:
            pytest.skip("no Chromium is installed (on Debian: apt-get install chromium)")
        seen = browsers.Watched(context, width=width, scheme=scheme)
        page = seen.open(f"{own}docs", "document.querySelector('.opblock') !== null")
        page.click("[data-path='/v1/score']")
        page.click(".opblock.is-open .execute")
        shown = page.wait_for_selector(".live-responses-table .highlight-code code")
        answer = json.loads(shown.inner_text())
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert (seen.problems, seen.outside(own), wide <= width) == ([], [], True)
        page.close()
    example = server.get("/v1/model").facts["example"]
    told = server.post("/v1/score", {"rows": [example]}).facts
    assert answer["rows"] == told["rows"]


def test_the_token_a_new_model_and_the_end(made, tmp_path, rows):
    """One server is asked with and without its token, gets other models, and is ended."""
    token, model = tmp_path / "token", tmp_path / "m.vae"
    token.write_text("0123456789abcdef\n")
    shutil.copytree(made / "tx.vae", model)
    with Server(model, "--token-file", str(token), "--host", "0.0.0.0") as server:
        bearer = {"Authorization": "Bearer 0123456789abcdef"}
        for wrong in ({}, {"Authorization": "Bearer 0123456789abcdeF"}, {"Authorization": "x"}):
            told = server.post("/v1/score", rows[:1], **wrong)
            assert (told.status, told.error["code"]) == (401, "E266")
            assert told.headers["www-authenticate"].startswith("Bearer")
        for path in ("/metrics", "/openapi.json", "/v2/models/m"):
            assert server.get(path).status == 401
        for path in ("/healthz", "/readyz", "/docs", "/docs/page.js", "/v2/health/ready"):
            assert server.get(path).status == 200
        before = server.post("/v1/score", rows[:1], **bearer).facts
        assert server.post("/v1/score", rows[:1], Host="name.example", **bearer).status == 200

        asked, stop = [], False

        def keep_asking():
            while not stop:
                asked.append(server.post("/v1/score", rows[:1], **bearer))

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            running = [pool.submit(keep_asking) for _ in range(4)]
            weights = model / "weights.safetensors"
            good = weights.read_bytes()
            weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
            server.signal(signal.SIGHUP)
            server.wait_for("load failed")
            weights.write_bytes(good)
            other = lowerbound.load(made / "tx.vae")
            other.facts["note"] = "another manifest"
            other.save(model, overwrite=True)
            server.signal(signal.SIGHUP)
            server.wait_for("loaded")
            stop = True
            for each in running:
                each.result()
        assert {told.status for told in asked} == {200}
        models = [told.facts["model"] for told in asked]
        after = server.post("/v1/score", rows[:1], **bearer).facts
        assert after["model"] != before["model"]
        assert {before["model"]} <= set(models) <= {before["model"], after["model"]}
        assert after["rows"] == before["rows"]  # the weights are the same

        # Requests in progress are answered before the end.
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            held = [pool.submit(server.post, "/v1/explain", rows[:60], **bearer) for _ in range(4)]
            time.sleep(0.3)
            server.signal(signal.SIGTERM)
            assert [each.result().status for each in held] == [200] * 4
        assert server.process.wait(20) == 0
        assert server.events("draining")


def test_slow_clients_are_refused_and_too_many_wait(made, rows):
    flags = ["--timeout", "3s", "--queue", "2"]
    with Server(made / "tx.vae", *flags) as server:
        head = b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        began = time.monotonic()
        told = server.raw(head + b"Content-Length: 9\r\n\r\n[", *[b" "] * 4, pause=1.2)
        assert (told.status, told.error["code"]) == (408, "E324")
        assert time.monotonic() - began < 8
        told = server.raw(b"GET /healthz HTTP/1.1\r\nHost: loc", wait=20)
        assert (told.status, told.error["code"]) == (408, "E324")
        held = []
        for _ in range(2):
            link = socket.create_connection(("127.0.0.1", server.port))
            link.sendall(head + b"Content-Length: 9\r\n\r\n[")
            held.append(link)
        time.sleep(0.5)
        told = server.post("/v1/score", rows[:1])
        assert (told.status, told.error["code"]) == (429, "E325")
        assert told.headers["retry-after"] == "1"
        for link in held:
            link.close()
        time.sleep(0.3)
        assert server.post("/v1/score", rows[:1]).status == 200
        slow = server.post("/v1/sample", {"n": 10_000, "where": {"country": "KY", "visits": 7}})
        assert slow.status in (200, 503)
        if slow.status == 503:
            assert slow.error["code"] == "E327"


@pytest.mark.skipif(os.name != "posix", reason="workers need fork and exec")
def test_a_killed_worker_loses_only_its_own_requests(made, rows, scores):
    with Server(made / "tx.vae", "--workers", "2") as server:
        server.wait_for("listening", 2)
        first, second = (line["pid"] for line in server.events("listening"))

        def send(number):
            return server.post("/v1/score", [rows[number % 200]])

        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            assert {told.status for told in pool.map(send, range(60))} == {200}
            os.kill(first, signal.SIGKILL)
            server.wait_for("worker ended")
            answers = list(pool.map(send, range(60)))
        assert {told.status for told in answers} == {200}
        assert same([told.facts["rows"][0] for told in answers], scores[:60])
        server.wait_for("listening", 3)
        counts = server.get("/metrics").body.decode()
        total = sum(
            float(line.split(" ")[1])
            for line in counts.splitlines()
            if line.startswith('lowerbound_requests_total{route="/v1/score",status="200"}')
        )
        assert total > 100, "the counts are those of all workers, the killed one among them"
        server.signal(signal.SIGHUP)
        server.wait_for("loaded", 2)
        assert server.end() == 0
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


def test_workers_that_cannot_start_end_the_server(made, tmp_path):
    shutil.copytree(made / "tx.vae", tmp_path / "m.vae")
    with Server(tmp_path / "m.vae", "--workers", "1") as server:
        assert server.end() == 0
    with Server(tmp_path / "m.vae", "--workers", "2") as server:
        server.wait_for("listening", 2)
        (tmp_path / "m.vae" / "manifest.json").write_text("{}")
        for line in server.events("listening"):
            os.kill(line["pid"], signal.SIGKILL)
        assert server.process.wait(60) == 5
        assert "E328" in server.text


def test_serve_is_not_imported_by_others():
    code = "import sys, lowerbound.cli.main; print(*sys.modules)"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert not [name for name in done.stdout.split() if name.startswith("lowerbound.web")]
