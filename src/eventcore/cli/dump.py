"""`eventcore dump`: batches and records as Kafka's own dump tool prints them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

import eventcore as ec
from eventcore.cli.failures import CommandFailed, fail
from eventcore.cli.options import Json, open_folder
from eventcore.cli.output import json_bytes, plain_bytes, plain_text, write, write_json, write_records


def dump(
    path: Annotated[
        Path, typer.Argument(metavar="PATH|FILE.log", help="A partition's folder, or one segment.", show_default=False)
    ],
    records: Annotated[bool, typer.Option("--records", help="The records of each batch, too.")] = False,
    as_json: Json = False,
) -> int:
    """Show every batch: where it lies, what its header says, whether its CRC holds. Exit code 1 if one does not."""
    is_file = path.suffix == ".log" and not path.is_dir()
    if is_file and not path.is_file():
        raise CommandFailed(f"there is no file {path}; check the path")
    invalid = 0
    with open_folder(path.parent if is_file else path) as partition:
        for batch in _batches(partition, path if is_file else None, as_json):
            _write_batch(batch, as_json)
            invalid += not batch.is_valid
            if records and batch.is_valid:
                _write_records(partition, batch, as_json)
    return fail(f"the CRC of {invalid} batch(es) does not hold; run `eventcore verify {path}`") if invalid else 0


def _batches(partition: ec.Partition, path: Path | None, as_json: bool) -> Iterator[ec.BatchEntry]:
    """The batches, with the line that names the file before the first of each."""
    segments = partition.segments
    if path is not None and path not in [segment.log.path for segment in segments]:
        raise CommandFailed(f"{path} is no segment of {partition.path}; its name must be 20 digits and .log")
    named = None
    for batch in partition.batches(path):
        if batch.path != named and not as_json:
            named = batch.path
            write(f"Dumping {plain_text(str(named))}\nLog starting offset: {int(named.stem)}\n")
        yield batch


def _kafka_fields(batch: ec.BatchEntry) -> dict[str, object]:
    """The batch under the names that Kafka's tool prints, in its order."""
    return {
        "baseOffset": batch.base_offset,
        "lastOffset": batch.last_offset,
        "count": batch.record_count,
        "baseSequence": batch.base_sequence,
        "lastSequence": batch.last_sequence,
        "producerId": batch.producer_id,
        "producerEpoch": batch.producer_epoch,
        "partitionLeaderEpoch": batch.leader_epoch,
        "isTransactional": batch.is_transactional,
        "isControl": batch.is_control,
        "deleteHorizonMs": batch.delete_horizon_ms,
        "position": batch.position,
        batch.timestamp_type: batch.max_timestamp,
        "size": batch.size,
        "magic": batch.magic,
        "compresscodec": batch.codec,
        "crc": batch.crc,
        "isvalid": batch.is_valid,
    }


def _text(name: str, value: object) -> str:
    if name == "deleteHorizonMs":
        return "OptionalLong.empty" if value is None else f"OptionalLong[{value}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _write_batch(batch: ec.BatchEntry, as_json: bool) -> None:
    fields = _kafka_fields(batch)
    if as_json:
        write_json({"path": str(batch.path), **fields, **({"endTxnMarker": batch.marker} if batch.is_control else {})})
        return
    line = " ".join(f"{name}: {_text(name, value)}" for name, value in fields.items())
    write(line + (f" endTxnMarker: {batch.marker}" if batch.marker else "") + "\n")


def _write_records(partition: ec.Partition, batch: ec.BatchEntry, as_json: bool) -> None:
    sequence = batch.base_sequence

    def number(record: ec.Record) -> int:
        return (sequence + record.offset - batch.base_offset) & 0x7FFFFFFF if sequence >= 0 else -1

    def json_line(record: ec.Record) -> str:
        names = ",".join(json_bytes(name.encode()) for name, _ in record.headers)
        return (
            f'{{"offset":{record.offset},"{batch.timestamp_type}":{record.timestamp},"keySize":{_size(record.key)},'
            f'"valueSize":{_size(record.value)},"sequence":{number(record)},"headerKeys":[{names}],'
            f'"key":{json_bytes(record.key)},"payload":{json_bytes(record.value)}}}\n'
        )

    def plain_line(record: ec.Record) -> str:
        names = ",".join(plain_text(name) for name, _ in record.headers)
        line = (
            f"| offset: {record.offset} {batch.timestamp_type}: {record.timestamp} keySize: {_size(record.key)} "
            f"valueSize: {_size(record.value)} sequence: {number(record)} headerKeys: [{names}]"
        )
        line += "" if record.key is None else f" key: {plain_bytes(record.key)}"
        return line + ("" if record.value is None else f" payload: {plain_bytes(record.value)}") + "\n"

    for chunk in partition.chunks(batch.base_offset, batch.last_offset + 1):
        write_records(chunk, json_line if as_json else plain_line)


def _size(data: bytes | None) -> int:
    return -1 if data is None else len(data)
