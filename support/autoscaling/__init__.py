"""Autoscaling: the simulator, the policies, their scores, and the decision."""

from support.autoscaling.decisions import decide, expected_costs
from support.autoscaling.environment import Decision, Environment
from support.autoscaling.line import Line, run_line, split, tune_reactive
from support.autoscaling.policies import ForecastMean, Newsvendor, Reactive, Static, servers_for
from support.autoscaling.scoring import cost_difference, score, score_table
from support.autoscaling.simulate import Observation, Policy, Run, erlang_c_wait, guard, simulate

__all__ = [
    "Decision",
    "Environment",
    "ForecastMean",
    "Line",
    "Newsvendor",
    "Observation",
    "Policy",
    "Reactive",
    "Run",
    "Static",
    "cost_difference",
    "decide",
    "erlang_c_wait",
    "expected_costs",
    "guard",
    "run_line",
    "score",
    "score_table",
    "servers_for",
    "simulate",
    "split",
    "tune_reactive",
]
