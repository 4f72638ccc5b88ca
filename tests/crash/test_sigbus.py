"""SIGBUS: a fault in one of our maps is a flag; every other one goes where it would have gone without us.

Each case is a process of its own, so that a kill is seen: its exit status is -7. Native only, the pure twin guards
nothing. The whole engine under the same faults is in test_sigbus_engine.py.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.mounts import fill, tmpfs
from tests.parity import twins
from tests.parity.conftest import NOT_BUILT

pytestmark = [
    pytest.mark.skipif(twins.load("native") is None, reason=NOT_BUILT),
    pytest.mark.skipif(sys.platform != "linux", reason="what faults where is written for Linux"),
]

KILLED = -signal.SIGBUS
PROLOGUE = """
import faulthandler, mmap, os, signal, sys, threading
from eventcore._native import guard
PAGE, path = mmap.PAGESIZE, sys.argv[1]
fd = os.open(path, os.O_RDWR | os.O_CREAT)

def mapping(pages=4, write=True, private=False, at=None):
    os.ftruncate(at or fd, max(os.fstat(at or fd).st_size, pages * PAGE))
    return guard.Mapping(at or fd, pages * PAGE, write, private)

def foreign_fault():
    stranger = os.open(path + ".foreign", os.O_RDWR | os.O_CREAT)
    os.ftruncate(stranger, PAGE)
    view = mmap.mmap(stranger, PAGE)
    os.ftruncate(stranger, 0)
    view[0] = 1
    print("survived", flush=True)
