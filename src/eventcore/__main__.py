"""`python -m eventcore` and the `eventcore` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; without its extra packages say how to get them, and exit with 2."""
    try:
        from eventcore.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.stderr.write(f"error: the command line needs {error.name}; run: pip install 'eventcore[cli]'\n")
        sys.exit(2)
    app(prog_name="eventcore")


if __name__ == "__main__":
    main()
