"""Chapter 09 on files it has never seen: quantiles and paths on disk, and that the two belong together."""

import os
import re

import nbformat
import numpy as np
import pandas as pd
import papermill
from scipy.signal import lfilter

from book.chapters import ROOT

CHAPTER = ROOT / "notebooks" / "09_ensembles_and_calibration"
DAYS, HORIZON, N_DRAWS = 60, 48, 500
MEMORY = 0.8  # of the noise, from hour to hour


def own_file(folder):
    """Hourly jobs with a daily cycle and noise that lasts some hours, far above zero; the last hour."""
    index = pd.date_range("2026-03-02", periods=24 * DAYS, freq="1h")
    noise = lfilter([1], [1, -MEMORY], np.random.default_rng(0).normal(0, 12, len(index)))
    jobs = 500 + 150 * np.sin(2 * np.pi * (index.hour - 8) / 24) + noise
    pd.DataFrame({"when": index, "jobs": jobs.round(3)}).to_csv(folder / "my.csv", index=False)
    return index[-1].tz_localize("UTC")


def weekly_file(folder):
    """Hourly requests that are fewer at weekends, with little noise, and a morning that nobody recorded; the last hour."""
    index = pd.date_range("2026-03-02", periods=24 * DAYS, freq="1h")
    shape = (1 + 0.4 * np.sin(2 * np.pi * (index.hour - 8) / 24)) * np.where(index.dayofweek >= 5, 0.6, 1.0)
    requests = 1000 * shape + np.random.default_rng(0).normal(0, 30, len(index))
    frame = pd.DataFrame({"timestamp": index, "requests": requests.round()})
    frame.drop(index=range(1000, 1006)).to_csv(folder / "my.csv", index=False)
    return index[-1].tz_localize("UTC")


def two_weeks_of_five_minutes(folder):
    """As a monitor writes them: two weeks of 5 minutes, a name the book has never seen; the last moment."""
    index = pd.date_range("2026-03-02 14:30", periods=14 * 288, freq="5min")
    noise = lfilter([1], [1, -MEMORY], np.random.default_rng(1).normal(0, 3, len(index)))
    load = 40 + 15 * np.sin(2 * np.pi * np.arange(len(index)) / 288) + noise
    pd.DataFrame({"timestamp": index, "value": load.clip(0).round(3)}).to_csv(folder / "my.csv", index=False)
    return index[-1].tz_localize("UTC")


def run(folder, monkeypatch, horizon):
    """The command of the chapter, by papermill: a file and a horizon, nothing else. What it displayed."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    given = {"source": "my.csv", "horizon": horizon}
    made = papermill.execute_notebook(f"{CHAPTER}.ipynb", str(folder / "out.ipynb"), given, progress_bar=False)
    outputs = [o for c in nbformat.from_dict(made).cells if c.cell_type == "code" for o in c.outputs]
    return [str(o.data.get("text/html") or o.data.get("text/markdown", "")) for o in outputs if "data" in o]


def test_papermill_writes_quantiles_and_paths_that_belong_together(tmp_path, monkeypatch):
    last = own_file(tmp_path)
    shown = run(tmp_path, monkeypatch, HORIZON)
    assert any("19 windows are forecast, not 30" in text for text in shown)  # (60 - 21) days hold no more
    quantiles, paths = (pd.read_parquet(tmp_path / "forecasts" / f"{name}.parquet") for name in ("quantiles", "paths"))
    begins_where_the_file_ends(last, quantiles, paths)
    marginals_are_the_quantiles(quantiles, paths)
    remembers_as_the_noise_does(paths[paths["cutoff"] == last])


def test_a_week_on_which_the_recommended_is_the_most_cautious_does_not_stop_it(tmp_path, monkeypatch):
    last = weekly_file(tmp_path)
    shown = run(tmp_path, monkeypatch, 24)
    (table,) = [text for text in shown if "As the models print them" in text]
    rows = re.findall(r"<th>([^<]+)</th>\s*<td>[\d.]+</td>\s*<td>([\d.]+)</td>", table)
    inside = {model: float(share) for model, share in rows}
    # the most cautious is then the very forecaster that it is compared with
    assert len(inside) == 6 and max(inside, key=inside.get) == "Recommended"
    assert any("filled intervals set to the last known value" in text for text in shown)
    quantiles = pd.read_parquet(tmp_path / "forecasts" / "quantiles.parquet")
    levels = [c for c in quantiles.columns if c.startswith("q0")]
    assert set(quantiles["cutoff"]) == {last, last - pd.Timedelta(hours=24)}
    assert (np.diff(quantiles[levels].to_numpy(), axis=1) >= 0).all()


def test_two_weeks_of_five_minutes_are_forecast_at_their_own_step(tmp_path, monkeypatch):
    horizon = 46  # a quarter of it is no part of a season
    last = two_weeks_of_five_minutes(tmp_path)
    shown = run(tmp_path, monkeypatch, horizon)
    assert any("One step is 5 minutes, a season 288 steps, a window 46 steps. 30 windows" in text for text in shown)
    quantiles = pd.read_parquet(tmp_path / "forecasts" / "quantiles.parquet")
    newest = quantiles[quantiles["cutoff"] == last]
    assert newest["ds"].tolist() == [last + pd.Timedelta(minutes=5 * h) for h in range(1, horizon + 1)]
    assert (newest["step_seconds"] == 300).all()


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
