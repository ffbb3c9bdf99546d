"""Which network and weights a configuration means, and the weights that come with the package."""

from __future__ import annotations

from pathlib import Path

from masklet.errors import ConfigError
from masklet.model.checkpoint import read_checkpoint
from masklet.model.config import NANO
from masklet.model.published import identify

RANDOM = "random"
_FOLDER = Path(__file__).parent / "weights"


def shipped_weights(variant: str) -> Path | None:
    """The file of the weights that come with the package, or None: only `nano` has some."""
    path = _FOLDER / f"{variant}.safetensors"
    return path if path.is_file() else None


def resolve(variant: str, weights: str) -> tuple[str, Path | None]:
    """What to load.

    Args:
        variant: a name, or empty: the variant the checkpoint is of, `nano` if there is no checkpoint.
        weights: a checkpoint's path; empty: those that come with the package, if any do; "random": none.

    Returns:
        The variant and the checkpoint, None for random weights.

    Raises:
        ConfigError: the checkpoint's variant is not to be told from its shapes.
        WeightsError: the checkpoint cannot be read.
    """
    if weights in ("", RANDOM):
        chosen = variant or NANO.name
        return chosen, shipped_weights(chosen) if not weights else None
    return variant or _variant_of(Path(weights)), Path(weights)


def _variant_of(path: Path) -> str:
    found = identify({key: tuple(tensor.shape) for key, tensor in read_checkpoint(path).items()})
    if found is None:
        raise ConfigError(f"{path} is of no known variant; say which with model.variant", field="model.variant")
    return found
