"""How long until a waiting reader in another process is awake, and has a new record, against the wake-up by a pipe.

`python -m bench.bench_wakeup` prints the medians; `pytest bench/bench_wakeup.py` is a check of the results alone. What
is sent is the time it was sent at. `wake-up` is from the writer's publication in the state page to the reader's return
from `wait`; its goal is at most 1.5 times the pipe's, in the same run. `record` is all of it: from the call of `append`
in one process to the record from `Partition.tail` in the other, the encoding, index and decoding included.
"""

from __future__ import annotations

import gc
import os
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import eventcore as ec
from eventcore.disk import Disk
from eventcore.files.state_file import StateFile, tail

GOAL = 1.5
_STAMP = struct.Struct("=q")
_END = _STAMP.pack(-1)


def receive(folder: Path, pipe: int, answer: int) -> None:
    """The other process: take both kinds in turn, answer with the nanoseconds each was on its way."""
    gc.disable()
    state = StateFile(Disk(), folder.parent / "page", create=False)
    with ec.open_partition(folder, "r") as reader:
        records = reader.tail(0, timeout=30)
        while True:
            sent = os.read(pipe, _STAMP.size)
            on_pipe = time.perf_counter_ns() - _STAMP.unpack(sent)[0]
            if sent == _END:
                return
            os.write(answer, _STAMP.pack(on_pipe))
            seen = state.signal()
            os.write(answer, _STAMP.pack(0))
            state.wait(seen, 30)
            awake = time.perf_counter_ns() - state.load(tail.LOG_END)
            os.write(answer, _STAMP.pack(awake))
            value = next(records).value or b""
            in_log = time.perf_counter_ns() - _STAMP.unpack(value)[0]
            os.write(answer, _STAMP.pack(in_log))


def measure(folder: Path, rounds: int, pause_s: float = 0.002) -> dict[str, list[int]]:
    """Nanoseconds of each wake-up; before each the other process has had time to fall asleep."""
    times: dict[str, list[int]] = {"pipe": [], "wake-up": [], "record": []}
    state = StateFile(Disk(), folder.parent / "page", create=True)
    (pipe_out, pipe_in), (answer_out, answer_in) = os.pipe(), os.pipe()
    with ec.open_partition(folder, "rw", "never") as p:
        pid = os.fork()
        if pid == 0:
            try:
                receive(folder, pipe_out, answer_in)
            finally:
                os._exit(0)

        def once(name: str, send: Callable[[], object]) -> None:
            time.sleep(pause_s)
            send()
            times[name].append(_STAMP.unpack(os.read(answer_out, _STAMP.size))[0])

        try:
            for _ in range(rounds):
                once("pipe", lambda: os.write(pipe_in, _STAMP.pack(time.perf_counter_ns())))
                os.read(answer_out, _STAMP.size)  # it is about to wait
                once("wake-up", lambda: state.publish(0, 0, time.perf_counter_ns(), 0))
                once("record", lambda: p.append(_STAMP.pack(time.perf_counter_ns())))
        finally:
            os.write(pipe_in, _END)
            os.waitpid(pid, 0)
            for fd in (pipe_out, pipe_in, answer_out, answer_in):
                os.close(fd)
    return times


def test_everything_arrives(tmp_path: Path) -> None:
    times = measure(tmp_path / "events-0", 20)
    assert [len(found) for found in times.values()] == [20, 20, 20]
    assert min(min(found) for found in times.values()) > 0


def main() -> dict[str, float]:
    """The medians, and the goal."""
    gc.disable()
    with tempfile.TemporaryDirectory() as ground:
        times = measure(Path(ground) / "events-0", 2000)
    gc.enable()
    found = {name: median(values) for name, values in times.items()}
    ratio = found["wake-up"] / found["pipe"]
    print("\nA reader in another process that was asleep")
    for name, taken in found.items():
        print(f"  {name:<12}{taken / 1000:>8.1f} us")
    print(f"  wake-up ÷ pipe: {ratio:.2f}  goal at most {GOAL:g}: {'met' if ratio <= GOAL else 'MISSED'}")
    return {**found, "ratio": ratio}


if __name__ == "__main__":
    main()
