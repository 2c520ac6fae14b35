"""The causal matrix profile against stumpy's left profile."""

import os
import subprocess
import sys

import numpy as np
import pytest

from support.anomalies.matrix_profile import LeftMatrixProfile
from support.errors import SchemaError

WINDOW, START = 8, 25
STUMPY = """
import sys, warnings
import numpy as np
warnings.simplefilter("ignore")
import stumpy
x = np.array(list(map(float, sys.stdin.read().split())))
profile = stumpy.stumpi(x[:20], int(sys.argv[1]), egress=False)
for value in x[20:]:
    profile.update(value)
print(*map(repr, map(float, profile.left_P_)))
"""


def test_scores_are_stumpys_left_profile():
    pytest.importorskip("stumpy")
    rng = np.random.default_rng(0)
    x = np.r_[rng.normal(size=25).cumsum(), np.ones(9), rng.normal(size=9), np.full(9, 3.0)]
    answer = subprocess.run(
        [sys.executable, "-c", STUMPY, str(WINDOW)],
        input=" ".join(map(repr, x.tolist())), capture_output=True, text=True, check=True,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},  # plain Python: compiling would take longer than running
    )  # fmt: skip
    left = np.array(answer.stdout.split(), dtype=float)
    scores = LeftMatrixProfile(WINDOW, memory=len(x)).fit(x[:START]).score(x[START:])
    np.testing.assert_allclose(scores, left[START - WINDOW + 1 :], atol=1e-6)  # stumpy's own precision
    assert (scores == 0).any() and np.isclose(scores, np.sqrt(WINDOW)).any()  # constant windows were met


def test_a_naive_search_in_a_bounded_memory():
    rng = np.random.default_rng(1)
    x, memory = rng.normal(size=120), 40
    detector = LeftMatrixProfile(WINDOW, memory=memory).fit(x[:60])

    def standard(i):
        part = x[i - WINDOW + 1 : i + 1]
        return (part - part.mean()) / part.std()

    zone = -(-WINDOW // 4)  # starts within it are trivial matches
    for i, score in enumerate(detector.score(x[60:]), 60):
        past = range(max(WINDOW - 1, i - zone - memory), i - zone)
        assert score == pytest.approx(min(np.linalg.norm(standard(i) - standard(j)) for j in past), abs=1e-9)


def test_a_shape_seen_before_is_near_at_another_level_and_scale():
    wave = np.sin(np.arange(300) * np.pi / 12)
    scores = LeftMatrixProfile(24).fit(wave[:200]).score(np.r_[5 + 3 * wave[200:260], np.linspace(8, -8, 30) ** 2])
    assert scores[24:60].max() < 1e-6 < 1 < scores[60:].max()


def test_bad_settings_say_so():
    with pytest.raises(SchemaError, match="window 3"):
        LeftMatrixProfile(3)
