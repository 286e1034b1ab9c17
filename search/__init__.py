"""The search itself: `python -m search.run`. What needs Ray lies here; `lcnas` knows none of it."""
