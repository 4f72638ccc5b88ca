#!/usr/bin/env bash
# Which lz4 frames a record batch may hold differs from client to client (seen 2026-12-01).
#
# Records are "an lz4 frame" to Kafka. Frames as lz4 4.4.5 and cramjam 2.14.0 make them when told nothing have blocks
# that refer to each other: kafka-python 3.0.12 and aiokafka 0.14.0 read them, Kafka's own reader (4.3.1) refuses. That
# Kafka wants independent blocks is written in its proposal 57 on lz4 framing; a test that has only Python readers does
# not find out. Two independent frames, one behind the other, are a valid stream of lz4 too: aiokafka reads both,
# kafka-python and Kafka stop behind the first and blame the records. Two members of gzip and two frames of zstd are
# read by all three. Write one frame of independent blocks, and try it on a reader in Java.
# Needs a JDK of 17 or later, and Maven.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
cat > pom.xml <<'XML'
<project>
  <modelVersion>4.0.0</modelVersion><groupId>findings</groupId><artifactId>jars</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka-clients</artifactId><version>4.3.1</version>
    </dependency>
  </dependencies>
</project>
XML
mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.9.0:copy-dependencies -DoutputDirectory=jars
cat > Read.java <<'JAVA'
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.kafka.common.record.internal.MemoryRecords;
import org.apache.kafka.common.record.internal.Record;

/** Prints for each file how many records Kafka reads from the batch in it, or its complaint. */
class Read {
    public static void main(String[] files) throws Exception {
        for (String file : files) {
            int count = 0;
            try {
                ByteBuffer bytes = ByteBuffer.wrap(Files.readAllBytes(Path.of(file)));
                for (Record record : MemoryRecords.readableRecords(bytes).records())
                    count++;
                System.out.println(count);
            } catch (RuntimeException error) {
                System.out.println(error.getMessage());
            }
        }
    }
}
JAVA
python3 -m venv venv
venv/bin/pip install -q 'kafka-python==3.0.12' 'aiokafka==0.14.0' 'lz4==4.4.5' 'cramjam==2.14.0' 'zstandard==0.25.0'
venv/bin/python - <<'PY'
import gzip
import struct
import subprocess
from importlib.metadata import version

import aiokafka.record.memory_records
import cramjam
import kafka.record.memory_records
import lz4.frame
import zstandard
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.util import calc_crc32c

PACKAGES = ("kafka-python", "aiokafka", "lz4", "cramjam", "zstandard")
print("kafka-clients 4.3.1", *(f"{package} {version(package)}" for package in PACKAGES))
COUNT, GZIP, LZ4, ZSTD = 200, 1, 3, 4
HEADER, ATTRIBUTES = 61, 21

builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 20)  # no codec, no producer, up to 1 MiB
for i in range(COUNT):
    builder.append(i, timestamp=1000 + i, key=b"k", value=b"%d" % (i * i) * 300, headers=[])
plain = bytes(builder.build())
records, half = plain[HEADER:], (len(plain) - HEADER) // 2
assert len(records) > 3 * 65536  # several blocks


def batch(codec, stored):
    body = struct.pack(">h", codec) + plain[ATTRIBUTES + 2 : HEADER] + stored
    return plain[:8] + struct.pack(">i", 9 + len(body)) + plain[12:17] + struct.pack(">I", calc_crc32c(body)) + body


def two(compress):
    return compress(records[:half]) + compress(records[half:])


def independent(data):
    return lz4.frame.compress(data, block_linked=False)


BATCHES = {
    "lz4, as it comes": batch(LZ4, lz4.frame.compress(records)),
    "cramjam, as it comes": batch(LZ4, bytes(cramjam.lz4.compress(records))),
    "lz4, independent blocks": batch(LZ4, independent(records)),
    "lz4, two frames": batch(LZ4, two(independent)),
    "gzip, two members": batch(GZIP, two(gzip.compress)),
    "zstd, two frames": batch(ZSTD, two(zstandard.compress)),
}


def read(module, data):
    try:
        return sum(1 for _ in module.MemoryRecords(data).next_batch())
    except Exception as error:
        return str(error)


files = []
for name, data in BATCHES.items():
    files.append(f"{name}.batch")
    with open(files[-1], "wb") as file:
        file.write(data)
command = ["java", "-cp", "jars/*", "Read.java", *files]
done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
kafkas = done.stdout.splitlines()

seen = {}
for (name, data), by_kafka in zip(BATCHES.items(), kafkas, strict=True):
    answers = [by_kafka, read(aiokafka.record.memory_records, data), read(kafka.record.memory_records, data)]
    print(name)
    for reader, answer in zip(("Kafka", "aiokafka", "kafka-python"), answers, strict=True):
        print(f"    {reader}: {answer}")
    seen[name] = [COUNT if str(answer) == str(COUNT) else "refused" for answer in answers]

assert "Dependent block stream is unsupported" in kafkas[0]
assert seen == {
    "lz4, as it comes": ["refused", COUNT, COUNT],
    "cramjam, as it comes": ["refused", COUNT, COUNT],
    "lz4, independent blocks": [COUNT, COUNT, COUNT],
    "lz4, two frames": ["refused", COUNT, "refused"],
    "gzip, two members": [COUNT, COUNT, COUNT],
    "zstd, two frames": [COUNT, COUNT, COUNT],
}
PY
echo "as seen"
