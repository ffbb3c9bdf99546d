"""compose.yaml, as far as that can be told without an engine to run it."""

from __future__ import annotations

import http.server
import importlib.util
import os
import re
import subprocess
import threading
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.dockerfile import read_stages
from tests.deploy.prometheus import drain_told_s, seconds

from masklet.backends import triton_server
from masklet.cli import triton as triton_command
from masklet.config import Config
from masklet.config_file import load_config
from masklet.server import lifecycle

FOLDER = Path(__file__).parents[2] / "deploy"
FILES = ("compose.yaml", "compose.gpu.yaml")
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / FILES[0]).read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = ("front", "triton")
every_service = pytest.mark.parametrize("name", SERVICES)


def front_config() -> Config:
    """As the front reads it: what the image sets, then what the file sets."""
    environment: dict[str, str] = {}
    for rest in read_stages()["service"].all_of("ENV"):
        environment |= dict(re.findall(r"(MASKLET_\w+)=(\S+)", rest))
    return load_config(None, environment | SERVICES["front"]["environment"], {})


def mounts() -> Iterator[tuple[Path, str]]:
    """What is mounted from the repository, and how."""
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source, *rest = volume.split(":")
            if source.startswith("."):
                yield FOLDER / source, rest[-1]


@pytest.mark.parametrize("file", FILES)
def test_files_are_what_the_specification_says(file):
    if importlib.util.find_spec("compose_spec") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("needs compose-spec, for Linux on x86-64")
    from compose_spec import PyCompose

    text = yaml.safe_load((FOLDER / file).read_text())  # merges (<<) done
    text.pop("x-hardened", None)
    assert PyCompose.from_yaml(yaml.safe_dump(text)).service_names()
    text["services"]["triton"]["read_onyl"] = True
    with pytest.raises(ValueError, match="read_onyl"):
        PyCompose.from_yaml(yaml.safe_dump(text))


def test_what_is_mounted_is_in_the_repository_and_cannot_be_written():
    found = list(mounts())
    assert len(found) == 6
    for source, mode in found:
        assert source.exists(), source
        assert mode == "ro"


def test_the_gpu_file_changes_services_there_are():
    changes = yaml.safe_load((FOLDER / "compose.gpu.yaml").read_text())["services"]
    assert set(changes) <= set(SERVICES)


def test_ports_are_published_on_the_loopback_and_once_each():
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert len({port.split(":")[1] for port in published}) == len(published) == 3


@every_service
def test_services_are_hardened(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@every_service
def test_images_are_pinned(name):
    assert re.search(r":v?\d+\.\d+\.\d+$|@sha256:[0-9a-f]{64}$", SERVICES[name]["image"])


@every_service
def test_every_service_says_how_it_is(name):
    assert name in OURS or SERVICES[name]["healthcheck"]["test"]  # ours say it in their images


@pytest.mark.parametrize("name", OURS)
def test_our_images_are_built_from_the_repository(name):
    build = SERVICES[name]["build"]
    assert build["target"] in read_stages()
    assert (FOLDER / build["context"] / build["dockerfile"]).is_file()


@every_service
def test_what_a_service_waits_for_is_there(name):
    assert set(SERVICES[name].get("depends_on", {})) <= set(SERVICES)


def test_a_front_that_still_looks_for_a_triton_is_not_unhealthy():
    start_s = seconds(SERVICES["front"]["healthcheck"]["start_period"])
    assert start_s > front_config().triton.connect_timeout_s
    assert "test" not in SERVICES["front"]["healthcheck"]  # the image's


def test_runbooks_speak_of_services_there_are():
    page = (FOLDER / "runbooks" / "README.md").read_text()
    lines = [line.partition("   #")[0].split() for line in re.findall(r"^docker compose .*$", page, flags=re.MULTILINE)]
    assert len(lines) > 5
    for line in lines:
        assert line[2:4] == ["-f", "deploy/compose.yaml"]
        assert (FOLDER.parent / line[3]).is_file()
        assert "ps" in line or set(line) & set(SERVICES)


def test_the_front_looks_for_triton_where_it_is():
    (endpoint,) = front_config().triton.endpoints
    _, host, port = endpoint.split(":")
    parser = ArgumentParser()
    triton_command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["triton", *SERVICES["triton"]["command"]])
    assert (host, int(port)) == ("triton", args.grpc_port)
    assert front_config().server.backend in ("embedded", "triton")


def test_envoy_looks_for_the_front_where_it_is():
    envoy = yaml.safe_load((FOLDER / "envoy" / "envoy.yaml").read_text())["static_resources"]
    (cluster,) = envoy["clusters"]
    endpoints = [one["endpoint"] for place in cluster["load_assignment"]["endpoints"] for one in place["lb_endpoints"]]
    addresses = {
        (one["address"]["socket_address"]["address"], one["address"]["socket_address"]["port_value"])
        for one in endpoints
    }
    aliases = SERVICES["front"]["networks"]["default"]["aliases"]
    assert {(alias, front_config().server.port) for alias in aliases} <= addresses
    (listener,) = envoy["listeners"]
    assert SERVICES["envoy"]["ports"] == [f"127.0.0.1:50051:{listener['address']['socket_address']['port_value']}"]


def test_prometheus_scrapes_services_there_are():
    ports = {"front": front_config().server.metrics_port, "triton": 8002}
    targets = [
        target
        for file in (FOLDER / "prometheus" / "targets-compose").glob("*.yml")
        for group in yaml.safe_load(file.read_text()) or []
        for target in group["targets"]
    ]
    assert sorted(targets) == [f"{name}:{port}" for name, port in sorted(ports.items())]


def test_grafana_finds_its_dashboards_and_prometheus():
    provider = yaml.safe_load((FOLDER / "grafana/provisioning/dashboards/masklet.yml").read_text())["providers"][0]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in SERVICES["grafana"]["volumes"]
    source = yaml.safe_load((FOLDER / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    assert SERVICES["grafana"]["environment"][source["url"].strip("${}")] == "http://prometheus:9090"


def test_services_are_given_the_time_they_take_to_stop():
    server = front_config().server
    drain = server.drain_delay_s + server.drain_timeout_s + 3 * lifecycle._STOP_GRACE_S
    assert seconds(SERVICES["front"]["stop_grace_period"]) > drain
    words = SERVICES["triton"]["command"]
    exit_s = int(words[words.index("--exit-timeout") + 1])
    assert seconds(SERVICES["triton"]["stop_grace_period"]) > exit_s + triton_server._KILL_AFTER_S


def test_a_front_that_does_not_end_is_heard_of_before_it_is_killed():
    server = front_config().server
    told = drain_told_s(server.drain_delay_s + server.drain_timeout_s)
    assert seconds(SERVICES["front"]["stop_grace_period"]) > told


@pytest.mark.parametrize(("status", "expected"), [(200, 0), (503, 1)])
def test_envoy_s_health_check_tells_good_from_bad(status, expected):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        _, *words = SERVICES["envoy"]["healthcheck"]["test"]
        words[-1] = words[-1].replace("/8080", f"/{server.server_port}")
        assert subprocess.run(words, timeout=20).returncode == expected
