"""Volumes: one contract for DICOM series, NIfTI, NRRD and arrays."""
