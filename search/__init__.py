"""The search itself: `python -m search.run`. What needs Ray lies here; `lcnas` knows none of it."""

from lcnas import home

home.ensure_user()  # Ray Tune looks for a home as soon as it is imported
