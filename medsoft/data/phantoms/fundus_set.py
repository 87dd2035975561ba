"""Writes a folder of fundus phantoms: the images, their sample table, and a note on what they are."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from medsoft.errors import InputError, check_range

TABLE = "labels.csv"
NEGATIVE, POSITIVE = "healthy", "lesions"
EYES_DIFFER = 0.15  # share of patients with lesions in one eye only
README = """\
PHANTOMS, not photographs: a program drew these pictures, and no eye, patient or camera stands behind them.
They are for trying software. What a model learns from them says nothing about real eyes.

Drawn with: {command}

{table} has one row per image:
  path       relative to this folder
  label      {negative} or {positive} (microaneurysms, haemorrhages, exudates)
  patient    the two eyes of a patient share it, and mostly share the label
  eye        left or right
  site       the camera, A, B or C: they differ in size, framing and colour
  n_lesions  how many were drawn
  phantom    yes: pictures made from this table say so

Mean colour, brightness, vessels and artefacts are drawn without regard to the label.
The spread of the colours is not: lesions add contrast, so the task is easier than it looks.
"""


@dataclass(frozen=True)
class Sample:
    """A row of the table."""

    path: str
    label: str
    patient: str
    eye: str
    site: str
    n_lesions: int
    phantom: str = "yes"  # every picture drawn from a table with this column says what it shows


def phantom_fundus(out: str, n: int = 200, seed: int = 0, lesions: float = 1.0) -> None:
    """Draw phantom fundus photographs, half of them with lesions, and write their sample table.

    A photograph depends on the seed and its number alone, so a larger set begins with the smaller one.

    Args:
        out: Folder to write, new or empty.
        n: Number of photographs, two per patient.
        seed: Another seed draws other patients.
        lesions: Fraction of the usual number of lesions; with 0.3 they are few, and the contrast hardly tells them.

    Raises:
        InputError: a number is out of range, or the folder is not empty or cannot be written.
    """
    if n < 1:
        raise InputError(f"--n {n}: at least 1 photograph is needed")
    if seed < 0:
        raise InputError(f"--seed {seed}: a seed is 0 or more")
    check_range("lesions", lesions, 0.05, 1)
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(f"--out {out} is not empty: name a new or empty folder, so that nothing is overwritten")
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
            _write(Path(partial), n, seed, lesions)
            for name in ("images", "README.txt", TABLE):  # the table last: where it is, the rest is complete
                (Path(partial) / name).rename(folder / name)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror or error}") from error
    print(f"Wrote {n} phantom fundus photographs to {folder}; their table is {folder / TABLE}")


def has_lesions(seed: int, index: int) -> bool:
    """Whether a photograph is a positive: exactly two of every four (two patients) are."""
    from medsoft.data.phantoms.seeds import Purpose, stream

    pair, member = divmod(index // 2, 2)
    rng = stream(seed, Purpose.LABEL, pair)
    ill_member, other_eye, differ = rng.integers(2), rng.integers(2), rng.random() < EYES_DIFFER
    ill = bool(member == ill_member)
    return not ill if differ and index % 2 == other_eye else ill


def _write(folder: Path, n: int, seed: int, lesions: float) -> None:
    (folder / "images").mkdir()
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Sample)], lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(sample) for sample in _draw(folder, n, seed, lesions))
    command = f"medsoft data phantom fundus --n {n} --seed {seed}" + (f" --lesions {lesions:g}" if lesions < 1 else "")
    readme = README.format(command=command, table=TABLE, negative=NEGATIVE, positive=POSITIVE)
    (folder / "README.txt").write_text(readme, encoding="utf-8")


def _draw(folder: Path, n: int, seed: int, amount: float) -> Iterator[Sample]:
    """Draw and save one photograph after the other."""
    from PIL import Image

    from medsoft.data.phantoms.fundus import CAMERAS, draw_fundus
    from medsoft.data.phantoms.seeds import Purpose, stream

    for index in range(n):
        patient, lesions = index // 2, has_lesions(seed, index)
        site = str(stream(seed, Purpose.CAMERA, patient).choice(sorted(CAMERAS)))
        phantom = draw_fundus(seed, index, camera=CAMERAS[site], lesions=lesions, amount=amount)
        path = f"images/phantom_{index:04d}.jpg"
        Image.fromarray(phantom.image).save(folder / path, quality=95)
        label = POSITIVE if lesions else NEGATIVE
        yield Sample(path, label, f"P{patient:04d}", phantom.eye, site, phantom.n_lesions)
