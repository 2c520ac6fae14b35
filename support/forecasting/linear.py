"""Global direct linear forecasters in closed form: ridge, and RVFL (random tanh nodes beside the direct links), also
deep, as an ensemble, and with nodes on the oscillations that each window is made of.

One model for all series and one coefficient vector per step of the horizon, fitted on windows of every series on the
scale asinh((x - median) / mean absolute deviation) of each window's own context. Quantiles are the point plus quantiles
of the residuals on that scale, so they survive the monotone way back and never cross.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from support.errors import SchemaError, TooShortError
from support.forecasting.emd import decompose
from support.forecasting.metrics import pinball
from support.forecasting.windows import Windows, location_scale, training_windows

__all__ = [
    "RVFLEnsemble",
    "fit_deep_rvfl",
    "fit_emd_rvfl",
    "fit_ridge",
    "fit_rvfl",
    "fit_rvfl_ensemble",
]

PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # ridge, per window before the slice; inputs are of order one
OWN_SHARES = (0.0, 0.5, 1.0)  # share of the series' own residual quantiles, the rest being those of all series
WIDENINGS = (1.0, 1.25, 1.5, 2.0)  # of the residual quantiles: those of the fit itself are too narrow when data are few
JUDGED_EVERY = 4  # of the late windows, every fourth is judged: neighbours tell the same
RVFL_NODES = 500  # about as many as direct links, for two days of 5 minutes
DEEP_NODES, DEEP_LAYERS = 200, 3  # nodes of each layer
ENSEMBLE_MEMBERS = 5
EMD_MODES = 3  # and the remainder
BLOCK_WINDOWS = 512  # judged together, to bound memory


@dataclass(frozen=True)
class LinearForecast:
    """A fitted global linear model. `predict` turns contexts into quantiles.

    coefficients: (n_feature, horizon) and intercept (horizon,), on the asinh scale. hidden: (context + 1, n_node)
    random weights, the last row the biases, with no columns for plain ridge. deeper: the same of further layers, each of
    which sees the inputs and the layer before, (n_input + 1, n_node). errors: residual quantiles (horizon,
    n_level) by series, "" for a series that was not in the training panel. penalty, own_share, widening: what the
    validation slice chose. n_modes: oscillations of the context that `hidden` is of, above one another, 0 for itself.
    """

    context: int
    hidden: np.ndarray
    coefficients: np.ndarray
    intercept: np.ndarray
    errors: dict[str, np.ndarray]
    penalty: float
    own_share: float
    widening: float
    deeper: tuple[np.ndarray, ...] = ()
    n_modes: int = 0

    def predict(self, contexts: Mapping[str, np.ndarray], *, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Quantiles (horizon, n_level) by series, in its unit, from the last `context` values of each of `contexts`.

        `rng` is not used: the model has no randomness left. Raises TooShortError for a context that is too short.
        """
        for name, values in contexts.items():
            if len(values) < self.context:
                raise TooShortError(f"{name}: {len(values)} values; the model was fitted on {self.context}. Give more.")
        inputs = np.stack([np.asarray(v, dtype=float)[-self.context :] for v in contexts.values()])
        centre, scale = location_scale(inputs)
        features = _features(np.arcsinh((inputs - centre) / scale), self.hidden, self.deeper, self.n_modes)
        point = features @ self.coefficients + self.intercept
        return {
            name: np.sinh(point[k][:, None] + self.errors.get(name, self.errors[""])) * scale[k] + centre[k]
            for k, name in enumerate(contexts)
        }


def fit_ridge(
    train: Mapping[str, np.ndarray], *, context: int, horizon: int, season: int, levels: np.ndarray,
    rng: np.random.Generator,
) -> LinearForecast:  # fmt: skip
    """Direct multi-horizon ridge regression on the last `context` values; `train` holds each series' past, (n_time,).

    Penalty, share of own residuals and widening are chosen by the pinball loss on the last `horizon` values of each
    series; the model is then fitted on all windows. `season` and `rng` are not used.
    Raises TooShortError if no series has two windows and a horizon. Source: Hoerl and Kennard (1970), Technometrics 12.

    Example:
        >>> wave = np.sin(np.arange(200) * 2 * np.pi / 12)
        >>> model = fit_ridge({"a": wave}, context=24, horizon=6, season=12, levels=np.array([0.1, 0.5, 0.9]),
        ...                   rng=np.random.default_rng(0))
        >>> model.predict({"a": wave}, rng=np.random.default_rng(0))["a"].shape
        (6, 3)
    """
    return _fit(train, np.empty((context + 1, 0)), context, horizon, levels)


