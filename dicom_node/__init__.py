"""DIMSE in and out: the DICOM node."""
