"""Frames into the network and masks out of it: resizing, normalising, thresholding."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from masklet.types import ImageArray, Profile, Size

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def fit_frame(image: ImageArray, size: int, device: torch.device) -> Tensor:
    """[H, W, 3] uint8 RGB -> [3, size, size] uint8 on `device`: squashed, antialiased bicubic."""
    pixels = torch.from_numpy(np.require(image, requirements=("C", "W"))).permute(2, 0, 1)
    if pixels.shape[1:] == (size, size):
        return pixels.to(device).clone(memory_format=torch.contiguous_format)  # the frame stays the caller's to change
    if device.type == "cpu":
        return F.interpolate(pixels[None], (size, size), mode="bicubic", antialias=True)[0]
    return squash(pixels.to(device), size)


def squash(pixels: Tensor, size: int) -> Tensor:
    """[3, H, W] uint8 -> [3, size, size] uint8 for devices without a uint8 resize.

    Rows first, then columns, rounded in between as Pillow does: in one pass edges would be up to 16 grey levels off.
    """
    wide = pixels.float()[None]
    for shape in ((pixels.shape[1], size), (size, size)):
        wide = F.interpolate(wide, shape, mode="bicubic", antialias=True).round_().clamp_(0, 255)
    return wide[0].to(torch.uint8)


def normalise(pixels: Tensor) -> Tensor:
    """[F, 3, S, S] uint8 -> float32 with the checkpoints' mean and standard deviation."""
    mean = torch.tensor(MEAN, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=pixels.device).view(1, 3, 1, 1)
    return pixels.float().div_(255).sub_(mean).div_(std)


def full_masks(logits: Tensor, size: Size, profile: Profile) -> Tensor:
    """[n, 4h, 4w] logits of one frame's objects -> [n, H, W] bool; in `vos` a pixel belongs to one object at most.

    Object by object, since full-size logits of all at once may be gigabytes. An object without a logit above 0 has no
    pixel, and takes none from others: means of what is not above 0 are not above it.
    """
    masks = torch.empty((len(logits), *size), dtype=torch.bool, device=logits.device)
    highest: Tensor | None = None
    for index, absent in enumerate(_all_background(logits).tolist()):
        if absent:
            masks[index] = False
            continue
        full = F.interpolate(logits[None, None, index], size, mode="bilinear", align_corners=False)[0, 0]
        torch.gt(full, 0, out=masks[index])
        if profile is Profile.VOS:
            if highest is not None:
                masks[index] &= full > highest
                masks[:index] &= full <= highest
            highest = full if highest is None else torch.maximum(highest, full)
    return masks


def _all_background(logits: Tensor) -> Tensor:
    """[n, h, w] -> [n] bool."""
    return (logits <= 0).flatten(1).all(1)


def fill_holes(logits: Tensor, area: int) -> Tensor:
    """Fill background specks of at most `area` cells (8-connected) with a logit of 0.1.

    A mask of nothing has no holes, whatever its size.

    Args:
        logits: [B, H, W] float32.
        area: 0 leaves the logits as they are.
    """
    if not area:
        return logits
    rows = (~_all_background(logits)).nonzero()[:, 0]
    if not len(rows):
        return logits
    return logits.index_copy(0, rows, _without_specks(logits[rows], area))


def _without_specks(logits: Tensor, area: int) -> Tensor:
    """Labels spread for `area` steps, enough to fill a speck of that size.

    A label whose region still touches another one belongs to something larger.
    """
    background = logits <= 0
    own = torch.arange(1, logits[0].numel() + 1, device=logits.device, dtype=torch.float32).view(1, *logits.shape[1:])
    labels = own * background
    for _ in range(area):
        labels = _neighbours_max(labels) * background
    unfinished = background & ((_neighbours_max(labels) != labels) | (_neighbours_min(labels, background) != labels))
    index = labels.long().flatten(1)
    none = torch.zeros(len(logits), own.numel() + 1, device=logits.device)
    size = none.scatter_add(1, index, torch.ones_like(index, dtype=none.dtype))
    large = none.scatter_add(1, index, unfinished.flatten(1).to(none.dtype))
    speck = ((size <= area) & (large == 0)).gather(1, index).view_as(background) & background
    return torch.where(speck, 0.1, logits)


def _neighbours_max(labels: Tensor) -> Tensor:
    """The largest label of each cell and the eight around it; pooling remembers indices, which takes longer."""
    return _line_max(_line_max(labels, 1), 2)


def _line_max(labels: Tensor, dim: int) -> Tensor:
    """The largest label of each cell and the two beside it along `dim`."""
    side = labels.shape[dim] - 1
    largest = labels.clone()
    for here, beside in ((0, 1), (1, 0)):
        part = largest.narrow(dim, here, side)
        torch.maximum(part, labels.narrow(dim, beside, side), out=part)
    return largest


def _neighbours_min(labels: Tensor, background: Tensor) -> Tensor:
    """The smallest label of the background cells around each cell."""
    return -_neighbours_max(torch.where(background, -labels, -float("inf")))
