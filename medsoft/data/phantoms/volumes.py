"""Phantom volumes: dynamic MR of both breasts, a few thousand voxels each, as NIfTI."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from medsoft.data.phantoms.seeds import Purpose, stream
from medsoft.errors import InputError

TABLE = "labels.csv"
PHASES = ("pre", "post1", "post2")
SIDES = ("left", "right")
SHAPES = {"A": (52, 36, 30), "B": (44, 32, 40)}
SPACINGS_MM = {"A": (4.0, 4.0, 4.0), "B": (4.8, 4.4, 3.0)}
TURNED_DEGREES = {"A": 0.0, "B": 12.0}
README = """\
PHANTOMS, not scans: a program drew these volumes, and no patient or scanner stands behind them.
They are for trying software. What a model learns from them says nothing about real breasts.

Drawn with: {command}

{table} has one row per breast, two to a patient, whose volume shows both:
  path_pre, path_post1, path_post2   phases before and after a contrast agent
  laterality  left or right
  label       healthy or lesion
  lesion_mm3  volume of the lesion, 0 where there is none
  age         in years, empty for one patient in eight; drawn without regard to the label
  patient, exam   the two breasts of a patient share them
  site        the scanner, A or B: they differ in matrix, spacing and orientation
  phantom     yes: pictures made from this table say so
"""


@dataclass(frozen=True)
class Sample:
    """A row of the table."""

    path_pre: str
    path_post1: str
    path_post2: str
    laterality: str
    label: str
    lesion_mm3: float
    age: str
    patient: str
    exam: str
    site: str
    phantom: str = "yes"  # every picture drawn from a table with this column says what it shows


def phantom_volumes(out: str, n: int = 48, seed: int = 0) -> None:
    """Draw phantom MR volumes of the breasts in three phases as NIfTI, and write their sample table.

    A volume depends on the seed and its number alone, so a larger set begins with the smaller one.

    Args:
        out: Folder to write, new or empty.
        n: Number of breasts, two per patient; one patient in two has a lesion, or one on each side.
        seed: Another seed draws other patients.

    Raises:
        InputError: a number is out of range, or the folder is not empty or cannot be written.
    """
    if n < 2 or n % 2:
        raise InputError(f"--n {n}: two breasts for each patient are needed")
    if seed < 0:
        raise InputError(f"--seed {seed}: a seed is 0 or more")
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(f"--out {out} is not empty: name a new or empty folder, so that nothing is overwritten")
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
            _write(Path(partial), n, seed)
            for name in ("volumes", "README.txt", TABLE):  # the table last: where it is, the rest is complete
                (Path(partial) / name).rename(folder / name)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror or error}") from error
    print(f"Wrote {n // 2} phantom volumes of {n} breasts to {folder}; their table is {folder / TABLE}")


def _write(folder: Path, n: int, seed: int) -> None:
    (folder / "volumes").mkdir()
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Sample)], lineterminator="\n")
        table.writeheader()
        for patient in range(n // 2):
            table.writerows(asdict(sample) for sample in _draw(folder, patient, seed))
    command = f"medsoft data phantom volumes --n {n} --seed {seed}"
    (folder / "README.txt").write_text(README.format(command=command, table=TABLE), encoding="utf-8")


def _draw(folder: Path, patient: int, seed: int) -> Iterator[Sample]:
    """Draw and save one patient's three phases; gives the rows of the two breasts."""
    import nibabel

    rng = stream(seed, Purpose.VOLUME_PATIENT, patient)
    site = str(rng.choice(list(SHAPES)))
    age, unknown = int(rng.integers(30, 80)), rng.random() < 1 / 8
    ill = ill_sides(seed, patient)
    affine = affine_of(site)
    phases, lesions_mm3 = draw_breasts(seed, patient, site, affine, ill)
    paths = []
    for name, array in zip(PHASES, phases, strict=True):
        paths.append(f"volumes/phantom_{patient:04d}_{name}.nii.gz")
        image: Any = nibabel.Nifti1Image
        nibabel.save(image(array.astype(np.int16), affine), folder / paths[-1])
    about = (str(age) if not unknown else "", f"P{patient:04d}", f"E{patient:04d}", site)
    for side, name in enumerate(SIDES):
        label = "lesion" if ill[side] else "healthy"
        pre, post1, post2 = paths
        yield Sample(pre, post1, post2, name, label, round(lesions_mm3[side], 1), *about)


