"""Architectures, one per file; importing this package registers them with timm."""

from medsoft.models import attention_pooled as attention_pooled_vit
from medsoft.models import hybrid, vit
from medsoft.models import resnet3d as volume_resnet
from medsoft.models import soft_pyramid as soft

__all__ = ["attention_pooled_vit", "hybrid", "soft", "vit", "volume_resnet"]
