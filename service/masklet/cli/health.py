"""`masklet health`: ask a service, or a Triton, whether it takes calls; for probes and for people."""

from __future__ import annotations

import argparse
import os
from typing import Any

from masklet.cli.host_port import host_port
from masklet.config_file import in_environment
from masklet.errors import ConfigError

_NOT_SERVING = 1
_LONGEST_S = 86_400
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # a service that listens everywhere is asked here
_DESCRIPTION = """\
Ask over gRPC (grpc.health.v1) whether a masklet service or a Triton takes calls.

The exit status is 0 if it does, 1 if it says no or does not answer."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the `health` command."""
    parser = subparsers.add_parser(
        "health",
        help="ask a service or a Triton whether it takes calls",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    address = "host:port of its gRPC port (default: %(default)s)"
    parser.add_argument("--server", default=_here(), metavar="ADDRESS", help=address)
    parser.add_argument("--service", default="", metavar="NAME", help="one service of it (default: all)")
    parser.add_argument("--timeout", type=float, default=3.0, metavar="S", help="default: %(default)s")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask once; 0 if it serves, else 1. Raises ConfigError or InvalidOpen for a timeout or address of no sense."""
    from masklet_client.address import parse_addresses

    if not 0 < args.timeout <= _LONGEST_S:
        raise ConfigError(f"--timeout is {args.timeout:g}, must be above 0 and at most {_LONGEST_S} seconds")
    parse_addresses([args.server])
    answer = _ask(args.server, args.service, args.timeout)
    print(answer)
    return 0 if answer == "SERVING" else _NOT_SERVING


def _here() -> str:
    """Where the environment has a service on this machine listen."""
    host, port = in_environment("server.host", os.environ), in_environment("server.port", os.environ)
    return host_port(_LOOPBACK.get(host, host), port)


def _ask(server: str, service: str, timeout_s: float) -> str:
    """The status by its name, or why there is none."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(server) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
        except grpc.RpcError as error:
            return _reason(server, service, error)
    name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    return name


def _reason(server: str, service: str, error: Any) -> str:
    if error.code().name == "NOT_FOUND":
        return f"{server} answers, but it has no service {service}"
    return f"no answer from {server}: {error.code().name}: {error.details()}"
