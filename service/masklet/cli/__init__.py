"""The `masklet` command. A command's module is imported only when asked for, so help needs neither torch nor grpc."""

from __future__ import annotations

import argparse
import difflib
import importlib
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import masklet
from masklet.errors import MaskletError, install_hint

_EXIT_ERROR = 2
_EXIT_INTERRUPTED = 130
_EXIT_UNREAD = 141


@dataclass(frozen=True, slots=True)
class _Command:
    """One command; `add_parser(subparsers)` of `module` sets the parser's default `run`, a function (args) -> int.

    Attributes:
        extra: of the package, which it cannot do without; empty: the base will do.
    """

    name: str
    module: str
    summary: str
    extra: str = ""


_COMMANDS = (
    _Command("serve", "masklet.cli.serve", "run the service"),
    _Command("triton", "masklet.cli.triton", "run a Triton with the model, for serve --backend triton"),
    _Command("health", "masklet.cli.health", "ask a service or a Triton whether it takes calls"),
    _Command("demo", "masklet.cli.demo", "see it work on a synthetic video"),
    _Command("track", "masklet_client.cli", "send a video to a server and write its masks"),
    _Command("segment", "masklet_client.cli", "send an image to a server and write its masks"),
    _Command("train", "masklet.cli.train", "train a model, or fine-tune a published one", "train"),
    _Command("verify", "masklet.cli.verify", "check this build against recorded results", "engine"),
    _Command("evaluate", "masklet.cli.evaluate", "score masks on annotated video", "train"),
    _Command("weights", "masklet.cli.weights", "list, download, convert and inspect checkpoints", "engine"),
)
_EXTRAS = {"tritonclient": "triton", "kubernetes": "kubernetes"}  # of whichever command


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status. Errors of ours are one line on stderr and 2, Ctrl-C 130, a closed pipe 141."""
    words = sys.argv[1:] if argv is None else list(argv)
    _print_anything()
    try:
        args = _parse(words)
        status: int = args.run(args)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except MaskletError as error:
        print(f"error: {error}", file=sys.stderr)
        return _EXIT_ERROR
    except ModuleNotFoundError as error:
        print(f"error: {_missing(words[0], error)}", file=sys.stderr)
        return _EXIT_ERROR
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    except BrokenPipeError:  # what read our output has gone (`... | head`), so the rest is thrown away
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _EXIT_UNREAD
    except OSError as error:  # a folder that may not be read, a full disk
        print(f"error: {error}", file=sys.stderr)
        return _EXIT_ERROR


def _print_anything() -> None:
    """Characters that a console's encoding lacks are printed escaped: no file's name is worth a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _missing(name: str, error: ModuleNotFoundError) -> str:
    """How to get the package that a command lacks; raises `error` if none of its extras brings it."""
    package = (error.name or "").partition(".")[0]
    extra = _EXTRAS.get(package) or next((command.extra for command in _COMMANDS if command.name == name), "")
    if not extra or package == "masklet":
        raise error
    return f"masklet {name} needs {package}: {install_hint(extra)}"


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="masklet", description=masklet.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"masklet {masklet.__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    wanted = next((command.module for command in _COMMANDS if command.name in words[:1]), None)
    for command in _COMMANDS:
        if command.module != wanted:
            subparsers.add_parser(command.name, help=command.summary)
    if wanted:
        importlib.import_module(wanted).add_parser(subparsers)
    args, unknown = parser.parse_known_args(words)
    if unknown:
        chosen = subparsers.choices.get(args.command, parser)
        chosen.error(_unknown(unknown[0], chosen))
    return args


def _unknown(word: str, parser: argparse.ArgumentParser) -> str:
    flag = word.partition("=")[0]
    known = [option for action in parser._actions for option in action.option_strings]
    near = difflib.get_close_matches(flag, known, n=1)
    return f"unknown argument {flag}" + (f"; did you mean {near[0]}?" if near else "")
