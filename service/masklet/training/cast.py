"""The actors of a scene: targets, look-alikes, and what passes in front of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from masklet.training import motion
from masklet.training.assets import AssetBank
from masklet.training.motion import Liveliness, Path
from masklet.training.scene import Actor, Part, SyntheticSettings
from masklet.training.sprites import Range, colour_range, draw_bar, draw_skin, draw_sprite
from masklet.training.warp import Wobble

_LIMB_SHARE = (0.08, 0.45)
_MAX_LIMBS = 3
_BAR_SHARE = 0.35
_IN_FRONT = 0.7


@dataclass(frozen=True, slots=True, eq=False)
class Casting:
    """Chooses actors.

    Attributes:
        random: decides everything.
        assets: pictures.
        settings: how often there is what.
        scenery: colours of the backdrop.
    """

    random: np.random.Generator
    assets: AssetBank
    settings: SyntheticSettings
    scenery: Range

    def cast(self, targets: int) -> list[Actor]:
        """`targets` targets, and their company, of which copies may be targets as well; rear to front."""
        actors = [self._target(index) for index in range(targets)]
        front: list[Actor] = []
        if actors and self.random.random() < self.settings.distractor:
            victim = self._one_of(actors)
            count = self._look_alikes()
            first = targets if self._copies_count() else None
            actors += [self._look_alike(victim, None if first is None else first + i) for i in range(count)]
        if self.random.random() < self.settings.occluder:
            (front if self.random.random() < _IN_FRONT else actors).append(self._occluder(actors))
        return [actors[i] for i in self.random.permutation(len(actors))] + front

    def _one_of(self, actors: list[Actor]) -> Actor:
        return actors[int(self.random.integers(len(actors)))]

    def _target(self, index: int) -> Actor:
        """The first one is never tiny."""
        share = self._share(floor=0.03 if index == 0 else 0.0)
        actor = self._actor(share, target=index)
        if self.settings.frames > 3 and self.random.random() < self.settings.excursion:
            return actor.moved(self._leaving(actor), target=index)
        return actor

    def _share(self, *, floor: float) -> float:
        low, high = max(self.settings.min_share, min(floor, self.settings.max_share)), self.settings.max_share
        return float(np.exp(self.random.uniform(np.log(low), np.log(high))))

    def _actor(self, share: float, *, target: int | None) -> Actor:
        """An object that covers about `share` of the frame."""
        height, width = self.settings.size
        image = draw_sprite(self.random, self.assets, area_px=share * height * width, scenery=self.scenery)
        parts = [self._body(image)]
        if self.random.random() < self.settings.limbs:
            parts += [self._limb(image) for _ in range(int(self.random.integers(1, _MAX_LIMBS + 1)))]
            parts = [parts[i] for i in self.random.permutation(len(parts))]
            if self.random.random() < self.settings.part:
                chosen = parts[int(self.random.integers(len(parts)))]
                parts = [_counting(part, part is chosen) for part in parts]
        return Actor(tuple(parts), self._path(), target)

    def _path(self) -> Path:
        random, (height, width) = self.random, self.settings.size
        start = (random.uniform(-0.38, 0.38) * width, random.uniform(-0.38, 0.38) * height)
        pace = random.lognormal(-0.2, 0.8)
        lively = Liveliness(0.022 * pace, 0.06 * pace, 0.035 * pace)
        return motion.object_path(random, self.settings.frames, self.settings.size, start=start, lively=lively)

    def _body(self, image: Image.Image) -> Part:
        """A sprite that may wobble, or have a texture that slides over it."""
        frames = self.settings.frames
        joint = np.tile(np.eye(3), (frames, 1, 1))
        if frames > 1 and self.random.random() < self.settings.skin:
            skin = draw_skin(self.random, self.assets, image, self.scenery)
            return Part(image, joint, None, skin, motion.slide(self.random, frames, min(image.size) / 2))
        return Part(image, joint, self._wobble(image))

    def _wobble(self, image: Image.Image) -> Wobble | None:
        if self.random.random() >= self.settings.wobble:
            return None
        return Wobble.draw(self.random, self.settings.frames, min(image.size))

    def _limb(self, body: Image.Image) -> Part:
        """A smaller sprite that swings about a point of the body."""
        random = self.random
        share = random.uniform(*_LIMB_SHARE)
        colours = colour_range(body) if random.random() < 0.75 else self.scenery
        image = draw_sprite(random, self.assets, area_px=share * body.width * body.height * 0.5, scenery=colours)
        hinge = np.asarray([random.uniform(-0.2, 0.2) * image.width, 0.4 * image.height])
        at = _point_on(random, body)
        return Part(image, motion.swing(random, self.settings.frames, at=at, hinge=hinge), self._wobble(image))

    def _leaving(self, actor: Actor) -> Path:
        """The actor's path, with a stay outside the frame."""
        angle = self.random.uniform(0, 2 * np.pi)
        far = 0.75 * sum(self.settings.size) / 2 + 0.7 * actor.reach_px
        path = actor.path.copy()
        away = motion.excursion(self.random, len(path)) * far
        path[:, :2, 2] += away[:, None] * (np.cos(angle), np.sin(angle))
        return path

    def _look_alikes(self) -> int:
        """How many. If one is the most, nothing is drawn, so that the seeds scores are of keep their clips."""
        most = self.settings.look_alikes
        return 1 if most == 1 else int(self.random.integers(1, most + 1))

    def _copies_count(self) -> bool:
        """Whether copies are targets, too. If they never are, nothing is drawn, for the sake of the same seeds."""
        odds = self.settings.copied_targets
        return odds > 0 and self.random.random() < odds

    def _look_alike(self, actor: Actor, target: int | None) -> Actor:
        """The same object on a way of its own."""
        return actor.moved(self._path(), target=target)

    def _occluder(self, actors: list[Actor]) -> Actor:
        """A bar or an object that meets one of the actors on some frame."""
        if self.random.random() < _BAR_SHARE:
            bar = draw_bar(self.random, self.assets, self.settings.size)
            occluder = Actor((self._body(bar),), self._path())
        else:
            occluder = self._actor(self._share(floor=0.04), target=None)
        if not actors or self.settings.frames < 3:
            return occluder
        return occluder.moved(self._crossing(occluder, self._one_of(actors)), target=None)

    def _crossing(self, occluder: Actor, victim: Actor) -> Path:
        """A straight way across the victim's place on some frame after the first."""
        meeting = int(self.random.integers(1, len(victim.path)))
        angle = self.random.uniform(0, 2 * np.pi)
        pace = self.random.uniform(0.03, 0.3) * min(occluder.reach_px, max(self.settings.size))
        away = (np.arange(len(victim.path)) - meeting)[:, None] * pace
        path = occluder.path.copy()
        path[:, :2, 2] += victim.path[meeting, :2, 2] - path[meeting, :2, 2]
        path[:, :2, 2] += away * (np.cos(angle), np.sin(angle))
        return path


def _counting(part: Part, counts: bool) -> Part:
    return Part(part.image, part.joint, part.wobble, part.skin, part.slide, counts)


def _point_on(random: np.random.Generator, image: Image.Image) -> npt.NDArray[np.float64]:
    """An opaque point (x, y) of a sprite, from its middle."""
    grid = 12
    opaque = np.flatnonzero(np.asarray(image.getchannel("a").resize((grid, grid), Image.Resampling.BOX)) > 127)
    if not len(opaque):
        return np.zeros(2)
    row, column = divmod(int(random.choice(opaque)), grid)
    share = (np.asarray([column, row]) + 0.5) / grid - 0.5
    return np.asarray(share * image.size)
