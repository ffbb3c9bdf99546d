"""Pods meet the restricted Pod Security Standard, and nothing may do or reach more than it needs."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from tests.deploy.dockerfile import chain, read_stages
from tests.deploy.fleet import OVERLAYS, TIERS, container, of_kind, pod

from masklet.routing.kubernetes_rights import RBAC

FRONT, TRITON = TIERS
RESTRICTED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
both_tiers = pytest.mark.parametrize("tier", TIERS)


def breaches(template: dict[str, Any]) -> list[str]:
    """What of a pod template the restricted standard forbids; https://kubernetes.io/docs/concepts/security."""
    spec = template["spec"]
    shared = spec.get("securityContext", {})
    found = [name for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    found += [f"volume {one['name']}" for one in spec.get("volumes", []) if not RESTRICTED_VOLUMES & set(one)]
    for one in [*spec.get("initContainers", []), *spec["containers"]]:
        own = {**shared, **one.get("securityContext", {})}
        capabilities = own.get("capabilities", {})
        checks = {
            "privileged": not own.get("privileged"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "runAsNonRoot": own.get("runAsNonRoot") is True and own.get("runAsUser") != 0,
            "seccompProfile": own.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
            "capabilities": "ALL" in capabilities.get("drop", [])
            and set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"},
            "hostPort": not [port for port in one.get("ports", []) if port.get("hostPort")],
        }
        found += [name for name, kept in checks.items() if not kept]
    return found


@every_overlay
@both_tiers
def test_pods_meet_the_restricted_standard(overlay, tier):
    assert breaches(pod(overlay, tier)) == []


@pytest.mark.parametrize(
    ("path", "value", "breach"),
    [
        (("spec", "hostNetwork"), True, "hostNetwork"),
        (("spec", "securityContext", "runAsNonRoot"), False, "runAsNonRoot"),
        (("spec", "securityContext", "seccompProfile"), {}, "seccompProfile"),
        (("spec", "volumes"), [{"name": "host", "hostPath": {"path": "/"}}], "volume host"),
    ],
)
def test_a_breach_would_be_noticed(path, value, breach):
    template = {"spec": {**pod("production", FRONT)["spec"]}}
    template["spec"]["securityContext"] = dict(template["spec"]["securityContext"])
    place: Any = template
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    assert breaches(template) == [breach]


@every_overlay
def test_the_namespace_enforces_it(overlay):
    (namespace,) = of_kind(overlay, "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@every_overlay
@both_tiers
def test_roots_are_read_only_and_users_those_of_the_images(overlay, tier):
    assert container(overlay, tier)["securityContext"]["readOnlyRootFilesystem"] is True
    (user,) = [one for stage in chain(read_stages(), tier.removeprefix("masklet-")) for one in stage.all_of("USER")]
    context = pod(overlay, tier)["spec"]["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == user


@every_overlay
@both_tiers
def test_everything_has_bounds(overlay, tier):
    resources = container(overlay, tier)["resources"]
    assert {"cpu", "memory"} <= set(resources["requests"])
    assert "memory" in resources["limits"]


@every_overlay
def test_only_fronts_get_a_token(overlay):
    assert [pod(overlay, tier)["spec"]["automountServiceAccountToken"] for tier in TIERS] == [True, False]
    for account in of_kind(overlay, "ServiceAccount").values():
        assert account["automountServiceAccountToken"] is False  # pods ask for it themselves


@every_overlay
def test_the_role_grants_what_is_needed_and_no_more(overlay):
    (role,) = of_kind(overlay, "Role").values()
    granted = {
        (group, resource, frozenset(rule["verbs"]), tuple(rule.get("resourceNames", ())))
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert granted == {(right.group, right.resource, right.verbs, right.names) for right in RBAC}
    (binding,) = of_kind(overlay, "RoleBinding").values()
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [subject["name"] for subject in binding["subjects"]] == [pod(overlay, FRONT)["spec"]["serviceAccountName"]]
    assert not of_kind(overlay, "ClusterRole") and not of_kind(overlay, "ClusterRoleBinding")


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    expressions = selector.get("matchExpressions", [])
    assert all(one["operator"] == "In" for one in expressions)
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(one["key"]) in one["values"] for one in expressions
    )


def rules(overlay: str, tier: str, way: str) -> list[dict[str, Any]]:
    """What policies let in (`ingress`), or out (`egress`), of a tier."""
    labels = pod(overlay, tier)["metadata"]["labels"]
    policies = [one["spec"] for one in of_kind(overlay, "NetworkPolicy").values()]
    found = [one for one in policies if selects(one["podSelector"], labels) and way.capitalize() in one["policyTypes"]]
    return [rule for one in found for rule in one.get(way, [])]


def number(overlay: str, tier: str, port: int | str) -> int:
    ports = {one["name"]: one["containerPort"] for one in container(overlay, tier)["ports"]}
    return ports[port] if isinstance(port, str) else port


@every_overlay
def test_nothing_is_open_that_no_policy_opens(overlay):
    closed = [one["spec"] for one in of_kind(overlay, "NetworkPolicy").values() if one["spec"]["podSelector"] == {}]
    assert closed == [{"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}]


@every_overlay
def test_policies_speak_of_pods_there_are(overlay):
    labels = [pod(overlay, tier)["metadata"]["labels"] for tier in TIERS]
    for policy in of_kind(overlay, "NetworkPolicy").values():
        assert [one for one in labels if selects(policy["spec"]["podSelector"], one)]


@every_overlay
def test_only_fronts_reach_tritons_and_only_prometheus_their_metrics(overlay):
    front = pod(overlay, FRONT)["metadata"]["labels"]
    reached = {number(overlay, TRITON, rule["ports"][0]["port"]): rule for rule in rules(overlay, TRITON, "ingress")}
    assert sorted(reached) == [8001, 8002]
    (peer,) = reached[8001]["from"]
    assert set(peer) == {"podSelector"} and selects(peer["podSelector"], front)
    (peer,) = reached[8002]["from"]
    assert peer["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "prometheus"}
    assert rules(overlay, TRITON, "egress") == []


@every_overlay
def test_clients_reach_only_the_fronts_grpc_port(overlay):
    reached = {number(overlay, FRONT, rule["ports"][0]["port"]): rule for rule in rules(overlay, FRONT, "ingress")}
    assert sorted(reached) == [9464, 50051]
    assert all(len(rule["ports"]) == 1 and rule["from"] for rule in reached.values())
    assert reached[9464]["from"][0]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "prometheus"}


@every_overlay
def test_fronts_reach_tritons_names_and_the_api_server(overlay):
    triton = pod(overlay, TRITON)["metadata"]["labels"]
    opened = rules(overlay, FRONT, "egress")
    ports = sorted({port["port"] for rule in opened for port in rule["ports"]})
    assert ports == [53, 443, 6443, 8001]
    (to_triton,) = [rule for rule in opened if rule["ports"] == [{"protocol": "TCP", "port": 8001}]]
    assert [selects(peer["podSelector"], triton) for peer in to_triton["to"]] == [True]


@every_overlay
def test_whoever_may_open_streams_cannot_close_everybody_s(overlay):
    """SessionService asks nobody who he is, and shares the port with clients."""
    server = tomllib.loads(of_kind(overlay, "ConfigMap")[FRONT]["data"]["masklet.toml"])["server"]
    assert (server["session_service"], server["reflection"]) == (False, False)


@every_overlay
def test_no_secret_is_in_the_manifests(overlay):
    assert not of_kind(overlay, "Secret")
    for one in of_kind(overlay, "ConfigMap").values():
        assert not re.search(r"[0-9a-fA-F]{32}", "".join(one["data"].values()))
