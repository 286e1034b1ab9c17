"""Compiled programs of JAX: a folder that keeps them, a clock of compiling, and forgetting them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

_COMPILED = "/jax/core/compile/backend_compile_duration"  # one of JAX's own events


class CompileClock:
    """Counts the seconds that this process spends compiling, or reading compiled programs."""

    def __init__(self) -> None:
        from jax import monitoring

        self.seconds = 0.0
        monitoring.register_event_duration_secs_listener(self._on_event)

    def _on_event(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == _COMPILED:
            self.seconds += duration_secs


@functools.cache
def compile_clock() -> CompileClock:
    """Return this process's clock; it starts at the first call."""
    return CompileClock()


def keep_programs(folder: str | None) -> None:
    """Make JAX keep compiled programs in a folder; the same network and recipe then compile once.

    Args:
        folder: parent folder; each processor and compiler has its own sub-folder. None: nothing changes.
    """
    if folder is None:
        return
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    from lcnas.training.devices import programs_folder

    chosen = str(programs_folder(Path(folder)))
    config: Any = jax.config
    if config.jax_compilation_cache_dir != chosen:
        config.update("jax_compilation_cache_dir", chosen)
        compilation_cache.reset_cache()  # JAX looks for the folder only once


def forget_programs() -> None:
    """Make JAX forget its compiled programs; those that are used again are compiled again."""
    import jax

    jax.clear_caches()  # type: ignore[no-untyped-call]
