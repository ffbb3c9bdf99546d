"""`masklet triton`: run a Triton with the model until told to stop."""

from __future__ import annotations

import argparse
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from masklet.backends.triton_server import TritonOptions, TritonServer, gpu_number
from masklet.config_file import config_keys
from masklet.errors import BackendUnavailable, ConfigError

_FLAGS = {
    "--variant": "model.variant",
    "--weights": "model.weights",
    "--seed": "model.seed",
    "--device": "model.device",
    "--precision": "model.precision",
    "--memory-precision": "model.memory_precision",
    "--input-size": "model.input_size",
    "--threads": "model.threads",
    "--max-sessions": "triton.max_sessions",
    "--idle-timeout": "triton.idle_timeout_s",
}
_DESCRIPTION = """\
Run NVIDIA Triton with masklet's model: the one on the PATH, of /opt/tritonserver, or of the wheel
(pip install --no-deps nvidia-pytriton==0.7.0). Serve it with `masklet serve --backend triton --triton HOST:PORT`.

Triton has no authentication: keep it on the loopback or a private network."""
_PORTS = {"grpc": 8001, "http": 8000, "metrics": 8002}
_LAST_PORT = 65535
_LONGEST_S = 86_400
_MOST_SHM_MIB = 65_536
_DEVICE = "model.device"
_DEVICE_HELP = '"auto", the default, is the CPU here.'


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the `triton` command."""
    parser = subparsers.add_parser(
        "triton",
        help="run a Triton with the model, for serve --backend triton",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    for name, port in _PORTS.items():
        text = f"{name} port; 0: any free one (default: %(default)s)"
        parser.add_argument(f"--{name}-port", type=int, default=port, metavar="N", help=text)
    parser.add_argument(
        "--exit-timeout", type=int, default=30, metavar="S", help="after SIGTERM (default: %(default)s)"
    )
    parser.add_argument("--ready-timeout", type=float, default=300, metavar="S", help="default: %(default)s")
    parser.add_argument(
        "--shm-mib", type=int, default=64, metavar="N", help="Triton's own, to begin with (default: 64)"
    )
    parser.add_argument("--model-repository", type=Path, metavar="DIR", help="default: the one that comes with masklet")
    parser.add_argument("--log", type=Path, metavar="FILE", help="where Triton's log goes (default: here)")
    group = parser.add_argument_group("model; also MASKLET_MODEL_VARIANT and so on in the environment")
    for flag, key in _FLAGS.items():
        text = config_keys()[key].summary.replace("%", "%%") + (f" {_DEVICE_HELP}" if key == _DEVICE else "")
        group.add_argument(flag, dest=key, default=argparse.SUPPRESS, metavar="X", help=text)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run it; its exit status. Raises ConfigError or BackendUnavailable."""
    with TritonServer(_options(args)) as server, _passing_on(server) as told:
        server.wait_ready(args.ready_timeout)
        where = f"http={args.host}:{server.http_port} metrics={args.host}:{server.metrics_port}"
        print(f"triton ready grpc={server.endpoint} {where}", flush=True)
        return _wait(server, told)


def _wait(server: TritonServer, told: threading.Event) -> int:
    """Until Triton ends; its exit status. Raises BackendUnavailable if its model dies, or it does not end in time."""
    status = server.wait()
    if server.model_died and not told.is_set():
        raise BackendUnavailable("the model's process has ended, and Triton does not start it again")
    return status


def _options(args: argparse.Namespace) -> TritonOptions:
    """Raises ConfigError for numbers that make no sense."""
    times = (("ready_timeout", _LONGEST_S), ("exit_timeout", _LONGEST_S), ("shm_mib", _MOST_SHM_MIB))
    for name, most in (*((f"{name}_port", _LAST_PORT) for name in _PORTS), *times):
        if not 0 <= getattr(args, name) <= most:
            raise ConfigError(f"--{name.replace('_', '-')} is {getattr(args, name)}, must be 0 to {most}")
    given = {key: str(value) for key, value in vars(args).items() if key in config_keys()}
    device = given.get(_DEVICE) or os.environ.get(config_keys()[_DEVICE].variable, "")
    return TritonOptions(
        host=args.host,
        grpc_port=args.grpc_port,
        http_port=args.http_port,
        metrics_port=args.metrics_port,
        exit_timeout_s=args.exit_timeout,
        shm_bytes=args.shm_mib * 1024 * 1024,
        gpu=gpu_number(device),
        environment={config_keys()[key].variable: value for key, value in given.items()},
        repository=args.model_repository,
        log=args.log,
    )


@contextmanager
def _passing_on(server: TritonServer) -> Iterator[threading.Event]:
    """SIGTERM and Ctrl-C go to Triton, which drains; this process ends when it does. Set once one came."""
    told = threading.Event()

    def pass_on(number: int, frame: FrameType | None) -> None:
        told.set()
        server.signal(signal.SIGTERM)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told
    finally:
        for number, was in before.items():
            signal.signal(number, was)
