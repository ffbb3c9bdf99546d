"""From a configuration to an engine: weights, device, precision, threads."""

from __future__ import annotations

import torch

from masklet.config import ModelConfig
from masklet.engine import Engine, EngineSettings
from masklet.engine.allocator import keep_freed_memory
from masklet.engine.denormals import denormals_are_zero
from masklet.model import build
from masklet.model.checkpoint import load_weights
from masklet.model.shipped import resolve
from masklet.types import ModelDescription


@denormals_are_zero()  # torch starts its threads here
def load_engine(config: ModelConfig) -> tuple[Engine, ModelDescription]:
    """Build the engine a configuration asks for.

    Raises:
        ConfigError: unknown variant, device or precision, or a bad input size.
        WeightsError: the checkpoint cannot be read or is of another variant.
    """
    if config.threads:  # torch's own choice: the cores this process may use, or OMP_NUM_THREADS
        torch.set_num_threads(config.threads)
    settings = EngineSettings(config.device, config.precision, config.memory_precision)
    variant, weights = resolve(config.variant, config.weights)
    network = build(variant, input_size=config.input_size, seed=None if weights else config.seed)
    sha256 = load_weights(network, weights, variant=variant) if weights else ""
    engine = Engine(network, settings, weights=sha256 or f"random, seed {config.seed}")
    if engine.device.type == "cpu":
        keep_freed_memory()
    return engine, ModelDescription(
        model=variant,
        weights_sha256=sha256,
        trained=weights is not None,
        input_size=network.config.input_size,
        backend="embedded",
        device=engine.device.type,
        precision=str(engine.network.dtype).removeprefix("torch."),
    )
