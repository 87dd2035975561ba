"""Converts units of length, as headers write them, to mm."""

from __future__ import annotations

_MM_OF = {
    "m": 1000.0, "meter": 1000.0, "metre": 1000.0,
    "cm": 10.0, "centimeter": 10.0, "centimetre": 10.0,
    "mm": 1.0, "millimeter": 1.0, "millimetre": 1.0,
    "µm": 1e-3, "um": 1e-3, "micron": 1e-3, "micrometer": 1e-3, "micrometre": 1e-3,
    "nm": 1e-6, "nanometer": 1e-6, "nanometre": 1e-6,
    "in": 25.4, "inch": 25.4,
}  # fmt: skip


def mm_of(unit: str) -> float | None:
    """How many mm a unit of length is; None where it is none.

    Args:
        unit: such as ``mm``, ``micron``, ``µm`` or ``um``, singular or plural, in small or capital letters.
    """
    name = unit.strip().replace("\u03bc", "\u00b5")  # the Greek letter for the sign of the unit
    if name not in _MM_OF:
        name = name.lower()
    if name not in _MM_OF:
        name = {"inches": "inch"}.get(name, name.removesuffix("s"))
    return _MM_OF.get(name)
