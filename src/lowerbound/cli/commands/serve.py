"""The command serve: answer requests for scores and more over HTTP."""

from __future__ import annotations

import os
import re
from importlib import import_module

from lowerbound.cli import parsing
from lowerbound.cli.flags import File, Heard, ModelPath, Name, Names, Number, Seconds
from lowerbound.cli.progress import SILENT, Silence
from lowerbound.cli.result import Result
from lowerbound.errors import UsageError
from lowerbound.training import units
from lowerbound.web.server.settings import (
    Limits,
    Settings,
    check_exposure,
    model_name,
    read_token,
)


def serve(  # noqa: PLR0913 - the arguments are the command's flags
    model: ModelPath,
    /,
    *,
    host: str = "127.0.0.1",
    port: Number = 8080,
    token_file: File = None,
    workers: Number = 1,
    allow_host: Names = (),
    name: Name = None,
    max_body: Name = "10MB",
    max_rows: Number = Limits.rows,
    queue: Number = Limits.queue,
    timeout: Seconds = "30s",
    voice: Heard = SILENT,
) -> Result:
    """Answer requests for scores, embeddings, imputations and draws over HTTP.

    The page /docs describes the API with an example row. Scores are those of `lowerbound score`,
    to the last bit. SIGHUP loads the model again without losing a request, SIGTERM ends the
    server when all requests are answered. The log is one JSON object a line, without row values.

    Examples:
        lowerbound serve fraud.vae
        lowerbound serve fraud.vae --host 0.0.0.0 --token-file token --workers 4
        lowerbound serve fraud.vae --port 0 --max-rows 1000

    Args:
        model: a folder that `lowerbound fit` saved.
        host: the address to listen on; one that other machines reach needs --token-file.
        port: the port to listen on; 0 chooses a free one.
        token_file: a file with a secret that clients must send as Authorization: Bearer SECRET;
            by default that of the variable LOWERBOUND_TOKEN_FILE.
        workers: the number of processes; each holds the model.
        allow_host: a name by which clients may address the server; repeat it for more.
        name: the name of the model in the Open Inference Protocol; by default that of its folder.
        max_body: the largest body of a request, such as 10MB.
        max_rows: the most rows of a request.
        queue: the most requests in progress in a process; others are told to try again.
        timeout: the longest time for a request.
        voice: receives the address.
    """
    settings = Settings(
        model=os.path.abspath(str(model)),
        name=model_name(str(model), name),
        host=host,
        port=_port(port),
        workers=parsing.at_least(workers, 1, "--workers"),
        token_file=_token_file(host, token_file),
        hosts=tuple(allow_host),
        quiet=isinstance(voice, Silence),
        limits=Limits(
            body=_bytes(max_body),
            rows=parsing.at_least(max_rows, 1, "--max-rows"),
            queue=parsing.at_least(queue, 1, "--queue"),
            seconds=units.seconds(str(timeout), "--timeout"),
        ),
    )
    if settings.workers > 1 and os.name != "posix":
        raise UsageError("E249", "--workers needs a system with fork and exec", fix="--workers 1")
    work = import_module("lowerbound.cli.work.serve")  # imports torch: --help does not wait
    return work.run(settings, voice)


_UNITS = {"": 1, "K": 1_000, "M": 1_000_000}
_LEAST_BODY, _MOST_BODY = 1_000, 1_000_000_000  # bytes


def _bytes(given: object) -> int:
    """Return the number of bytes of a size such as 10MB."""
    text = str(given).strip()
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KM]?)B?", text, re.IGNORECASE)
    if found is None:
        raise parsing.refusal("--max-body", text[:40], "a size such as 10MB", "--max-body 10MB")
    size = int(float(found[1]) * _UNITS[found[2].upper()])
    if not _LEAST_BODY <= size <= _MOST_BODY:
        raise UsageError(
            "E240",
            f"--max-body must be from 1kB to 1000MB, got {text[:40]}",
            fix="--max-body 10MB",
        )
    return size


def _port(port: object) -> int:
    number = parsing.at_least(port, 0, "--port")
    if number > 65535:
        raise UsageError("E240", f"--port must be at most 65535, got {number}", fix="--port 8080")
    return number


def _token_file(host: str, given: str | None) -> str:
    """Return the file with the token, checked before anything is loaded; "" for none."""
    path = given if given is not None else os.environ.get("LOWERBOUND_TOKEN_FILE", "")
    if given == "":
        raise UsageError("E232", "--token-file needs the name of a file", fix="--token-file token")
    check_exposure(host, path)
    read_token(path)
    return os.path.abspath(path) if path else ""
