"""How choices map to placed blocks: what ``Space.layout`` returns, for programs over all chains of a space.

Not for everyday use: :mod:`lcnas.budgets` is built on it. ``_element.py`` defines the terms.
"""

from __future__ import annotations

from lcnas import renamed
from lcnas.spaces._chain import Chain, follow
from lcnas.spaces._element import Digit, ElementTable, split_number
from lcnas.spaces._placed_blocks import PlacedBlocks

__all__ = ["Chain", "Digit", "ElementTable", "PlacedBlocks", "follow", "split_number"]

__getattr__ = renamed.in_module(__name__, {"Rows": "PlacedBlocks"})
