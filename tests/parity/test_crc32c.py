"""CRC-32C: both twins against published vectors, every native kernel against the pure twin."""

from __future__ import annotations

import array
import ctypes
import inspect
import mmap
import random
import struct
import sys
from importlib import import_module
from pathlib import Path
from threading import Thread
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventcore._pure import crc32c as pure
from eventcore.errors import UsageError

try:
    native: ModuleType | None = import_module("eventcore._native.crc32c")
except ModuleNotFoundError as error:  # a module that is there and cannot be loaded is a failure, not a skip
    if error.name != "eventcore._native.crc32c":
        raise
    native = None

needs_native = pytest.mark.skipif(native is None, reason="built without native kernels (EVENTCORE_PURE)")
TWINS = [pytest.param(pure, id="pure"), pytest.param(native, id="native", marks=needs_native)]
KERNELS = [pytest.param(pure, "pure", id="pure")]
if native is None:
    KERNELS.append(pytest.param(None, "", id="native", marks=needs_native))
else:
    KERNELS += [pytest.param(native, name, id=f"native-{name}") for name in native.available()]

SCSI_READ = bytes.fromhex(
    "01c000000000000000000000000000001400000000000400000000140000001828000000000000000200000000000000"
)
VECTORS = [  # RFC 3720 appendix B.4, the check value of the CRC catalogues, and single bytes worked out by hand
    (b"", 0x00000000),
    (b"\x00", 0x527D5351),
    (b"a", 0xC1D04330),
    (b"123456789", 0xE3069283),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
    (SCSI_READ, 0xD9963A56),
]
NOISE = random.Random(2301).randbytes(1 << 18)
# Where a kernel changes its way: blocks of 64 and 256 bytes, three streams of at most 8192, the GIL let go at 65536.
BOUNDS = (1088, 1280, 2048, 4096, 6144, 24576, 24576 + 144, 49152, 65536, 131072)
EDGES = sorted(bound + near for bound in BOUNDS for near in (-8, -1, 0, 1, 7, 63))


def bit_by_bit(data: bytes, value: int = 0) -> int:
    """The definition: shift the register right once a bit, subtract the polynomial for each bit that falls out."""
    register = value ^ 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize(("twin", "kernel"), KERNELS)
@pytest.mark.parametrize(("data", "crc"), VECTORS)
def test_published_vectors(twin: ModuleType, kernel: str, data: bytes, crc: int) -> None:
    assert twin.crc32c(data) == crc
    assert twin.crc32c_with(kernel, data) == crc


@given(data=st.binary(max_size=200), value=st.integers(0, 2**32 - 1))
def test_pure_is_the_definition(data: bytes, value: int) -> None:
    assert pure.crc32c(data, value) == bit_by_bit(data, value)


@needs_native
@pytest.mark.parametrize("kernel", native.available() if native else [])
def test_every_size_and_alignment(kernel: str) -> None:
    assert native
    view = memoryview(NOISE)
    for size in range(1025):
        for start in (0, 1 + size % 63):
            data = view[start : start + size]
            assert native.crc32c_with(kernel, data, size) == pure.crc32c(data, size), (start, size)


@needs_native
@pytest.mark.parametrize("kernel", native.available() if native else [])
@pytest.mark.parametrize("size", EDGES)
def test_sizes_where_a_kernel_changes_its_way(kernel: str, size: int) -> None:
    assert native
    data = memoryview(NOISE)[5 : 5 + size]
    assert native.crc32c_with(kernel, data) == pure.crc32c(data)


@needs_native
@pytest.mark.parametrize("kernel", native.available() if native else [])
def test_every_single_bit_counts(kernel: str) -> None:
    assert native
    blank = bytearray(777)
    seen = {native.crc32c_with(kernel, blank)}
    for position in range(len(blank)):
        for bit in range(8):
            blank[position] = 1 << bit
            seen.add(native.crc32c_with(kernel, blank))
        blank[position] = 0
    assert len(seen) == 1 + 8 * len(blank)


@pytest.mark.parametrize(("twin", "kernel"), KERNELS)
@given(data=st.binary(max_size=700), at=st.integers(0, 700), value=st.integers(0, 2**32 - 1))
def test_a_crc_can_be_continued(twin: ModuleType, kernel: str, data: bytes, at: int, value: int) -> None:
    whole = twin.crc32c_with(kernel, data, value)
    assert twin.crc32c_with(kernel, data[at:], twin.crc32c_with(kernel, data[:at], value)) == whole
    assert whole == pure.crc32c(data, value)


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("size", [0, 9, 4096, 70000])
def test_every_kind_of_buffer(twin: ModuleType, size: int) -> None:
    data = NOISE[:size]
    crc = pure.crc32c(data)
    views = [memoryview(data), memoryview(bytearray(b"-" + data + b"-"))[1:-1], memoryview(data).toreadonly()]
    for buffer in (data, bytearray(data), array.array("B", data), type("Sub", (bytes,), {})(data), *views):
        assert twin.crc32c(buffer) == crc
        assert twin.crc32c(data=buffer, value=0) == crc


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("access", [mmap.ACCESS_READ, mmap.ACCESS_WRITE])
def test_a_mapped_file(twin: ModuleType, tmp_path: Path, access: int) -> None:
    path = tmp_path / "00000000000000000000.log"
    path.write_bytes(NOISE[:10000])
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, access=access) as mapped:
        assert twin.crc32c(mapped) == pure.crc32c(NOISE[:10000])
        with memoryview(mapped) as view:
            assert twin.crc32c(view[3:9000]) == pure.crc32c(NOISE[3:9000])


