"""Reading, checking, loading and writing checkpoints."""

import io
import os
import pickle
import re
import zipfile

import pytest
import torch
from torch import nn

from masklet.errors import WeightsError
from masklet.model.checkpoint import (
    MAX_CHECKPOINT_BYTES,
    WEIGHT_TYPES,
    check_fits,
    file_sha256,
    load_weights,
    mean_weights,
    read_checkpoint,
    save_checkpoint,
    state_sha256,
)
from masklet.model.published import PUBLISHED, identify, published


def small_network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


@pytest.fixture
def state():
    return {key: value.clone() for key, value in small_network().state_dict().items()}


@pytest.fixture
def torch_file(tmp_path, state):
    save_checkpoint(state, tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def trunk_shapes(*, width, blocks, newer):
    shapes: dict[str, tuple[int, ...]] = {"image_encoder.trunk.patch_embed.proj.weight": (width, 3, 7, 7)}
    shapes |= {f"image_encoder.trunk.blocks.{i}.norm1.weight": (width,) for i in range(blocks)}
    return shapes | ({"obj_ptr_tpos_proj.weight": (64, 256)} if newer else {})


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_what_is_saved_is_read_back(tmp_path, state, name):
    save_checkpoint(state, tmp_path / name)
    read = read_checkpoint(tmp_path / name)
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], state[key]) for key in state)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_bare_state_dict_is_read(tmp_path, state):
    torch.save(state, tmp_path / "bare.pt")
    assert state_sha256(read_checkpoint(tmp_path / "bare.pt")) == state_sha256(state)


def test_loading_fills_the_network_and_returns_the_files_checksum(torch_file, state):
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    assert load_weights(network, torch_file, variant="two_layers") == file_sha256(torch_file)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_loading_a_state_dict_returns_a_checksum_that_ignores_order(state):
    backwards = dict(reversed(state.items()))
    assert load_weights(small_network(), state, variant="v") == load_weights(small_network(), backwards, variant="v")


def test_checksum_of_a_state_dict_changes_with_one_value(state):
    changed = state | {"0.bias": state["0.bias"] + 1e-6}
    assert state_sha256(changed) != state_sha256(state)


def test_every_fault_of_the_keys_is_in_one_message(state):
    wrong = {key: value for key, value in state.items() if key != "0.bias"}
    wrong |= {"2.weight": torch.zeros(1), "1.bias": torch.zeros(7)}
    with pytest.raises(WeightsError) as caught:
        load_weights(small_network(), wrong, variant="two_layers")
    for part in ("two_layers", "1 missing: 0.bias", "1 extra: 2.weight", "1.bias [7] instead of [2]"):
        assert part in str(caught.value)


def test_at_most_ten_keys_of_a_kind_are_listed():
    expected = {f"layer{i:02d}": torch.zeros(1) for i in range(30)}
    with pytest.raises(WeightsError, match="30 missing") as caught:
        check_fits(expected, {"other": torch.zeros(1)}, variant="v", name="file")
    assert "layer09" in str(caught.value)
    assert "layer10" not in str(caught.value)


def test_a_misfit_leaves_the_network_as_it_was(state):
    network = small_network()
    before = state_sha256(network.state_dict())
    with pytest.raises(WeightsError):
        load_weights(network, {"0.weight": state["0.weight"] + 1}, variant="two_layers")
    assert state_sha256(network.state_dict()) == before


def test_the_variant_a_checkpoint_looks_like_is_named():
    shapes = trunk_shapes(width=96, blocks=16, newer=True)
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    with pytest.raises(WeightsError, match=r"looks like sam2\.1_hiera_small"):
        check_fits({"x": torch.zeros(1)}, state, variant="sam2.1_hiera_tiny", name="file")


@pytest.mark.parametrize(
    ("width", "blocks", "newer", "variant"),
    [
        (96, 12, False, "sam2_hiera_tiny"),
        (112, 24, True, "sam2.1_hiera_base_plus"),
        (144, 48, False, "sam2_hiera_large"),
        (96, 13, True, None),
    ],
)
def test_variants_are_told_apart_by_shapes(width, blocks, newer, variant):
    assert identify(trunk_shapes(width=width, blocks=blocks, newer=newer)) == variant


def test_weights_that_are_not_finite_are_refused(state):
    with pytest.raises(WeightsError, match=r"1 weights are not finite: 1\.bias"):
        load_weights(small_network(), state | {"1.bias": torch.tensor([1.0, float("nan")])}, variant="v")


STRANGE = {
    "int64": torch.zeros(2, dtype=torch.int64),
    "uint8": torch.zeros(2, dtype=torch.uint8),
    "bool": torch.zeros(2, dtype=torch.bool),
    "complex64": torch.zeros(2, dtype=torch.complex64),
    "float8_e4m3fn": torch.zeros(2).to(torch.float8_e4m3fn),
    "sparse_coo": torch.ones(2).to_sparse(),
    "on meta": torch.zeros(2, device="meta"),
    "2 numbers, 1 stored": torch.zeros(1).expand(2),
}


