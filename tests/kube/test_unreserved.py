"""What a Pod needs and no seat can stand for is read from its spec."""

from __future__ import annotations

from typing import Any

import pytest

from kube_cache.kube.unreserved import unreserved

RESTARTED = {"restartPolicyRules": [{"action": "RestartAllContainers"}]}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        pytest.param({"resourceClaims": [{"name": "gpus"}]}, "resource claim gpus", id="dynamic resources"),
        pytest.param({"schedulingGroup": {"podGroupName": "g"}}, "PodGroup g", id="gang"),
        pytest.param({"volumes": [{"name": "d", "iscsi": {}}]}, "volume d is for one Pod on a node", id="exclusive"),
        pytest.param({"hostNetwork": True, "hostUsers": False}, "needs a node that declares it", id="user namespace"),
        pytest.param({"initContainers": [RESTARTED]}, "needs a node that declares it", id="restart rules"),
        pytest.param(
            {"containers": [{"volumeMounts": [{"bindMountOptions": ["noexec"]}]}]}, "bind mounts", id="mount options"
        ),
    ],
)
def test_what_no_seat_can_stand_for_is_told(spec: dict[str, Any], words: str) -> None:
    (said,) = unreserved({"spec": spec})
    assert words in said


def test_an_ordinary_pod_needs_nothing_that_its_seat_cannot_hold() -> None:
    spec = {
        "hostNetwork": True,
        "containers": [{"volumeMounts": [{"name": "v"}], "restartPolicyRules": [{"action": "Restart"}]}],
        "volumes": [{"name": "v", "emptyDir": {}}],
    }
    assert unreserved({"spec": spec}) == []
