//! Schema registry part: Apicurio, with its state in an H2 file.

use super::start::Context;
use crate::Error;
use crate::part::Part;
use crate::supervisor::Launch;

/// Path of the Confluent-compatible API.
pub(crate) const PATH: &str = "/apis/ccompat/v7";

/// Fast start and small heap.
const JVM_FLAGS: [&str; 3] = ["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"];

pub(super) fn launch(context: &Context<'_>, port: u16) -> Result<Launch, Error> {
    let program = context.installed.folder(Part::Registry);
    let folder = context.layout.folder(Part::Registry);
    let jar = std::fs::read_dir(&program)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|name| name.ends_with("-runner.jar"))
        .unwrap_or_else(|| "the runner jar".to_owned());
    let mut args: Vec<String> = JVM_FLAGS.iter().map(ToString::to_string).collect();
    args.push(format!("-Djava.io.tmpdir={}", context.temporary_folder(Part::Registry)?.display()));
    args.extend(["-jar".to_owned(), program.join(jar).display().to_string()]);
    // Without WRITE_DELAY=0, a kill loses acknowledged registrations.
    let database = format!("jdbc:h2:file:{};WRITE_DELAY=0", folder.join("db").display());
    let env = [
        ("QUARKUS_HTTP_HOST", "127.0.0.1".to_owned()),
        ("QUARKUS_HTTP_PORT", port.to_string()),
        ("APICURIO_DATASOURCE_URL", database),
    ];
    Ok(Launch {
        program: context.installed.java.clone(),
        args,
        env: env.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        folder,
        log: context.layout.log(Part::Registry),
        low_priority: false,
    })
}
