"""`masklet weights` from its arguments to what it prints."""

import argparse
import hashlib
import os
import stat
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from masklet.cli import weights
from masklet.errors import ConfigError, WeightsError
from masklet.model import PromptBatch, build, published
from masklet.model.checkpoint import load_weights, read_as_stored, read_checkpoint, save_checkpoint, state_sha256
from masklet.model.published import PublishedCheckpoint


def masklet(*arguments):
    parser = argparse.ArgumentParser()
    weights.add_parser(parser.add_subparsers())
    args = parser.parse_args(["weights", *map(str, arguments)])
    return args.run(args)


@pytest.fixture(scope="module")
def tiny_state():
    return build("sam2.1_hiera_tiny", input_size=64, seed=5).state_dict()


@pytest.fixture
def tiny_file(tmp_path, tiny_state):
    save_checkpoint(tiny_state, tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def mirror(tmp_path):
    (tmp_path / "mirror").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path / "mirror")))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", tmp_path / "mirror"
    server.shutdown()
    thread.join(5)
    server.server_close()


def test_list_names_every_published_file(capsys):
    assert masklet("list") == 0
    printed = capsys.readouterr().out
    assert all(name in printed and known.sha256 in printed for name, known in published.PUBLISHED.items())


def test_info_tells_variant_and_naming(capsys, tiny_file):
    assert masklet("info", tiny_file) == 0
    printed = capsys.readouterr().out
    assert "variant    sam2.1_hiera_tiny\nnaming     official\ntensors    471 (" in printed
    assert "published  no" in printed


def test_converting_there_and_back_changes_no_weight(capsys, tmp_path, tiny_file, tiny_state):
    assert masklet("convert", tiny_file, tmp_path / "hf.safetensors", "--to", "transformers") == 0
    assert any(key.startswith("vision_encoder.") for key in read_as_stored(tmp_path / "hf.safetensors"))
    assert masklet("convert", tmp_path / "hf.safetensors", tmp_path / "back.pt", "--to", "official") == 0
    assert state_sha256(read_checkpoint(tmp_path / "back.pt")) == state_sha256(tiny_state)
    assert masklet("info", tmp_path / "hf.safetensors") == 0
    assert "variant    sam2.1_hiera_tiny\nnaming     transformers" in capsys.readouterr().out


def test_a_converted_file_loads_into_the_network(tmp_path, tiny_file, tiny_state):
    assert masklet("convert", tiny_file, tmp_path / "hf.safetensors", "--to", "transformers") == 0
    network = build("sam2.1_hiera_tiny", input_size=64, seed=6)
    load_weights(network, tmp_path / "hf.safetensors", variant="sam2.1_hiera_tiny")
    assert all(torch.equal(value, tiny_state[key]) for key, value in network.state_dict().items())


def test_a_file_stored_in_half_precision_is_half_the_size_and_loads(tmp_path, tiny_file, tiny_state):
    assert masklet("convert", tiny_file, tmp_path / "half.safetensors", "--half") == 0
    whole = sum(value.numel() * 4 for value in tiny_state.values())
    assert (tmp_path / "half.safetensors").stat().st_size < 0.51 * whole
    network = build("sam2.1_hiera_tiny", input_size=64, seed=6)
    load_weights(network, tmp_path / "half.safetensors", variant="sam2.1_hiera_tiny")
    assert all(torch.equal(value, tiny_state[key].half().float()) for key, value in network.state_dict().items())


def test_a_weight_too_large_for_half_precision_is_named(tmp_path, tiny_file):
    with pytest.raises(WeightsError, match=r"does not fit into float16, whose largest number is 65504"):
        masklet("convert", tiny_file, tmp_path / "out.pt", "--half", "--shift-object-score", "1e5")
    assert not (tmp_path / "out.pt").exists()


