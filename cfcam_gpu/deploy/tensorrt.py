"""What TensorRT asks of a graph."""

#: The K of its TopK is smaller.
TOO_MANY_ORDERED = 3840
