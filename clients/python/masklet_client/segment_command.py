"""`masklet segment`: masks for one image."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from PIL import Image

from masklet.types import ImageArray, Prompt
from masklet_client.client import connect
from masklet_client.command_error import CommandError
from masklet_client.events import ImageResult, ServerDescription
from masklet_client.mask_lines import object_line
from masklet_client.outputs import check_outputs
from masklet_client.overlay import draw_masks
from masklet_client.prompt_text import parse_prompts
from masklet_client.source import read_image
from masklet_client.track_command import UNTRAINED_NOTE, add_prompt_arguments

_EXAMPLE = "example:\n  masklet segment dog.jpg --click 1@300,200 --click 1@10,10,exclude -o out.png"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the `segment` command."""
    parser = subparsers.add_parser(
        "segment",
        help="send an image to a server and write its masks",
        description="Cut objects out of one image.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("image", type=Path, help="an image file")
    add_prompt_arguments(parser, frame="")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the image with the masks drawn on it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="masks as JSON, run lengths as pycocotools has them")
    return parser


def run(args: argparse.Namespace) -> int:
    """Segment and write; raises CommandError or MaskletError."""
    if args.output is None and args.json is None:
        raise CommandError("nothing to write: give -o FILE, --json FILE, or both")
    check_outputs((args.output, args.json), args.image)
    prompts = _prompts(args)
    image = read_image(args.image)
    server, result = asyncio.run(_segment(args.server, image, prompts))
    if args.output is not None:
        _save(args.output, image, result)
    if args.json is not None:
        _save_json(args.json, result)
    for found in result.objects:
        print(f"object {found.object_id}: {found.state}, {found.area_px} px, predicted IoU {found.iou:.2f}")
    if not server.model.trained:
        print(UNTRAINED_NOTE)
    return 0


def _prompts(args: argparse.Namespace) -> list[Prompt]:
    by_frame = parse_prompts(args.click, args.box, args.mask)
    if not by_frame:
        raise CommandError("nothing to look for: give at least one --click, --box or --mask")
    if beyond := [frame for frame in by_frame if frame]:
        raise CommandError(f"prompt for frame {beyond[0]}: an image has only frame 0, which need not be named")
    return by_frame[0]


async def _segment(address: str, image: ImageArray, prompts: list[Prompt]) -> tuple[ServerDescription, ImageResult]:
    async with connect(address) as client:
        return client.server, await client.segment(image, prompts)


def _save(path: Path, image: ImageArray, result: ImageResult) -> None:
    drawn = draw_masks(image, [(found.object_id, found.mask) for found in result.objects])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn).save(path)
    except (OSError, ValueError) as error:
        raise CommandError(f"{path}: cannot be written as an image ({error})") from None


def _save_json(path: Path, result: ImageResult) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"objects": [object_line(found) for found in result.objects]}) + "\n")
    except OSError as error:
        raise CommandError(f"{path}: cannot be written ({error.strerror})") from None
