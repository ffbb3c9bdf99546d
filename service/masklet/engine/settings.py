"""How an engine runs: device, precision, batch limits."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from masklet.errors import ConfigError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How an engine runs.

    Attributes:
        device: "cpu", "cuda", "cuda:N", or "auto" (CUDA if there is one).
        precision: of the network's heavy parts: "float32", "bfloat16", or "auto" (bfloat16 where the hardware has it).
        memory_precision: how memories are kept, "float32" or "bfloat16".
        max_rows: objects that go through the network at a time, fewer where they read more memories than usual; bounds
            peak memory.
    """

    device: str = "auto"
    precision: str = "auto"
    memory_precision: str = "float32"
    max_rows: int = 16

    def torch_device(self) -> torch.device:
        """The device. Raises ConfigError if it is not there."""
        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(name)
        except RuntimeError:
            device = torch.device("meta")
        if device.type not in ("cpu", "cuda"):
            raise ConfigError(f"device {name!r} is not one of cpu, cuda, cuda:N, auto", field="model.device")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if device.type == "cuda" and (device.index or 0) >= count:
            raise ConfigError(f"device {name!r} asked for, but there are {count} CUDA devices", field="model.device")
        return device

    def dtype(self) -> torch.dtype:
        """The network's precision. Raises ConfigError if it is not a known one."""
        if self.precision == "auto":
            return torch.bfloat16 if has_fast_bfloat16(self.torch_device()) else torch.float32
        return _dtype(self.precision, "model.precision")

    def memory_dtype(self) -> torch.dtype:
        """The memories' precision. Raises ConfigError if it is not a known one."""
        return _dtype(self.memory_precision, "model.memory_precision")


def keep_full_float32(device: torch.device, precision: torch.dtype) -> None:
    """Have CUDA compute float32 in float32, in the whole process; by default torch has convolutions round to TF32.

    Nothing changes on other devices and in bfloat16.
    """
    if device.type == "cuda" and precision is torch.float32:
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


def _dtype(name: str, field: str) -> torch.dtype:
    if name not in _DTYPES:
        raise ConfigError(f"precision {name!r} is not one of {', '.join(_DTYPES)}", field=field)
    return _DTYPES[name]


_BFLOAT16_SINCE = (8, 0)  # Ampere; earlier ones emulate it, and torch counts that as supported


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products run in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _BFLOAT16_SINCE
    capabilities = torch.backends.cpu.get_cpu_capability()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and "AVX512" in capabilities and _cpu_has_bf16_dot()


def _cpu_has_bf16_dot() -> bool:
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe()) if probe else False
