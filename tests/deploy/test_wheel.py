"""The wheel is complete: what runs from the source tree runs from it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.backends.triton_process import CONFIG, READY_S

ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "LICENSE", "README.md")
FOLDERS = ("service", "clients/python", "loadtests", "model_repo")
LIMIT_S = 100
TRITON = ("--variant", CONFIG.variant, "--input-size=64", "--device=cpu", "--precision=float32", "--threads=1")
PORTS = ("--grpc-port=0", "--http-port=0", "--metrics-port=0", "--exit-timeout=5", f"--ready-timeout={READY_S}")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree, made = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copy(ROOT / name, tree)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w")
    subprocess.run([*pip, made, tree], check=True, timeout=LIMIT_S)
    (found,) = made.glob("masklet-*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of an environment with the wheel and, by a .pth, this one's other packages, but not the tree."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True, timeout=LIMIT_S)
    scripts = environment / "bin"
    pip = (sys.executable, "-m", "pip", "--python", scripts / "python", "install", "-q", "--no-deps", "--no-index")
    subprocess.run([*pip, wheel], check=True, timeout=LIMIT_S)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return scripts


def repository_files() -> Iterator[Path]:
    for path in (ROOT / "model_repo").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path


def test_the_wheel_carries_the_model_repository_as_it_is(wheel):
    with zipfile.ZipFile(wheel) as archive:
        carried = {name for name in archive.namelist() if name.startswith("masklet/model_repo/")}
        expected = {f"masklet/{path.relative_to(ROOT)}": path.read_bytes() for path in repository_files()}
        assert carried == set(expected)
        assert {name: archive.read(name) for name in carried} == expected


def test_the_wheel_carries_weights_and_recipes(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert [name for name in names if name.startswith("masklet/model/weights/") and name.endswith(".safetensors")]
    assert [name for name in names if name.startswith("masklet/training/recipes/") and name.endswith(".toml")]
    assert not [name for name in names if name.startswith(("tests", "model_repo")) or "__pycache__" in name]


def test_an_installed_masklet_finds_its_own_repository(installed, tmp_path):
    code = "from masklet.backends.triton_server import default_repository as found; print(found())"
    result = subprocess.run(
        [installed / "python", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    found = Path(result.stdout.strip())
    assert found.is_relative_to(installed.parent.resolve())
    assert (found / "sam2_track" / "config.pbtxt").is_file()


@pytest.mark.triton
@pytest.mark.slow
def test_masklet_triton_runs_from_the_wheel(installed, tmp_path):
    log = tmp_path / "triton.log"
    words = [installed / "masklet", "triton", *PORTS, *TRITON, f"--log={log}"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline().startswith("triton ready grpc=127.0.0.1:"), log.read_text()[-2000:]
        finally:
            process.terminate()
        assert process.wait(LIMIT_S) == 0
