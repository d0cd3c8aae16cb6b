"""Values that no map can be made of."""


class NotFiniteError(ValueError):
    """What an image is explained with is NaN or infinite: its activations, gradients, logits or score."""
