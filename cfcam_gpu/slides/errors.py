"""What is raised of a slide that was recognised and can't be read through."""

from __future__ import annotations

from ..scans.errors import UnreadableError


class SlideError(UnreadableError):
    """A slide whose reader died or hung, or of which a tile can't be decoded; the message does not name it."""
