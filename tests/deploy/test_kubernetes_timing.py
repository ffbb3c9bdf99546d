"""Graces, probes and budgets of the manifests fit what the code does with its time and memory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.fleet import OVERLAYS, TIERS, argument, container, of_kind, pod
from tests.deploy.prometheus import alerts, drain_told_s

from masklet.backends import triton_server
from masklet.cli import triton as triton_command
from masklet.config import Config
from masklet.config_file import load_config
from masklet.server import lifecycle
from masklet.v1 import segmentation_pb2

FRONT, TRITON = TIERS
MIB = 1024 * 1024
UNITS = {"Mi": MIB, "Gi": 1024 * MIB}
EMPTY_FRONT_BYTES = 512 * MIB  # the process, its libraries, frames being decoded
every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def front_config(overlay: str, tmp_path: Path) -> Config:
    """As a front of this overlay reads it: its ConfigMap and its environment."""
    file = tmp_path / "masklet.toml"
    file.write_text(of_kind(overlay, "ConfigMap")[FRONT]["data"]["masklet.toml"])
    environment = {one["name"]: one["value"] for one in container(overlay, FRONT)["env"]}
    return load_config(file, environment, {})


@pytest.fixture
def triton_config(overlay: str) -> Config:
    """As the model reads it: the ConfigMap is its environment."""
    return load_config(None, of_kind(overlay, "ConfigMap")[TRITON]["data"], {})


def in_bytes(quantity: str) -> int:
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


def mounted(overlay: str, path: str) -> dict[str, Any]:
    """The volume at a path of the front."""
    (name,) = [one["name"] for one in container(overlay, FRONT)["volumeMounts"] if one["mountPath"] == path]
    (volume,) = [one for one in pod(overlay, FRONT)["spec"]["volumes"] if one["name"] == name]
    return dict(volume)


def patience(probe: dict[str, Any]) -> int:
    """Seconds of failures that a probe takes."""
    return int(probe["periodSeconds"] * probe["failureThreshold"])


def test_fronts_listen_where_the_manifests_say(overlay, front_config):
    ports = {one["name"]: one["containerPort"] for one in container(overlay, FRONT)["ports"]}
    server = front_config.server
    assert (server.host, server.metrics_host, server.backend) == ("0.0.0.0", "0.0.0.0", "triton")
    assert ports == {"grpc": server.port, "metrics": server.metrics_port}
    assert container(overlay, FRONT)["args"][:2] == ["serve", "--config"]


def test_tritons_listen_where_the_manifests_say(overlay):
    parser = __import__("argparse").ArgumentParser()
    triton_command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["triton", *container(overlay, TRITON)["args"]])
    ports = {one["name"]: one["containerPort"] for one in container(overlay, TRITON)["ports"]}
    assert ports == {"http": args.http_port, "grpc": args.grpc_port, "metrics": args.metrics_port}
    assert vars(args)["model.device"] == "cuda"


def test_fronts_look_for_tritons_where_they_are(overlay, front_config):
    services = of_kind(overlay, "Service")
    (endpoint,) = front_config.triton.endpoints
    way, name, port = endpoint.split(":")
    assert (way, services[name]["spec"]["clusterIP"]) == ("k8s", "None")
    assert port in {one["name"] for one in services[name]["spec"]["ports"]}


def test_the_resume_key_is_where_it_is_mounted(overlay, front_config):
    folder, _, name = front_config.session.resume_key_file.rpartition("/")
    assert mounted(overlay, folder)["secret"]["secretName"] == "masklet-resume-keys"
    assert name == "keys"  # as README.md makes the secret


def test_a_front_is_given_the_time_its_drain_takes(overlay, front_config):
    hook = container(overlay, FRONT).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    server = front_config.server
    stopping = 3 * lifecycle._STOP_GRACE_S  # waiting for the last streams, ending calls, freeing sessions
    needed = hook + server.drain_delay_s + server.drain_timeout_s + stopping
    assert pod(overlay, FRONT)["spec"]["terminationGracePeriodSeconds"] > needed


def test_a_front_that_does_not_end_is_heard_of_before_it_is_killed(overlay, front_config):
    server = front_config.server
    told = drain_told_s(server.drain_delay_s + server.drain_timeout_s)
    assert pod(overlay, FRONT)["spec"]["terminationGracePeriodSeconds"] > told


def test_a_drain_begins_only_after_services_and_proxies_noticed(overlay, front_config):
    readiness = container(overlay, FRONT)["readinessProbe"]
    assert front_config.server.drain_delay_s > patience(readiness)


def test_a_triton_is_given_the_time_its_sessions_need(overlay):
    one = container(overlay, TRITON)
    hook, timeout = one["lifecycle"]["preStop"]["sleep"]["seconds"], int(argument(one, "--exit-timeout"))
    needed = hook + timeout + triton_server._KILL_AFTER_S
    assert pod(overlay, TRITON)["spec"]["terminationGracePeriodSeconds"] > needed


def test_sessions_are_moved_away_before_a_triton_is_told_to_stop(overlay, front_config):
    hook = container(overlay, TRITON)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert hook > front_config.routing.dns_period_s + front_config.routing.health_period_s
    assert hook + int(argument(container(overlay, TRITON), "--exit-timeout")) >= front_config.routing.recovery_timeout_s


def test_nobody_is_killed_while_starting(overlay, front_config):
    triton = container(overlay, TRITON)
    assert patience(triton["startupProbe"]) > int(argument(triton, "--ready-timeout"))
    assert patience(container(overlay, FRONT)["startupProbe"]) > front_config.triton.connect_timeout_s
    progress = of_kind(overlay, "Deployment")[TRITON]["spec"]["progressDeadlineSeconds"]
    assert progress > patience(triton["startupProbe"])


def test_a_triton_that_starts_is_not_reported_as_down(overlay):
    """It exports nothing before its model is loaded."""
    (minutes,) = re.findall(r"^(\d+)m$", alerts()["MaskletTritonDown"]["for"])
    assert 60 * int(minutes) > patience(container(overlay, TRITON)["startupProbe"])


@pytest.mark.parametrize("alert", ["MaskletNotReady", "MaskletFrontNotReady"])
def test_a_front_that_starts_is_not_reported_as_not_ready(front_config, alert):
    (minutes,) = re.findall(r"^(\d+)m$", alerts()[alert]["for"])
    assert 60 * int(minutes) > front_config.triton.connect_timeout_s


def test_a_front_s_probes_ask_for_services_it_has(overlay):
    front = container(overlay, FRONT)
    known = {"", segmentation_pb2.DESCRIPTOR.services_by_name["SegmentationService"].full_name}
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert front[name]["grpc"].get("service", "") in known
        assert front[name]["timeoutSeconds"] <= front[name]["periodSeconds"]


def test_liveness_is_more_patient_than_readiness(overlay):
    for tier in TIERS:
        one = container(overlay, tier)
        assert patience(one["livenessProbe"]) >= 3 * patience(one["readinessProbe"])


def test_the_model_remembers_longer_than_a_client_may_be_away(front_config, triton_config):
    session = front_config.session
    assert triton_config.triton.idle_timeout_s > session.idle_timeout_s + session.resume_ttl_s


def test_a_front_s_budgets_fit_its_memory(overlay, front_config):
    routing, session = front_config.routing, front_config.session
    newest = 3 * 1920 * 1080 + front_config.limits.max_mask_pixels  # to go on from when all else is gone
    resumed = front_config.limits.max_sessions  # all of the other of two fronts, which is gone: resuming asks no limit
    sessions = (session.ring_bytes + newest) * (front_config.limits.max_sessions + resumed)
    needed = routing.checkpoint_bytes + routing.replay_bytes + sessions + EMPTY_FRONT_BYTES
    assert in_bytes(container(overlay, FRONT)["resources"]["limits"]["memory"]) > needed
