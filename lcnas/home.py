"""A user name and a home for users that the system does not know: `docker --user 12345`, cron jobs, services.

Libraries ask for both when they are imported (Ray Tune) or create caches (JAX, Matplotlib), and fail without
them. Variables that the user has set are not changed.
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


def ensure_user() -> None:
    """Make sure that this process, and its child processes, have a user name and a home.

    A missing name is derived from the user's number. A missing home becomes a folder among the temporary
    files. A home that is read-only (Docker's ``/``) stays, but caches go to that folder.
    """
    if not _has_user_name():
        os.environ["USER"] = f"uid{_user_id()}"
    home = _home()
    if home is None:
        os.environ["HOME"] = str(_temporary_home() or Path("/"))
    elif not _writable(home / ".cache") and (temporary_home := _temporary_home()) is not None:
        os.environ.setdefault("XDG_CACHE_HOME", str(temporary_home / ".cache"))
        os.environ.setdefault("MPLCONFIGDIR", str(temporary_home / "matplotlib"))


def _has_user_name() -> bool:
    try:
        return bool(getpass.getuser())
    except (KeyError, OSError, ImportError):  # KeyError: Python before 3.13
        return False


def _home() -> Path | None:
    try:
        return Path.home()
    except (RuntimeError, KeyError):
        return None


def _writable(folder: Path) -> bool:
    """Return whether a folder can be written or created; a missing folder counts as its parent does."""
    with contextlib.suppress(OSError):
        first = next((p for p in (folder, *folder.parents) if p.exists()), folder)
        return first.is_dir() and os.access(first, os.W_OK | os.X_OK)
    return False


@functools.cache
def _temporary_home() -> Path | None:
    """Return this user's folder among the temporary files, if possible the same in every process.

    Other users can create a folder of that name. It is used only if it belongs to this user and is private,
    because compiled programs are read from it. None: there is no place for temporary files.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"lcnas-{_user_id()}"
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        is_private = not status.st_mode & 0o077 and status.st_uid == _user_id()
        if stat.S_ISDIR(status.st_mode) and is_private and os.access(folder, os.W_OK | os.X_OK):
            return folder
    fallback = Path(tempfile.mkdtemp(prefix="lcnas-"))
    atexit.register(shutil.rmtree, fallback, ignore_errors=True)
    return fallback


def _user_id() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0
