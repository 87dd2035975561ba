"""Prepares an image with NumPy and Pillow alone: the functions that a bundle's ``run_onnx.py`` contains.

Each stands by itself, so that its text can be copied into the script; none may use anything else of medsoft. They do
what ``medsoft.data.images.read`` and ``medsoft.data.transforms`` do with OpenCV, up to one grey level in rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageOps


def read(file: str) -> Any:
    """A picture upright, (H, W, 1) grey or (H, W, 3) RGB, uint8 or uint16; transparent parts on white."""
    with Image.open(file, formats=("PNG", "JPEG", "BMP", "PPM", "WEBP")) as picture:
        deep = picture.format == "PNG" and picture.mode[:3] == "RGB" and "16" in str([t[3] for t in picture.tile])
        if deep or (picture.format != "MPO" and getattr(picture, "is_animated", False)):
            raise SystemExit(f"{file}: 16 bits of colour and several pictures in a file are not read here")
        picture.load()
        found: Any = ImageOps.exif_transpose(picture)
    if found.has_transparency_data:
        found = found.convert("RGBA" if found.mode in ("P", "PA", "RGB", "RGBA", "RGBa") else "LA")
        values = np.asarray(found).astype(np.float32)
        opacity = values[..., -1:] / 255
        return np.rint(values[..., :-1] * opacity + 255 * (1 - opacity)).astype(np.uint8)
    found = found.convert({"1": "L", "I": "I;16", "L": "L", "I;16": "I;16", "I;16B": "I;16"}.get(found.mode, "RGB"))
    values = np.asarray(found)
    return values[..., None] if values.ndim == 2 else values


def to_uint8(image: Any) -> Any:
    """16 bits to 8: divided by 257 and rounded."""
    return image if image.dtype == np.uint8 else ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def to_float(image: Any) -> Any:
    """The values as they are, for a window between percentiles."""
    return image.astype(np.float32)


def to_channels(image: Any, channels: int) -> Any:
    """Colour to grey by luminance, grey to colour by repetition."""
    if image.shape[2] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    if image.dtype == np.uint8:  # in whole numbers, as OpenCV does
        return ((image.astype(np.int64) @ np.array([9798, 19235, 3735]) + 16384) >> 15).astype(np.uint8)[..., None]
    return (image @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]


def areas(given: int, wanted: int) -> Any:
    """(wanted, given): each new pixel is the mean over its area."""
    new, old = np.arange(wanted)[:, None], np.arange(given)[None]
    overlap = np.minimum((new + 1) * given / wanted, old + 1) - np.maximum(new * given / wanted, old)
    weights = np.clip(overlap, 0, None)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def neighbours(given: int, wanted: int) -> Any:
    """Of each new pixel the two old ones beside its centre, and the share of the second."""
    place = np.clip((np.arange(wanted) + 0.5) * given / wanted - 0.5, 0, given - 1)
    first = np.minimum(place.astype(int), max(given - 2, 0))
    return first, np.minimum(first + 1, given - 1), (place - first).astype(np.float32)


def enlarge(image: Any, rows: int, columns: int) -> Any:
    """Bilinear; of 8 bits with weights in 2048ths, as OpenCV does."""
    top, bottom, down = neighbours(image.shape[0], rows)
    left, right, across = neighbours(image.shape[1], columns)
    down, across = down[:, None, None], across[None, :, None]
    if image.dtype != np.uint8:
        wide = image[:, left] * (1 - across) + image[:, right] * across
        return wide[top] * (1 - down) + wide[bottom] * down
    (upper, lower), (near, far) = (np.rint(np.stack([1 - w, w]) * 2048).astype(np.int64) for w in (down, across))
    wide = (image[:, left] * near + image[:, right] * far) >> 4
    return (((upper * wide[top] >> 16) + (lower * wide[bottom] >> 16) + 2) >> 2).astype(np.uint8)


def resize(image: Any, height: int, width: int, fit: str) -> Any:
    """Scale by one factor to lie just inside height x width (pad) or to cover it (crop), anti-aliased."""
    ratios = [height / image.shape[0], width / image.shape[1]]
    factor = min(ratios) if fit == "pad" else max(ratios)
    rows, columns = (max(1, round(side * factor)) for side in image.shape[:2])
    if (rows, columns) == image.shape[:2]:
        return image
    if factor >= 1:
        return enlarge(image, rows, columns)
    down, across = areas(image.shape[0], rows), areas(image.shape[1], columns)
    scaled = np.stack([down @ image[..., c].astype(np.float32) @ across.T for c in range(image.shape[2])], axis=-1)
    if image.dtype != np.uint8:
        return scaled
    halved = image.shape[:2] == (2 * rows, 2 * columns)  # where OpenCV rounds halves up
    return np.clip(np.floor(scaled + 0.5) if halved else np.rint(scaled), 0, 255).astype(np.uint8)


def window(image: Any, low: float, high: float) -> Any:
    """Two percentiles of the values become black and white; what lies beyond is cut off."""
    black, white = np.percentile(image, (low, high)).astype(np.float32)
    if white <= black:
        return np.zeros(image.shape, np.uint8)
    return np.clip(np.rint((image - black) / (white - black) * 255), 0, 255).astype(np.uint8)


def shades_of_grey(image: Any, power: float) -> Any:
    """Scale the channels so that the colour of the light (its Minkowski mean) becomes grey."""
    light = np.mean((image / 255.0) ** power, axis=(0, 1)) ** (1 / power)
    if light.min() == 0:
        return image
    return np.clip(np.rint(image * (np.linalg.norm(light) / (np.sqrt(3) * light))), 0, 255).astype(np.uint8)


def largest_part(lit: Any) -> Any:
    """The largest connected part (8 neighbours) of a mask."""
    best, rest = np.zeros_like(lit), lit.copy()
    while rest.sum() > best.sum():
        part = np.zeros_like(lit)
        part.flat[rest.argmax()] = True
        size = 0
        while part.sum() > size:
            size = part.sum()
            wide = np.pad(part, 1)
            wide = wide[:-2] | wide[1:-1] | wide[2:]
            part = (wide[:, :-2] | wide[:, 1:-1] | wide[:, 2:]) & rest
        rest &= ~part
        best = part if size > best.sum() else best
    return best


def crop_to_disc(image: Any, search: int, threshold: float) -> Any:
    """Cut to the box of the largest part brighter than a share of the 99th percentile of max(R, G, B)."""
    small = resize(image, search, search, "pad") if max(image.shape[:2]) > search else image
    brightness = small.max(axis=2)
    part = largest_part(brightness > threshold * np.percentile(brightness, 99))
    if not part.any():
        return image
    (top, bottom), (left, right) = (np.flatnonzero(part.any(axis=axis))[[0, -1]] for axis in (1, 0))
    y, x = image.shape[0] / small.shape[0], image.shape[1] / small.shape[1]
    return image[int(top * y) : round((bottom + 1) * y), int(left * x) : round((right + 1) * x)]


def centre(image: Any, height: int, width: int) -> Any:
    """Pad with black, or crop, each axis evenly."""
    result = np.zeros((height, width, image.shape[2]), image.dtype)
    source, target = [], []
    for given, wanted in zip(image.shape, (height, width), strict=False):
        kept = min(given, wanted)
        source.append(slice((given - kept) // 2, (given - kept) // 2 + kept))
        target.append(slice((wanted - kept) // 2, (wanted - kept) // 2 + kept))
    result[tuple(target)] = image[tuple(source)]
    return result


def standardise(image: Any, mean: list[float], std: list[float]) -> Any:
    """(H, W, C) to (1, C, H, W) float32: values / 255, minus the mean, over the standard deviation."""
    image = (image.astype(np.float32) / np.float32(255) - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None])
