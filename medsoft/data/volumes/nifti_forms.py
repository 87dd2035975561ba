"""The two orientations of a NIfTI header, sform and qform, and what happens if they differ."""

from __future__ import annotations

from typing import Any

import numpy as np

from medsoft.errors import ReadError

TURNED_DEG = 45.0
"""From which angle between the same axis in both forms they are not two views of one volume."""
SCALED = 1.02
"""By how much the spacings of both may differ."""
SCALED_TO_TEMPLATE = 1.5
"""The same for an sform that leads to a template (codes 3 and 4), which may stretch the head."""
APART_VOXELS = 0.1
"""From which distance between the corners of both forms it is told that they differ."""

_WAY_OUT = (
    "correct the header, or say which of them is right with #sform or #qform behind the path, as in scan.nii.gz#sform"
)


def affine_of(header: Any, form: str) -> tuple[np.ndarray, dict[str, Any]]:
    """The affine that a header states, in its own unit of length, and what is to be known of it.

    The sform is followed before the qform, as the standard advises. Where both codes are 0, the axes are taken for RAS+
    with the spacing of ``pixdim`` (the standard's method 1), as those of all files that do not say how they lie.

    Args:
        header: of nibabel.
        form: "sform" or "qform" to take one, whatever the other says; "" for the above.

    Raises:
        ReadError: spacings of zero or below, a form that is damaged or not stated, or forms that contradict each
            other: one mirrors the other, or they are turned against each other, or differ in scale.
    """
    spacings = np.asarray(header["pixdim"][1:4], float)
    if not np.isfinite(spacings).all() or (spacings < 0).any():
        raise ReadError("has a spacing between voxels that is negative or not a number: correct the header")
    if (spacings == 0).any():
        raise ReadError("has a spacing of zero between voxels: correct the header")
    codes = {"sform": int(header["sform_code"]), "qform": int(header["qform_code"])}
    if form:
        if codes[form] < 1:
            raise ReadError(f"states no {form} (its code is 0), which is asked for behind the path")
        return _stated(header, form), {}
    if codes["sform"] < 1 and codes["qform"] < 1:
        return np.diag([*spacings, 1.0]), {"orientation": "unknown"}
    if codes["sform"] < 1 or codes["qform"] < 1:
        return _stated(header, "sform" if codes["sform"] > 0 else "qform"), {}
    sform, qform = _stated(header, "sform"), _stated(header, "qform")
    if said := _contradiction(sform, qform, codes["sform"]):
        raise ReadError(f"has an sform and a qform that {said}: {_WAY_OUT}")
    shape = np.maximum(1, np.asarray(header["dim"][1:4], float))
    return sform, {"forms": "differ"} if _apart(sform, qform, shape) > APART_VOXELS else {}


def _stated(header: Any, form: str) -> np.ndarray:
    try:
        affine: np.ndarray = np.asarray(header.get_sform() if form == "sform" else header.get_qform(), float)
    except Exception:  # a quaternion of no rotation
        raise ReadError(f"has a damaged {form}: {_WAY_OUT}") from None
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) == 0:
        raise ReadError(f"has a {form} that is not an orientation: {_WAY_OUT}")
    return affine


def _contradiction(sform: np.ndarray, qform: np.ndarray, sform_code: int) -> str:
    if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        return "exchange left and right (one is the mirror image of the other)"
    lengths = [np.linalg.norm(affine[:3, :3], axis=0) for affine in (sform, qform)]
    cosines = (sform[:3, :3] / lengths[0] * (qform[:3, :3] / lengths[1])).sum(axis=0)
    if (cosines < np.cos(np.deg2rad(TURNED_DEG))).any():
        worst = np.rad2deg(np.arccos(np.clip(cosines.min(), -1, 1)))
        return f"are rotated against each other by {worst:.0f}°"
    ratio = float(np.maximum(lengths[0] / lengths[1], lengths[1] / lengths[0]).max())
    if ratio > (SCALED_TO_TEMPLATE if sform_code in (3, 4) else SCALED):
        return f"state different spacings (by a factor of {ratio:.3g})"
    return ""


def _apart(sform: np.ndarray, qform: np.ndarray, shape: np.ndarray) -> float:
    """Largest distance between the corners of a volume in both, in voxels."""
    ends = np.stack(np.meshgrid(*([0.0, side - 1] for side in shape), indexing="ij")).reshape(3, -1)
    corners = np.vstack([ends, np.ones(ends.shape[1])])
    there = np.linalg.inv(sform) @ qform @ corners
    return float(np.abs(there - corners).max())
