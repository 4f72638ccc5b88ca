"""Locks that a fork's child finds free.

In a child there is only the thread that forked: a lock that another one held then would stay held for ever, and a call
that ought to be refused, as the handle is the parent's, would hang. So every lock that is taken before a handle is
asked whose it is comes from here. What such a lock guards may be half changed in the child; it is never used there.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any, TypeVar

_living: weakref.WeakSet[Any] = weakref.WeakSet()
L = TypeVar("L")


def lock() -> threading.Lock:
    """See `threading.Lock`."""
    return _known(threading.Lock())


def rlock() -> threading.RLock:
    """See `threading.RLock`."""
    return _known(threading.RLock())


def _known(made: L) -> L:
    _living.add(made)
    return made


def _free_all() -> None:
    for held in list(_living):
        held._at_fork_reinit()  # as threading, logging and concurrent.futures do with theirs


os.register_at_fork(after_in_child=_free_all)
