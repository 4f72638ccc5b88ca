"""arrow: a stream gives the schema, then one array after the other, then the end; an error is told by its words."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

na = pytest.importorskip("nanoarrow")


def collect(arrays: list[Any], schema: Any) -> Any:
    return na.Array.from_chunks(arrays, None if arrays else schema).__arrow_c_stream__()


class Stream:
    """What `export_stream` gave, for consumers."""

    def __init__(self, kernels: SimpleNamespace, arrays: Any, schema: Any = None) -> None:
        self._capsule = kernels.arrow.export_stream(schema or na.int64(), arrays, collect)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._capsule


def made(count: int) -> list[Any]:
    return [na.c_array([number, number + 1], na.int64()) for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_one_array_after_the_other(kernels: SimpleNamespace, count: int) -> None:
    stream = na.c_array_stream(Stream(kernels, iter(made(count))))
    assert stream.get_schema().format == "l"
    assert [na.Array(array).to_pylist() for array in stream] == [[number, number + 1] for number in range(count)]


def test_nobody_reads_it(kernels: SimpleNamespace) -> None:
    for _ in range(10):
        Stream(kernels, made(2))
    stream = na.c_array_stream(Stream(kernels, made(2)))
    stream.get_next()
    del stream
    gc.collect()


def test_an_error_is_told(pair: tuple[SimpleNamespace, SimpleNamespace]) -> None:
    def broken() -> Any:
        yield from made(1)
        raise ValueError("no ä more")

    stream = na.c_array_stream(Stream(pair[0], broken()))
    assert stream.get_next().length == 2
    with pytest.raises(Exception, match="ValueError: no ä more"):
        stream.get_next()
    with pytest.raises(ValueError, match="no ä more"):
        pair[1].arrow.export_stream(na.int64(), broken(), collect)


OUTLIVES = """
import ctypes, struct
from eventcore import _kernels as kernels
capsule = kernels.arrow.export_stream(object(), iter(()), None)
api = ctypes.pythonapi
pointer_of = api.PyCapsule_GetPointer
pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
stream = pointer_of(capsule, b"arrow_array_stream")
release = struct.unpack("@P", ctypes.string_at(stream + 24, 8))[0]
ctypes.CDLL(None).__cxa_atexit(ctypes.c_void_p(release), ctypes.c_void_p(stream), None)
api.Py_IncRef(ctypes.py_object(capsule))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the C library to be called at the very end")
def test_a_consumer_outlives_the_interpreter(pair: tuple[SimpleNamespace, SimpleNamespace]) -> None:
    environment = os.environ | {"EVENTCORE_KERNELS": "native"}
    assert subprocess.run([sys.executable, "-c", OUTLIVES], env=environment, check=False).returncode == 0


@pytest.mark.parametrize("given", [(), (None,), [], (None, None, None), 5, None], ids=str)
def test_an_array_that_gives_no_pair_of_capsules(pair: tuple[SimpleNamespace, SimpleNamespace], given: Any) -> None:
    class Odd:
        def __arrow_c_array__(self) -> Any:
            return given

    with pytest.raises(Exception, match=r"(Type|Value)Error"):
        na.c_array_stream(Stream(pair[0], [Odd()])).get_next()


class Untold(Exception):
    """An error that has no words."""

    def __str__(self) -> str:
        raise KeyError("no words")


@pytest.mark.parametrize(
    ("error", "words"), [(OSError("no \udcff here"), "OSError: no .*here"), (Untold(), "Untold")], ids=["path", "none"]
)
def test_an_error_without_proper_words_is_one_too(
    pair: tuple[SimpleNamespace, SimpleNamespace], error: Exception, words: str
) -> None:
    """A path that is no UTF-8 has such words. Told nothing, a consumer would use an array that nobody made."""

    def broken() -> Any:
        raise error
        yield

    with pytest.raises(Exception, match=words):
        na.c_array_stream(Stream(pair[0], broken())).get_next()

    class Schema:
        def __arrow_c_schema__(self) -> Any:
            raise error

    with pytest.raises(Exception, match=words):
        na.c_array_stream(Stream(pair[0], [], schema=Schema())).get_schema()


def test_what_is_no_array_or_schema(pair: tuple[SimpleNamespace, SimpleNamespace]) -> None:
    stream = na.c_array_stream(Stream(pair[0], [5]))
    with pytest.raises(Exception, match="__arrow_c_array__"):
        stream.get_next()
    with pytest.raises(Exception, match="__arrow_c_schema__"):
        na.c_array_stream(Stream(pair[0], [], schema=object())).get_schema()
    for kernels in pair:
        with pytest.raises(TypeError):
            kernels.arrow.export_stream(na.int64(), 5, collect)
