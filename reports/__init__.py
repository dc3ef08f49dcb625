"""DICOM objects out: SEG and SR; arrays and values in, finished objects out."""
