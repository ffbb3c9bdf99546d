"""Our names against those of the `transformers` library itself, for every published variant."""

import importlib.util
from pathlib import Path

import pytest
import torch

from masklet.errors import WeightsError
from masklet.model import SAM2, VARIANTS, variant_config
from masklet.model.transformers_naming import is_transformers_naming, to_official, to_transformers

pytest.importorskip("transformers")
LOADTESTS = Path(__file__).parents[2] / "loadtests"


@pytest.fixture(scope="module")
def peer():
    spec = importlib.util.spec_from_file_location("peer_transformers", LOADTESTS / "peer_transformers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shapes(state):
    return {key: tuple(value.shape) for key, value in state.items()}


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_every_key_and_shape_has_its_counterpart_both_ways(peer, variant):
    with torch.device("meta"):
        ours = SAM2(variant_config(variant, input_size=64)).state_dict()
        theirs = peer.Sam2VideoModel(peer.peer_config(variant, 64)).state_dict()
    assert shapes(to_transformers(ours)) == shapes(theirs)
    assert shapes(to_official(theirs)) == shapes(ours)
    assert is_transformers_naming(theirs)
    assert not is_transformers_naming(ours)


def test_files_that_leave_out_the_second_copy_of_the_random_matrix_are_read():
    matrix = {"shared_image_embedding.positional_embedding": torch.ones(2, 128)}
    again = {"prompt_encoder.shared_embedding.positional_embedding": torch.ones(2, 128)}
    assert to_official(matrix).keys() == to_official(again).keys() == to_official(matrix | again).keys()


def test_point_embeddings_are_stacked_in_order():
    points = {f"sam_prompt_encoder.point_embeddings.{i}.weight": torch.full((1, 256), float(i)) for i in range(4)}
    stacked = to_transformers(points)["prompt_encoder.point_embed.weight"]
    assert stacked[:, 0].tolist() == [0, 1, 2, 3]
    assert all(torch.equal(value, points[key]) for key, value in to_official(to_transformers(points)).items())


def test_unknown_keys_are_named():
    with pytest.raises(WeightsError, match=r"1 keys are not SAM 2's, among them text_encoder\.weight"):
        to_official({"vision_encoder.backbone.pos_embed": torch.zeros(1), "text_encoder.weight": torch.zeros(1)})
