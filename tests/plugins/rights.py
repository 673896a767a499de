"""Runs each test of the table of rights without its right, which must fail it, and with it again, which must not.

Not part of an ordinary run: `make rbac` names it (`-p tests.plugins.rights`). The right is taken out of the role on the
real API server that the tests use, and given back, so that one control plane serves all rights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from tools.rbac import roles
from tools.rbac.table import LINES, Line, Right
from tools.stack import Stack
from tools.stack.api import KubeApi
from tools.stack.waiting import until

_REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


def pytest_runtestloop(session: pytest.Session) -> bool:
    """Run the lines of the table instead of the tests as they are; the exit code tells whether all hold."""
    items = {item.nodeid: item for item in session.items}
    first = items[LINES[0].test]
    # Starts the control plane, which is the session's and stays.
    if failure := _failure(first):
        problems = [f"{first.nodeid} fails with every right, so that nothing can be proven: {failure}"]
    else:
        problems = [problem for line in LINES for problem in _problems(line, items[line.test])]
    session._setupstate.teardown_exact(None)
    for problem in problems:
        print(f"error: {problem}", flush=True)
    print(f"{len(LINES)} rights, {len(problems)} problems", flush=True)
    session.testsfailed = len(problems)
    return True


def _problems(line: Line, item: pytest.Item) -> Iterator[str]:
    if _stack(item).api.find(roles.path(line.right)) is None:
        _failure(item)  # its fixtures install the role, which is not there by default
    spoken = f"{line.right.verb} {line.right.resource} {line.right.name}".strip()
    with _removed(_stack(item), line.right):
        failure = _failure(item)
    print(f"without {spoken}: {item.name} {'fails: ' + failure if failure else 'PASSES'}", flush=True)
    if not failure:
        yield f"{line.test} passes without the right {spoken} in {line.right.role}"
    if again := _failure(item):
        yield f"{line.test} fails with the right {spoken}, too: {again}"


def _failure(item: pytest.Item) -> str:
    """Run the test once. Return what it failed by; empty if it passes. Raises AssertionError if it could not run."""
    item._initrequest()  # type: ignore[attr-defined]  # fresh fixtures, as pytest-rerunfailures has them made
    session: Any = item.session  # as the next "item" it has everything torn down but itself
    failure = ""
    for report in runtestprotocol(item, nextitem=session, log=False):
        if report.failed:
            lines = [text.strip() for text in report.longreprtext.splitlines() if text.strip()]
            assert report.when == "call", f"{item.nodeid} could not run ({report.when}):\n{report.longreprtext}"
            # The server's words are the best reason, if the test shows them.
            failure = next((text for text in reversed(lines) if "is forbidden" in text), lines[-1])
    return failure


def _stack(item: pytest.Item) -> Stack:
    definitions = item.session._fixturemanager.getfixturedefs("kube", item)
    assert definitions and definitions[0].cached_result, "the control plane does not run"
    stack = definitions[0].cached_result[0]
    assert isinstance(stack, Stack)
    return stack


@contextmanager
def _removed(stack: Stack, right: Right) -> Iterator[None]:
    role = stack.api.get(roles.path(right))
    role["metadata"].pop("managedFields", None)
    role["metadata"].pop("resourceVersion", None)
    assert right in roles.of_role(role), f"{right} is not shipped"
    operator = KubeApi(stack.operator_kubeconfig)
    stack.api.request("PUT", roles.path(right), roles.without(role, right))
    try:
        until(lambda: _allowed(operator, right), lambda allowed: not allowed, "the right is gone")
        yield
    finally:
        stack.api.request("PUT", roles.path(right), role)
        until(lambda: _allowed(operator, right), lambda allowed: allowed, "the right is back")
        operator.close()


def _allowed(operator: KubeApi, right: Right) -> bool:
    plural, _, subresource = right.resource.partition("/")
    attributes = {
        "verb": right.verb,
        "group": right.group,
        "resource": plural,
        "subresource": subresource,
        "name": right.name,
        "namespace": right.namespace,
    }
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
    answer = operator.request("POST", _REVIEW, {**review, "spec": {"resourceAttributes": attributes}})
    return bool(answer["status"]["allowed"])
