"""`masklet train`: from scratch, or from a published checkpoint."""

from __future__ import annotations

import argparse
import math
import os
from contextlib import nullcontext
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import torch

from masklet.engine.allocator import keep_freed_memory
from masklet.engine.settings import EngineSettings
from masklet.errors import ConfigError
from masklet.training.assets import AssetBank
from masklet.training.curve import plot_log
from masklet.training.datasets import KINDS, VideoSequence, open_dataset
from masklet.training.interrupts import interrupts
from masklet.training.parallel import join_processes, leave_processes, local_device
from masklet.training.recipe import Recipe, read_recipe
from masklet.training.run_folder import RunFolder
from masklet.training.trainer import RunSettings, Trainer

_RECIPES = ("nano", "finetune")
_MOST_WORKERS = 8  # of one process that trains, unless asked for; each holds batches that are ready
_MOST = {"threads": 4096, "workers": 1024}  # more of them crash the process, or fill memory


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `masklet train`."""
    parser = subparsers.add_parser(
        "train",
        help="train a model, or fine-tune a published one",
        description="Train as the SAM 2 paper does: simulated clicks, boxes and masks on images and video clips, "
        "synthetic ones by default. Run it again with the same --out to go on where it stopped. "
        "Ctrl-C and SIGTERM save before they stop it. "
        "On several GPUs: torchrun --nproc-per-node=N -m masklet train ...",
    )
    parser.add_argument(
        "--recipe",
        default="nano",
        help=f"a TOML file, or one that comes with masklet: {', '.join(_RECIPES)} (default: nano)",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes",
                        help="a value of the recipe, for example stages.0.size=512; may be given again")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of checkpoints and the log")
    parser.add_argument("--variant", help="network to train (default: the recipe's)")
    parser.add_argument("--init", type=Path, metavar="FILE", help="checkpoint to start from (default: random weights)")
    parser.add_argument("--data", type=Path, action="append", default=[], metavar="DIR",
                        help="annotated videos: DAVIS, YouTube-VOS or SA-V layout; may be given again")  # fmt: skip
    parser.add_argument("--kind", choices=("auto", *KINDS), default="auto", help="of the --data (default: %(default)s)")
    parser.add_argument("--split", default="", metavar="NAME", help="of all --data, for example train (default: all)")
    parser.add_argument("--assets", type=Path, nargs="+", action="extend", default=[], metavar="DIR",
                        help="pictures, cut-outs and clips that synthetic video is composed of")  # fmt: skip
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N or auto (default: auto)")
    parser.add_argument("--precision", default="auto", help="float32, bfloat16 or auto (default: auto)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all cores)")
    parser.add_argument("--workers", type=int, help="processes that prepare clips, of each process that "
                        "trains (default: its share of the cores, half of it with a GPU, else a quarter; 1 to "
                        f"{_MOST_WORKERS})")  # fmt: skip
    parser.add_argument("--save-every", type=int, default=200, metavar="STEPS", help="default: 200")
    parser.add_argument("--time-limit-s", type=float, default=0.0, help="save and stop after so long")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, or go on training, and say where the weights are; 128 and its number if a signal ended it."""
    _check(args)
    recipe = _recipe(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    engine = EngineSettings(local_device(args.device), args.precision)
    device = engine.torch_device()
    if device.type == "cpu":
        keep_freed_memory()
    processes = join_processes(device)
    workers = _default_workers(device) if args.workers is None else args.workers
    settings = RunSettings(
        folder=args.out,
        device=device,
        precision=engine.dtype(),
        workers=workers,
        save_every=args.save_every,
        time_limit_s=args.time_limit_s,
    )
    folder = RunFolder(args.out, recipe.variant)
    init = None if folder.has_state else args.init
    if recipe.pretrained and not (init or folder.has_state):
        raise ConfigError(f"recipe {args.recipe} goes on from a trained checkpoint: give one with --init", field="init")
    if not args.data and all(stage.real_share == 1 for stage in recipe.stages):
        raise ConfigError(f"recipe {args.recipe} trains on annotated video alone: give it with --data", field="data")
    try:
        trainer = Trainer(
            recipe, settings, assets=_assets(args), sequences=_sequences(args), processes=processes, init=init
        )
        with folder.locked() if processes.leads else nullcontext():
            received = _train(trainer, init, args)
    finally:
        leave_processes(processes)
    return 128 + received if received else 0


def _default_workers(device: torch.device) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = cores // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return min(max(1, share // (4 if device.type == "cpu" else 2)), _MOST_WORKERS)


def _train(trainer: Trainer, init: Path | None, args: argparse.Namespace) -> int:
    """Train, the leading process saying what is done; the number of the signal that ended it, or 0."""
    recipe, leads = trainer.recipe, trainer.processes.leads
    resumed = trainer.resume()
    if leads:
        for change in trainer.changes:
            print(f"not as before: {change}")
        if args.init and not init:
            print(f"{args.out} has a run to go on with: --init {args.init} is not used")
        print(_summary(trainer, init, resumed=resumed), flush=True)
        for note in trainer.source.notes():
            print(note, flush=True)
    with interrupts(trainer.stop) as interrupt:
        weights = trainer.run()
    if leads:
        plot_log(args.out / "log.csv", args.out / "curve.png")
        if trainer.step < recipe.steps:
            print(f"stopped at step {trainer.step} of {recipe.steps}; the same command goes on")
        print(f"weights: {weights}\nserve them: masklet serve --variant {recipe.variant} --weights {weights}")
    return interrupt.received


def _check(args: argparse.Namespace) -> None:
    """Raises ConfigError for numbers that make no sense."""
    limits = (("threads", args.threads, 0), ("workers", args.workers or 0, 0), ("save-every", args.save_every, 1),
              ("time-limit-s", args.time_limit_s, 0))  # fmt: skip
    for name, value, least in limits:
        if not least <= value < math.inf:
            raise ConfigError(f"--{name} is {value}, must be at least {least}", field=name)
        if value > _MOST.get(name, value):
            raise ConfigError(f"--{name} is {value}, must be at most {_MOST[name]}", field=name)


def _recipe(args: argparse.Namespace) -> Recipe:
    shipped = files("masklet.training") / "recipes" / f"{args.recipe}.toml"
    path = Path(str(shipped)) if args.recipe in _RECIPES else Path(args.recipe)
    recipe = read_recipe(path, args.changes)
    return replace(recipe, variant=args.variant) if args.variant else recipe


def _assets(args: argparse.Namespace) -> AssetBank:
    return AssetBank.from_folders(args.assets) if args.assets else AssetBank.procedural()


def _sequences(args: argparse.Namespace) -> list[VideoSequence]:
    sequences = [
        sequence for folder in args.data for sequence in open_dataset(folder, kind=args.kind, split=args.split)
    ]
    if args.data and not sequences:
        raise ConfigError(f"no annotated video in {', '.join(map(str, args.data))}", field="data")
    return sequences


def _summary(trainer: Trainer, init: Path | None, *, resumed: bool) -> str:
    recipe, settings, source = trainer.recipe, trainer.settings, trainer.source
    start = f"going on from step {trainer.step}" if resumed else f"from step 0, {init or 'random weights'}"
    sees = [f"{len(source.sequences)} annotated videos" if source.sequences else "no annotated video"]
    if not source.sequences or any(stage.real_share < 1 for stage in recipe.stages):
        pictures = source.assets.pictures
        sees.append(f"synthetic clips of {f'{pictures} pictures' if pictures else 'procedural pictures alone'}")
    return (
        f"training {recipe.variant} on {settings.device} in {str(settings.precision).removeprefix('torch.')}: "
        f"{recipe.steps} steps in {len(recipe.stages)} stages, {start}; {', '.join(sees)}; "
        f"a crash loses up to {settings.save_every} steps"
    )
