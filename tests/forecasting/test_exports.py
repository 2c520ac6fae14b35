"""The Parquet layout: there and back, nothing partial."""

import numpy as np
import pandas as pd
import pytest

from support.errors import SchemaError, SourceError
from support.forecast import Forecast
from support.forecasting.exports import read_forecasts, write_forecasts


def made(model="m", series=("a", "b"), day=1, horizon=4):
    paths = np.random.default_rng(day).normal(size=(len(series), 7, horizon))
    issued = pd.Timestamp(2026, 1, day, tz="Europe/Paris")
    return Forecast.from_paths(paths, issued_at=issued, step_seconds=300, unit="requests", model=model, series=series)


def test_there_and_back(tmp_path):
    forecasts = [made(), made("other", series=("c",), day=2)]
    write_forecasts(forecasts, tmp_path / "new" / "folder")
    back = read_forecasts(tmp_path / "new" / "folder")
    assert [(f.model, f.series) for f in back] == [("m", ("a",)), ("m", ("b",)), ("other", ("c",))]
    np.testing.assert_array_equal(np.concatenate([f.paths for f in back[:2]]), forecasts[0].paths)
    np.testing.assert_array_equal(np.concatenate([f.quantiles for f in back[:2]]), forecasts[0].quantiles)
    assert back[2].issued_at == forecasts[1].issued_at and back[2].step_seconds == 300 and back[2].unit == "requests"
    np.testing.assert_array_equal(back[0].levels, forecasts[0].levels)
    assert (back[0].timestamps == forecasts[0].timestamps).all()


def test_columns_are_those_documented(tmp_path):
    quantiles, paths = (pd.read_parquet(f) for f in write_forecasts([made()], tmp_path))
    assert list(quantiles)[:7] == ["model", "unique_id", "cutoff", "ds", "h", "step_seconds", "unit"]
    assert list(quantiles)[7] == "q0.025" and list(paths) == ["model", "unique_id", "cutoff", "draw", "h", "value"]
    assert str(quantiles["ds"].dtype) == str(quantiles["cutoff"].dtype) == "datetime64[ns, UTC]"
    assert (
        not quantiles.duplicated(["model", "unique_id", "cutoff", "h"]).any()
        and (quantiles["ds"] > quantiles["cutoff"]).all()
    )


def test_a_failed_write_leaves_what_was_there_and_nothing_else(tmp_path, monkeypatch):
    write_forecasts([made()], tmp_path)
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
    real = pd.DataFrame.to_parquet

    def breaks(self, path, **given):
        if "value" in self.columns:
            raise OSError("disk full")
        return real(self, path, **given)

    monkeypatch.setattr(pd.DataFrame, "to_parquet", breaks)
    with pytest.raises(OSError, match="disk full"):
        write_forecasts([made(day=3)], tmp_path)
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before


def test_what_does_not_belong_together_is_refused(tmp_path):
    with pytest.raises(SourceError, match="no such file"):
        read_forecasts(tmp_path)
    with pytest.raises(SchemaError, match="twice"):
        write_forecasts([made(), made()], tmp_path)
    with pytest.raises(SchemaError, match="no forecasts"):
        write_forecasts([], tmp_path)
    write_forecasts([made()], tmp_path / "one")
    write_forecasts([made(day=2)], tmp_path / "two")
    (tmp_path / "two" / "paths.parquet").replace(tmp_path / "one" / "paths.parquet")
    with pytest.raises(SchemaError, match="different forecasts"):
        read_forecasts(tmp_path / "one")
