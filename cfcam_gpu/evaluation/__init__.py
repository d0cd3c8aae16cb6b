"""Class activation maps measured side by side on a folder of images: what ``cfcam-gpu bench`` does."""
