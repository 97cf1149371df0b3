// The Java client of Apache Kafka: see ../README.md for what a program here does.

import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.StringJoiner;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public final class Client {
    private static final int TIMED_RECORD = 5000;
    private static final long READ_NS_MAX = 60_000_000_000L;

    public static void main(String[] arguments) throws Exception {
        String bootstrap = arguments[0];
        String topic = arguments[1];
        List<String> lines = Files.readAllLines(Path.of(arguments[2]));
        create(bootstrap, topic);
        produce(bootstrap, topic, lines, arguments[4]);
        consume(bootstrap, topic, lines, Path.of(arguments[3]));
    }

    private static void create(String bootstrap, String topic) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            admin.createTopics(List.of(new NewTopic(topic, 1, (short) 1))).all().get();
            require(admin.listTopics().names().get().contains(topic), "the topic is not listed");
            var described = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
            require(described.partitions().size() == 1, "the topic has not one partition");
            require(admin.describeCluster().nodes().get().size() == 1, "the cluster has not one node");
            var resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
            var config = admin.describeConfigs(List.of(resource)).all().get().get(resource);
            require(config.get("max.message.bytes") != null, "max.message.bytes is not described");
        }
    }

    private static void produce(String bootstrap, String topic, List<String> lines, String codec) throws Exception {
        Map<String, Object> settings = Map.of("bootstrap.servers", bootstrap, "compression.type", codec, "linger.ms", 5);
        var sent = new ArrayList<Future<RecordMetadata>>();
        try (var producer = new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer())) {
            for (String line : lines) {
                String[] parts = line.split(" ", -1);
                var headers = new ArrayList<Header>();
                for (String header : parts[3].isEmpty() ? new String[0] : parts[3].split(",")) {
                    int end = header.indexOf(':');
                    headers.add(new RecordHeader(new String(bytes(header.substring(0, end))), bytes(header.substring(end + 1))));
                }
                sent.add(producer.send(
                        new ProducerRecord<>(topic, 0, Long.parseLong(parts[0]), bytes(parts[1]), bytes(parts[2]), headers)));
            }
            producer.flush();
        }
        for (int position = 0; position < sent.size(); position++) {
            require(sent.get(position).get().offset() == position, "record " + position + " has another offset");
        }
    }

    private static void consume(String bootstrap, String topic, List<String> lines, Path output) throws Exception {
        var partition = new TopicPartition(topic, 0);
        Map<String, Object> settings = Map.of("bootstrap.servers", bootstrap, "enable.auto.commit", false);
        try (var consumer = new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
                var out = new PrintWriter(Files.newBufferedWriter(output))) {
            consumer.assign(List.of(partition));
            long first = consumer.beginningOffsets(List.of(partition)).get(partition);
            long end = consumer.endOffsets(List.of(partition)).get(partition);
            long time = Long.parseLong(lines.get(TIMED_RECORD).split(" ")[0]);
            long timed = consumer.offsetsForTimes(Map.of(partition, time)).get(partition).offset();
            System.out.println("offsets " + first + " " + end + " " + timed);
            consumer.seekToBeginning(List.of(partition));
            long deadline = System.nanoTime() + READ_NS_MAX;
            while (consumer.position(partition) < end && System.nanoTime() < deadline) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                    var headers = new StringJoiner(",");
                    for (Header header : record.headers()) {
                        headers.add(text(header.key().getBytes()) + ":" + text(header.value()));
                    }
                    out.print(record.timestamp() + " " + text(record.key()) + " " + text(record.value()) + " " + headers + "\n");
                }
            }
        }
    }

    private static void require(boolean condition, String otherwise) {
        if (!condition) {
            throw new IllegalStateException(otherwise);
        }
    }

    private static byte[] bytes(String text) {
        return text.equals("-") ? null : Base64.getDecoder().decode(text);
    }

    private static String text(byte[] bytes) {
        return bytes == null ? "-" : Base64.getEncoder().encodeToString(bytes);
    }
}
