"""The SAM 2 network.

Dimensions, everywhere: F frames, B rows (one object on one frame), S input side, h = w = S / 16, N = h * w cells,
C = 256 channels (nano: 128), M = 64 memory channels, K memories, P points or pointers, L memory tokens.
Maps inside the network are channels-last, [B, h, w, C].
"""

from masklet.model.config import VARIANTS, HieraConfig, SAM2Config, variant_config
from masklet.model.sam2 import SAM2, FrameFeatures, MemoryBatch, ObjectOutput, PromptBatch
from masklet.model.stand_in import build

__all__ = [
    "SAM2",
    "VARIANTS",
    "FrameFeatures",
    "HieraConfig",
    "MemoryBatch",
    "ObjectOutput",
    "PromptBatch",
    "SAM2Config",
    "build",
    "variant_config",
]
