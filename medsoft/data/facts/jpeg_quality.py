"""The quality at which a JPEG was saved, estimated from its quantisation table.

The table of the standard's annex K (ITU-T T.81, table K.1) is scaled by a percentage that libjpeg's ``jcparam.c`` makes
of the quality: 5000 / quality below 50, 200 - 2 * quality from there. Other programs' tables are near such a one.
"""

from __future__ import annotations

from collections.abc import Sequence

_SUM_OF_STANDARD = 3688
"""Of the 64 numbers of the luminance table K.1; a sum does not depend on their order."""


def jpeg_quality(luminance: Sequence[int]) -> float:
    """The quality, 1 to 100, of the IJG table that is as coarse on the whole.

    Args:
        luminance: the 64 numbers of a file's first quantisation table, in any order.
    """
    scale = 100 * sum(luminance) / _SUM_OF_STANDARD
    quality = (200 - scale) / 2 if scale <= 100 else 5000 / scale
    return min(max(quality, 1.0), 100.0)
