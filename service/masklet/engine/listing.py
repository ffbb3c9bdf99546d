"""Which objects an answer lists, and their masks: those that went through the network, and those they change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from masklet.engine.collate import Job
from masklet.engine.pixels import full_masks
from masklet.engine.track import Answer, ObjectTrack
from masklet.types import MaskArray, Profile


def listed_masks(job: Job, answers: Sequence[Answer]) -> dict[int, MaskArray]:
    """Masks [H, W] bool by object id, rising.

    In `vos` objects do not overlap: a correction may take pixels from objects that it does not speak of, or leave them
    some. Those are listed too, so that all that was answered about the frame, once revised, does not overlap either.

    Args:
        job: a request.
        answers: one for each of its rows.
    """
    said = {row.object_id: answer.logits for row, answer in zip(job.rows, answers, strict=True)}
    apart = job.session.settings.profile is Profile.VOS
    before = _answered(job.session.objects, job.index) if apart else {}
    after = {one: logits for one, logits in before.items() if one in job.objects} | said
    if not after:
        return {}
    listed, masks = sorted(after), _masks(job, after)
    if len(after) > len(said):
        earlier = dict(zip(sorted(before), _masks(job, before), strict=True))
        changed = [i for i, one in enumerate(listed) if one in said or not torch.equal(masks[i], earlier[one])]
        listed, masks = [listed[i] for i in changed], masks[changed]
    return dict(zip(listed, masks.cpu().numpy(), strict=True))


def _answered(objects: Mapping[int, ObjectTrack], index: int) -> dict[int, Tensor]:
    """The logits answered about a frame so far; none about one that is new."""
    return {one: track.answers[index].logits for one, track in objects.items() if index in track.answers}


def _masks(job: Job, logits: Mapping[int, Tensor]) -> Tensor:
    """[n, H, W] bool, by rising id."""
    rows = torch.stack([logits[one] for one in sorted(logits)])
    return full_masks(rows, job.frame.size, job.session.settings.profile)
