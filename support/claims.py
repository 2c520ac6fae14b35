"""Checked claims: every number the prose leans on is a row of the chapter's closing table, and a false one stops the book."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass, field

from IPython.display import HTML, display

from support.errors import BookError

__all__ = ["PROFILES", "Claim", "ClaimError", "Claims"]

PROFILES = ("explore", "smoke", "publication")


class ClaimError(AssertionError):
    """A claim of the chapter is false at the size it is published at."""

    def _render_traceback_(self) -> list[str]:
        return [f"ClaimError: {self}"]


@dataclass(frozen=True)
class Claim:
    """One claim: `at_least <= measured <= at_most`, with the unit of all three.

    `exact` marks a law that holds at every size (conservation of requests, say); other claims are statistical.
    `not_judged` says in a word or two why this run cannot judge the claim; empty if it can.
    """

    text: str
    measured: float
    at_least: float = -math.inf
    at_most: float = math.inf
    unit: str = ""
    exact: bool = False
    not_judged: str = ""

    @property
    def holds(self) -> bool:
        """True if the measured value is a number within the bounds (NaN never holds)."""
        return self.at_least <= self.measured <= self.at_most

    @property
    def bound(self) -> str:
        """The bound in words, such as `at least 15 %`."""
        low, high = _number(self.at_least, self.unit), _number(self.at_most, self.unit)
        if self.at_least == self.at_most:
            return f"exactly {low}"
        if math.isinf(self.at_most):
            return f"at least {low}"
        if math.isinf(self.at_least):
            return f"at most {high}"
        return f"{low} to {high}"


@dataclass
class Claims:
    """The claims of one chapter run, judged by its profile.

    Profiles: `publication` raises on any false claim; `smoke` (tiny sizes) and `explore` (a reader's own data or
    parameters) show every row and judge only exact claims. Raises BookError for an unknown profile.

    Example:
        >>> claims = Claims("explore")
        >>> claims.claim("The queue is never negative", 0.0, at_least=0.0, exact=True)
        >>> claims.claims[0].bound
        'at least 0'
    """

    profile: str
    claims: list[Claim] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise BookError(f"profile: {self.profile!r} is unknown. Use one of {', '.join(PROFILES)}.")

    def claim(
        self,
        text: str,
        measured: float,
        *,
        at_least: float = -math.inf,
        at_most: float = math.inf,
        unit: str = "",
        exact: bool = False,
        not_judged: str = "",
    ) -> None:
        """Record a claim; the table judges it.

        `measured`, `at_least` and `at_most` are in `unit`. `not_judged`, such as `synthetic twin`: the row is shown with
        its value and this reason, and stops no run. Raises BookError if no bound is given, if the bounds cross, if the
        same text was claimed before, or if an exact claim is not to be judged: it could not fail, or would hide another.
        """
        if math.isinf(at_least) and math.isinf(at_most):
            raise BookError(f"claim {text!r}: no bound, so it cannot fail. Give at_least= or at_most=.")
        if at_least > at_most:
            raise BookError(f"claim {text!r}: at_least={at_least} is above at_most={at_most}. Swap them.")
        if any(known.text == text for known in self.claims):
            raise BookError(f"claim {text!r}: claimed twice. Give each claim its own sentence.")
        if exact and not_judged:
            raise BookError(f"claim {text!r}: exact, so every run judges it. Leave out not_judged={not_judged!r}.")
        row = Claim(text, float(measured), float(at_least), float(at_most), unit, exact, not_judged)
        self.claims.append(row)

    def judged(self, row: Claim) -> bool:
        """True if a false `row` stops the run under this profile."""
        return row.exact or (self.profile == "publication" and not row.not_judged)

    def check(self) -> None:
        """Raise ClaimError naming every false claim that this profile judges, or an empty list of claims."""
        if not self.claims:
            raise ClaimError("the chapter made no claim, so its closing table shows nothing")
        false = [row for row in self.claims if self.judged(row) and not row.holds]
        if false:
            told = "; ".join(f"{r.text}: measured {_number(r.measured, r.unit)}, bound {r.bound}" for r in false)
            raise ClaimError(f"{len(false)} of {len(self.claims)} claims do not hold: {told}")

    def to_html(self) -> str:
        """The closing table as HTML: claim, measured, bound, holds."""
        rows = "".join(
            f"<tr><td>{html.escape(r.text)}</td><td class='num'>{_number(r.measured, r.unit)}</td>"
            f"<td>{r.bound}</td><td>{self._verdict(r)}</td></tr>"
            for r in self.claims
        )
        return (
            "<table class='claims'><caption>What this chapter showed</caption><thead><tr><th scope='col'>claim</th>"
            "<th scope='col'>measured</th><th scope='col'>bound</th><th scope='col'>holds</th></tr></thead>"
            f"<tbody>{rows}</tbody></table>"
        )

    def table(self) -> None:
        """Display the closing table, then raise ClaimError if a judged claim is false."""
        display(HTML(self.to_html()))
        self.check()

    def _verdict(self, row: Claim) -> str:
        word = "yes" if row.holds else "no"
        return word if self.judged(row) else f"{word} (not judged: {row.not_judged or f'{self.profile} run'})"


def _number(value: float, unit: str) -> str:
    """Three significant digits, whole numbers in full, with the unit."""
    text = f"{value:,.0f}" if abs(value) >= 999.5 or float(value).is_integer() else f"{value:.3g}"
    return f"{text} {'point' if text == '1' and unit == 'points' else unit}".rstrip()
