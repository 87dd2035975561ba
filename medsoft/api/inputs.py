"""What a model may be given in Python, as the table and words that the verbs take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from medsoft.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    Inputs: TypeAlias = str | Path | "np.ndarray" | "pd.DataFrame" | Sequence[str | Path] | Sequence["np.ndarray"]
else:
    Inputs = Any

TABLES = (".csv", ".xlsx")
# Of a table that is made here, which has files and nothing else.
FILES_ALONE = {"path": "path", "root": None, "id": None, "patient": None, "exam": None, "site": None}


@dataclass(frozen=True)
class Given:
    """What was given.

    Attributes:
        words: options of ``medsoft predict`` that name the samples.
        slides: files for ``medsoft slides predict`` in their place.
    """

    words: list[str]
    slides: tuple[str, ...] = ()


def table_of(inputs: Inputs, folder: Path, kind: str) -> Given:
    """The words that name some samples.

    Args:
        inputs: a table's file, a DataFrame, files, or arrays; one file or array is one sample.
        folder: where a table and the files of arrays are written.
        kind: what the model takes: ``image``, ``volume`` or ``bag``.

    Raises:
        InputError: there is nothing, or an array is no sample of this kind.
    """
    import numpy as np
    import pandas as pd

    from medsoft.data.features.names import is_bag_name

    if isinstance(inputs, pd.DataFrame):
        table = folder / "samples.csv"
        inputs.to_csv(table, index=False)
        return Given([f"--data.table={table}", f"--data.root={Path.cwd()}"])
    if isinstance(inputs, str | Path) and Path(inputs).suffix.lower() in TABLES:
        return Given([f"--data.table={inputs}"])
    alone = isinstance(inputs, str | Path | np.ndarray)
    samples: list[Any] = [inputs] if alone else list(inputs)  # type: ignore[arg-type]
    if not samples:
        raise InputError("there is no sample: give files, arrays or a table")
    arrays = [isinstance(sample, np.ndarray) for sample in samples]
    if any(arrays) and not all(arrays):
        raise InputError("files and arrays together: give either")
    if all(arrays):
        files = [_write(array, folder / f"{number:06d}", kind) for number, array in enumerate(samples)]
    else:
        files = [str(Path(sample).absolute()) for sample in samples]
        if missing := [file for file in files if not Path(file.partition("#")[0]).exists()]:
            raise InputError(f"{missing[0]}: no such file" + (f" ({len(missing)} are missing)" if missing[1:] else ""))
        if kind == "bag" and not any(is_bag_name(file) for file in files) and not _are_images(files):
            return Given([], tuple(files))
    table = folder / "samples.csv"
    pd.DataFrame({"path": files}).to_csv(table, index=False)
    words = [f"--data.{name}={'null' if value is None else value}" for name, value in FILES_ALONE.items()]
    return Given([f"--data.table={table}", *words])


def _are_images(files: Sequence[str]) -> bool:
    """Whether these are pictures, which a probe on images encodes first, and no whole slides."""
    return all(file.lower().endswith((".png", ".jpg", ".jpeg", ".bmp")) for file in files)


def _write(array: np.ndarray, stem: Path, kind: str) -> str:
    """Write an array without loss; gives what names it in a table."""
    import numpy as np
    from PIL import Image

    if kind == "volume":
        if array.ndim != 3:
            raise InputError(f"an array of shape {array.shape}: a volume is (X, Y, Z)")
        np.savez(stem.with_suffix(".npz"), volume=array[None])
        return f"{stem.with_suffix('.npz')}#volume/0"
    if array.dtype.kind == "f":
        if kind != "bag" or array.ndim != 2:
            raise InputError(
                f"an array of {array.dtype} of shape {array.shape}: images are uint8 or uint16, bags of features (N, F)"
            )
        np.save(stem.with_suffix(".npy"), array.astype(np.float32))
        return str(stem.with_suffix(".npy"))
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3) or array.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"an array of {array.dtype} of shape {array.shape}: images are (H, W), (H, W, 1) or (H, W, 3), uint8 or "
            "uint16 (of one channel)"
        )
    pixels = array[:, :, 0] if channels == 1 and array.ndim == 3 else array
    if pixels.dtype == np.uint16 and channels == 3:
        raise InputError("an array of uint16 with 3 channels: PNG files hold 16 bits of one channel; write a TIFF file")
    Image.fromarray(pixels).save(stem.with_suffix(".png"))
    return str(stem.with_suffix(".png"))
