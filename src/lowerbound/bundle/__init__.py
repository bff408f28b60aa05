"""Saved models: folders of JSON and numbers, sealed by digests, that contain no code.

``M.vae/`` contains ``config.json`` (the recipe and its arguments), ``schema.json``,
``weights.safetensors``, ``calibration.json``, ``metrics.json``, ``card.md`` and, written last,
``manifest.json`` with the size and SHA-256 of every other file and of itself. A model is checked
in full before any of it is used: one changed byte raises a `ModelFileError`. Weights are arrays;
torch is not imported.

- reading, writing: load, verify and save a folder
- manifest: the list of files and its seal
- documents: JSON and Markdown
- tensors: arrays in the safetensors format
- shipped/: models inside the package, by name
- diagnosis: errors for paths that are not a saved model
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
