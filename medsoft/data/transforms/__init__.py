"""Turns an image into the model's input: one short recipe per modality.

Each recipe is a class with three steps, in this order: ``prepare`` (fixed; its result is worth caching), ``augment``
(random, for training only) and ``finish`` (numbers for the model).
"""

from __future__ import annotations

import os

from medsoft.data.transforms.base import Transforms
from medsoft.data.transforms.chest_xray import ChestXray
from medsoft.data.transforms.dermoscopy import Dermoscopy
from medsoft.data.transforms.fundus import Fundus
from medsoft.data.transforms.histology import Histology
from medsoft.data.transforms.plain import Plain

# Unless told not to, albumentations asks the internet for a newer version whenever it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

__all__ = ["ChestXray", "Dermoscopy", "Fundus", "Histology", "Plain", "Transforms"]