"""


def run(script: str, path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run it after the prologue; no core files, and the time it may take is bounded."""
    limits = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
    command = [sys.executable, *options, "-c", limits + PROLOGUE + script, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def expect(done: subprocess.CompletedProcess[str], code: int, output: str = "") -> None:
    assert (done.returncode, done.stdout) == (code, output), done.stderr


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def test_without_the_guard_a_truncated_map_kills(path: Path) -> None:
    """The judge: what the others survive does kill."""
    expect(run("foreign_fault()", path), KILLED)


@pytest.mark.parametrize(("write", "private"), [(True, False), (False, False), (True, True)])
def test_a_file_that_a_stranger_truncated(path: Path, write: bool, private: bool) -> None:
    script = f"""
m = mapping(4, write={write}, private={private})
other = mapping(4)
v = memoryview(m)
assert guard.is_guarded() and not m.broken and guard.faults() == 0
os.truncate(path, 1)
assert v[0] == 0 and not m.broken, "the page the file still has"
assert v[PAGE] == 0 and m.broken and guard.faults() == 1
assert v[PAGE + 1] == 0 and guard.faults() == 1, "the page is there now"
assert m.find(b"x", 0, len(m)) == -1 and guard.faults() == 3
assert not other.broken, "a flag of each map"
if {write or private}:
    v[PAGE : 2 * PAGE] = b"s" * PAGE
    assert bytes(v[PAGE : 2 * PAGE]) == b"s" * PAGE
os.truncate(path, 4 * PAGE)
assert m.broken, "once broken, for good"
assert not mapping(4).broken, "a new map is whole"
"""
    expect(run(script, path), 0)


def test_a_map_that_was_refused_takes_no_guard_away(path: Path) -> None:
    """An object whose arguments could not be read is there for a moment, too, and has no slot to give back."""
    script = """
m = mapping(4)
for arguments in ((), (fd,), ("no descriptor", 1, True), (fd, 0, True), (fd, 1 << 40, True), (-1, 1, True)):
    try:
        guard.Mapping(*arguments)
    except (TypeError, ValueError, OSError):
        continue
    raise SystemExit(f"{arguments} were taken")
os.truncate(path, 0)
assert memoryview(m)[0] == 0 and m.broken
"""
    expect(run(script, path), 0)


def test_a_store_into_a_truncated_file(path: Path) -> None:
    script = """
m = mapping(4)
os.truncate(path, 0)
memoryview(m)[: 3 * PAGE] = b"s" * (3 * PAGE)
assert m.broken and guard.faults() == 3
assert os.stat(path).st_size == 0
"""
    expect(run(script, path), 0)


def test_the_last_page_of_a_map_is_a_part(path: Path) -> None:
    script = """
os.ftruncate(fd, PAGE + 1)
m = guard.Mapping(fd, PAGE + 1, True)
os.truncate(path, 0)
assert memoryview(m)[PAGE] == 0 and m.broken and guard.faults() == 1
"""
    expect(run(script, path), 0)


@pytest.mark.sampled
@pytest.mark.parametrize("shared", [True, False])
def test_many_threads_fault_at_once(path: Path, shared: bool) -> None:
    """On the same pages of one map, and each on a map of its own."""
    script = f"""
maps = [mapping(256)] * 4 if {shared} else [mapping(256) for _ in range(4)]
barrier, ends = threading.Barrier(4), []
def play(m):
    barrier.wait()
    m.find(b"missing", 0, len(m))   # without the GIL
    for at in range(0, len(m), PAGE):
        memoryview(m)[at] = 1
    ends.append(m.broken)
os.truncate(path, 0)
threads = [threading.Thread(target=play, args=(m,)) for m in maps]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert ends == [True] * 4
assert guard.faults() >= 256 * len(set(map(id, maps)))
"""
    for _ in range(5):
        expect(run(script, path), 0)


@pytest.mark.sampled
def test_maps_come_and_go_while_others_fault(path: Path) -> None:
    """The table changes under the handler: only maps of the truncated file break, and each of them does."""
    script = """
whole = os.open(path + ".whole", os.O_RDWR | os.O_CREAT)
stop, rounds = threading.Event(), [0]
def fault():
    while not stop.is_set():
        m = mapping(64)
        os.truncate(path, 0)
        m.find(b"missing", 0, len(m))
        assert m.broken
        rounds[0] += 1
def come_and_go():
    while not stop.is_set():
        maps = [mapping(64, at=whole) for _ in range(50)]
        assert not any(m.find(b"missing", 0, len(m)) >= 0 or m.broken for m in maps)
failures = []
threading.excepthook = failures.append
threads = [threading.Thread(target=task) for task in (fault, come_and_go, come_and_go)]
[thread.start() for thread in threads]
while rounds[0] < 2000 and not failures:
    stop.wait(0.01)
stop.set()
[thread.join() for thread in threads]
assert not failures, failures
assert guard.faults() >= 2000
"""
    expect(run(script, path), 0)


def test_an_address_that_is_given_back_is_foreign(path: Path) -> None:
    """The map is gone, a foreign one takes its place: its fault is none of ours."""
    script = """
for _ in range(50):
    mapping(1)
foreign_fault()
"""
    expect(run(script, path), KILLED)


def test_a_forked_child_is_guarded(path: Path) -> None:
    script = """
m = mapping(4)
os.truncate(path, 0)
child = os.fork()
memoryview(m)[0] = 1
assert m.broken and guard.faults() == 1
if child:
    assert os.waitpid(child, 0)[1] == 0
else:
    own = mapping(4)
    os.truncate(path, 0)
    memoryview(own)[PAGE] = 1
    assert own.broken
"""
    expect(run(script, path), 0)


def test_the_table_is_full(path: Path) -> None:
    """A map that could not be guarded is not made; those given back make room."""
    script = """
def take(count):
    maps = []
    try:
        while len(maps) < count:
            maps.append(mapping(1))
    except OSError as error:
        print(error.errno, flush=True)
    return maps
maps = take(40000)
assert len(maps) == 32768
os.truncate(path, 0)
assert memoryview(maps[-1])[0] == 0 and maps[-1].broken and not maps[0].broken
os.truncate(path, PAGE)
del maps[-100:]
assert len(take(101)) == 100
assert len(take(100)) == 100
"""
    expect(run(script, path), 0, "12\n12\n")


def test_more_areas_than_the_kernel_allows(path: Path) -> None:
    """Every second page of a large map faults. Mended one by one they would split it into more areas than a process
    may have (65,530); after the first thousand the whole map is covered at once."""
    script = """
m = mapping(300_000)
other = mapping(4)
os.truncate(path, 0)
v = memoryview(m)
for at in range(0, len(m), 2 * PAGE):
    v[at] = 1
assert m.broken and not other.broken
assert 1000 < guard.faults() < 2000
"""
    expect(run(script, path), 0)


ORDERS = {
    "before": "faulthandler.enable(); m = mapping()",
    "after": "m = mapping(); faulthandler.enable()",
    "between": "m = mapping(); faulthandler.enable(); n = mapping()",
    "twice": "m = mapping(); faulthandler.enable(); n = mapping(); faulthandler.disable(); "
    "faulthandler.enable(); o = mapping()",
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("thread", [False, True])
def test_faulthandler_sees_foreign_faults(path: Path, order: str, thread: bool) -> None:
    call = "t = threading.Thread(target=foreign_fault); t.start(); t.join()" if thread else "foreign_fault()"
    done = run(f"{ORDERS[order]}\n{call}", path)
    expect(done, KILLED)
    assert done.stderr.count("Fatal Python error: Bus error") == 1
    assert "in foreign_fault" in done.stderr


@pytest.mark.parametrize("order", ["before", "between", "twice"])
def test_faulthandler_does_not_see_ours(path: Path, order: str) -> None:
    script = f"""{ORDERS[order]}
os.truncate(path, 0)
memoryview(m)[0] = 1
assert m.broken
"""
    done = run(script, path)
    expect(done, 0)
    assert done.stderr == ""


def test_faulthandler_switched_off_again(path: Path) -> None:
    """It stays in the chain behind ours, returns at once and mends nothing: that must not go on for ever."""
    expect(
        run("m = mapping(); faulthandler.enable(); n = mapping(); faulthandler.disable(); foreign_fault()", path),
        KILLED,
    )


def test_development_mode(path: Path) -> None:
    """python -X dev enables faulthandler before anything else."""
    expect(run("m = mapping(); os.truncate(path, 0); memoryview(m)[0] = 1; assert m.broken", path, "-X", "dev"), 0)


HANDLER = "signal.signal(signal.SIGBUS, lambda number, frame: print('python', number, flush=True))"
SENT = "os.kill(os.getpid(), signal.SIGBUS)"


@pytest.mark.parametrize(
    ("script", "code", "output"),
    [
        pytest.param(f"m = mapping(); {SENT}", KILLED, "", id="default"),
        pytest.param(f"{HANDLER}; m = mapping(); {SENT}; {SENT}", 0, "python 7\n" * 2, id="a handler before ours"),
        pytest.param(f"m = mapping(); {HANDLER}; {SENT}", 0, "python 7\n", id="a handler on top of ours"),
        pytest.param(f"m = mapping(); {HANDLER}; n = mapping(); {SENT}", 0, "python 7\n", id="ours on top again"),
        pytest.param(
            f"{HANDLER}; m = mapping(); signal.signal(signal.SIGBUS, signal.SIG_DFL); n = mapping(); {SENT}",
            KILLED,
            "",
            id="default again",
        ),
        pytest.param(
            f"signal.signal(signal.SIGBUS, signal.SIG_IGN); m = mapping(); {SENT}; print('on', flush=True)",
            0,
            "on\n",
            id="ignored",
        ),
        pytest.param(f"m = mapping(); faulthandler.enable(); n = mapping(); {SENT}", KILLED, "", id="faulthandler"),
    ],
)
def test_a_signal_that_was_sent(path: Path, script: str, code: int, output: str) -> None:
    expect(run(script, path), code, output)


@pytest.mark.parametrize("before", ["signal.SIG_IGN", "lambda number, frame: None"])
def test_a_foreign_fault_that_nobody_can_mend(path: Path, before: str) -> None:
    """Ignoring it, as well as Python's own handler, would run into it again and again."""
    expect(run(f"signal.signal(signal.SIGBUS, {before}); m = mapping(); foreign_fault()", path), KILLED)


def test_a_handler_that_calls_ours(path: Path) -> None:
    """Crash reporters call the handler they found, here ours, which is on top of theirs again: a circle, cut once."""
    script = """
import ctypes
class Action(ctypes.Structure):
    _fields_ = [("handler", ctypes.c_void_p), ("mask", ctypes.c_char * 128), ("flags", ctypes.c_int)]
    _fields_ += [("restorer", ctypes.c_void_p)]
libc, found = ctypes.CDLL(None), Action()
Handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
m = mapping()
libc.sigaction(signal.SIGBUS, None, ctypes.byref(found))
ours = Handler(found.handler)
def report(number, info, context):
    print("theirs", flush=True)
    ours(number, info, context)
theirs = Handler(report)
found.handler = ctypes.cast(theirs, ctypes.c_void_p)
libc.sigaction(signal.SIGBUS, ctypes.byref(found), None)
n = mapping()
foreign_fault()
"""
    expect(run(script, path), KILLED, "theirs\n")


def test_our_faults_under_another_handler(path: Path) -> None:
    script = f"""
m = mapping()
{HANDLER}
n = mapping()
os.truncate(path, 0)
memoryview(m)[0] = memoryview(n)[0] = 1
assert m.broken and n.broken
"""
    expect(run(script, path), 0)


def test_a_hole_on_a_full_disk(path: Path) -> None:
    script = """
m = mapping(64)
v = memoryview(m)
before = guard.faults()
for at in range(0, len(m), PAGE):
    v[at] = 1
assert m.broken and guard.faults() > before
try:
    mapping(64).populate(0, 64 * PAGE)
except OSError as error:
    print(error.errno)
"""
    with tmpfs(1 << 20) as folder:
        ballast = fill(folder)
        expect(run(script, folder / "file"), 0, "14\n")
        ballast.unlink()
        expect(run("m = mapping(64); m.populate(0, len(m)); assert not m.broken", folder / "file"), 0)
