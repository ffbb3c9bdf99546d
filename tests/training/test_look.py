"""How a camera sees a frame."""

import numpy as np

from masklet.training.look import Look, compressed

RANDOM = np.random.default_rng(0)
CANVAS = np.asarray(RANDOM.uniform(20, 200, (40, 50, 3)), np.float32)


def _look(**changes: object) -> Look:
    plain = {"gain": np.ones((2, 3), np.float32), "ramp": None, "blur_px": np.zeros(2), "noise": 0.0, "quality": None}
    return Look(**{**plain, **changes})  # type: ignore[arg-type]


def _taken(look: Look) -> np.ndarray:
    return look.taken(np.random.default_rng(1), CANVAS.copy(), 0)


def test_a_plain_look_changes_nothing() -> None:
    assert np.array_equal(_taken(_look()), CANVAS.astype(np.uint8))


def test_gain_brightens_and_does_not_wrap_round() -> None:
    taken = _taken(_look(gain=np.full((2, 3), 2.0, np.float32)))
    assert np.array_equal(taken, np.clip(CANVAS * 2, 0, 255).astype(np.uint8))


def test_blur_smooths_and_noise_roughens() -> None:
    def roughness(look: Look) -> float:
        return float(np.abs(np.diff(_taken(look).astype(int), axis=1)).mean())

    plain = roughness(_look())
    assert roughness(_look(blur_px=np.full(2, 1.5))) < 0.6 * plain
    assert roughness(_look(noise=40.0)) > 1.1 * plain


def test_compression_keeps_the_picture_and_its_size() -> None:
    smooth = np.broadcast_to(np.linspace(0, 250, 64)[None, :, None], (48, 64, 3)).astype(np.uint8)
    worse = compressed(smooth, 40)
    assert worse.shape == smooth.shape and 0 < np.abs(worse.astype(int) - smooth).mean() < 12


def test_looks_differ() -> None:
    looks = [Look.draw(np.random.default_rng(seed), 4, (40, 50)) for seed in range(40)]
    assert {look.quality is None for look in looks} == {look.ramp is None for look in looks} == {True, False}
    assert any(look.noise for look in looks) and any(look.blur_px.any() for look in looks)
