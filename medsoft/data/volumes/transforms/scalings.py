"""Names and limits of how intensities are scaled, for whoever does not read volumes: MONAI takes seconds to import."""

from __future__ import annotations

WINDOW = (-160.0, 240.0)
"""Of CT in HU, where nobody says another: soft tissue."""

OF_SLICES = "picture"
"""``transforms.intensity`` for slices that an encoder of pictures sees: between black and white."""

SHOWS_PICTURES = (OF_SLICES, "window", "percentiles")
"""Scalings under which a volume's values lie between black and white."""
