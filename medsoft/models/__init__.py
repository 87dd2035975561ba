"""Architectures, one a file; importing this package registers them with timm."""

from medsoft.models import vit

__all__ = ["vit"]
