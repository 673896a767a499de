"""The series of demand that `make bench-predict` replays: two real ones, a made rush, and any file of its user."""

from __future__ import annotations

import csv
import math
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

from kube_cache.forecast.series import DAY_S, Series
from kube_cache.forecast.wall_time import zone

DATA = Path(__file__).parent / "data"
HISTORY_S = 28 * DAY_S
"""Never scored: all models have these four weeks to learn from."""
_UTC = ZoneInfo("UTC")
_RUSH_BEGAN = datetime(
    2026, 2, 2, tzinfo=ZoneInfo("Europe/Berlin")
)  # a Monday; clocks change on 29 March, in the score
_RUSH_WEEKS = 12


@dataclass(frozen=True)
class Case:
    name: str
    demand: Series
    lead_s: int
    first: int
    """The first slot that is scored in the table. The parameters of our model were chosen on nothing from there on."""
    note: str


def cases() -> Iterator[Case]:
    taxi = read(DATA / "nyc_taxi.csv", per_copy=1000)
    start = taxi.slots(HISTORY_S)
    half = (start + len(taxi)) // 2
    yield Case("nyc_taxi", taxi, 1800, half, "second half; parameters were chosen on the first")
    yield Case("nyc_taxi_ended", taxi, 3600, half, "the same, where a slot is known only when it has ended")
    tweets = read(DATA / "Twitter_volume_AAPL.csv", per_copy=10)
    yield Case("aapl_tweets", tweets, 600, tweets.slots(HISTORY_S), "after four weeks; nothing was chosen on it")
    rush = nine_o_clock(seed=2)
    yield Case("rush", rush, 600, rush.slots(HISTORY_S), "after four weeks, seed 2; parameters were chosen with seed 1")


def given(path: Path, lead_s: int, per_copy: float, zone_name: str) -> Case:
    """A file of the user; with less than eight weeks in it, its second half is scored."""
    demand = read(path, per_copy=per_copy, local=zone(zone_name))
    first = min(demand.slots(HISTORY_S), len(demand) // 2)
    return Case(
        path.stem, demand, lead_s, first, f"{len(demand):,} slots of {demand.step_s} s, scored from {first:,} on"
    )


def read(path: Path, per_copy: float, local: ZoneInfo = _UTC) -> Series:
    """Read `timestamp,value`, as ISO 8601 or seconds since the epoch, evenly spaced but for gaps.

    A timestamp without an offset is taken for UTC. That suits local times whose days all have 24 hours, as in both
    files here, as long as `local` is UTC, too.
    """
    with path.open(newline="") as file:
        points = [(_seconds(row["timestamp"]), float(row["value"] or "nan") / per_copy) for row in csv.DictReader(file)]
    step = int(statistics.median(later - earlier for (earlier, _), (later, _) in pairwise(sorted(points))))
    return Series.from_points(points, step_s=step, zone=local)


def nine_o_clock(seed: int) -> Series:
    """Make a rush: on weekdays some 60 Pods come around 9:00 in Berlin, day and night one an hour, each for 45 minutes.

    Pods come as a Poisson process, a normal curve of 20 minutes around 9:00; days differ by 20 % (lognormal); a Pod's
    life is exponential. Five-minute slots, 12 weeks, with a change of the clocks.
    """
    chance = random.Random(seed)
    step = 300
    begin = int(_RUSH_BEGAN.timestamp())
    slots = _RUSH_WEEKS * 7 * DAY_S // step
    change = [0] * (slots + 1)

    def add(moment: float) -> None:
        # As Prometheus sees them: who is there when a slot begins.
        first = max(0, math.ceil((moment - begin) / step))
        gone = math.ceil((moment + chance.expovariate(1 / 2700) - begin) / step)
        change[min(first, slots)] += 1
        change[min(gone, slots)] -= 1

    moment = float(begin)
    while (moment := moment + chance.expovariate(1 / 3600)) < begin + slots * step:
        add(moment)
    for day in range(_RUSH_WEEKS * 7):
        date = datetime.fromtimestamp(begin + day * DAY_S + DAY_S // 2, _RUSH_BEGAN.tzinfo)
        nine = date.replace(hour=9, minute=0, second=0).timestamp()
        if date.weekday() < 5:
            for _ in range(_poisson(chance, 60 * math.exp(chance.gauss(0, 0.2)))):
                add(nine + chance.gauss(0, 1200))
    in_use, values = 0, []
    for each in change[:slots]:
        in_use += each
        values.append(float(in_use))
    return Series.of(values, start=begin, step_s=step, zone=zone("Europe/Berlin"))


def _poisson(chance: random.Random, mean: float) -> int:
    count, passed = 0, chance.expovariate(1)
    while passed < mean:
        count, passed = count + 1, passed + chance.expovariate(1)
    return count


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