@pytest.mark.parametrize("fault", STRANGE)
def test_tensors_that_are_no_dense_weights_are_refused_read_or_given(tmp_path, state, fault):
    strange = state | {"1.bias": STRANGE[fault]}
    torch.save({"model": strange}, tmp_path / "strange.pt")
    network = small_network()
    before = state_sha256(network.state_dict())
    complaint = rf"1 tensors are not dense ones of float16, bfloat16, float32, float64: 1\.bias \({fault}\)"
    for source in (strange, tmp_path / "strange.pt"):
        with pytest.raises(WeightsError, match=complaint):
            load_weights(network, source, variant="two_layers")
    with pytest.raises(WeightsError, match=complaint):
        read_checkpoint(tmp_path / "strange.pt")
    assert state_sha256(network.state_dict()) == before


@pytest.mark.parametrize("dtype", WEIGHT_TYPES)
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_weights_of_other_precisions_are_loaded(tmp_path, state, dtype, name):
    save_checkpoint({key: value.to(dtype) for key, value in state.items()}, tmp_path / name)
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    load_weights(network, tmp_path / name, variant="two_layers")
    assert all(torch.equal(value, state[key].to(dtype).float()) for key, value in network.state_dict().items())


@pytest.mark.parametrize("shape", [(), (4,), (3, 256), (7, 256), (4, 1, 256)])
def test_stacked_point_embeddings_of_another_shape_are_refused(tmp_path, shape):
    theirs = {
        "vision_encoder.backbone.pos_embed": torch.zeros(1),
        "prompt_encoder.point_embed.weight": torch.zeros(shape),
    }
    save_checkpoint(theirs, tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError, match=rf"point_embed\.weight is {re.escape(str(list(shape)))}, must be \[4, C\]"):
        read_checkpoint(tmp_path / "weights.safetensors")


def test_a_number_where_a_map_is_expected_is_of_no_variant():
    assert identify({"image_encoder.trunk.patch_embed.proj.weight": ()}) is None


def test_there_is_no_mean_of_no_weights():
    with pytest.raises(WeightsError, match="no weights to take the mean of"):
        mean_weights([])


def test_no_such_file(tmp_path):
    with pytest.raises(WeightsError, match=r"nothing\.pt: cannot be read: No such file"):
        read_checkpoint(tmp_path / "nothing.pt")


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="is a directory"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK", b"hello, this is no checkpoint", b"\x80\x02}q\x00."])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "file.pt").write_bytes(content)
    with pytest.raises(WeightsError, match="neither a torch zip nor safetensors"):
        read_checkpoint(tmp_path / "file.pt")


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_truncated_files_are_refused(tmp_path, state, name, kept):
    file = tmp_path / name
    save_checkpoint(state, file)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(WeightsError, match=r"truncated or damaged|not a whole|neither"):
        read_checkpoint(file)


def test_damage_anywhere_in_the_pickle_gives_an_error_of_ours_or_tensors(torch_file):
    content = torch_file.read_bytes()
    start = content.index(b"data.pkl")
    for at in range(start, start + 300, 7):
        torch_file.write_bytes(content[:at] + bytes([content[at] ^ 0x5A]) + content[at + 1 :])
        try:
            assert all(isinstance(value, torch.Tensor) for value in read_checkpoint(torch_file).values())
        except WeightsError as error:
            assert "weights.pt" in str(error)


class _RunsCode:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_pickled_code_is_refused_and_never_run(tmp_path):
    torch.save({"model": {"w": torch.zeros(1), "x": _RunsCode(f"touch {tmp_path}/ran")}}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match="pickled code is never run"):
        read_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_a_plain_pickle_with_code_is_refused_and_never_run(tmp_path):
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(_RunsCode(f"touch {tmp_path}/ran")))
    with pytest.raises(WeightsError, match="neither a torch zip nor safetensors"):
        read_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(1 << 22))
    with pytest.raises(WeightsError, match="compressed"):
        read_checkpoint(tmp_path / "bomb.pt")


def test_a_zip_without_tensors_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(WeightsError, match="not a whole torch checkpoint"):
        read_checkpoint(tmp_path / "zip.pt")


def test_files_larger_than_any_checkpoint_are_refused_unread(tmp_path):
    with (tmp_path / "huge.pt").open("wb") as file:
        file.truncate(MAX_CHECKPOINT_BYTES + 1)
    with pytest.raises(WeightsError, match=str(MAX_CHECKPOINT_BYTES)):
        read_checkpoint(tmp_path / "huge.pt")


@pytest.mark.parametrize("content", [[1, 2], {"model": {}}, {"model": {"w": 1}}, {"epoch": 3}])
def test_other_contents_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="state dict"):
        read_checkpoint(tmp_path / "other.pt")


def test_a_file_that_cannot_be_written_is_an_error_of_ours(tmp_path, state):
    with pytest.raises(WeightsError, match="cannot be written"):
        save_checkpoint(state, tmp_path / "missing" / "weights.pt")


def test_saving_reads_as_published(torch_file):
    loaded = torch.load(io.BytesIO(torch_file.read_bytes()), weights_only=True)
    assert list(loaded) == ["model"]


def test_there_are_eight_published_files_and_an_unknown_one_is_named():
    assert len(PUBLISHED) == 8
    assert published("sam2.1_hiera_tiny").url().endswith("/092824/sam2.1_hiera_tiny.pt")
    assert published("sam2_hiera_tiny").url("http://mirror/x/") == "http://mirror/x/sam2_hiera_tiny.pt"
    with pytest.raises(WeightsError, match="no published variant 'sam3'"):
        published("sam3")
