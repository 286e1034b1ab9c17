"""How choices lead to placed blocks: what ``Space.layout`` returns, for programs over all chains of a space.

Not for everyday use: :mod:`lcnas.budgets` is built on it. The words are those of ``_element.py``.
"""

from __future__ import annotations

from lcnas.spaces._chain import Chain, follow
from lcnas.spaces._element import Digit, ElementTable, split_number
from lcnas.spaces._rows import Rows

__all__ = ["Chain", "Digit", "ElementTable", "Rows", "follow", "split_number"]
