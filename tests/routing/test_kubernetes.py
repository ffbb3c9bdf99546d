"""Kubernetes as a discovery: what it does to sessions, and what it needs to be set up."""

from __future__ import annotations

import asyncio
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.routing.farm import SETTINGS as TRACKED
from tests.routing.farm import Farm, click, masks, request, undisturbed
from tests.routing.kubernetes_server import SETTINGS, endpoint, until

from masklet.config import Config, KubernetesConfig, ServerConfig, TritonConfig
from masklet.config_file import load_config
from masklet.errors import ConfigError
from masklet.routing.discovery import JoinedEndpoints, ListedEndpoints, Standing
from masklet.routing.kubernetes import KubernetesEndpoints, kubernetes_endpoints
from masklet.routing.kubernetes_rights import RBAC, needed_rights
from masklet.server.choice import make_backend
from masklet.types import StateOrigin

ROOT = Path(__file__).parents[2]
A, B = "10.0.0.1:8001", "10.0.0.2:8001"
READY: dict[str, Any] = {"ready": True, "serving": True, "terminating": False}
GOING: dict[str, Any] = {"ready": False, "serving": True, "terminating": True}
NOT_READY: dict[str, Any] = {"ready": False, "serving": False, "terminating": False}


@pytest.fixture
def farm():
    return Farm(A, B)


@pytest.fixture
def pods(kubeconfig_path, farm) -> KubernetesEndpoints:
    settings = replace(SETTINGS, kubeconfig=str(kubeconfig_path))
    return kubernetes_endpoints(["k8s:triton:grpc"], settings, metrics=farm.metrics)


async def test_a_pod_that_terminates_is_drained_and_one_that_is_gone_is_left(api, farm, pods):
    requests = [request(1, click()), *(request(seq) for seq in range(2, 6))]
    expected = await undisturbed(requests)
    api.put("s", endpoint("10.0.0.1", **READY))
    async with farm.routed(pods) as backend:
        await backend.open("s", TRACKED)
        answers = [await backend.step("s", one) for one in requests[:2]]
        api.put("s", endpoint("10.0.0.1", **GOING), endpoint("10.0.0.2", **READY))
        await until(lambda: farm.holding("s") == {B})
        answers += [await backend.step("s", one) for one in requests[2:]]
        assert answers[2].recovered is StateOrigin.MIGRATED
        assert [masks(one) for one in answers] == expected
        assert farm[A].connections == 1  # others may still have to find their sessions there
        api.put("s", endpoint("10.0.0.2", **READY))
        await until(lambda: farm[A].connections == 0)


async def test_a_pod_that_is_not_ready_gets_nothing_new_and_keeps_what_it_has(api, farm, pods):
    api.put("s", endpoint("10.0.0.1", **READY), endpoint("10.0.0.2", **NOT_READY))
    async with farm.routed(pods) as backend:
        await backend.open("s", TRACKED)
        assert (farm.holding("s"), farm[B].connections) == ({A}, 0)  # it was not tried: it says itself that it is not
        api.put("s", endpoint("10.0.0.1", **NOT_READY), endpoint("10.0.0.2", **READY))
        await until(lambda: farm[B].connections == 1)
        await asyncio.sleep(0.7)  # more than one look at their health
        for name in "abc":
            await backend.open(name, TRACKED)
            assert farm.holding(name) == {B}
        assert (await backend.step("s", request(1, click()))).recovered is None
        assert farm.holding("s") == {A}


async def test_sessions_go_on_while_the_api_is_away(api, farm, pods):
    api.put("s", endpoint("10.0.0.1", **READY))
    async with farm.routed(pods) as backend:
        api.stop()
        errors = farm.metrics.kubernetes_errors.labels("list", "unreachable")
        await until(lambda: errors._value.get() >= 3)
        await backend.open("s", TRACKED)
        assert len((await backend.step("s", request(1, click()))).objects) == 1
        api.put("s", endpoint("10.0.0.2", **READY))
        api.start()
        await until(lambda: farm.holding("s") == {B})
        synced = farm.metrics.registry.get_sample_value("masklet_kubernetes_synced_time_seconds")
        assert synced is not None and synced > 1e9


