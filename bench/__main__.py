"""Every benchmark in one command: `python -m bench`. Tables on standard output; `--json FILE` keeps the figures.

First the kernels, native beside pure, and what the engine promises by itself; then `bench.peers`: whole operations
beside other stores and libraries, and native beside pure. Garbage collection is off; figures are medians of rounds.
"""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from pathlib import Path

from bench.machine import machine
from bench.peers.__main__ import GROUPS, compare
from bench.peers.rounds import FULL, QUICK

BENCHES = (
    "crc32c",
    "batch",
    "encode",
    "decode",
    "index",
    "tail",
    "wakeup",
    "follow",
    "durable",
    "reopen",
    "scan",
    "points",
)


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="the comparison with others in a minute")
    options = parser.parse_args()
    figures: dict[str, object] = {"machine": machine()}
    for name, value in machine().items():
        print(f"{name:<14}{value}")
    for name in BENCHES:
        figures[name] = import_module(f"bench.bench_{name}").main()
    print()
    figures["peers"] = compare(QUICK if options.quick else FULL, None, GROUPS)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1, default=str))


if __name__ == "__main__":
    main()
