"""Hooks of the site: names in docstrings, such as :class:`Arch`, become code."""

from __future__ import annotations

import re
from typing import Any

_ROLE = re.compile(r":(?:func|class|meth|attr|mod|data|exc):(<code>)~?")


def on_page_content(html: str, **_: Any) -> str:
    """Return a page's HTML without the roles of Sphinx."""
    return _ROLE.sub(r"\1", html)
