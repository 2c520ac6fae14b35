"""The documented priors of the utilisation model, with the knobs of a sensitivity analysis."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

__all__ = ["Priors"]


@dataclass(frozen=True)
class Priors:
    """Scales of the model's priors, on the logit scale of utilisation and the log scale of precision.

    eta_i ~ Normal(eta_mean, eta_sd), the industry mean: on the logit scale this is Normal(15, 5) percent.
    sd_i ~ HalfNormal(sd_sd), m_c ~ Normal(eta_i, share sd_i): the application varies by half the industry's spread.
    theta_r ~ Normal(m_c, tau_a), tau_a ~ HalfNormal(tau_sd). l_c ~ Normal(log_kappa_mean, log_kappa_sd),
    log kappa_r ~ Normal(l_c, s), s ~ HalfNormal(s_sd). b_a ~ Normal(0, b_sd), the season's coefficients.

    Example:
        >>> Priors().scaled(2.0).eta_sd
        0.8
    """

    eta_mean: float = -1.80
    eta_sd: float = 0.40
    sd_sd: float = 0.6
    share: float = 0.5
    tau_sd: float = 0.5
    log_kappa_mean: float = math.log(30)
    log_kappa_sd: float = 0.7
    s_sd: float = 0.5
    b_sd: float = 0.35

    def scaled(self, factor: float) -> Priors:
        """The same centres with every scale multiplied by `factor`: the first question of a sensitivity analysis."""
        names = ("eta_sd", "sd_sd", "tau_sd", "log_kappa_sd", "s_sd", "b_sd")
        return replace(self, **{name: factor * getattr(self, name) for name in names})

    @property
    def theta_sd(self) -> float:
        """Prior sd of a resource's level with the hierarchy integrated out: the prior of the models without one."""
        return math.sqrt(self.eta_sd**2 + (self.share * self.sd_sd) ** 2 + self.tau_sd**2)

    @property
    def resource_log_kappa_sd(self) -> float:
        """Prior sd of a resource's log precision with the hierarchy integrated out."""
        return math.sqrt(self.log_kappa_sd**2 + self.s_sd**2)
