from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from tests.backends.triton_process import running_triton, stop_triton
from tests.cli.test_serve import LOADING, SCRIPT, Served, address_in

from masklet.cli import health, main


@pytest.fixture
def service() -> Iterator[Served]:
    served = Served("-m", "masklet")
    yield served
    served.process.kill()
    served.process.wait()
    assert served.process.stderr
    served.process.stderr.close()


@pytest.fixture
def triton_endpoint() -> Iterator[str]:
    yield running_triton().endpoint
    stop_triton()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_service_that_takes_calls_is_healthy(service, capsys):
    address = address_in(service.wait_for("ready"))
    assert main(["health", "--server", address]) == 0
    assert capsys.readouterr().out == "SERVING\n"
    assert main(["health", "--server", address, "--service", "masklet.v1.SegmentationService"]) == 0


def test_a_service_it_does_not_have_is_not_healthy(service, capsys):
    address = address_in(service.wait_for("ready"))
    assert main(["health", "--server", address, "--service", "no.such.Service"]) == 1
    assert capsys.readouterr().out == f"{address} answers, but it has no service no.such.Service\n"


def test_nobody_there_is_not_healthy(capsys):
    address = f"127.0.0.1:{free_port()}"
    assert main(["health", "--server", address]) == 1
    assert capsys.readouterr().out.startswith(f"no answer from {address}: UNAVAILABLE")


def test_it_asks_at_the_port_that_the_environment_gives_the_service(monkeypatch, capsys):
    """As the images' health checks do, which name no address."""
    monkeypatch.setenv("MASKLET_SERVER_PORT", str(port := free_port()))
    assert main(["health"]) == 1
    assert capsys.readouterr().out.startswith(f"no answer from 127.0.0.1:{port}: UNAVAILABLE")


@pytest.mark.parametrize(
    ("host", "asked"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("127.0.0.2", "127.0.0.2")],
)
def test_it_asks_at_the_host_that_the_environment_gives_the_service(monkeypatch, capsys, host, asked):
    monkeypatch.setenv("MASKLET_SERVER_HOST", host)
    monkeypatch.setenv("MASKLET_SERVER_PORT", str(port := free_port()))
    assert main(["health"]) == 1
    assert capsys.readouterr().out.startswith(f"no answer from {asked}:{port}: UNAVAILABLE")


def test_an_address_of_kubernetes_is_no_port(monkeypatch):
    monkeypatch.setenv("MASKLET_SERVER_PORT", "tcp://10.0.0.1:50051")
    assert health._here() == "127.0.0.1:50051"


def test_no_port_in_the_environment_is_an_error(monkeypatch, capsys):
    """gRPC takes it for 443."""
    monkeypatch.setenv("MASKLET_SERVER_PORT", "")
    assert main(["health"]) == 2
    assert "address is '127.0.0.1:', must be HOST:PORT" in capsys.readouterr().err


def test_somebody_who_never_answers_is_not_healthy(capsys):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert main(["health", "--server", f"127.0.0.1:{silent.getsockname()[1]}", "--timeout", "0.3"]) == 1
    assert "DEADLINE_EXCEEDED" in capsys.readouterr().out


def test_a_service_still_loading_is_not_healthy(capsys):
    port = str(free_port())
    loading = Served("-c", SCRIPT.format(patch=LOADING), flags=("--server.port", port, "--log-level=debug"))
    try:
        loading.wait_for("listening")
        assert main(["health", "--server", f"127.0.0.1:{port}"]) == 1
        assert capsys.readouterr().out == "NOT_SERVING\n"
    finally:
        loading.process.kill()
        loading.process.communicate()


def test_a_port_that_is_none_is_an_error(capsys):
    """gRPC takes 107893 for 42357."""
    assert main(["health", "--server", "127.0.0.1:107893"]) == 2
    assert "address is '127.0.0.1:107893', must be HOST:PORT, the port 1 to 65535" in capsys.readouterr().err


def test_a_timeout_of_nothing_is_an_error(capsys):
    assert main(["health", "--timeout", "0"]) == 2
    assert "--timeout is 0, must be above 0" in capsys.readouterr().err
    assert main(["health", "--timeout", "inf"]) == 2
    assert "--timeout is inf, must be above 0 and at most" in capsys.readouterr().err


@pytest.mark.triton
def test_triton_answers_the_same_question(triton_endpoint, capsys):
    assert main(["health", "--server", triton_endpoint]) == 0
    assert capsys.readouterr().out == "SERVING\n"
