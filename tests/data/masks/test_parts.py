"""Parts of large images: at their own resolution, centred on a pixel of a class as often as asked."""

import numpy as np
import pytest
from PIL import Image

from medsoft.data.datasets.sampling import SampleKey
from medsoft.data.datasets.segmentation.dataset import SegmentationDataset
from medsoft.data.masks.read import MaskValues
from medsoft.data.transforms.plain import Plain


@pytest.fixture
def dataset(tmp_path):
    """One image of 200 x 300 px with a dot of 4 x 4; each pixel's red and green tell its place."""
    y, x = np.mgrid[:200, :300]
    image = np.stack([y, x % 256, x // 256], axis=-1).astype(np.uint8)
    mask = np.zeros((200, 300), np.uint8)
    mask[150:154, 250:254] = 1
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")

    def make(foreground: float) -> SegmentationDataset:
        return SegmentationDataset(
            [str(tmp_path / "image.png")],
            np.array([1.0]),
            Plain(size=32, augmentation=False, mean=[0.0] * 3, std=[1.0] * 3),
            0,
            10**6,
            None,
            False,
            None,
            None,
            masks=[str(tmp_path / "mask.png")],
            values=MaskValues(("dot",)),
            names=["image"],
            patches=True,
            foreground=foreground,
        )

    return make


def parts(dataset: SegmentationDataset, n: int) -> list[dict]:
    return [dataset[SampleKey(epoch, 0)] for epoch in range(n)]


def test_parts_hold_a_pixel_of_a_class_as_often_as_asked(dataset):
    always, never = (sum(bool((part["target"] == 1).any()) for part in parts(dataset(share), 30)) for share in (1, 0))
    assert always == 30
    assert never < 15


def test_a_part_is_a_piece_of_the_image_with_its_piece_of_the_mask(dataset):
    for part in parts(dataset(0.5), 8):
        assert part["image"].shape == (3, 32, 32)
        y, x, over = (part["image"].numpy() * 255).round().astype(int)
        x = x + 256 * over
        assert (np.diff(y, axis=0) == 1).all()
        assert (np.diff(x, axis=1) == 1).all()
        dot = (y >= 150) & (y < 154) & (x >= 250) & (x < 254)
        np.testing.assert_array_equal(part["target"].numpy() == 1, dot)


def test_for_a_prediction_the_image_is_whole(dataset):
    assert dataset(0.5)[0]["image"].shape == (3, 200, 300)
