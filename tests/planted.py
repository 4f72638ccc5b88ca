"""A test of the tests: plants one fault at a time into a copy of the project and says whether the checks turn red.

    python -m tests.planted                  # all ten; half an hour on two busy processors
    python -m tests.planted CRC fence        # only these
    python -m tests.planted --check-clean    # first without any fault, where both tiers have to stay green
    python -m tests.planted --list           # what would be planted, and where

`FAULTS` has one fault for each layer: a small mistake of the kind one makes, with which the engine can still be built
and imported, and appends and reads a few records (that is tried first; a cruder one would prove nothing). The text it
replaces has to be there exactly once: whoever changes the code changes the list with it.

What git tracks, or does not ignore, is copied as it is in the working tree, with the kernels that were built there. A
fault in a kernel is compiled in the copy. The copy gets a Python environment of its own, in which no other `eventcore`
can be found; everything else comes from the environment this runs in, which needs the extra `test`. Then run, each up
to its first failure, the README's tests and, if they stay green, what `.ci/run` adds to them without Java and without
servers.

Exits with 1 if a fault stayed green: then a test is missing. What is red is worth a look, too: was it a test of this
layer, or luck, or a test that is red without the fault?
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
KERNELS = Path("src/eventcore/_native")
KERNEL_SUFFIXES = {".pyx", ".pxd", ".h"}
BUILD_TOOLS = ("setuptools>=77", "cython>=3.1")  # pyproject.toml: build-system.requires
MEMORY = Path("/dev/shm")
ROOM_BYTES = 4 << 30
# Every fault changes the text that its own place in the list is found by: that proves nothing.
NOT_A_JUDGE = ("--deselect", "tests/test_promises.py::test_planted_faults_have_their_places")
TIERS = {
    "quick": (*NOT_A_JUDGE, "-n", "2"),
    ".ci/run": (*NOT_A_JUDGE, "-n", "2", "--dist", "loadfile", "-m", "(sampled or mounts) and not nightly"),
}
TIER_SECONDS = 1800
RED = re.compile(r"^(?:FAILED|ERROR) (?P<test>\S+::.+?|\S+)(?: - (?P<why>.*))?$", re.MULTILINE)
TRY = """
import sys
import eventcore as ec
from eventcore import _kernels
with ec.open_partition(sys.argv[1]) as log:
    log.extend([(b"key", b"value %d" % number) for number in range(100)])
    assert [record.value for record in log.read(0)] == [b"value %d" % number for number in range(100)]
    assert log[42].value == b"value 42"
with ec.open_partition(sys.argv[1]) as log:
    assert log.append(b"one more") == 100 and log[100].value == b"one more"
