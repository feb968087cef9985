//! A schema registry with one response to every request, and mock brokers in this process.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;

use agentgov_connect::{KafkaEndpoint, SchemaRegistryEndpoint};
use agentgov_schemas::subject::ACTION_EVENT;
use agentgov_schemas::topology::Topology;
use agentgov_sdk::RecorderOptions;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

/// Starts mock brokers with the actions topic.
pub fn brokers() -> (MockCluster<'static, DefaultProducerContext>, KafkaEndpoint) {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(&topic(), 3, 1).unwrap();
    let kafka = KafkaEndpoint::at(cluster.bootstrap_servers());
    (cluster, kafka)
}

/// Returns the name of the actions topic.
pub fn topic() -> String {
    Topology::embedded().unwrap().topic_of(ACTION_EVENT).unwrap().0.to_owned()
}

/// Starts a server that answers every request with `status` and `body` until the process ends.
pub fn registry(status: &'static str, body: &'static str) -> SchemaRegistryEndpoint {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut length = 0;
            let mut line = String::new();
            while reader.read_line(&mut line).unwrap() > 2 {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            reader.read_exact(&mut vec![0; length]).unwrap();
            let response = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(response.as_bytes()).unwrap();
        }
    });
    SchemaRegistryEndpoint::at(url)
}

/// Starts a schema registry that has every schema with id 7.
pub fn registry_with_every_schema() -> SchemaRegistryEndpoint {
    registry("200 OK", r#"{"id": 7, "version": 1}"#)
}

/// Returns options for these endpoints.
pub fn options(kafka: &KafkaEndpoint, registry: SchemaRegistryEndpoint) -> RecorderOptions {
    RecorderOptions::new(kafka.clone(), registry, Topology::embedded().unwrap().into(), "acme", "test")
}
