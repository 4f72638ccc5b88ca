#!/usr/bin/env bash
# The same records become different batches in kafka-python, aiokafka and kafkajs (seen 2026-12-01).
#
# kafka-python 3.0.12, aiokafka 0.14.0, kafkajs 2.2.4, one record, no idempotence. All say producer id -1, as Kafka's
# format has it, but of what goes with it, base sequence and producer epoch, the first says -1, -1, the second 0, -1,
# and the third 0, 0. Records that do not shrink are stored plain by kafka-python, and compressed all the same, larger
# than plain, by the other two. The Python clients put the time of compressing into gzip's header, so that a retry from
# the application, or a test a second later, has other bytes and another checksum; kafkajs puts none. Tell idempotent
# batches by the producer id alone, never take equal bytes or checksums for equal records, nor a codec in the topic's
# or the producer's settings for the one in the batch.
# Needs Node.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
npm install --silent --no-audit --no-fund --prefix "$tmp" 'kafkajs@2.2.4' >/dev/null
python3 -m venv venv
venv/bin/pip install -q 'kafka-python==3.0.12' 'aiokafka==0.14.0'
cat > produce.js <<'JS'
// Prints the batch, in hex, of one record with this codec and value (hex), as kafkajs's producer encodes it.
const produce = require('kafkajs/src/protocol/requests/produce/v7/request.js')
const [compression, value] = [Number(process.argv[2]), Buffer.from(process.argv[3], 'hex')]
const messages = [{ key: 'k', value, headers: {}, timestamp: '1000' }]
const BEFORE_BATCH = 2 + 2 + 4 + 4 + (2 + 1) + 4 + 4 + 4
produce({ compression, acks: 1, timeout: 1000, topicData: [{ topic: 't', partitions: [{ partition: 0, messages }] }] })
  .encode()
  .then(request => console.log(request.buffer.subarray(BEFORE_BATCH).toString('hex')))
JS
venv/bin/python - <<'PY'
import random
import struct
import subprocess
import time
from importlib.metadata import version

from aiokafka.producer.message_accumulator import BatchBuilder
from kafka.record.memory_records import MemoryRecordsBuilder

print(*(f"{package} {version(package)}" for package in ("kafka-python", "aiokafka")), "kafkajs 2.2.4")
NONE, GZIP = 0, 1
SHRINKS, NOISE = b"v" * 1000, random.Random(1).randbytes(1000)
ATTRIBUTES, PRODUCER_ID, RECORDS = 21, 43, 61
GZIP_TIME = slice(RECORDS + 4, RECORDS + 8)


def kafka_python(codec, value):
    builder = MemoryRecordsBuilder(2, codec, 1 << 20)
    builder.append(1000, b"k", value, [])
    builder.close()
    return bytes(builder.buffer())


def aiokafka(codec, value):
    builder = BatchBuilder(1 << 20, codec)
    builder.append(timestamp=1000, key=b"k", value=value)
    return bytes(builder._build())


def kafkajs(codec, value):
    command = ["node", "produce.js", str(codec), value.hex()]
    return bytes.fromhex(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


seen = {}
for client in (kafka_python, aiokafka, kafkajs):
    plain = client(NONE, SHRINKS)
    producer = struct.unpack_from(">qhi", plain, PRODUCER_ID)
    noise = client(GZIP, NOISE)
    codec, growth = noise[ATTRIBUTES + 1] & 7, len(noise) - len(client(NONE, NOISE))
    before = int(time.time())
    first = client(GZIP, SHRINKS)
    time.sleep(2)
    second = client(GZIP, SHRINKS)
    gzip_time = int.from_bytes(first[GZIP_TIME], "little")
    dated = before <= gzip_time <= time.time()
    assert dated or gzip_time == 0
    assert client(NONE, SHRINKS) == plain
    seen[client.__name__] = [producer, codec, growth > 0, first == second, dated]
    print(f"{client.__name__}: producer id, epoch, base sequence {producer}")
    print(f"    what does not shrink, in gzip: codec {codec}, {growth:+} bytes")
    print(f"    gzip twice: {'equal' if first == second else 'different'} bytes, time in its header {gzip_time}")

assert seen == {
    "kafka_python": [(-1, -1, -1), NONE, False, False, True],
    "aiokafka": [(-1, -1, 0), GZIP, True, False, True],
    "kafkajs": [(-1, 0, 0), GZIP, True, True, False],
}
PY
echo "as seen"
