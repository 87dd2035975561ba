"""DICOM: decoding, headers, series in folders, where frames lie in the patient, and privacy."""
