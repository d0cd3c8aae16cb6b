"""Values of a header, whatever is in it: pydicom's warnings would repeat what a file says of the patient."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom import Dataset


def said(header: Dataset, keyword: str) -> Any:
    """A value as it stands there, or None where it is none of its kind."""
    from pydicom.config import disable_value_validation

    with disable_value_validation():
        try:
            return header.get(keyword)
        except (ValueError, OverflowError, TypeError, NotImplementedError):
            return None


def allowed(header: Dataset, keyword: str) -> Any:
    """A value as DICOM allows it, else None."""
    from pydicom.config import RAISE
    from pydicom.datadict import dictionary_VM
    from pydicom.valuerep import PersonName, validate_value

    value = said(header, keyword)
    if value in (None, "") or (isinstance(value, Sequence) and not len(value)):
        return None
    kind = header[keyword].VR
    several = isinstance(value, Sequence) and not isinstance(value, str)
    if several and dictionary_VM(keyword) == "1":
        return None
    try:
        for one in value if several else [value]:
            validate_value(kind, str(one), RAISE)
    except ValueError:
        return None
    # Decoded, as all is written in UTF-8.
    return PersonName(str(value)) if kind == "PN" else value


def is_uid(value: object) -> bool:
    """Whether it is what DICOM allows as one."""
    text = str(value)
    return len(text) <= 64 and re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+", text, re.ASCII) is not None
