"""Architectures, one a file; importing this package registers them with timm."""

from medsoft.models import soft, vit

__all__ = ["soft", "vit"]
