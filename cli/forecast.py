"""`kube-cache forecast`: what the last run expects and plans, what plans were worth, and whether it acts, for people.

Shows the report that the run has left in Temporal; computes no forecast and asks Prometheus nothing. A state is said
before any figure: whoever reads a curve must know whether anybody acts on it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli import forecast_svg
from cli.cluster import ask, complain, complain_of_sources, print_json
from cli.forecast_chart import chart, sparkline
from kube_cache.contracts.forecast import UNKNOWN, DatasetForecast, DatasetState, Figures, ForecastReport, RunState
from kube_cache.contracts.node import ExitCode
from kube_cache.insight.sources import Sources
from kube_cache.temporal import forecasts
from kube_cache.units import format_bytes, format_seconds

_OFF: Final = (
    "no forecast has been made yet; KUBE_CACHE_FORECAST__ENABLED=true of the operators switches it on, and the first run"
    " is due within its interval"
)
_STYLES: Final = {DatasetState.ACTING: "green", DatasetState.FORECAST_ONLY: "yellow"}
_SPARK: Final = 24
_WIDTH: Final = 96


def run(dataset: str, *, limit: int, svg: str, as_json: bool) -> int:
    """Print all datasets, or one with its curve. svg: file for the curve; empty = none. Return the exit code."""
    return ask(lambda sources: show(sources, dataset, limit=limit, svg=svg, as_json=as_json), kubernetes=False)


async def show(sources: Sources, dataset: str, *, limit: int, svg: str, as_json: bool) -> int:
    """Print the last report. Return the exit code."""
    if sources.temporal is None:
        return complain_of_sources(sources)
    report = await sources.ask_temporal(forecasts.latest)
    if report is None:
        if sources.temporal_error:
            return complain_of_sources(sources)
        complain(_OFF)
        return ExitCode.ABSENT
    shown = [each for each in report.datasets if dataset in ("", each.dataset)]
    if dataset and not shown:
        complain(f"the forecast knows no demand of {dataset}; without an argument all that it knows are listed")
        return ExitCode.ABSENT
    if svg:
        try:
            await asyncio.to_thread(Path(svg).write_text, forecast_svg.draw(shown[:limit], _zone(report)))
        except OSError as error:
            complain(f"cannot write {svg}: {error}")
            return ExitCode.FAILED
    if as_json:
        print_json(document(report, shown, limit))
    elif dataset:
        Console().print(detail(report, shown[0]))
    else:
        Console().print(table(report, shown, limit))
    return ExitCode.DONE


def head(report: ForecastReport) -> Text:
    """Say how the last run ended, for how many datasets it acts, and why nodes that are missing are not asked for."""
    at = _clock(report.made_at, report)
    if report.state != RunState.OK:
        words = f"The last run, at {at}, made no plan: {report.state}: {report.message}"
        last = f" What follows is of {_clock(report.ok_at, report)}." if report.ok_at else ""
        return Text(words.rstrip(".") + "." + last, style="bold red")
    acting = sum(each.state == DatasetState.ACTING for each in report.datasets)
    known = len(report.datasets) + report.left_out
    text = f"Forecast of {at}, {report.zone}: it acts for {acting} of {known} datasets"
    if report.left_out:
        text += f"; {report.left_out} with less demand are left out"
    told = f" {report.message.rstrip('.')}." if report.message else ""
    return Text(f"{text}.{told}", style="bold")


def state_words(of: DatasetForecast) -> str:
    """Say whether anybody acts on the forecast, and why not."""
    if of.state == DatasetState.ACTING:
        return "acting" + (f": {of.reason}" if of.reason else "")
    if of.state == DatasetState.FORECAST_ONLY:
        return f"forecast-only, moves nothing: {of.reason or 'the gate is closed'}"
    return f"no plan ({of.state}): {of.reason or 'nothing can be told from the history'}"


def plan_words(of: DatasetForecast, report: ForecastReport) -> str:
    """Say what the plan has ready, and what of it was not granted."""
    plan = of.plan
    if plan is None:
        return "no plan"
    text = f"{plan.copies} copies by {_clock(plan.ready_at, report)}, {plan.idle} of them idle"
    if plan.wanted > plan.idle:
        text += f" of {plan.wanted} that the forecast asks for" + (f" ({plan.reason})" if plan.reason else "")
    return text


def table(report: ForecastReport, shown: Sequence[DatasetForecast], limit: int) -> RenderableType:
    """Compose a row for each dataset: curve, plan, and the score of the last days beside reactive and always-on."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    made.add_column("DATASET", overflow="fold")
    made.add_column("STATE", overflow="fold")
    for name in ("EXPECTED", "PLAN"):
        made.add_column(name, no_wrap=True)
    for name in ("HITS", "WASTED", "IDLE", "OF ALWAYS-ON"):
        made.add_column(name, no_wrap=True, justify="right")
    for each in shown[:limit]:
        score = each.score()
        made.add_row(
            each.dataset,
            Text(state_words(each), style=_STYLES.get(DatasetState(each.state), "red") if _known(each) else ""),
            sparkline(each.expected, _SPARK),
            "-" if each.plan is None else f"{each.plan.copies} copies",
            _share(score.ours.hits, score.ours.arrivals),
            _wasted(score.ours, each.bytes_each),
            _idle(score.ours),
            _share(score.ours.idle_h, score.always_on.idle_h),
        )
    hidden = max(0, len(shown) - limit)
    notes = "Hits, wasted bytes and idle copy-hours of the last days' plans, of forecast-only ones as if carried out."
    if hidden:
        notes += f" {hidden} more datasets are not shown (--limit)."
    return Group(head(report), made, Text(notes, style="dim"))


