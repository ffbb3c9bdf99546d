"""`masklet weights`: list, download, convert and inspect checkpoints."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from masklet.errors import ConfigError, install_hint

if TYPE_CHECKING:
    from torch import Tensor

    from masklet.model.published import PublishedCheckpoint


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the `weights` command."""
    parser = subparsers.add_parser("weights", help="list, download, convert and inspect checkpoints")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="the published checkpoints")
    download = actions.add_parser("download", help="fetch a published checkpoint; goes on where it was interrupted")
    download.add_argument("variant", help='for example "sam2.1_hiera_tiny"')
    download.add_argument("--dir", default=".", help="folder to put it in (default: the current one)")
    download.add_argument("--url-base", default="", help="a mirror that has the files directly under this address")
    convert = actions.add_parser("convert", help="write a checkpoint under other names or in another format")
    convert.add_argument("input", help="a .pt or .safetensors file in either naming")
    convert.add_argument("output", help="the file to write; .safetensors or anything else for a torch file")
    convert.add_argument("--to", choices=("official", "transformers"), default="official", help="naming of the output")
    convert.add_argument("--half", action="store_true", help="store float16: half the size")
    convert.add_argument("--mean-with", action="append", default=[], metavar="FILE",
                         help="write the mean of the input's weights and this file's; repeatable")  # fmt: skip
    convert.add_argument("--shift-object-score", type=float, default=0.0, metavar="LOGIT",
                         help="added to the score above 0 of which an object is present")  # fmt: skip
    inspect = actions.add_parser("info", help="what a checkpoint file is")
    inspect.add_argument("file", help="a .pt or .safetensors file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out one `weights` action. Raises WeightsError, or ConfigError where torch is not installed."""
    actions = {"list": _list, "download": _download, "convert": _convert, "info": _inspect}
    try:
        actions[args.action](args)
    except ModuleNotFoundError as error:
        raise ConfigError(f"masklet weights needs {error.name}: {install_hint('engine')}") from error
    return 0


def _list(args: argparse.Namespace) -> None:
    from masklet.model.published import PUBLISHED

    print(f"{'variant':<24} {'MiB':>6}  sha256")
    for checkpoint in PUBLISHED.values():
        print(f"{checkpoint.variant:<24} {checkpoint.size_bytes / 2**20:>6.0f}  {checkpoint.sha256}")


def _download(args: argparse.Namespace) -> None:
    from masklet.model.published import published

    print(fetch(published(args.variant), args.dir, url_base=args.url_base))


def fetch(checkpoint: PublishedCheckpoint, folder: str, *, url_base: str) -> str:
    """Download with a progress bar on stderr; the path of the file."""
    from tqdm import tqdm

    from masklet.model.download import DownloadSettings, download

    with tqdm(total=checkpoint.size_bytes, unit="B", unit_scale=True, disable=None) as bar:

        def show(received: int, total: int) -> None:
            bar.update(received - bar.n)

        return str(download(checkpoint, folder, settings=DownloadSettings(url_base=url_base), progress=show))


def _convert(args: argparse.Namespace) -> None:
    from masklet.model.checkpoint import (
        half_weights,
        mean_weights,
        read_checkpoint,
        save_checkpoint,
        shift_object_score,
    )
    from masklet.model.transformers_naming import to_transformers

    output = Path(args.output)
    if os.path.exists(output) and not os.path.isfile(output):
        raise ConfigError(f"{output}: is no file that could be replaced")
    if not os.path.isdir(output.parent):
        raise ConfigError(f"{output}: cannot be written: {output.parent} is no folder")
    state = read_checkpoint(args.input)
    if args.mean_with:
        state = mean_weights([(file, read_checkpoint(file)) for file in (args.input, *args.mean_with)])
    if args.shift_object_score:
        state = shift_object_score(state, args.shift_object_score)
    renamed = to_transformers(state) if args.to == "transformers" else state
    if args.half:
        renamed = half_weights(renamed)
    save_checkpoint(renamed, args.output)
    print(f"{args.output}: {len(renamed)} tensors in {args.to} naming")


def _inspect(args: argparse.Namespace) -> None:
    from masklet.model.checkpoint import file_sha256, read_as_stored
    from masklet.model.published import identify, published_by_sha256
    from masklet.model.transformers_naming import is_transformers_naming, to_official

    state = read_as_stored(args.file)
    foreign = is_transformers_naming(state)
    official = to_official(state) if foreign else state
    sha256 = file_sha256(args.file)
    known = published_by_sha256(sha256)
    print(f"variant    {identify({key: tuple(value.shape) for key, value in official.items()}) or 'unknown'}")
    print(f"naming     {'transformers' if foreign else 'official'}")
    print(f"tensors    {_content(official)}")
    print(f"sha256     {sha256}")
    print(f"published  {known.file_name if known else 'no'}")


def _content(state: Mapping[str, Tensor]) -> str:
    numbers = sum(value.numel() for value in state.values())
    types = sorted({str(value.dtype).removeprefix("torch.") for value in state.values()})
    return f"{len(state)} ({numbers} weights, {', '.join(types)})"
