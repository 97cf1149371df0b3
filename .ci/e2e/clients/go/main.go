// Command clients runs franz-go: see ../README.md for what a program here does.
package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	timedRecord = 5000
	runFor      = 90 * time.Second
)

var codecs = map[string]kgo.CompressionCodec{
	"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
	"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(bootstrap, topic, input, output, codec string) error {
	ctx, cancel := context.WithTimeout(context.Background(), runFor)
	defer cancel()
	records, err := read(input, topic)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(bootstrap), kgo.ProducerBatchCompression(codecs[codec]),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(5*time.Millisecond),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := create(ctx, kadm.NewClient(client), topic); err != nil {
		return err
	}
	if err := client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return fmt.Errorf("produce: %w", err)
	}
	for position, record := range records {
		if record.Offset != int64(position) {
			return fmt.Errorf("record %d has offset %d", position, record.Offset)
		}
	}
	end, err := offsets(ctx, kadm.NewClient(client), topic, records[timedRecord].Timestamp.UnixMilli())
	if err != nil {
		return err
	}
	return consume(ctx, bootstrap, topic, output, end)
}

func create(ctx context.Context, admin *kadm.Client, topic string) error {
	created, err := admin.CreateTopic(ctx, 1, 1, nil, topic)
	if err != nil {
		return fmt.Errorf("create: %w (%s)", err, created.ErrMessage)
	}
	listed, err := admin.ListTopics(ctx)
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	if len(listed[topic].Partitions) != 1 {
		return fmt.Errorf("the topic is not listed with one partition: %v", listed)
	}
	brokers, err := admin.ListBrokers(ctx)
	if err != nil || len(brokers) != 1 {
		return fmt.Errorf("not one broker: %v %w", brokers, err)
	}
	configs, err := admin.DescribeTopicConfigs(ctx, topic)
	if err != nil || len(configs) != 1 || len(configs[0].Configs) == 0 {
		return fmt.Errorf("configs are not described: %v %w", configs, err)
	}
	return nil
}

func offsets(ctx context.Context, admin *kadm.Client, topic string, millis int64) (int64, error) {
	first, err := admin.ListStartOffsets(ctx, topic)
	if err != nil {
		return 0, err
	}
	last, err := admin.ListEndOffsets(ctx, topic)
	if err != nil {
		return 0, err
	}
	timed, err := admin.ListOffsetsAfterMilli(ctx, millis, topic)
	if err != nil {
		return 0, err
	}
	end := last[topic][0].Offset
	fmt.Println("offsets", first[topic][0].Offset, end, timed[topic][0].Offset)
	return end, nil
}

func consume(ctx context.Context, bootstrap, topic, output string, end int64) error {
	start := map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.ConsumePartitions(start))
	if err != nil {
		return err
	}
	defer client.Close()
	file, err := os.Create(output)
	if err != nil {
		return err
	}
	defer file.Close()
	out := bufio.NewWriter(file)
	for next := int64(0); next < end; {
		fetches := client.PollFetches(ctx)
		if errors := fetches.Errors(); len(errors) > 0 {
			return fmt.Errorf("fetch: %v", errors)
		}
		fetches.EachRecord(func(record *kgo.Record) {
			headers := make([]string, 0, len(record.Headers))
			for _, header := range record.Headers {
				headers = append(headers, text([]byte(header.Key))+":"+text(header.Value))
			}
			fmt.Fprintf(out, "%d %s %s %s\n",
				record.Timestamp.UnixMilli(), text(record.Key), text(record.Value), strings.Join(headers, ","))
			next = record.Offset + 1
		})
	}
	return out.Flush()
}

func read(input, topic string) ([]*kgo.Record, error) {
	content, err := os.ReadFile(input)
	if err != nil {
		return nil, err
	}
	var records []*kgo.Record
	for _, line := range strings.Split(strings.TrimSuffix(string(content), "\n"), "\n") {
		parts := strings.Split(line, " ")
		millis, err := strconv.ParseInt(parts[0], 10, 64)
		if err != nil {
			return nil, err
		}
		record := &kgo.Record{Topic: topic, Timestamp: time.UnixMilli(millis), Key: octets(parts[1]), Value: octets(parts[2])}
		for _, header := range strings.FieldsFunc(parts[3], func(letter rune) bool { return letter == ',' }) {
			key, value, _ := strings.Cut(header, ":")
			record.Headers = append(record.Headers, kgo.RecordHeader{Key: string(octets(key)), Value: octets(value)})
		}
		records = append(records, record)
	}
	return records, nil
}

func octets(text string) []byte {
	if text == "-" {
		return nil
	}
	decoded, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		panic(err)
	}
	return decoded
}

func text(octets []byte) string {
	if octets == nil {
		return "-"
	}
	return base64.StdEncoding.EncodeToString(octets)
}
