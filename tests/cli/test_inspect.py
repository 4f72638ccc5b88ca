"""stat, dump, verify: what operators look at."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import eventcore as ec

from .conftest import Run

LOG = "00000000000000000000.log"


def damage(folder: Path) -> None:
    """Break the second batch of two, but not the last."""
    data = bytearray((folder / LOG).read_bytes())
    data[data.index(b"gr\xc3\xbcn")] ^= 1
    (folder / LOG).write_bytes(data)


@pytest.fixture
def segmented(run: Run, tmp_path: Path) -> Path:
    """A log of several segments."""
    path = tmp_path / "many-0"
    run("append", path, "--batch", 20, "--config", "segment.bytes=4096", stdin=b"x" * 60 + b"\n" + b"some text\n" * 999)
    return path


def test_stat_as_json(run: Run, folder: Path) -> None:
    (facts,) = run("stat", folder, "--json").objects
    assert facts["path"] == str(folder)
    for name in ("last_stable_offset", "high_watermark", "log_end_offset", "durable_offset"):
        assert facts[name] == 5
    assert (facts["log_start_offset"], facts["leader_epoch"], facts["producers"]) == (0, 0, 0)
    assert (facts["closed"], facts["bytes_behind_end"]) == (True, 0)
    (segment,) = facts["segments"]
    assert (segment["base_offset"], segment["next_offset"]) == (0, 5)
    assert (segment["first_timestamp"], segment["max_timestamp"]) == (1000, 5000)
    assert segment["bytes"] == facts["bytes"] == (folder / LOG).stat().st_size
    assert {name: facts[name] for name in ec.build_info()} == ec.build_info()


def test_stat_of_a_log_somebody_writes(run: Run, folder: Path) -> None:
    with ec.open_partition(folder) as writer:
        writer.append(b"x", timestamp=9000)
        (facts,) = run("stat", folder, "--json").objects
        assert (facts["closed"], facts["high_watermark"]) == (False, 6)
        assert facts["segments"][0]["max_timestamp"] == 9000
        assert "a writer is active" in run("stat", folder).text


def test_stat_lists_segments(run: Run, segmented: Path) -> None:
    bases = [int(path.stem) for path in sorted(segmented.glob("*.log"))]
    (facts,) = run("stat", segmented, "--json").objects
    assert [segment["base_offset"] for segment in facts["segments"]] == bases
    assert [segment["next_offset"] for segment in facts["segments"]] == [*bases[1:], 1000]
    text = run("stat", segmented).text
    assert all(f" {base:,} " in text for base in bases)
    assert re.search(r"high watermark +1,000\n", text)
    assert ec.build_info()["crc32c"] in text


def test_stat_of_an_empty_log(run: Run, tmp_path: Path) -> None:
    ec.open_partition(tmp_path / "p").close()
    (facts,) = run("stat", tmp_path / "p", "--json").objects
    assert facts["segments"][0]["max_timestamp"] is None
    assert run("stat", tmp_path / "p").code == 0
    assert "it is empty" in run("read", tmp_path / "p", "--from", 1).error


def test_verify_of_a_good_log(run: Run, segmented: Path) -> None:
    (report,) = run("verify", segmented, "--json").objects
    assert (report["ok"], report["records"], report["problems"]) == (True, 1000, [])
    assert report["bytes"] == sum(path.stat().st_size for path in segmented.glob("*.log"))
    ended = run("verify", segmented)
    assert ended.code == 0
    assert ended.text.startswith("checked 1,000 records in ")
    assert ended.text.endswith("is fine\n")


def test_verify_of_a_damaged_log(run: Run, folder: Path) -> None:
    damage(folder)
    with ec.open_partition(folder):
        ended = run("verify", folder, "--json")
        plain = run("verify", folder)
    assert (ended.code, plain.code) == (1, 1)
    (report,) = ended.objects
    (problem,) = report["problems"]
    assert not report["ok"]
    assert problem["path"].endswith(LOG)
    assert problem["offset"] == 2
    assert "CRC" in problem["what"]
    assert "1 problem:" in plain.text
    assert str(problem["position"]) in plain.text


def test_dump_names_what_kafkas_tool_names(run: Run, folder: Path) -> None:
    lines = run("dump", folder).text.splitlines()
    assert lines[:2] == [f"Dumping {folder / LOG}", "Log starting offset: 0"]
    assert len(lines) == 5
    assert re.fullmatch(
        r"baseOffset: 0 lastOffset: 1 count: 2 baseSequence: -1 lastSequence: -1 producerId: -1 producerEpoch: -1 "
        r"partitionLeaderEpoch: 0 isTransactional: false isControl: false deleteHorizonMs: OptionalLong.empty "
        r"position: 0 CreateTime: 2000 size: \d+ magic: 2 compresscodec: none crc: \d+ isvalid: true",
        lines[2],
    )


def test_dump_as_json_walks_the_file(run: Run, folder: Path) -> None:
    batches = run("dump", folder, "--json").objects
    assert [(batch["baseOffset"], batch["lastOffset"], batch["count"]) for batch in batches] == [
        (0, 1, 2),
        (2, 3, 2),
        (4, 4, 1),
    ]
    data, position = (folder / LOG).read_bytes(), 0
    for batch in batches:
        assert batch["position"] == position
        assert batch["crc"] == int.from_bytes(data[position + 17 : position + 21], "big")
        position += batch["size"]
    assert position == len(data)


def test_dump_with_records(run: Run, folder: Path) -> None:
    lines = [line for line in run("dump", folder, "--records").text.splitlines() if line.startswith("|")]
    assert (
        lines[0]
        == "| offset: 0 CreateTime: 1000 keySize: 2 valueSize: 3 sequence: -1 headerKeys: [] key: k0 payload: one"
    )
    assert lines[2] == "| offset: 2 CreateTime: 3000 keySize: -1 valueSize: -1 sequence: -1 headerKeys: []"
    assert lines[4].endswith("headerKeys: [id,id] key: k4 payload: last")
    objects = run("dump", folder, "--records", "--json").objects
    assert [("baseOffset" in item, item.get("offset")) for item in objects] == [
        (True, None),
        (False, 0),
        (False, 1),
        (True, None),
        (False, 2),
        (False, 3),
        (True, None),
        (False, 4),
    ]
    assert objects[7]["headerKeys"] == ["id", "id"]


def test_dump_of_one_segment(run: Run, segmented: Path) -> None:
    everything = run("dump", segmented, "--json").objects
    for file in sorted(segmented.glob("*.log")):
        part = run("dump", file, "--json").objects
        assert part == [batch for batch in everything if batch["path"] == str(file)]
        assert part[0]["baseOffset"] == int(file.stem)


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_dump_shows_a_wrong_crc_and_goes_on(run: Run, folder: Path, form: tuple[str, ...]) -> None:
    damage(folder)
    with ec.open_partition(folder):
        ended = run("dump", folder, "--records", *form)
    assert ended.code == 1
    assert "CRC" in ended.error
    marks = re.findall(r'isvalid"?: ?(true|false)', ended.text)
    assert marks == ["true", "false", "true"]


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_dump_of_compressed_batches(run: Run, tmp_path: Path, codec: str) -> None:
    run("append", tmp_path / "p", "--config", f"compression.type={codec}", stdin=b"same\n" * 100)
    (batch, *records) = run("dump", tmp_path / "p", "--records", "--json").objects
    assert (batch["compresscodec"], batch["count"], len(records)) == (codec, 100, 100)
