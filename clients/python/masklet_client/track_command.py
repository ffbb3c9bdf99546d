"""`masklet track`: a video to a server, an overlay video and masks back."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from masklet.types import DropReason, Prompt
from masklet_client.client import Client, connect
from masklet_client.command_error import CommandError
from masklet_client.outputs import Outputs, check_outputs
from masklet_client.prompt_check import check_prompt
from masklet_client.prompt_text import BOX_FORM, CLICK_FORM, MASK_FORM, parse_prompts
from masklet_client.source import Source, open_source
from masklet_client.tracking import Tracking

UNTRAINED_NOTE = "note: the server's weights are untrained random stand-ins, so these masks mean nothing"
_SLOW = "the server could not keep up (policy latest)"
_WHY = {
    DropReason.QUEUE_FULL: _SLOW,
    DropReason.STALE: _SLOW,
    DropReason.CONNECTION_LOST: "their answers were lost with a connection",
}
_LOST = "its session was lost with a server while the object was out of sight; prompt it again after that"
_DESCRIPTION = """\
Follow objects through a video, a folder of images, a camera (its number) or a stream (RTSP or HTTP URL).

Say what to follow with clicks, boxes or masks: OBJECT is any number you choose, FRAME counts frames from 0."""
_EXAMPLE = """\
examples:
  masklet track dog.mp4 --click 1@0:300,200 -o out.mp4
  masklet track dog.mp4 --click 1@0:300,200 --click 1@0:310,220,exclude --box 2@10:10,20,200,180 --json masks.jsonl
  masklet track 0 --policy latest --click 1@30:640,360 -o camera.mp4        (Ctrl-C ends the recording)

exit status: 0 to the end, 1 to the end but without objects that a server lost on the way, 2 an error, 128 and the
number of a signal that ended it"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the `track` command."""
    parser = subparsers.add_parser(
        "track",
        help="send a video to a server and write its masks",
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", help="video file, folder of images, camera number, or URL")
    add_prompt_arguments(parser, frame="@FRAME")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="video with the masks drawn on it (H.264)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="masks as JSON lines, run lengths as in pycocotools")
    parser.add_argument("--max-frames", type=int, metavar="N", help="stop after so many frames")
    parser.add_argument("--fps", type=float, metavar="X", help="frame rate of the output (default: the source's)")
    parser.add_argument(
        "--policy",
        choices=("block", "latest"),
        help="block: answer every frame; latest: keep up "
        "with a live source, skipping frames (default: latest for cameras and RTSP, else block)",
    )
    parser.add_argument("--codec", choices=("jpeg", "png", "rgb8"), default="jpeg", help="how frames are sent")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def add_prompt_arguments(parser: argparse.ArgumentParser, *, frame: str) -> None:
    """Add --click, --box and --mask."""
    forms = (("--click", CLICK_FORM), ("--box", BOX_FORM), ("--mask", MASK_FORM))
    for flag, form in forms:
        text = form if frame else form.replace("@FRAME:", "@").replace("@0:", "@")
        parser.add_argument(flag, action="append", default=[], metavar="PROMPT", help=text)


def run(args: argparse.Namespace) -> int:
    """Track and write; raises CommandError or MaskletError."""
    _check_arguments(args)
    prompts = parse_prompts(args.click, args.box, args.mask)
    if not prompts:
        raise CommandError("nothing to follow: give at least one --click, --box or --mask")
    with open_source(args.source, frame_rate=args.fps) as source:
        _check_prompts(prompts, source, args.max_frames)
        return asyncio.run(_track(args, source, prompts))


async def _track(args: argparse.Namespace, source: Source, prompts: dict[int, list[Prompt]]) -> int:
    async with connect(args.server) as client:
        outputs = Outputs.create(args.output, args.json, source, constant_rate=args.fps is not None)
        tracking = Tracking(source, outputs, max_frames=args.max_frames, quiet=args.quiet)
        policy = args.policy or ("latest" if source.live else "block")
        try:
            with outputs:
                return await tracking.run(client, prompts, policy=policy, codec=args.codec)
        finally:
            _summarise(args, client, tracking, complete=not outputs.failed)


def _summarise(args: argparse.Namespace, client: Client, tracking: Tracking, *, complete: bool) -> None:
    if not (tracking.answered or tracking.dropped):
        return
    files = ", ".join(str(path) for path in (args.output, args.json) if path)
    fate = f"wrote {files}" if complete else f"not all of it is in {files}"
    print(f"{tracking.answered} frames, {tracking.frame_rate_hz:.1f} frames/s; {fate}")
    for reason, count in sorted(tracking.dropped.items()):
        print(f"{count} more frames were not answered: {_WHY.get(reason, reason)}")
    for object_id, frame in sorted(tracking.lost.items()):
        print(f"object {object_id} is not followed from frame {frame} on: {_LOST}")
    if not client.server.model.trained:
        print(UNTRAINED_NOTE)


def _check_arguments(args: argparse.Namespace) -> None:
    if args.output is None and args.json is None:
        raise CommandError("nothing to write: give -o FILE, --json FILE, or both")
    if args.max_frames is not None and args.max_frames < 1:
        raise CommandError(f"--max-frames is {args.max_frames}, must be at least 1")
    if args.fps is not None and not 0.001 <= args.fps <= 240:
        raise CommandError(f"--fps is {args.fps:g}, must be 0.001 to 240")
    check_outputs((args.output, args.json), Path(args.source))


def _check_prompts(prompts: dict[int, list[Prompt]], source: Source, max_frames: int | None) -> None:
    for frame, some in prompts.items():
        if max_frames is not None and frame >= max_frames:
            raise CommandError(f"prompt for frame {frame} would never apply: --max-frames is {max_frames}")
        if source.frame_count is not None and frame >= source.frame_count:
            said = f"prompt for frame {frame} would never apply: the source has {source.frame_count} frames"
            if not source.timed:
                raise CommandError(said)
            print(f"warning: {said}, as its container says", file=sys.stderr)
        for prompt in some:
            check_prompt(prompt, source.size)
