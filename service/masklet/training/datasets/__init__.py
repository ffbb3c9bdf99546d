"""Annotated video on disk: DAVIS, YouTube-VOS and SA-V folders, read frame by frame."""

from masklet.training.datasets.base import VideoSequence, sample_clip
from masklet.training.datasets.opening import KINDS, open_dataset

__all__ = ["KINDS", "VideoSequence", "open_dataset", "sample_clip"]
