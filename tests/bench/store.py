"""Bench of the node's store: a table, and build/bench/store.json. Measures, never gates.

    python -m tests.bench.store [--root DIR] [--objects 1000000]

Files are tiny: what is measured is names, not bytes. The source is a dict, so nothing crosses a network.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from kube_cache.dataset.remote import Manifest, RemoteObject
from kube_cache.dataset.uri import DatasetUri
from kube_cache.store import check
from kube_cache.store.index_rows import ObjectCtime, ObjectRow
from kube_cache.store.layout import Layout, object_id
from kube_cache.store.node_store import NodeStore
from kube_cache.store.publish import Publisher
from kube_cache.store.settings import StoreSettings
from kube_cache.units import format_bytes
from tests.bench.store_peers import yardsticks
from tests.bench.store_scrub import slowdown
from tests.store.fakes import manifest

_REPEATS = 30
_OUT = Path("build/bench/store.json")


def dataset(files: int, prefix: str) -> Manifest:
    """Folders of a thousand, as datasets of shards have them."""
    objects = tuple(
        RemoteObject("s3", "bench", f"{prefix}/{n // 1000:04d}/{n:08d}", f"{n // 1000:04d}/{n:08d}", 0, f'"{n}"')
        for n in range(files)
    )
    return manifest(DatasetUri("s3", "bench", prefix), objects)


def settings(root: Path, **changes: object) -> StoreSettings:
    return StoreSettings(**({"root": root, "allow_root_disk": True, "min_free": 0.0} | changes))


def lay_objects(store: NodeStore, made: Manifest) -> list[str]:
    """As if fetched: empty files in objects/, known to the index."""
    layout = Layout(store.root)
    ids = [object_id(obj) for obj in made.objects]
    rows: list[ObjectRow] = []
    for name in ids:
        path = f"{store.root}/{layout.object(name)}"
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o444))
        now = Path(path).stat()
        rows.append(ObjectRow(name, 0, 0, "full-object", now.st_ino, now.st_mtime_ns, now.st_ctime_ns, time.time()))
        if len(rows) == 5000:
            store._opened.context.index.put_objects(rows)
            rows.clear()
    store._opened.context.index.put_objects(rows)
    return ids


def publish(store: NodeStore, made: Manifest, ids: list[str]) -> float:
    """Links, manifest, sync and rename: what a warm does after the last byte."""
    index = store._opened.context.index
    started = time.perf_counter()
    with store._opened.context.exclusive():
        publisher = Publisher(
            Layout(store.root), store._opened.disk, index.objects, index.begin_linking, index.end_linking, lambda: None
        )
        publisher.publish(made, ids)
        index.record_published(made.digest, ids, publisher.linked)
    return time.perf_counter() - started


def times(body: Callable[[], object], repeats: int = _REPEATS) -> dict[str, float]:
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        body()
        taken.append((time.perf_counter() - started) * 1000)
    taken.sort()
    return {"p50_ms": statistics.median(taken), "p99_ms": taken[-1], "min_ms": taken[0]}


@contextmanager
def step(text: str) -> Iterator[None]:
    started = time.perf_counter()
    print(f"  {text} ...", file=sys.stderr, flush=True)
    yield
    print(f"  {text}: {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)


def checks(root: Path, files: int, figures: dict[str, object]) -> None:
    with step(f"{files} files: lay and publish"):
        store = NodeStore.open(settings(root))
        made = dataset(files, f"set{files}")
        ids = lay_objects(store, made)
        figures[f"publish_{files}_s"] = publish(store, made, ids)
    store.close()
    # In a process of its own, as an agent that has just started.
    with step(f"{files} files: checks"):
        figures[f"first_check_{files}"] = measured("look", root, made.digest)
        if drop_caches():
            figures[f"first_check_{files}_from_disk"] = measured("look", root, made.digest)
        store = NodeStore.open(settings(root), recover=False)
        assert store.check(made.digest).complete
        figures[f"check_{files}"] = times(lambda: store.check(made.digest))
        if check._native is not None:
            built, check._native = check._native, None
            figures[f"check_{files}_python"] = times(lambda: store.check(made.digest), 5)
            check._native = built
        figures[f"yardsticks_{files}"] = yardsticks(root / "snapshots" / made.digest / "data")
    figures[f"harm_{files}"] = harm(store, root, made.digest, ids[0])
    with step(f"{files} files: share them all with a newer snapshot"):
        publish(store, dataclasses.replace(made, digest="e" * 64), ids)
        figures[f"check_{files}_shared"] = times(lambda: store.check(made.digest), 10)
    owners = iter(range(10_000))
    figures[f"pin_{files}"] = times(lambda: store.pin(made.digest, f"pod/{next(owners)}"))
    store.close()


def harm(store: NodeStore, root: Path, digest: str, first: str) -> dict[str, float]:
    """Time a check that finds a touched file."""
    path = root / "snapshots" / digest / "data" / "0000" / "00000000"
    path.chmod(0o400)
    taken = times(lambda: store.check(digest), 1)
    assert not store.check(digest).complete
    path.chmod(0o444)
    store._opened.context.index.set_ctimes([ObjectCtime(first, path.stat().st_ctime_ns)])  # in order again
    return taken


def drop_caches() -> bool:
    """As after a boot: nothing of the disk is in memory. Only where root may."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def recovery(root: Path, objects: int, figures: dict[str, object]) -> None:
    store = NodeStore.open(settings(root))
    with step(f"{objects} objects: lay"):
        ids = lay_objects(store, made := dataset(objects, "million"))
    with step(f"{objects} objects: publish"):
        figures[f"publish_{objects}_s"] = publish(store, made, ids)
    digest = made.digest
    del made, ids
    store.close()
    # In processes of their own, so that the memory is theirs alone.
    with step(f"{objects} objects: recovery"):
        figures[f"recovery_{objects}"] = measured("recovery", root)
    with step(f"{objects} objects: check"):
        figures[f"look_{objects}"] = measured("look", root, digest)
    for name in ("index.sqlite", "index.sqlite-wal", "index.sqlite-shm"):
        (root / name).unlink(missing_ok=True)
    with step(f"{objects} objects: recovery without an index"):
        figures[f"rebuild_{objects}"] = measured("recovery", root)


