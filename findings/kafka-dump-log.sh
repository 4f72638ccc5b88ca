#!/usr/bin/env bash
# Kafka 4.3.1's dump tool complains of healthy segments as it does of damaged ones, and exits with 0 (seen 2026-12-01).
#
# DumpLogSegments with --deep-iteration or --print-data-log ends with "Non-consecutive offsets" and "-1 is followed by
# 300" for any segment that does not begin at offset 0, though nothing is missing; 4.2.0, before the tool was ported to
# Java, did not. It has the same words for the gaps that compaction leaves. The exit code is 0 with and without a
# complaint, and the complaints go to standard error. Without the two options there are none. Whoever lets the tool
# judge files has to read what it prints: leave out pairs that begin with -1, and take gaps as damage only where
# nothing was compacted.
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
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>${kafka}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>${kafka}</version>
      <exclusions>
        <exclusion><groupId>org.apache.kafka</groupId><artifactId>connect-runtime</artifactId></exclusion>
      </exclusions>
    </dependency>
  </dependencies>
</project>
XML
for kafka in 4.3.1 4.2.0; do
    mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.9.0:copy-dependencies \
        "-Dkafka=$kafka" "-DoutputDirectory=$kafka"
done
python3 -m venv venv
venv/bin/pip install -q 'kafka-python==3.0.12'
venv/bin/python - <<'PY'
import struct
import subprocess

from kafka.record.default_records import DefaultRecordBatchBuilder

MAIN = {"4.3.1": "org.apache.kafka.tools.DumpLogSegments", "4.2.0": "kafka.tools.DumpLogSegments"}


def batch(base, deltas):
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 20)  # no codec, no producer, up to 1 MiB
    for delta in deltas:
        builder.append(delta, timestamp=1000, key=b"k", value=b"v", headers=[])
    return struct.pack(">q", base) + bytes(builder.build())[8:]


SEGMENTS = {
    "first": (0, batch(0, [0, 1, 2]) + batch(3, [0, 1, 2])),
    "later": (300, batch(300, [0, 1, 2]) + batch(303, [0, 1, 2])),
    "compacted": (600, batch(600, [0, 2]) + batch(605, [0])),
}


def dump(version, base, *options):
    command = ["java", "-cp", f"{version}/*", MAIN[version], "--files", f"{base:020}.log", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert f"baseOffset: {base} " in done.stdout and done.stdout.count("isvalid: true") == 2
    pairs = [line.strip() for line in done.stderr.splitlines() if " is followed by " in line]
    assert bool(pairs) == ("Non-consecutive offsets in " in done.stderr)
    return done.returncode, sorted(pairs)


for base, content in SEGMENTS.values():
    with open(f"{base:020}.log", "wb") as file:
        file.write(content)
seen = {
    version: {name: dump(version, base, "--deep-iteration") for name, (base, _) in SEGMENTS.items()} for version in MAIN
}
for version, answers in seen.items():
    print("kafka", version)
    for name, answer in answers.items():
        print(f"    {name}: exit code, complaints {answer}")

gaps = ["600 is followed by 602", "602 is followed by 605"]
assert seen["4.2.0"] == {"first": (0, []), "later": (0, []), "compacted": (0, gaps)}
assert seen["4.3.1"] == {
    "first": (0, []),
    "later": (0, ["-1 is followed by 300"]),
    "compacted": (0, ["-1 is followed by 600", *gaps]),
}
assert dump("4.3.1", 300, "--print-data-log") == (0, ["-1 is followed by 300"])
assert dump("4.3.1", 300) == (0, [])
PY
echo "as seen"
