"""Generates service/masklet/v1 from masklet/v1/*.proto, and holds the protos to their rules.

    python protos/generate.py generate | check | lint | breaking | release

protoc builds one descriptor image, with the google protos from the installed packages, and buf reads only that image:
nothing of third parties is committed, and buf has no reason to ask its registry.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import google.rpc
import grpc_tools

PROTOS = Path(__file__).resolve().parent
SERVICE = PROTOS.parent / "service"
PACKAGE = Path("masklet", "v1")
RELEASED = PROTOS / "released.binpb"
BIN = Path(sys.executable).parent


def proto_names() -> list[str]:
    """Our .proto files, relative to the proto root."""
    return sorted(path.relative_to(PROTOS).as_posix() for path in (PROTOS / PACKAGE).glob("*.proto"))


def with_services() -> list[str]:
    """Those that declare a service; the others need no gRPC code."""
    return [name for name in proto_names() if "\nservice " in (PROTOS / name).read_text()]


def protoc(*arguments: str) -> None:
    """Runs grpc_tools' protoc with our protos and the installed google protos on its path."""
    roots = [PROTOS, Path(google.rpc.__path__[0]).parents[1], Path(grpc_tools.__path__[0], "_proto")]
    includes = [f"-I{root}" for root in roots]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *includes, *arguments], check=True)


def build_image(target: Path, *options: str) -> None:
    """Writes one descriptor set of our protos and all they import."""
    protoc("--include_imports", f"--descriptor_set_out={target}", *options, *proto_names())


def write_code(root: Path) -> None:
    """Writes messages for every proto, and gRPC code for those with services, below `root`."""
    plugins = [f"--plugin=protoc-gen-{name}={BIN / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")]
    protoc(*plugins, f"--python_out={root}", f"--mypy_out=quiet:{root}", *proto_names())
    protoc(*plugins, f"--grpc_python_out={root}", f"--mypy_grpc_out=quiet:{root}", *with_services())


def generated_names(root: Path) -> set[str]:
    """File names of generated code below `root`."""
    return {path.name for path in (root / PACKAGE).glob("*_pb2*.py*")}


def generate() -> int:
    """Replaces the generated code, once all of it has been made."""
    with tempfile.TemporaryDirectory() as folder:
        write_code(Path(folder))
        for name in generated_names(SERVICE):
            (SERVICE / PACKAGE / name).unlink()
        for name in generated_names(Path(folder)):
            shutil.copyfile(Path(folder) / PACKAGE / name, SERVICE / PACKAGE / name)
    return 0


def check() -> int:
    """Compares the committed code with what would be generated now."""
    with tempfile.TemporaryDirectory() as folder:
        write_code(Path(folder))
        ours, fresh = SERVICE / PACKAGE, Path(folder) / PACKAGE
        names = generated_names(SERVICE) | generated_names(Path(folder))
        _, differing, missing = filecmp.cmpfiles(ours, fresh, sorted(names), shallow=False)
    for name in differing + missing:
        print(f"{ours / name} is not what protos/ generates; run `make proto`", file=sys.stderr)
    return 1 if differing or missing else 0


def buf(*arguments: str) -> int:
    """Runs buf on an image of the protos, offline."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "protos.binpb"
        build_image(image, "--include_source_info")
        command = [str(BIN / "buf"), arguments[0], str(image), *arguments[1:], "--path", PACKAGE.as_posix()]
        environment = {**os.environ, "BUF_CACHE_DIR": folder}
        return subprocess.run([*command, "--config", str(PROTOS / "buf.yaml")], env=environment).returncode


def lint() -> int:
    """Names, comments and layout, by buf's rules."""
    return buf("lint")


def breaking() -> int:
    """Nothing that a client of the released protos relies on may change."""
    return buf("breaking", "--against", str(RELEASED))


def release() -> int:
    """Takes today's protos as the released ones."""
    build_image(RELEASED)
    return 0


COMMANDS: dict[str, Callable[[], int]] = {f.__name__: f for f in (generate, check, lint, breaking, release)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the subcommands named, in order, until one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="+", choices=COMMANDS)
    return next((code for name in parser.parse_args(arguments).command if (code := COMMANDS[name]())), 0)


if __name__ == "__main__":
    sys.exit(main())
