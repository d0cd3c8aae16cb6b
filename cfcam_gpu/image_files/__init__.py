"""Files of photographs and other images: found, read with the right pixels, and prepared as a model wants them."""
