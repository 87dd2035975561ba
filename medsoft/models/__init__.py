"""Architectures, one a file; importing this package registers them with timm."""

from medsoft.models import soft, vit, volume_resnet

__all__ = ["soft", "vit", "volume_resnet"]
