"""kafka-python's admin asks everything that tools ask of one node, and requires the answers.

Called by ../../check_admin.py with BOOTSTRAP TOPIC NODE_ID DATA_DIR.
"""

from __future__ import annotations

import sys

import kafka.errors
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ConfigResource,
    ConfigResourceType,
    NewTopic,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)

PARTITIONS = 4
RECORD_BYTES = 100_000


def require(condition: object, otherwise: object) -> None:
    if not condition:
        raise SystemExit(f"not as wanted: {otherwise}")


def sizes(admin: KafkaAdminClient, topic: str, data_dir: str) -> dict[int, int]:
    told = admin.describe_log_dirs()
    require(len(told) == 1, told)
    (directory,) = told[0]["log_dirs"]
    require(directory["log_dir"] == data_dir and directory["error_code"] == 0, directory)
    for one in directory["topics"]:
        if one["name"] == topic:
            return {part["partition_index"]: part["partition_size"] for part in one["partitions"]}
    raise SystemExit(f"{topic} is not in {directory}")


def log_dirs(admin: KafkaAdminClient, bootstrap: str, topic: str, data_dir: str) -> None:
    before = sizes(admin, topic, data_dir)
    require(sorted(before) == list(range(PARTITIONS)) and min(before.values()) > 0, before)
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    producer.send(topic, b"x" * RECORD_BYTES, partition=2).get(30)
    producer.close()
    after = sizes(admin, topic, data_dir)
    grown = {number: after[number] - before[number] for number in before}
    require(RECORD_BYTES <= grown.pop(2) < 2 * RECORD_BYTES and not any(grown.values()), (before, after))


def topics(admin: KafkaAdminClient, topic: str) -> None:
    seen, cursor = [], None
    while True:
        page = admin.describe_topic_partitions([topic], response_partition_limit=3, cursor=cursor)
        (one,) = page["topics"]
        require(one["error_code"] == 0 and len(one["partitions"]) <= 3, page)
        seen += [partition["partition_index"] for partition in one["partitions"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    require(seen == list(range(PARTITIONS)), seen)


def value_of(admin: KafkaAdminClient, topic: str, name: str) -> str | None:
    resource = ConfigResource(ConfigResourceType.TOPIC, topic)
    described = admin.describe_configs([resource], config_filter="all")
    return described["topic"][topic][name]["value"]


def configs(admin: KafkaAdminClient, topic: str) -> None:
    def alter(values: dict, **options) -> None:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, values)
        admin.alter_configs([resource], raise_on_unknown=False, **options)

    alter({"retention.ms": "1000"}, incremental=True)
    alter({"segment.ms": "2000"}, incremental=True)
    require(value_of(admin, topic, "retention.ms") == "1000", "set one by one")
    alter({"max.message.bytes": "3000"}, incremental=False, validate_only=True)
    require(value_of(admin, topic, "retention.ms") == "1000", "only validated")
    # With AlterConfigs this client names again what is set, which it learned from the configs' sources.
    alter({"max.message.bytes": "3000"}, incremental=False)
    values = [value_of(admin, topic, name) for name in ("max.message.bytes", "retention.ms", "segment.ms")]
    require(values == ["3000", "1000", "2000"], values)
    nothing = ConfigResource(ConfigResourceType.TOPIC, topic, {})
    admin.reset_configs([nothing], raise_on_unknown=False, incremental=False)
    require(value_of(admin, topic, "retention.ms") == "604800000", "AlterConfigs forgets what it does not name")


def replicas(admin: KafkaAdminClient, topic: str) -> None:
    require(admin.list_partition_reassignments() == {}, "something moves")
    require(admin.list_partition_reassignments({topic: [0, 99]}) == {}, "something moves")
    for kind in (0, 1):
        answer = admin.elect_leaders(kind, {topic: [0, 1]}, raise_errors=False)
        codes = [part.error_code for one in answer.replica_election_results for part in one.partition_result]
        require(codes == [84, 84], answer)


def acls(admin: KafkaAdminClient, topic: str) -> None:
    anything = ACLFilter(
        principal=None,
        host=None,
        operation=ACLOperation.ANY,
        permission_type=ACLPermissionType.ANY,
        resource_pattern=ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY),
    )
    try:
        told = admin.describe_acls(anything)
    except kafka.errors.SecurityDisabledError:
        told = ([], kafka.errors.SecurityDisabledError)
    require(told[0] == [] and "SecurityDisabled" in str(told[1]), told)
    acl = ACL(
        principal="User:a",
        host="*",
        operation=ACLOperation.READ,
        permission_type=ACLPermissionType.ALLOW,
        resource_pattern=ResourcePattern(ResourceType.TOPIC, topic),
    )
    created = admin.create_acls([acl, acl])
    require(not created["succeeded"] and len(created["failed"]) == 2, created)
    disabled = kafka.errors.SecurityDisabledError
    require(all(why is disabled or isinstance(why, disabled) for why in created["failed"]), created)


def resources(admin: KafkaAdminClient, topic: str, node: str) -> None:
    told = admin.list_config_resources(["TOPIC", "BROKER"])
    require(topic in told["topic"] and told["broker"] == [node], told)
    told = admin.list_config_resources(["CLIENT_METRICS"])
    require(told == {}, told)


def main() -> None:
    bootstrap, topic, node, data_dir = sys.argv[1:]
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics([NewTopic(name=topic, num_partitions=PARTITIONS, replication_factor=1)])
    topics(admin, topic)
    log_dirs(admin, bootstrap, topic, data_dir)
    configs(admin, topic)
    replicas(admin, topic)
    acls(admin, topic)
    resources(admin, topic, node)
    admin.close()


main()
