"""The tool that makes masklet.v1 from protos/."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).parents[1] / "protos" / "generate.py"


@pytest.fixture
def tool(tmp_path: Path) -> Any:
    """With a copy of some generated code in place of ours."""
    spec = importlib.util.spec_from_file_location("generate", TOOL)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.SERVICE = tmp_path  # type: ignore[attr-defined]
    (tmp_path / module.PACKAGE).mkdir(parents=True)
    for name in ("mask_pb2.py", "gone_pb2.py", "__init__.py"):
        (tmp_path / module.PACKAGE / name).write_text("old")
    return module


def made(tool: Any) -> dict[str, str]:
    return {path.name: path.read_text() for path in (tool.SERVICE / tool.PACKAGE).iterdir()}


def test_generated_code_stays_where_making_it_fails(tool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: str) -> None:
        raise subprocess.CalledProcessError(1, "protoc")

    before = made(tool)
    monkeypatch.setattr(tool, "protoc", fail)
    with pytest.raises(subprocess.CalledProcessError):
        tool.generate()
    assert made(tool) == before


def test_generated_code_is_replaced_and_nothing_else(tool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(root: Path) -> None:
        (root / tool.PACKAGE).mkdir(parents=True)
        (root / tool.PACKAGE / "mask_pb2.py").write_text("new")

    monkeypatch.setattr(tool, "write_code", write)
    assert tool.generate() == 0
    assert made(tool) == {"mask_pb2.py": "new", "__init__.py": "old"}
