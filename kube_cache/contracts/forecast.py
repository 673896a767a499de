"""The forecast's runs: what one is asked, and the report that it leaves for people and for the next run.

A report is the result of a run of the workflow `Forecast`, which the schedule hands to the next run: it is the only
memory of the forecast, and `kube_cache.temporal.forecasts.latest` reads it. It travels packed (`ForecastRecord`),
because hundreds of datasets are hundreds of kilobytes of JSON every few minutes. All times are in seconds since the
epoch; copies are nodes that hold the data.
"""

import dataclasses
from dataclasses import dataclass, field
from enum import StrEnum

from kube_cache.contracts.prefetch import PrefetchSpec

UNKNOWN = -1
"""In a list of copies: not measured, or not to be told."""
MAX_DATASETS = 500
"""In a report; the others are counted as `left_out`."""
MAX_CURVE_SLOTS = 96
DAYS_OF_SCORE = 7


class RunState(StrEnum):
    """What became of a run.

    In all but the first the datasets are those of the last run that was ok, and no plan is made: the copies of the last
    one stay until its end.
    """

    OK = "ok"
    PROMETHEUS_DOWN = "prometheus-down"
    WRONG_EXPRESSION = "wrong-expression"
    """Prometheus refuses the expression, or us."""
    WRONG_ANSWER = "wrong-answer"
    """No Prometheus is there, or the series are not one for each dataset."""
    PARTIAL_ANSWER = "partial-answer"
    NO_DATA = "no-data"
    """The expression finds nothing."""
    WRONG_SETTINGS = "wrong-settings"
    """A time zone, an address or a span that cannot be used."""
    FAILED = "failed"
    """Something else; the message tells."""


class DatasetState(StrEnum):
    ACTING = "acting"
    """The plan is carried out."""
    FORECAST_ONLY = "forecast-only"
    """The gate is closed: plans are made and scored, and move nothing."""
    UNJUDGED = "unjudged"
    """The gate has not looked at it yet; it does so within some runs."""
    EMPTY = "empty"
    SHORT = "short"
    STALE = "stale"
    GAPS = "gaps"
    NEGATIVE = "negative"
    ABSURD = "absurd"
    """The last six: nothing can be told from the history, and the reason says why (kube_cache.forecast.condition)."""
    UNRESOLVED = "unresolved"
    """The gate is open, but the dataset cannot be listed at its origin, or is not allowed to the namespace."""


@dataclass(frozen=True)
class CopiesPlan:
    """The copies for one slot."""

    ready_at: int
    """When the copies must be complete."""
    until: int
    """When they are retired unless a later plan asks for them again."""
    copies: int
    """In use and idle together, as the prefetch gets them; 0 = no prefetch."""
    idle: int
    """Of these: beyond those in use when the plan was made."""
    wanted: int
    """Idle copies that the forecast asks for, before budget and gate."""
    forecast: float = UNKNOWN
    """Copies in use and idle together, before any bound."""
    reason: str = ""
    """Why fewer are granted than the forecast asks for, in words."""


@dataclass(frozen=True)
class Figures:
    """What plans were worth in some span; `kube_cache.forecast.replay` has the rules."""

    arrivals: int = 0
    hits: int = 0
    brought: int = 0
    """Copies that were fetched ahead of any Pod."""
    wasted: int = 0
    """Of these: retired before any Pod used them."""
    idle_h: float = 0
    """Hours that copies were ready and not in use, summed over the nodes."""

    @property
    def misses(self) -> int:
        return self.arrivals - self.hits


@dataclass(frozen=True)
class DayScore:
    """One local day, or as much of it as has passed. The reactive policy has no hits, no waste and no idle hours."""

    begin: int
    slots: int = 0
    """Slots that were scored; one that was not measured is not."""
    acted: int = 0
    """Of these: slots whose plan was carried out. The others tell what would have been."""
    ours: Figures = field(default_factory=Figures)
    always_on: Figures = field(default_factory=Figures)
    """What as many copies as were ever in use, day and night, would have been worth."""


@dataclass(frozen=True)
class Backtest:
    """The gate's last look: a replay of the last days with the plans that would have been made then."""

    judged_at: int = 0
    """0 = never."""
    acts: bool = False
    figures: Figures = field(default_factory=Figures)
    headroom: float = 0
    """That the last two weeks ask for, in units of the square root of the copies."""


@dataclass(frozen=True)
class ScoredPlan:
    """A plan whose slot has not been measured yet."""

    slot_at: int
    copies: int
    acts: bool


@dataclass(frozen=True)
class Tally:
    """Where the running score of a policy is; numbers of copies."""

    idle: int = 0
    fresh: int = 0
    """Idle copies that were brought and that no Pod has used yet."""


