"""tail: publish, load, wait, between threads and between processes; both twins, and each with the other."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.parity import twins
from tests.parity.conftest import NOT_BUILT

LONG_NS = 120_000_000_000
FOREVER_NS = (1 << 63) - 1
SHORT_NS = 20_000_000
WORDS = ("LOG_START", "LAST_STABLE", "HIGH_WATERMARK", "LOG_END", "DURABLE", "GENERATION")


@pytest.fixture(params=[("native", "native"), ("pure", "pure"), ("native", "pure"), ("pure", "native")], ids="-".join)
def two(request: pytest.FixtureRequest) -> tuple[SimpleNamespace, SimpleNamespace]:
    """(who publishes, who waits)."""
    found = [twins.load(kind) for kind in request.param]
    if None in found:
        pytest.skip(NOT_BUILT)
    return found[0], found[1]  # type: ignore[return-value]


@pytest.fixture
def state_path(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.write_bytes(bytes(4096))
    return path


@pytest.fixture
def state(state_path: Path) -> Iterator[mmap.mmap]:
    with state_path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        yield mapped


def test_words(kernels: SimpleNamespace) -> None:
    tail, state = kernels.tail, bytearray(4096)
    tail.publish(state, 1, 2, -3, 1 << 62)
    tail.store(state, tail.LOG_START, twins.INT64_MIN)
    tail.store(state, tail.GENERATION, twins.INT64_MAX)
    words = {name: tail.load(state, getattr(tail, name)) for name in WORDS}
    assert words == dict(zip(WORDS, (twins.INT64_MIN, 1, 2, -3, 1 << 62, twins.INT64_MAX), strict=True))
    at = tail.HIGH_WATERMARK
    assert state[at : at + 8] == (2).to_bytes(8, sys.byteorder)


def test_twins_store_the_same_bytes() -> None:
    native, pure = (twins.load(kind) for kind in ("native", "pure"))
    if native is None or pure is None:
        pytest.skip(NOT_BUILT)
    mine, other = bytearray(4096), bytearray(4096)
    for kernels, state in ((native, mine), (pure, other)):
        kernels.tail.publish(state, 10, 20, 30, 40)
        kernels.tail.store(state, kernels.tail.LOG_START, 5)
        kernels.tail.wake(state)
    assert mine == other


@pytest.mark.parametrize("at", [0, 56, 63, 65, 68, 112, 116, 4096, -8])
def test_no_such_word(kernels: SimpleNamespace, at: int) -> None:
    for call in (lambda: kernels.tail.load(bytearray(4096), at), lambda: kernels.tail.store(bytearray(4096), at, 1)):
        with pytest.raises(ValueError, match="word"):
            call()


def calls(tail: Any, state: Any) -> list[Any]:
    return [
        lambda: tail.store(state, tail.LOG_END, 1),
        lambda: tail.publish(state, 1, 1, 1, 1),
        lambda: tail.wake(state),
        lambda: tail.load(state, tail.LOG_END),
        lambda: tail.signal(state),
        lambda: tail.wait(state, 1, 0),
    ]


def test_a_state_that_is_too_short(kernels: SimpleNamespace) -> None:
    for call in calls(kernels.tail, bytearray(4095)):
        with pytest.raises(ValueError, match="4096"):
            call()


def test_a_state_that_is_read_only(kernels: SimpleNamespace) -> None:
    page = bytes(4096)
    writes, reads = calls(kernels.tail, page)[:3], calls(kernels.tail, page)[3:]
    for call in writes:
        with pytest.raises(TypeError):
            call()
    assert [call() for call in reads] == [0, 0, True]
    assert not any(page)


def test_each_publication_changes_the_signal(kernels: SimpleNamespace) -> None:
    tail, state = kernels.tail, bytearray(4096)
    state[tail.SIGNAL : tail.SIGNAL + 4] = b"\xff" * 4
    seen = {tail.signal(state)}
    for step in (lambda: tail.wake(state), lambda: tail.publish(state, 1, 2, 3, 4)):
        step()
        assert tail.signal(state) not in seen
        seen.add(tail.signal(state))
    tail.store(state, tail.LOG_END, 7)
    assert tail.signal(state) in seen


def test_wait_times_out(kernels: SimpleNamespace) -> None:
    tail, state = kernels.tail, bytearray(4096)
    for form in (state, memoryview(state).toreadonly()):
        for timeout_ns in (-1, 0, SHORT_NS):
            assert tail.wait(form, tail.signal(state), timeout_ns) is False
    assert tail.wait(state, tail.signal(state) + 1, FOREVER_NS) is True


@pytest.mark.nightly
def test_wait_takes_as_long_as_it_is_told(kernels: SimpleNamespace) -> None:
    tail, state = kernels.tail, bytearray(4096)
    for timeout_ns in (-1, 0, SHORT_NS):
        start = time.monotonic_ns()
        assert tail.wait(state, tail.signal(state), timeout_ns) is False
        assert timeout_ns <= time.monotonic_ns() - start < 10_000_000_000


def wake_later(tail: Any, state: Any, delay_s: float = 0.05) -> threading.Timer:
    timer = threading.Timer(delay_s, lambda: tail.publish(state, 1, 2, 3, 4))
    timer.start()
    return timer


@pytest.mark.sampled
@pytest.mark.parametrize("read_only", [False, True])
def test_wait_wakes_up(two: Any, state: mmap.mmap, state_path: Path, read_only: bool) -> None:
    publisher, waiter = (kernels.tail for kernels in two)
    with state_path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        mine = mapped if read_only else state
        seen = waiter.signal(mine)
        timer = wake_later(publisher, state)
        assert waiter.wait(mine, seen, LONG_NS) is True
        assert waiter.load(mine, waiter.LOG_END) == 3
        timer.join()


def test_a_waiter_raises_the_flag_and_a_wake_up_takes_it_down() -> None:
    native = twins.load("native")
    if native is None:
        pytest.skip(NOT_BUILT)
    tail, state = native.tail, bytearray(4096)
    tail.wait(state, 0, 1)
    assert state[tail.WAITERS] == 1
    tail.wake(state)
    assert state[tail.WAITERS] == 0


ROUNDS = {("native", "native"): 5000, ("pure", "pure"): 60}


def handed_to_and_fro(two: Any, rounds: int) -> float:
    """Two threads hand a number to and fro, so many times; the longest wait of one of them in seconds."""
    state, words = bytearray(4096), (two[0].tail.LOG_END, two[0].tail.DURABLE)
    waits: list[float] = [0.0]

    def play(tail: Any, mine: int, other: int, ahead: int) -> None:
        for turn in range(rounds):
            while True:
                seen, start = tail.signal(state), time.monotonic()
                if tail.load(state, other) >= turn + ahead:
                    break
                assert tail.wait(state, seen, LONG_NS)
                waits.append(time.monotonic() - start)
            tail.store(state, mine, turn + 1)
            tail.wake(state)

    thread = threading.Thread(target=play, args=(two[1].tail, words[1], words[0], 1))
    thread.start()
    play(two[0].tail, words[0], words[1], 0)
    thread.join()
    assert two[1].tail.load(state, words[1]) == rounds
    return max(waits)


@pytest.mark.sampled
def test_two_hand_a_number_to_and_fro(two: Any) -> None:
    """A native waiter cannot be woken by a pure publisher and looks again after a second; there, few rounds will do."""
    handed_to_and_fro(two, ROUNDS.get((two[0].kind, two[1].kind), 2))


@pytest.mark.nightly
def test_no_wake_up_is_lost(two: Any) -> None:
    """Who sleeps through a wake-up sleeps for a second."""
    kinds = (two[0].kind, two[1].kind)
    if kinds in ROUNDS:
        assert handed_to_and_fro(two, ROUNDS[kinds]) < 0.9


def test_every_waiter_wakes_up(kernels: SimpleNamespace, state: mmap.mmap) -> None:
    tail = kernels.tail
    seen, results = tail.signal(state), []
    threads = [threading.Thread(target=lambda: results.append(tail.wait(state, seen, LONG_NS))) for _ in range(8)]
    for thread in threads:
        thread.start()
    wake_later(tail, state).join()
    for thread in threads:
        thread.join()
    assert results == [True] * 8


CHILD = """
import mmap, sys
from importlib import import_module
kind, path, seen = sys.argv[1:]
tail = import_module(f"eventcore._{kind}.tail")
with open(path, "r+b") as file:
    state = mmap.mmap(file.fileno(), 0)
