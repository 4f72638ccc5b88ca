"""The one choice between native and pure kernels.

`EVENTCORE_KERNELS` = `native` (default) or `pure`. A missing native build is an error, never a silent 100 times
slower run: who wants the pure kernels says so. A build made with `EVENTCORE_PURE=1` carries no native modules;
there `EVENTCORE_KERNELS=pure` has to be set, too.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

from eventcore.errors import UsageError

__all__ = [
    "KERNELS",
    "append",
    "arrow",
    "batch",
    "clean",
    "crc32c",
    "decode",
    "encode",
    "follow",
    "gather",
    "guard",
    "index",
    "marks",
    "murmur2",
    "offset_map",
    "points",
    "producers",
    "rows",
    "source",
    "tail",
    "transfer",
    "write_lock",
]

KERNELS = os.environ.get("EVENTCORE_KERNELS", "native")

if TYPE_CHECKING:
    from eventcore._pure import (
        append,
        arrow,
        batch,
        clean,
        crc32c,
        decode,
        encode,
        follow,
        gather,
        guard,
        index,
        marks,
        murmur2,
        offset_map,
        points,
        producers,
        rows,
        source,
        tail,
        transfer,
        write_lock,
    )
else:
    if KERNELS not in ("native", "pure"):
        raise UsageError(f"EVENTCORE_KERNELS is {KERNELS!r}", hint="set it to 'native' or 'pure', or leave it unset")
    try:
        globals().update({name: import_module(f"eventcore._{KERNELS}.{name}") for name in __all__[1:]})
    except ImportError as error:
        raise ImportError(
            f"eventcore's {KERNELS} kernels cannot be loaded ({error}); build them with `pip install .` and a C "
            "compiler, or set EVENTCORE_KERNELS=pure to run the much slower pure-Python twins"
        ) from error
