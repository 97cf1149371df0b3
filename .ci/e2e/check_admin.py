"""What tools ask of a cluster, by the admin clients of Java, confluent-kafka (librdkafka) and kafka-python.

Topics page by page, bytes on the disk (they grow by what is produced, and the room is the file system's own),
reassignments and elections, configs set one by one and replaced, what has configs, and ACLs, which are not
served. The Java and kafka-python parts are programs in `clients/`; they require each value and end with an
error where one is not as wanted.
"""

from __future__ import annotations

import os
import sys

from confluent_kafka import ElectionType, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from check_more_clients import CLIENTS, TARGET, install, kafka_python
from lib import ROOT, Broker, Checks, expect, expect_equal, run

NODE = 1
# The file system is shared with whatever else runs here.
ROOM_CHANGES_BYTES_MAX = 4 << 30


def java() -> list:
    jars = ROOT / "target" / "kafka-clients"
    pom = CLIENTS / "java" / "pom.xml"
    install(["mvn", "-q", "-B", "-f", pom, "dependency:copy-dependencies", f"-DoutputDirectory={jars}"])
    classes = TARGET / "java"
    install(["javac", "-cp", f"{jars}/*", "-d", classes, CLIENTS / "java" / "Administer.java"])
    return ["java", "-cp", f"{jars}/*:{classes}", "Administer"]


def administer(broker: Broker, command: list, topic: str) -> str:
    data_dir = os.path.realpath(broker.data_dir)
    result = run([*command, broker.bootstrap, topic, NODE, data_dir], timeout_s=180)
    said = (result.stdout + result.stderr).decode(errors="replace")
    expect_equal(result.returncode, 0, said[-3000:])
    return said


def check_room(broker: Broker, said: str) -> None:
    told = dict(line.split() for line in said.splitlines() if line.startswith(("total ", "usable ")))
    space = os.statvfs(broker.data_dir)
    expect_equal(int(told["total"]), space.f_blocks * space.f_frsize, "bytes of the file system")
    off = abs(int(told["usable"]) - space.f_bavail * space.f_frsize)
    expect(off < ROOM_CHANGES_BYTES_MAX, f"{told['usable']} usable bytes are {off} off")


def confluent_topics(admin: AdminClient, topic: str) -> None:
    for future in admin.create_topics([NewTopic(topic, 3, 1)]).values():
        future.result(30)
    described = admin.describe_topics(TopicCollection([topic]), include_authorized_operations=True)
    got = described[topic].result(30)
    expect_equal([part.id for part in got.partitions], [0, 1, 2], "partitions")
    expect_equal([part.leader.id for part in got.partitions], [NODE] * 3, "leaders")
    expect(AclOperation.ALTER_CONFIGS in got.authorized_operations, f"{got.authorized_operations}")


def value_of(admin: AdminClient, kind, resource: str, name: str) -> str | None:
    (future,) = admin.describe_configs([ConfigResource(kind, resource)]).values()
    return future.result(30)[name].value


def confluent_configs(admin: AdminClient, topic: str) -> None:
    def set_one(name: str, value: str) -> None:
        entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
        (future,) = admin.incremental_alter_configs([resource]).values()
        future.result(30)

    def replace(values: dict, **options) -> None:
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, set_config=values)
        (future,) = admin.alter_configs([resource], **options).values()
        future.result(30)

    def told() -> list:
        names = ("retention.ms", "segment.ms", "max.message.bytes")
        return [value_of(admin, ConfigResource.Type.TOPIC, topic, name) for name in names]

    set_one("retention.ms", "1000")
    set_one("segment.ms", "2000")
    expect_equal(told(), ["1000", "2000", "1048588"], "set one by one")
    replace({"max.message.bytes": "3000"}, validate_only=True)
    expect_equal(told(), ["1000", "2000", "1048588"], "only validated")
    replace({"max.message.bytes": "3000"})
    expect_equal(told(), ["604800000", "604800000", "3000"], "replaced")
    expect_code(lambda: replace({"retention.days": "3"}), KafkaError.INVALID_CONFIG)
    expect_equal(told(), ["604800000", "604800000", "3000"], "after a refusal")
    own = value_of(admin, ConfigResource.Type.BROKER, str(NODE), "node.id")
    expect_equal(own, str(NODE), "node.id")


def confluent_elections(admin: AdminClient, topic: str) -> None:
    first, absent = TopicPartition(topic, 0), TopicPartition(topic, 9)
    for kind in (ElectionType.PREFERRED, ElectionType.UNCLEAN):
        elected = admin.elect_leaders(kind, [first, absent]).result(30)
        codes = {part.partition: error.args[0].code() if isinstance(error, KafkaException) else error.code()
                 for part, error in elected.items()}  # fmt: skip
        wanted = {0: KafkaError.ELECTION_NOT_NEEDED, 9: KafkaError.UNKNOWN_TOPIC_OR_PART}
        expect_equal(codes, wanted, f"{kind}")
        expect_equal(admin.elect_leaders(kind).result(30), {}, "of all partitions, those that needed one")


def confluent_acls(admin: AdminClient, topic: str) -> None:
    what = (ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:a", "*")
    how = (AclOperation.READ, AclPermissionType.ALLOW)
    anything = AclBindingFilter(
        ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
    )
    # This client gives an empty list whatever error the answer has; the Java one, above, gives the error.
    expect_equal(admin.describe_acls(anything).result(30), [], "ACLs")
    for future in admin.create_acls([AclBinding(*what, *how)]).values():
        expect_code(lambda: future.result(30), KafkaError.SECURITY_DISABLED)
    for future in admin.delete_acls([anything]).values():
        expect_code(lambda: future.result(30), KafkaError.SECURITY_DISABLED)


def expect_code(what, code: int) -> None:
    try:
        got = what()
    except KafkaException as error:
        expect_equal(error.args[0].code(), code, f"{error}")
    else:
        expect(False, f"an error {code} was wanted, and it gave {got!r}")


def main() -> int:
    checks = Checks("admin")
    os.makedirs(TARGET / "java", exist_ok=True)
    with Broker(shards=2) as broker:
        with checks.check("java: topics, log dirs, replicas, configs, resources, ACLs"):
            said = administer(broker, java(), "java")
            check_room(broker, said)
        with checks.check("kafka-python: topics, log dirs, configs, replicas, ACLs, resources"):
            python, _ = kafka_python()
            administer(broker, [python, CLIENTS / "python" / "admin.py"], "kafka-python")
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        for name, check in {
            "topics": confluent_topics,
            "configs, one by one and replaced": confluent_configs,
            "elections": confluent_elections,
            "ACLs": confluent_acls,
        }.items():
            with checks.check(f"confluent-kafka: {name}"):
                check(admin, "confluent")
        with checks.check("the broker lives, and its log has no error"):
            expect(broker.alive(), "the broker died")
            expect("ERROR" not in broker.log(), broker.log_tail())
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
