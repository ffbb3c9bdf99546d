"""What computes for `masklet evaluate`: the model in this process, in one or several Tritons, or no model."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any

from masklet.backends.base import Backend
from masklet.cli.own_triton import own_triton
from masklet.config import Config, ModelConfig, RoutingConfig, ServerConfig, TritonConfig
from masklet.config_rules import check_rule
from masklet.errors import ConfigError
from masklet.server.choice import make_backend

_MODEL = ModelConfig()
_MODEL_KEYS = ("variant", "weights", "device", "precision", "input_size", "threads")
_HERE = "the command line"


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says what computes; `open_backend` reads it."""
    group = parser.add_argument_group("model")
    choices = ("embedded", "triton", "fake")
    group.add_argument("--backend", choices=choices, default="embedded", help="default: %(default)s")
    text = "Tritons that run the model, with their own settings of it (default: start one)"
    group.add_argument("--triton", metavar="HOST:PORT[,...]", help=text)
    group.add_argument("--variant", default=_MODEL.variant, help="default: that of the weights, else nano")
    text = 'a checkpoint, or "random" (default: those that come with the package, if the variant has some)'
    group.add_argument("--weights", default=_MODEL.weights, metavar="FILE", help=text)
    group.add_argument("--device", default=_MODEL.device, help="cpu, cuda, cuda:N or auto (default: %(default)s)")
    group.add_argument("--precision", default=_MODEL.precision, help="float32, bfloat16 or auto (default: %(default)s)")
    group.add_argument("--input-size", type=int, default=0, metavar="PX", help="default: the variant's own")
    group.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: all cores)")


@asynccontextmanager
async def open_backend(args: argparse.Namespace) -> AsyncIterator[Backend]:
    """The backend, ready. The truth needs no model, so none is loaded for it.

    Raises:
        ConfigError: settings that make no sense, or nothing to run them with.
        WeightsError: the checkpoint cannot be read or is of another variant.
        BackendUnavailable: no Triton that is named can be used, or one's own does not get ready.
    """
    if args.triton is not None and args.backend != "triton":
        raise ConfigError(f"--triton is {args.triton}, which only --backend triton uses, not {args.backend}")
    name = "fake" if args.mode == "truth" else args.backend
    with _endpoints(args) if name == "triton" else nullcontext(TritonConfig().endpoints) as endpoints:
        model = _model(args) if name == "embedded" else _MODEL
        config = Config(
            server=ServerConfig(backend=name),
            model=model,
            triton=TritonConfig(endpoints=endpoints),
            routing=RoutingConfig(admit_by_load=False),
        )
        async with make_backend(config) as backend:
            yield backend


@contextmanager
def _endpoints(args: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """Those that are named, else that of a Triton of one's own."""
    if args.triton is None:
        with own_triton(_model(args)) as endpoint:
            yield (endpoint,)
        return
    endpoints = tuple(part.strip() for part in args.triton.split(","))
    check_rule("triton.endpoints", endpoints, _HERE)
    for key in _MODEL_KEYS:
        if getattr(args, key) != getattr(_MODEL, key):
            flag = f"--{key.replace('_', '-')}"
            raise ConfigError(f"{flag} is {getattr(args, key)}, but the Triton that --triton names has its own")
    yield endpoints


def _model(args: argparse.Namespace) -> ModelConfig:
    wanted: dict[str, Any] = {key: getattr(args, key) for key in _MODEL_KEYS}
    for key, value in wanted.items():
        check_rule(f"model.{key}", value, _HERE)
    return ModelConfig(**wanted)
