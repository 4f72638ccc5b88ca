"""How large the judges of the night are, and where all chance comes from.

`EVENTCORE_DEPTH=20` multiplies the sizes (`.ci/nightly --depth 20`). `EVENTCORE_SEED=7` makes other random choices than
the fixed ones; a run prints it.
"""

from __future__ import annotations

import os
import random

DEPTH = int(os.environ.get("EVENTCORE_DEPTH", "1"))
SEED = int(os.environ.get("EVENTCORE_SEED", "0"))


def seeded(number: int) -> random.Random:
    """Choices of its own for each number, the same in each run with the same EVENTCORE_SEED."""
    return random.Random(number + SEED * 1_000_003)
