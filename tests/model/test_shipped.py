from __future__ import annotations

import pytest
import torch

from masklet.errors import ConfigError, WeightsError
from masklet.model import build
from masklet.model.checkpoint import load_weights, save_checkpoint
from masklet.model.shipped import resolve, shipped_weights


def test_weights_of_nano_come_with_the_package_and_are_small():
    path = shipped_weights("nano")
    assert path is not None and path.stat().st_size <= 16 * 2**20
    load_weights(build("nano", seed=None), path, variant="nano")


def test_without_a_word_nano_is_meant():
    assert resolve("", "") == ("nano", shipped_weights("nano"))


def test_random_weights_are_to_be_had_and_all_there_is_for_the_published_variants():
    assert resolve("", "random") == ("nano", None)
    assert resolve("sam2.1_hiera_tiny", "") == ("sam2.1_hiera_tiny", None)


def test_a_checkpoint_says_which_variant_it_is(tmp_path):
    save_checkpoint(build("sam2.1_hiera_tiny").state_dict(), tmp_path / "some.safetensors")
    path = tmp_path / "some.safetensors"
    assert resolve("", str(path)) == ("sam2.1_hiera_tiny", path)
    assert resolve("nano", str(path)) == ("nano", path)


def test_a_checkpoint_of_no_known_variant_needs_a_name(tmp_path):
    save_checkpoint({"w": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"w\.pt is of no known variant; say which with model\.variant"):
        resolve("", str(tmp_path / "w.pt"))
    with pytest.raises(WeightsError, match="cannot be read"):
        resolve("", str(tmp_path / "none.pt"))