async def test_a_service_without_pods_is_told_and_lists_are_joined(api, pods):
    api.put("s", endpoint("10.0.0.1", **GOING))
    joined = JoinedEndpoints([ListedEndpoints(["10.0.0.1:8001", "c:1"]), pods])
    watch = joined.watch()
    async with asyncio.timeout(10):
        while (found := await anext(watch)).get(A) is not Standing.LEAVING:
            pass
        assert found == {A: Standing.LEAVING, "c:1": Standing.WANTED}
        api.remove("s")
        assert await anext(watch) == {A: Standing.WANTED, "c:1": Standing.WANTED}
    await watch.aclose()


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"extra .kubernetes."):
        kubernetes_endpoints(["k8s:triton:1"], KubernetesConfig(), metrics=Farm().metrics)


def test_a_kubeconfig_that_is_not_there_is_named(tmp_path):
    triton = TritonConfig(endpoints=("k8s:triton:8001",))
    kubernetes = KubernetesConfig(kubeconfig=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"kubernetes\.kubeconfig is '.*none'") as caught:
        make_backend(Config(server=ServerConfig(backend="triton"), triton=triton, kubernetes=kubernetes))
    assert caught.value.field == "kubernetes.kubeconfig"


def test_a_pod_without_a_token_is_told_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"token file does not exist.*no kubeconfig"):
        kubernetes_endpoints(["k8s:triton:1"], KubernetesConfig(), metrics=Farm().metrics)


def test_a_namespace_has_to_come_from_somewhere(kubeconfig_path):
    found = yaml.safe_load(kubeconfig_path.read_text())
    del found["contexts"][0]["context"]["namespace"]
    kubeconfig_path.write_text(yaml.safe_dump(found))
    settings = KubernetesConfig(kubeconfig=str(kubeconfig_path))
    with pytest.raises(ConfigError, match=r"kubernetes\.namespace is empty"):
        kubernetes_endpoints(["k8s:triton:1"], settings, metrics=Farm().metrics)
    assert kubernetes_endpoints(["k8s:triton:1"], replace(settings, namespace="n"), metrics=Farm().metrics)


async def test_the_service_uses_it_if_it_is_told_to(api, kubeconfig_path):
    api.put("s", endpoint("127.0.0.1", **READY))
    settings = replace(SETTINGS, kubeconfig=str(kubeconfig_path), deletion_cost=True)
    triton = TritonConfig(endpoints=("k8s:triton.gpu:1",), connect_timeout_s=5.0)
    backend = make_backend(Config(server=ServerConfig(backend="triton"), triton=triton, kubernetes=settings))
    with pytest.raises(Exception, match=r"127\.0\.0\.1:1 is connecting"):
        await backend.__aenter__()


@pytest.mark.parametrize("good", ["k8s:triton:8001", "k8s:triton.gpu:grpc", "k8s:t:1,dns:a:1,b:1"])
def test_endpoints_that_are_understood(good):
    assert load_config(None, {}, {"triton.endpoints": good}).triton.endpoints == tuple(good.split(","))


@pytest.mark.parametrize("bad", ["k8s:triton", "k8s:a.b.c:1", "k8s:Triton:grpc", "k8s::1:x", "k8s:triton:-x"])
def test_endpoints_that_are_not_understood(bad):
    with pytest.raises(ConfigError, match="k8s:service"):
        load_config(None, {}, {"triton.endpoints": bad})


def test_the_manifests_grant_what_is_needed():
    objects = yaml.safe_load_all((ROOT / "deploy/kubernetes/base/access.yaml").read_text())
    rules = [rule for one in objects if one["kind"] == "Role" for rule in one["rules"]]
    for right in RBAC:
        granted = [rule for rule in rules if right.group in rule["apiGroups"] and right.resource in rule["resources"]]
        assert right.verbs <= {verb for rule in granted for verb in rule["verbs"]}, right.why


def test_without_deletion_costs_only_slices_are_read():
    assert [right.resource for right in needed_rights(KubernetesConfig())] == ["endpointslices"]
    assert {right.resource for right in RBAC} == {"endpointslices", "leases", "pods"}
