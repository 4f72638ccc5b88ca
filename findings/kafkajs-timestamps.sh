#!/usr/bin/env bash
# kafkajs 2.2.4 sorts timestamps as text: a batch's maximum can be below its minimum (seen 2026-12-01).
#
# Its producer fills base and maximum timestamp of a batch's header with the first and the last of the messages'
# timestamps after a `sort()` that compares strings, numbers included. They are right as long as all have the same
# number of digits, which hides it: with events from before and after 9 September 2001 (999999999999 ms), or with small
# test values, the header says the maximum is the older one. The timestamps of the records themselves stay right.
# Kafka's description of the format calls the field maxTimestamp, and kafkajs documents only that a timestamp is a
# string of milliseconds. Whoever stores batches as they are sent and builds a time index, retention by time or pruning
# on the header's maximum loses such events: take the maximum over the records where the sender is not known to be
# right.
# Needs Node.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
npm install --silent --no-audit --no-fund --prefix "$tmp" 'kafkajs@2.2.4' >/dev/null
node - <<'JS'
const assert = require('assert')
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

async function batchOf(timestamps) {
  const messages = timestamps.map(timestamp => ({ key: 'k', value: 'v', headers: {}, timestamp }))
  const topicData = [{ topic: 't', partitions: [{ partition: 0, messages }] }]
  const request = await produce({ acks: 1, timeout: 1000, topicData }).encode()
  const batch = request.buffer.subarray(BEFORE_BATCH)
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
}

main().catch(error => { console.error(error); process.exit(1) })
JS
echo "as seen"
