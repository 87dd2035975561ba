"""Finds duplicates in a table by content: the same pixels however stored, or nearly the same image.

What is compared is taken where a file is decoded anyway, so that nothing is decoded twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from medsoft.data.tables.problems import SHOWN_ROWS, Problem
from medsoft.storage.fingerprints import array_hash

NEAR = 16
"""Bits of 256 by which two pictures may differ and look nearly the same.

JPEG at quality 50, half the size, a third of it, grey for colour and 15 % more light change a median of 0 to 8 bits (a
third of a tile of 50 px 22), a crop of 1 % at each side 15 to 18. Of 300 pictures each of IDRiD (fundus), ISIC
(dermoscopy), Kermany (chest radiographs) and IDC (histology tiles) no two are closer than 32, 54, 58 and 96 bits.
"""
SIDE, LOW = 64, 16  # px that a picture is scaled to; lowest frequencies of its cosine transform, in each direction
GREY = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue, as programs turn colour into grey
FLAT = 0.5  # standard deviation, of 255, below which a picture shows nothing that could be compared
MOST_PAIRS = 10_000
COMPARED_AT_ONCE = 2**22


@dataclass(frozen=True)
class Content:
    """What a decoded sample is known by.

    Attributes:
        exact: equal for equal pixels, however they are stored.
        look: (4,) uint64, close for pictures that look alike; None of a flat picture, and of what is no picture.
    """

    exact: str
    look: np.ndarray | None = None


class Pair(NamedTuple):
    """Two samples, by their places in a list, and by how many bits of 256 they look different; 0 for equal pixels."""

    first: int
    second: int
    bits: int


def content_of(image: np.ndarray) -> Content:
    """What a picture (H, W, C) of uint8, uint16 or float32 is known by."""
    return Content(array_hash(image), perceptual_hash(image))


def perceptual_hash(image: np.ndarray) -> np.ndarray | None:
    """256 bits that change little where a picture is scaled, compressed, lightened or made grey.

    The signs, about their median, of the lowest 16 x 16 coefficients of the cosine transform of the grey picture at
    64 x 64 px (after Zauner 2010, "Implementation and benchmarking of perceptual image hash functions", section 3.2.1,
    which takes 8 x 8: too few to tell one fundus photograph from another).

    Args:
        image: (H, W, C) of uint8, uint16 or float32.

    Returns:
        (4,) uint64; None of a picture without contrast.
    """
    import cv2

    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    grey = small @ GREY if small.ndim == 3 else small
    top = 65535 if image.dtype == np.uint16 else 255 if image.dtype == np.uint8 else float(np.ptp(image)) or 1
    if grey.std() < FLAT * top / 255:
        return None
    low = cv2.dct(grey)[:LOW, :LOW].flatten()
    low[0] = 0  # the mean
    bits: np.ndarray = np.packbits(low > np.median(low)).view(np.uint64)
    return bits


def same_pixels(contents: Sequence[Content | None]) -> list[Pair]:
    """Each sample that has the content of an earlier one, with the first of these."""
    first: dict[str, int] = {}
    pairs = []
    for i, content in enumerate(contents):
        if content is not None and first.setdefault(content.exact, i) != i:
            pairs.append(Pair(first[content.exact], i, 0))
    return pairs


def nearly_same(contents: Sequence[Content | None], parts: Sequence[object]) -> list[Pair]:
    """Pairs in two parts that look nearly alike and are not equal; at most 10,000.

    Args:
        contents: of the samples.
        parts: of the same samples; two in the same are not compared.
    """
    compared = [(i, one.look, one.exact) for i, one in enumerate(contents) if one is not None and one.look is not None]
    if len(compared) < 2:
        return []
    there = [i for i, _, _ in compared]
    looks = np.stack([look for _, look, _ in compared])
    exact = np.array([hash for _, _, hash in compared])
    part = np.unique(np.array([str(parts[i]) for i in there]), return_inverse=True)[1]
    pairs: list[Pair] = []
    step = max(1, COMPARED_AT_ONCE // len(there))
    for start in range(0, len(there), step):
        rows = slice(start, start + step)
        bits = np.zeros((len(looks[rows]), len(there) - start), np.uint16)
        for word in range(looks.shape[1]):
            bits += np.bitwise_count(looks[rows, None, word] ^ looks[None, start:, word])
        near = (bits <= NEAR) & (part[rows, None] != part[None, start:]) & (exact[rows, None] != exact[None, start:])
        for i, j in zip(*np.nonzero(near), strict=True):
            if i < j:
                pairs.append(Pair(there[start + i], there[start + j], int(bits[i, j])))
        if len(pairs) >= MOST_PAIRS:
            break
    return pairs[:MOST_PAIRS]


def duplicate_problems(
    keys: Sequence[str], rows: Sequence[int], targets: Sequence[object], paths: Sequence[str]
) -> list[Problem]:
    """One way for all readers to tell of samples that are in a table twice.

    Args:
        keys: equal for samples that are the same; "" for one that cannot be compared.
        rows: their numbers in the table.
        targets: what each is labelled as; None where there are no labels.
        paths: of their files.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        if key:
            places[key].append(place)
    problems = []
    for first, *others in places.values():
        if any(targets[other] != targets[first] for other in others):
            where = tuple(rows[place] for place in (first, *others))
            message, advice = "the same picture under two labels", "find out which label is right"
            problems.append(Problem("contradiction", where, message, advice, False))
            continue
        for other in others:
            same = "file" if paths[other] == paths[first] else "content"
            message, advice = f"the same {same} as row {rows[first]}", "keep one row of each picture"
            problems.append(Problem("duplicate", (rows[other],), message, advice))
    return problems


def pairs_in_words(n: int) -> str:
    """``1 pair``, ``5 pairs``."""
    return "1 pair" if n == 1 else f"{n} pairs"


def notes_on_near(pairs: Sequence[Pair], rows: Sequence[int], parts: Sequence[object]) -> list[str]:
    """A sentence on pictures that look nearly alike and are in two parts of a table.

    Args:
        pairs: see ``nearly_same``.
        rows: numbers of the samples' rows.
        parts: their splits.
    """
    if not pairs:
        return []
    shown = [
        f"{parts[pair.first]} row {rows[pair.first]} and {parts[pair.second]} row {rows[pair.second]}"
        for pair in sorted(pairs, key=lambda pair: pair.bits)[:SHOWN_ROWS]
    ]
    more = "; ..." if len(pairs) > SHOWN_ROWS else ""
    return [
        f"WARNING: {pairs_in_words(len(pairs))} of images in different parts look{'s' * (len(pairs) == 1)} nearly the "
        f"same ({'; '.join(shown)}{more}). If they are scaled or compressed copies, the model is tested on what it was "
        "trained on. medsoft data check with --out duplicates.csv lists such pairs"
    ]
