"""What `fetch` and `store warm` share: list, fetch with an engine of their own, show progress, end with a stable code.

No cluster and no Temporal: the credentials, the engine and the disk are those of whoever types the command. What ends
early (Ctrl-C, SIGTERM, SIGKILL, no network) is resumed by typing the command again.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any, Final

from cli.exit_codes import code_of
from cli.progress import Display
from kube_cache.contracts.node import ExitCode
from kube_cache.dataset.remote import Manifest
from kube_cache.dataset.transfer import FetchProgress
from kube_cache.dataset.uri import DatasetUri
from kube_cache.engine.engine import Engine
from kube_cache.engine.settings import EngineSettings
from kube_cache.errors import Cancelled, KubeCacheError, SourceChanged
from kube_cache.origin.listing import list_dataset
from kube_cache.origin.s3 import Origins
from kube_cache.settings import Settings
from kube_cache.telemetry.logs import configure_logging
from kube_cache.units import format_bytes, format_seconds

_MAX_LISTS: Final = 3
"""A dataset that is replaced while it is fetched is listed again; one that never rests is given up."""
_CODES: Final = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}

Summary = dict[str, Any]
Bring = Callable[[Manifest, Engine, Callable[[FetchProgress], None], Callable[[], bool]], Summary]
"""Brings the manifest's objects to their place; returns what is special about the place."""


@dataclass(frozen=True, kw_only=True)
class Options:
    uri: str
    max_bytes_per_s: float = 0
    """0 = the setting."""
    connections: int = 0
    """Maximum number of connections; 0 = the setting."""
    as_json: bool = False


def run(options: Options, settings: Settings, bring: Bring) -> int:
    """Fetch the dataset, and print what came of it. Return the exit code."""
    configure_logging("WARNING", settings.telemetry.log_format)
    with _interruptible() as interrupted:
        try:
            summary = _run(options, settings, bring, lambda: bool(interrupted)) | {"exit_code": int(ExitCode.DONE)}
        except KubeCacheError as error:
            code = interrupted[0] if isinstance(error, Cancelled) and interrupted else code_of(error)
            message = "interrupted; type the command again to resume" if interrupted else error.message
            summary = {"uri": options.uri, "error": type(error).__name__, "message": message, "exit_code": int(code)}
    if options.as_json:
        print(json.dumps(summary), flush=True)
    if "error" in summary:
        print(f"kube-cache: {summary['message']}", file=sys.stderr)
    elif not options.as_json:
        print(_words(summary), flush=True)
    return int(summary["exit_code"])


def _run(options: Options, settings: Settings, bring: Bring, cancelled: Callable[[], bool]) -> Summary:
    uri = DatasetUri.parse(options.uri)
    origins = Origins(settings.origin, process="command")
    engine = Engine(_engine_settings(settings.engine, options), origins)
    try:
        with Display(str(uri)) as display:

            def on_page(keys: int) -> None:
                if cancelled():
                    raise Cancelled("cancelled while listing")
                display.listed(keys)

            for lists_left in reversed(range(_MAX_LISTS)):
                manifest = list_dataset(origins.of(uri.scheme), uri, on_page=on_page)
                try:
                    place = bring(manifest, engine, display.fetched, cancelled)
                    break
                except SourceChanged:
                    if not lists_left:
                        raise
    finally:
        engine.close()
        origins.close()
    return {"uri": str(uri), "digest": manifest.digest, **place}


def _engine_settings(settings: EngineSettings, options: Options) -> EngineSettings:
    if options.max_bytes_per_s:
        settings = replace(settings, max_bytes_per_s=max(1, int(options.max_bytes_per_s)))
    if options.connections:
        first = min(settings.connections, options.connections)
        settings = replace(settings, connections=first, max_connections=options.connections)
    return settings


@contextmanager
def _interruptible() -> Iterator[list[ExitCode]]:
    """Yield a list that holds the exit code once Ctrl-C or SIGTERM came; the second one ends the process at once."""
    came: list[ExitCode] = []

    def note(number: int, _frame: FrameType | None) -> None:
        code = _CODES[signal.Signals(number)]
        if came:
            os._exit(code)
        came.append(code)

    before = {number: signal.signal(number, note) for number in _CODES}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _words(summary: Summary) -> str:
    sizes = [
        f"{format_bytes(summary[name])} {text}"
        for name, text in (
            ("fetched_bytes", "fetched"),
            ("resumed_bytes", "resumed"),
            ("present_bytes", "there before"),
        )
        if summary.get(name)
    ]
    return (
        f"{summary['place']}: {summary['files']} files, {format_bytes(summary['bytes'])}"
        f" ({', '.join(sizes) or 'nothing to fetch'}) in {format_seconds(summary['seconds'])},"
        f" verified: {summary['verified']}"
    )
