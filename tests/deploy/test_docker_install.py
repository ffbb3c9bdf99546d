"""What the Dockerfile's RUN lines do, done here in empty folders. Needs a package registry; torch is only resolved."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.deploy.dockerfile import FOLDER, ROOT, read_stages

STAGES = read_stages()
LIMIT_S = 280
IMPORTS_WITHOUT_TORCH = """
import importlib.util
import masklet.server.lifecycle, masklet.backends.triton, masklet.routing.router, kubernetes, opentelemetry.sdk
print("torch:", importlib.util.find_spec("torch"))
"""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(LIMIT_S + 20)]


class Build:
    """Stages of the Dockerfile, carried out below a folder; a fresh environment stands for the image's Python."""

    def __init__(self, root: Path) -> None:
        self.root = root
        subprocess.run([sys.executable, "-m", "venv", root / "python"], check=True, timeout=LIMIT_S)
        self._path = f"{root / 'python' / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def stage(self, name: str) -> None:
        (self.root / "src").mkdir(exist_ok=True)
        for instruction, rest in STAGES[name].instructions:
            if instruction == "COPY" and not rest.startswith("--from"):
                self._copy(*rest.split())
            if instruction == "RUN":
                self.run(rest)

    def run(self, line: str) -> str:
        """One RUN line; its absolute paths lie below the folder, and pip may keep what it fetches."""
        line = re.sub(r"(^|\s)(/opt/masklet|/requirements/|/dist)", rf"\1{self.root}\2", line)
        settings = {**os.environ, "PATH": self._path}
        command = ["sh", "-c", line.replace("--no-cache-dir", "-q")]
        result = subprocess.run(
            command, cwd=self.root / "src", env=settings, capture_output=True, text=True, timeout=LIMIT_S
        )
        assert result.returncode == 0, f"{line}\n{result.stderr[-2000:]}"
        return result.stdout

    def _copy(self, *words: str) -> None:
        target = words[-1]
        place = self.root / target.lstrip("/") if target.startswith("/") else self.root / "src" / target
        for source in (ROOT / word for word in words[:-1]):
            if source.is_dir():
                shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                into = place / source.name if target.endswith("/") else place
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, into)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips where packages cannot be fetched; on CI that is a failure."""
    asked = ("download", "-q", "--no-deps", "--no-cache-dir", "-c", str(ROOT / "constraints.txt"), "tqdm")
    pip = [sys.executable, "-m", "pip", *asked, "-d", str(tmp_path_factory.mktemp("fetched"))]
    if subprocess.run(pip, capture_output=True, timeout=LIMIT_S).returncode:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("needs a package registry")


@pytest.fixture(scope="module")
def front(registry: None, tmp_path_factory: pytest.TempPathFactory) -> Build:
    build = Build(tmp_path_factory.mktemp("image"))
    build.stage("wheel")
    build.stage("front-build")
    return build


def test_the_front_needs_no_torch(front):
    assert "torch: None" in front.run(f"{front.root}/opt/masklet/bin/python -c '{IMPORTS_WITHOUT_TORCH}'")


def test_the_front_s_command_runs_and_has_what_its_extras_bring(front):
    commands = front.root / "opt" / "masklet" / "bin"
    assert "--triton" in front.run(f"{commands}/masklet serve --help")
    assert not (commands / "pip").exists()


def test_the_front_fits_together(front):
    """Every requirement of every package installed is met."""
    pip = f"{sys.executable} -m pip --python {front.root}/opt/masklet/bin/python"
    assert "No broken requirements" in front.run(f"{pip} check")


@pytest.mark.parametrize(
    ("name", "python"),
    [("build", "3.13"), ("front", "3.13"), ("triton", "3.12"), ("embedded-cuda", "3.13"), ("embedded-cpu", "3.13")],
)
def test_requirements_can_be_installed_in_their_images(registry, name, python, tmp_path):
    """Resolved for the image's Python and system; nothing is fetched but what packages say of themselves."""
    target = ["--target", str(tmp_path), "--python-version", python, "--python-platform", "x86_64-manylinux_2_28"]
    locked = [
        "--require-hashes",
        "--no-deps",
        "--only-binary",
        ":all:",
        "-r",
        str(FOLDER / "requirements" / f"{name}.txt"),
    ]
    uv = [str(Path(sys.executable).parent / "uv"), "pip", "install", "--dry-run", *target, *locked]
    result = subprocess.run(uv, capture_output=True, text=True, timeout=LIMIT_S)
    assert result.returncode == 0, result.stderr[-2000:]
    assert ("+ torch==" in result.stderr) == (name in ("triton", "embedded-cuda"))
