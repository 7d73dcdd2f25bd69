"""The demo's eye and instruments, drawn with OpenCV; no video."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 192, 144
_SHADOW = (30.0, 25.0, 25.0)
_PALE = (235.0, 215.0, 200.0)
_SUBPIXEL = 4  # cv2 draws at 1/16 pixel with this shift: movement without jumps

Point = tuple[float, float]
Color = tuple[float, ...]
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Eye:
    """The patient and the light: everything that stays the same through an operation."""

    still: Image
    radius: float
    pupil: float
    reflex: tuple[float, ...]
    light: tuple[float, ...]
    steel: float
    side: float

    @classmethod
    def choose(cls, rng: np.random.RandomState) -> "Eye":
        """Draw a patient at random."""
        radius = rng.uniform(44, 54)
        sclera = np.array([205, 180, 170]) + rng.uniform(-22, 22, 3)
        iris = np.array(
            [(96, 64, 40), (70, 95, 125), (80, 100, 70), (105, 100, 95), (60, 45, 35)][
                rng.randint(5)
            ]
        ) + rng.uniform(-12, 12, 3)
        still = _draw_still_eye(sclera, iris, radius, rng)
        return cls(
            still=still,
            radius=radius,
            pupil=radius * rng.uniform(0.58, 0.72),
            reflex=tuple(np.array([190, 80, 45]) + rng.uniform(-35, 35, 3)),
            light=tuple(rng.uniform(0.88, 1.1, 3)),
            steel=rng.uniform(120, 190),
            side=rng.uniform(-0.35, 0.35) + (np.pi if rng.rand() < 0.5 else 0.0),
        )


def _draw_still_eye(
    sclera: NDArray[np.float64],
    iris: NDArray[np.float64],
    radius: float,
    rng: np.random.RandomState,
) -> Image:
    """Draw sclera with vessels, limbus and iris, with a margin for the camera's shake."""
    size = (HEIGHT + 32, WIDTH + 32)
    image = np.empty((*size, 3), dtype=np.uint8)
    image[:] = np.clip(sclera, 0, 255)
    center = (size[1] / 2, size[0] / 2)
    for _ in range(14):
        angle = rng.uniform(0, 2 * np.pi)
        points = [
            _polar(center, radius * (1 + 0.16 * i), angle + rng.uniform(-0.1, 0.1))
            for i in range(1, 8)
        ]
        _line(image, points, tuple(np.clip(sclera * (0.92, 0.7, 0.7), 0, 255)), 1)
    _disc(image, center, radius * 1.06, tuple(iris * 0.55))
    _disc(image, center, radius, tuple(iris))
    for angle in np.linspace(0, 2 * np.pi, 70, endpoint=False):
        shade = tuple(np.clip(iris * rng.uniform(0.75, 1.3), 0, 255))
        points = [_polar(center, radius * 0.55, angle), _polar(center, radius * 0.97, angle)]
        _line(image, points, shade, 1)
    return np.asarray(cv2.GaussianBlur(image, (3, 3), 0), dtype=np.uint8)


@dataclass(frozen=True)
class Scene:
    """One moment of an operation: the position of the hands; angles in radians, rest in pixels."""

    image: Image
    eye: Eye
    center: Point
    angle: float
    other: float
    depth: float
    time_s: float

    @property
    def steel(self) -> Color:
        """Colour of the case's instruments, in its light."""
        return (self.eye.steel,) * 3

    @property
    def dark(self) -> Color:
        """Colour of handles and tips."""
        return (self.eye.steel * 0.6,) * 3

    def inside(self) -> Point:
        """Return the point in the pupil where the main instrument works."""
        distance = self.eye.pupil * (0.35 + 0.2 * self.depth)
        return _polar(self.center, distance, self.angle + 0.6 * float(np.sin(self.time_s)))


def _draw_idle(scene: Scene) -> None:
    """Draw nothing but the eye."""


def _draw_incision(scene: Scene) -> None:
    """Draw a keratome: one broad blade at the limbus."""
    tip = _polar(scene.center, scene.eye.radius * (0.92 + 0.05 * scene.depth), scene.angle)
    base = _polar(tip, 26, scene.angle)
    _rod(scene.image, [_polar(scene.center, 200, scene.angle), base], scene.dark, 6)
    wings = [_polar(base, 13, scene.angle + turn) for turn in (np.pi / 2, -np.pi / 2)]
    _plate(scene.image, [wings[0], tip, wings[1]], scene.steel)


def _draw_capsulorhexis(scene: Scene) -> None:
    """Draw forceps, two thin prongs that meet in the pupil, and the torn edge of the capsule."""
    inside = scene.inside()
    radius = scene.eye.pupil * 0.72
    arc = [_polar(scene.center, radius, scene.other + a) for a in np.linspace(0, 3.6, 24)]
    _line(scene.image, arc, _PALE, 2)
    joint = _polar(inside, 52, scene.angle)
    for side in (-1, 1):
        knee = _polar(joint, 10, scene.angle + side * np.pi / 2)
        far = _polar(scene.center, 200, scene.angle + 0.04 * side)
        _rod(scene.image, [far, knee, inside], scene.steel, 3)


