//! Time of `agentgov hook`, beside a Python process that does nothing and a decision.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use agentgov_schemas::Digest;
use serde_json::{Value, json};

use super::http::Client;
use super::process::{RunningServer, Start};
use super::report::Pair;
use crate::{Bench, BenchError, Spread};

/// Token of the hook.
const TOKEN: &str = "token-of-the-measured-hook";
/// Session of the calls.
const SESSION: &str = "measured-hook";

/// A gateway and the hook that asks it.
pub struct HookProbe {
    gateway: RunningServer,
    client: Client,
    product: PathBuf,
    token: PathBuf,
    question: Value,
    calls: usize,
}

impl HookProbe {
    /// Starts a gateway that asks `pdp`. The calls are those of `question`, in a session of their own.
    ///
    /// # Errors
    /// If the gateway cannot be started.
    pub fn start(bench: &Bench<'_>, pdp: SocketAddr, question: &Value) -> Result<Self, BenchError> {
        let text = |pointer: &str| question.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (config, token) = (bench.folder("gateway.yaml"), bench.folder("hook-token"));
        let yaml = format!(
            "listen: 127.0.0.1:0\npdp: http://{pdp}\nspool: {}\ncallers:\n  - {{ name: hook, token_sha256: \"{}\", tenant: {}, \
             environment: {}, agent: {} }}\n",
            bench.folder("gateway-spool").display(),
            Digest::of(TOKEN.as_bytes()),
            text("/context/tenant"),
            text("/context/environment"),
            text("/subject/id"),
        );
        let write = |file: &Path, text: &str| {
            std::fs::write(file, text).map_err(BenchError::io("writing the gateway's files"))
        };
        write(&config, &yaml)?;
        write(&token, TOKEN)?;
        Ok(Self {
            gateway: bench.start(Start::Gateway(&config))?,
            client: Client::connect(pdp)?,
            product: bench.setup.product.clone(),
            token,
            question: question.clone(),
            calls: 0,
        })
    }

    /// Returns the median times of a round in ms.
    ///
    /// # Errors
    /// If a process fails.
    pub fn round(&mut self, samples: usize) -> Result<Pair, BenchError> {
        let (mut ours, mut other) = (Vec::new(), Vec::new());
        for _ in 0..samples {
            ours.push(self.hook()?);
            other.push(self.python_and_decision()?);
        }
        Ok(Pair { ours: Spread::of(ours).median, other: Spread::of(other).median })
    }

    /// Ends the gateway.
    ///
    /// # Errors
    /// If it cannot be ended.
    pub fn stop(self) -> Result<(), BenchError> {
        self.gateway.stop()
    }

    fn hook(&mut self) -> Result<f64, BenchError> {
        self.calls += 1;
        let call = json!({
            "session_id": SESSION,
            "hook_event_name": "PreToolUse",
            "tool_use_id": format!("c{}", self.calls),
            "tool_name": self.question.pointer("/resource/id"),
            "tool_input": {},
        });
        let url = format!("http://{}", self.gateway.address);
        let mut command = Command::new(&self.product);
        command.args(["hook", "codex", "--url", &url, "--token-file"]).arg(&self.token);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = BenchError::io("running a hook");
        let began = Instant::now();
        let ended = command.spawn().and_then(|mut hook| {
            if let Some(mut stdin) = hook.stdin.take() {
                stdin.write_all(call.to_string().as_bytes())?;
            }
            hook.wait_with_output()
        });
        let ended = ended.map_err(failed)?;
        let elapsed = began.elapsed();
        let stderr = String::from_utf8_lossy(&ended.stderr);
        // A denial is a decision, too.
        if !ended.status.success() && !stderr.contains("This call is not allowed") {
            let message = format!("expected a decision, found {}: {stderr}", ended.status);
            return Err(BenchError::Http { what: "running a hook", message });
        }
        Ok(elapsed.as_secs_f64() * 1e3)
    }

    fn python_and_decision(&mut self) -> Result<f64, BenchError> {
        let began = Instant::now();
        let ended = Command::new("python3").args(["-c", "pass"]).status();
        ended.map_err(BenchError::io("running python3"))?;
        self.client.ask("/access/v1/evaluation", &self.question.to_string())?;
        Ok(began.elapsed().as_secs_f64() * 1e3)
    }
}
