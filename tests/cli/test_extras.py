"""What the base install and other surroundings lack is said, with what to do about it."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from masklet.cli import serve
from masklet.cli.host_port import host_port

ROOT = Path(__file__).parents[2]


def without(packages: Sequence[str], program: str, *words: str) -> tuple[int, str, str]:
    """Status, output and errors of a program where the packages are not installed."""
    gone = "".join(f"sys.modules[{name!r}] = None; " for name in packages)
    code = f"import sys; {gone}from {program} import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "package", "extra"),
    [
        (("train", "--help"), "torch", "train"),
        (("evaluate", "--data", "synthetic:0", "--backend", "fake"), "scipy", "train"),
        (("weights", "list"), "torch", "engine"),
    ],
)
def test_a_command_says_which_extra_it_needs(words: tuple[str, ...], package: str, extra: str) -> None:
    status, _, said = without([package], "masklet.cli", *words)
    assert (status, said.count("\n")) == (2, 1)
    assert said.startswith(f"error: masklet {words[0]} needs {package}: install masklet's extra '{extra}'")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(one.startswith(package) for one in extras[extra])


def test_what_no_extra_brings_is_not_hidden() -> None:
    assert "Traceback" in without(["masklet.training.evaluation"], "masklet.cli", "evaluate", "--help")[2]


def test_help_of_the_load_generator_needs_none_of_its_extra_and_a_run_says_which() -> None:
    packages = ["psutil", "matplotlib", "hdrh"]
    assert without(packages, "masklet_load.cli", "--help")[0] == 0
    status, _, said = without(packages, "masklet_load.cli", "--start", "fake")
    assert (status, said.count("\n")) == (2, 1) and "install masklet's extra 'load'" in said


def test_a_ready_service_writes_its_address_as_it_is_to_be_given(caplog: pytest.LogCaptureFixture) -> None:
    assert (host_port("::1", 5), host_port("localhost", 5)) == ("[::1]:5", "localhost:5")
    model = SimpleNamespace(backend="", model="", device="", precision="", trained=True)
    where = SimpleNamespace(host="::1", metrics_host="::")
    server: Any = SimpleNamespace(
        describe=lambda: model, config=SimpleNamespace(server=where), port=50051, metrics_port=9464
    )
    with caplog.at_level(logging.INFO, "masklet.cli.serve"):
        serve._announce(server)
    assert (caplog.records[0].address, caplog.records[0].metrics) == ("[::1]:50051", "[::]:9464")  # type: ignore[attr-defined]


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_setup_with_a_python_that_will_not_do_is_refused(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "old").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "old").chmod(0o755)
    made = subprocess.run(["make", "setup", "PYTHON=./old"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert made.returncode == 2 and "./old is not Python 3.11 to 3.13" in made.stderr
    assert not (tmp_path / ".venv").exists()
