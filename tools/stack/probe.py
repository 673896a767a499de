"""Asks a loopback server whether it is up. No proxy, no retries: the caller polls."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request

_TIMEOUT_S = 2


def answers(url: str, context: ssl.SSLContext | None = None) -> bool:
    """Whether a GET is answered with 200."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(url, timeout=_TIMEOUT_S) as response:
            return bool(response.status == 200)
    except urllib.error.HTTPError as refusal:
        refusal.close()  # it is the answer, and holds the socket
        return False
    except (OSError, urllib.error.URLError):
        return False
