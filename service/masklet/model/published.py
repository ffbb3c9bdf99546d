"""The eight checkpoints that were published with SAM 2 (072824) and SAM 2.1 (092824), and how to tell them apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from masklet.errors import WeightsError
from masklet.model.config import VARIANTS

URL_BASE = "https://dl.fbaipublicfiles.com/segment_anything_2/"


@dataclass(frozen=True, slots=True)
class PublishedCheckpoint:
    """One published file; `sha256` is its checksum in hex."""

    variant: str
    release: str
    size_bytes: int
    sha256: str

    @property
    def file_name(self) -> str:
        """Name of the file, as published."""
        return f"{self.variant}.pt"

    def url(self, base: str = "") -> str:
        """Where to get it: under the official address, or directly under `base` (a mirror)."""
        return f"{base.rstrip('/')}/{self.file_name}" if base else f"{URL_BASE}{self.release}/{self.file_name}"


def _published() -> dict[str, PublishedCheckpoint]:
    rows = (
        ("sam2_hiera_tiny", 155906050, "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125"),
        ("sam2_hiera_small", 184309650, "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3"),
        ("sam2_hiera_base_plus", 323493298, "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071"),
        ("sam2_hiera_large", 897952466, "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b"),
        ("sam2.1_hiera_tiny", 156008466, "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69"),
        ("sam2.1_hiera_small", 184416285, "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38"),
        ("sam2.1_hiera_base_plus", 323606802, "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5"),
        ("sam2.1_hiera_large", 898083611, "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318"),
    )
    return {
        variant: PublishedCheckpoint(variant, "092824" if variant.startswith("sam2.1") else "072824", size, sha256)
        for variant, size, sha256 in rows
    }


PUBLISHED = _published()


def published(variant: str) -> PublishedCheckpoint:
    """The published checkpoint of `variant`.

    Raises:
        WeightsError: no such variant.
    """
    if variant not in PUBLISHED:
        raise WeightsError(f"no published variant {variant!r}; there are {', '.join(PUBLISHED)}")
    return PUBLISHED[variant]


def published_by_sha256(sha256: str) -> PublishedCheckpoint | None:
    """The published checkpoint with this checksum, if there is one."""
    return next((found for found in PUBLISHED.values() if found.sha256 == sha256), None)


_TRUNK = "image_encoder.trunk."


def identify(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Which variant a state dict with these official keys and shapes belongs to; None if to none of them."""
    width = next(iter(shapes.get(f"{_TRUNK}patch_embed.proj.weight", ())), 0)
    blocks = len({key.split(".")[3] for key in shapes if key.startswith(f"{_TRUNK}blocks.")})
    found = (width, blocks, "obj_ptr_tpos_proj.weight" in shapes)
    known = {(c.trunk.embed_dim, sum(c.trunk.blocks), c.pointer_positions): name for name, c in VARIANTS.items()}
    return known.get(found)
