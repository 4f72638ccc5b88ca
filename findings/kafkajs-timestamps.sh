#!/usr/bin/env bash
# kafkajs 2.2.4 sorts timestamps as text: a batch's maximum can be below its minimum (seen 2026-12-01).
#
# Its producer fills base and maximum timestamp of a batch's header with the first and the last of the messages'
# timestamps after a `sort()` that compares strings, numbers included. They are right as long as all have the same
# number of digits, which hides it: with events from before and after 9 September 2001 (999999999999 ms), or with small
# test values, the header says the maximum is the older one. The timestamps of the records themselves stay right. A
# broker's validator (Kafka 4.3.1) puts the true maximum into the header, plain or compressed, and says nothing, so
# nobody behind a broker sees it. Whoever takes batches from clients has to do as much: a refusal turns away what Kafka
# takes, and a time index, retention or pruning that believes the header loses such events.
# Needs Node, a JDK of 17 or later, and Maven.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
cat > pom.xml <<'XML'
<project>
  <modelVersion>4.0.0</modelVersion><groupId>findings</groupId><artifactId>jars</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka-storage</artifactId><version>4.3.1</version>
    </dependency>
  </dependencies>
</project>
XML
mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.9.0:copy-dependencies -DoutputDirectory=jars
cat > Broker.java <<'JAVA'
import java.lang.reflect.Proxy;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.record.internal.MemoryRecords;
import org.apache.kafka.common.record.internal.RecordBatch;
import org.apache.kafka.common.utils.BufferSupplier;
import org.apache.kafka.common.utils.PrimitiveRef;
import org.apache.kafka.common.utils.Time;
import org.apache.kafka.storage.internals.log.AppendOrigin;
import org.apache.kafka.storage.internals.log.LogValidator;

/** Prints for each file the maximum timestamp that its batch has when a broker has checked it. */
class Broker {
    public static void main(String[] files) throws Exception {
        Class<?> metrics = LogValidator.MetricsRecorder.class;
        Object nobody = Proxy.newProxyInstance(metrics.getClassLoader(), new Class<?>[] {metrics}, (p, m, a) -> null);
        for (String file : files) {
            MemoryRecords sent = MemoryRecords.readableRecords(ByteBuffer.wrap(Files.readAllBytes(Path.of(file))));
            var codec = sent.batches().iterator().next().compressionType();
            LogValidator validator = new LogValidator(
                sent, new TopicPartition("t", 0), Time.SYSTEM, codec, Compression.of(codec).build(), false, (byte) 2,
                TimestampType.CREATE_TIME, Long.MAX_VALUE, Long.MAX_VALUE, 0, AppendOrigin.CLIENT);
            var result = validator.validateMessagesAndAssignOffsets(
                PrimitiveRef.ofLong(0), (LogValidator.MetricsRecorder) nobody, BufferSupplier.create());
            for (RecordBatch batch : result.validatedRecords().batches())
                System.out.println(batch.maxTimestamp());
        }
    }
}
JAVA
npm install --silent --no-audit --no-fund --prefix "$tmp" 'kafkajs@2.2.4' >/dev/null
node - <<'JS'
const assert = require('assert')
const { execFileSync } = require('child_process')
const { writeFileSync } = require('fs')
const produce = require('kafkajs/src/protocol/requests/produce/v7/request.js')
console.log('kafkajs', require('kafkajs/package.json').version)

// A produce request up to its only batch: transactional id, acks, timeout, topics, name, partitions, number, size.
const BEFORE_BATCH = 2 + 2 + 4 + 4 + (2 + 1) + 4 + 4 + 4

function varint(bytes, at) {
  let value = 0n, shift = 0n, byte
  do {
    byte = bytes[at++]
    value |= BigInt(byte & 127) << shift
    shift += 7n
  } while (byte & 128)
  return [(value >> 1n) ^ -(value & 1n), at]
}

async function encoded(timestamps, compression) {
  const messages = timestamps.map(timestamp => ({ key: 'k', value: 'v', headers: {}, timestamp }))
  const topicData = [{ topic: 't', partitions: [{ partition: 0, messages }] }]
  const request = await produce({ compression, acks: 1, timeout: 1000, topicData }).encode()
  return request.buffer.subarray(BEFORE_BATCH)
}

async function batchOf(timestamps) {
  const batch = await encoded(timestamps, 0)
  assert.equal(batch[16], 2) // magic
  const base = batch.readBigInt64BE(27), records = []
  for (let at = 61; at < batch.length; ) {
    const [size, start] = varint(batch, at)
    records.push(Number(base + varint(batch, start + 1)[0]))
    at = start + Number(size)
  }
  return { base: Number(base), maximum: Number(batch.readBigInt64BE(35)), records }
}

async function main() {
  const same = ['1000000000000', '1000000000009', '1000000000005']
  const over = ['999999999999', '1000000000000']
  for (const timestamps of [same, over, over.map(Number), ['5', '40', '300']]) {
    const seen = await batchOf(timestamps)
    console.log(timestamps, seen)
    assert.deepEqual(seen.records, timestamps.map(Number))
    const sorted = [...timestamps].map(String).sort().map(Number)
    assert.deepEqual([seen.base, seen.maximum], [sorted[0], sorted[sorted.length - 1]])
  }
  assert.equal((await batchOf(same)).maximum, 1000000000009)
  assert.deepEqual(await batchOf(over), { base: 1e12, maximum: 1e12 - 1, records: [1e12 - 1, 1e12] })

  const files = []
  for (const [codec, number] of [['plain', 0], ['gzip', 1]]) {
    const batch = await encoded(over, number)
    assert.equal(batch.readBigInt64BE(35), 999999999999n)
    files.push(`${codec}.batch`)
    writeFileSync(`${codec}.batch`, batch)
  }
  const broker = ['-cp', 'jars/*', 'Broker.java', ...files]
  const stored = execFileSync('java', broker, { stdio: ['ignore', 'pipe', 'ignore'] })
  console.log('kafka 4.3.1 makes the maximum of', files, stored.toString().split('\n').slice(0, -1))
  assert.equal(stored.toString(), '1000000000000\n1000000000000\n')
}

main().catch(error => { console.error(error); process.exit(1) })
JS
echo "as seen"
