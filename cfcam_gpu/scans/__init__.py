"""Scans of medicine: DICOM and NIfTI, read with where they lie in the patient, and explanations written beside them."""