def detail(report: ForecastReport, of: DatasetForecast) -> RenderableType:
    """Compose all of one dataset: state, plan, curve, and the score beside the policies that it must beat."""
    score, back = of.score(), of.backtest
    state = Text(state_words(of), style=_STYLES.get(DatasetState(of.state), "red") if _known(of) else "")
    lines: list[RenderableType] = [head(report), Text(of.dataset, style="bold"), state]
    if of.in_use != UNKNOWN:
        lines.append(Text(f"in use {of.in_use}, at most {of.highest}; a copy has {format_bytes(of.bytes_each)}"))
    lines.append(Text(f"plan: {plan_words(of, report)}; the lead is {format_seconds(of.lead_s)}"))
    if of.prefetch:
        until = _clock(of.prefetch_until, report)
        lines.append(Text(f"carried out by prefetch {of.prefetch}, until {until} unless it is renewed"))
    if of.curve_step_s:
        lines += [Text(""), *chart(of, _WIDTH, lambda at: _clock(at, report))]
    lines += [Text(""), _policies(score.ours, score.always_on, of.bytes_each)]
    acted = _share(score.acted, score.slots)
    lines.append(Text(f"of {len(of.days)} days, {score.slots} slots, {acted} of them carried out", style="dim"))
    if back.judged_at:
        limits, figures = report.limits, back.figures
        lines.append(
            Text(
                f"the gate, {_clock(back.judged_at, report)}: {_share(figures.hits, figures.arrivals)} hits (at least"
                f" {limits.min_hit_rate:.0%}), {_per_arrival(figures)} wasted copies an arrival (at most"
                f" {limits.max_wasted:g}): {'it acts' if back.acts else 'it does not act'}"
            )
        )
    return Group(*lines)


def _policies(ours: Figures, always_on: Figures, bytes_each: int) -> Table:
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    made.add_column("POLICY")
    for name in ("HITS", "MISSES", "WASTED", "IDLE COPY-HOURS"):
        made.add_column(name, justify="right", no_wrap=True)
    reactive = Figures(ours.arrivals)
    for name, figures in (("ours", ours), ("reactive", reactive), ("always on", always_on)):
        made.add_row(
            name,
            f"{figures.hits} ({_share(figures.hits, figures.arrivals)})",
            str(figures.misses),
            _wasted(figures, bytes_each),
            f"{figures.idle_h:.1f}",
        )
    return made


def document(report: ForecastReport, shown: Sequence[DatasetForecast], limit: int) -> dict[str, Any]:
    """Compose what `--json` prints; docs/operate/cli.md explains the keys."""
    rows = []
    for each in shown[:limit]:
        row = asdict(each)
        for internal in ("pending", "tally", "always_tally", "scored_until", "sized_at"):
            row.pop(internal, None)
        row["score"] = asdict(each.score())
        row["acts"] = each.state == DatasetState.ACTING
        rows.append(row)
    head_of = asdict(report)
    head_of.pop("datasets")
    return {**head_of, "datasets": rows, "shown": len(rows), "total": len(shown)}


def _known(of: DatasetForecast) -> bool:
    """Whether this build knows the state; one of a newer operator it may not."""
    return of.state in set(DatasetState)


def _zone(report: ForecastReport) -> tzinfo:
    try:
        return ZoneInfo(report.zone)
    except (ValueError, OSError, KeyError):  # this machine does not know it
        return UTC


def _clock(at: float, report: ForecastReport) -> str:
    """Format a time in the forecast's zone: a plan for 9 o'clock is one for 9 o'clock there."""
    if not at:
        return "never"
    moment = datetime.fromtimestamp(at, _zone(report))
    today = datetime.fromtimestamp(time.time(), _zone(report)).date()
    return moment.strftime("%H:%M" if moment.date() == today else "%Y-%m-%d %H:%M")


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "-"


def _per_arrival(figures: Figures) -> str:
    return f"{figures.wasted / figures.arrivals:.2f}" if figures.arrivals else "-"


def _wasted(figures: Figures, bytes_each: int) -> str:
    return format_bytes(figures.wasted * bytes_each) if bytes_each else f"{figures.wasted} copies"


def _idle(figures: Figures) -> str:
    return f"{figures.idle_h:.1f} h"
