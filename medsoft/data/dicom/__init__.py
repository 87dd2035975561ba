"""DICOM: decoding, headers, series in folders, positions of frames in the patient, and privacy."""
