"""Synthetic patients with known truth, as real DICOM studies."""
