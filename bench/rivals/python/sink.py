"""What most teams write: a consumer loop, a decoder, a batch, an insert, a commit.

At least once: the offsets are committed after the insert, so a crash in between inserts a batch twice. Rows that do not
decode end the process.
"""

import json
import os
import struct
import sys
import time
import urllib.request
from datetime import datetime, timezone
from io import BytesIO
from urllib.parse import urlparse

import clickhouse_connect
import fastavro
from confluent_kafka import Consumer, KafkaError

BATCH_ROWS = 50_000
BATCH_SECONDS = 1.0

COLUMNS = [
    "topic_partition", "topic", "partition", "offset", "logged_at", "key", "value", "schema_id",
    "event_id", "type", "tenant_id", "environment", "session_id", "source_id", "source_sequence",
    "occurred_at", "occurred_at_micros", "agent_id", "message_id", "message_role", "message_has_text",
    "message_tool_calls", "message_text", "tool_name", "call_id", "arguments", "result",
]


def schema_of(schema_id: int):
    with urllib.request.urlopen(f"{os.environ['AGENTGOV_REGISTRY']}/schemas/ids/{schema_id}") as answer:
        return fastavro.parse_schema(json.loads(json.load(answer)["schema"]))


def text(payload) -> str:
    return payload["data"].decode("utf-8", "replace") if payload else ""


def row(message, schemas):
    value = message.value()
    magic, schema_id = struct.unpack(">bI", value[:5])
    assert magic == 0
    if schema_id not in schemas:
        schemas[schema_id] = schema_of(schema_id)
    event = fastavro.schemaless_reader(BytesIO(value[5:]), schemas[schema_id])
    spoken = event.get("message") or {}
    tool = event.get("tool") or {}
    result = event.get("result") or {}
    occurred_at = event["occurred_at"]
    if isinstance(occurred_at, datetime):
        micros = int(occurred_at.timestamp() * 1e6)
    else:
        micros, occurred_at = occurred_at, datetime.fromtimestamp(occurred_at / 1e6, timezone.utc)
    return [
        f"{message.topic()}/{message.partition()}", message.topic(), message.partition(), message.offset(),
        datetime.fromtimestamp(message.timestamp()[1] / 1e3, timezone.utc), message.key(), value, schema_id,
        event["event_id"], event["type"], event["tenant_id"], event["environment"], event["session_id"],
        event["source"]["id"], event["source"]["sequence"], occurred_at, micros, event["agent"]["id"],
        spoken.get("id", ""), spoken.get("role", ""), spoken.get("has_text", False), spoken.get("tool_calls", 0),
        text(spoken.get("content")), tool.get("name", ""), tool.get("call_id") or result.get("call_id", ""),
        text(tool.get("arguments")), text(result.get("content")),
    ]


def main():
    at = urlparse(os.environ["AGENTGOV_CLICKHOUSE"])
    client = clickhouse_connect.get_client(
        host=at.hostname, port=at.port, username=os.environ["AGENTGOV_CLICKHOUSE_USER"],
        password=os.environ["AGENTGOV_CLICKHOUSE_PASSWORD"], database=os.environ["AGENTGOV_CLICKHOUSE_DATABASE"],
        compress=False, settings={"async_insert": 0},
    )
    table = os.environ["BENCH_TABLE"]
    consumer = Consumer({
        "bootstrap.servers": os.environ["AGENTGOV_KAFKA"], "group.id": os.environ["BENCH_GROUP"],
        "enable.auto.commit": False, "auto.offset.reset": "earliest",
    })
    consumer.subscribe([os.environ["BENCH_TOPIC"]])
    schemas, rows, began = {}, [], time.monotonic()
    while True:
        for message in consumer.consume(num_messages=5_000, timeout=0.1):
            if message.error():
                if message.error().code() == KafkaError._PARTITION_EOF:
                    continue
                sys.exit(str(message.error()))
            rows.append(row(message, schemas))
        if rows and (len(rows) >= BATCH_ROWS or time.monotonic() - began > BATCH_SECONDS):
            client.insert(table, rows, column_names=COLUMNS)
            consumer.commit(asynchronous=False)
            rows, began = [], time.monotonic()
        elif not rows:
            began = time.monotonic()


if __name__ == "__main__":
    main()
