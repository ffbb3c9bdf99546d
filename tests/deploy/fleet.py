"""The rendered manifests, asked for by what they are."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from tests.deploy.kustomize import Document, render

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("single-gpu", "production", "production-keda")
TIERS = ("masklet-front", "masklet-triton")


@cache
def manifests(overlay: str) -> tuple[Document, ...]:
    return tuple(render(FOLDER / "overlays" / overlay))


def of_kind(overlay: str, kind: str) -> dict[str, Document]:
    """By name."""
    return {one["metadata"]["name"]: one for one in manifests(overlay) if one["kind"] == kind}


def pod(overlay: str, tier: str) -> Document:
    """The pod template of a tier: its metadata and spec."""
    found: Document = of_kind(overlay, "Deployment")[tier]["spec"]["template"]
    return found


def container(overlay: str, tier: str) -> Document:
    """The one container of a tier."""
    (found,) = pod(overlay, tier)["spec"]["containers"]
    return dict(found)


def argument(one: Document, flag: str) -> str:
    """What follows a flag in a container's arguments."""
    words: list[Any] = one["args"]
    return str(words[words.index(flag) + 1])