def _draw_phaco(scene: Scene) -> None:
    """Draw one thick sleeve, and the nucleus with its cross-shaped groove."""
    _disc(scene.image, scene.center, scene.eye.pupil * 0.75, (150.0, 105.0, 60.0))
    for turn in (0.0, np.pi / 2):
        ends = [
            _polar(scene.center, side * scene.eye.pupil * 0.7, scene.other + turn)
            for side in (-1, 1)
        ]
        _line(scene.image, ends, _SHADOW, 3)
    inside = scene.inside()
    far, near = _polar(scene.center, 200, scene.angle), _polar(inside, 9, scene.angle)
    _rod(scene.image, [far, near], scene.steel, 18)
    _rod(scene.image, [_polar(inside, 12, scene.angle), inside], scene.dark, 8)


def _draw_aspiration(scene: Scene) -> None:
    """Draw two slim tubes with blunt tips from two sides."""
    for at in (scene.angle, scene.other):
        tip = _polar(scene.center, scene.eye.pupil * (0.45 + 0.15 * scene.depth), at)
        _rod(scene.image, [_polar(scene.center, 200, at), tip], scene.steel, 7)
        _disc(scene.image, tip, 6, _SHADOW)


def _draw_implantation(scene: Scene) -> None:
    """Draw an injector's cone at the pupil's edge, and the lens with its haptics."""
    mouth = _polar(scene.center, scene.eye.pupil * 0.8, scene.angle)
    back = _polar(mouth, 60, scene.angle)
    left, right = scene.angle + np.pi / 2, scene.angle - np.pi / 2
    cone = [_polar(mouth, 3, left), _polar(mouth, 3, right)]
    _plate(scene.image, [*cone, _polar(back, 13, right), _polar(back, 13, left)], scene.steel)
    lens = _polar(scene.center, 5 * scene.depth, scene.other)
    _ring(scene.image, lens, scene.eye.pupil * 0.6, _PALE)
    for turn in (0.0, np.pi):
        haptic = [
            _polar(lens, scene.eye.pupil * r, turn + scene.time_s * 0.2 + r)
            for r in (0.55, 0.7, 0.8)
        ]
        _line(scene.image, haptic, _PALE, 2)


DRAW_PHASE = (
    _draw_idle,
    _draw_incision,
    _draw_capsulorhexis,
    _draw_phaco,
    _draw_aspiration,
    _draw_implantation,
)


def _polar(origin: Point, distance: float, angle: float) -> Point:
    return origin[0] + distance * float(np.cos(angle)), origin[1] + distance * float(np.sin(angle))


def _fixed(points: list[Point]) -> NDArray[np.int32]:
    return np.asarray(np.round(np.asarray(points) * 2**_SUBPIXEL), dtype=np.int32)


def _rod(image: Image, points: list[Point], color: Color, width: int) -> None:
    """Draw a metal part: a line with its shadow."""
    _line(image, points, _SHADOW, width + 3)
    _line(image, points, color, width)


def _line(image: Image, points: list[Point], color: Color, width: int) -> None:
    cv2.polylines(image, [_fixed(points)], False, color, width, cv2.LINE_AA, _SUBPIXEL)


def _plate(image: Image, points: list[Point], color: Color) -> None:
    """Draw a flat metal part: a polygon with its shadow."""
    _line(image, [*points, points[0]], _SHADOW, 3)
    cv2.fillPoly(image, [_fixed(points)], color, cv2.LINE_AA, _SUBPIXEL)


def _disc(image: Image, center: Point, radius: float, color: Color) -> None:
    _circle(image, center, radius, color, -1)


def _ring(image: Image, center: Point, radius: float, color: Color) -> None:
    _circle(image, center, radius, color, 3)


def _circle(image: Image, center: Point, radius: float, color: Color, width: int) -> None:
    (x, y), scale = _fixed([center])[0], 2**_SUBPIXEL
    cv2.circle(image, (int(x), int(y)), round(radius * scale), color, width, cv2.LINE_AA, _SUBPIXEL)


def draw_scene(
    eye: Eye, phase: int, hand: NDArray[np.float64], glint: float, time_s: float
) -> Image:
    """Draw the eye and the instruments of a phase, before the camera moves.

    Args:
        eye: The eye of the case.
        phase: Index into ``DRAW_PHASE``.
        hand: Sway and depth of the surgeon's hand, about -1 to 1.
        glint: Direction in which the lamp is mirrored, radians.
        time_s: Time since the start of the operation.

    Returns:
        RGB, (HEIGHT + 32, WIDTH + 32, 3).
    """
    image = eye.still.copy()
    center = (image.shape[1] / 2, image.shape[0] / 2)
    _disc(image, center, eye.pupil, (28.0, 14.0, 12.0))
    _disc(image, center, eye.pupil * 0.93, eye.reflex)
    sway, depth = (float(value) for value in hand)
    side, across = eye.side + 0.25 * sway, eye.side + np.pi * 0.75 + 0.2 * depth
    DRAW_PHASE[phase](Scene(image, eye, center, side, across, depth, time_s))
    for k in range(2):
        at = _polar(center, eye.pupil * (0.3 + 0.4 * k), glint + 2 * k)
        _disc(image, at, 2.2, (255.0, 255.0, 255.0))
    return image