print(ec.__file__, _kernels.crc32c.__file__, sep="\\n")
"""


class Fault(NamedTuple):
    """One mistake in one layer; `file` is below the root of the checkout."""

    layer: str
    file: str
    old: str
    new: str
    breaks: str

    @property
    def is_compiled(self) -> bool:
        """Whether the kernels have to be built again."""
        return Path(self.file).suffix in KERNEL_SUFFIXES


FAULTS = (
    Fault(
        "CRC",
        "src/eventcore/_native/crc32c_impl.h",
        "n <= 2 * CRC32C_STREAM_WORDS; n++",
        "n < 2 * CRC32C_STREAM_WORDS; n++",
        "off by one in a table: on x86-64 without AVX-512 a CRC over 24 KiB and more is wrong",
    ),
    Fault(
        "varint",
        "src/eventcore/_native/bytes.h",
        "if (value < 0x4000) return 2;",
        "if (value <= 0x4000) return 2;",
        "off by one: a field of exactly 8192 bytes gets a size a byte too short for its length",
    ),
    Fault(
        "index",
        "src/eventcore/_native/index.pyx",
        "(load_be32(entries + (low + half) * OFFSET_ENTRY) <= target)",
        "(load_be32(entries + (low + half) * OFFSET_ENTRY) < target)",
        "wrong comparison: a lookup of exactly an indexed offset gets the entry before",
    ),
    Fault(
        "roll",
        "src/eventcore/log/local.py",
        "                self._observer.rolled(new)\n                self.disk.sync_dir(self.folder)\n",
        "                self._observer.rolled(new)\n",
        "missing sync: the segment before may be deleted for good while a power cut loses the name of the new one",
    ),
    Fault(
        "truncation",
        "src/eventcore/log/segment.py",
        "        self.log.zero(position, end)\n        self.sync()\n",
        "        self.log.zero(position, end)\n",
        "missing sync: a power cut brings records back that were truncated",
    ),
    Fault(
        "seal",
        "src/eventcore/log/sealed.py",
        'np.searchsorted(self.seal.blocks[:, 1], offset, side="right")',
        'np.searchsorted(self.seal.blocks[:, 1], offset, side="left")',
        "off by one: who reads up to the first offset of a block has the block before checked, and misses its damage",
    ),
    Fault(
        "fence",
        "src/eventcore/log/durability.py",
        "            self.state.fence()\n",
        "",
        "missing flag: after a failed sync the next opening believes a page cache that may lie",
    ),
    Fault(
        "lock",
        "src/eventcore/disk_locks.py",
        "            raise\n        file_lock.hold(fd)\n        return fd\n",
        "            raise\n        return fd\n",
        "forgotten: a forked child keeps the folder of a killed writer locked",
    ),
    Fault(
        "state page",
        "src/eventcore/files/state_file.py",
        "mark if mark == ~complement and mark >= 0 else 0",
        "mark if mark >= 0 else 0",
        "missing check: a mark with a changed bit is believed, and so what is durable",
    ),
    Fault(
        "recovery",
        "src/eventcore/log/recovery.py",
        "self._mark = max(point.recovery_point, testament.mark)",
        "self._mark = point.recovery_point",
        "forgotten: damage to what was synced since the last checkpoint is taken for a torn tail, and cut",
    ),
)


class Verdict(NamedTuple):
    """What became of one fault."""

    fault: Fault
    tier: str
    test: str
    why: str
    seconds: float

    @property
    def is_red(self) -> bool:
        """Whether a test noticed."""
        return bool(self.test)


class Red(NamedTuple):
    """The first test that failed."""

    test: str
    why: str


def project_files() -> list[str]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def built_kernels() -> list[str]:
    found = [path.relative_to(ROOT).as_posix() for path in (ROOT / KERNELS).glob("*.so")]
    if not found:
        raise SystemExit("no kernels are built here: pip install -e '.[test]'")
    return found


def snapshot(folder: Path) -> Path:
    """What others change meanwhile must not differ from fault to fault."""
    for name in (*project_files(), *built_kernels()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    # Some tests ask git for the files of the project: generated C is none of them.
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    return folder


def misplaced(faults: Sequence[Fault], tree: Path) -> list[str]:
    """What is wrong with the list: it has to follow the code."""
    wrong = []
    for fault in faults:
        path = tree / fault.file
        count = path.read_text("utf-8").count(fault.old) if path.is_file() else 0
        if count != 1:
            wrong.append(f"{fault.layer}: {fault.file} has {count} times, not once: {fault.old!r}")
    return wrong


def plant(fault: Fault, tree: Path) -> None:
    path = tree / fault.file
    path.write_text(path.read_text("utf-8").replace(fault.old, fault.new), "utf-8")


def run_quietly(command: Sequence[str], what: str, **options: object) -> str:
    """What the command printed; ends everything if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise SystemExit(f"{what} failed:\n{(done.stdout + done.stderr)[-4000:]}")
    return str(done.stdout)


class Workshop:
    """A folder with the two environments: one with the tools to build kernels, one that knows only the copy."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tests = folder / "environment"
        self._tools = folder / "tools"
        self._temporary = folder / "tmp"
        self._temporary.mkdir()
        venv.create(self._tests, symlinks=True)

    def build(self, tree: Path) -> None:
        """Compile all kernels anew."""
        python = str(self._tools / "bin" / "python")
        if not self._tools.exists():
            venv.create(self._tools, symlinks=True, with_pip=True)
            run_quietly([python, "-m", "pip", "install", "-q", *BUILD_TOOLS], "installing the tools of the build")
        for old in (tree / KERNELS).glob("*.so"):
            old.unlink()
        run_quietly([python, "setup.py", "-q", "build_ext", "--inplace"], "building the kernels", cwd=tree)

    def use(self, tree: Path) -> None:
        """From now on `eventcore` is that of this copy. Ends everything if it is another, or does not work at all."""
        paths = {key: str(self._tests) for key in ("base", "platbase")}
        here = Path(sysconfig.get_path("purelib", "venv", vars=paths))
        # A path in a .pth file is only a path: .pth files in there, such as that of an editable install, have no say.
        others = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
        (here / "planted.pth").write_text("\n".join([str(tree / "src"), *others, ""]), "utf-8")
        with tempfile.TemporaryDirectory(dir=self._temporary) as log:
            printed = run_quietly(
                [self._python(), "-c", TRY, log], "appending and reading", cwd=tree, env=self._environment(tree)
            )
        for file in printed.split():
            if not Path(file).is_relative_to(tree):
                raise SystemExit(f"the tests would import {file}, which is not in {tree}")

    def _python(self) -> str:
        return str(self._tests / "bin" / "python")

    def _environment(self, tree: Path) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("EVENTCORE_", "PYTHON"))}
        return kept | {
            "PYTHONPATH": str(tree / "src"),
            "EVENTCORE_KERNELS": "native",
            "TMPDIR": str(self._temporary),
        }

    def first_red(self, tree: Path, options: Sequence[str]) -> Red | None:
        """The first test that fails, None if all pass."""
        command = [self._python(), "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--color=no", *options]
        environment = self._environment(tree) | {"COLUMNS": "500"}
        with (
            tempfile.TemporaryFile("w+") as output,
            subprocess.Popen(
                command, cwd=tree, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            ) as pytest,
        ):  # fmt: skip
            try:
                status = pytest.wait(TIER_SECONDS)
            except subprocess.TimeoutExpired:
                return Red("(none)", f"the tests did not end within {TIER_SECONDS} s")
            finally:
                end_group(pytest.pid)
            output.seek(0)
            printed = output.read()
        return red_of(status, printed)


def end_group(leader: int) -> None:
    """Whatever a failed test has left running."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def red_of(status: int, printed: str) -> Red | None:
    if status == 0:
        return None
    found = RED.search(printed)
    if found is None:
        raise SystemExit(f"pytest ended with status {status} without a failed test:\n{printed[-4000:]}")
    return Red(found["test"], found["why"] or "")


