"""Phantoms: procedural pictures, for trying the whole flow without data. They show no patient."""

from medsoft.data.phantoms.write import phantom_fundus

__all__ = ["phantom_fundus"]
