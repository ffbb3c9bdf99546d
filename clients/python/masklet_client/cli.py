"""The client's commands, as `masklet-client track ...` and as `masklet track ...`."""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import sys
from collections.abc import Callable, Sequence

from masklet.errors import MaskletError
from masklet_client import segment_command, track_command
from masklet_client.client import DEFAULT_ADDRESS
from masklet_client.command_error import CommandError

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_UNREAD = 141


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `track` and `segment`; each sets `run(args) -> int` on its parser."""
    for command in (track_command, segment_command):
        parser = command.add_parser(subparsers)
        parser.add_argument(
            "--server",
            default=DEFAULT_ADDRESS,
            metavar="HOST:PORT[,...]",
            help="where the service is; or several of one fleet",
        )
        parser.set_defaults(run=_guarded(command.run))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    print_anything()
    parser = argparse.ArgumentParser(prog="masklet-client", description="Masks for videos and images.")
    add_parser(parser.add_subparsers(dest="command", required=True, metavar="COMMAND"))
    args = parser.parse_args(argv)
    status: int = args.run(args)
    return status


def print_anything() -> None:
    """Characters that a console's encoding lacks are printed escaped: no file's name is worth a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def nobody_reads() -> int:
    """What reads our output has gone (`... | head`): the rest is thrown away; the status a shell gives for that."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return EXIT_UNREAD


def _guarded(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """`run` with its errors turned into one line on stderr and an exit status."""

    def guarded(args: argparse.Namespace) -> int:
        try:
            status = run(args)
            if sys.stdout is not None:
                sys.stdout.flush()
            return status
        except (CommandError, MaskletError) as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_ERROR
        except (KeyboardInterrupt, asyncio.CancelledError):
            return EXIT_INTERRUPTED
        except BrokenPipeError:
            return nobody_reads()

    return guarded


if __name__ == "__main__":
    sys.exit(main())
