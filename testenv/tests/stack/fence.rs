//! Tests of the engine's properties that the sink's exactly-once protocol requires: a fence, a list of inserts in progress,
//! and no rows from cut inserts.

use std::net::TcpStream;

use super::http::{chunk, open, read_response};
use super::{addresses, database, eventually};

const CLAIMS: &str = "CREATE TABLE sink_claims (topic_partition String, claim UInt64) \
     ENGINE = Join(ANY, LEFT, topic_partition) SETTINGS join_any_take_last_row = 1, persistent = 0";

async fn fenced(name: &str) -> clickhouse::Client {
    let client = database(name).await;
    client.query(CLAIMS).execute().await.unwrap();
    let table = format!(
        "CREATE TABLE rows (topic_partition String, claim UInt64, offset UInt64, CONSTRAINT fence CHECK claim != 0 \
         AND claim = joinGet('{name}.sink_claims', 'claim', toString(topic_partition))) ENGINE = MergeTree ORDER BY offset"
    );
    client.query(&table).execute().await.unwrap();
    client
}

async fn claim(client: &clickhouse::Client, claim: u64) {
    client.query("INSERT INTO sink_claims VALUES ('t-0', ?)").bind(claim).execute().await.unwrap();
}

async fn rows(client: &clickhouse::Client) -> u64 {
    client.query("SELECT count() FROM rows").fetch_one().await.unwrap()
}

/// Returns the number of inserts in progress with this marker.
async fn in_progress(client: &clickhouse::Client, marker: &str) -> u64 {
    let query = "SELECT count() FROM system.processes WHERE position(query, ?) > 0 AND position(query, 'system.proc') = 0";
    client.query(query).bind(marker).fetch_one().await.unwrap()
}

/// Begins an insert of one block, as the sink sends it, with a chunked body.
fn begin(database: &str, marker: &str) -> TcpStream {
    let a = addresses();
    let query = format!("%2F*%20{marker}%20*%2F%20INSERT%20INTO%20rows%20FORMAT%20TSV");
    let one_block = "max_insert_block_size_rows=1000000&min_insert_block_size_rows=1000000&async_insert=0\
         &min_insert_block_size_bytes=0&input_format_parallel_parsing=0";
    let url = format!("{}/?database={database}&{one_block}&query={query}", a.clickhouse);
    let login = format!(
        "X-ClickHouse-User: {}\r\nX-ClickHouse-Key: {}\r\n",
        a.clickhouse_user, a.clickhouse_password
    );
    open("POST", &url, &format!("{login}Transfer-Encoding: chunked\r\n"))
}

#[tokio::test]
async fn insert_requires_the_valid_claim() {
    let client = fenced("claims").await;
    let insert = |claim: u64| client.query("INSERT INTO rows VALUES ('t-0', ?, 1)").bind(claim).execute();
    let refused = insert(5).await.unwrap_err().to_string();
    assert!(refused.contains("Code: 469."), "no claim exists: {refused}");
    claim(&client, 5).await;
    insert(5).await.unwrap();
    claim(&client, 6).await;
    let refused = insert(5).await.unwrap_err().to_string();
    assert!(refused.contains("Code: 469."), "an overtaken claim: {refused}");
    assert_eq!(rows(&client).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_insert_is_listed_and_commits_at_its_end() {
    let client = fenced("slow").await;
    claim(&client, 7).await;
    let mut stream = begin("slow", "sink:slow-0:7");
    eventually("the insert shows before its first row", async || {
        in_progress(&client, "sink:slow-0:7").await == 1
    })
    .await;
    chunk(&mut stream, b"t-0\t7\t1\n");
    assert_eq!(rows(&client).await, 0, "nothing is visible before the end");
    chunk(&mut stream, b"t-0\t7\t2\n");
    chunk(&mut stream, b"");
    let answer = read_response(stream);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(rows(&client).await, 2);
    assert_eq!(in_progress(&client, "sink:slow-0:7").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_insert_leaves_no_rows_and_no_process() {
    let client = fenced("cut").await;
    claim(&client, 8).await;
    let mut stream = begin("cut", "sink:cut-0:8");
    chunk(&mut stream, b"t-0\t8\t1\nt-0\t8\t2\n");
    eventually("the insert shows", async || in_progress(&client, "sink:cut-0:8").await == 1).await;
    drop(stream);
    eventually("the insert is gone", async || in_progress(&client, "sink:cut-0:8").await == 0).await;
    assert_eq!(rows(&client).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn claim_that_moves_during_an_insert_rejects_the_block() {
    let client = fenced("moved").await;
    claim(&client, 9).await;
    let mut stream = begin("moved", "sink:moved-0:9");
    chunk(&mut stream, b"t-0\t9\t1\n");
    eventually("the insert shows", async || in_progress(&client, "sink:moved-0:9").await == 1).await;
    claim(&client, 10).await;
    chunk(&mut stream, b"");
    let answer = read_response(stream);
    assert!(
        answer.status >= 400 && answer.text().contains("Code: 469."),
        "{} {}",
        answer.status,
        answer.text()
    );
    assert_eq!(rows(&client).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn body_cut_inside_a_compressed_frame_leaves_no_rows() {
    let client = fenced("framed").await;
    claim(&client, 3).await;
    let a = addresses();
    let url =
        format!("{}/?database=framed&decompress=1&query=INSERT%20INTO%20rows%20FORMAT%20TSV", a.clickhouse);
    let login = format!(
        "X-ClickHouse-User: {}\r\nX-ClickHouse-Key: {}\r\n",
        a.clickhouse_user, a.clickhouse_password
    );
    let mut stream = open("POST", &url, &format!("{login}Transfer-Encoding: chunked\r\n"));
    chunk(&mut stream, &frame(b"t-0\t3\t1\n"));
    chunk(&mut stream, &frame(b"t-0\t3\t2\n")[..30]);
    chunk(&mut stream, b"");
    let answer = read_response(stream);
    assert!(answer.status >= 400, "{}", answer.status);
    assert_eq!(rows(&client).await, 0);
}

/// Encodes one LZ4 block in ClickHouse's framing.
fn frame(block: &[u8]) -> Vec<u8> {
    let compressed = lz4_flex::block::compress(block);
    let mut hashed = vec![0x82];
    hashed.extend(u32::try_from(compressed.len() + 9).unwrap().to_le_bytes());
    hashed.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
    hashed.extend(compressed);
    let mut framed = cityhash_rs::cityhash_102_128(&hashed).rotate_left(64).to_le_bytes().to_vec();
    framed.extend(hashed);
    framed
}
