"""Describes the steps of ``pixels`` in plain values and words, for ``Transforms.steps``."""

from __future__ import annotations

from medsoft.data.transforms.base import Step


def numbers(windowed: bool) -> Step:
    """8 bits, or the values as they are where a window follows."""
    if windowed:
        return {"step": "to_float", "options": {}, "what": "the values as they are stored, as float32"}
    what = "8 bits stay; 16 bits are divided by 257 and rounded"
    return {"step": "to_uint8", "options": {}, "what": what}


def channels(count: int) -> Step:
    """See ``pixels.to_channels``."""
    grey, colour = (
        "colour to grey: 0.299 R + 0.587 G + 0.114 B",
        "grey to colour: the channel three times; order R, G, B",
    )
    return {"step": "to_channels", "options": {"channels": count}, "what": grey if count == 1 else colour}


def resizing(size: tuple[int, int], fit: str) -> Step:
    """See ``pixels.resize``."""
    how = "lie just inside" if fit == "pad" else "just cover"
    return {
        "step": "resize",
        "options": {"height": size[0], "width": size[1], "fit": fit},
        "what": f"both axes by the same factor, to {how} {size[0]} x {size[1]} (height x width), sides rounded; "
        "shrinking averages over the area of each new pixel (anti-aliased), enlarging is bilinear between pixel "
        "centres; 8 bits are rounded",
    }


def windowing(percentiles: tuple[float, float]) -> Step:
    """See ``pixels.window``."""
    low, high = percentiles
    return {
        "step": "window",
        "options": {"low": float(low), "high": float(high)},
        "what": f"the percentiles {low:g} and {high:g} of all values become 0 and 255, linearly; cut off, rounded",
    }


def centring(size: tuple[int, int]) -> Step:
    """See ``pixels.centre``."""
    return {
        "step": "centre",
        "options": {"height": size[0], "width": size[1]},
        "what": f"padded with 0, or cropped, evenly on both sides to {size[0]} x {size[1]}; of an odd pixel the second "
        "side gets it",
    }
