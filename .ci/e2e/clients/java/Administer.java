// The admin client of Apache Kafka asks everything that tools ask of one node, and requires the answers.
// Called by ../../check_admin.py with BOOTSTRAP TOPIC NODE_ID DATA_DIR; prints `total BYTES` and `usable BYTES`.

import java.util.ArrayList;
import java.util.Collection;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.AlterConfigOp.OpType;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.DescribeTopicsOptions;
import org.apache.kafka.clients.admin.ListConfigResourcesOptions;
import org.apache.kafka.clients.admin.LogDirDescription;
import org.apache.kafka.clients.admin.NewPartitionReassignment;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.ElectionType;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclBindingFilter;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.ElectionNotNeededException;
import org.apache.kafka.common.errors.InvalidConfigurationException;
import org.apache.kafka.common.errors.InvalidReplicaAssignmentException;
import org.apache.kafka.common.errors.InvalidTopicException;
import org.apache.kafka.common.errors.NoReassignmentInProgressException;
import org.apache.kafka.common.errors.SecurityDisabledException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public final class Administer {
    private static final int PARTITIONS = 10;
    private static final int RECORD_BYTES = 100_000;

    private final Admin admin;
    private final String bootstrap;
    private final String topic;
    private final int node;
    private final String dataDir;

    private Administer(Admin admin, String[] arguments) {
        this.admin = admin;
        bootstrap = arguments[0];
        topic = arguments[1];
        node = Integer.parseInt(arguments[2]);
        dataDir = arguments[3];
    }

    public static void main(String[] arguments) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", arguments[0]))) {
            var all = new Administer(admin, arguments);
            admin.createTopics(List.of(new NewTopic(all.topic, PARTITIONS, (short) 1))).all().get();
            all.topics();
            all.logDirs();
            all.replicas();
            all.configs();
            all.resources();
            all.acls();
        }
    }

    private void topics() throws Exception {
        // Pages of three partitions, so that one topic takes four of them.
        for (int limit : new int[] {3, 2000}) {
            var options = new DescribeTopicsOptions().partitionSizeLimitPerResponse(limit);
            var described = admin.describeTopics(List.of(topic), options).allTopicNames().get().get(topic);
            require(described.partitions().size() == PARTITIONS, limit + ": " + described);
            for (int index = 0; index < PARTITIONS; index++) {
                var partition = described.partitions().get(index);
                require(partition.partition() == index && partition.leader().id() == node, "partition " + partition);
                require(partition.isr().size() == 1 && partition.replicas().size() == 1, "replicas " + partition);
                require(partition.elr().isEmpty() && partition.lastKnownElr().isEmpty(), "elr " + partition);
            }
            require(!described.isInternal(), "internal");
        }
        var asked = new DescribeTopicsOptions().includeAuthorizedOperations(true);
        var operations = admin.describeTopics(List.of(topic), asked).allTopicNames().get().get(topic).authorizedOperations();
        require(operations.contains(AclOperation.DESCRIBE) && operations.contains(AclOperation.ALTER_CONFIGS), "" + operations);
        fails(UnknownTopicOrPartitionException.class, admin.describeTopics(List.of("not-there")).allTopicNames());
        fails(InvalidTopicException.class, admin.describeTopics(List.of("no name")).allTopicNames());
    }

    private LogDirDescription logDir() throws Exception {
        var directories = admin.describeLogDirs(List.of(node)).allDescriptions().get().get(node);
        require(directories.keySet().equals(Set.of(dataDir)), "log dirs " + directories.keySet());
        var directory = directories.get(dataDir);
        require(directory.error() == null, "error " + directory.error());
        return directory;
    }

    private void logDirs() throws Exception {
        var before = logDir();
        var grown = new TopicPartition(topic, 7);
        try (var producer = new KafkaProducer<>(
                Map.<String, Object>of("bootstrap.servers", bootstrap), new ByteArraySerializer(), new ByteArraySerializer())) {
            producer.send(new ProducerRecord<>(topic, 7, null, new byte[RECORD_BYTES])).get();
        }
        var after = logDir();
        for (int index = 0; index < PARTITIONS; index++) {
            var partition = new TopicPartition(topic, index);
            long size = before.replicaInfos().get(partition).size();
            long more = after.replicaInfos().get(partition).size() - size;
            require(size > 0, partition + " has no bytes");
            require(partition.equals(grown) ? more >= RECORD_BYTES && more < 2 * RECORD_BYTES : more == 0,
                    partition + " grew by " + more);
            require(after.replicaInfos().get(partition).offsetLag() == 0, "lag");
            require(!after.replicaInfos().get(partition).isFuture(), "future");
        }
        System.out.println("total " + after.totalBytes().getAsLong());
        System.out.println("usable " + after.usableBytes().getAsLong());
    }

    private void replicas() throws Exception {
        var first = new TopicPartition(topic, 0);
        var absent = new TopicPartition(topic, PARTITIONS);
        require(admin.listPartitionReassignments().reassignments().get().isEmpty(), "something moves");
        require(admin.listPartitionReassignments(Set.of(first, absent)).reassignments().get().isEmpty(), "something moves");
        fails(NoReassignmentInProgressException.class, admin.alterPartitionReassignments(Map.of(first, Optional.empty())).all());
        var other = Optional.of(new NewPartitionReassignment(List.of(node + 1)));
        fails(InvalidReplicaAssignmentException.class, admin.alterPartitionReassignments(Map.of(first, other)).all());
        var same = Optional.of(new NewPartitionReassignment(List.of(node)));
        admin.alterPartitionReassignments(Map.of(first, same)).all().get();
        for (ElectionType type : ElectionType.values()) {
            var elected = admin.electLeaders(type, Set.of(first, absent)).partitions().get();
            require(elected.get(first).get() instanceof ElectionNotNeededException, "elected " + elected);
            require(elected.get(absent).get() instanceof UnknownTopicOrPartitionException, "elected " + elected);
            require(admin.electLeaders(type, null).partitions().get().isEmpty(), "one needed an election");
        }
    }

    private Config configOf(ConfigResource resource) throws Exception {
        return admin.describeConfigs(List.of(resource)).all().get().get(resource);
    }

    private void configs() throws Exception {
        var resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        Collection<AlterConfigOp> set = List.of(
                new AlterConfigOp(new ConfigEntry("retention.ms", "12345"), OpType.SET),
                new AlterConfigOp(new ConfigEntry("cleanup.policy", "compact"), OpType.APPEND));
        admin.incrementalAlterConfigs(Map.of(resource, set)).all().get();
        var entry = configOf(resource).get("retention.ms");
        require(entry.value().equals("12345") && entry.source() == ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG, "" + entry);
        require(configOf(resource).get("cleanup.policy").value().equals("delete,compact"), "cleanup.policy");
        Collection<AlterConfigOp> delete = List.of(new AlterConfigOp(new ConfigEntry("retention.ms", ""), OpType.DELETE));
        admin.incrementalAlterConfigs(Map.of(resource, delete)).all().get();
        require(configOf(resource).get("retention.ms").isDefault(), "retention.ms is still set");
        Collection<AlterConfigOp> unknown = List.of(new AlterConfigOp(new ConfigEntry("retention.days", "7"), OpType.SET));
        fails(InvalidConfigurationException.class, admin.incrementalAlterConfigs(Map.of(resource, unknown)).all());
        var broker = configOf(new ConfigResource(ConfigResource.Type.BROKER, String.valueOf(node)));
        require(broker.get("node.id").value().equals(String.valueOf(node)), "node.id");
        require(broker.get("log.dirs").value().equals(dataDir), "log.dirs " + broker.get("log.dirs"));
        for (String name : List.of("advertised.listeners", "num.partitions", "default.replication.factor",
                "min.insync.replicas", "auto.create.topics.enable", "message.max.bytes", "log.segment.bytes")) {
            require(broker.get(name) != null && broker.get(name).value() != null, name + " is not described");
        }
    }

    private void resources() throws Exception {
        var names = new HashSet<ConfigResource>(
                admin.listConfigResources(Set.of(), new ListConfigResourcesOptions()).all().get());
        require(names.contains(new ConfigResource(ConfigResource.Type.TOPIC, topic)), "" + names);
        require(names.contains(new ConfigResource(ConfigResource.Type.BROKER, String.valueOf(node))), "" + names);
        var types = Set.of(ConfigResource.Type.CLIENT_METRICS, ConfigResource.Type.GROUP);
        require(admin.listConfigResources(types, new ListConfigResourcesOptions()).all().get().isEmpty(), "others");
        var brokers = admin.listConfigResources(Set.of(ConfigResource.Type.BROKER), new ListConfigResourcesOptions());
        require(brokers.all().get().size() == 1, "brokers");
    }

    private void acls() throws Exception {
        var binding = new AclBinding(
                new ResourcePattern(ResourceType.TOPIC, topic, PatternType.LITERAL),
                new AccessControlEntry("User:a", "*", AclOperation.READ, AclPermissionType.ALLOW));
        fails(SecurityDisabledException.class, admin.describeAcls(AclBindingFilter.ANY).values());
        var created = admin.createAcls(List.of(binding)).values();
        for (Future<Void> one : new ArrayList<>(created.values())) {
            fails(SecurityDisabledException.class, one);
        }
        fails(SecurityDisabledException.class, admin.deleteAcls(List.of(AclBindingFilter.ANY)).all());
    }

    private static void fails(Class<? extends Throwable> wanted, Future<?> future) throws Exception {
        try {
            Object got = future.get();
            throw new IllegalStateException(wanted.getSimpleName() + " was wanted, and it gave " + got);
        } catch (ExecutionException error) {
            require(wanted.isInstance(error.getCause()), wanted.getSimpleName() + " was wanted: " + error.getCause());
            require(!String.valueOf(error.getCause().getMessage()).isBlank(), "no message: " + error.getCause());
        }
    }

    private static void require(boolean condition, String otherwise) {
        if (!condition) {
            throw new IllegalStateException(otherwise);
        }
    }
}
