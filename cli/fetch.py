"""`kube-cache fetch URI DIR`: the engine on its own, for init containers, Slurm nodes and laptops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from cli import transfer
from kube_cache.dataset.remote import Manifest
from kube_cache.dataset.transfer import FetchProgress
from kube_cache.directory.download import download
from kube_cache.engine.engine import Engine
from kube_cache.settings import Settings


def run(options: transfer.Options, settings: Settings, directory: Path, *, reread: bool = False) -> int:
    """Fetch the dataset into the directory. Return the exit code. reread: read what is there against its checksums."""

    def bring(
        manifest: Manifest, engine: Engine, progress: Callable[[FetchProgress], None], cancelled: Callable[[], bool]
    ) -> transfer.Summary:
        result = download(directory, manifest, engine, progress=progress, cancelled=cancelled, reread=reread)
        return {"place": str(directory), **asdict(result)}

    return transfer.run(options, settings, bring)
