"""The errors that a search raises."""

from lcnas.errors import LcnasError


class SearchError(LcnasError):
    """A search cannot start or go on: its settings, its folder or what it was given do not fit."""


class SearchFailedError(LcnasError):
    """A search had to stop: no space, a cluster that is gone; says how to go on."""
