"""Removes credentials from log lines, whoever wrote them: by value where the process knows it, else by form.

The last step before a line is written, so that a key, a traceback and a foreign library's record pass through it as
well. A line without a name that a credential comes with costs one short search.
Masks too much rather than too little: a person can ask for the value, and a log cannot be taken back.
"""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from functools import lru_cache
from typing import Final
from urllib.parse import quote

MASK: Final = "***"
_MIN_LENGTH: Final = 8
"""A shorter value would be masked in words that have nothing to do with it."""
_MAX_KNOWN: Final = 64
"""Session credentials are replaced each hour; of a process that runs for months the last ones matter."""

# Before a word, a letter means that it is the end of another: `design=` holds no signature.
_NAMES: Final = (
    r"(?<![a-z])(?:"
    r"x-(?:amz|goog)-(?:signature|credential|security-token)"
    r"|x-(?:amz|goog)-[a-z-]*(?:customer|encryption)-key"
    r"|(?:aws|google)access(?:key)?id"
    r"|(?:client[-_]?)?secret(?:[-_ ]?(?:access)?[-_ ]?key)?|secretaccesskey"
    r"|(?:sse|copysourcesse)[-_]?c(?:ustomer)?[-_]?key"
    r"|(?:(?:access|refresh|session|security|id|auth|authorization|bearer|api)[-_ ]?)?token"
    r"|(?:api|private|account)[-_ ]?key(?:[-_ ]data)?|client[-_]key[-_]data"
    r"|passw(?:or)?d|passphrase"
    r"|credential|signature|sig"
    r")"
)
_HEADERS: Final = r"(?<![a-z])(?:proxy-)?authorization|(?<![a-z])(?:set-)?cookie"
_SEPARATOR: Final = r"""(?>(?:\\*["'])?\s*(?:=|:|%3d|(?<=["']),(?=\s*b?\\*["']))\s*(?:b?\\*["'])?)"""
"""Between name and value: `=` of a query, `:` of a header or of JSON, `, ` of a pair in a list of Python.

Atomic, or else what is masked already would match without its quote.
"""
_VALUE: Final = r"""(?:[^\s"'\\&<>,;)}\]\x1b]|\\[^nrt\s])+"""
"""Whole escapes only, so that a line in JSON stays JSON."""
_NAMED: Final = re.compile(rf"({_NAMES}{_SEPARATOR})(?!\*\*\*){_VALUE}", re.IGNORECASE)
_HEADER: Final = re.compile(rf"((?:{_HEADERS}){_SEPARATOR})(?!\*\*\*)[^\"'\\\r\n\x1b]+", re.IGNORECASE)
_USER: Final = re.compile(r"""(://)[^\s/@"'\\?#\x1b]+(?=@)""")
_BEARER: Final = re.compile(r"(\bbearer\s+)[\w.~+/=-]{16,}", re.IGNORECASE)
_JWT: Final = re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?")
_PEM: Final = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----)[^\"-]*")
_HINT: Final = re.compile(
    r"(?:signature|credential|token|key|secret|sig|keyid|accessid|key[-_]data|passw(?:or)?d|passphrase|authorization"
    rf"|cookie){_SEPARATOR}"
)
"""The end of every name, in lower case: quick to look for, where most lines hold none."""
_KEY: Final = re.compile(rf"(?:.*[^a-z])?(?:{_NAMES}|{_HEADERS}|credentials)(?:[^a-z].*)?", re.IGNORECASE)

_lock = threading.Lock()
_known: deque[tuple[str, ...]] = deque(maxlen=_MAX_KNOWN)
"""Each value in the forms that a line may have it in."""
_forms: tuple[str, ...] = ()
"""All of them; replaced as a whole, so that a line needs no lock."""


def hide(*values: str | None) -> None:
    """Mask the values in every line from now on: secrets that this process knows. Known and short ones are ignored."""
    global _forms  # noqa: PLW0603 -- a process has one log
    for value in values:
        if value is None or len(value) < _MIN_LENGTH or value in _forms:
            continue
        escaped = json.dumps(value)[1:-1]
        forms = {value, escaped, json.dumps(escaped)[1:-1], repr(value)[1:-1], quote(value), quote(value, safe="")}
        with _lock:
            _known.append(tuple(forms))
            # Longest first: one secret may begin with another.
            _forms = tuple(sorted({form for forms in _known for form in forms}, key=len, reverse=True))


def redact(text: str) -> str:
    """Return the text with each credential replaced by `***`."""
    for form in _forms:
        if form in text:
            text = text.replace(form, MASK)
    lower = text.lower()
    if _HINT.search(lower):
        text = _HEADER.sub(rf"\1{MASK}", text)
        text = _NAMED.sub(rf"\1{MASK}", text)
    if "bearer " in lower:
        text = _BEARER.sub(rf"\1{MASK}", text)
    if "private key" in lower:
        text = _PEM.sub(rf"\1{MASK}", text)
    if "@" in text:
        text = _USER.sub(rf"\1{MASK}", text)
    if "eyJ" in text:
        text = _JWT.sub(MASK, text)
    return text


@lru_cache(maxsize=1024)
def is_secret(key: str) -> bool:
    """Check whether a field of that name holds a credential, whatever its value looks like."""
    return _KEY.fullmatch(key) is not None
