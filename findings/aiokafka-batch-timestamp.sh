#!/usr/bin/env bash
# aiokafka 0.14.0 documents the timestamp of a hand-made batch in seconds, and takes milliseconds (seen 2026-12-01).
#
# `AIOKafkaProducer.create_batch()` gives a BatchBuilder, whose `append` says of its timestamp: a float, seconds since
# the epoch, the current time if None. The number goes into the record as it is, where Kafka's format has milliseconds:
# what follows the description is dated January 1970, half a second is cut off, and there is no error. `send` has the
# same thing right, and calls it `timestamp_ms`. A log that keeps events by their time deletes such records at the next
# look, a search by time does not find them, and a view by day has a very full 21 January 1970. Give milliseconds, and
# be wary of a log with times of 1970.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install -q 'aiokafka==0.14.0'
"$tmp/venv/bin/python" - <<'PY'
import asyncio
import re
import time
from datetime import UTC, datetime

import aiokafka
from aiokafka.record.memory_records import MemoryRecords

print("aiokafka", aiokafka.__version__)
JULY_2026 = 1_782_907_200  # noon of the first, in seconds


async def create_batch():
    producer = aiokafka.AIOKafkaProducer()  # never started: nothing is sent
    try:
        return producer.create_batch()
    finally:
        await producer.stop()


batch = asyncio.run(create_batch())
described = re.search(r"timestamp \(.*?\): [^.]*\.", batch.append.__doc__)[0]
print("described as:", " ".join(described.split()))
for timestamp in (JULY_2026, JULY_2026 + 0.5, JULY_2026 * 1000, None):
    assert batch.append(timestamp=timestamp, key=None, value=b"event")
stored = [record.timestamp for record in MemoryRecords(bytes(batch._build())).next_batch()]
for milliseconds in stored:
    print("stored as:", milliseconds, datetime.fromtimestamp(milliseconds / 1000, UTC))

assert "epoch timestamp in seconds" in described
assert stored[:3] == [JULY_2026, JULY_2026, JULY_2026 * 1000]
assert abs(stored[3] - time.time() * 1000) < 60_000
PY
echo "as seen"
