"""Looks at the decoded pixels of a whole table for 16-bit images that use only a few bits."""

from __future__ import annotations

import numpy as np

FEW = 65536 // 8
"""16-bit pictures with no value above an eighth of the range are of 13 bits or fewer, and nearly black as they are."""


class PixelFacts:
    """Gathers what is seen of the pictures of a table; ``look`` may be called from several threads."""

    def __init__(self) -> None:
        self._most: dict[str, int] = {}

    def look(self, path: str, image: np.ndarray) -> None:
        """Take note of a picture (H, W, C) as read."""
        if image.dtype == np.uint16:
            self._most[path] = int(image.max())

    def depth_note(self, window: bool | None = None) -> str:
        """A sentence where the 16-bit pictures use less than an eighth of their range all together, else "".

        Args:
            window: whether the recipe finds black and white by itself (nothing is said then) or could
                (``transforms.window``, which is not set); None where the recipe is not known, or has no such option.
        """
        most = max(self._most.values(), default=FEW)
        if most >= FEW or window:
            return ""
        n = len(self._most)
        one = n == 1
        advice = (
            "set transforms.window, such as --transforms.window 1,99"
            if window is False
            else "use a recipe with transforms.window (plain or chest_xray: --transforms.window 1,99), or save them "
            "over the whole range of 8 or 16 bits"
        )
        return (
            f"{n} {'picture is' if one else 'pictures are'} stored in 16 bits, and the highest value "
            f"{'' if one else 'of all '}is {most}, which {most.bit_length()} bits hold: taken for 16 bits, "
            f"{'it comes' if one else 'they come'} out nearly black, with {most // 257 + 1} grey levels left; {advice}"
        )