def fit_rvfl(
    train: Mapping[str, np.ndarray], *, context: int, horizon: int, season: int, levels: np.ndarray,
    rng: np.random.Generator, n_nodes: int = RVFL_NODES,
) -> LinearForecast:  # fmt: skip
    """As `fit_ridge`, with `n_nodes` random tanh features beside the inputs: a random vector functional link network.

    Source: Pao, Park and Sobajic (1994), Neurocomputing 6.

    Example:
        >>> wave = np.sin(np.arange(200) * 2 * np.pi / 12)
        >>> fit_rvfl({"a": wave}, context=24, horizon=6, season=12, levels=np.array([0.1, 0.5, 0.9]),
        ...          rng=np.random.default_rng(0), n_nodes=10).coefficients.shape
        (34, 6)
    """
    return _fit(train, _random(context, n_nodes, rng), context, horizon, levels)


def fit_deep_rvfl(
    train: Mapping[str, np.ndarray], *, context: int, horizon: int, season: int, levels: np.ndarray,
    rng: np.random.Generator, n_nodes: int = DEEP_NODES, n_layers: int = DEEP_LAYERS,
) -> LinearForecast:  # fmt: skip
    """As `fit_rvfl`, with `n_layers` random layers of `n_nodes`, each with direct links; all of them feed the ridge.

    Source: Shi, Katuwal, Suganthan and Tanveer (2021), Pattern Recognition 117, without its layer-wise read-outs.
    """
    deeper = tuple(_random(context + n_nodes, n_nodes, rng) for _ in range(n_layers - 1))
    return _fit(train, _random(context, n_nodes, rng), context, horizon, levels, deeper)


def fit_emd_rvfl(
    train: Mapping[str, np.ndarray], *, context: int, horizon: int, season: int, levels: np.ndarray,
    rng: np.random.Generator, n_nodes: int = RVFL_NODES, n_modes: int = EMD_MODES,
) -> LinearForecast:  # fmt: skip
    """As `fit_rvfl`, each node seeing one of the `n_modes` oscillations of the window's context, or the remainder.

    Each window is decomposed by itself, before its cut-off: a series decomposed as a whole would tell its future.
    Raises SchemaError with no mode or fewer nodes than parts, and what `fit_rvfl` raises. Source: Qiu, Suganthan and
    Amaratunga (2018), Knowledge-Based Systems 145, with one ridge for all modes.
    """
    n_parts = n_modes + 1
    if n_modes < 1 or n_nodes < n_parts:
        raise SchemaError(f"RVFL: {n_modes} modes and {n_nodes} nodes; at least 1 mode, and a node for each part.")
    hidden = np.zeros((n_parts * context + 1, n_nodes))
    for part, own in enumerate(np.array_split(np.arange(n_nodes), n_parts)):
        weights = _random(context, len(own), rng)
        hidden[part * context : (part + 1) * context, own], hidden[-1, own] = weights[:-1], weights[-1]
    return _fit(train, hidden, context, horizon, levels, n_modes=n_modes)


