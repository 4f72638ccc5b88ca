"""read: ranges, both forms, and that what is printed is what is stored."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

import eventcore as ec

from .conftest import Run


def offsets(run: Run, folder: Path, *options: object) -> list[int]:
    return [item["offset"] for item in run("read", folder, "--json", *options).objects]


def test_json_holds_every_byte(run: Run, folder: Path) -> None:
    objects = run("read", folder, "--json").objects
    assert objects == [
        {"offset": 0, "timestamp": 1000, "key": "k0", "value": "one", "headers": []},
        {
            "offset": 1,
            "timestamp": 2000,
            "key": {"base64": base64.b64encode(b"\xff\x00").decode()},
            "value": {"base64": base64.b64encode(b"\xfe\xed").decode()},
            "headers": [],
        },
        {"offset": 2, "timestamp": 3000, "key": None, "value": None, "headers": []},
        {"offset": 3, "timestamp": 4000, "key": "", "value": "grün\x1b[2J\n", "headers": []},
        {"offset": 4, "timestamp": 5000, "key": "k4", "value": "last", "headers": [["id", "7"], ["id", None]]},
    ]


def test_plain_lines_are_readable_and_cannot_move_the_cursor(run: Run, folder: Path) -> None:
    lines = run("read", folder).text.splitlines()
    assert lines == [
        "       0  1970-01-01T00:00:01.000Z  k0  one",
        "       1  1970-01-01T00:00:02.000Z  0xff00  0xfeed",
        "       2  1970-01-01T00:00:03.000Z  null  null",
        "       3  1970-01-01T00:00:04.000Z    grün\\x1b[2J\\n",
        "       4  1970-01-01T00:00:05.000Z  k4  last  {id=7, id=null}",
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), [0, 1, 2, 3, 4]),
        (("--from", 3), [3, 4]),
        (("--from", 5), []),
        (("--to", 2), [0, 1]),
        (("--to", 99), [0, 1, 2, 3, 4]),
        (("--from", 1, "--to", 4), [1, 2, 3]),
        (("--limit", 0), []),
        (("--limit", 3), [0, 1, 2]),
        (("--from", 1, "--limit", 2), [1, 2]),
        (("--since", "3000"), [2, 3, 4]),
        (("--since", "1970-01-01T00:00:03.001Z"), [3, 4]),
        (("--since", "1970-01-01T02:00:04+02:00"), [3, 4]),
        (("--since", "3000", "--from", 4), [4]),
        (("--since", "9999"), []),
        (("--committed",), [0, 1, 2, 3, 4]),
    ],
)
def test_ranges(run: Run, folder: Path, options: tuple[object, ...], expected: list[int]) -> None:
    assert offsets(run, folder, *options) == expected


def test_a_limit_holds_across_chunks(run: Run, tmp_path: Path) -> None:
    run("append", tmp_path / "p", stdin=b"x\n" * 20_000)
    for limit in (4_095, 4_096, 4_097, 12_000):
        assert offsets(run, tmp_path / "p", "--limit", limit) == list(range(limit))


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (("--from", 6), 1, "it holds offsets 0 to 4"),
        (("--from", -1), 2, "--from"),
        (("--from", "x"), 2, "--from"),
        (("--from", 3, "--to", 2), 2, "lies below --from 3"),
        (("--limit", -1), 2, "--limit"),
        (("--since", "yesterday"), 2, "is no time"),
        (("--since", "2020-01-01T00:00:00"), 2, "has no zone"),
        (("--nope",), 2, "--nope"),
    ],
)
def test_wrong_ranges(run: Run, folder: Path, options: tuple[object, ...], code: int, reason: str) -> None:
    ended = run("read", folder, *options)
    assert ended.code == code
    assert reason in ended.error
    assert ended.out == b""


def test_it_reads_while_a_writer_is_active(run: Run, folder: Path) -> None:
    with ec.open_partition(folder) as writer:
        writer.append(b"now")
        assert offsets(run, folder) == [0, 1, 2, 3, 4, 5]


def test_committed_leaves_out_an_open_transaction(run: Run, folder: Path) -> None:
    with ec.open_partition(folder) as writer, ec.open_partition(folder.with_name("other")) as other:
        other.append(b"in a transaction")
        batch = bytearray(other.fetch(0).data)
        batch[21:23] = (0x10).to_bytes(2, "big")
        batch[43:57] = (7).to_bytes(8, "big") + bytes(2) + bytes(4)
        batch[17:21] = _crc32c(bytes(batch[21:])).to_bytes(4, "big")
        writer.append_batches(bytes(batch))
        writer.append(b"behind it")
    assert offsets(run, folder) == [0, 1, 2, 3, 4, 5, 6]
    assert offsets(run, folder, "--committed") == [0, 1, 2, 3, 4]
    (*_, dumped, _) = run("dump", folder, "--json").objects
    assert (dumped["producerId"], dumped["isTransactional"], dumped["isvalid"]) == (7, True, True)


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def break_batch(folder: Path, text: bytes) -> None:
    """Change a byte of the batch that holds `text`."""
    log = folder / "00000000000000000000.log"
    data = bytearray(log.read_bytes())
    data[data.index(text)] ^= 1
    log.write_bytes(data)


def test_damage_ends_a_read_with_an_error(run: Run, folder: Path) -> None:
    break_batch(folder, "grün".encode())
    with ec.open_partition(folder) as partition:  # a writer believes a clean close; the damage shows on reading
        assert partition.log_end_offset == 5
        ended = run("read", folder, "--json")
        assert run("read", folder, "--from", 4).text.endswith("last  {id=7, id=null}\n")
    assert ended.code == 1
    assert "does not match" in ended.error
    assert [item["offset"] for item in ended.objects] in ([], [0, 1])


def test_damage_hides_no_good_record_before_it(run: Run, folder: Path) -> None:
    break_batch(folder, "grün".encode())
    with ec.open_partition(folder):
        assert offsets(run, folder) == [0, 1]


def test_damage_of_the_last_batch_hides_no_good_record_before_it(run: Run, tmp_path: Path) -> None:
    lines = [b"%04d" % number + b"x" * 5000 for number in range(10)]
    run("append", tmp_path / "p", "--batch", 1, stdin=b"\n".join(lines))
    break_batch(tmp_path / "p", b"0009x")
    assert offsets(run, tmp_path / "p")[:9] == list(range(9))