@dataclass(frozen=True)
class DatasetForecast:
    dataset: str
    """URI."""
    state: str
    """A DatasetState."""
    reason: str = ""
    """Why it is in this state, in words."""
    bytes_each: int = 0
    """Of one copy; 0 = not known yet."""
    sized_at: int = 0
    """When the size was looked up last; 0 = never."""
    size_error: str = ""
    """Why it could not be, in words."""
    in_use: int = UNKNOWN
    """Copies in use in the last slot that was measured."""
    highest: int = 0
    """Copies ever in use at once, within the weeks that are looked at: what always-on would keep."""
    lead_s: int = 0
    """Seconds ahead of which copies are planned, from the size and the measured speed of downloads."""
    curve_start: int = 0
    """Begin of the first slot of `expected` and `planned`."""
    curve_step_s: int = 0
    expected: list[int] = field(default_factory=list)
    """Copies likely to be in use; UNKNOWN where nothing can be told."""
    planned: list[int] = field(default_factory=list)
    """Copies, in use and idle, that the present model would have ready; of as many slots."""
    seen: list[int] = field(default_factory=list)
    """Copies that were in use in the slots before `curve_start`, the last of them last; UNKNOWN where not measured."""
    plan: CopiesPlan | None = None
    """None where no plan could be made."""
    prefetch: str = ""
    """Name of the Prefetch workflow that carries the plan out; empty = none."""
    prefetch_until: int = 0
    """When it ends unless it is renewed."""
    backtest: Backtest = field(default_factory=Backtest)
    days: list[DayScore] = field(default_factory=list)
    """The last of them last, today's; at most DAYS_OF_SCORE."""
    pending: list[ScoredPlan] = field(default_factory=list)
    """Oldest first; at most the lead."""
    scored_until: int = 0
    """Begin of the first slot that is not scored yet."""
    tally: Tally = field(default_factory=Tally)
    always_tally: Tally = field(default_factory=Tally)

    def score(self) -> DayScore:
        """Sum the days."""
        return DayScore(
            self.days[0].begin if self.days else 0,
            sum(day.slots for day in self.days),
            sum(day.acted for day in self.days),
            add([day.ours for day in self.days]),
            add([day.always_on for day in self.days]),
        )


@dataclass(frozen=True)
class ForecastLimits:
    """What the owner allows and asks for; the settings of the operator (kube_cache.forecast.settings)."""

    min_hit_rate: float = 0.7
    max_wasted: float = 0.5
    """Copies that are brought and never used, for each arrival."""
    max_idle_copies: int = 0
    max_idle_bytes: int = 0


@dataclass(frozen=True)
class ForecastReport:
    state: str
    """A RunState."""
    message: str = ""
    """Why, in words, with the remedy; empty where all is well."""
    made_at: int = 0
    ok_at: int = 0
    """Of the last run that was ok; 0 = none."""
    step_s: int = 0
    zone: str = ""
    expression: str = ""
    limits: ForecastLimits = field(default_factory=ForecastLimits)
    speed_bytes_per_s: float = 0
    """Of a download, as it was assumed for the lead."""
    datasets: list[DatasetForecast] = field(default_factory=list)
    """By URI."""
    left_out: int = 0


@dataclass(frozen=True)
class ForecastInput:
    clock_offset_s: float = 0
    """Added to the clock, in seconds. For tests, which cannot wait for 9 o'clock: no setting leads here, only whoever
    changes the schedule, and the offset moves nothing but the question about demand and the slots of the answer."""
    record: "ForecastRecord | None" = None
    """Of the run before, where no schedule hands it over."""


@dataclass(frozen=True)
class Sized:
    """What the origin said of a dataset."""

    dataset: str
    at: int
    bytes: int = 0
    error: str = ""
    """Why there is no size, in words."""


@dataclass(frozen=True)
class ForecastRecord:
    """Result of a run."""

    state: str
    """A RunState."""
    message: str = ""
    made_at: int = 0
    datasets: int = 0
    acting: int = 0
    packed: str = ""
    """The ForecastReport (kube_cache.temporal.forecasts packs and unpacks it)."""
    sizes: list[Sized] = field(default_factory=list)
    """Learned after the report was made; the next run takes them in."""


@dataclass(frozen=True)
class MakeForecastInput:
    packed: str
    """The report before; empty = none."""
    sizes: list[Sized] = field(default_factory=list)
    clock_offset_s: float = 0


@dataclass(frozen=True)
class AheadWanted:
    """Copies of a dataset for which nodes must be there, by plans that act."""

    dataset: str
    copies: int
    """In use and idle together."""
    lives_s: int
    """Seconds that a placeholder Pod lives that nobody renews."""


@dataclass(frozen=True)
class MadeForecast:
    record: ForecastRecord
    start: list[PrefetchSpec] = field(default_factory=list)
    """Prefetches that are to live until the plan's end."""
    end: list[str] = field(default_factory=list)
    """Names of prefetches that no plan asks for any more."""
    namespace: str = ""
    """Of all of them."""
    unsized: list[str] = field(default_factory=list)
    """Datasets whose size is to be looked up; a few."""
    places: bool = False
    """Whether placeholder Pods are to be as `ahead` says; False where the owner wants none, or no plan was made."""
    ahead: list[AheadWanted] = field(default_factory=list)
    renew_s: float = 0
    """As in PlacePlaceholdersInput."""


@dataclass(frozen=True)
class CarryOutInput:
    start: list[PrefetchSpec]
    end: list[str]
    namespace: str


@dataclass(frozen=True)
class PlacePlaceholdersInput:
    wanted: list[AheadWanted]
    """All of them: a placeholder of another dataset is deleted."""
    renew_s: float = 0
    """A placeholder that ends within so many seconds is made anew."""


def add(figures: list[Figures]) -> Figures:
    return Figures(*(sum(getattr(each, name.name) for each in figures) for name in dataclasses.fields(Figures)))
