"""Environment and Decision: the third and fourth of the four types. One cost model for simulator, policies and reports."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields

import numpy as np
import pandas as pd

from support.errors import SchemaError

__all__ = ["Decision", "Environment"]

OPTIONAL = ("max_step_up", "max_step_down", "quota_servers", "queue_patience_ticks")  # None: no limit
WHOLE = ("min_servers", "max_servers", "max_step_up", "max_step_down", "quota_servers")  # besides all `_ticks`
POSITIVE = (
    "tick_seconds", "service_rate_rps", "max_step_up", "max_step_down", "boot_timeout_ticks", "control_every_ticks",
    "billing_block_ticks", "quota_servers",
)  # fmt: skip


@dataclass(frozen=True)
class Environment:
    """The world a policy acts in: time, servers, prices and the promise made to users.

    tick_seconds: length of a tick. service_rate_rps: requests/s one server completes. boot_delay_ticks d: a server
    ordered at t serves from t + d. cooldown_ticks K: ticks without changes after a change. queue_limit: requests that
    may wait (0: a loss system). metric_lag_ticks: at t a policy sees data through t - 1 - lag. Prices in USD: per
    server-hour, per server started or stopped, per dropped request, per request waiting an hour. slo_wait_seconds:
    longest wait that is not late; slo_target_frac: promised share of good ticks. max_step_up, max_step_down: servers
    per change (None: no limit). boot_delay_sigma: if positive each order's delay is lognormal with mean d.
    boot_failure_prob: chance in [0, 1) that an ordered server never arrives; it is billed and counted as booting for
    boot_timeout_ticks, then given up. queue_patience_ticks: work unserved this many ticks after its own tick is gone
    (None: it waits for ever). drain_ticks: ticks a stopped server is still billed for, without serving new work.
    quota_servers: servers the account may hold, draining ones included (None: no quota). control_every_ticks: the
    policy acts at each such tick. billing_block_ticks: servers are billed in started blocks, e.g. 60 minutes.
    Raises SchemaError naming the field. Semantics: the chapter on autoscaling policies.

    Example:
        >>> Environment(tick_seconds=60, service_rate_rps=50, price_server_hour_usd=0.12, price_drop_usd=4e-5).critical_fractile
        0.9833333333333333
    """

    tick_seconds: float
    service_rate_rps: float
    price_server_hour_usd: float = 0.12
    price_drop_usd: float = 4e-5
    price_start_usd: float = 0.0
    price_stop_usd: float = 0.0
    price_wait_hour_usd: float = 0.0
    boot_delay_ticks: int = 5
    cooldown_ticks: int = 0
    min_servers: int = 1
    max_servers: int = 1000
    queue_limit: float = 0.0
    metric_lag_ticks: int = 0
    slo_wait_seconds: float = 0.25
    slo_target_frac: float = 0.999
    max_step_up: int | None = None
    max_step_down: int | None = None
    boot_delay_sigma: float = 0.0
    boot_failure_prob: float = 0.0
    boot_timeout_ticks: int = 10
    queue_patience_ticks: int | None = None
    drain_ticks: int = 0
    quota_servers: int | None = None
    control_every_ticks: int = 1
    billing_block_ticks: int = 1

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None and item.name in OPTIONAL:
                continue
            whole = item.name.endswith("_ticks") or item.name in WHOLE
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float | np.integer | np.floating)
                or not math.isfinite(value)
            ):
                raise SchemaError(f"environment: {item.name} is {value!r}, it must be a finite number.")
            if whole and float(value) != int(value):
                raise SchemaError(f"environment: {item.name} is {value!r}, it must be whole.")
            if whole:
                object.__setattr__(self, item.name, int(value))  # 5.0 and NumPy's 5 count as 5
            if value < 0 or (value == 0 and item.name in POSITIVE):
                raise SchemaError(
                    f"environment: {item.name} is {value!r}, it must be {'positive' if value == 0 else 'at least 0'}."
                )
        if self.min_servers > self.max_servers:
            raise SchemaError(f"environment: min_servers {self.min_servers} is above max_servers {self.max_servers}.")
        if not 0 < self.slo_target_frac <= 1:
            raise SchemaError(f"environment: slo_target_frac is {self.slo_target_frac}, it must lie in (0, 1].")
        if self.boot_failure_prob >= 1:
            raise SchemaError(f"environment: boot_failure_prob is {self.boot_failure_prob}, it must lie in [0, 1).")
        if self.quota_servers is not None and self.quota_servers < self.min_servers:
            raise SchemaError(
                f"environment: quota_servers {self.quota_servers} is below min_servers {self.min_servers}."
            )

    @property
    def boots_at_random(self) -> bool:
        """Whether a run needs random numbers: delays that are drawn, or servers that fail to boot."""
        return self.boot_delay_sigma > 0 or self.boot_failure_prob > 0

    @property
    def capacity_per_tick(self) -> float:
        """Requests one server completes in a tick."""
        return self.service_rate_rps * self.tick_seconds

    @property
    def price_server_tick_usd(self) -> float:
        """Price of one server for one tick."""
        return self.price_server_hour_usd * self.tick_seconds / 3600

    @property
    def price_wait_tick_usd(self) -> float:
        """Price of one request waiting for one tick."""
        return self.price_wait_hour_usd * self.tick_seconds / 3600

    @property
    def critical_fractile(self) -> float:
        """The newsvendor's fractile (c_drop mu - c) / (c_drop mu), in [0, 1): demand quantile worth serving.

        Source: Arrow, Harris and Marschak (1951). 0 if a server costs more than the requests it could serve.
        """
        worth = self.price_drop_usd * self.capacity_per_tick
        return max(0.0, (worth - self.price_server_tick_usd) / worth) if worth > 0 else 0.0

    @classmethod
    def for_demand(
        cls, train: pd.Series, *, servers_at_peak: float = 20.0, drop_cost_ratio: float = 60.0, boot_delay_seconds: float = 300.0,
        cooldown_seconds: float = 180.0, price_server_hour_usd: float = 0.12, start_cost_minutes: float = 1.0,
        queue_seconds: float = 0.0, metric_lag_ticks: int = 0, slo_wait_seconds: float = 0.25,
    ) -> Environment:  # fmt: skip
        """An environment sized from past demand `train` (n_time,), requests per tick.

        servers_at_peak: servers that just carry the 99.9 % quantile of `train`; it fixes the service rate.
        drop_cost_ratio: worth of the requests a server can serve, over its price; it fixes the price of a drop. Delays
        in seconds are rounded up to ticks. queue_seconds: queue limit in seconds of one server's work, times servers_at_peak.
        slo_wait_seconds is raised to ten mean service times where servers are slower than that.
        Raises SchemaError if `train` is all zero, or a ratio or price is not positive.

        Example:
            >>> minutes = pd.date_range("2026-01-01", periods=9, freq="60s", tz="UTC")
            >>> Environment.for_demand(pd.Series(1200.0, index=minutes)).capacity_per_tick
            60.0
        """
        for name, value in (
            ("servers_at_peak", servers_at_peak),
            ("drop_cost_ratio", drop_cost_ratio),
            ("price_server_hour_usd", price_server_hour_usd),
        ):
            if not (math.isfinite(value) and value > 0):
                raise SchemaError(f"environment: {name} is {value!r}, it must be a positive number.")
        for name, value in (("boot_delay_seconds", boot_delay_seconds), ("cooldown_seconds", cooldown_seconds)):
            if not 0 <= value <= 86_400:
                raise SchemaError(f"environment: {name} is {value!r}, it must lie between 0 and 86400.")
        tick = float((train.index[1] - train.index[0]).total_seconds())
        peak = float(train.quantile(0.999))
        if peak <= 0:
            raise SchemaError("environment: the demand is zero throughout, so no server size fits it.")
        rate = peak / tick / servers_at_peak
        return cls(
            tick_seconds=tick,
            service_rate_rps=rate,
            price_server_hour_usd=price_server_hour_usd,
            price_drop_usd=drop_cost_ratio * price_server_hour_usd / 3600 / rate,
            price_start_usd=start_cost_minutes * price_server_hour_usd / 60,
            boot_delay_ticks=math.ceil(boot_delay_seconds / tick),
            cooldown_ticks=math.ceil(cooldown_seconds / tick),
            max_servers=math.ceil(50 * servers_at_peak),
            queue_limit=queue_seconds * rate * servers_at_peak,
            metric_lag_ticks=metric_lag_ticks,
            slo_wait_seconds=max(slo_wait_seconds, 10 / rate),
        )


@dataclass(frozen=True)
class Decision:
    """What to do, by when, why, and what it costs and risks against doing nothing.

    servers_now, servers: total servers (active and booting) before and after. decided_at, effective_by: UTC. Costs in
    USD, expected over `horizon_seconds`; risks are probabilities that at least one tick of the horizon drops requests.
    Raises SchemaError if action and numbers disagree.

    Example:
        >>> at = pd.Timestamp("2026-01-01", tz="UTC")
        >>> d = Decision(2, 3, at, at, "more demand", 1.0, 2.0, 0.1, 0.9, 600.0)
        >>> d.action, Decision.from_json(d.to_json()) == d
        ('scale up', True)
    """

    servers_now: int
    servers: int
    decided_at: pd.Timestamp
    effective_by: pd.Timestamp
    reason: str
    expected_cost_usd: float
    expected_cost_of_nothing_usd: float
    risk_frac: float
    risk_of_nothing_frac: float
    horizon_seconds: float

    def __post_init__(self) -> None:
        if min(self.servers_now, self.servers) < 0 or self.servers != int(self.servers):
            raise SchemaError(f"decision: servers {self.servers_now} -> {self.servers} must be whole and not negative.")
        if self.decided_at.tzinfo is None or self.effective_by.tzinfo is None or self.effective_by < self.decided_at:
            raise SchemaError(
                f"decision: effective_by {self.effective_by} must be UTC and not before {self.decided_at}."
            )
        if not (0 <= self.risk_frac <= 1 and 0 <= self.risk_of_nothing_frac <= 1):
            raise SchemaError(f"decision: risks {self.risk_frac}, {self.risk_of_nothing_frac} must lie in [0, 1].")
        if not (
            math.isfinite(self.expected_cost_usd)
            and math.isfinite(self.expected_cost_of_nothing_usd)
            and self.horizon_seconds > 0
        ):
            raise SchemaError("decision: costs must be finite and the horizon positive.")
        if not self.reason.strip():
            raise SchemaError("decision: the reason is empty.")

    @property
    def action(self) -> str:
        """`scale up`, `scale down` or `hold`."""
        return (
            "hold"
            if self.servers == self.servers_now
            else "scale up"
            if self.servers > self.servers_now
            else "scale down"
        )

    def to_json(self) -> str:
        """The decision as JSON; times in ISO 8601, units in the keys."""
        values = asdict(self) | {
            "decided_at": self.decided_at.isoformat(),
            "effective_by": self.effective_by.isoformat(),
        }
        return json.dumps({"action": self.action, **values}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Decision:
        """Read what `to_json` wrote; raises SchemaError if it is something else."""
        try:
            values = json.loads(text)
            action = values.pop("action")
            read = cls(**values | {k: pd.Timestamp(values[k]) for k in ("decided_at", "effective_by")})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, SchemaError):
                raise
            raise SchemaError(f"decision: this is no decision.json ({error}).") from None
        if action != read.action:
            raise SchemaError(
                f"decision: it says {action!r}, but {read.servers_now} -> {read.servers} is {read.action!r}."
            )
        return read
