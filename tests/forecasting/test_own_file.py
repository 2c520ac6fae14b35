"""Chapter 09 on a file it has never seen: quantiles and paths on disk, and that the two belong together."""

import os

import numpy as np
import pandas as pd
import papermill
from scipy.signal import lfilter

from book.chapters import ROOT

CHAPTER = ROOT / "notebooks" / "09_ensembles_and_calibration"
DAYS, HORIZON, N_DRAWS = 40, 48, 100
MEMORY = 0.8  # of the noise, from hour to hour


def own_file(folder):
    """Hourly jobs with a daily cycle and noise that lasts some hours, far above zero; the last hour."""
    index = pd.date_range("2026-03-02", periods=24 * DAYS, freq="1h")
    noise = lfilter([1], [1, -MEMORY], np.random.default_rng(0).normal(0, 12, len(index)))
    jobs = 500 + 150 * np.sin(2 * np.pi * (index.hour - 8) / 24) + noise
    pd.DataFrame({"when": index, "jobs": jobs.round(3)}).to_csv(folder / "my.csv", index=False)
    return index[-1].tz_localize("UTC")


def test_papermill_writes_quantiles_and_paths_that_belong_together(tmp_path, monkeypatch):
    last = own_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    given = {"source": "my.csv", "horizon": HORIZON, "newest_days": DAYS, "n_windows": 8, "n_draws": N_DRAWS}
    papermill.execute_notebook(f"{CHAPTER}.ipynb", str(tmp_path / "out.ipynb"), given, progress_bar=False)
    quantiles, paths = (pd.read_parquet(tmp_path / "forecasts" / f"{name}.parquet") for name in ("quantiles", "paths"))
    begins_where_the_file_ends(last, quantiles, paths)
    marginals_are_the_quantiles(quantiles, paths)
    remembers_as_the_noise_does(paths[paths["cutoff"] == last])


def begins_where_the_file_ends(last, quantiles, paths):
    """The window after the file, and the last judged one beside it."""
    assert set(quantiles["cutoff"]) == {last, last - pd.Timedelta(hours=HORIZON)}
    newest = quantiles[quantiles["cutoff"] == last]
    assert newest["h"].tolist() == list(range(1, HORIZON + 1))
    assert newest["ds"].tolist() == [last + pd.Timedelta(hours=h) for h in range(1, HORIZON + 1)]
    assert (newest["step_seconds"] == 3600).all() and set(newest["unit"]) == {"requests"}
    assert len(paths) == 2 * N_DRAWS * HORIZON and set(paths["cutoff"]) == set(quantiles["cutoff"])


def marginals_are_the_quantiles(quantiles, paths):
    """The share of paths below each quantile is its level, at every step of both windows."""
    key = ["cutoff", "h"]
    levels = [c for c in quantiles.columns if c.startswith("q0")]
    both = paths.merge(quantiles[[*key, *levels]], on=key, validate="many_to_one")
    assert len(levels) == 15 and len(both) == len(paths)
    for column in levels:
        below = (both["value"] <= both[column]).groupby([both[k] for k in key]).mean()
        assert (below - float(column.removeprefix("q"))).abs().max() <= 1 / N_DRAWS + 1e-9


def remembers_as_the_noise_does(paths):
    """Neighbouring hours of a path go together; those of independent hours would not, to within 0.02."""
    wide = paths.pivot(index="draw", columns="h", values="value").rank()
    neighbours = [wide[h].corr(wide[h + 1]) for h in range(1, HORIZON)]
    assert np.mean(neighbours) > 0.25
