"""Puts the operator's page together with the parts that it shows (watcher/page); nothing of it is loaded without it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from temporalio.client import Client

from kube_cache.kube.lease import Lease
from kube_cache.settings import OperatorSettings
from kube_cache.telemetry.probes import Health
from watcher.page.timeline import Timeline
from watcher.pods import PodWatcher
from watcher.progress.publisher import ProgressPublisher
from watcher.watches import Watches


@contextmanager
def serving_page(
    options: OperatorSettings,
    timeline: Timeline | None,
    *,
    client: Client,
    watcher: PodWatcher,
    watches: Watches,
    progress: ProgressPublisher,
    lease: Lease,
    health: Health,
    is_leading: Callable[[], bool],
) -> Iterator[None]:
    """Serve the page inside the context. timeline: of the watcher; None = there is no page. Raises InvalidRequest."""
    if timeline is None:
        yield
        return
    # jinja2 and the templates are for those who want the page.
    from watcher.page.facts import Sources  # noqa: PLC0415
    from watcher.page.holdings import Holdings  # noqa: PLC0415
    from watcher.page.hub import Hub  # noqa: PLC0415
    from watcher.page.prefetches import Prefetches  # noqa: PLC0415
    from watcher.page.server import MAX_VIEWERS, PageServer  # noqa: PLC0415

    sources = Sources(
        pods=watcher.all_pods,
        nodes=watches.nodes,
        progress=progress.by_pod,
        disks=progress.disks,
        holdings=Holdings(client, asyncio.get_running_loop()),
        prefetches=Prefetches(client, asyncio.get_running_loop()),
        timeline=timeline,
        waits_for=lambda: health.waits_for,
        is_leading=is_leading,
        holder=lambda: lease.holder,
        dollars_per_hour=options.gpu_dollars_per_hour,
    )
    with PageServer(options.page_address, Hub(sources.take, max_viewers=MAX_VIEWERS)):
        yield
