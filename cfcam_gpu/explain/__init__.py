"""What one calls: CFCAM, CAM, and the CUDA graph of a call."""
