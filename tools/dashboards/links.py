"""Where a panel leads to: the traces in Tempo, the workflows in Temporal's page, another dashboard."""

from __future__ import annotations

import json
import re
from urllib.parse import quote

from grafana_foundation_sdk.builders.dashboard import DashboardLink
from grafana_foundation_sdk.models.dashboard import DashboardLinkType

_VARIABLE = re.compile(r"(\$\{\w+})")

ALL_TRACES = '{ resource.service.name =~ "kube-cache.*" }'
FAILED_TRACES = '{ resource.service.name =~ "kube-cache.*" && status = error }'


def traces(query: str = ALL_TRACES, title: str = "Traces of this time in Tempo") -> DashboardLink:
    """Search Tempo in Explore, over the dashboard's time. query: TraceQL."""
    source = {"type": "tempo", "uid": "${tempo}"}
    pane = {
        "datasource": "${tempo}",
        "queries": [{"refId": "A", "datasource": source, "queryType": "traceql", "query": query, "limit": 50}],
        "range": {"from": "${__from}", "to": "${__to}"},
    }
    return _link(title, f"/explore?schemaVersion=1&orgId=1&panes={_escaped(json.dumps({'a': pane}))}")


def workflows(query: str, title: str) -> DashboardLink:
    """List workflows in Temporal's page. query: of its list filter."""
    return _link(title, "${temporal}/workflows?query=" + _escaped(query))


def node_dashboard() -> DashboardLink:
    """Of the node in the series that was clicked."""
    return _link("This node", "/d/kube-cache-node?var-node=${__field.labels.node}&${__url_time_range}")


def others() -> DashboardLink:
    """List the other dashboards at the top of a dashboard."""
    return (
        DashboardLink("Kube-Cache")
        .type(DashboardLinkType.DASHBOARDS)
        .tags(["kube-cache"])
        .as_dropdown(True)
        .keep_time(True)
        .include_vars(True)
    )


def _link(title: str, url: str) -> DashboardLink:
    return DashboardLink(title).type(DashboardLinkType.LINK).url(url).target_blank(True)


def _escaped(text: str) -> str:
    """Escape for a URL, but for Grafana's own variables, which it replaces by name."""
    return "".join(part if _VARIABLE.fullmatch(part) else quote(part, safe="") for part in _VARIABLE.split(text))
