"""The `masklet-load` command: load a service, or find out how many streams it takes.

What the extra "load" brings is imported where it is used, so that help needs none of it.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklet.errors import ConfigError, MaskletError, install_hint
from masklet.terminable import terminable
from masklet_load.scenario import MAX_STREAMS, Scenario
from masklet_load.scenario_file import SCENARIOS, field_kinds, flag_of, load_scenario, scenario_names

if TYPE_CHECKING:
    from masklet_load.report import Level, Report
    from masklet_load.served import Served

_EXIT_MISSED, _EXIT_ERROR, _EXIT_INTERRUPTED = 1, 2, 130
_DESCRIPTION = """\
Send frames to a masklet service as cameras do: at fixed times, whether or not it keeps up. Latency counts from the
time a frame was due. Load goes to this machine only, unless --allow-remote."""
_EPILOG = """\
examples:
  masklet-load --start fake --scenario steady
  masklet-load --server localhost:50051 --streams 8 --rate-hz 15 --duration-s 60
  masklet-load --start embedded --find-capacity --scenario capacity --server-flags "--routing.admit_by_load false"
  masklet-load --start triton --scenario kill --kill "10 KILL triton" --kill "12 start triton"

exit status: 0 the SLO is met (a search: its result is valid), 1 it is not, 2 a mistake"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; the exit status. Errors of ours are one line on stderr."""
    words = sys.argv[1:] if argv is None else list(argv)
    args = _parser().parse_args(words)
    try:
        if args.list:
            print("\n".join(scenario_names(args.scenarios)))
            return 0
        report, said = asyncio.run(_run(args, words))
    except ModuleNotFoundError as error:
        print(f"error: masklet-load needs {error.name}: {install_hint('load')}", file=sys.stderr)
        return _EXIT_ERROR
    except MaskletError as error:
        print(f"error: {error}", file=sys.stderr)
        return _EXIT_ERROR
    except (KeyboardInterrupt, asyncio.CancelledError):
        return _EXIT_INTERRUPTED
    print(said, end="")
    met = report.verdict.outcome == "met" and all(check.met for check in report.checks)
    return 0 if met else _EXIT_MISSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="masklet-load",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--scenario", default="", metavar="NAME", help="start from this one of the file")
    parser.add_argument("--scenarios", type=Path, metavar="FILE", help=f"default: {SCENARIOS.name} of the source tree")
    parser.add_argument("--list", action="store_true", help="list the scenarios and exit")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--server", metavar="HOST:PORT[,..]", help="what to load")
    target.add_argument("--start", choices=("embedded", "fake", "triton"), help="start a service for the test")
    parser.add_argument("--server-flags", default="", metavar="FLAGS", help="of `masklet serve`, with --start")
    parser.add_argument("--triton-flags", default="", metavar="FLAGS", help="of `masklet triton`, with --start triton")
    parser.add_argument("--allow-remote", action="store_true", help="load machines other than this one")
    parser.add_argument("--pid", type=int, action="append", default=[], help="watch this process and those below it")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="generators, 1 to 64 (default: 1)")
    parser.add_argument("--find-capacity", action="store_true", help="find the largest number of streams at the SLO")
    parser.add_argument("--max-streams", type=int, default=256, metavar="N", help="of the search (default: 256)")
    parser.add_argument(
        "--refusals-allowed", action="store_true", help="the spike is beyond capacity: it has to be refused"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write NAME.json, NAME.md and NAME.png there")
    parser.add_argument("--name", default="", help="of the report (default: the scenario's)")
    group = parser.add_argument_group("scenario", "see `Scenario` for what each means")
    for key, kind in field_kinds().items():
        many = {"action": "append"} if key == "kills" else {}
        metavar = "X" if isinstance(kind, type) and kind is not str else "TEXT"
        group.add_argument(flag_of(key), dest=f"scenario.{key}", default=None, metavar=metavar, **many)  # type: ignore[arg-type]
    return parser


async def _run(args: argparse.Namespace, words: Sequence[str]) -> tuple[Report, str]:
    """The report, and what it says."""
    from masklet_load.facts import machine_facts
    from masklet_load.plot import draw
    from masklet_load.run import Test
    from masklet_load.table import render

    scenario = _scenario(args)
    _check_range("--processes", args.processes, 64)
    _check_range("--max-streams", args.max_streams, MAX_STREAMS)
    name, facts = args.name or args.scenario or "custom", machine_facts(words)
    async with terminable(), _target(args) as served:
        test = Test(name, scenario, served, args.processes, facts, args.refusals_allowed)
        searching = test.search(first=scenario.streams, most=args.max_streams, tell=_tell)
        if not args.find_capacity:
            searching.close()
        report = await (searching if args.find_capacity else test.run())
    said = render(report)
    if args.out is not None:
        report.save(args.out / f"{report.name}.json")
        (args.out / f"{report.name}.md").write_text(said, encoding="utf-8")
        draw(report, args.out / f"{report.name}.png")
    return report, said


def _scenario(args: argparse.Namespace) -> Scenario:
    given = {key: getattr(args, f"scenario.{key}") for key in field_kinds()}
    overrides = {key: value for key, value in given.items() if value is not None}
    scenario = load_scenario(args.scenario, args.scenarios, overrides)
    if args.refusals_allowed and not scenario.spike_streams:
        raise ConfigError("--refusals-allowed is about those of a spike: spike_streams is 0, must be at least 1")
    return scenario


@asynccontextmanager
async def _target(args: Any) -> AsyncIterator[Served]:
    from masklet_load.facts import check_targets
    from masklet_load.served import Served, started

    if args.start:
        async with started(args.start, shlex.split(args.server_flags), shlex.split(args.triton_flags)) as served:
            yield served
        return
    if not args.server:
        raise ConfigError("nothing to load: --server HOST:PORT or --start embedded|fake|triton")
    addresses = tuple(address.strip() for address in args.server.split(","))
    check_targets(addresses, allow_remote=args.allow_remote)
    yield Served(addresses, pids=tuple(args.pid))


def _check_range(flag: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise ConfigError(f"{flag} is {value}, must be 1 to {most}")


def _tell(level: Level) -> None:
    from masklet_load.table import level_line

    print(level_line(level), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
