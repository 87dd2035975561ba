"""Draws one fundus photograph of an invented eye.

A right eye is drawn (optic disc to the right of the fovea); a left eye is its mirror image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medsoft.data.phantoms.drawing import Canvas, Floats, Points
from medsoft.data.phantoms.seeds import Purpose, stream
from medsoft.data.phantoms.vessels import grow_vessels

Eye = Literal["left", "right"]
RGB = tuple[float, float, float]

FAINTEST = 1 / 255  # what covers less of a pixel is not seen: most structures are small, and drawing them stays fast

# What a structure leaves of the light in red, green and blue.
VEIN: RGB = (0.78, 0.52, 0.62)
ARTERY: RGB = (0.94, 0.64, 0.66)
MACULA: RGB = (0.72, 0.58, 0.62)
BLOOD: RGB = (0.52, 0.20, 0.34)
NAEVUS: RGB = (0.66, 0.74, 0.84)
DUST: RGB = (0.70, 0.70, 0.70)
# The colour of what is paler than the retina.
DISC: RGB = (0.98, 0.66, 0.34)
CUP: RGB = (1.00, 0.84, 0.56)
EXUDATE: RGB = (1.00, 0.86, 0.36)
SHEEN: RGB = (0.85, 0.66, 0.52)


@dataclass(frozen=True)
class Camera:
    """What the camera of a clinic does to every photograph.

    Attributes:
        height, width: of the photograph, in pixels.
        field: radius of the field of view as a share of the height; above 0.5 its top and bottom are cut off.
        tint: factor on red, green and blue.
    """

    height: int
    width: int
    field: float
    tint: RGB


CAMERAS = {
    "A": Camera(height=240, width=320, field=0.47, tint=(1.00, 1.00, 1.00)),
    "B": Camera(height=256, width=384, field=0.56, tint=(1.04, 0.97, 0.88)),
    "C": Camera(height=288, width=300, field=0.48, tint=(0.97, 1.03, 1.12)),
}


@dataclass(frozen=True)
class FundusPhantom:
    """A drawn photograph and where its parts lie.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        field: bool (H, W), the round field of view.
        vessels: bool (H, W), pixels that arteries or veins cover at least by half.
        lesions: bool (H, W), likewise.
        eye: ``left`` or ``right``.
        n_lesions: how many were drawn.
    """

    image: NDArray[np.uint8]
    field: NDArray[np.bool_]
    vessels: NDArray[np.bool_]
    lesions: NDArray[np.bool_]
    eye: Eye
    n_lesions: int


def draw_fundus(seed: int, index: int, *, camera: Camera, lesions: bool, amount: float = 1.0) -> FundusPhantom:
    """Draw one photograph; the same arguments give the same pixels.

    Photographs 0 and 1 are the left and the right eye of patient 0, and so on: they share their pigment.
    With or without lesions, a seed and an index give the same eye, vessels and artefacts, and the same mean colour
    of the field of view: every channel is scaled to a mean that is drawn without regard to the lesions.

    Args:
        seed: of the whole set.
        index: of the photograph.
        camera: size, framing and colour.
        lesions: whether to draw microaneurysms, haemorrhages and exudates.
        amount: how many, as a share of the usual number; at least one.
    """
    patient, right = divmod(index, 2)
    anatomy, optics = stream(seed, Purpose.ANATOMY, index), stream(seed, Purpose.OPTICS, index)

    radius_px = camera.field * camera.height * optics.uniform(0.97, 1.0)
    centre_px = np.array([camera.width, camera.height]) / 2 + optics.normal(0, 0.012 * camera.height, 2)
    canvas = Canvas(camera.height, camera.width, (centre_px[0], centre_px[1]), radius_px)
    field = canvas.field()

    disc = anatomy.normal((0.45, 0.0), (0.03, 0.04))
    fovea = disc + anatomy.normal((-0.62, 0.06), (0.03, 0.02))
    pigment = _pigment(stream(seed, Purpose.PIGMENT, patient))
    light = _retina(canvas, pigment, disc, fovea, anatomy)
    veins = canvas.lines(*grow_vessels(anatomy, disc, fovea, width=0.027))
    arteries = canvas.lines(*grow_vessels(anatomy, disc, fovea, width=0.020))
    _absorb(light, veins, VEIN)
    _absorb(light, arteries, ARTERY)
    _draw_artefacts(light, canvas, stream(seed, Purpose.ARTEFACTS, index))
    blood: list[Points] = []
    exudates: list[Points] = []
    if lesions:
        blood, exudates = _lesion_outlines(disc, fovea, stream(seed, Purpose.LESIONS, index), amount)
    bleeding, exudation = canvas.polygons(blood), canvas.polygons(exudates)
    _absorb(light, bleeding, BLOOD)
    _shine(light, exudation, EXUDATE)

    image = _photograph(light, field, pigment, canvas, camera, optics)
    parts = [image, field, np.maximum(veins, arteries), np.maximum(bleeding, exudation)]
    if not right:
        parts = [np.ascontiguousarray(part[:, ::-1]) for part in parts]
    image, field, vessel_share, lesion_share = parts
    return FundusPhantom(
        image=_say_phantom(np.rint(image * 255).astype(np.uint8)),
        field=field > 0.5,
        vessels=(vessel_share >= 0.5) & (field > 0.5),
        lesions=lesion_share >= 0.5,
        eye="right" if right else "left",
        n_lesions=len(blood) + len(exudates),
    )


def _pigment(rng: np.random.Generator) -> Floats:
    """Mean colour of a patient's retina, (3,): from pale orange to dark brown."""
    pale, dark = np.array([0.72, 0.37, 0.18]), np.array([0.58, 0.26, 0.13])
    colour: Floats = (dark + rng.uniform() * (pale - dark)).astype(np.float32)
    return colour


