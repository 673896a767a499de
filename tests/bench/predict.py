"""Backtests of the forecast against simple policies: a table, and build/bench/predict.json. Measures, never gates.

    python -m tests.bench.predict [--series FILE.csv --lead 1800 [--per-copy 1] [--zone Europe/Berlin]]

Each policy replays the same demand by the rules of `kube_cache.forecast.replay`, and plans each slot from what was
known `lead` seconds before. `acts` is the gate's verdict at the end of the series; the weeks tell how often it would
have acted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

from kube_cache.forecast import baselines
from kube_cache.forecast.forecaster import Model
from kube_cache.forecast.gate import judge
from kube_cache.forecast.headroom import TunedQuantile
from kube_cache.forecast.replay import Score, plans, score
from kube_cache.forecast.series import DAY_S
from tests.bench.predict_series import HISTORY_S, Case, cases, given

_OUT = Path("build/bench/predict.json")
_WEEK_S = 7 * DAY_S
MODELS: tuple[Model, ...] = (
    baselines.Reactive(),
    baselines.AlwaysOn(),
    baselines.LastValue(),
    baselines.SeasonalNaive(),
    baselines.WeeklyMedian(),
    TunedQuantile(),
)
Row = dict[str, object]


def measure(case: Case, model: Model) -> Row:
    demand, lead = case.demand, max(1, case.demand.slots(case.lead_s))
    begin = min(demand.slots(HISTORY_S), case.first)
    planned = plans(demand, model, lead, begin, len(demand))
    row = figures(score(demand, planned[case.first - begin :], case.first))
    row["whole"] = figures(score(demand, planned, begin))
    week = demand.slots(_WEEK_S)
    ends = range(len(demand), case.first, -week)
    verdicts = [judge(demand.until(end), model, lead, demand.time(end)) for end in ends]
    row["acts"] = verdicts[0].acts
    row["reason"] = verdicts[0].reason
    row["acting_weeks"] = sum(verdict.acts for verdict in verdicts)
    row["judged_weeks"] = len(verdicts)
    return row


def figures(found: Score) -> Row:
    return {
        "hit": round(found.hit_rate, 4),
        "wasted": round(found.wasted_each, 4),
        "idle_h": round(found.idle_h_each, 4),
        "arrivals": found.arrivals,
        "brought": found.brought,
    }


def show(case: Case, rows: dict[str, Row]) -> None:
    print(f"\n{case.name}, lead {case.lead_s} s: {case.note}")
    print(f"{'policy':<16}{'hits':>8}{'wasted':>9}{'idle h':>9}{'of always-on':>14}  gate")
    always = rows["always_on"]["idle_h"]
    for name, row in rows.items():
        part = row["idle_h"] / always  # type: ignore[operator]
        gate = f"{'acts' if row['acts'] else 'forecast-only'} (acts in {row['acting_weeks']} of {row['judged_weeks']} weeks)"
        print(f"{name:<16}{row['hit']:>8.1%}{row['wasted']:>9.2f}{row['idle_h']:>9.2f}{part:>14.1%}  {gate}")
    print(rows["ours"]["reason"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=Path, help="a file of timestamp,value to replay as well")
    parser.add_argument("--lead", type=int, default=1800, help="seconds that a copy takes to come (1800)")
    parser.add_argument("--per-copy", type=float, default=1.0, help="how much of the file's values one copy serves (1)")
    parser.add_argument("--zone", default="UTC", help="where the people are; a time without offset is UTC (UTC)")
    args = parser.parse_args()
    wanted = list(cases())
    if args.series:
        wanted.append(given(args.series, args.lead, args.per_copy, args.zone))
    found: dict[str, object] = {
        "machine": {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
    }
    for case in wanted:
        started = time.perf_counter()
        rows = {model.name: measure(case, model) for model in MODELS}
        found[case.name] = rows
        show(case, rows)
        print(f"  {time.perf_counter() - started:.1f} s", file=sys.stderr)
    _OUT.parent.mkdir(parents=True, exist_ok=True)
    _OUT.write_text(json.dumps(found, indent=1))
    print(f"\nwasted copies and idle hours are for each arrival; figures: {_OUT}")


if __name__ == "__main__":
    main()
