"""`masklet serve`: run the service until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklet.cli.host_port import host_port
from masklet.config_file import ConfigKey, config_keys, load_config, to_toml

if TYPE_CHECKING:
    from masklet.server.lifecycle import Server

_ALIASES = {
    "server.host": "--host",
    "server.port": "--port",
    "server.metrics_port": "--metrics-port",
    "server.backend": "--backend",
    "model.variant": "--variant",
    "model.weights": "--weights",
    "model.device": "--device",
    "triton.endpoints": "--triton",
}
_DESCRIPTION = """\
Serve masks for video streams and images over gRPC.

Every setting is a flag, an environment variable (MASKLET_SERVER_PORT for server.port) and a key in a TOML
file; a flag wins over the environment, that over the file, that over the default."""
_EXAMPLES = """\
examples:
  masklet serve --backend fake                     try clients out without a model
  masklet serve --weights sam2.1_hiera_tiny.pt     serve a checkpoint
  masklet serve --backend triton --triton localhost:8001  serve what `masklet triton` runs
  masklet serve --config masklet.toml --port 6000  settings from a file, but for the port
  masklet serve --print-config > masklet.toml      a file with every setting to start from

The first SIGTERM or Ctrl-C stops taking sessions and lets streams end (server.drain_timeout_s), the second exits at
once."""
_LOG = logging.getLogger(__name__)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the `serve` command: one flag per configuration key, grouped by section."""
    parser = subparsers.add_parser(
        "serve",
        help="run the service",
        usage="masklet serve [--config FILE] [--SECTION.KEY VALUE ...]",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="a TOML file with settings")
    parser.add_argument("--print-config", action="store_true", help="print the settings in force as TOML and exit")
    levels = ("debug", "info", "warning", "error")
    parser.add_argument("--log-level", choices=levels, default="info", help="how much to log (default: info)")
    for section, keys in itertools.groupby(config_keys().values(), key=lambda key: key.section):
        group = parser.add_argument_group(section)
        for key in keys:
            _add_flag(group, key)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal; 0 after an orderly end. Raises ConfigError, WeightsError or BackendUnavailable."""
    flags = {key: value for key, value in vars(args).items() if key in config_keys()}
    config = load_config(args.config, os.environ, flags)
    if args.print_config:
        print(to_toml(config), end="")
        return 0

    from masklet.observability.logs import setup_logs
    from masklet.server.lifecycle import serve

    setup_logs(args.log_level)
    asyncio.run(serve(config, ready=_announce))
    return 0


def _add_flag(group: argparse._ArgumentGroup, key: ConfigKey) -> None:
    names = ([_ALIASES[key.path]] if key.path in _ALIASES else []) + [f"--{key.path}"]
    default = _shown(key.default)
    text = f"{key.summary.rstrip('.')} (default: {default})".strip().replace("%", "%%")
    group.add_argument(*names, dest=key.path, default=argparse.SUPPRESS, metavar=_metavar(key.kind), help=text)


def _shown(default: object) -> str:
    if default in ("", None, ()):
        return "none"
    return str(default).lower() if isinstance(default, bool) else str(default)


def _metavar(kind: Any) -> str:
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return "|".join(kind)
    return {int: "N", float: "X", bool: "true|false"}.get(kind, "TEXT")


def _announce(server: Server) -> None:
    model, where = server.describe(), server.config.server
    _LOG.info(
        "ready",
        extra={
            "address": host_port(where.host, server.port),
            "metrics": host_port(where.metrics_host, server.metrics_port),
            "backend": model.backend,
            "model": model.model,
            "device": model.device,
            "precision": model.precision,
            "trained": model.trained,
        },
    )
    if not model.trained:
        _LOG.warning("the model is not trained: its masks mean nothing; --weights takes a checkpoint")
