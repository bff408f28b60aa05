"""Settings of a server, checked before a model is loaded."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import os
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path

from lowerbound.errors import ResourceError, UsageError

LEAST_TOKEN = 16  # characters: a shorter secret can be guessed
MOST_TOKEN = 4096  # bytes of the file
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class Limits:
    """Limits on what clients may ask of one process.

    Attributes:
        body: bytes of a request's body, before and after decompression.
        rows: rows of a request, and rows to draw.
        explained: rows of a request for reasons.
        changed: rows of a request for nearest usual rows.
        depth: nested arrays and objects of a JSON body.
        header: bytes of the request line and the headers.
        seconds: from the first byte of a request to its answer.
        silence: seconds in which a client must send its headers, and each further part.
        queue: requests that are read or computed at the same time.
        connections: open connections.
        drain: seconds that a process waits for its requests when it ends.
    """

    body: int = 10_000_000
    rows: int = 10_000
    explained: int = 100
    changed: int = 20
    depth: int = 8
    header: int = 16_384
    seconds: float = 30.0
    silence: float = 10.0
    queue: int = 1024
    connections: int = 4096
    drain: float = 10.0

    @property
    def bodies(self) -> int:
        """The bytes of all bodies that are held at the same time."""
        return 16 * self.body


@dataclass(frozen=True)
class Settings:
    """Where and how a model is served; plain values, so that workers can be told.

    Attributes:
        model: path of the model.
        name: its name in the Open Inference Protocol.
        host: address to listen on.
        port: port to listen on; 0 chooses a free one.
        workers: number of processes.
        token_file: file with the token that clients must send; "" lets everybody in.
        hosts: further names that clients may address the server by, in their Host header.
        quiet: leave requests out of the log, but for those that it failed to answer.
        limits: what clients may ask.
    """

    model: str
    name: str
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    token_file: str = ""
    hosts: tuple[str, ...] = ()
    quiet: bool = False
    limits: Limits = field(default_factory=Limits)

    def to_json(self) -> str:
        """Return the settings as text, which `from_json` reads."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """Return the settings that `to_json` wrote."""
        values = json.loads(text)
        limits = Limits(**values.pop("limits"))
        return cls(**{**values, "hosts": tuple(values["hosts"])}, limits=limits)

    def allowed_hosts(self) -> frozenset[str]:
        """Return the names that the Host header may have, without a port, in lower case."""
        own = {"localhost", "127.0.0.1", "[::1]"}
        if self.host not in ("0.0.0.0", "::", ""):
            own.add(f"[{self.host}]" if ":" in self.host else self.host)
        return frozenset(name.lower() for name in (*own, *self.hosts))


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, token_file: str) -> None:
    """Check that an address that others can reach is not served without a token.

    Raises:
        UsageError: E260.
    """
    if not token_file and not is_loopback(host):
        raise UsageError(
            "E260",
            f"serve does not listen on {host[:100]!r} without a token: everybody who reaches this "
            "machine could use the model",
            fix="--token-file FILE",
            host=host[:100],
        )


def read_token(path: str) -> bytes:
    """Return the token in a file, without white space around it; b"" for no file.

    Raises:
        UsageError: E261 if the file cannot be read or its content is no token.
    """
    if not path:
        return b""
    fix = "python3 -c 'import secrets; print(secrets.token_urlsafe(32))' > token; chmod 600 token"
    try:
        if not Path(path).is_file():
            raise OSError("it is not a file" if os.path.exists(path) else "it does not exist")
        with open(path, "rb") as file:
            token = file.read(MOST_TOKEN + 1).strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            "E261", f"the token file {path[:200]!r} cannot be read: {reason}", fix=fix
        ) from None
    printable = token.isascii() and token.decode("ascii").isprintable() and b" " not in token
    if not (LEAST_TOKEN <= len(token) <= MOST_TOKEN and printable):
        raise UsageError(
            "E261",
            f"the token file {path[:200]!r} must hold one token of {LEAST_TOKEN} to "
            f"{MOST_TOKEN:,} printable ASCII characters without spaces",
            fix=fix,
        )
    return token


def model_name(path: str, name: str | None) -> str:
    """Return the name under which a model is served: the given one, or that of its folder.

    Raises:
        UsageError: E231 for a name that cannot be part of an address.
    """
    if name is None:
        stem = re.sub(r"[^A-Za-z0-9_.-]", "_", Path(os.path.realpath(path)).stem)[:64]
        return stem if NAME.fullmatch(stem) else "model"
    if not NAME.fullmatch(name):
        raise UsageError(
            "E231",
            f"--name must be letters, digits, '_', '.' and '-', at most 64, got {name[:80]!r}",
            fix="--name model",
        )
    return name


def listen(host: str, port: int, backlog: int = 2048) -> socket.socket:
    """Return a socket that listens on an address.

    Raises:
        ResourceError: E320 if the address is in use, or cannot be used.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            if os.name == "posix":  # on Windows, it would let two servers share a port
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
            made.listen(backlog)
        except BaseException:
            made.close()
            raise
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ResourceError(
            "E320",
            f"serve cannot listen on {host[:100]!r}, port {port}: {reason}",
            fix="--port 0 chooses a free port",
            host=host[:100],
            port=port,
        ) from None
    made.setblocking(False)
    return made
