from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from masklet.errors import ConfigError
from masklet.model import SAM2, build, variant_config
from masklet.training.optimise import AveragedWeights, learning_rate, make_optimiser, set_learning_rate
from masklet.training.recipe import OptimiserSettings, parse_recipe

KEYS = Path(__file__).parents[1] / "golden/keys"
RECIPE = parse_recipe(
    {
        "stages": [
            {"steps": 100, "frames": 1, "size": 64, "clips": 1, "learning_rate": 1e-3},
            {"steps": 100, "frames": 2, "size": 64, "clips": 1, "learning_rate": 5e-4},
        ],
        "optimiser": {"warmup_steps": 10, "final_share": 0.1},
    }
)


def test_the_rate_rises_and_falls_from_where_each_stage_begins():
    rates = [learning_rate(RECIPE, step) for step in range(200)]
    assert rates[0] == pytest.approx(1e-4, rel=0.01)
    assert max(rates) == pytest.approx(rates[9], rel=0.01)
    assert rates[50] == pytest.approx(5.5e-4) and rates[99] == pytest.approx(1e-4, rel=0.01)
    assert rates[100] == pytest.approx(5e-4)
    assert rates[199] == pytest.approx(5e-5, rel=0.01)


def test_the_image_encoder_has_a_rate_of_its_own():
    network = SAM2(variant_config("mini"))
    optimiser = make_optimiser(network, OptimiserSettings(layer_decay=0.5, encoder_share=0.6))
    shares = {id(p): group["share"] for group in optimiser.param_groups for p in group["params"]}
    encoder: Any = network.image_encoder
    found = [encoder.neck.convs[0].conv.bias, encoder.trunk.blocks[-1].norm1.bias, network.obj_ptr_proj.layers[0].bias]
    assert [shares[id(p)] for p in found] == pytest.approx([0.6, 0.3, 1.0])


def test_every_weight_is_optimised_once_and_early_blocks_learn_slower():
    network = SAM2(variant_config("mini"))
    optimiser = make_optimiser(network, OptimiserSettings(layer_decay=0.5, weight_decay=0.1))
    set_learning_rate(optimiser, 1.0)
    by_weight = {id(p): g for g in optimiser.param_groups for p in g["params"]}
    assert by_weight.keys() == {id(p) for p in network.parameters()}
    trunk: Any = network.image_encoder.trunk
    blocks = [by_weight[id(block.norm1.weight)] for block in trunk.blocks]
    assert [group["lr"] for group in blocks] == [0.5**4, 0.5**3, 0.5**2, 0.5]
    assert by_weight[id(trunk.patch_embed.proj.bias)]["lr"] == 0.5**5
    assert by_weight[id(trunk.pos_embed)]["lr"] == by_weight[id(trunk.pos_embed_window)]["lr"] == 1
    assert by_weight[id(network.obj_ptr_tpos_proj.weight)]["lr"] == 1


@pytest.mark.parametrize("path", sorted(KEYS.glob("*.json")), ids=lambda path: path.stem)
def test_fine_tuning_reaches_every_weight_of_a_published_file(path):
    published = json.loads(path.read_text())
    with torch.device("meta"):
        network = SAM2(variant_config(path.stem))
    optimiser = make_optimiser(network, OptimiserSettings(layer_decay=0.9))
    tuned = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
    names = {name for name, parameter in network.named_parameters() if id(parameter) in tuned}
    fixed = {"sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"}  # drawn once, never learnt
    assert published.keys() - names == fixed
    shares = sorted({group["share"] for group in optimiser.param_groups}, reverse=True)
    depth = sum(variant_config(path.stem).trunk.blocks)
    assert shares == pytest.approx([0.9**index for index in range(depth + 2)])


def test_only_matrices_decay():
    network = SAM2(variant_config("mini"))
    optimiser = make_optimiser(network, OptimiserSettings(weight_decay=0.1))
    by_weight = {id(p): g["weight_decay"] for g in optimiser.param_groups for p in g["params"]}
    trunk: Any = network.image_encoder.trunk
    assert by_weight[id(trunk.blocks[0].mlp.layers[0].weight)] == 0.1
    still = (trunk.blocks[0].norm1.weight, trunk.pos_embed, trunk.blocks[0].mlp.layers[0].bias)
    assert [by_weight[id(p)] for p in still] == [0, 0, 0]


@pytest.mark.skipif(
    not hasattr(torch.optim, "Muon") and os.environ.get("CI") != "true", reason="torch has Muon from 2.9 on"
)
def test_muon_turns_the_matrices_evenly_and_leaves_the_rest_to_adamw():
    network = build("mini", seed=0)
    optimiser = make_optimiser(network, OptimiserSettings(muon=True, layer_decay=0.5, weight_decay=0.0))
    groups = {id(p): g for g in optimiser.param_groups for p in g["params"]}
    assert groups.keys() == {id(p) for p in network.parameters()}
    trunk: Any = network.image_encoder.trunk
    attention: Any = network.memory_attention
    matrix = attention.layers[0].linear1.weight
    thin = trunk.patch_embed.proj.weight
    assert ["momentum" in groups[id(p)] for p in (matrix, thin, trunk.pos_embed)] == [True, False, False]
    assert groups[id(trunk.blocks[0].mlp.layers[0].weight)]["share"] == 0.5**4
    set_learning_rate(optimiser, 0.01)
    before = matrix.detach().clone()
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    optimiser.step()
    turned = torch.linalg.svdvals((matrix.detach() - before) / (0.01 * 0.2 * max(matrix.shape) ** 0.5))
    assert 0.5 < float(turned.min()) <= float(turned.max()) < 1.3
    optimiser.zero_grad()
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_torch_without_muon_says_so(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(ConfigError, match=r"optimiser\.muon needs torch 2\.9, this is"):
        make_optimiser(SAM2(variant_config("mini")), OptimiserSettings(muon=True))


def test_averaged_weights_follow_fast_at_first_and_slowly_later():
    average = AveragedWeights({"w": torch.zeros(1)}, decay=0.9)
    average.update({"w": torch.ones(1)}, step=0)
    assert float(average.state["w"]) == pytest.approx(0.9)
    average.update({"w": torch.zeros(1)}, step=10_000)
    assert float(average.state["w"]) == pytest.approx(0.81)
