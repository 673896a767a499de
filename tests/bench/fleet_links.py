"""The bench's network: a namespace for each node and one for the switch, a veth pair each, `tbf` at both ends.

A node's own end shapes what it sends, the switch's end what it receives, so that a link is full-duplex. Nothing of it
is in the machine's own namespace. The names carry the process that made them: `sweep` removes those of a process that
is gone (a crash, a second Ctrl-C), which each run does first; another run beside this one is left alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path

PREFIX = "kube-cache-fleet-"
_QUEUE_MS = 50
_BURST_MS = 8
"""tbf needs one of at least 64 KiB, or it would cut the kernel's large packets apart."""


def missing(*, cuts: bool = False) -> str | None:
    """Return one line that says what to do, or None where all is there. cuts: `Links.cut` is needed, too."""
    if os.geteuid() != 0:
        return "network namespaces take root"
    tools = ("ip", "tc", "nsenter", "setpriv", "sysctl", *(["iptables"] if cuts else []))
    absent = [tool for tool in tools if shutil.which(tool) is None]
    if not absent:
        return None
    return f"{', '.join(absent)} missing (Debian: apt-get install iproute2 util-linux procps iptables)"


class Links:
    """Nodes 1 to `nodes` and the origin, which is node 0, on one switch."""

    def __init__(self, nodes: int, mbit: int) -> None:
        """nodes: without the origin. mbit: of each link and direction, the origin's too until `shape`."""
        self._names = own_name()
        self._switch = f"{self._names}-switch"
        self._nodes = [f"{self._names}-{number}" for number in range(nodes + 1)]
        sweep()
        try:
            self._make(mbit)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def address(number: int) -> str:
        return f"10.77.{number // 200}.{number % 200 + 1}"

    def shape(self, number: int, mbit: int) -> None:
        """Give a node's link another rate, both ways."""
        _run("tc", "-n", self._switch, "qdisc", "replace", "dev", f"p{number}", *_tbf(mbit))
        _run("tc", "-n", self._nodes[number], "qdisc", "replace", "dev", "eth0", *_tbf(mbit))

    def cut(self, number: int, other: int, *, lets_answer: bool = False) -> None:
        """Lose what a node sends to another one, without a word to either.

        lets_answer: the node only cannot begin a connection; it answers on those that the other one begins.
        """
        words = ["-d", self.address(other), *(["-p", "tcp", "--syn"] if lets_answer else [])]
        _run(*self._firewall(number), "-A", "OUTPUT", *words, "-j", "DROP")

    def heal(self, number: int) -> None:
        """Let a node reach all others again."""
        _run(*self._firewall(number), "-F", "OUTPUT")

    def lost(self, number: int) -> int:
        """Return how many packets of a node were lost by its cuts."""
        listed = _run(*self._firewall(number), "-L", "OUTPUT", "-v", "-x", "-n")
        return sum(int(line.split()[0]) for line in listed.splitlines() if "DROP" in line)

    def _firewall(self, number: int) -> list[str]:
        return ["ip", "netns", "exec", self._nodes[number], "iptables", "-w"]

    def inside(self, number: int) -> list[str]:
        """Return the words before a command that is to run on the node, and to end with this thread."""
        return ["nsenter", f"--net=/run/netns/{self._nodes[number]}", "setpriv", "--pdeathsig", "KILL", "--"]

    def close(self) -> None:
        for name in [*self._nodes, self._switch]:
            _remove(name)

    def _make(self, mbit: int) -> None:
        for name in [self._switch, *self._nodes]:
            _run("ip", "netns", "add", name)
        for table in ("iptables", "ip6tables", "arptables"):
            # Where the machine filters what its bridges carry, this one is in a namespace of its own, with no rules.
            _run(
                "ip", "netns", "exec", self._switch, "sysctl", "-q", "-e", "-w", f"net.bridge.bridge-nf-call-{table}=0"
            )
        pairs = [f"link add p{n} type veth peer name eth0 netns {name}" for n, name in enumerate(self._nodes)]
        joins = [f"link set p{n} master bridge up" for n in range(len(self._nodes))]
        _batch("ip", self._switch, ["link add bridge type bridge", "link set bridge up", *pairs, *joins])
        _batch("tc", self._switch, [f"qdisc add dev p{n} {' '.join(_tbf(mbit))}" for n in range(len(self._nodes))])
        for number, name in enumerate(self._nodes):
            address = f"addr add {self.address(number)}/16 dev eth0"
            _batch("ip", name, [address, "link set eth0 up", "link set lo up"])
            _batch("tc", name, [f"qdisc add dev eth0 {' '.join(_tbf(mbit))}"])


def own_name() -> str:
    """Return what the names of everything begin with that this process makes."""
    return PREFIX + _stamp(os.getpid())


def sweep() -> None:
    """Remove the namespaces, with their processes, of runs whose process is gone."""
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.split("\n")
    for line in names:
        if line.startswith(PREFIX) and left_behind(line.split()[0]):
            _remove(line.split()[0])


def left_behind(name: str) -> bool:
    """Check that the process is gone that made what has this name."""
    pid, started, *_ = name.removeprefix(PREFIX).split("-")
    with contextlib.suppress(OSError):
        return _stamp(int(pid)) != f"{pid}-{started}"
    return True


def _stamp(pid: int) -> str:
    """Return what names a process even after its number was given to another one."""
    started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{pid}-{started}"


def _remove(name: str) -> None:
    if not Path("/run/netns", name).exists():
        return
    pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout.split()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "del", name], check=False)


def _tbf(mbit: int) -> list[str]:
    burst = max(1 << 16, mbit * 125 * _BURST_MS)
    return ["root", "tbf", "rate", f"{mbit}mbit", "burst", str(burst), "latency", f"{_QUEUE_MS}ms"]


def _batch(tool: str, namespace: str, lines: Iterable[str]) -> None:
    _run(tool, "-n", namespace, "-batch", "-", stdin="\n".join(lines) + "\n")


def _run(*command: str, stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
