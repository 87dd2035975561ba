"""Silences messages of libraries that do not help a user of medsoft."""

from __future__ import annotations

import logging
import os
import warnings


def silence_warnings() -> None:
    """Keep warnings that matter; drop advertisements, device lists and advice on what medsoft decides itself."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer version
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*module.s. in eval mode at the start of training.*",  # a frozen backbone is meant to be
        ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run's is
        ".*your dataloader is not resumable.*",  # the data module is: it saves its position
        ".*It is recommended to use .self.log.*sync_dist=True.*",  # validation metrics are of all processes already
        ".*The .srun. command is available on your system but is not used.*",  # nor is it needed on one machine
        ".*is smaller than the logging interval.*",
        ".*always_return_as_numpy.*has been deprecated.*",  # of MONAI to itself
        ".*could not find the monitored key.*",  # of a training that ends before its first validation: fit says so
    ):
        warnings.filterwarnings("ignore", message=message)
