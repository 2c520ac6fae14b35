"""The Kubernetes autoscaler and KEDA's ScaledJob against facts from their own tests and from their executed code.

HPA_CASES names a folder with other cases of the same schema; by default kubernetes-hpa in the mirror: BOOK_DATA, or
../shared/data beside the project.
Where there is neither, a small set of our own runs, and the test session says so.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.autoscaling.hpa import reconcile
from support.autoscaling.hpa_behavior import (
    HpaState,
    Recommendation,
    ScaleEvent,
    change_in_period,
    limit_with_behavior,
    limit_without_behavior,
    scale_limit,
    stabilize_with_behavior,
    stabilize_without_behavior,
    store_scale_event,
)
from support.autoscaling.hpa_metrics import group_pods, propose_replicas, resource_utilization_ratio, usage_ratio
from support.autoscaling.hpa_spec import (
    Behavior,
    Controller,
    HpaSpec,
    MetricReading,
    MetricSpec,
    Pod,
    PodMetric,
    ScalingPolicy,
    ScalingRules,
    Tolerances,
)
from support.autoscaling.keda import ScaledJob, effective_max_scale
from support.errors import SourceError

BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"  # the mirror beside the project
FOLDER = os.environ.get("HPA_CASES") or Path(os.environ.get("BOOK_DATA") or BESIDE) / "kubernetes-hpa"
OWN = json.loads((Path(__file__).parent / "hpa_own_cases.json").read_text())["cases"]


def cases_in(folder):
    """(cases of the folder, nothing to say), or (none, what the test session says)."""
    file = Path(folder) / "cases.json"
    if file.exists():
        return json.loads(file.read_text())["cases"], ""
    return [], f"no {file}: only {len(OWN)} own cases ran, set HPA_CASES or BOOK_DATA for the whole set"


MIRROR, SAID = cases_in(FOLDER)
CASES = OWN + MIRROR
PER_POD = {"ObjectPerPod": "Object", "ExternalPerPod": "External"}


def run_utilization_ratio(i):
    try:
        if i["form"] == "plain":
            ratio, current = usage_ratio(i["metrics"], i["target"])
            return {"ratio": ratio, "current": current}
        ratio, current, average = resource_utilization_ratio(i["metrics"], i["requests"], i["target"])
    except SourceError as error:
        return {"error": str(error)}
    return {"ratio": ratio, "current": current, "raw_average": average}


def pod(p):
    return Pod(
        p["name"], p["phase"], p["ready"], p["start_age_s"], p["ready_transition_age_s"], p.get("deleted", False),
        p.get("container_requests_milli") or {},
    )  # fmt: skip


def pod_metric(m):
    return PodMetric(m["pod"], m.get("value_milli"), m.get("containers_milli"), m["age_s"], m["window_s"])


def controller(i, **flags):
    tolerance = i.get("tolerance") or {"down": 0.1, "up": 0.1}
    names = {
        "cpu_initialization_period_seconds": "cpu_initialization_period_s",
        "initial_readiness_delay_seconds": "initial_readiness_delay_s",
        "downscale_stabilization_seconds": "downscale_stabilization_window_s",
        "scale_up_limit_factor": "scale_up_limit_factor",
        "scale_up_limit_minimum": "scale_up_limit_minimum",
    }
    given = {ours: i[theirs] for ours, theirs in names.items() if i.get(theirs) is not None}
    return Controller(Tolerances(tolerance["down"], tolerance["up"]), **given, **flags)


def rules(r):
    if r is None:
        return None
    policies = r.get("policies")
    return ScalingRules(
        None if policies is None else tuple(ScalingPolicy(p["type"], p["value"], p["period_s"]) for p in policies),
        r.get("select_policy"),
        r.get("stabilization_window_s"),
        r.get("tolerance"),
    )


def events(rows):
    return tuple(ScaleEvent(e["replica_change"], -e["age_s"], e.get("outdated", False)) for e in rows or ())


def log_of(rows):
    return tuple(Recommendation(r["replicas"], -r["age_s"]) for r in rows)


def run_replica_calculator(i):
    m = i["metric"]
    kind, per_pod = PER_POD.get(m["type"], m["type"]), m["type"] in PER_POD or m["type"] == "Pods"
    resource = kind in ("Resource", "ContainerResource")
    percent, target = m.get("target_utilization_percent"), m.get("target_milli")
    averaged = target if per_pod or (resource and percent is None) else None
    metric = MetricSpec(
        kind, m.get("resource", "cpu") if resource else "qps", m.get("container"), percent, averaged,
        None if averaged is not None or resource else target,
    )  # fmt: skip
    reading = MetricReading(
        tuple(pod_metric(x) for x in m.get("pod_metrics") or ()), tuple(m.get("values_milli") or ())
    )
    flags, n = controller(i), i["current_replicas"]
    try:
        found = propose_replicas(metric, reading, [pod(p) for p in i["pods"]], n, n, flags.tolerance, flags)
    except SourceError as error:
        return {"error": str(error)}
    return {
        "replicas": found.replicas, "usage_milli": found.usage_milli, "raw_average_milli": found.usage_milli,
        "utilization_percent": found.utilization,
    }  # fmt: skip


def run_group_pods(i):
    metrics = {m["pod"]: pod_metric(m) for m in i["pod_metrics"]}
    groups = group_pods([pod(p) for p in i["pods"]], metrics, i["resource"], controller(i))
    return {
        "ready_count": groups.ready, "unready": sorted(groups.unready), "missing": sorted(groups.missing),
        "ignored": sorted(groups.ignored),
    }  # fmt: skip


def run_limit_without_behavior(i):
    bounds = (i["current_replicas"], i["desired_replicas"], i["min_replicas"], i["max_replicas"])
    return dict(zip(("replicas", "reason"), limit_without_behavior(*bounds, controller(i)), strict=True))


def run_stabilize_without_behavior(i):
    window = i["downscale_stabilization_window_s"]
    replicas, log = stabilize_without_behavior(log_of(i["recommendations"]), i["desired_replicas"], window, 0.0)
    return {"replicas": replicas, "log_length": len(log)}


def run_stabilize_with_behavior(i):
    replicas, log = stabilize_with_behavior(
        log_of(i["recommendations"]), i["current_replicas"], i["desired_replicas"], i["scale_up_window_s"],
        i["scale_down_window_s"], 0.0,
    )  # fmt: skip
    return {"replicas": replicas, "log": [item.replicas for item in log]}


def run_behavior_limit(i):
    up, down = events(i["scale_up_events"]), events(i["scale_down_events"])
    return {"limit": scale_limit(i["direction"], i["current_replicas"], rules(i["rules"]), up, down, 0.0)}


def run_rate_limit_with_behavior(i):
    state = HpaState((), events(i["scale_up_events"]), events(i["scale_down_events"]))
    bounds = (i["current_replicas"], i["desired_replicas"], i["min_replicas"], i["max_replicas"])
    behavior = Behavior(rules(i["scale_up"]), rules(i["scale_down"]))
    found = limit_with_behavior(*bounds, behavior, state, controller(i), 0.0)
    return dict(zip(("replicas", "reason"), found, strict=True))


def run_store_scale_event(i):
    before, given = events(i["previous_events"]), rules(i["rules"])
    after = () if given is None else store_scale_event(before, i["replica_change"], given, 0.0)
    return {
        "events": [{"replica_change": e.replica_change, "outdated": e.outdated} for e in after],
        "change_in_period_before": change_in_period(before, i["period_s"], 0.0),
    }


def run_keda_scaled_job(i):
    percentage = i.get("running_job_percentage")
    job = ScaledJob(
        i["max_replica_count"], i.get("min_replica_count") or 0, i["strategy"], i.get("queue_length_deduction"),
        None if percentage is None else float(percentage),
    )  # fmt: skip
    found = effective_max_scale(job, i["max_scale"], i["running_jobs"], i["pending_jobs"], i.get("scale_to", 1))
    return dict(zip(("effective_max_scale", "scale_to"), found, strict=True))


def reading_of(metric, i):
    """Level k is pod k's: half for each container of a resource, the whole otherwise."""
    if metric["type"] in (i.get("failing_metric_types") or ()):
        return MetricReading(error="something went wrong")
    levels, age, window = i["levels_milli"], i["level_age_s"], i["level_window_s"]
    if metric["type"] in ("Object", "External"):
        return MetricReading(values_milli=tuple(levels))
    halves = metric["type"] in ("Resource", "ContainerResource")
    return MetricReading(
        tuple(
            PodMetric(f"test-pod-{k}", None, {"container1": level // 2, "container2": level // 2}, age, window)
            if halves
            else PodMetric(f"test-pod-{k}", level, None, age, window)
            for k, level in enumerate(levels)
        )
    )


def run_reconcile(i, **flags):
    metrics = tuple(
        MetricSpec(
            m["type"], m.get("resource") or "qps", m.get("container"), m.get("target_utilization_percent"),
            m.get("target_average_value_milli"), m.get("target_value_milli"),
        )
        for m in i["metrics"]
    )  # fmt: skip
    behavior = i.get("behavior")
    behavior = (
        None if behavior is None else Behavior(rules(behavior.get("scale_up")), rules(behavior.get("scale_down")))
    )
    spec = HpaSpec(i["max_replicas"], metrics, 1 if i["min_replicas"] is None else i["min_replicas"], behavior)
    log = None if i["recommendations"] is None else log_of(i["recommendations"])
    state = HpaState(log, events(i.get("scale_up_events")), events(i.get("scale_down_events")))
    found = reconcile(
        spec, i["spec_replicas"], i["status_replicas"], [pod(p) for p in i["pods"]],
        [reading_of(m, i) for m in i["metrics"]], state=state, controller=controller(i, **flags), now=0.0,
    )  # fmt: skip
    cpu = [
        p.utilization
        for m, p in zip(metrics, found.proposals, strict=False)
        if p is not None and m.type == "Resource" and m.name == "cpu"
    ]
    return {
        "desired_replicas": found.desired_replicas,
        "cpu_utilization_percent": cpu[0] if cpu else None,
        "conditions": {kind: [c.status, c.reason] for kind, c in found.conditions.items()},
    }


RUN = {name.removeprefix("run_"): function for name, function in dict(globals()).items() if name.startswith("run_")}


def differences(case, **flags):
    """What differs from the expectation: {key: (expected, found)}."""
    expected = {k: sorted(v) if k in ("unready", "missing", "ignored") else v for k, v in case["expect"].items()}
    found = RUN[case["kind"]](case["input"], **flags)
    words = expected.pop("error_contains", None)
    if words is not None:
        return {} if words in found.get("error", "") else {"error": (words, found)}
    return {key: (value, found.get(key)) for key, value in expected.items() if found.get(key) != value}


def with_older_rule(case):
    """Whether a metric fails in a pass of release 1.20, where that did not yet block a scale-down.

    Pull request 99514 (release 1.21) made it block, and removed the upstream rows that showed otherwise; the mirror has
    rows of both kinds under the same reference, so such a row may follow either release.
    """
    known = ("Resource", "ContainerResource", "Pods", "Object", "External")
    failing = case["input"].get("failing_metric_types") or ()
    fails = any(m["type"] not in known or m["type"] in failing for m in case["input"].get("metrics", ()))
    return case["kind"] == "reconcile" and fails and case["upstream_ref"].startswith("v1.20")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_case(case):
    found = differences(case)
    if found and with_older_rule(case):
        found = differences(case, failed_metric_blocks_scale_down=False)
    assert found == {}


def test_own_cases_cover_every_kind():
    assert {case["kind"] for case in OWN} == set(RUN) >= {case["kind"] for case in MIRROR}


def test_the_mirror_is_there():
    if SAID:
        pytest.skip(SAID)
    assert len({case["id"] for case in MIRROR}) == len(MIRROR) > 0


def test_another_folder_is_read_and_an_empty_one_is_named(tmp_path):
    found, said = cases_in(tmp_path)
    assert found == [] and str(tmp_path) in said and f"only {len(OWN)} own cases ran" in said
    (tmp_path / "cases.json").write_text(json.dumps({"cases": OWN[:3]}))
    assert cases_in(tmp_path) == (OWN[:3], "")


def test_without_the_mirror_the_own_cases_run_and_the_session_says_so(tmp_path):
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-k", "test_case or mirror_is"]
    run = subprocess.run(
        [*command, __file__], env=os.environ | {"HPA_CASES": str(tmp_path), "COLUMNS": "400"},
        cwd=Path(__file__).parents[2], capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout
    assert f"only {len(OWN)} own cases ran, set HPA_CASES or BOOK_DATA" in run.stdout
    assert re.search(rf"\b{len(OWN)} passed, 1 skipped", run.stdout), run.stdout


@pytest.mark.skipif("HPA_CASES" in os.environ or bool(SAID), reason="speaks of the mirror's set")
def test_one_row_of_the_mirror_needs_the_older_rule():
    assert len(MIRROR) == 242
    assert [c["id"] for c in MIRROR if differences(c)] == ["reconcile/TestNoScaleDownOneMetricInvalid"]


def test_a_wrong_expectation_is_noticed():
    numbers = ("replicas", "desired_replicas", "limit", "effective_max_scale", "ready_count", "ratio")
    changed = 0
    for case in CASES:
        for key in set(numbers) & set(case["expect"]):
            wrong = case | {"expect": case["expect"] | {key: case["expect"][key] + 1}}
            assert key in differences(wrong)
            changed += 1
    assert changed >= len(RUN)
