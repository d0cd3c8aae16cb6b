"""Whole slides: read by the reader that is right for each, in worker processes, explained tile by tile."""
