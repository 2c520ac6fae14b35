"""The fleet on one page: who is near its limit, who hardly works, kinds of servers, and what right-sizing saves in each."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.preprocessing import StandardScaler

from support.errors import TooShortError
from support.risk.recommendations import Recommendations
from support.risk.rightsizing import Analysis

__all__ = ["fleet_summary", "server_kinds", "use_features"]

HIGH_PERCENT, VERY_HIGH_PERCENT, UNDER_USED_PERCENT = 80.0, 90.0, 40.0  # AWS-CapacityForecaster's thresholds
PEAK_LEVEL = 0.95  # of the days to come: what is compared with 80 and 90
LEAST_MEAN_PERCENT = 0.01  # below it a mean is noise of the meter


def use_features(analysis: Analysis) -> pd.DataFrame:
    """How each resource with data uses its CPU: mean_percent, peak_percent, burstiness, daily_share; index resource_id.

    peak_percent: predictive P95 over the capacity, at most 100, which is what today's machine can show. burstiness: P99 over the mean. daily_share: share of the variance that
    the hour of the day explains, 0 to 1.
    """
    usage = analysis.usage.only(analysis.enough)
    cpu = 100 * usage.demand["cpu"] / usage.capacity["cpu"][:, None]
    mean = np.maximum(np.nanmean(cpu, axis=1), LEAST_MEAN_PERCENT)
    hour = usage.timestamps.hour.to_numpy()
    sums = np.stack([np.nansum(cpu[:, hour == h], axis=1) for h in np.unique(hour)], axis=1)
    counts = np.stack([np.isfinite(cpu[:, hour == h]).sum(axis=1) for h in np.unique(hour)], axis=1)
    profile = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    variance = np.nanvar(cpu, axis=1)
    told = analysis.predictive["cpu"]
    varies = np.nanmax(cpu, axis=1) > np.nanmin(cpu, axis=1)  # the variance of equal values is rounding, not always 0
    daily = np.divide(np.nanvar(profile, axis=1), variance, out=np.zeros(len(mean)), where=varies)
    return pd.DataFrame(
        {
            "mean_percent": mean,
            "peak_percent": np.minimum(100 * told.quantile(PEAK_LEVEL) / usage.capacity["cpu"], 100.0),
            "burstiness": np.nanquantile(cpu, 0.99, axis=1) / mean,
            "daily_share": np.clip(daily, 0, 1),
        },
        index=usage.resources.index,
    )


def server_kinds(features: pd.DataFrame, n_kinds: int, *, seed: int) -> pd.Series:
    """Kind of each server, 0 the busiest: K-means on the scaled logs of mean, peak and burstiness, and the daily share.

    Scaled, so that no feature decides by its unit. Raises TooShortError for fewer servers than kinds.
    """
    if len(features) < n_kinds:
        raise TooShortError(f"fleet: {len(features)} servers for {n_kinds} kinds. Ask for fewer kinds.")
    logs = np.log(features[["mean_percent", "peak_percent", "burstiness"]].clip(lower=LEAST_MEAN_PERCENT))
    scaled = StandardScaler().fit_transform(np.column_stack([logs, features["daily_share"]]))
    found = KMeans(n_kinds, n_init=10, random_state=seed).fit_predict(scaled)
    order = features["mean_percent"].groupby(found).mean().sort_values(ascending=False).index
    return pd.Series(np.argsort(order.to_numpy())[found], features.index, name="kind")


def fleet_summary(analysis: Analysis, made: Recommendations, *, n_kinds: int = 4, seed: int = 0) -> pd.DataFrame:
    """One row a kind of server and one for all: how many, how used, at risk, under-used, cost and savings a month.

    Columns: servers; mean_percent, peak_percent (medians); above_80, above_90 (predictive P95 of CPU over today's size in
    percent); under_40 (mean below 40 %); cost, savings of those that shrink, growth of those that grow (list price a month); resized. Servers without enough data are the row
    `no data`.
    """
    features = use_features(analysis)
    kinds = server_kinds(features, min(n_kinds, len(features)), seed=seed)
    price = analysis.catalogue["price_per_hour"].to_numpy(float)
    records = pd.DataFrame(
        {
            "cost": [r.monthly_cost["before"] for r in made.records],
            "savings": [max(r.monthly_cost["before"] - r.monthly_cost["after"], 0.0) for r in made.records],
            "growth": [max(r.monthly_cost["after"] - r.monthly_cost["before"], 0.0) for r in made.records],
            "resized": price[made.positions] != price[analysis.size_now],
        },
        index=analysis.usage.resources.index,
    )
    frame = records.join(features)
    frame["kind"] = [f"{chr(ord('A') + int(k))}" if k == k else "no data" for k in kinds.reindex(frame.index)]
    groups = [(name, part) for name, part in frame.groupby("kind")] + [("all", frame)]
    rows = {
        name: {
            "servers": len(part),
            "mean_percent": _median(part["mean_percent"]),
            "peak_percent": _median(part["peak_percent"]),
            "above_80": int((part["peak_percent"] >= HIGH_PERCENT).sum()),
            "above_90": int((part["peak_percent"] >= VERY_HIGH_PERCENT).sum()),
            "under_40": int((part["mean_percent"] < UNDER_USED_PERCENT).sum()),
            "resized": int(part["resized"].sum()),
            "cost": part["cost"].sum(),
            "savings": part["savings"].sum(),
            "growth": part["growth"].sum(),
        }
        for name, part in groups
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("kind")


def _median(values: pd.Series) -> float:
    known = values.dropna()
    return float(known.median()) if len(known) else float("nan")