def _absorb(light: Floats, share: Floats, left: RGB) -> None:
    """Darken ``light`` (H, W, 3) in place to ``left`` of it where ``share`` (H, W) is 1."""
    here = share > FAINTEST
    light[here] *= 1 - share[here, None] * (1 - np.asarray(left, np.float32))


def _shine(light: Floats, share: Floats, colour: RGB) -> None:
    """Turn ``light`` (H, W, 3) in place into ``colour`` where ``share`` (H, W) is 1."""
    here = share > FAINTEST
    light[here] += share[here, None] * (np.asarray(colour, np.float32) - light[here])


def _retina(canvas: Canvas, pigment: Floats, disc: Points, fovea: Points, rng: np.random.Generator) -> Floats:
    """Mottled background with macula and optic disc, (H, W, 3)."""
    mottle = 0.04 * canvas.clouds(rng, 9) + 0.025 * canvas.clouds(rng, 40)
    light: Floats = pigment * (1 + mottle[..., None] * np.array([0.6, 1.0, 1.0], np.float32))
    _absorb(light, 0.5 * canvas.spot(fovea, 0.22), MACULA)
    _absorb(light, 0.8 * canvas.spot(fovea, rng.uniform(0.05, 0.08)), MACULA)
    radius = rng.uniform(0.11, 0.14)
    _shine(light, 0.35 * canvas.spot(disc, 1.5 * radius), DISC)  # the nerve fibres around the disc
    _shine(light, 0.95 * canvas.polygons([_outline(rng, disc, radius, 0.04)]), DISC)
    cup = disc + rng.normal((-0.02, 0), 0.01)
    _shine(light, 0.9 * canvas.spot(cup, radius * rng.uniform(0.25, 0.5)), CUP)
    return light


def _draw_artefacts(light: Floats, canvas: Canvas, rng: np.random.Generator) -> None:
    """What is no lesion and looks a little like one: dust, a freckle, the sheen of nerve fibres."""
    for _ in range(rng.integers(1, 6)):
        _absorb(light, rng.uniform(0.4, 1.0) * canvas.spot(_place(rng), rng.uniform(0.02, 0.05)), DUST)
    for _ in range(rng.integers(0, 2)):
        _absorb(light, rng.uniform(0.5, 1.0) * canvas.spot(_place(rng), rng.uniform(0.05, 0.09), 1.3), NAEVUS)
    for _ in range(rng.integers(1, 6)):
        share = rng.uniform(0.15, 0.4) * canvas.spot(_place(rng), 0.02, rng.uniform(2, 5), rng.uniform(0, math.pi))
        _shine(light, share, SHEEN)