def ill_sides(seed: int, patient: int) -> tuple[bool, bool]:
    """Whether the left and the right breast have a lesion: those of one of every two patients, in a third both."""
    pair, member = divmod(patient, 2)
    rng = stream(seed, Purpose.VOLUME_LABEL, pair)
    ill_member, side, both = int(rng.integers(2)), int(rng.integers(2)), rng.random() < 1 / 3
    if member != ill_member:
        return False, False
    return both or side == 0, both or side == 1


def affine_of(site: str) -> np.ndarray:
    """Of a scanner's volumes, (4, 4) to mm in RAS+: of A along the body, of B turned about two axes and mirrored."""
    angle = np.deg2rad(TURNED_DEGREES[site])
    about_z = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    about_x = np.array(
        [[1, 0, 0], [0, np.cos(angle / 2), -np.sin(angle / 2)], [0, np.sin(angle / 2), np.cos(angle / 2)]]
    )
    directions = about_z @ about_x @ np.diag([1.0, 1.0, 1.0] if site == "A" else [-1.0, -1.0, 1.0])
    affine = np.eye(4)
    affine[:3, :3] = directions * SPACINGS_MM[site]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(SHAPES[site]) - 1) / 2)
    return affine


def draw_breasts(
    seed: int, patient: int, site: str, affine: np.ndarray, ill: tuple[bool, bool]
) -> tuple[list[np.ndarray], list[float]]:
    """Three phases (X, Y, Z), and the volume of the lesion in each breast (left, right) in mm³."""
    from scipy.ndimage import gaussian_filter

    shape = SHAPES[site]
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    place_mm = index @ affine[:3, :3].T + affine[:3, 3]
    noise = stream(seed, Purpose.VOLUME_NOISE, patient)
    texture = gaussian_filter(noise.normal(size=shape), 1.5)
    pre = np.full(shape, 5.0)
    gain = [np.ones(shape), np.ones(shape)]  # of the later phases
    pre[_ellipsoid(place_mm, (0, -75, 0), (110, 62, 400)) < 1] = 160.0
    lesions_mm3 = []
    for side in range(2):
        rng = stream(seed, Purpose.VOLUME_BREAST, patient, side)
        x = (-46 if side == 0 else 46) * rng.uniform(0.9, 1.1)
        radii = np.array([38, 62, 42]) * rng.uniform(0.85, 1.1)
        inside = (_ellipsoid(place_mm, (x, -22, 0), radii) < 1) & (place_mm[..., 1] > -22)
        gland = inside & (_ellipsoid(place_mm, (x, -5, 0), radii * 0.6) < 1) & (texture > np.median(texture[inside]))
        pre[inside], pre[gland] = 320.0, 190.0
        for later, factor in zip(gain, (1.15, 1.25), strict=True):
            later[gland] = factor
        lesion = np.zeros(shape, bool)
        if ill[side]:
            centre = np.array([x, 0, 0]) + rng.uniform(-12, 12, 3)
            lesion = _ellipsoid(place_mm, centre, rng.uniform(7, 13) * rng.uniform(0.8, 1.2, 3)) < 1
            pre[lesion] = 180.0
            gain[0][lesion], gain[1][lesion] = 2.2, 1.9
        lesions_mm3.append(float(lesion.sum() * abs(np.linalg.det(affine[:3, :3]))))
    coil = np.exp(0.25 * np.tanh(place_mm[..., 1] / 60) + 0.1 * gaussian_filter(noise.normal(size=shape), 8) * 8)
    ideal = [pre, *(pre * later for later in gain)]
    return [
        np.hypot(phase * coil + noise.normal(0, 6, shape), noise.normal(0, 6, shape)) for phase in ideal
    ], lesions_mm3


def _ellipsoid(place_mm: np.ndarray, centre_mm: object, radii_mm: object) -> np.ndarray:
    """Below 1 inside."""
    scaled = (place_mm - np.asarray(centre_mm)) / np.asarray(radii_mm)
    distance: np.ndarray = (scaled**2).sum(axis=-1)
    return distance
