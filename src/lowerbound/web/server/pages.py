"""The description of the API, with an example row of the model, and its page for browsers.

The page is Swagger UI from the files of an installed package: nothing comes from elsewhere.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import RedirectResponse

from lowerbound._version import __version__
from lowerbound.web.server.requests import ARROW, CSV, JSON
from lowerbound.web.server.routes import Service
from lowerbound.web.server.served import Served

_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>lowerbound serve</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="stylesheet" href="docs/page.css">
</head>
<body>
<form id="token" hidden>
<label for="secret">This server asks for its token:</label>
<input id="secret" type="password" autocomplete="off" required>
<button>Show the API</button>
<p id="refused" role="alert"></p>
</form>
<main id="api"></main>
<noscript>This page needs JavaScript; the API is described by <a href="openapi.json">openapi.json
</a>.</noscript>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/page.js"></script>
</body>
</html>
"""

_SCRIPT = """'use strict';
// The token stays in the memory of this page.
let token = '';
const form = document.getElementById('token');
const headers = () => (token ? { Authorization: 'Bearer ' + token } : {});

async function show() {
  const answer = await fetch('openapi.json', { headers: headers() });
  if (answer.status === 401) {
    document.getElementById('refused').textContent = token ? 'This is not the token.' : '';
    form.hidden = false;
    document.getElementById('secret').focus();
    return;
  }
  form.hidden = true;
  SwaggerUIBundle({
    spec: await answer.json(),
    dom_id: '#api',
    deepLinking: true,
    defaultModelsExpandDepth: 0,
    tryItOutEnabled: true,
    validatorUrl: null,
    requestInterceptor: (request) => {
      Object.assign(request.headers, headers());
      return request;
    },
  });
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
  token = document.getElementById('secret').value.trim();
  show();
});
show();
"""

_STYLE = """body { margin: 0; font-family: system-ui, sans-serif; background: #fff; }
form { max-width: 26rem; margin: 4rem auto; padding: 0 1rem; display: grid; gap: .75rem;
  color: #222; }
form[hidden] { display: none; }
input, button { font: inherit; padding: .5rem; }
#refused { color: #b00020; margin: 0; min-height: 1.5em; }
@media (max-width: 600px) {
  .swagger-ui .wrapper { padding: 0 10px; }
  .swagger-ui .opblock .opblock-summary-description { text-align: left; }
}
@media (prefers-color-scheme: dark) {
  body { background: #fff; }
  #api { filter: invert(0.9) hue-rotate(180deg); background: #fff; min-height: 100vh; }
  form { color: #eee; }
  form:not([hidden]) ~ #api { display: none; }
  html:has(form:not([hidden])) body { background: #161616; }
  #refused { color: #ff8a80; }
}
"""

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' "
    "data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def pages(app: FastAPI, service: Service) -> APIRouter:
    """Return the addresses of the description and its page."""
    router = APIRouter(include_in_schema=False)
    made: dict[str, Any] = {}

    @router.get("/openapi.json")
    async def openapi(request: Request) -> dict[str, Any]:
        service.begin(request, admit=False)
        served = service.model
        if made.get("digest") != served.digest:
            made.update(digest=served.digest, document=describe(app, served, service))
        return made["document"]

    @router.get("/docs")
    async def docs(request: Request) -> Response:
        service.begin(request, admit=False)
        return Response(_PAGE, headers=_headers("text/html; charset=utf-8"))

    @router.get("/docs/{name}")
    async def asset(request: Request, name: str) -> Response:
        service.begin(request, admit=False)
        if name == "page.js":
            return Response(_SCRIPT, headers=_headers("text/javascript"))
        if name == "page.css":
            return Response(_STYLE, headers=_headers("text/css"))
        if name not in _ASSETS:
            return RedirectResponse("/docs", 307)
        content = files("fastapi_offline").joinpath("static", name).read_bytes()
        return Response(content, headers=_headers(_ASSETS[name], kept=True))

    @router.get("/")
    async def root(request: Request) -> Response:
        service.begin(request, admit=False)
        return RedirectResponse("docs", 307)

    return router


def _headers(kind: str, kept: bool = False) -> dict[str, str]:
    control = {"cache-control": "max-age=86400"} if kept else {}
    return {"content-type": kind, "content-security-policy": _POLICY, **control}


_KINDS: dict[str, dict[str, Any]] = {
    "real": {"type": "number"},
    "positive": {"type": "number"},
    "count": {"type": "integer", "minimum": 0},
    "datetime": {"type": "string"},
}
_ANY = ["string", "number", "boolean"]


def describe(app: FastAPI, served: Served, service: Service) -> dict[str, Any]:
    """Return the OpenAPI document, with the columns and an example row of a model.

    Args:
        app: the application.
        served: the model.
        service: what the endpoints share.
    """
    limits = service.limits
    document = get_openapi(
        title=f"lowerbound: {served.name}",
        version=__version__,
        summary=f"Model {served.digest[:12]}, {len(served.model.columns):,} columns",
        description=(
            "Scores, reasons and more for rows of a table. Bodies are JSON, CSV or Arrow IPC, "
            "plain or with `Content-Encoding: gzip`; answers have the format of the `Accept` "
            f"header, or else that of the body. At most {limits.rows:,} rows and "
            f"{limits.body:,} bytes a request. Errors are "
            '`{"error": {"code", "message", "hint", "details"}, "request_id"}`; '
            "`lowerbound error CODE` describes a code."
        ),
        routes=app.routes,
    )
    example = served.example
    properties = {
        column["name"]: {
            **_KINDS.get(column["kind"], {"type": _ANY}),
            "description": column["kind"],
        }
        for column in served.model.columns
    }
    for described in properties.values():
        kinds = described["type"]
        described["type"] = [*(kinds if isinstance(kinds, list) else [kinds]), "null"]
    components = document.setdefault("components", {})
    components.setdefault("schemas", {})["Row"] = {
        "type": "object",
        "properties": properties,
        "required": list(served.columns.required),
        "additionalProperties": False,
        "example": example,
    }
    rows = {
        "type": "object",
        "properties": {
            "rows": {
                "type": "array",
                "items": {"$ref": "#/components/schemas/Row"},
                "minItems": 1,
                "maxItems": limits.rows,
            }
        },
        "required": ["rows"],
        "additionalProperties": False,
    }
    components["requestBodies"] = {
        "Rows": {
            "required": True,
            "content": {
                JSON: {"schema": rows, "example": {"rows": [example]}},
                CSV: {"schema": {"type": "string"}, "example": _csv(example)},
                ARROW: {"schema": {"type": "string", "format": "binary"}},
            },
        },
        "Sample": {
            "required": True,
            "content": {
                JSON: {
                    "schema": {
                        "type": "object",
                        "properties": {
                            "n": {"type": "integer", "minimum": 1, "maximum": limits.rows},
                            "seed": {"type": "integer", "minimum": 0},
                            "temperature": {
                                "type": "number",
                                "exclusiveMinimum": 0,
                                "maximum": 10,
                            },
                            "where": {"type": "object", "description": "values of columns"},
                        },
                        "additionalProperties": False,
                    },
                    "example": {"n": 3, "seed": 0},
                }
            },
        },
    }
    return document


def _csv(row: dict[str, Any]) -> str:
    def spelled(value: Any) -> str:
        text = "" if value is None else str(value)
        quoted = '"' + text.replace('"', '""') + '"'
        return quoted if any(c in text for c in ',"\n') else text

    return ",".join(map(spelled, row)) + "\n" + ",".join(map(spelled, row.values())) + "\n"
