//! `agentgov hook`: the command that coding agents run before and after each call, and their settings.

use std::path::{Path, PathBuf};
use std::time::Duration;

use agentgov_gateway::hooks::agent::CodingAgent;
use agentgov_gateway::hooks::client::{self, HookEnd, HookOptions};
use agentgov_gateway::hooks::settings;
use agentgov_service::ExitCode;
use serde_json::json;

use crate::cli::{Global, HookArgs, HookCheck, HookCommand, HookInstall};
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::print::{self, outln};

/// Exit code on which each agent blocks.
const BLOCKED: ExitCode = ExitCode::Usage;

pub fn hook(command: HookCommand, global: &Global) -> Result<ExitCode, Failure> {
    match command {
        HookCommand::ClaudeCode(args) => run(CodingAgent::ClaudeCode, args),
        HookCommand::Codex(args) => run(CodingAgent::Codex, args),
        HookCommand::Cursor(args) => run(CodingAgent::Cursor, args),
        HookCommand::GeminiCli(args) => run(CodingAgent::GeminiCli, args),
        HookCommand::Install(args) => install(&args, global),
        HookCommand::Check(args) => check(&args, global),
    }
}

fn run(agent: CodingAgent, args: HookArgs) -> Result<ExitCode, Failure> {
    let token = args.token_file.as_deref().map(|file| {
        let text = std::fs::read_to_string(file);
        text.map_err(|error| Failure::new(BLOCKED, format!("{}: {error}", file.display())))
    });
    let token = token.transpose()?.map(|text| text.trim().to_owned());
    if token.as_ref().is_some_and(|token| !token.chars().all(|c| c.is_ascii_graphic())) {
        return Err(Failure::new(BLOCKED, "--token-file: expected one word of ASCII, found another text"));
    }
    let options = HookOptions { agent, url: args.url, token, timeout: Duration::from_secs(args.timeout) };
    match client::run(std::io::stdin(), options) {
        HookEnd::Allowed { output } => {
            output.map(|output| print::json_line(&output)).transpose()?;
            Ok(ExitCode::Done)
        }
        HookEnd::Blocked { reason, output } => {
            // The exit code blocks, whatever happens to the output.
            let _ = output.map(|output| print::json_line(&output)).transpose();
            Err(Failure::report(BLOCKED, reason))
        }
    }
}

fn install(args: &HookInstall, global: &Global) -> Result<ExitCode, Failure> {
    let file = settings_file(args.agent, args.settings.as_deref())?;
    let text = read_if_there(&file)?;
    let at_file = |error: String| Failure::new(ExitCode::Config, format!("{}: {error}", file.display()));
    let command = command(args)?;
    let installed = settings::install(args.agent, &text, &command).map_err(at_file)?;
    if installed.is_changed {
        if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            context::create_folder(folder)?;
        }
        context::write(&file, &installed.text)?;
    }
    let faults = settings::check(args.agent, &installed.text).map_err(at_file)?;
    let caveats = args.agent.caveats();
    if global.json {
        print::json(&json!({
            "settings": file.display().to_string(), "changed": installed.is_changed, "faults": faults, "caveats": caveats,
        }))?;
    } else {
        let state =
            if installed.is_changed { "hooks are installed" } else { "hooks are there; nothing was changed" };
        outln!("{}: {}", file.display(), state);
        print_all(&faults, caveats);
    }
    Ok(if faults.is_empty() { ExitCode::Done } else { ExitCode::Findings })
}

fn check(args: &HookCheck, global: &Global) -> Result<ExitCode, Failure> {
    let file = settings_file(args.agent, args.settings.as_deref())?;
    let faults = settings::check(args.agent, &read_if_there(&file)?)
        .map_err(|error| Failure::new(ExitCode::Config, format!("{}: {error}", file.display())))?;
    let caveats = args.agent.caveats();
    if global.json {
        print::json(
            &json!({ "settings": file.display().to_string(), "faults": faults, "caveats": caveats }),
        )?;
    } else {
        let state = if faults.is_empty() { "every call is asked" } else { "calls would run unasked" };
        outln!("{}: {}", file.display(), state);
        print_all(&faults, caveats);
    }
    Ok(if faults.is_empty() { ExitCode::Done } else { ExitCode::Findings })
}

fn print_all(faults: &[String], caveats: &[&str]) {
    for fault in faults {
        outln!("  {}", fault);
    }
    for caveat in caveats {
        outln!("  note: {}", caveat);
    }
}

/// Returns the file of `--settings`, or that of the user.
fn settings_file(agent: CodingAgent, given: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(file) = given {
        return Ok(file.to_owned());
    }
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let home = home.ok_or_else(|| {
        Failure::new(ExitCode::Usage, "expected an absolute path in HOME, or --settings, found none")
    })?;
    Ok(home.join(agent.settings_file()))
}

fn read_if_there(file: &Path) -> Result<String, Failure> {
    match file.try_exists() {
        Ok(false) => Ok(String::new()),
        _ => context::read_text(file),
    }
}

/// Returns the command line of the hook. The agent runs it in any folder.
fn command(args: &HookInstall) -> Result<String, Failure> {
    let word = |path: &Path| {
        let path = path.to_str().ok_or_else(|| format!("{}: expected UTF-8", path.display()));
        path.and_then(settings::shell_word).or_exit(ExitCode::Config)
    };
    let program = std::env::current_exe().or_exit(ExitCode::Failed)?;
    let mut command = format!("{} hook {}", word(&program)?, args.agent.name());
    command.push_str(&format!(" --url {}", settings::shell_word(&args.url).or_exit(ExitCode::Usage)?));
    if let Some(file) = &args.token_file {
        let file = std::path::absolute(file).or_exit(ExitCode::Failed)?;
        command.push_str(&format!(" --token-file {}", word(&file)?));
    }
    Ok(command)
}
