//! Secured stack: a broker with authentication, a registry and an engine behind TLS and a login, and a principal for each
//! role.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use agentgov_connect::{Endpoints, Settings};
use agentgov_schemas::topology::{EMBEDDED, Topology};
use agentgov_testenv::{BackendKind, Error, Options, TestEnv};
use tempfile::TempDir;

use crate::admin::Admin;
use crate::authority::Authority;
use crate::gate;

const DEADLINE: Duration = Duration::from_secs(90);
/// Principal of the auditors, who use a certificate.
const AUDITOR: &str = "CN=auditor,O=agentgov";
/// Users of registry and ClickHouse.
const REGISTRY_USER: &str = "member";
const CLICKHOUSE_USER: &str = "writer";
/// Password of every user. Settings name files with it, since a process's environment is visible to its user.
pub const PASSWORD: &str = "open sesame";

/// Running stack.
pub struct Cluster {
    env: Option<TestEnv>,
    folder: TempDir,
    /// Topology in which the auditors' principal has another name.
    pub topology: Topology,
    settings: Vec<(String, String)>,
}

/// Returns the reason for which these tests cannot run here.
pub fn skip_reason() -> Option<String> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    match set("AGENTGOV_BACKEND") {
        Some(backend) if backend != "native" => Some(format!(
            "the backend is {backend}, and only testenv's native broker takes listeners of a test's own"
        )),
        None if set("AGENTGOV_KAFKA").is_some() || set("AGENTGOV_STACK").is_some() => {
            Some("the stack is somebody else's, and so are its users".to_owned())
        }
        _ => None,
    }
}

impl Cluster {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let authority = Authority::new(folder.path(), "authority");
        Authority::new(folder.path(), "another");
        let (client, key) = authority.client(&[("O", "agentgov"), ("CN", "auditor")], PASSWORD);
        let env = Self::broker(&authority).unwrap_or_else(|error| panic!("{error}"));

        let text = EMBEDDED.replace("  auditors: {", &format!("  auditors: {{ principal: \"{AUDITOR}\","));
        std::fs::write(at("topology.yaml"), &text).unwrap();
        let topology = Topology::parse("topology.yaml", &text).unwrap();

