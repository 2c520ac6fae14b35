"""Verdicts on recorded rows: who beats whom on how many traces, how surely, who ranks where, and when it was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import beta, rankdata

from support.autoscaling.oracle_bound import target_measurable
from support.errors import SchemaError

__all__ = ["Duel", "duel", "rank_table", "recorded_when", "share_interval", "target_reach"]

LEVEL = 0.9  # of every interval
IN_REACH, OUT_OF_REACH, TOO_SHORT = "in reach", "out of reach", "too short to show"
Traces = Mapping[str, Mapping[str, Any]]  # name -> what benchmarks/autoscaling.py records of a trace


@dataclass(frozen=True)
class Duel:
    """A policy against a rival over `n` traces. str() gives the sentence.

    wins, ties, losses: traces on which its bill is lower, equal (the saving rounds to 0.00 %) and higher. surely_wins,
    surely_losses: those whose whole paired interval is on one side of zero; None where no interval was recorded.
    share_low, share_high: exact interval (Clopper and Pearson, 1934) of the share of traces that it wins, as if the
    traces were drawn independently from those one cares about.
    """

    n: int
    wins: int
    ties: int
    losses: int
    surely_wins: int | None
    surely_losses: int | None
    share_low: float
    share_high: float

    def __str__(self) -> str:
        share = (
            f"cheaper on {self.wins} of {self.n} traces ({100 * self.share_low:.0f} % to {100 * self.share_high:.0f} %)"
        )
        equal = f", equal on {self.ties}" if self.ties else ""
        if self.surely_wins is None:
            return share + equal
        return f"{share}{equal}; surely cheaper on {self.surely_wins}, surely dearer on {self.surely_losses}"


def duel(traces: Traces, policy: str, rival: str) -> Duel:
    """`policy` against `rival` on every trace that has a row of both.

    Raises SchemaError if no trace has both.

    Example:
        >>> row = {"policy": "a", "cost_usd": 1.0, "saving_percent_against_b": [50.0, 40.0, 60.0]}
        >>> print(duel({"t": {"rows": [row, {"policy": "b", "cost_usd": 2.0}]}}, "a", "b"))
        cheaper on 1 of 1 traces (5 % to 100 %); surely cheaper on 1, surely dearer on 0
    """
    saved = [s for trace in traces.values() if (s := _saving(trace, policy, rival)) is not None]
    if not saved:
        raise SchemaError(f"verdict: no trace has rows of both {policy!r} and {rival!r}.")
    middle = np.array([s[0] for s in saved])
    bounds = np.array([s[1:] for s in saved if len(s) == 3])
    complete = len(bounds) == len(saved)
    wins = int((middle > 0).sum())
    low, high = share_interval(wins, len(saved))
    return Duel(
        len(saved), wins, int((middle == 0).sum()), int((middle < 0).sum()),
        int((bounds[:, 0] > 0).sum()) if complete else None, int((bounds[:, 1] < 0).sum()) if complete else None,
        low, high,
    )  # fmt: skip


def share_interval(hits: int, n: int, *, level: float = LEVEL) -> tuple[float, float]:
    """Exact two-sided interval of a probability after `hits` of `n` independent trials: (low, high).

    Source: Clopper and Pearson (1934). It covers at least `level`, whatever the probability. Raises SchemaError unless
    0 <= hits <= n, n is positive and the level lies in (0, 1).

    Example:
        >>> [round(bound, 3) for bound in share_interval(15, 19)], share_interval(0, 4)[0]
        ([0.581, 0.925], 0.0)
    """
    if not (0 <= hits <= n and n > 0 and 0 < level < 1):
        raise SchemaError(f"share: {hits} of {n} at a level of {level} is no count of hits with an interval.")
    tail = (1 - level) / 2
    low = float(beta.ppf(tail, hits, n - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, n - hits)) if hits < n else 1.0
    return low, high


def rank_table(traces: Traces, *, rng: np.random.Generator, n_draws: int = 2000, level: float = LEVEL) -> pd.DataFrame:
    """Rank by cost on each trace (1 is the cheapest, equal bills share their mean rank): one row a policy, best first.

    Columns: mean_rank; low, high, its bootstrap interval from drawn traces; cheapest, traces on which none is cheaper.
    Policies that a trace lacks are left out. Raises SchemaError if no policy is on every trace.

    Example:
        >>> rows = [{"policy": "a", "cost_usd": 1.0}, {"policy": "b", "cost_usd": 2.0}]
        >>> rank_table({"s": {"rows": rows}, "t": {"rows": rows}}, rng=np.random.default_rng(0)).loc["a"].to_dict()
        {'mean_rank': 1.0, 'low': 1.0, 'high': 1.0, 'cheapest': 2.0}
    """
    costs = pd.DataFrame({n: {r["policy"]: r["cost_usd"] for r in t["rows"]} for n, t in traces.items()}).dropna().T
    if costs.empty:
        raise SchemaError("ranks: no policy has a row on every trace.")
    ranks = rankdata(costs.to_numpy(float), axis=1)
    drawn = ranks[rng.integers(0, len(ranks), (n_draws, len(ranks)))].mean(axis=1)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    cheapest = (costs.to_numpy(float) == costs.to_numpy(float).min(axis=1, keepdims=True)).sum(axis=0)
    table = pd.DataFrame(
        {"mean_rank": ranks.mean(axis=0), "low": low, "high": high, "cheapest": cheapest},
        index=pd.Index(costs.columns, name="policy"),
    )
    return table.sort_values("mean_rank", kind="stable")


def target_reach(traces: Traces, *, target_frac: float = 0.999) -> pd.Series:
    """What each trace can say about a share of good ticks: in reach, out of reach (both by the bound), too short to show.

    Too short are traces on which the target is not measurable (`target_measurable`), whatever the bound says.

    Example:
        >>> both = {"long": {"ticks": 4032, "target_reachable": True}, "short": {"ticks": 144, "target_reachable": True}}
        >>> target_reach(both).to_dict()
        {'long': 'in reach', 'short': 'too short to show'}
    """
    words = {
        name: TOO_SHORT
        if not target_measurable(trace["ticks"], target_frac)
        else IN_REACH
        if trace["target_reachable"]
        else OUT_OF_REACH
        for name, trace in traces.items()
    }
    return pd.Series(words, dtype=object, name="reach")


def recorded_when(record: Mapping[str, Any], part: str = "traces") -> str:
    """When and at which commits the traces of `record` were measured, in words; what carries no date is said to.

    part: "traces" (the policy table, one stamp a trace) or "slo" (one stamp a family of policies on a trace).

    Example:
        >>> traces = {"s": {"stamp": {"date": "2026-11-22", "commit": "abcdef123456"}}, "t": {}}
        >>> print(recorded_when({"date": "2026-11-23", "commit": "0123456789ab", "results": {"traces": traces}}))
        recorded 2026-11-22, commit abcdef123; 1 of 2 traces carries no date of its own, the file was last written
        2026-11-23, commit 012345678
    """
    rows = list(record["results"][part].values())
    if part == "slo":
        rows = [family for trace in rows for family in trace.values()]
    found = [row.get("stamp") for row in rows]
    stamps = [stamp for stamp in found if stamp]
    said = []
    if stamps:
        dates = sorted({str(s["date"])[:10] for s in stamps})
        commits = sorted({str(s["commit"])[:9] for s in stamps})
        days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        said.append(f"recorded {days}, commit{'s' * (len(commits) > 1)} {', '.join(commits)}")
    if without := len(found) - len(stamps):
        carry = "carries no date of its own" if without == 1 else "carry no date of their own"
        said.append(
            f"{without} of {len(found)} {'rows' if part == 'slo' else 'traces'} {carry}, the file was last written {str(record['date'])[:10]}, "
            f"commit {str(record['commit'])[:9]}"
        )
    return "; ".join(said)


def _saving(trace: Mapping[str, Any], policy: str, rival: str) -> tuple[float, ...] | None:
    """Saving of `policy` against `rival` on a trace in percent, with its interval where one was recorded."""
    rows = {row["policy"]: row for row in trace["rows"]}
    if policy not in rows or rival not in rows:
        return None
    recorded = rows[policy].get(f"saving_percent_against_{rival}")
    if recorded is not None:
        return tuple(float(v) for v in recorded)
    return (round(100 * (1 - rows[policy]["cost_usd"] / rows[rival]["cost_usd"]), 2),)
