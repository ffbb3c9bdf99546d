"""Our names against those of the `transformers` library itself, for every published variant."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from masklet.engine import Engine, EngineSettings
from masklet.errors import WeightsError
from masklet.model import SAM2, build, variant_config
from masklet.model.published import PUBLISHED
from masklet.model.transformers_naming import is_transformers_naming, to_official, to_transformers
from masklet.types import Prompt, StepRequest, TrackSettings

if importlib.util.find_spec("transformers") is None:
    if os.environ.get("CI") == "true":
        pytest.fail("needs transformers, one of the extra dev", pytrace=False)
    pytest.skip("needs transformers", allow_module_level=True)
LOADTESTS = Path(__file__).parents[2] / "loadtests"


@pytest.fixture(scope="module")
def peer():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(LOADTESTS)
        return importlib.import_module("peer_transformers")


def shapes(state):
    return {key: tuple(value.shape) for key, value in state.items()}


@pytest.mark.parametrize("variant", sorted(PUBLISHED))
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


@pytest.mark.parametrize("variant", ["sam2.1_hiera_tiny", "sam2_hiera_tiny"])
def test_renamed_weights_compute_the_same_masks(peer, monkeypatch, variant):
    memories_unrounded = SimpleNamespace(**{**vars(torch), "bfloat16": torch.float32})
    monkeypatch.setattr(sys.modules[peer.Sam2VideoModel.__module__], "torch", memories_unrounded)
    network = build(variant, input_size=64, seed=2)
    network.state_dict()["sam_mask_decoder.pred_obj_score_head.layers.2.bias"] += 10  # the object is always there
    state = {key: value.clone() for key, value in network.state_dict().items()}
    theirs = peer.PeerStream(peer.build_peer(variant, state, image_size=64), image_size=64)
    ours = Engine(network, EngineSettings(device="cpu", precision="float32"))
    ours.open("s", TrackSettings(fill_hole_area=0))
    theirs.click(1, (20, 30))
    frames = np.random.default_rng(4).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    for seq, frame in enumerate(frames, start=1):
        prompts = (Prompt.clicks(1, [(20, 30)]),) if seq == 1 else ()
        result: Any = ours.step([("s", StepRequest(seq, frame, prompts=prompts, with_logits=True))])[0]
        expected = theirs.step(peer.normalise(frame, dtype=torch.float32, device="cpu"))[0].numpy()
        off_by = np.linalg.norm(result.objects[0].logits - expected) / np.linalg.norm(expected)
        assert off_by < (1e-4 if seq == 1 else 0.02)  # random weights amplify rounding; one wrong name gives 0.1 to 2
