"""From sample paths to one decision: expected cost and risk of each fleet size, and of doing nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd

from support.autoscaling.environment import Decision, Environment
from support.autoscaling.policies import servers_for
from support.errors import SchemaError
from support.forecasting import Forecast
from support.writing import amount

__all__ = ["decide", "expected_costs"]


def expected_costs(
    forecast: Forecast, environment: Environment, servers_now: int, candidates: np.ndarray, *,
    price_bad_tick_usd: float = 0.0,
) -> pd.DataFrame:  # fmt: skip
    """Expected cost in USD over the forecast horizon and risk of a drop, for each total in `candidates` (n,).

    A total above `servers_now` is paid at once and serves after the boot delay; one below takes effect at once. Queue
    and waiting are left out. price_bad_tick_usd: of a tick with a drop, as in `StochasticMPC`. Columns `cost_usd`,
    `risk_frac`; index `servers`.
    """
    paths = forecast.paths[0]  # (draw, horizon)
    mu, delay = environment.capacity_per_tick, environment.boot_delay_ticks
    rows = []
    for total in candidates:
        active = np.full(paths.shape[1], min(int(total), servers_now))
        active[delay:] = total
        dropped = np.maximum(paths - active * mu, 0.0)
        changed = environment.price_start_usd * max(total - servers_now, 0) + environment.price_stop_usd * max(
            servers_now - total, 0
        )
        cost = (
            environment.price_drop_usd * dropped.sum(axis=1).mean()
            + price_bad_tick_usd * (dropped > 1e-9).sum(axis=1).mean()
            + environment.price_server_tick_usd * total * paths.shape[1]
            + changed
        )
        rows.append((float(cost), float((dropped > 1e-9).any(axis=1).mean())))
    return pd.DataFrame(rows, columns=["cost_usd", "risk_frac"], index=pd.Index(candidates, name="servers"))


def decide(
    forecast: Forecast, environment: Environment, servers_now: int, *, price_bad_tick_usd: float = 0.0
) -> Decision:
    """The fleet size with the least expected cost on the forecast's paths, beside doing nothing.

    price_bad_tick_usd: what a tick with a drop is worth beyond the bill, for who promises minutes. Bounds and quota of
    the environment hold; a step limit may make several changes of this one decision.
    Raises SchemaError if the forecast is shorter than the boot delay or has another step than the environment, or the
    price is negative.

    Example:
        >>> world = Environment(tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=1, price_drop_usd=0.01)
        >>> flat = Forecast.from_paths(np.full((1, 10, 30), 170.0), issued_at=pd.Timestamp("2026-01-01", tz="UTC"),
        ...                            step_seconds=60, unit="requests", model="flat")
        >>> decide(flat, world, 1).servers
        3
    """
    if (
        abs(forecast.step_seconds - environment.tick_seconds) > 1e-6
        or forecast.paths.shape[2] <= environment.boot_delay_ticks
    ):
        raise SchemaError("decide: the forecast must have the environment's tick and reach beyond the boot delay.")
    if not 0 <= price_bad_tick_usd < np.inf:
        raise SchemaError(f"decide: price_bad_tick_usd is {price_bad_tick_usd:g}; it must be 0 or more.")
    limit = min(environment.max_servers, environment.quota_servers or environment.max_servers)
    most = min(int(servers_for(forecast.paths.max(), environment)), limit)
    candidates = np.unique(np.clip(np.r_[servers_now, np.arange(0, most + 2)], environment.min_servers, limit))
    table = expected_costs(
        forecast, environment, servers_now, np.union1d(candidates, [servers_now]), price_bad_tick_usd=price_bad_tick_usd
    )
    best = int(table.loc[candidates, "cost_usd"].idxmin())
    step = pd.Timedelta(seconds=environment.tick_seconds)
    decided = forecast.issued_at + step
    effective = decided + step * environment.boot_delay_ticks if best > servers_now else decided
    peak, high = np.quantile(forecast.paths[0].max(axis=1), [0.5, 0.95])  # of the peak, not the peak of the quantiles
    reason = (
        f"Over the next {forecast.paths.shape[2] * environment.tick_seconds / 60:g} minutes demand peaks at {amount(peak)} (median) and "
        f"{amount(high)} (95 % quantile) {forecast.unit}; one server completes {amount(environment.capacity_per_tick)}, so "
        f"{best} {'server costs' if best == 1 else 'servers cost'} least in expectation: {table.cost_usd[best]:.2f} USD against {table.cost_usd[servers_now]:.2f} USD "
        f"with the present {servers_now}"
        + (f", a bad interval counted with {amount(price_bad_tick_usd)} USD." if price_bad_tick_usd else ".")
    )
    return Decision(
        servers_now, best, decided, effective, reason, float(table.cost_usd[best]), float(table.cost_usd[servers_now]),
        float(table.risk_frac[best]), float(table.risk_frac[servers_now]), float(forecast.paths.shape[2] * environment.tick_seconds),
    )  # fmt: skip
