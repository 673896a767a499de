"""What a Pod asks of its node in numbers, as the scheduler counts it: resources and host ports.

The effective request of a resource is the larger of (sum over containers and sidecars) and (each init container with
the sidecars started before it); a Pod-level request of CPU, memory or huge pages replaces both; the overhead of the
Pod's runtime class is added. Source: `PodRequests` in Kubernetes' component-helpers/resource, `GetHostPorts` in its
pkg/scheduler/util.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

_SUFFIXES = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15),
    "E": Decimal(10**18), "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40),
    "Pi": Decimal(2**50), "Ei": Decimal(2**60),
}  # fmt: skip

# Whole GPUs whose resource is not `<vendor>/gpu`. Parts of GPUs are not counted, because their number says nothing
# about their size: MIG slices (`nvidia.com/mig-1g.10gb`), shares (`nvidia.com/gpu.shared`).
_OTHER_GPUS = ("gpu.intel.com/i915", "gpu.intel.com/xe")
_QUANTITY = re.compile(r"(?P<number>[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)(?P<suffix>[numkMGTPE]|[KMGTPE]i|)")


def parse(quantity: str) -> Decimal:
    """Parse a quantity: '500m' -> 0.5, '2Gi' -> 2147483648. Raises ValueError; the API server admits no such text."""
    match = _QUANTITY.fullmatch(quantity.strip())
    if match is None:
        raise ValueError(f"{quantity!r} is not a quantity")
    return Decimal(match["number"]) * _SUFFIXES[match["suffix"]]


def render(value: Decimal) -> str:
    """Format a quantity: whole numbers as they are, others in milli, rounded up as the scheduler does."""
    if value == value.to_integral_value():
        return str(int(value))
    milli = value * 1000
    return f"{int(milli.to_integral_value(rounding='ROUND_CEILING'))}m"


def effective_requests(spec: dict[str, Any]) -> dict[str, str]:
    """Resource -> quantity of a Pod spec, sorted; resources of which the Pod requests nothing are left out."""
    total: dict[str, Decimal] = {}
    for container in spec.get("containers") or []:
        _add(total, _requests(container))
    sidecars: dict[str, Decimal] = {}
    peak: dict[str, Decimal] = {}
    for container in spec.get("initContainers") or []:
        requests = _requests(container)
        if container.get("restartPolicy") == "Always":
            _add(total, requests)
            _add(sidecars, requests)
            _raise_to(peak, sidecars)
        else:
            running = dict(sidecars)
            _add(running, requests)
            _raise_to(peak, running)
    _raise_to(total, peak)
    # Admission has written a Pod-level request for each Pod-level limit.
    of_pod = (spec.get("resources") or {}).get("requests") or {}
    total.update({name: parse(str(value)) for name, value in of_pod.items() if _is_pod_level(name)})
    _add(total, {name: parse(str(value)) for name, value in (spec.get("overhead") or {}).items()})
    return {name: render(value) for name, value in sorted(total.items()) if value > 0}


def gpu_count(pod: dict[str, Any]) -> int:
    """Number of whole GPUs that the Pod requests, of any vendor."""
    requests = effective_requests(pod["spec"])
    return sum(int(count) for name, count in requests.items() if name.endswith("/gpu") or name in _OTHER_GPUS)


def host_ports(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Ports of the node that the Pod's containers and sidecars take, each once, sorted."""
    sidecars = [c for c in spec.get("initContainers") or [] if c.get("restartPolicy") == "Always"]
    taken = {
        (int(port["hostPort"]), str(port.get("protocol") or "TCP"), str(port.get("hostIP") or ""))
        for container in [*sidecars, *(spec.get("containers") or [])]
        for port in container.get("ports") or []
        if port.get("hostPort")
    }
    return [
        {"containerPort": port, "hostPort": port, "protocol": protocol, **({"hostIP": address} if address else {})}
        for port, protocol, address in sorted(taken)
    ]


def _is_pod_level(resource: str) -> bool:
    """Source: `IsSupportedPodLevelResource` in Kubernetes' component-helpers/resource."""
    return resource in ("cpu", "memory") or resource.startswith("hugepages-")


def must_be_limited(resource: str) -> bool:
    """Whether a request is valid only with an equal limit: extended resources and huge pages cannot be overcommitted.

    Source: `IsOvercommitAllowed` in Kubernetes' pkg/apis/core/v1/helper.
    """
    return "/" in resource or resource.startswith("hugepages-")


def _requests(container: dict[str, Any]) -> dict[str, Decimal]:
    """Requests of a container or a Pod; a limit without a request counts as one, as the API server defaults it."""
    resources = container.get("resources") or {}
    return {
        name: parse(str(value))
        for name, value in {**(resources.get("limits") or {}), **(resources.get("requests") or {})}.items()
    }


def _add(total: dict[str, Decimal], more: dict[str, Decimal]) -> None:
    for name, value in more.items():
        total[name] = total.get(name, Decimal(0)) + value


def _raise_to(total: dict[str, Decimal], other: dict[str, Decimal]) -> None:
    for name, value in other.items():
        total[name] = max(total.get(name, Decimal(0)), value)
