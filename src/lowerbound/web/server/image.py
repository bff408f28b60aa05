"""A folder from which a container image of the server is built: small, without root, read-only."""

from __future__ import annotations

from lowerbound._version import __version__

MODEL = "model.vae"
WHEELS = "wheels"

# The entry of the image; the model and the token are where the Dockerfile puts them.
ENTRY = ("lowerbound", "serve", f"/{MODEL}", "--host", "0.0.0.0", "--port", "8080")
_READY = "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/readyz', timeout=3)"

_DOCKERFILE = """\
# lowerbound serve, for the model in {model}. See README.md.
FROM python:3.13-slim AS build
COPY {wheels} /wheels
# The index of CPU builds saves gigabytes of CUDA.
RUN python -m venv /app && /app/bin/pip install --no-cache-dir --find-links /wheels \\
    --extra-index-url https://download.pytorch.org/whl/cpu "lowerbound[serve]=={version}"

FROM python:3.13-slim
COPY --from=build /app /app
COPY --chmod=a+rX {model} /{model}
ENV PATH=/app/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \\
    LOWERBOUND_TOKEN_FILE=/run/secrets/token
# Nobody in particular: no files of the image can be written by this user.
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-c", "{ready}"]
ENTRYPOINT [{entry}]
"""

_IGNORE = "README.md\nkubernetes.yaml\n"

_README = """\
# lowerbound serve in a container

```
python3 -c 'import secrets; print(secrets.token_urlsafe(32))' > token
chmod 644 token
docker build -t scorer .
docker run --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \\
    -p 127.0.0.1:8080:8080 -v "$PWD/token:/run/secrets/token:ro" scorer
curl -H "Authorization: Bearer $(cat token)" localhost:8080/v1/model
```

- The user of the image has no name and no rights; the file system is read-only. Only /tmp is
  written to, for CSV bodies.
- The token is not part of the image. Without the file /run/secrets/token the server does not
  start.
- Flags of `lowerbound serve` go after the name of the image: `docker run ... scorer --workers 4`.
- If version {version} of lowerbound is not on your package index, put its wheel into `{wheels}/`
  before the build: `pip wheel --no-deps -w {wheels} PATH_OF_THE_CHECKOUT`.
- `kubernetes.yaml` is a deployment with the probes; it takes the token from the secret
  `scorer-token`.
"""

_KUBERNETES = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: scorer
spec:
  replicas: 2
  selector:
    matchLabels: {app: scorer}
  template:
    metadata:
      labels: {app: scorer}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 20
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        seccompProfile: {type: RuntimeDefault}
      containers:
        - name: scorer
          image: scorer
          ports: [{containerPort: 8080}]
          securityContext:
            readOnlyRootFilesystem: true
            allowPrivilegeEscalation: false
            capabilities: {drop: [ALL]}
          livenessProbe:
            httpGet: {path: /healthz, port: 8080}
          readinessProbe:
            httpGet: {path: /readyz, port: 8080}
          startupProbe:
            httpGet: {path: /readyz, port: 8080}
            periodSeconds: 2
            failureThreshold: 60
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
            - {name: token, mountPath: /run/secrets, readOnly: true}
      volumes:
        - name: tmp
          emptyDir: {medium: Memory, sizeLimit: 64Mi}
        - name: token
          secret: {secretName: scorer-token, items: [{key: token, path: token}]}
"""


def files() -> dict[str, str]:
    """Return the texts of the folder by file name; the model is added to them."""
    entry = ", ".join(f'"{word}"' for word in ENTRY)
    known = {"model": MODEL, "wheels": WHEELS, "version": __version__}
    return {
        "Dockerfile": _DOCKERFILE.format(**known, entry=entry, ready=_READY),
        ".dockerignore": _IGNORE,
        "README.md": _README.format(**known),
        "kubernetes.yaml": _KUBERNETES,
        f"{WHEELS}/.gitkeep": "",
    }
