//! Broker part: Apache Kafka as a single node, broker and controller.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::start::Context;
use crate::Error;
use crate::part::Part;
use crate::supervisor::Launch;

/// Logs to stdout, which is redirected to the log file.
const LOGGING_PROPERTIES: &str = "\
rootLogger.level = INFO
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{HH:mm:ss.SSS} %p %m (%c)%n
";

/// Fast start and small heap, for one node on a busy machine; later flags override.
const JVM_FLAGS: [&str; 4] = ["-Xms256m", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"];

/// One replica of everything, no delay before a group's first assignment, no automatic topics, and a fast return after a
/// kill: the controller readmits the broker only when its previous session has expired.
pub(crate) const BROKER_PROPERTIES: [(&str, &str); 10] = [
    ("auto.create.topics.enable", "false"),
    ("broker.heartbeat.interval.ms", "500"),
    ("broker.session.timeout.ms", "3000"),
    ("group.initial.rebalance.delay.ms", "0"),
    ("offsets.topic.num.partitions", "4"),
    ("offsets.topic.replication.factor", "1"),
    ("transaction.state.log.min.isr", "1"),
    ("transaction.state.log.num.partitions", "4"),
    ("transaction.state.log.replication.factor", "1"),
    ("share.coordinator.state.topic.replication.factor", "1"),
];

/// Writes the configuration, formats new storage, and returns the launch of the broker.
pub(super) fn prepare(
    context: &Context<'_>,
    port: u16,
    controller: u16,
    additional: &BTreeMap<String, String>,
) -> Result<Launch, Error> {
    let folder = context.layout.folder(Part::Broker);
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(Error::io("write", &path)).map(|()| path)
    };
    let logging = write("log4j2.properties", LOGGING_PROPERTIES)?;
    let listeners = listeners(context, port, controller, additional);
    let properties =
        write("server.properties", &properties(&folder, controller, listeners, context.broker_properties))?;
    let temporary = context.temporary_folder(Part::Broker)?;
    let java = |main: &str, args: &[&str]| launch(context, &folder, &temporary, &logging, main, args);
    let properties = properties.to_string_lossy();
    if !folder.join("data/meta.properties").exists() {
        let cluster = Uuid::now_v7().simple().to_string();
        let format = java("kafka.tools.StorageTool", &["format", "-t", &cluster, "-c", &properties]);
        context.run_to_end(Part::Broker, format)?;
    }
    Ok(java("kafka.Kafka", &[&properties]))
}

fn launch(
    context: &Context<'_>,
    folder: &Path,
    temporary: &Path,
    logging: &Path,
    main: &str,
    args: &[&str],
) -> Launch {
    let jars = context.installed.folder(Part::Broker).join("*");
    let mut all: Vec<String> = JVM_FLAGS.iter().map(ToString::to_string).collect();
    all.extend(context.broker_jvm.iter().cloned());
    all.push(format!("-Djava.io.tmpdir={}", temporary.display()));
    all.push(format!("-Dlog4j2.configurationFile={}", logging.display()));
    all.extend(["-cp".to_owned(), jars.display().to_string(), main.to_owned()]);
    all.extend(args.iter().map(ToString::to_string));
    Launch {
        program: context.installed.java.clone(),
        args: all,
        env: Vec::new(),
        folder: folder.to_path_buf(),
        log: context.layout.log(Part::Broker),
        low_priority: false,
    }
}

/// Returns the properties of the broker's plaintext listener and of the additional ones.
fn listeners(
    context: &Context<'_>,
    port: u16,
    controller: u16,
    additional: &BTreeMap<String, String>,
) -> [(&'static str, String); 3] {
    let mut advertised = format!("PLAINTEXT://127.0.0.1:{port}");
    let mut protocols = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned();
    for (name, protocol) in context.broker_listeners {
        if let Some(address) = additional.get(name) {
            advertised.push_str(&format!(",{name}://{address}"));
            protocols.push_str(&format!(",{name}:{protocol}"));
        }
    }
    [
        ("listeners", format!("{advertised},CONTROLLER://127.0.0.1:{controller}")),
        ("advertised.listeners", advertised),
        ("listener.security.protocol.map", protocols),
    ]
}

fn properties(
    folder: &Path,
    controller: u16,
    listeners: [(&'static str, String); 3],
    extra: &[(String, String)],
) -> String {
    let data: PathBuf = folder.join("data");
    let own = [
        ("process.roles", "broker,controller".to_owned()),
        ("node.id", "1".to_owned()),
        ("controller.quorum.voters", format!("1@127.0.0.1:{controller}")),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        ("log.dirs", data.display().to_string()),
    ];
    let own = own.into_iter().chain(listeners).map(|(name, value)| (name.to_owned(), value));
    let common = BROKER_PROPERTIES.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    // The last line of a name takes precedence.
    own.chain(common).chain(extra.iter().cloned()).map(|(name, value)| format!("{name}={value}\n")).collect()
}