def measured(what: str, root: Path, digest: str = "") -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.store", "--measure", what, "--root", str(root), "--digest", digest],
        check=True,
        stdout=subprocess.PIPE,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def peak() -> int:
    """Most bytes resident so far; not getrusage, which goes on counting from before the exec."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) * 1024


def measure(what: str, root: Path, digest: str) -> None:
    """In the child: seconds, and how far the peak of memory went above what an idle process has."""
    before = peak()
    store = NodeStore.open(settings(root), recover=what == "recovery")
    started = time.perf_counter()
    if what != "recovery":
        assert store.check(digest).complete
    seconds = store.recovery.seconds if what == "recovery" else time.perf_counter() - started
    grew = peak() - before
    print(json.dumps({"seconds": seconds, "objects": store.recovery.objects, "memory_grew_bytes": grew}))
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=None, help="a folder on the disk to measure (default: build/)")
    parser.add_argument("--objects", type=int, default=1_000_000, help="for the recovery at start-up")
    parser.add_argument("--measure", choices=("recovery", "look"), help=argparse.SUPPRESS)
    parser.add_argument("--digest", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    if args.measure:
        measure(args.measure, args.root, args.digest)
        return
    base = args.root or Path("build")
    base.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-store-", dir=base))
    figures: dict[str, object] = {
        "machine": {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
    }
    try:
        checks(folder / "small", 2_000, figures)
        checks(folder / "large", 100_000, figures)
        for objects in sorted({1_000, 100_000, args.objects}):
            recovery(folder / f"objects{objects}", objects, figures)
        with step("downloads with and without a scrub"):
            figures["scrub"] = slowdown(folder / "scrub")
    finally:
        shutil.rmtree(folder)
    _OUT.parent.mkdir(parents=True, exist_ok=True)
    _OUT.write_text(json.dumps(figures, indent=1))
    show(figures, args.objects)


def show(figures: dict, objects: int) -> None:  # type: ignore[type-arg]
    def row(what: str, seen: str, wanted: str = "") -> None:
        print(f"{what:<58} {seen:>14}  {wanted}")

    print(f"\n{'':<58} {'seen':>14}  goal")
    for files, limit in ((2_000, "<= 5 ms"), (100_000, "<= 100 ms")):
        row(f"check, {files} files (fastest)", f"{figures[f'check_{files}']['min_ms']:.2f} ms", limit)
        row(f"check, {files} files (median)", f"{figures[f'check_{files}']['p50_ms']:.2f} ms", limit)
        row(f"check, {files} files (worst)", f"{figures[f'check_{files}']['p99_ms']:.2f} ms", limit)
        first = figures[f"first_check_{files}"]["seconds"] * 1000
        row(f"check, {files} files, first of an agent that has started", f"{first:.1f} ms", limit)
        row(f"check, {files} files, that finds harm (looks twice)", f"{figures[f'harm_{files}']['p50_ms']:.1f} ms")
        shared = figures[f"check_{files}_shared"]["p50_ms"]
        row(f"check, {files} files, all shared with a newer snapshot", f"{shared:.1f} ms", limit)
        if python := figures.get(f"check_{files}_python"):
            row(f"check, {files} files, without the C module", f"{python['p50_ms']:.1f} ms")
        if from_disk := figures.get(f"first_check_{files}_from_disk"):
            row(f"check, {files} files, first, nothing of the disk in memory", f"{from_disk['seconds'] * 1000:.0f} ms")
        for name, seen in figures[f"yardsticks_{files}"].items():
            row(f"  beside it: {name}", f"{seen:.1f} ms")
        row(f"publish, {files} files", f"{figures[f'publish_{files}_s']:.2f} s", "<= 10 s" if files > 2000 else "")
    row("pin (durable)", f"{figures['pin_2000']['p50_ms']:.2f} ms")
    for name, what in (
        ("recovery", "recovery at start-up"),
        ("rebuild", "recovery, index lost"),
        ("look", "check"),
    ):
        for count in sorted({1_000, 100_000, objects}):
            seen = figures[f"{name}_{count}"]
            row(f"{what}, {count} objects", f"{seen['seconds']:.2f} s", "measured" if name == "recovery" else "")
            row("  memory it took", format_bytes(max(0, seen["memory_grew_bytes"])), "bounded")
    scrub = figures["scrub"]
    row(f"warm of {format_bytes(scrub['warm_bytes'])}, alone (median)", f"{scrub['without_s']:.3f} s")
    row("  while a scrub without a limit runs (median)", f"{scrub['with_s']:.3f} s")
    row("  slowed by", f"{scrub['percent']:.1f} %", "<= 5 %")
    print(f"\nfigures: {_OUT}")


if __name__ == "__main__":
    main()
