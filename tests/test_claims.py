import math
import re
from typing import Any

import pytest

from support.claims import Claim, ClaimError, Claims
from support.errors import BookError


def judged(profile: str, measured: float, **bounds: Any) -> Claims:
    claims = Claims(profile)
    claims.claim("saves", measured, **bounds)
    return claims


@pytest.mark.parametrize(
    ("measured", "bounds", "holds"),
    [
        (0.15, {"at_least": 0.15}, True),
        (0.149, {"at_least": 0.15}, False),
        (0.2, {"at_most": 0.1}, False),
        (0.5, {"at_least": 0.4, "at_most": 0.6}, True),
        (math.nan, {"at_least": 0.0}, False),
        (math.nan, {"at_most": 0.0}, False),
    ],
)
def test_a_claim_holds_exactly_within_its_bounds(measured, bounds, holds):
    assert Claim("x", measured, **bounds).holds is holds


def test_a_false_claim_raises_at_publication_size_and_names_itself():
    with pytest.raises(ClaimError, match=r"1 of 1 claims do not hold: saves: measured 0.1, bound at least 0.15"):
        judged("publication", 0.1, at_least=0.15).check()


@pytest.mark.parametrize("profile", ["smoke", "explore"])
def test_statistics_are_shown_but_not_judged_elsewhere(profile):
    claims = judged(profile, 0.1, at_least=0.15)
    claims.check()
    assert f"no (not judged: {profile} run)" in claims.to_html()


@pytest.mark.parametrize(
    ("measured", "not_judged", "stops", "told"),
    [
        (0.2, "", False, "yes"),
        (0.1, "", True, "no"),
        (0.2, "synthetic twin", False, "yes (not judged: synthetic twin)"),
        (0.1, "synthetic twin", False, "no (not judged: synthetic twin)"),
        (math.nan, "synthetic twin", False, "no (not judged: synthetic twin)"),
    ],
)
def test_a_claim_that_a_run_cannot_judge_is_shown_and_stops_nothing(measured, not_judged, stops, told):
    claims = judged("publication", measured, at_least=0.15, not_judged=not_judged)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", claims.to_html())
    assert (cells[0], cells[2], cells[3]) == ("saves", "at least 0.15", told)
    assert cells[1] == str(measured)
    if stops:
        with pytest.raises(ClaimError, match="saves"):
            claims.check()
    else:
        claims.check()


def test_one_row_that_is_not_judged_excuses_no_other():
    claims = judged("publication", 0.1, at_least=0.15, not_judged="synthetic twin")
    claims.claim("costs", 2.0, at_most=1.0)
    with pytest.raises(ClaimError, match=r"1 of 2 claims do not hold: costs"):
        claims.check()


@pytest.mark.parametrize("profile", ["smoke", "explore", "publication"])
def test_exact_laws_are_judged_at_every_size(profile):
    claims = Claims(profile)
    claims.claim("arrivals are served, dropped or waiting", 1.0, at_least=0.0, at_most=0.0, exact=True)
    with pytest.raises(ClaimError):
        claims.check()


def test_a_claim_that_cannot_fail_or_hides_another_is_refused():
    claims = Claims("explore")
    with pytest.raises(BookError, match="cannot fail"):
        claims.claim("nothing", 1.0)
    with pytest.raises(BookError, match="above"):
        claims.claim("crossed", 1.0, at_least=2.0, at_most=1.0)
    claims.claim("once", 1.0, at_least=0.0)
    with pytest.raises(BookError, match="twice"):
        claims.claim("once", 1.0, at_least=0.0)
    with pytest.raises(BookError, match="every run judges it"):
        claims.claim("a law", 1.0, at_least=0.0, exact=True, not_judged="synthetic twin")
    with pytest.raises(BookError, match="profile"):
        Claims("publish")


def test_a_chapter_without_claims_does_not_pass():
    with pytest.raises(ClaimError, match="no claim"):
        Claims("smoke").check()


def test_the_table_escapes_text_and_shows_unit_and_bound():
    claims = Claims("publication")
    claims.claim("a < b", 1234.5, at_least=1000, unit="USD")
    table = claims.to_html()
    assert "a &lt; b" in table and "1,234 USD" in table and "at least 1,000 USD" in table and "<td>yes</td>" in table


@pytest.mark.parametrize(
    ("bound", "said"), [(1, "at most 1 point"), (1.5, "at most 1.5 points"), (0, "at most 0 points")]
)
def test_one_point_is_singular(bound, said):
    assert Claim("x", 0.0, at_most=bound, unit="points").bound == said


@pytest.mark.parametrize(
    ("value", "said"), [(999.4, "999 s"), (999.5, "1,000 s"), (-999.9, "-1,000 s"), (99.97, "100 s"), (1e-7, "1e-07 s")]
)
def test_three_digits_never_round_up_into_powers_of_ten(value, said):
    assert Claim("x", 0.0, at_most=value, unit="s").bound == f"at most {said}"
