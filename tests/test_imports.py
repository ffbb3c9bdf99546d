from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "grpc", "tritonclient", "kubernetes", "google.protobuf"}


def heavy_modules_after(statement: str) -> set[str]:
    """Which of HEAVY a fresh interpreter has loaded after `statement`."""
    program = f"{statement}; import json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return HEAVY & set(json.loads(done.stdout))


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert heavy_modules_after("import masklet, masklet.types, masklet.errors, masklet.config") == set()


@pytest.mark.parametrize("room", ["session", "codecs.frames", "codecs.masks", "observability", "backends", "routing"])
def test_a_room_without_network_or_rpc_loads_neither(room: str) -> None:
    assert heavy_modules_after(f"import masklet.{room}") == set()


@pytest.mark.parametrize("module", ["masklet_client", "masklet.server"])
def test_the_wire_needs_no_torch(module: str) -> None:
    loaded = heavy_modules_after(f"import {module}")
    assert loaded.isdisjoint({"torch", "tritonclient", "kubernetes"})


def test_a_heavy_import_would_be_noticed() -> None:
    assert "grpc" in heavy_modules_after("import grpc")
