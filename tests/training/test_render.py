"""Scenes become frames and exact masks."""

from dataclasses import replace

import numpy as np
from PIL import Image

from masklet.training.render import draw_frame
from masklet.training.scene import Actor, Part, Scene, Shadow

SIZE = (60, 80)


def _still(frames: int = 2, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    path = np.tile(np.eye(3), (frames, 1, 1))
    path[:, :2, 2] = x, y
    return path


def _box(colour: tuple[int, int, int], size: tuple[int, int] = (20, 20), counts: bool = True) -> Part:
    picture = Image.new("RGBA", (size[0] + 4, size[1] + 4))
    picture.paste((*colour, 255), (2, 2, size[0] + 2, size[1] + 2))
    return Part(picture.convert("RGBa"), _still(), counts=counts)


def _scene(*actors: Actor, targets: int) -> Scene:
    backdrop = Image.new("RGB", (120, 100), (90, 90, 90))
    return Scene((backdrop,), None, (), _still(2, 40, 30), actors, targets, None, 0.0)


def test_mask_is_where_the_object_is() -> None:
    canvas, masks = draw_frame(_scene(Actor((_box((255, 0, 0)),), _still(), 0), targets=1), 0, SIZE)
    assert masks[0].sum() == 400 and masks[0, 20:40, 30:50].all()
    assert np.array_equal(canvas[..., 0] > 200, masks[0])


def test_what_is_behind_loses_the_pixels() -> None:
    rear, front = Actor((_box((255, 0, 0)),), _still(), 0), Actor((_box((0, 0, 255)),), _still(2, 10, 0), 1)
    masks = draw_frame(_scene(rear, front, targets=2), 0, SIZE)[1]
    assert masks[0].sum() == 200 and masks[1].sum() == 400 and not (masks[0] & masks[1]).any()


def test_what_nobody_asks_about_hides_targets_too() -> None:
    rear, front = Actor((_box((255, 0, 0)),), _still(), 0), Actor((_box((0, 0, 255)),), _still())
    assert not draw_frame(_scene(rear, front, targets=1), 0, SIZE)[1].any()


def test_only_the_parts_that_count_are_the_target() -> None:
    limb = replace(_box((0, 255, 0), (10, 10), counts=False), joint=_still(2, 0, 15))
    actor = Actor((_box((255, 0, 0)), limb), _still(), 0)
    both = Actor((_box((255, 0, 0)), replace(limb, counts=True)), _still(), 0)
    assert draw_frame(_scene(actor, targets=1), 0, SIZE)[1].sum() == 400
    assert draw_frame(_scene(both, targets=1), 0, SIZE)[1].sum() == 500


def test_regions_of_the_backdrop_are_targets() -> None:
    regions = np.zeros((100, 120), np.uint8)
    regions[40:60, 50:70] = 3
    scene = replace(_scene(targets=1), regions=Image.fromarray(regions), chosen=(3,))
    masks = draw_frame(scene, 0, SIZE)[1]
    assert masks[0].sum() == 400 and masks[0, 20:40, 30:50].all()


def test_a_shadow_darkens_the_backdrop_and_not_the_masks() -> None:
    plain = _scene(Actor((_box((255, 0, 0)),), _still(), 0), targets=1)
    (bright, masks), (dark, same) = (
        draw_frame(s, 0, SIZE) for s in (plain, replace(plain, shadow=Shadow((5, 5), 2, 0.5)))
    )
    assert np.array_equal(masks, same)
    assert dark[42, 52, 0] < 0.7 * bright[42, 52, 0] and np.allclose(dark[masks[0]], bright[masks[0]])


def test_a_slow_shutter_smears_what_moves() -> None:
    path = _still()
    path[1, 0, 2] = 16
    scene = replace(_scene(Actor((_box((255, 0, 0)),), path, 0), targets=1), shutter=1.0)
    sharp, smeared = draw_frame(replace(scene, shutter=0.0), 1, SIZE)[0], draw_frame(scene, 1, SIZE)[0]
    partly = [((c[..., 0] > 100) & (c[..., 0] < 240)).sum() for c in (sharp, smeared)]
    assert partly[0] == 0 and partly[1] > 100


def test_a_sliding_skin_shows_inside_the_outline_only() -> None:
    skin = Image.new("RGB", (60, 60), (0, 255, 0))
    part = replace(_box((255, 0, 0)), skin=skin, slide=_still(2, 3, 3))
    canvas, masks = draw_frame(_scene(Actor((part,), _still(), 0), targets=1), 0, SIZE)
    assert np.array_equal(canvas[..., 1] > 200, masks[0])


def test_films_change_from_frame_to_frame() -> None:
    pictures = tuple(Image.new("RGB", (120, 100), (v, v, v)) for v in (10, 200))
    scene = replace(_scene(targets=0), backdrops=pictures)
    assert [draw_frame(scene, t, SIZE)[0].mean() for t in (0, 1)] == [10, 200]
