"""The credentials as botocore has them now. Whatever they become, no log line shows them."""

from __future__ import annotations

from typing import Any

from kube_cache.origin.signing import Keys
from kube_cache.telemetry import redaction


class CurrentKeys:
    """Of one scheme. Thread-safe."""

    def __init__(self, credentials: Any | None) -> None:
        """credentials: botocore's; None: requests are not signed."""
        self._credentials = credentials
        self._hidden: Keys | None = None
        if credentials is not None and not hasattr(credentials, "_protected_refresh"):
            self.get()  # not of those that are fetched: the first request does that, and meets the errors

    def get(self) -> Keys | None:
        """Return them, refreshed if they have expired. Raises botocore's errors when they cannot be refreshed."""
        if self._credentials is None:
            return None
        frozen = self._credentials.get_frozen_credentials()
        keys = Keys(frozen.access_key, frozen.secret_key, frozen.token or "")
        if keys != self._hidden:
            redaction.hide(keys.secret, keys.token)
            self._hidden = keys
        return keys
