"""A log-sink in the usual style: consume, decode, batch, insert, commit.

At least once: offsets are committed after the insert, so that a crash in between inserts a batch twice. An undecodable
record ends the process.
"""

import hashlib
import json
import os
import struct
import sys
import time
import urllib.request
from datetime import datetime, timedelta, timezone
from io import BytesIO
from urllib.parse import urlparse

import clickhouse_connect
import fastavro
from confluent_kafka import Consumer, KafkaError

BATCH_ROWS = 50_000
BATCH_SECONDS = 1.0

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MICROSECOND = timedelta(microseconds=1)
NO_DIGEST = bytes(32)
# Columns of the table without those of the log-sink's protocol.
COLUMNS = """
    topic_partition topic partition offset logged_at key headers.name headers.value value record_sha256 schema_id
    event_id type tenant_id environment session_id session_label source_id source_sequence occurred_at occurred_at_micros
    agent_id agent_name agent_version actor_id actor_type trace_id span_id
    message_id message_role message_has_text message_tool_calls message_text message_sha256 message_redacted
    tool_name call_id arguments arguments_sha256 arguments_redacted
    result result_sha256 result_redacted result_is_error
    llm_provider_name llm_request_model llm_response_model llm_input_tokens llm_output_tokens llm_finish_reason llm_error_type
    decided_by decision decision_reason approval_id approver approval_granted approval_comment closing_total
""".split()


def schema_of(schema_id: int):
    with urllib.request.urlopen(f"{os.environ['AGENTGOV_SCHEMA_REGISTRY']}/schemas/ids/{schema_id}") as answer:
        return fastavro.parse_schema(json.loads(json.load(answer)["schema"]))


def content(payload):
    """Returns the three columns of a payload."""
    if not payload:
        return "", NO_DIGEST, False
    return payload["data"].decode(), payload["sha256"], payload["redacted"]


def row(message, schemas):
    value = message.value()
    magic, schema_id = struct.unpack(">bI", value[:5])
    assert magic == 0
    if schema_id not in schemas:
        schemas[schema_id] = schema_of(schema_id)
    event = fastavro.schemaless_reader(BytesIO(value[5:]), schemas[schema_id])
    headers = message.headers() or []
    agent, actor, trace = event["agent"], event["actor"] or {}, event["trace"] or {}
    spoken, tool, result = event["message"] or {}, event["tool"] or {}, event["result"] or {}
    llm, decision, approval = event["llm"] or {}, event["decision"] or {}, event["approval"] or {}
    occurred_at = event["occurred_at"]
    micros = (occurred_at - EPOCH) // MICROSECOND
    return [
        f"{message.topic()}/{message.partition()}", message.topic(), message.partition(), message.offset(),
        datetime.fromtimestamp(message.timestamp()[1] / 1e3, timezone.utc), message.key(),
        [name for name, _ in headers], [value for _, value in headers],
        value, hashlib.sha256(value).digest(), schema_id,
        event["event_id"], event["type"], event["tenant_id"], event["environment"], event["session_id"],
        event["session_label"] or "", event["source"]["id"], event["source"]["sequence"], occurred_at, micros,
        agent["id"], agent["name"] or "", agent["version"] or "",
        actor.get("id", ""), actor.get("type", ""), trace.get("trace_id", ""), trace.get("span_id", ""),
        spoken.get("id", ""), spoken.get("role", ""), spoken.get("has_text", False), spoken.get("tool_calls", 0),
        *content(spoken.get("content")),
        tool.get("name") or result.get("name") or "", tool.get("call_id") or result.get("call_id", ""),
        *content(tool.get("arguments")), *content(result.get("content")), result.get("is_error"),
        llm.get("provider_name", ""), llm.get("request_model", ""), llm.get("response_model") or "",
        llm.get("input_tokens"), llm.get("output_tokens"), llm.get("finish_reason") or "", llm.get("error_type") or "",
        decision.get("by", ""), decision.get("decision", ""), decision.get("reason") or "",
        approval.get("id", ""), approval.get("approver") or "", approval.get("granted"), approval.get("comment") or "",
        (event["closing"] or {}).get("total"),
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
