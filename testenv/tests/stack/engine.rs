//! Tests of ClickHouse's engine through the sink's client, with LZ4 bodies and validation.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::database;

#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
struct Action {
    id: u64,
    tenant: String,
    note: Option<String>,
    tags: Vec<String>,
    at: i64,
}

const ACTIONS: &str = "CREATE TABLE actions (id UInt64, tenant LowCardinality(String), note Nullable(String), \
     tags Array(String), at DateTime64(3)) ENGINE = MergeTree ORDER BY id";

fn action(id: u64) -> Action {
    Action {
        id,
        tenant: "acme".to_owned(),
        note: id.is_multiple_of(2).then(|| "it's\n\n\\x".to_owned()),
        tags: vec!["a".to_owned(), "b".to_owned()],
        at: 7_258_118_400_000,
    }
}

async fn insert(client: &clickhouse::Client, ids: std::ops::Range<u64>) {
    let mut insert = client.insert::<Action>("actions").await.unwrap();
    for id in ids {
        insert.write(&action(id)).await.unwrap();
    }
    insert.end().await.unwrap();
}

async fn count(client: &clickhouse::Client) -> u64 {
    client.query("SELECT count() FROM actions").fetch_one().await.unwrap()
}

#[tokio::test]
async fn typed_rows_are_read_as_written() {
    let client = database("typed").await;
    client.query(ACTIONS).execute().await.unwrap();
    insert(&client, 0..5000).await;
    let rows: Vec<Action> =
        client.query("SELECT ?fields FROM actions ORDER BY id").fetch_all().await.unwrap();
    assert_eq!(rows, (0..5000).map(action).collect::<Vec<_>>());
}

#[tokio::test]
async fn native_blocks_are_written_as_read() {
    let client = database("native").await;
    client.query(ACTIONS).execute().await.unwrap();
    insert(&client, 0..100).await;
    let mut cursor = client.query("SELECT * FROM actions").fetch_bytes("Native").unwrap();
    let block = cursor.collect().await.unwrap();
    let mut again = client.insert_formatted_with("INSERT INTO actions FORMAT Native").buffered();
    again.write(&block).await.unwrap();
    again.end().await.unwrap();
    assert_eq!(count(&client).await, 200);
}

#[tokio::test]
async fn settings_apply_to_one_statement() {
    let client = database("settings").await;
    let statement = "SELECT toString(getSetting('max_block_size'))";
    for _ in 0..10 {
        let set: String =
            client.query(statement).with_setting("max_block_size", "1234").fetch_one().await.unwrap();
        let unset: String = client.query(statement).fetch_one().await.unwrap();
        assert_eq!(set, "1234");
        assert_ne!(unset, "1234");
        client.query("SET max_block_size = 4321").execute().await.unwrap();
    }
}

#[tokio::test]
async fn parameters_are_values_and_never_sql() {
    let client = database("parameters").await;
    let text = "it's \\ a\ttest'; DROP TABLE x --";
    let query =
        client.query("SELECT {text:String}, {number:UInt32} + 1, arrayStringConcat({list:Array(String)})");
    let row: (String, u64, String) = query
        .param("text", text)
        .param("number", 41)
        .param("list", vec!["a'b", "c"])
        .fetch_one()
        .await
        .unwrap();
    assert_eq!(row, (text.to_owned(), 42, "a'bc".to_owned()));
}

#[tokio::test]
async fn json_columns_are_transferred_as_text() {
    #[derive(Debug, PartialEq, Row, Serialize, Deserialize)]
    struct Document {
        id: u8,
        document: String,
    }
    let client = database("documents")
        .await
        .with_setting("input_format_binary_read_json_as_string", "1")
        .with_setting("output_format_binary_write_json_as_string", "1");
    client
        .query("CREATE TABLE d (id UInt8, document JSON) ENGINE = MergeTree ORDER BY id")
        .execute()
        .await
        .unwrap();
    let mut insert = client.insert::<Document>("d").await.unwrap();
    insert.write(&Document { id: 1, document: r#"{"a":{"b":"x"}}"#.to_owned() }).await.unwrap();
    insert.end().await.unwrap();
    let row: Document = client.query("SELECT ?fields FROM d").fetch_one().await.unwrap();
    assert_eq!(row.document, r#"{"a":{"b":"x"}}"#);
    let inner: String = client.query("SELECT toString(document.a.b) FROM d").fetch_one().await.unwrap();
    assert_eq!(inner, "x");
}

#[tokio::test]
async fn errors_contain_their_code() {
    let client = database("errors").await;
    for (sql, code) in [
        ("SELECT * FROM nothing", "Code: 60."),
        ("SELEC 1", "Code: 62."),
        ("SELECT throwIf(1)", "Code: 395."),
        ("INSERT INTO nothing VALUES (1)", "Code: 60."),
    ] {
        let error = client.query(sql).execute().await.unwrap_err().to_string();
        assert!(error.contains(code), "{sql}: {error}");
    }
    let unknown = client.query("SELECT 1").with_setting("no_such_setting", "1").execute().await.unwrap_err();
    assert!(unknown.to_string().contains("Code: 115."), "{unknown}");
}

#[tokio::test]
async fn aggregating_projection_serves_the_tail_read() {
    let client = database("projection").await;
    let table = "CREATE TABLE log (tp String, offset UInt64, PROJECTION ends (SELECT tp, max(offset), count() GROUP BY tp)) \
         ENGINE = MergeTree ORDER BY (tp, offset)";
    client.query(table).execute().await.unwrap();
    client.query("INSERT INTO log SELECT 'a-0', number FROM numbers(1000)").execute().await.unwrap();
    let tail_read =
        "SELECT max(offset), count() FROM log WHERE tp = 'a-0' SETTINGS force_optimize_projection = 1";
    assert_eq!(client.query(tail_read).fetch_one::<(u64, u64)>().await.unwrap(), (999, 1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_clients_get_their_own_responses() {
    let client = database("many").await;
    client.query(ACTIONS).execute().await.unwrap();
    let tasks: Vec<_> = (0..40_u64)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move {
                insert(&client, n * 10..n * 10 + 10).await;
                let query =
                    client.query("SELECT toUInt64(?), toUInt64(getSetting('max_block_size'))").bind(n);
                query
                    .with_setting("max_block_size", (1000 + n).to_string())
                    .fetch_one::<(u64, u64)>()
                    .await
                    .unwrap()
            })
        })
        .collect();
    for (n, task) in (0_u64..).zip(tasks) {
        assert_eq!(task.await.unwrap(), (n, 1000 + n));
    }
    assert_eq!(count(&client).await, 400);
}
