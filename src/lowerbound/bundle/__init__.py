"""The saved model: a folder of JSON and numbers, sealed by digests, that never holds code.

``M.vae/`` contains ``config.json`` (the recipe and its arguments), ``schema.json``,
``weights.safetensors``, ``calibration.json``, ``metrics.json``, ``card.md`` and, written last,
``manifest.json`` with the size and SHA-256 of every other file and of itself. A model is checked
in full before any of it is used: one changed byte anywhere is one `ModelFileError`.

- reading, writing: load and save a model
- manifest: the list of a model's files and the seal over them
- documents, tensors: JSON and Markdown files; arrays in the safetensors format
- diagnosis: the error for a path that is no saved model
"""

from lowerbound.bundle.manifest import FORMAT, Entry, Manifest
from lowerbound.bundle.reading import Saved, Verified, load, read_manifest, verify
from lowerbound.bundle.writing import save

__all__ = [
    "FORMAT",
    "Entry",
    "Manifest",
    "Saved",
    "Verified",
    "load",
    "read_manifest",
    "save",
    "verify",
]
