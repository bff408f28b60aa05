"""Access control: only requests of the page itself, from this machine, are answered.

A page from elsewhere, opened in the same browser, can send requests to this machine. It does not
know the secret in the path, its host name is another, and so is its origin.
"""

from __future__ import annotations

import hmac
import re
import secrets
import sys
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException

from lowerbound.errors import LowerboundError, ResourceError, UsageError
from lowerbound.web.server.answers import refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HOSTS = frozenset(["localhost", "127.0.0.1", "[::1]"])

# regl, by which the map is drawn, makes its draw commands by `Function`: hence unsafe-eval. No
# text of the data becomes part of a script, and nothing is loaded from or sent to elsewhere. The
# only style in the page itself is the empty one (by its hash), which the map adds rules to.
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; worker-src blob:; style-src 'self' "
    "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


_STATUS = {"E351": 403, "E353": 404, "E354": 422}


class _Refused(ResourceError):
    """A request that is not of the page."""

    def __init__(self, why: str) -> None:
        fix = "open the address that `lowerbound explore` printed"
        super().__init__("E351", f"the request is not one of this page: {why}", fix=fix)


class _NoAddress(UsageError):
    """A path that is not there."""

    status = 404

    def __init__(self) -> None:
        super().__init__("E265", "the path is not one of this page", fix="reload the page")


class Gate:
    """The outermost layer of the application.

    Args:
        app: the application.
        secret: the first part of every path.
        tell: shows one line about an error inside.
        host: the address that the server listens on.
    """

    def __init__(
        self,
        app: App,
        secret: str,
        tell: Callable[[str], None] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.app, self.secret = app, secret
        self.hosts = HOSTS | {f"[{host}]" if ":" in host else host.lower()}
        self.tell = tell or _stderr

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever happens, the answer is no traceback."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                own = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        try:
            inner = self._checked(scope)
            await self.app(inner, receive, answer)
        except Exception as error:
            if begun:
                raise
            known = self._known(error)
            told = refusal(known, secrets.token_hex(8))
            told = told._replace(status=_STATUS.get(known.code, told.status))
            head = {"type": "http.response.start", "status": told.status}
            await answer({**head, "headers": told.raw_headers()})
            await answer({"type": "http.response.body", "body": told.body})

    def _checked(self, scope: Scope) -> Scope:
        """Return the scope without the secret in its path.

        Raises:
            LowerboundError: E351 for a request that is not one of this page, E265 for a path
                without the secret.
        """
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        host = headers.get("host", "").strip().lower()
        name = host if host.endswith("]") else re.sub(r":\d*$", "", host)
        if name not in self.hosts:
            raise _Refused("the host name is another")
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"http://{host}":
            raise _Refused("it comes from another page")
        if origin is None and scope["method"] not in ("GET", "HEAD"):
            raise _Refused("it does not say which page it comes from")
        visited = headers.get("sec-fetch-mode") == "navigate"  # a link that was clicked
        if not visited and headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            raise _Refused("it comes from another page")
        parts = scope["path"].split("/", 2)
        given = parts[1] if len(parts) > 1 else ""
        if len(parts) < 3 or not hmac.compare_digest(given.encode(), self.secret.encode()):
            raise _NoAddress
        path = "/" + parts[2]
        inner = {"path": path, "raw_path": path.encode(), "root_path": "", "app": self.app}
        return {**scope, **inner}

    def _known(self, error: Exception) -> LowerboundError:
        """Return an error as one of ours; of others, only the place is told, never a value."""
        if isinstance(error, LowerboundError):
            return error
        if isinstance(error, HTTPException):
            return _NoAddress()
        frames = traceback.extract_tb(error.__traceback__)[-4:]
        places = ", ".join(f"{frame.filename}:{frame.lineno}" for frame in frames)
        self.tell(f"an error inside: {type(error).__name__} at {places}")
        return LowerboundError("E269", "this is a bug in lowerbound", fix="please report it")


def _stderr(line: str) -> None:
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):  # nobody reads it
        pass