@dataclass(frozen=True)
class RVFLEnsemble:
    """RVFL nets that differ by their random weights; its quantiles are the means of theirs."""

    members: tuple[LinearForecast, ...]

    def predict(self, contexts: Mapping[str, np.ndarray], *, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """As `LinearForecast.predict`."""
        return dict(zip(contexts, self.by_member(contexts, rng=rng).mean(axis=0), strict=True))

    def by_member(self, contexts: Mapping[str, np.ndarray], *, rng: np.random.Generator) -> np.ndarray:
        """Quantiles (n_member, n_series, horizon, n_level) of each member: their spread is what the random weights do."""
        return np.stack([[*member.predict(contexts, rng=rng).values()] for member in self.members])


def fit_rvfl_ensemble(
    train: Mapping[str, np.ndarray], *, context: int, horizon: int, season: int, levels: np.ndarray,
    rng: np.random.Generator, n_nodes: int = RVFL_NODES, n_members: int = ENSEMBLE_MEMBERS,
) -> RVFLEnsemble:  # fmt: skip
    """`n_members` of `fit_rvfl`, each with random weights of its own."""
    return RVFLEnsemble(tuple(
        fit_rvfl(train, context=context, horizon=horizon, season=season, levels=levels, rng=own, n_nodes=n_nodes)
        for own in rng.spawn(n_members)
    ))  # fmt: skip


def _random(n_input: int, n_nodes: int, rng: np.random.Generator) -> np.ndarray:
    """Weights (n_input + 1, n_nodes) of tanh nodes for inputs of order one, the last row the biases."""
    return np.vstack([rng.normal(size=(n_input, n_nodes)) / np.sqrt(n_input), rng.uniform(-1, 1, (1, n_nodes))])


def _features(
    inputs: np.ndarray, hidden: np.ndarray, deeper: tuple[np.ndarray, ...] = (), n_modes: int = 0
) -> np.ndarray:
    seen = decompose(inputs, n_modes).reshape(len(inputs), -1) if n_modes else inputs
    layers = [np.tanh(seen @ hidden[:-1] + hidden[-1])]
    for weights in deeper:
        layers.append(np.tanh(np.hstack([inputs, layers[-1]]) @ weights[:-1] + weights[-1]))
    return np.hstack([inputs, *layers])


class _Ridge:
    """Ridge for any penalty from one eigendecomposition, the intercept unpenalised."""

    def __init__(self, features: np.ndarray, targets: np.ndarray) -> None:
        self.mean, self.target_mean = features.mean(axis=0), targets.mean(axis=0)
        centred = features - self.mean
        self.values, self.vectors = np.linalg.eigh(centred.T @ centred)
        self.right = self.vectors.T @ (centred.T @ (targets - self.target_mean))

    def solve(self, penalty: float) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients (n_feature, horizon) and intercept (horizon,)."""
        shrunk = self.right / (np.maximum(self.values, 0.0) + penalty)[:, None]
        coefficients = self.vectors @ shrunk
        return coefficients, self.target_mean - self.mean @ coefficients


def _fit(
    train: Mapping[str, np.ndarray], hidden: np.ndarray, context: int, horizon: int, levels: np.ndarray,
    deeper: tuple[np.ndarray, ...] = (), n_modes: int = 0,
) -> LinearForecast:  # fmt: skip
    windows = training_windows(train, context, horizon)
    features = _features(windows.inputs, hidden, deeper, n_modes)
    penalty, own_share, widening = _choose(windows, features, horizon, levels)
    coefficients, intercept = _Ridge(features, windows.targets).solve(penalty)
    residuals = windows.targets - features @ coefficients - intercept
    errors = _errors(residuals, windows.series, len(train), levels, own_share, widening)
    names = [*train, ""]
    return LinearForecast(
        context, hidden, coefficients, intercept, dict(zip(names, errors, strict=True)), penalty, own_share, widening,
        deeper, n_modes,
    )  # fmt: skip


def _errors(
    residuals: np.ndarray, series: np.ndarray, n_series: int, levels: np.ndarray, own_share: float, widening: float
) -> np.ndarray:
    """Residual quantiles (n_series + 1, horizon, n_level), widened about their median; the last are all series'."""
    asked = np.append(levels, 0.5)  # the median is what they are widened about, asked for or not
    pooled = np.quantile(residuals, asked, axis=0).T
    found = [pooled] * (n_series + 1)
    for position in np.unique(series):
        own = np.quantile(residuals[series == position], asked, axis=0).T
        found[position] = own_share * own + (1 - own_share) * pooled
    stacked = np.stack(found)
    middle = stacked[..., -1:]
    return np.asarray(middle + widening * (stacked[..., :-1] - middle))


def _choose(windows: Windows, features: np.ndarray, horizon: int, levels: np.ndarray) -> tuple[float, float, float]:
    """Penalty, share of own residuals and widening with the least loss on the last `horizon` values of each series.

    The loss is the geometric mean over series of the pinball loss, so that no series rules by its unit. The models that
    are compared know only windows that end before those values.
    """
    early = windows.left >= horizon
    late = np.flatnonzero(~early)[::JUDGED_EVERY]
    ridge = _Ridge(features[early], windows.targets[early])
    ahead = np.arange(1, horizon + 1)
    inside = windows.left[late, None] < ahead  # of a late window only the steps inside the slice are judged
    series = windows.series[late]
    n_series = int(windows.series.max()) + 1
    best, choice = np.inf, (PENALTIES[-1] * float(early.sum()), OWN_SHARES[0], WIDENINGS[0])
    for penalty in np.array(PENALTIES) * early.sum():
        coefficients, intercept = ridge.solve(penalty)
        point = features @ coefficients + intercept
        residuals = windows.targets[early] - point[early]
        for own_share, widening in product(OWN_SHARES, WIDENINGS):
            errors = _errors(residuals, windows.series[early], n_series, levels, own_share, widening)
            losses = _losses(windows, late, point[late], errors, levels, inside)
            sums = np.bincount(series, losses, n_series) / np.maximum(np.bincount(series, inside.sum(1), n_series), 1)
            loss = float(np.log(sums[sums > 0]).mean())
            if loss < best:
                best, choice = loss, (float(penalty), own_share, widening)
    return choice


def _losses(
    windows: Windows, late: np.ndarray, point: np.ndarray, errors: np.ndarray, levels: np.ndarray, inside: np.ndarray
) -> np.ndarray:
    """Summed pinball loss of each late window over its judged steps, (n_late,), in the unit of its series."""
    back = lambda x, rows: np.sinh(x) * windows.scale[late][rows, 0][(...,) + (None,) * (x.ndim - 1)]  # noqa: E731
    found = []
    for first in range(0, len(point), BLOCK_WINDOWS):
        rows = np.arange(first, min(first + BLOCK_WINDOWS, len(point)))
        quantiles = back(point[rows, :, None] + errors[windows.series[late][rows]], rows)
        seen = back(windows.targets[late][rows], rows)
        found.append((pinball(seen, quantiles, levels).mean(axis=-1) * inside[rows]).sum(axis=1))
    return np.concatenate(found)
