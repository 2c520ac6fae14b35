"""Measured and generated machines in one set."""

from __future__ import annotations

import numpy as np
import pandas as pd

from support.errors import SchemaError
from support.telemetry.reading.grid import count_repair
from support.telemetry.schema import METRICS, Repair, Telemetry
from support.writing import plural

__all__ = ["hybrid"]

LARGEST_SHARE_ERROR = 0.05  # of a hybrid: whole resources do not make every share


def hybrid(real: Telemetry, synthetic: Telemetry, *, real_frac: float = 0.2, rng: np.random.Generator) -> Telemetry:
    """A fleet with a share `real_frac` of real resources, the rest synthetic, as large as both allow, drawn at random.

    Resources become `real/<id>` and `synthetic/<id>`, with a column `provenance` in `resources`; the metrics are those
    that both have, and times stay as they are. Raises SchemaError for another step, no common metric or too few resources.
    """
    if not 0 < real_frac < 1:
        raise SchemaError(f"real_frac is {real_frac:g}; give a share between 0 and 1, such as 0.2.")
    if synthetic.step_seconds != real.step_seconds:
        raise SchemaError(
            f"{synthetic.source} has steps of {synthetic.step_seconds:g} s and {real.source} of {real.step_seconds:g} s. "
            "Resample one of them."
        )
    common = [m for m in METRICS if m in synthetic.observations and m in real.observations]
    if not [m for m in common if m in real.metrics]:
        raise SchemaError(
            f"{synthetic.source} and {real.source} share no metric ({synthetic.metrics}; {real.metrics})."
        )
    n_real, n_synthetic = len(real.resource_ids), len(synthetic.resource_ids)
    n_total = int(min(n_real / real_frac, n_synthetic / (1 - real_frac)) + 1e-9)
    n_real = round(n_total * real_frac)
    if not 0 < n_real < n_total or abs(n_real / n_total - real_frac) > LARGEST_SHARE_ERROR:
        raise SchemaError(
            f"{n_synthetic} synthetic and {len(real.resource_ids)} real resources do not make a share of {real_frac:g}. "
            "Give more resources."
        )
    parts, tables, labels, left = [], [], [], 0
    for kind, telemetry, count in (("real", real, n_real), ("synthetic", synthetic, n_total - n_real)):
        ids = sorted(rng.choice(telemetry.resource_ids, size=count, replace=False).tolist())
        renamed = {i: f"{kind}/{i}" for i in ids}
        left += len(telemetry.metrics) - len([m for m in common if m in telemetry.metrics])
        parts.append(telemetry.observations.loc[ids, common].rename(index=renamed, level="resource_id"))
        table = telemetry.resources.reindex(ids).rename(index=renamed)
        tables.append(table.assign(provenance=f"{kind}: {telemetry.source}").rename_axis("resource_id"))
        known = telemetry.labels[telemetry.labels["resource_id"].isin(ids)]
        labels += [known.replace({"resource_id": renamed})] if len(known) else []
    repairs = [Repair(f"resources drawn from {real.source}", n_real)]
    repairs.append(Repair(f"resources drawn from {synthetic.source}", n_total - n_real))
    count_repair(repairs, "metrics that only one side has, left out", left)
    return Telemetry(
        pd.concat(parts).sort_index(),
        real.step_seconds,
        f"hybrid of {synthetic.source} and {real.source}",
        f"{plural(n_total - n_real, 'synthetic resource')} ({synthetic.provenance}) and {plural(n_real, 'real one')} ({real.provenance})",
        True,
        pd.concat(tables).sort_index(),
        tuple(repairs),
        pd.concat(labels, ignore_index=True) if labels else synthetic.labels.iloc[:0],
    )
