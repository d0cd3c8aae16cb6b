"""The pictures of many results that a job gathers: the contact sheet, and that of components."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..results import durable
from ..results.components import REST, Component
from . import contact_sheet
from .contact_sheet import Entry, Group, Row


@dataclass
class Sheets:
    """What is shown of a job's first photographs.

    Parameters
    ----------
    title : str
        Which method explains which model.
    how : str
        What is done where.
    alarm : str
        Said in red, where maps mean nothing.
    """

    title: str
    how: str
    alarm: str
    entries: list[Entry] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def add(self, entry: Entry) -> None:
        """Show a photograph, if there is room left."""
        if len(self.entries) < contact_sheet.LIMIT:
            self.entries.append(entry)

    def add_components(
        self,
        entry: Entry,
        components: Sequence[Component],
        coloured: Callable[[torch.Tensor], NDArray[np.uint8]],
        path: Path,
    ) -> None:
        """Write a photograph's own picture of its components, and show them among others, if there is room left."""
        groups = [
            Group(contact_sheet.thumbnail(coloured(one.map)), one.share, len(one.channels), one.probability_without)
            for one in components
            if one.name != REST
        ]
        row = Row(entry, groups)
        if len(self.rows) < contact_sheet.ROWS:
            self.rows.append(row)
        self.save_components(path, [row], last=False)

    def save(self, path: Path, count: str) -> None:
        """Write the contact sheet, of what `count` says."""
        picture = contact_sheet.draw(self.entries, title=self.title, subtitle=f"{count}; {self.how}", alarm=self.alarm)
        with durable.replacing(path) as file:
            picture.save(file, format="PNG")

    def save_components(self, path: Path, rows: Sequence[Row] | None = None, *, last: bool = True) -> None:
        """Write the sheet of components: of all that were added, or of `rows`."""
        picture = contact_sheet.draw_components(
            self.rows if rows is None else rows,
            title=f"{self.title}, by groups of channels",
            subtitle=self.how,
            alarm=self.alarm,
        )
        with durable.replacing(path, last=last) as file:
            picture.save(file, format="PNG")
