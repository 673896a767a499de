"""Read the reports of the forecast, and pack them for their way through Temporal.

The schedule's runs end within minutes, so that the latest report is the result of the latest run that has ended well.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from datetime import timedelta

from temporalio.client import Client

from kube_cache import names
from kube_cache.contracts.forecast import ForecastRecord, ForecastReport
from kube_cache.temporal.payloads import CONVERTER

_RPC_TIMEOUT = timedelta(seconds=10)
_CONVERTER = CONVERTER.payload_converter


async def latest(client: Client) -> ForecastReport | None:
    """Return the latest report; None if there is none, as before the first run. Raises RPCError."""
    query = f"WorkflowType = '{names.FORECAST}' AND ExecutionStatus = 'Completed'"
    async for run in client.list_workflows(query, limit=1):  # the latest comes first
        handle = client.get_workflow_handle(run.id, run_id=run.run_id, result_type=ForecastRecord)
        record = await handle.result(follow_runs=False, rpc_timeout=_RPC_TIMEOUT)
        return report_of(record)
    return None


def report_of(record: ForecastRecord) -> ForecastReport:
    """Return the report that a run has left: of one that was not ok the last report, with what happened."""
    report = unpack(record.packed) if record.packed else ForecastReport(record.state)
    return replace(report, state=record.state, message=record.message, made_at=record.made_at)


def pack(report: ForecastReport) -> str:
    """Return a report in a tenth of the bytes of its JSON."""
    payload = _CONVERTER.to_payloads([report])[0]
    return base64.b64encode(zlib.compress(payload.data, 6)).decode()


def unpack(packed: str) -> ForecastReport:
    """Raises ValueError for what `pack` has not made. Fields of a newer build are left out."""
    try:
        document = json.loads(zlib.decompress(base64.b64decode(packed)))
    except zlib.error as error:
        raise ValueError(f"this is no report of a forecast: {error}") from error
    payload = _CONVERTER.to_payloads([document])[0]
    report: ForecastReport = _CONVERTER.from_payloads([payload], [ForecastReport])[0]
    return report