print("ready", flush=True)
print(tail.wait(state, int(seen), 120_000_000_000), tail.load(state, tail.LOG_END), flush=True)
"""


def child(kind: str, path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", CHILD, kind, path, "0"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.sampled
def test_another_process_wakes_up(two: Any, state: mmap.mmap, state_path: Path) -> None:
    with child(two[1].kind, state_path) as process:
        time.sleep(0.1)
        two[0].tail.publish(state, 1, 2, 3, 4)
        assert process.communicate()[0] == "True 3\n"


@pytest.mark.skipif(os.name != "posix", reason="signals to a process are POSIX")
def test_ctrl_c_ends_a_wait(kernels: SimpleNamespace, state_path: Path) -> None:
    with child(kernels.kind, state_path) as process:
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.communicate()[0] == "", "it was not the end of its wait"
        assert process.returncode not in (0, None)


@pytest.mark.sampled
@pytest.mark.parametrize("read_only", [False, True])
def test_ctrl_c_that_another_thread_took_ends_a_wait(kernels: SimpleNamespace, read_only: bool) -> None:
    """The sleep itself is not interrupted then: whoever wakes has to ask. If he did not, this test would not end."""
    state: Any = bytearray(4096)
    form = memoryview(state).toreadonly() if read_only else state
    timer = threading.Timer(0.05, signal.raise_signal, [signal.SIGINT])

    def wait_for_ctrl_c() -> None:
        timer.start()
        kernels.tail.wait(form, 0, FOREVER_NS)

    with pytest.raises(KeyboardInterrupt):
        wait_for_ctrl_c()
    timer.join()
