// KafkaJS: see ../README.md for what a program here does. It reads nothing back: a consumer of KafkaJS
// always joins a group. The check reads what it produced by tidelog instead.

'use strict'

const fs = require('node:fs')
const { Kafka, CompressionTypes, logLevel } = require('kafkajs')

const TIMED_RECORD = 5000
const BATCH_RECORDS = 1000
const CODECS = { none: CompressionTypes.None, gzip: CompressionTypes.GZIP }

const octets = (text) => (text === '-' ? null : Buffer.from(text, 'base64'))

function message(line) {
  const [timestamp, key, value, headers] = line.split(' ')
  const pairs = headers.split(',').filter((header) => header !== '').map((header) => header.split(':'))
  const named = Object.fromEntries(pairs.map(([name, held]) => [octets(name).toString(), octets(held)]))
  return { timestamp, key: octets(key), value: octets(value), headers: named, partition: 0 }
}

function require_(condition, otherwise) {
  if (!condition) throw new Error(otherwise)
}

async function main([bootstrap, topic, input, , codec]) {
  const kafka = new Kafka({ brokers: [bootstrap], logLevel: logLevel.ERROR })
  const admin = kafka.admin()
  await admin.connect()
  require_(await admin.createTopics({ topics: [{ topic, numPartitions: 1 }] }), 'the topic was there already')
  require_((await admin.listTopics()).includes(topic), 'the topic is not listed')
  const described = await admin.fetchTopicMetadata({ topics: [topic] })
  require_(described.topics[0].partitions.length === 1, 'the topic has not one partition')
  require_((await admin.describeCluster()).brokers.length === 1, 'the cluster has not one broker')
  const configs = await admin.describeConfigs({ includeSynonyms: false, resources: [{ type: 2, name: topic }] })
  require_(configs.resources[0].configEntries.length > 0, 'no config is described')

  const messages = fs.readFileSync(input, 'utf8').trimEnd().split('\n').map(message)
  const producer = kafka.producer()
  await producer.connect()
  for (let first = 0; first < messages.length; first += BATCH_RECORDS) {
    const batch = messages.slice(first, first + BATCH_RECORDS)
    const [answer] = await producer.send({ topic, messages: batch, compression: CODECS[codec], acks: -1 })
    require_(Number(answer.baseOffset) === first, `batch ${first} has offset ${answer.baseOffset}`)
  }
  await producer.disconnect()

  const [offsets] = await admin.fetchTopicOffsets(topic)
  const [timed] = await admin.fetchTopicOffsetsByTimestamp(topic, Number(messages[TIMED_RECORD].timestamp))
  console.log(`offsets ${offsets.low} ${offsets.high} ${timed.offset}`)
  await admin.disconnect()
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error)
  process.exit(1)
})
