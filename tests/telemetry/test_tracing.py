"""Tracing is off unless OpenTelemetry's variables ask for it, and off it loads nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kube_cache.errors import InvalidRequest
from kube_cache.telemetry import spans
from kube_cache.telemetry.tracing import is_wanted, tracing
from tests.telemetry.collector import collector

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        pytest.param({}, False, id="nothing set"),
        pytest.param(ENDPOINT, True, id="an endpoint"),
        pytest.param({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://collector"}, True, id="an endpoint of traces"),
        pytest.param({"OTEL_TRACES_EXPORTER": "otlp"}, True, id="the exporter"),
        pytest.param({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, False, id="no exporter"),
        pytest.param({**ENDPOINT, "OTEL_SDK_DISABLED": "TRUE"}, False, id="disabled"),
        pytest.param({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, True, id="gRPC"),
        pytest.param({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, False, id="a protocol alone"),
    ],
)
def test_the_variables_decide(environment: dict[str, str], *, wanted: bool) -> None:
    assert is_wanted(environment) is wanted


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"OTEL_TRACES_EXPORTER": "zipkin"}, id="exporter"),
        pytest.param({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, id="protocol"),
    ],
)
def test_what_cannot_be_done_is_refused_at_the_start(environment: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match=r"grpc|otlp"):
        is_wanted(environment)


def test_switched_off_nothing_of_opentelemetry_is_loaded() -> None:
    script = (
        "import sys, cli.agent, cli.operator\n"
        "from kube_cache.telemetry.tracing import tracing\n"
        "with tracing('test'):\n"
        "    print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_a_process_sends_what_its_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.endpoint)
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
        with tracing("kube-cache-agent", **{"k8s.node.name": "gpu-1"}):
            assert spans.is_on()
            with spans.span("one", spans.pod_place("uid")):
                pass
        assert not spans.is_on()
        (span,) = found.spans
    assert span.trace == spans.trace_id("uid")
    assert span.resource["service.name"] == "kube-cache-agent"
    assert span.resource["k8s.node.name"] == "gpu-1"
    assert span.resource["service.version"]
    assert span.resource["deployment.environment"] == "test"
