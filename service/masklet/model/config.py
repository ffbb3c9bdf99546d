"""Network configurations. A field exists only where two published checkpoints differ, or where a smaller model may."""

from __future__ import annotations

from dataclasses import dataclass, replace

from masklet.errors import ConfigError

# What a frame reads of the recent ones (section 4): the same in all published checkpoints, so no fields.
RECENT_FRAMES = 6
"""Memories of so many frames before, slots 0 to 5 in time."""
CONDITIONING_SLOT = RECENT_FRAMES
"""The slot in time of all conditioning frames."""
MEMORY_SLOTS = CONDITIONING_SLOT + 1
RECENT_POINTERS = 15
"""Object pointers of so many frames before; also what their distances are normalised by."""


@dataclass(frozen=True, slots=True)
class HieraConfig:
    """The image encoder's trunk (Hiera, Ryali et al. 2023; as used in SAM 2, section 4 and appendix D.1).

    Attributes:
        embed_dim: channels of the first stage; doubled at each of the three that follow.
        num_heads: attention heads of the first stage; doubled likewise.
        blocks: transformer blocks per stage.
        global_blocks: indices of the blocks that attend to the whole image.
        windows: window side in tokens per stage, for all other blocks.
        background_size: side of the learnt position embedding that is interpolated to the image.
    """

    embed_dim: int
    num_heads: int
    blocks: tuple[int, int, int, int]
    global_blocks: tuple[int, ...]
    windows: tuple[int, int, int, int] = (8, 4, 14, 7)
    background_size: int = 7

    @property
    def stage_dims(self) -> tuple[int, int, int, int]:
        """Channels after each stage."""
        d = self.embed_dim
        return (d, 2 * d, 4 * d, 8 * d)


@dataclass(frozen=True, slots=True)
class SAM2Config:
    """The whole network.

    Attributes:
        name: variant name, the published file's without ".pt".
        trunk: the image encoder's trunk.
        input_size: height and width of the model input in pixels, divisible by 32.
        occlusion_embedding: 2.1: memories of absent objects are marked by a learnt embedding.
        pointer_positions: 2.1: object pointers carry their distance in time.
        dim: channels of image features and tokens.
        memory_dim: channels of a memory.
        memory_layers: layers of the memory attention.
        smooth_logits: mask logits are averaged over 3x3 cells; not in the published networks.
    """

    name: str
    trunk: HieraConfig
    input_size: int = 1024
    occlusion_embedding: bool = True
    pointer_positions: bool = True
    dim: int = 256
    memory_dim: int = 64
    memory_layers: int = 4
    smooth_logits: bool = False

    def __post_init__(self) -> None:
        if self.input_size < 32 or self.input_size % 32:
            raise ConfigError(f"input size {self.input_size} is not a positive multiple of 32")

    @property
    def grid(self) -> int:
        """Side of the feature map, stride 16."""
        return self.input_size // 16

    @property
    def logits_size(self) -> int:
        """Side of the low-resolution logits, stride 4."""
        return self.input_size // 4


_TRUNKS = {
    "tiny": HieraConfig(96, 1, (1, 2, 7, 2), (5, 7, 9)),
    "small": HieraConfig(96, 1, (1, 2, 11, 2), (7, 10, 13)),
    "base_plus": HieraConfig(112, 2, (2, 3, 16, 3), (12, 16, 20), background_size=14),
    "large": HieraConfig(144, 2, (2, 6, 36, 4), (23, 33, 43), windows=(8, 4, 16, 8)),
}


def _published() -> dict[str, SAM2Config]:
    new = {f"sam2.1_hiera_{size}": SAM2Config(f"sam2.1_hiera_{size}", trunk) for size, trunk in _TRUNKS.items()}
    old = {
        f"sam2_hiera_{size}": SAM2Config(
            f"sam2_hiera_{size}", trunk, occlusion_embedding=False, pointer_positions=False
        )
        for size, trunk in _TRUNKS.items()
    }
    return new | old


# The same network, small enough for two CPU cores. Trained by this project, mostly on smaller frames. Sizes that are no
# multiples of 64 cost more than their pixels: windows of 8x8 do not divide their tokens of stride 8.
NANO = SAM2Config(
    "nano",
    HieraConfig(48, 1, (1, 2, 6, 1), (4, 5, 6, 7, 8, 9), windows=(8, 8, 16, 16), background_size=8),
    input_size=384,
    dim=128,
    memory_layers=2,
    smooth_logits=True,
)
VARIANTS: dict[str, SAM2Config] = {NANO.name: NANO} | _published()


def variant_config(name: str, *, input_size: int = 0) -> SAM2Config:
    """The configuration of a variant; `input_size` in pixels replaces its own unless 0.

    Raises:
        ConfigError: no such variant, or a size that is not a multiple of 32.
    """
    if name not in VARIANTS:
        raise ConfigError(
            f"unknown model variant {name!r}; known: {', '.join(sorted(VARIANTS))}", field="model.variant"
        )
    config = VARIANTS[name]
    return replace(config, input_size=input_size) if input_size else config
