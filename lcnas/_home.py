"""A name and a home for whom the system knows neither: `docker --user 12345`, a cron job, a service.

Libraries ask for them when they are imported (Ray Tune) or where they keep caches (JAX, Matplotlib), and end
in a traceback where there are none. What the user has set stays as it is.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import getpass
import os
import shutil
import stat
import tempfile
from pathlib import Path


def settle() -> None:
    """Give this process, and those that it starts, what a user of the system has.

    Without a name, it is called after its number. Without a home, that is a folder of its own among the
    temporary files. A home that cannot be written (Docker's ``/``) stays, but for what libraries keep there.
    """
    if not _has_name():
        os.environ["USER"] = f"uid{_number()}"
    home = _home()
    if home is None:
        os.environ["HOME"] = str(_own_folder() or Path("/"))
    elif not _writable(home / ".cache") and (own := _own_folder()) is not None:
        os.environ.setdefault("XDG_CACHE_HOME", str(own / ".cache"))
        os.environ.setdefault("MPLCONFIGDIR", str(own / "matplotlib"))


def _has_name() -> bool:
    try:
        return bool(getpass.getuser())
    except (KeyError, OSError, ImportError):  # Python before 3.13 lets the look-up's own error out
        return False


def _home() -> Path | None:
    try:
        return Path.home()
    except (RuntimeError, KeyError):
        return None


def _writable(folder: Path) -> bool:
    """Return whether a folder can be written or made; one that is not there is as its parent is."""
    with contextlib.suppress(OSError):
        first = next((p for p in (folder, *folder.parents) if p.exists()), folder)
        return first.is_dir() and os.access(first, os.W_OK | os.X_OK)
    return False


@functools.cache
def _own_folder() -> Path | None:
    """Return this user's folder among the temporary files, where the next process finds it again.

    Anybody may have made a folder of that name. Only one that is this user's and nobody else's is taken:
    compiled programs are read from it. None where there is no place for temporary files at all.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"lcnas-{_number()}"
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        about = folder.lstat()
        private = not about.st_mode & 0o077 and about.st_uid == _number()
        if stat.S_ISDIR(about.st_mode) and private and os.access(folder, os.W_OK | os.X_OK):
            return folder
    made = Path(tempfile.mkdtemp(prefix="lcnas-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def _number() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0
