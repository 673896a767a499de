"""Which datasets the Pods of a namespace may name, by the parameters of the admission policies.

The policy refuses others as a Pod is created. A Pod can be older than the rule, or than the policy. So the operator
asks once more before it lists a dataset with credentials that the Pod's owner does not have. The rule is read as the
policy reads it (admission/requests.yaml of the chart): without the ConfigMap, or the key, everything is allowed.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future

from kube_cache import names
from kube_cache.errors import DatasetNotAllowed
from kube_cache.kube.client import ApiError, KubeClient, is_not_found

PATH = f"/api/v1/namespaces/{names.SYSTEM_NAMESPACE}/configmaps/{names.ADMISSION_CONFIG}"
KEY = "allowedDatasets"
# Seconds for which an answer serves: one request in that time, however many Pods come.
_FRESH_S = 10.0
# Age up to which the last answer serves those who come while another thread reads anew, in seconds: an API server that
# is slow for so long holds nobody up. The admission policy is as late with a changed rule.
_STALE_S = 60.0
# Seconds that a thread without such an answer waits for another's read. Then it fails, and its activity tries again.
_MAX_WAIT_S = 5.0


class AllowedDatasets:
    """Any thread may call."""

    def __init__(self, kube: KubeClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._kube = kube
        self._now = clock
        self._lock = threading.Lock()  # never held while the API server is asked
        self._rules: dict[str, str] = {}
        self._read_at: float | None = None
        self._reading: Future[dict[str, str]] | None = None
        """The read that is under way, of which there is one at a time."""

    def check(self, namespace: str, uris: Iterable[str]) -> None:
        """Raises DatasetNotAllowed, and ApiError when the rules cannot be read: then nothing is allowed yet."""
        allowed = entries(self._read(), namespace)
        for uri in uris:
            if not is_covered(uri, allowed):
                raise DatasetNotAllowed(
                    f"Pods of namespace {namespace} may not name {uri}; allowed are {', '.join(allowed) or 'none'}, by"
                    f" the ConfigMap {names.ADMISSION_CONFIG} of namespace {names.SYSTEM_NAMESPACE}. Name one of these,"
                    f" or have the key {KEY}.{namespace} changed there",
                    namespace=namespace,
                )

    def _read(self) -> dict[str, str]:
        """Return rules that are fresh, or the last ones while another thread reads. Raises ApiError."""
        with self._lock:
            age_s = math.inf if self._read_at is None else self._now() - self._read_at
            if age_s <= _FRESH_S or (self._reading is not None and age_s <= _STALE_S):
                return self._rules
            others = self._reading
            if others is None:
                mine = self._reading = Future()
        if others is None:
            return self._read_for_all(mine)
        try:
            return others.result(_MAX_WAIT_S)
        except TimeoutError as error:
            raise ApiError(
                0, "Slow", f"the API server did not answer within {_MAX_WAIT_S:.0f} s: GET {PATH}"
            ) from error

    def _read_for_all(self, reading: Future[dict[str, str]]) -> dict[str, str]:
        asked_at = self._now()
        try:
            rules = self._request()
        except BaseException as error:
            with self._lock:
                self._reading = None
            reading.set_exception(error)
            raise
        with self._lock:
            self._rules, self._read_at, self._reading = rules, asked_at, None
        reading.set_result(rules)
        return rules

    def _request(self) -> dict[str, str]:
        try:
            rules: dict[str, str] | None = self._kube.request("GET", PATH, query={"resourceVersion": "0"}).get("data")
        except ApiError as error:
            if not is_not_found(error):
                raise
            return {}
        return rules or {}


def is_covered(uri: str, allowed: Iterable[str]) -> bool:
    """Whether an entry names the dataset or a folder above it."""
    folder = uri if uri.endswith("/") else f"{uri}/"
    return any(entry == "*" or folder.startswith(entry) for entry in allowed)


def entries(rules: dict[str, str], namespace: str) -> list[str]:
    """Return the entries that count in the namespace, each with a slash at its end."""
    text = rules.get(f"{KEY}.{namespace}", rules.get(KEY, "*"))
    words = text.replace(",", " ").replace("\n", " ").split(" ")
    return [word if word.endswith("/") or word == "*" else f"{word}/" for word in words if word]
