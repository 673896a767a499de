"""The few kinds of panel and variable that all dashboards are made of.

A panel says in its description what it answers: whoever opens a dashboard at night has not read the docs. `$__range` is
the dashboard's time, `$__rate_interval` what Grafana finds right for a rate over one point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from grafana_foundation_sdk.builders import bargauge, common, prometheus, stat, table, tempo, timeseries
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    TextBoxVariable,
    ThresholdsConfig,
)
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    DataTransformerConfig,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.tempo import SearchTableType

from tools.dashboards import links

FULL, HALF, THIRD, QUARTER, SIXTH = 24, 12, 8, 6, 4
"""Widths of panels, of the 24 columns that Grafana has."""
_NUMBER_HEIGHT, _HEIGHT = 4, 8
_METRICS = DataSourceRef(type_val="prometheus", uid="${prometheus}")
_TRACES = DataSourceRef(type_val="tempo", uid="${tempo}")
Links = Sequence[DashboardLink]
P = TypeVar("P", stat.Panel, timeseries.Panel, bargauge.Panel, table.Panel)


def number(
    title: str,
    text: str,
    expression: str,
    *,
    unit: str = "short",
    width: int = SIXTH,
    bad_from: float | None = None,
    lines_to: Links = (),
) -> stat.Panel:
    """Show one value of now. bad_from: value from which on the panel is red."""
    steps = [Threshold(value=None, color="green" if bad_from is not None else "blue")]
    if bad_from is not None:
        steps.append(Threshold(value=bad_from, color="red"))
    return (
        _framed(stat.Panel(), title, text, unit, width, lines_to)
        .height(_NUMBER_HEIGHT)
        .reduce_options(_newest())
        .graph_mode(BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.VALUE)
        .thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .with_target(_query(expression, "", 0).instant())
    )


def lines(
    title: str,
    text: str,
    expressions: Mapping[str, str],
    *,
    unit: str = "short",
    width: int = HALF,
    stacked: StackingMode = StackingMode.NONE,
    lines_to: Links = (),
    series_to: Links = (),
) -> timeseries.Panel:
    """Draw values over time. expressions: by legend. series_to: links of each series."""
    panel = (
        _framed(timeseries.Panel(), title, text, unit, width, lines_to)
        .data_links(list(series_to))
        .line_width(1)
        .fill_opacity(10 if stacked == StackingMode.NONE else 60)
        .stacking(common.StackingConfig().mode(stacked))
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
    )
    for place, (legend, expression) in enumerate(expressions.items()):
        panel = panel.with_target(_query(expression, legend, place).range())
    return panel


def bars(
    title: str,
    text: str,
    expressions: Mapping[str, str],
    *,
    unit: str = "s",
    width: int = HALF,
    lines_to: Links = (),
) -> bargauge.Panel:
    """Draw one bar for each expression, in their order. expressions: by legend."""
    panel = (
        _framed(bargauge.Panel(), title, text, unit, width, lines_to)
        .reduce_options(_newest())
        .orientation(VizOrientation.HORIZONTAL)
    )
    for place, (legend, expression) in enumerate(expressions.items()):
        panel = panel.with_target(_query(expression, legend, place).instant())
    return panel


def rows(
    title: str,
    text: str,
    expression: str,
    *,
    unit: str = "short",
    width: int = HALF,
    lines_to: Links = (),
    series_to: Links = (),
) -> table.Panel:
    """List the series of now."""
    hidden = {"excludeByName": {"Time": True, "__name__": True, "instance": True, "job": True}}
    return (
        _framed(table.Panel(), title, text, unit, width, lines_to)
        .data_links(list(series_to))
        .with_target(_query(expression, "", 0).instant().format(PromQueryFormat.TABLE))
        .with_transformation(DataTransformerConfig(id_val="organize", options=hidden))
    )


def found_traces(title: str, text: str, query: str, *, width: int = FULL) -> table.Panel:
    """List traces that Tempo finds. query: TraceQL."""
    wanted = (
        tempo.TempoQuery()
        .ref_id("A")
        .datasource(_TRACES)
        .query_type("traceql")
        .query(query)
        .limit(20)
        .table_type(SearchTableType.TRACES)
    )
    return (
        table.Panel().title(title).description(text).datasource(_TRACES).span(width).height(_HEIGHT).with_target(wanted)
    )


def dashboard(uid: str, title: str, text: str) -> Dashboard:
    """Begin a dashboard, with the variables that all have: where metrics and traces are, and Temporal's page."""
    return (
        Dashboard(f"Kube-Cache / {title}")
        .uid(uid)
        .description(text)
        .tags(["kube-cache"])
        .readonly()
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(links.others())
        .with_variable(DatasourceVariable("prometheus").label("Prometheus").type("prometheus"))
        .with_variable(DatasourceVariable("tempo").label("Tempo").type("tempo"))
        .with_variable(
            TextBoxVariable("temporal")
            .label("Temporal's page, with the namespace")
            .default_value("http://localhost:8233/namespaces/kube-cache")
        )
    )


def node_variable() -> QueryVariable:
    """One node of those that have an agent. The list comes once for each opening: it may have thousands of entries."""
    return (
        QueryVariable("node")
        .label("Node")
        .datasource(_METRICS)
        .query("label_values(kube_cache_disk_capacity_bytes, node)")
        .refresh(VariableRefresh.ON_DASHBOARD_LOAD)
    )


def quantiles(metric: str, matchers: str = "", by: str = "") -> dict[str, str]:
    """Median and 95 % of a histogram, for `lines`. by: label that tells the series apart, in the legend too."""
    grouped = f"sum by (le{', ' + by if by else ''})"
    legend = f" {{{{{by}}}}}" if by else ""
    return {
        f"{words}{legend}": (
            f"histogram_quantile({share}, {grouped} (rate({metric}_bucket{matchers}[$__rate_interval])))"
        )
        for words, share in (("median", 0.5), ("95 %", 0.95))
    }


def _framed(panel: P, title: str, text: str, unit: str, width: int, lines_to: Links) -> P:
    """Give a panel of metrics what all of them have."""
    return (
        panel.title(title)
        .description(text)
        .datasource(_METRICS)
        .unit(unit)
        .span(width)
        .height(_HEIGHT)
        .links(list(lines_to))
    )


def _newest() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)


def _query(expression: str, legend: str, place: int) -> prometheus.Dataquery:
    return (
        prometheus.Dataquery()
        .datasource(_METRICS)
        .ref_id("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[place])
        .expr(expression)
        .legend_format(legend)
    )
