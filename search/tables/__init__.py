"""Latency tables of a search: finding one, extending it, and what it says about a space."""

from search.tables.building import (
    FEW,
    FEW_SHARE,
    WHOLE,
    Amount,
    TableJob,
    join,
    learn,
    missing_entries,
    own_folder,
)
from search.tables.limits import (
    OWN_NETWORKS,
    Floats,
    Span,
    family,
    margin,
    predicted,
    published_scales,
    span,
)
from search.tables.lookup import ResolvedTable, missing, resolve

__all__ = [
    "FEW",
    "FEW_SHARE",
    "OWN_NETWORKS",
    "WHOLE",
    "Amount",
    "Floats",
    "ResolvedTable",
    "Span",
    "TableJob",
    "family",
    "join",
    "learn",
    "margin",
    "missing",
    "missing_entries",
    "own_folder",
    "predicted",
    "published_scales",
    "resolve",
    "span",
]