def test_shifting_the_object_score_shifts_it_and_nothing_else(tmp_path, tiny_file, tiny_state):
    masklet("convert", tiny_file, tmp_path / "shifted.safetensors", "--shift-object-score", "-1.5")
    before, after = build("sam2.1_hiera_tiny", input_size=64), build("sam2.1_hiera_tiny", input_size=64)
    before.load_state_dict(tiny_state)
    load_weights(after, tmp_path / "shifted.safetensors", variant="sam2.1_hiera_tiny")
    with torch.inference_mode():
        answers = [_answer(network) for network in (before, after)]
    assert torch.allclose(answers[1].object_score, answers[0].object_score - 1.5, atol=1e-5)
    assert torch.equal(answers[1].logits, answers[0].logits)
    assert torch.equal(answers[1].predicted_iou, answers[0].predicted_iou)


def test_the_mean_of_several_files_counts_each_as_often_as_it_is_named(tmp_path, tiny_file, tiny_state):
    other = build("sam2.1_hiera_tiny", input_size=64, seed=6).state_dict()
    save_checkpoint(other, tmp_path / "other.pt")
    twice = ["--mean-with", tmp_path / "other.pt"] * 2
    masklet("convert", *twice, tiny_file, tmp_path / "mean.pt")
    found = read_checkpoint(tmp_path / "mean.pt")
    assert found.keys() == tiny_state.keys()
    assert all(torch.allclose(found[key], (tiny_state[key] + 2 * other[key]) / 3, atol=1e-6) for key in found)


def test_there_is_no_mean_of_different_variants(tmp_path, tiny_file):
    save_checkpoint(build("nano", seed=0).state_dict(), tmp_path / "nano.pt")
    with pytest.raises(WeightsError, match=r"nano\.pt does not fit .*tiny\.pt, which it is to be averaged with"):
        masklet("convert", tiny_file, tmp_path / "mean.pt", "--mean-with", tmp_path / "nano.pt")
    assert not (tmp_path / "mean.pt").exists()


@pytest.mark.parametrize(("by", "said"), [("nan", "shifted by nan: must be finite"), ("1", "no object score to shift")])
def test_a_shift_that_cannot_be_is_named(tmp_path, by, said):
    save_checkpoint({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=said):
        masklet("convert", tmp_path / "other.pt", tmp_path / "out.pt", "--shift-object-score", by)


def test_a_shift_out_of_the_weights_range_is_named(tmp_path, tiny_file):
    with pytest.raises(WeightsError, match=r"shifted by 1e\+40: .* would not be finite"):
        masklet("convert", tiny_file, tmp_path / "out.pt", "--shift-object-score", "1e40")
    assert not (tmp_path / "out.pt").exists()


def _answer(network):
    features = network.encode_image(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    row = torch.zeros(1, dtype=torch.long)
    click = PromptBatch(torch.full((1, 1, 2), 30.0), torch.ones(1, 1, dtype=torch.long))
    return network.candidates(network.without_memory(features, row), features.skips, click)


def test_download_puts_the_file_into_the_folder(capsys, monkeypatch, tmp_path, mirror):
    address, folder = mirror
    (folder / "small_one.pt").write_bytes(b"weights" * 1000)
    sha256 = hashlib.sha256(b"weights" * 1000).hexdigest()
    monkeypatch.setitem(published.PUBLISHED, "small_one", PublishedCheckpoint("small_one", "x", 7000, sha256))
    assert masklet("download", "small_one", "--dir", tmp_path / "to", "--url-base", address) == 0
    assert capsys.readouterr().out == f"{tmp_path}/to/small_one.pt\n"
    assert (tmp_path / "to/small_one.pt").stat().st_size == 7000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("download", "sam9"), "no published variant 'sam9'"),
        (("info", "nothing.pt"), r"nothing\.pt: cannot be read"),
        (("convert", "nothing.pt", "out.pt"), r"nothing\.pt: cannot be read"),
    ],
)
def test_errors_name_the_cause(arguments, said):
    with pytest.raises(WeightsError, match=said):
        masklet(*arguments)


def test_only_files_are_replaced(tiny_file, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="is no file that could be replaced"):
        masklet("convert", tiny_file, tmp_path / "pipe")
    with pytest.raises(ConfigError, match="is no folder"):
        masklet("convert", tiny_file, tiny_file / "out.pt")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