def _lesion_outlines(
    disc: Points, fovea: Points, rng: np.random.Generator, amount: float
) -> tuple[list[Points], list[Points]]:
    """Outlines of what bleeds (microaneurysms, blots) and of exudates, in clusters; more where it is severe."""
    severity = rng.uniform(0.3, 1.0)

    def place() -> Points:
        while True:
            point = _place(rng)
            if np.hypot(*(point - disc)) > 0.2 and np.hypot(*(point - fovea)) > 0.06:
                return point

    dots = [_outline(rng, place(), rng.uniform(0.010, 0.018), 0.0) for _ in range(rng.poisson(14 * severity * amount))]
    n_blots = max(1, round(3 * amount)) + rng.poisson(9 * severity * amount)
    blots = [_outline(rng, place(), rng.uniform(0.026, 0.060), 0.3) for _ in range(n_blots)]
    exudates = []
    for _ in range(round(amount) + rng.poisson(2 * severity * amount)):
        centre = place()
        for _ in range(rng.integers(4, 14)):
            exudates.append(_outline(rng, centre + rng.normal(0, 0.06, 2), rng.uniform(0.012, 0.036), 0.2))
    return dots + blots, exudates


def _place(rng: np.random.Generator) -> Points:
    """A point of the field of view, not at its very edge."""
    distance, angle = 0.85 * math.sqrt(rng.uniform()), rng.uniform(0, 2 * math.pi)
    return distance * np.array([math.cos(angle), math.sin(angle)])


def _outline(rng: np.random.Generator, centre: Points, radius: float, roughness: float) -> Points:
    """A closed outline (K, 2) around ``centre``, its radius varying by about the share ``roughness``."""
    angle = np.linspace(0, 2 * math.pi, 24, endpoint=False)
    waves = [rng.normal() * np.cos(k * angle + rng.uniform(0, 2 * math.pi)) / k for k in (1, 2, 3)]
    distance = radius * np.clip(1 + roughness * np.sum(waves, axis=0), 0.4, 1.8)
    outline: Points = centre + distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return outline


def _photograph(
    light: Floats, field: Floats, pigment: Floats, canvas: Canvas, camera: Camera, rng: np.random.Generator
) -> Floats:
    """Light the retina, expose, blur and add noise: (H, W, 3) within 0 to 1."""
    slope_x, slope_y = rng.normal(0, 0.06), rng.normal(0, 0.06)
    vignette = 1 - rng.uniform(0.15, 0.40) * (canvas.x**2 + canvas.y**2)
    lit = light * np.clip(vignette + slope_x * canvas.x + slope_y * canvas.y, 0.2, None)[..., None]
    lit = cv2.GaussianBlur(lit, (0, 0), rng.uniform(0.4, 0.8)) * field[..., None]

    exposure = np.exp(rng.normal(0, 0.08) + rng.normal(0, 0.04, 3))
    mean = 0.85 * pigment * camera.tint * exposure
    weight = (field / field.sum()).ravel()
    for _ in range(3):  # clipping what is too bright takes some of the mean away again
        now = weight @ lit.reshape(-1, 3)
        lit = np.clip(lit * (mean / now).astype(np.float32), 0, 1)

    grain = rng.standard_normal(lit.shape, np.float32)
    noise = rng.uniform(0.01, 0.025) * cv2.GaussianBlur(grain, (0, 0), 0.6) / 0.5
    image: Floats = np.clip(lit + 0.012 + noise * (0.15 + 0.85 * field[..., None]), 0, 1)
    return image


def _say_phantom(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Write PHANTOM into the black corner."""
    picture = Image.fromarray(image)
    ImageDraw.Draw(picture).text((2, 1), "PHANTOM", fill=(90, 90, 90), font=ImageFont.load_default(size=9))
    return np.asarray(picture)
