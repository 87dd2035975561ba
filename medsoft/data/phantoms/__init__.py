"""Phantoms: procedural images for trying the whole workflow without data. They show no patient."""

from medsoft.data.phantoms.fundus_set import phantom_fundus

__all__ = ["phantom_fundus"]
