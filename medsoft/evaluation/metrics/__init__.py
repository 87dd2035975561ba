"""Metrics, thresholds and calibration."""
