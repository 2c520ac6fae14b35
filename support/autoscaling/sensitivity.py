"""What if the world were another one: families of policies over grids of worlds in one compiled run, fronts, not points."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from support.autoscaling.batch import prepare_batch, run_batch
from support.autoscaling.environment import Environment
from support.autoscaling.policies import ForecastMean, Newsvendor, Reactive, Static, servers_for
from support.autoscaling.rules import Plan, TargetTracking, Thresholds
from support.autoscaling.scoring import score
from support.autoscaling.simulate import Policy, simulate
from support.errors import SchemaError
from support.forecasting import RollingQuantiles

__all__ = [
    "Family",
    "Scene",
    "cheapest",
    "knob_families",
    "least_over",
    "pareto_front",
    "reissue",
    "run_scenes",
    "sensitivity_grid",
]

COMPILED = (Static, Reactive, Thresholds, TargetTracking, Plan, ForecastMean, Newsvendor)  # types that the engine knows
PEAK_SHARES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0)  # of the past's 99.9 % quantile
TARGETS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
HEADROOMS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.3)
FRACTILES = (
    0.5,
    0.75,
    0.9,
    0.95,
    0.975,
    0.99,
    0.995,
    0.9975,
    0.999,
    0.9995,
)  # of the last three, those that the forecast has
LOW_SHARE = 0.4  # lower threshold over the upper one: 0.30 over 0.75 in the published rule


@dataclass(frozen=True)
class Family:
    """Policies that differ in one knob: `make(value)` for each of `values`; `knob` says in words what it is."""

    name: str
    knob: str
    make: Callable[[float], Policy]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Scene:
    """One world to play in: demand (n_time,), requests per tick, the forecast of it, and what was `changed` (for tables).

    Raises SchemaError if the forecast sees newer data than the environment's metric lag lets it.
    """

    environment: Environment
    demand: pd.Series
    forecast: RollingQuantiles | None = None
    changed: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lag = self.environment.metric_lag_ticks
        if self.forecast is not None and self.forecast.lag_ticks < lag:
            raise SchemaError(
                f"scene: the forecast sees data {self.forecast.lag_ticks} ticks old, the metrics are {lag}. Use reissue."
            )
        if self.forecast is not None and not self.demand.index.equals(self.forecast.timestamps):
            raise SchemaError("scene: the forecast's rows are not the demand's ticks. Use reissue.")


def knob_families(environment: Environment, past: pd.Series) -> tuple[Family, ...]:
    """Six families with a compiled twin, one knob each. past (n_time,), requests per tick, sizes the fixed fleets.

    Example:
        >>> minutes = pd.date_range("2026-01-01", periods=3, freq="60s", tz="UTC")
        >>> world = Environment(tick_seconds=60, service_rate_rps=1.0)
        >>> [f.name for f in knob_families(world, pd.Series(600.0, index=minutes))][:3]
        ['static', 'thresholds', 'reactive']
    """
    peak = int(servers_for(past.quantile(0.999), environment))
    sizes = tuple(sorted({float(max(1, round(share * peak))) for share in PEAK_SHARES}))
    return (
        Family("static", "servers", lambda n: Static(int(n)), sizes),
        Family("thresholds", "upper threshold", lambda u: Thresholds(u, LOW_SHARE * u), TARGETS),
        Family("reactive", "target utilisation", Reactive, TARGETS),
        Family("target tracking", "target utilisation", TargetTracking, TARGETS),
        Family("forecast mean", "headroom", ForecastMean, HEADROOMS),
        Family("newsvendor", "fractile", Newsvendor, FRACTILES),
    )


def reissue(
    rolling: RollingQuantiles, timestamps: pd.DatetimeIndex, *, lag_ticks: int = 0, bias_frac: float = 0.0
) -> RollingQuantiles:
    """The forecast for `timestamps` as it stood `lag_ticks` earlier, and wrong by `bias_frac` on purpose.

    Row i of the answer is row i - lag of `rolling`, whose horizon it shortens by lag; all values are times 1 + bias.
    Raises SchemaError if `rolling` starts too late, ends too early, or no horizon is left.

    Example:
        >>> minutes = pd.date_range("2026-01-01", periods=3, freq="60s", tz="UTC")
        >>> values = np.arange(6.0).reshape(3, 2)
        >>> rolling = RollingQuantiles(minutes, np.array([0.5]), values[..., None], values, "made up", 0)
        >>> reissue(rolling, minutes[1:], lag_ticks=1).mean.tolist()
        [[1.0], [3.0]]
    """
    first = int(rolling.timestamps.searchsorted(timestamps[0])) - lag_ticks
    rows = slice(first, first + len(timestamps))
    if first < 0 or not rolling.timestamps[rows.start + lag_ticks : rows.stop + lag_ticks].equals(timestamps):
        raise SchemaError(
            f"reissue: {timestamps[0]} to {timestamps[-1]} with a lag of {lag_ticks} ticks is not within the forecast, "
            f"{rolling.timestamps[0]} to {rolling.timestamps[-1]}."
        )
    if not 0 <= lag_ticks < rolling.mean.shape[1]:
        raise SchemaError(f"reissue: a lag of {lag_ticks} ticks leaves nothing of {rolling.mean.shape[1]} ticks ahead.")
    factor = 1 + bias_frac
    return RollingQuantiles(
        timestamps, rolling.levels, factor * rolling.quantiles[rows, lag_ticks:],
        factor * rolling.mean[rows, lag_ticks:], rolling.model, rolling.lag_ticks + lag_ticks,
    )  # fmt: skip


def run_scenes(
    scenes: Sequence[Scene], families: Sequence[Family], *, initial_servers: int | None = None
) -> pd.DataFrame:
    """Every knob value of every family in every scene, in one compiled run: scores by (scene, family, knob).

    scene: position in `scenes`. Columns as `BatchRun.scores`. Raises SchemaError if the scenes differ in length.
    """
    if len({len(scene.demand) for scene in scenes}) != 1:
        raise SchemaError("run_scenes: give scenes of one length, at least one.")
    policies = {(f.name, value): f.make(value) for f in families for value in f.values}
    rows = [(i, name, value) for i in range(len(scenes)) for name, value in policies]
    traces = {id(scene.demand): scene.demand.to_numpy(float) for scene in scenes}
    row_of = {key: i for i, key in enumerate(traces)}
    batch = prepare_batch(
        np.stack(list(traces.values())), [policies[name, value] for _, name, value in rows],
        [scenes[i].environment for i, *_ in rows], trace=np.array([row_of[id(scenes[i].demand)] for i, *_ in rows]),
        forecasts=[scenes[i].forecast for i, *_ in rows],
        initial_servers=None if initial_servers is None else np.array(initial_servers),
    )  # fmt: skip
    scores = run_batch(batch).scores()
    scores.index = pd.MultiIndex.from_tuples(rows, names=["scene", "family", "knob"])
    return scores


def sensitivity_grid(
    past: Sequence[Scene], unseen: Sequence[Scene], families: Sequence[Family], *,
    initial_servers: tuple[int | None, int | None] = (None, None),
) -> pd.DataFrame:  # fmt: skip
    """Each family tuned on `past` and judged on `unseen`, in every scene: one row a scene and family.

    Scene i of both lists is the same world on other days. Columns: what the scene `changed`, family, knob (the
    cheapest on the past), the scores on the unseen days, and hindsight_usd, the cost of the best knob had it been known.
    initial_servers: of past and unseen days. Raises SchemaError if the lists do not match.
    """
    if [s.environment for s in past] != [s.environment for s in unseen]:
        raise SchemaError("sensitivity: past and unseen scenes must be the same worlds in the same order.")
    tuned = run_scenes(past, families, initial_servers=initial_servers[0])["cost_usd"]
    judged = run_scenes(unseen, families, initial_servers=initial_servers[1])
    chosen = tuned.groupby(level=["scene", "family"], sort=False).idxmin()
    rows = judged.loc[chosen.to_list()].reset_index()
    best = judged["cost_usd"].groupby(level=["scene", "family"], sort=False).min()
    rows["hindsight_usd"] = best.loc[chosen.index].to_numpy()
    changed = pd.DataFrame([unseen[i].changed for i in rows["scene"]])
    return pd.concat([changed, rows], axis=1)


def cheapest(grid: pd.DataFrame, row: str, column: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(family that costs least, its saving over the runner-up as a fraction), each as a table of `row` by `column`.

    grid: from `sensitivity_grid`, two or more families. Ties go to the first family.

    Example:
        >>> grid = pd.DataFrame({"boot": [1, 1], "price": [2, 2], "family": ["a", "b"], "cost_usd": [4.0, 3.0]})
        >>> winner, saving = cheapest(grid, "boot", "price")
        >>> winner.loc[1, 2], float(saving.loc[1, 2])
        ('b', 0.25)
    """
    costs = grid.pivot_table(index=[row, column], columns="family", values="cost_usd", sort=False)
    ordered = np.sort(costs.to_numpy(), axis=1)
    saving = pd.Series(1 - ordered[:, 0] / ordered[:, 1], index=costs.index)
    return costs.idxmin(axis=1).unstack(column), saving.unstack(column)