        let signed = authority.sign(&[("CN", "gate")]);
        let plain = env.addresses();
        // Basic authentication of member:password, and ClickHouse's header.
        let registry = gate::open(&plain.registry, &signed, "basic bWVtYmVyOm9wZW4gc2VzYW1l");
        let clickhouse = gate::open(&plain.clickhouse, &signed, "x-clickhouse-key: open sesame");
        for (name, text) in [("password", format!("{PASSWORD}\n")), ("wrong", "not it\n".to_owned())] {
            std::fs::write(at(name), text).unwrap();
        }
        let path = |path: PathBuf| path.display().to_string();
        let settings = [
            ("KAFKA", env.listener("SECURED").unwrap()),
            ("KAFKA_SECURITY", "sasl_ssl".to_owned()),
            ("KAFKA_MECHANISM", "SCRAM-SHA-512".to_owned()),
            ("KAFKA_PASSWORD_FILE", path(at("password"))),
            ("KAFKA_CA_FILE", path(authority.file())),
            ("SCHEMA_REGISTRY", registry),
            ("SCHEMA_REGISTRY_USER", REGISTRY_USER.to_owned()),
            ("SCHEMA_REGISTRY_PASSWORD_FILE", path(at("password"))),
            ("SCHEMA_REGISTRY_CA_FILE", path(authority.file())),
            ("CLICKHOUSE", clickhouse),
            ("CLICKHOUSE_USER", CLICKHOUSE_USER.to_owned()),
            ("CLICKHOUSE_PASSWORD_FILE", path(at("password"))),
            ("CLICKHOUSE_CA_FILE", path(authority.file())),
            ("CLICKHOUSE_DATABASE", "secured".to_owned()),
        ];
        let mut settings: Vec<_> =
            settings.into_iter().map(|(name, value)| (format!("AGENTGOV_{name}"), value)).collect();
        // Stored under names without a meaning for the product.
        for (name, value) in
            [("certified", env.listener("CERTIFIED").unwrap()), ("client", path(client)), ("key", path(key))]
        {
            settings.push((name.to_owned(), value));
        }
        let cluster = Self { env: Some(env), folder, topology, settings };
        cluster.rights();
        cluster
    }

    /// Starts a broker with a listener for passwords, one for certificates, and an authorizer that denies by default.
    fn broker(authority: &Authority) -> Result<TestEnv, Error> {
        let keystore = authority.keystore().display().to_string();
        let login = "org.apache.kafka.common.security";
        let mut options = Options::new(env!("CARGO_BIN_EXE_agentgov"))
            .backend(BackendKind::Native)
            .broker_listener("SECURED", "SASL_SSL")
            .broker_listener("CERTIFIED", "SSL")
            .broker_property(
                "authorizer.class.name",
                "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            )
            .broker_property("allow.everyone.if.no.acl.found", "false")
            // Anonymous: the broker's connection to itself, over a listener that the tests do not use.
            .broker_property("super.users", "User:admin;User:ANONYMOUS")
            .broker_property("listener.name.secured.sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-512")
            .broker_property(
                "listener.name.secured.plain.sasl.jaas.config",
                format!("{login}.plain.PlainLoginModule required user_admin=\"{PASSWORD}\";"),
            )
            .broker_property(
                "listener.name.secured.scram-sha-512.sasl.jaas.config",
                format!("{login}.scram.ScramLoginModule required;"),
            )
            .broker_property("listener.name.certified.ssl.client.auth", "required");
        for listener in ["secured", "certified"] {
            let name = |key: &str| format!("listener.name.{listener}.ssl.{key}");
            options = options
                .broker_property(name("keystore.type"), "PEM")
                .broker_property(name("keystore.location"), keystore.clone())
                .broker_property(name("truststore.type"), "PEM")
                .broker_property(name("truststore.location"), authority.file().display().to_string());
        }
        TestEnv::start(options)
    }

    /// Creates a user for each principal and for an unknown one, and grants the rights of the topology.
    fn rights(&self) {
        let admin = Admin::new(&self.endpoints("admin", &[("AGENTGOV_KAFKA_MECHANISM", "PLAIN")]).kafka);
        let users = self.topology.stages.keys().chain(self.topology.principals.keys());
        let users: Vec<_> =
            users.map(String::as_str).chain(["stranger"]).map(|user| (user, PASSWORD)).collect();
        admin.users(&users);
        admin.allow(agentgov_topology::acls(&self.topology).unwrap().iter());
    }

    /// Returns the path of a file of this test.
    pub fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn aside(&self, name: &str) -> String {
        self.settings.iter().find(|(key, _)| key == name).unwrap().1.clone()
    }

    /// Returns the settings of `user` as variables, overridden by `more`. The auditors use their certificate.
    fn settings_of(&self, user: &str, more: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut settings_of: Vec<_> =
            self.settings.iter().filter(|(name, _)| name.starts_with("AGENTGOV_")).cloned().collect();
        let mut set = |name: &str, value: String| {
            settings_of.retain(|(known, _)| known != name);
            settings_of.push((name.to_owned(), value));
        };
        if user == "auditors" {
            set("AGENTGOV_KAFKA", self.aside("certified"));
            set("AGENTGOV_KAFKA_SECURITY", "ssl".to_owned());
            set("AGENTGOV_KAFKA_MECHANISM", String::new());
            set("AGENTGOV_KAFKA_PASSWORD_FILE", String::new());
            set("AGENTGOV_KAFKA_CERTIFICATE_FILE", self.aside("client"));
            set("AGENTGOV_KAFKA_KEY_FILE", self.aside("key"));
            set("AGENTGOV_KAFKA_KEY_PASSWORD_FILE", self.file("password"));
        } else {
            set("AGENTGOV_KAFKA_USER", user.to_owned());
        }
        for (name, value) in more {
            set(name, (*value).to_owned());
        }
        settings_of
    }

    /// Returns the endpoints with the settings of `user`.
    pub fn endpoints(&self, user: &str, more: &[(&str, &str)]) -> Endpoints {
        let settings_of = self.settings_of(user, more);
        let find =
            |name: &str| settings_of.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        Settings::read(&find, None).unwrap().endpoints().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns `agentgov ARGS` as `user`.
    pub fn command(&self, user: &str, args: &[&str]) -> Command {
        self.command_with(user, &[], args)
    }

    pub fn command_with(&self, user: &str, more: &[(&str, &str)], args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agentgov"));
        command.args(args).args(["--topology", &self.file("topology.yaml")]);
        self.prepare(&mut command, user, more);
        command
    }

    fn prepare(&self, command: &mut Command, user: &str, more: &[(&str, &str)]) {
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AGENTGOV_")) {
            command.env_remove(name);
        }
        command
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .envs(self.settings_of(user, more))
            .env("AGENTGOV_LOG", "info");
    }

    /// Runs `agentgov ARGS` as `user`, panics unless it exits with 0, and returns stdout.
    pub fn run(&self, user: &str, args: &[&str]) -> String {
        let output = self.command(user, args).output().unwrap();
        assert!(output.status.success(), "agentgov {args:?} as {user}: {}", describe(&output));
        let all = [output.stdout.clone(), output.stderr].concat();
        assert!(!String::from_utf8_lossy(&all).contains(PASSWORD), "agentgov {args:?} shows a password");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts a stage under its own principal. It ends with this process.
    pub fn stage(&self, stage: &str) -> Stage {
        let log = PathBuf::from(self.file(&format!("{stage}.log")));
        let ourselves = env!("CARGO_BIN_EXE_agentgov");
        let mut command = Command::new(ourselves);
        command
            .args(["testenv", "supervisor", "become", "--parent", &std::process::id().to_string(), "--"])
            .args([ourselves, "run", stage, "--topology", &self.file("topology.yaml")])
            .stdin(Stdio::null())
            .stdout(File::create(&log).unwrap())
            .stderr(File::options().append(true).open(&log).unwrap());
        self.prepare(&mut command, stage, &[]);
        Stage { name: stage.to_owned(), child: command.spawn().unwrap(), log }
    }

    /// Starts a decision point under the principal `user`, and returns it with its URL. It ends with this process.
    pub fn pdp(&self, user: &str, key: &str) -> (Stage, String) {
        let log = PathBuf::from(self.file(&format!("pdp-{user}.log")));
        let ourselves = env!("CARGO_BIN_EXE_agentgov");
        let (spool, topology) = (self.file(&format!("spool-{user}")), self.file("topology.yaml"));
        let mut command = Command::new(ourselves);
        command
            .args(["testenv", "supervisor", "become", "--parent", &std::process::id().to_string(), "--"])
            .args([ourselves, "pdp", "--listen", "127.0.0.1:0", "--signing-key", key, "--spool", &spool])
            .args(["--topology", &topology])
            .stdin(Stdio::null())
            .stdout(File::create(&log).unwrap())
            .stderr(File::options().append(true).open(&log).unwrap());
        self.prepare(&mut command, user, &[]);
        let stage = Stage { name: format!("pdp of {user}"), child: command.spawn().unwrap(), log };
        let url = || {
            let text = read(&stage.log);
            let at = text.find("decisions on ")?;
            text[at..].split([' ', ',']).find(|word| word.starts_with("http://")).map(str::to_owned)
        };
        self.eventually("the decision point listens", || url().is_some());
        let url = url().unwrap();
        (stage, url)
    }

    /// Counts the rows of a table; 0 if it does not exist.
    pub fn count(&self, table: &str) -> i64 {
        let clickhouse = self.endpoints("auditors", &[]).clickhouse;
        let client =
            agentgov_connect::http_client(&clickhouse.url, &clickhouse.tls).unwrap().build().unwrap();
        let request = client
            .post(&clickhouse.url)
            .query(&[("database", &clickhouse.database)])
            .header("X-ClickHouse-Key", clickhouse.password.expose())
            .body(format!("SELECT count() FROM {table}"));
        request.send().unwrap().text().unwrap().trim().parse().unwrap_or_default()
    }

    /// Waits for a condition. Panics after [`DEADLINE`] with the stages' logs.
    pub fn eventually(&self, what: &str, met: impl Fn() -> bool) {
        let began = Instant::now();
        while !met() {
            assert!(began.elapsed() < DEADLINE, "expected: {what}; still not so. {}", self.logs());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn logs(&self) -> String {
        let files = std::fs::read_dir(self.folder.path()).unwrap().flatten().map(|entry| entry.path());
        let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.map(|log| format!("\n{}:\n{}", log.display(), read(&log))).collect()
    }

    /// Checks that no process's log contains a password.
    pub fn assert_no_password_in_logs(&self) {
        let logs = self.logs();
        assert!(logs.contains("assigned") && !logs.contains(PASSWORD), "{logs}");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(env) = self.env.take() {
            env.stop().ok();
        }
    }
}

/// Process of a stage.
pub struct Stage {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Stage {
    /// Terminates the stage and expects exit code 0.
    pub fn end(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{} ended with {status}:\n{}", self.name, read(&self.log));
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// Formats a command's status and output for a message.
pub fn describe(output: &Output) -> String {
    format!(
        "{}\nstdout: {}\nstderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