def check(fault: Fault, tree: Path, workshop: Workshop) -> Verdict:
    """Plant the fault into a fresh copy and run the tiers until one turns red."""
    plant(fault, tree)
    if fault.is_compiled:
        workshop.build(tree)
    workshop.use(tree)
    started = time.monotonic()
    for tier, options in TIERS.items():
        red = workshop.first_red(tree, options)
        if red is not None:
            return Verdict(fault, tier, red.test, red.why, time.monotonic() - started)
    return Verdict(fault, "", "", "", time.monotonic() - started)


def check_clean(tree: Path, workshop: Workshop) -> None:
    """Without a fault everything has to be green."""
    workshop.use(tree)
    for tier, options in TIERS.items():
        red = workshop.first_red(tree, options)
        if red is not None:
            raise SystemExit(f"red without any fault ({tier}): {red.test}: {red.why}")
    print("without a fault all is green", flush=True)


def row(verdict: Verdict) -> str:
    color = f"red ({verdict.tier})" if verdict.is_red else "GREEN"
    test = verdict.test or "no test"
    return f"{verdict.fault.layer:11s} {verdict.fault.file:38s} {color:13s} {verdict.seconds:5.0f} s  {test}"


def place() -> Path | None:
    """Memory, if there is enough: thousands of syncs need not wait for a disk."""
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ROOM_BYTES else None


def check_all(faults: Sequence[Fault], *, clean_first: bool) -> list[Verdict]:
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="eventcore-planted-", dir=place(), ignore_cleanup_errors=True) as name:
        folder = Path(name)
        origin = snapshot(folder / "origin")
        wrong = misplaced(faults, origin)
        if wrong:
            raise SystemExit("the list of faults does not follow the code any more:\n" + "\n".join(wrong))
        workshop = Workshop(folder)
        tree = folder / "copy"
        if clean_first:
            shutil.copytree(origin, tree)
            check_clean(tree, workshop)
            shutil.rmtree(tree)
        for fault in faults:
            shutil.copytree(origin, tree)
            verdicts.append(check(fault, tree, workshop))
            print(row(verdicts[-1]), f"            {verdicts[-1].why[:200]}".rstrip(), sep="\n", flush=True)
            shutil.rmtree(tree)
    return verdicts


def chosen(names: Sequence[str]) -> list[Fault]:
    known = {fault.layer.lower(): fault for fault in FAULTS}
    strange = [name for name in names if name.lower() not in known]
    if strange:
        raise SystemExit(f"no fault in {', '.join(strange)}; there is one in {', '.join(map(repr, known))}")
    return [known[name.lower()] for name in names] or list(FAULTS)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.planted", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="layers; all if none is named")
    parser.add_argument("--check-clean", action="store_true", help="first see that all is green without a fault")
    parser.add_argument("--list", action="store_true", help="only say what would be planted")
    options = parser.parse_args(arguments)
    faults = chosen(options.names)
    if options.list:
        print("\n".join(f"{fault.layer:11s} {fault.file}: {fault.breaks}" for fault in faults))
        return 0
    verdicts = check_all(faults, clean_first=options.check_clean)
    green = [verdict.fault for verdict in verdicts if not verdict.is_red]
    print("\n" + "\n".join(map(row, verdicts)))
    for fault in green:
        print(f"no test notices {fault.layer}: {fault.breaks}")
    print(f"{len(verdicts) - len(green)} of {len(verdicts)} faults turned the checks red")
    return 1 if green else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
