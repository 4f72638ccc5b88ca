"""What ends a command: one line on stderr that says what, where and what to do; never a traceback.

Exit codes: 0 done, 1 it failed (or `verify` found something), 2 wrong usage, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

import eventcore as ec

FAILED, USAGE, INTERRUPTED = 1, 2, 130

UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""Any wrong argument. Typer re-exports only this one of its subclasses, and where the base lives varies by version."""


class CommandFailed(Exception):
    """A command cannot go on; the message is the line to print."""


def say(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr)


def fail(message: object, code: int = FAILED) -> int:
    """Print an error on one line, and give its exit code back."""
    say("error: " + " ".join(str(message).split()))
    return code


class Group(TyperGroup):
    """The commands, with every way they can end in one place, for the shell and for tests alike."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Any:
        """Run a command and leave with its exit code."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a file name may be no text, a terminal may know no ∅
                stream.reconfigure(errors="backslashreplace")
        options["standalone_mode"] = False
        sys.exit(self._run(args, *more, **options))

    def invoke(self, ctx: Any) -> Any:
        """Run the command; here, because typer would make 1 of a closed pipe."""
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            _forget_stdout()
            return 0

    def _run(self, *arguments: Any, **options: Any) -> int:
        try:
            code = super().main(*arguments, **options)
            return code if isinstance(code, int) else 0
        except (typer.Abort, KeyboardInterrupt):
            return INTERRUPTED
        except UsageError as error:
            text = error.format_message()  # type: ignore[attr-defined]
            return fail(f"{text.rstrip('.')}; see `eventcore --help`, or --help behind a command", USAGE)
        except (CommandFailed, ec.EventCoreError) as error:
            return fail(error)
        except OSError as error:
            return fail(_os_message(error))


def _os_message(error: OSError) -> str:
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
    return f"{where}{error.strerror or error}; check the path, its permissions and the space left"


def _forget_stdout() -> None:
    """Whoever read our output has left: the interpreter's last flush must not complain about it, either."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        return
