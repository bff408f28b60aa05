"""Spell out control characters: text from a model or a data file must not steer a terminal."""

from __future__ import annotations

import json
import re

# Controls of terminals (C0, DEL, C1) except for tab and newline, and characters that are not
# seen or change the direction of writing. Joiners, which some scripts need, are left.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """Return text with control characters as escapes in hexadecimal; newlines are kept."""
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def line(text: str) -> str:
    """Return text as one line: newlines and tabs are spelled out too."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def in_json(text: str) -> str:
    """Return a JSON text with control characters as its own escapes, which keep the value."""
    return _HIDDEN.sub(lambda found: json.dumps(found[0])[1:-1], text)