@pytest.mark.parametrize("twin", TWINS)
def test_arrays_count_as_their_bytes(twin: ModuleType) -> None:
    numpy = pytest.importorskip("numpy")
    for dtype in ("u1", "<i8", ">u4", "f8", "?", [("key", "<i2"), ("size", ">i4")]):
        numbers = numpy.arange(120).astype(dtype)
        assert twin.crc32c(numbers) == pure.crc32c(numbers.tobytes())
        assert twin.crc32c(numbers.reshape(4, 30)) == pure.crc32c(numbers.tobytes())
    assert twin.crc32c(numpy.zeros((0, 3))) == 0
    assert twin.crc32c(numpy.int64(7)) == pure.crc32c(struct.pack("=q", 7))
    numbers = numpy.arange(24, dtype="u1").reshape(4, 6)
    for gappy in (numbers[:, ::2], numbers.T, numbers[::-1]):
        with pytest.raises(BufferError, match="C-contiguous"):
            twin.crc32c(gappy)


@pytest.mark.parametrize("twin", TWINS)
def test_a_view_with_gaps_is_refused(twin: ModuleType) -> None:
    with pytest.raises(BufferError, match="C-contiguous"):
        twin.crc32c(memoryview(b"123456789")[::2])


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("data", ["text", None, 7, 1.5, [1, 2], object()])
def test_no_buffer_is_a_type_error(twin: ModuleType, data: object) -> None:
    with pytest.raises(TypeError):
        twin.crc32c(data)


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("value", [-1, 2**32, 2**63, 2**64, -(2**80)])
@pytest.mark.parametrize("data", [b"", b"x", bytearray(b"x")])
def test_a_value_that_is_no_crc(twin: ModuleType, data: bytes, value: int) -> None:
    with pytest.raises(ValueError, match=r"0 <= value < 2\*\*32"):
        twin.crc32c(data, value)


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("value", [1.0, "1", None, b"\x01"])
def test_a_value_that_is_no_integer(twin: ModuleType, value: object) -> None:
    with pytest.raises(TypeError):
        twin.crc32c(b"x", value)


@pytest.mark.parametrize("twin", TWINS)
def test_the_largest_crc_and_index_objects(twin: ModuleType) -> None:
    class One:
        def __index__(self) -> int:
            return 1

    assert twin.crc32c(b"", 2**32 - 1) == 2**32 - 1
    assert twin.crc32c(b"x", One()) == twin.crc32c(b"x", 1) == twin.crc32c(b"x", True)


@pytest.mark.parametrize("twin", TWINS)
def test_names(twin: ModuleType) -> None:
    assert twin.implementation() == twin.available()[0]
    assert len(set(twin.available())) == len(twin.available())
    for name in ("", "crc32", twin.available()[0] + " "):
        with pytest.raises(UsageError, match="no CRC-32C implementation"):
            twin.crc32c_with(name, b"")


@needs_native
def test_the_table_is_always_there() -> None:
    assert native
    assert native.available()[-1] == "table"


@needs_native
def test_the_twins_have_the_same_functions() -> None:
    assert native
    for name in ("crc32c", "implementation", "available", "crc32c_with"):
        twins = [inspect.signature(getattr(twin, name)).parameters.values() for twin in (pure, native)]
        ours, theirs = ([(parameter.name, parameter.default) for parameter in twin] for twin in twins)
        assert ours == theirs


@needs_native
def test_what_other_compiled_modules_call() -> None:
    assert native
    capsule, signature = native.__pyx_capi__["crc32c_update"], b"uint32_t (uint32_t, unsigned char const *, size_t)"
    address = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )(capsule, signature)
    update = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_uint32, ctypes.c_char_p, ctypes.c_size_t)(address)
    assert update(0, b"123456789", 9) == 0xE3069283
    assert update(update(0, NOISE, 1000), NOISE[1000:], 4000) == pure.crc32c(NOISE[:5000])


@pytest.mark.parametrize("twin", TWINS)
def test_a_buffer_is_given_back(twin: ModuleType) -> None:
    data = bytearray(NOISE[:70000])
    twin.crc32c(data)
    with pytest.raises(ValueError, match="0 <= value"):
        twin.crc32c(data, -1)
    data.append(0)  # BufferError while anything still holds the buffer
    before = sys.getrefcount(data)
    twin.crc32c(data)
    assert sys.getrefcount(data) == before


@pytest.mark.parametrize("twin", TWINS)
def test_threads_do_not_mix(twin: ModuleType) -> None:
    expected = {start: pure.crc32c(NOISE[start : start + 66000]) for start in range(4)}
    wrong: list[int] = []

    def run(start: int) -> None:
        data = NOISE[start : start + 66000]
        wrong.extend(start for _ in range(3) if twin.crc32c(data) != expected[start])

    threads = [Thread(target=run, args=(start,)) for start in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
