"""DICOM: images, series and results. pydicom is imported where it is needed."""