def pareto_front(scene: Scene, families: Sequence[Family], *, initial_servers: int | None = None) -> pd.DataFrame:
    """Over-provisioning against bad ticks as each family's knob turns: one row a (family, knob).

    over_percent: mean relative surplus of servers (theta_O of Herbst et al., 2018, u* = 1); bad_percent: ticks with a
    loss or a wait beyond the SLO; cost_usd; on_front: no other point of any family is as good in both and better in
    one. Families the engine knows run compiled, the others tick by tick.
    """
    rows = [(f.name, value) for f in families for value in f.values]
    policies = [f.make(value) for f in families for value in f.values]
    known = [i for i, policy in enumerate(policies) if isinstance(policy, COMPILED)]
    points = np.empty((len(rows), 3))
    if known:
        batch = prepare_batch(
            scene.demand.to_numpy(float), [policies[i] for i in known], [scene.environment],
            trace=np.zeros(len(known), dtype=int), forecasts=[scene.forecast],
            initial_servers=None if initial_servers is None else np.array(initial_servers),
        )  # fmt: skip
        run = run_batch(batch, keep_ticks=True)
        need = servers_for(scene.demand.to_numpy(float), scene.environment)[:, None]
        over = (np.maximum(run.ticks["servers"] - need, 0) / np.maximum(need, 1)).mean(axis=0)
        points[known] = np.column_stack([100 * over, 100 * run.totals["bad_ticks"] / run.n_time, run.cost_usd])
    for i in set(range(len(rows))) - set(known):
        found = score(
            simulate(
                scene.demand, policies[i], scene.environment, forecast=scene.forecast, initial_servers=initial_servers
            )
        )
        points[i] = found["over_percent"], 100 - found["minute_slo_percent"], found["cost_usd"]
    index = pd.MultiIndex.from_tuples(rows, names=["family", "knob"])
    front = pd.DataFrame(points, columns=["over_percent", "bad_percent", "cost_usd"], index=index)
    both = points[:, :2]
    beaten = [bool(((both <= p).all(axis=1) & (both < p).any(axis=1)).any()) for p in both]
    return front.assign(on_front=~np.array(beaten))


def least_over(front: pd.DataFrame, bad_percent: float) -> pd.Series:
    """Least over_percent of each family among its points with at most `bad_percent` bad ticks; NaN where it has none.

    Example:
        >>> index = pd.MultiIndex.from_tuples([("a", 1.0), ("a", 2.0), ("b", 1.0)], names=["family", "knob"])
        >>> front = pd.DataFrame({"over_percent": [9.0, 30.0, 5.0], "bad_percent": [0.4, 0.1, 2.0]}, index=index)
        >>> least_over(front, 0.5).to_dict()
        {'a': 9.0, 'b': nan}
    """
    good = front["over_percent"].where(front["bad_percent"] <= bad_percent + 1e-9)
    return good.groupby(level="family", sort=False).min()
