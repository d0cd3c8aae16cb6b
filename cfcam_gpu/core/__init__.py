"""The method, on arrays of any library, and what it is told."""
