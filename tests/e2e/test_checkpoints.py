"""A checkpoint that will not do ends `masklet serve` with one clear line, before anything is served."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from masklet.cli import main
from masklet.model import build
from masklet.model.checkpoint import read_checkpoint, save_checkpoint

TINY = "sam2.1_hiera_tiny"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    save_checkpoint(build(TINY, input_size=64, seed=7).state_dict(), path)
    return path


def serve(path: Path, capfd: pytest.CaptureFixture[str], *, variant: str = TINY) -> tuple[int, str]:
    flags = ("--port=0", "--metrics-port=0", "--model.input_size=64", "--model.threads=1", f"--variant={variant}")
    status = main(["serve", *flags, f"--model.weights={path}"])
    said = capfd.readouterr()
    assert said.out == ""
    return status, said.err


def check(answer: tuple[int, str], *words: str) -> None:
    status, text = answer
    assert status == 2
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    assert [word for word in words if word not in text] == []


def test_a_truncated_checkpoint(tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "short.pt"
    path.write_bytes(tiny.read_bytes()[: tiny.stat().st_size // 2])
    check(serve(path, capfd), str(path), "truncated")


def test_a_checkpoint_of_another_variant(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    check(serve(tiny, capfd, variant="sam2.1_hiera_small"), str(tiny), "sam2.1_hiera_small", f"looks like {TINY}")


@pytest.mark.parametrize("content", [b"", b"hello world, this is no checkpoint", bytes(1000)])
def test_a_file_that_is_no_checkpoint(content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "note.pt"
    path.write_bytes(content)
    check(serve(path, capfd), str(path), "neither a torch zip nor safetensors")


def test_a_zip_of_something_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "photos.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("holiday.txt", "sun")
    check(serve(path, capfd), str(path), "not a whole torch checkpoint")


def test_a_checkpoint_with_a_broken_weight(tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    state = read_checkpoint(tiny)
    state["no_mem_embed"] = torch.full_like(state["no_mem_embed"], float("nan"))
    save_checkpoint(state, tmp_path / "nan.pt")
    check(serve(tmp_path / "nan.pt", capfd), "1 weights are not finite", "no_mem_embed")


def test_a_missing_file_and_a_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    check(serve(tmp_path / "gone.pt", capfd), "gone.pt", "No such file")
    check(serve(tmp_path, capfd), str(tmp_path), "is a directory")


def test_an_unknown_variant(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    check(serve(tmp_path / "x.pt", capfd, variant="sam9"), "sam9", TINY)
