"""Prompts in pixels of the frame as sent become prompts in pixels of the model input."""

from __future__ import annotations

import torch
from torch import Tensor

from masklet.engine.track import Said
from masklet.errors import InvalidPrompt
from masklet.model.layers import resize
from masklet.model.prompt_encoder import BOX_MAX, BOX_MIN
from masklet.types import Prompt, Size


def said_by(prompt: Prompt, size: Size, model_size: int, earlier: Said | None, device: torch.device) -> Said:
    """All clicks and box corners in force after `prompt`, the box first."""
    points = torch.tensor(prompt.points, dtype=torch.float32).reshape(-1, 2)
    labels = torch.tensor(prompt.labels, dtype=torch.long)
    if prompt.box is not None:
        points = torch.cat((torch.tensor(prompt.box, dtype=torch.float32).reshape(2, 2), points))
        labels = torch.cat((torch.tensor([BOX_MIN, BOX_MAX]), labels))
    height, width = size
    points = points / torch.tensor([width, height]) * model_size
    said = Said(points.to(device), labels.to(device))
    if earlier is None or not prompt.keep_old_points or prompt.box is not None:
        return said
    return Said(torch.cat((earlier.points, said.points)), torch.cat((earlier.labels, said.labels)))


def mask_prompt(prompt: Prompt, size: Size, model_size: int, device: torch.device) -> Tensor:
    """[S, S] float 0 or 1: the mask antialias-resized and thresholded at 0.5.

    Raises:
        InvalidPrompt: the mask is not of the frame's size.
    """
    assert prompt.mask is not None
    if prompt.mask.shape != size:
        raise InvalidPrompt(f"mask of object {prompt.object_id} is {prompt.mask.shape}, the frame is {size}")
    mask = torch.tensor(prompt.mask, dtype=torch.float32, device=device)
    if size == (model_size, model_size):
        return mask
    return (resize(mask[None, None], model_size, antialias=True)[0, 0] >= 0.5).float()
