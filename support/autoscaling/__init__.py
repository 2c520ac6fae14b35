"""Autoscaling: the simulator, the policies, their scores, and the decision."""

from support.autoscaling.batch import Batch, BatchRun, prepare_batch, run_batch
from support.autoscaling.catalog import tune_reactive
from support.autoscaling.decisions import decide, expected_costs
from support.autoscaling.environment import Decision, Environment
from support.autoscaling.fleet import BootDraws
from support.autoscaling.line import Line, run_line, split
from support.autoscaling.policies import ForecastMean, Newsvendor, Reactive, Static, servers_for
from support.autoscaling.presets import PRESETS, Preset, preset_environment
from support.autoscaling.promise import lowest_that_keeps
from support.autoscaling.rules import Plan, TargetTracking, Thresholds
from support.autoscaling.scoring import budget_burn, cost_difference, score, score_table
from support.autoscaling.simulate import Observation, Policy, Run, erlang_c_wait, guard, simulate

__all__ = [
    "PRESETS",
    "Batch",
    "BatchRun",
    "BootDraws",
    "Decision",
    "Environment",
    "ForecastMean",
    "Line",
    "Newsvendor",
    "Observation",
    "Plan",
    "Policy",
    "Preset",
    "Reactive",
    "Run",
    "Static",
    "TargetTracking",
    "Thresholds",
    "budget_burn",
    "cost_difference",
    "decide",
    "erlang_c_wait",
    "expected_costs",
    "guard",
    "lowest_that_keeps",
    "prepare_batch",
    "preset_environment",
    "run_batch",
    "run_line",
    "score",
    "score_table",
    "servers_for",
    "simulate",
    "split",
    "tune_reactive",
]
