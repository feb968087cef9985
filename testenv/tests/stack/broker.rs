//! Tests that the broker supports transactions and consumer groups.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Message};

use super::addresses;

fn client() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &addresses().kafka);
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn committed_transaction_reaches_a_group() {
    let admin: AdminClient<DefaultClientContext> = client().create().unwrap();
    let topic = NewTopic::new("transactions", 2, TopicReplication::Fixed(1));
    admin.create_topics([&topic], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();

    let producer: BaseProducer = client().set("transactional.id", "t1").create().unwrap();
    let limit = Duration::from_secs(30);
    producer.init_transactions(limit).unwrap();
    producer.begin_transaction().unwrap();
    producer.send(BaseRecord::to("transactions").key("k").payload("v")).unwrap();
    producer.commit_transaction(limit).unwrap();

    let consumer: BaseConsumer =
        client().set("group.id", "g").set("auto.offset.reset", "earliest").create().unwrap();
    consumer.subscribe(&["transactions"]).unwrap();
    let deadline = Instant::now() + limit;
    let record = loop {
        assert!(Instant::now() < deadline, "no record arrived");
        if let Some(record) = consumer.poll(Duration::from_millis(100)) {
            break record.unwrap().payload().unwrap().to_vec();
        }
    };
    assert_eq!(record, b"v");
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_not_created_automatically() {
    let consumer: BaseConsumer = client().create().unwrap();
    let metadata = consumer.fetch_metadata(Some("never-made"), Duration::from_secs(30)).unwrap();
    assert!(metadata.topics()[0].error().is_some(), "the broker must not create topics on its own");
}
