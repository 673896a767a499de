"""The servers, their versions and how they are built: the one place to edit for an upgrade.

A server that Go can install straight from its module has no folder here. A server that needs `replace` lines or its own
main package has a wrapper module beside this file, whose go.mod and go.sum pin it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

WRAPPERS = Path(__file__).parent

GO_MINIMUM = (1, 26, 4)
"""The version in the go lines of the wrapper modules that everybody needs; Go fetches a newer toolchain for others."""

_KUBERNETES = "1.37.2"
_CONTAINERD = "2.4.2"
_PROMETHEUS = "0.316.0"  # the module's version of Prometheus 3.16.0


@dataclass(frozen=True)
class Pin:
    name: str
    version: str
    package: str
    """Main package; with `wrapper` empty it is installed as `package@v<version>`."""
    wrapper: str = ""
    stamps: dict[str, str] = field(default_factory=dict)
    """Linker `-X` values, so that the binary can print its version."""
    tags: str = ""
    version_args: tuple[str, ...] = ("--version",)
    build_s: int = 60
    """Seconds of a first build on 2 cores with empty caches; for the progress line only."""
    default: bool = True
    """Needed by `make stack`, `make test` and `make demo`; others are built when asked for by name."""
    path_name: str = ""
    """Name on PATH when it is not `name`."""

    @property
    def ldflags(self) -> str:
        return " ".join(["-s", "-w", *(f"-X {key}={value}" for key, value in self.stamps.items())])


def _kubernetes(
    command: str, *, build_s: int, default: bool = True, version_args: tuple[str, ...] = ("--version",)
) -> Pin:
    major, minor, _ = _KUBERNETES.split(".")
    base = "k8s.io/component-base/version"
    return Pin(
        name=command,
        version=_KUBERNETES,
        package=f"k8s.io/kubernetes/cmd/{command}",
        wrapper="kubernetes",
        stamps={f"{base}.gitVersion": f"v{_KUBERNETES}", f"{base}.gitMajor": major, f"{base}.gitMinor": minor},
        version_args=version_args,
        build_s=build_s,
        default=default,
    )


def _containerd(command: str) -> Pin:
    return Pin(
        name=command,
        version=_CONTAINERD,
        package=f"github.com/containerd/containerd/v2/cmd/{command}",
        stamps={"github.com/containerd/containerd/v2/version.Version": _CONTAINERD},
        tags="no_btrfs no_zfs no_devmapper",
        version_args=("-v",) if command.startswith("containerd-shim") else ("--version",),
        build_s=64,
        default=False,
    )


def _prometheus(command: str, *, build_s: int) -> Pin:
    """Its API works; its page has no assets, which are built with Node.js."""
    return Pin(
        name=command,
        version=_PROMETHEUS,
        package=f"github.com/prometheus/prometheus/cmd/{command}",
        stamps={"github.com/prometheus/common/version.Version": _PROMETHEUS},
        tags="remove_all_sd enable_kubernetes_sd",  # the other kinds of discovery take most of the build
        build_s=build_s,
        default=False,
    )


_ALL = [
    # In the order of the build: quick ones first, so that a missing network or toolchain shows in seconds.
    Pin(name="etcd", version="3.7.3", package=".", wrapper="etcd", build_s=27),
    Pin(
        name="versitygw",
        version="1.8.0",
        package="github.com/versity/versitygw/cmd/versitygw",
        stamps={"main.Version": "v1.8.0"},
        build_s=87,
    ),
    Pin(
        name="toxiproxy",
        version="2.12.0",
        package="github.com/Shopify/toxiproxy/v2/cmd/server",
        stamps={"github.com/Shopify/toxiproxy/v2.Version": "2.12.0"},
        version_args=("-version",),
        path_name="toxiproxy-server",
        build_s=11,
        default=False,
    ),
    Pin(
        name="temporal",
        version="1.8.2",  # 1.9.1 does not build this way: no published cliext fits its envconfig
        package="github.com/temporalio/cli/cmd/temporal",
        wrapper="temporal",
        stamps={"github.com/temporalio/cli/internal/temporalcli.Version": "1.8.2"},
        build_s=470,
    ),
    _kubernetes("kube-apiserver", build_s=265),
    _kubernetes("kube-scheduler", build_s=53),
    _kubernetes("kube-controller-manager", build_s=76),
    _kubernetes("kubectl", build_s=31, version_args=("version", "--client")),
    Pin(name="kwok", version="0.8.0", package="sigs.k8s.io/kwok/cmd/kwok", build_s=104),
    # Not servers, but pinned and built like them. Helm renders the chart, which tests install; kubeconform checks what
    # it renders. Both are default, since the tests of deploy/ need them, and build in some two minutes together.
    Pin(
        name="helm",
        version="4.3.1",
        package="helm.sh/helm/v4/cmd/helm",
        stamps={"helm.sh/helm/v4/internal/version.version": "v4.3.1"},
        version_args=("version", "--short"),
        build_s=120,
    ),
    Pin(
        name="kubeconform",
        version="0.8.0",
        package="github.com/yannh/kubeconform/cmd/kubeconform",
        stamps={"main.version": "v0.8.0"},
        version_args=("-v",),
        build_s=15,
    ),
    # Likewise: a peer in make bench-engine.
    Pin(name="s5cmd", version="2.3.0", package=".", wrapper="s5cmd", build_s=25, default=False),
    Pin(
        name="karpenter",
        version="1.14.1",  # later versions want a newer Go
        package=".",
        wrapper="karpenter",
        stamps={"sigs.k8s.io/karpenter/pkg/operator.Version": "1.14.1"},
        build_s=180,
        default=False,
    ),
    *[_prometheus(command, build_s=build_s) for command, build_s in (("prometheus", 220), ("promtool", 40))],
    _kubernetes("kubelet", build_s=37, default=False),
    _containerd("containerd"),
    _containerd("containerd-shim-runc-v2"),
    _containerd("ctr"),
]

PINS = {pin.name: pin for pin in _ALL}
DEFAULT = tuple(pin.name for pin in _ALL if pin.default)
