//! `agentgov pdp`: answers requests for decisions until a shutdown signal.

use std::path::Path;

use agentgov_pdp::{BundleOnly, Callers, DecisionServer, ServerConfig, TlsFiles};
use agentgov_policy::BundleModel;
use agentgov_policy::authzen::AccessBundle;
use agentgov_service::panics::PanicGuard;
use agentgov_service::{ExitCode, Health, Metrics, ShutdownSignal};

use crate::cli::{Global, Pdp};
use crate::commands::pdp_log;
use crate::commands::policy::{failure_of, read};
use crate::failure::{Failure, OrExit as _};
use crate::print::{self, outln};

/// Name of the process in its health.
const NAME: &str = "pdp";

pub fn pdp(args: &Pdp, global: &Global) -> Result<ExitCode, Failure> {
    let config = config(args)?;
    let Some(folder) = &args.bundle else { return pdp_log::pdp(args, config, &args.name, global) };
    let bundle = bundle(folder)?;
    check_environments(&config, &bundle)?;
    let described =
        format!("bundle {} {} (sha256 {})", bundle.name(), bundle.version(), bundle.digest().short());
    let metrics = Metrics::start()?;
    let stop = ShutdownSignal::default();
    let panics = PanicGuard::new(stop.clone());
    let on_signal = stop.clone();
    ctrlc::set_handler(move || on_signal.request()).or_exit(ExitCode::Failed)?;
    let server = DecisionServer::start(config, BundleOnly::new(bundle), (Health::new(NAME), metrics, stop))
        .or_exit(ExitCode::Config)?;
    if global.json {
        print::json_line(&serde_json::json!({ "listening": server.url() }))?;
    } else {
        outln!("decisions by {}, which are not recorded, on {}", described, server.url());
    }
    let ended = server.join();
    if let Some(panic) = panics.panic() {
        return Err(panic.into());
    }
    ended.or_exit(ExitCode::Failed)?;
    Ok(ExitCode::Done)
}

/// Compiles the bundle. Rejects a bundle of agents and tools, which needs the log.
fn bundle(folder: &Path) -> Result<AccessBundle, Failure> {
    let files = read(folder)?;
    if BundleModel::of(&files) == Some(BundleModel::Agents) {
        return Err(Failure::new(
            ExitCode::Config,
            format!(
                "{}: expected a bundle of `model: authzen`, found one of agents and tools: its decisions depend on the registry \
                 of agents and on the sessions of the log, which are not there; without them no agent is registered, and every call \
                 would be denied",
                folder.display()
            ),
        ));
    }
    AccessBundle::compile(&files).map_err(|problems| failure_of(folder, &problems))
}

fn config(args: &Pdp) -> Result<ServerConfig, Failure> {
    let tls = args.tls_certificate.as_ref().zip(args.tls_key.as_ref());
    let tls = tls.map(|(certificate, key)| TlsFiles { certificate: certificate.clone(), key: key.clone() });
    let callers =
        args.callers.as_deref().map(Callers::read).transpose().map_err(|problems| {
            Failure::all(ExitCode::Config, "the file of callers has errors:", problems)
        })?;
    Ok(ServerConfig { listen: args.listen.0.clone(), tls, callers, url: args.url.clone() })
}

/// Rejects a caller of an environment in which the bundle does not decide: all its requests would fail.
fn check_environments(config: &ServerConfig, bundle: &AccessBundle) -> Result<(), Failure> {
    let callers = config.callers.iter().flat_map(Callers::iter);
    let wrong = callers.filter(|caller| !bundle.environments().contains(&caller.environment)).map(|caller| {
        format!(
            "caller {}: expected an environment of bundle {} ({}), found `{}`",
            caller.name,
            bundle.name(),
            bundle.environments().join(", "),
            caller.environment
        )
    });
    let wrong: Vec<String> = wrong.collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Failure::all(ExitCode::Config, "the file of callers does not fit the bundle:", wrong))
}
