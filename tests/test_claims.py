import math

import pytest

from support.claims import Claim, ClaimError, Claims
from support.errors import BookError


def judged(profile: str, measured: float, **bounds: float) -> Claims:
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
