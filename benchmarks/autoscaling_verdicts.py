"""The targets of the policy table against what was recorded; nothing is simulated.

Run: python -m benchmarks.autoscaling_verdicts; prints who beats whom in benchmarks/results/autoscaling.json, the ranks of
all policies and when each trace was measured. benchmarks/autoscaling.py writes `verdicts` into the record.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from support.autoscaling.verdicts import duel, rank_table, recorded_when, target_reach
from support.recorded import recorded

OURS = ("newsvendor", "newsvendor, bursts", "stochastic MPC", "stochastic MPC, bursts", "MPC or reactive")
RIVALS = ("reactive tuned", "kubernetes hpa", "kubernetes hpa tuned")
MOST_REGRET = 0.30
SEED = 20261121


def verdicts(traces: dict[str, Any]) -> dict[str, Any]:
    """By policy of the book: traces on which it beats each rival, how surely, and keeps to the regret and churn aimed at."""
    answer: dict[str, Any] = {}
    for policy in OURS:
        rows = {n: {r["policy"]: r for r in t["rows"]} for n, t in traces.items()}
        rows = {n: r for n, r in rows.items() if policy in r}  # a new policy is not yet on every trace
        if not rows:
            continue
        entry: dict[str, Any] = {"traces": len(rows)}
        for other in RIVALS:
            found = duel(traces, policy, other)
            entry[f"cheaper than {other}"] = found.wins
            entry[f"equal to {other}"] = found.ties
            entry[f"surely cheaper than {other}"] = found.surely_wins
            entry[f"surely dearer than {other}"] = found.surely_losses
        regrets = [r[policy]["regret_frac"] for r in rows.values()]
        entry["regret at most 0.30"] = sum(value <= MOST_REGRET for value in regrets)
        entry["median regret"] = round(float(np.median(regrets)), 4)
        entry["churn not above the tuned reactive"] = sum(
            r[policy]["churn_percent"] <= r["reactive tuned"]["churn_percent"] for r in rows.values()
        )
        answer[policy] = entry
    return answer


def main() -> None:
    """Print the verdicts of the record."""
    record = recorded("autoscaling")
    traces = record["results"]["traces"]
    print(recorded_when(record))
    for policy in OURS:
        for other in RIVALS:
            print(f"{policy} against {other}: {duel(traces, policy, other)}")
    print(rank_table(traces, rng=np.random.default_rng(SEED)).round(2).to_string())
    print(target_reach(traces).to_string())


if __name__ == "__main__":
    main()
