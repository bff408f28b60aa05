"""The work of the verb serve: load the model, listen, and serve until a signal ends it."""

from __future__ import annotations

from importlib import import_module

from lowerbound.cli.outputs import spell_bytes
from lowerbound.cli.progress import Voice
from lowerbound.cli.result import Result
from lowerbound.optional import library
from lowerbound.web.server.settings import Settings, listen

_LIBRARIES = ("fastapi", "uvicorn", "httptools", "prometheus_client", "fastapi_offline")


def run(settings: Settings, voice: Voice) -> Result:
    """Serve until a signal ends the process.

    Args:
        settings: of the server.
        voice: receives the address.

    Raises:
        ResourceError: E310 without the libraries of the extra `serve`, E320 if the address
            cannot be listened on.
        ModelFileError: E1xx if the model cannot be loaded.
        UsageError: E262 if it is not of rows.
    """
    for name in _LIBRARIES:
        library(name, "serve needs", "serve")
    process = import_module("lowerbound.web.server.process")
    served = import_module("lowerbound.web.server.served")
    log = import_module("lowerbound.web.server.guard").Log(settings.quiet)
    # A model that cannot be served is told before anybody can connect.
    holder = served.Holder(settings.model, settings.name)
    digest = holder.load().digest
    with listen(settings.host, settings.port) as listening:
        address = _address(settings, listening.getsockname()[1])
        for line in _banner(settings, address, digest):
            voice.say(line)
        if settings.workers == 1:
            process.serve(settings, listening, holder, log)
        else:
            del holder  # each worker has its own
            workers = import_module("lowerbound.web.server.workers")
            workers.Supervisor(settings, listening, log).run()
    facts = {"address": address, "model": digest, "workers": settings.workers}
    return Result(facts, lines=["all requests are answered; the server has ended"])


def _address(settings: Settings, port: int) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{port}"


def _banner(settings: Settings, address: str, digest: str) -> list[str]:
    limits = settings.limits
    token = "token required" if settings.token_file else "no token, this machine only"
    workers = f"{settings.workers} worker{'s' * (settings.workers > 1)}"
    return [
        f"serving {settings.name} ({digest[:12]}) on {address}, {token}, {workers}",
        f"limits: {spell_bytes(limits.body)}, {limits.rows:,} rows, {limits.seconds:g} s, "
        f"{limits.queue:,} requests in progress",
        f"try:    {address}/docs",
    ]
