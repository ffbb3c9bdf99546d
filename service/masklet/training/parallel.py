"""Data-parallel training: every process has a copy of the weights and its own clips; gradients are averaged.

Gradients are averaged after the backward pass rather than by DistributedDataParallel: which modules a step uses depends
on its interaction plan, and all processes draw the same plan, so plain averaging of all gradients is enough.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from masklet.errors import ConfigError

_LETTING_GO_S = 0.5


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those of a run; alone by default."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0


def join_processes(device: torch.device) -> Processes:
    """Meet the processes that `torchrun` started; alone if it did not.

    Raises:
        ConfigError: the environment speaks of several processes, but not of which this is.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1" and "RANK" not in os.environ:
        return Processes()
    if missing := [name for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise ConfigError(f"several processes are started by torchrun, which sets {', '.join(missing)}")
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Processes(dist.get_rank(), dist.get_world_size())


def leave_processes(processes: Processes) -> None:
    """Say goodbye to the others.

    Gloo's threads may still be about to let go of the last tensors, for which they need the interpreter: a process that
    ends just then aborts (pytorch/pytorch#179291), so they are given a moment.
    """
    if processes.count > 1 and dist.is_initialized():
        if dist.get_backend() == "gloo":
            time.sleep(_LETTING_GO_S)
        dist.destroy_process_group()


def average_gradients(parameters: Iterable[Tensor], processes: Processes) -> None:
    """Replace every gradient by its mean over all processes; a missing one counts as zero."""
    if processes.count == 1:
        return
    parameters = list(parameters)
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    dist.all_reduce(flat)
    flat /= processes.count
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        assert parameter.grad is not None
        parameter.grad.copy_(part.view_as(parameter))


def average_scalars(values: Tensor, processes: Processes) -> Tensor:
    """[n] -> [n], the mean over all processes."""
    if processes.count > 1:
        dist.all_reduce(values)
        values = values / processes.count
    return values


def gather_scalars(value: int, device: torch.device, processes: Processes) -> list[int]:
    """Every process's value, by rank."""
    if processes.count == 1:
        return [value]
    mine = torch.tensor([value], device=device)
    found = [torch.zeros_like(mine) for _ in range(processes.count)]
    dist.all_gather(found, mine)
    return [int(each) for each in found]


def local_device(name: str) -> str:
    """Each of torchrun's processes has its own card, unless one is named."""
    cuda = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    return f"cuda:{os.environ['LOCAL_RANK']}" if cuda and "LOCAL_RANK" in os.environ else name
