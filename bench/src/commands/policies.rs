//! Generates bundles with a given number of policies.

use std::fmt::Write as _;

use agentgov::commands::example::AIRLINE;
use agentgov::commands::pipeline::Stack;
use agentgov::commands::policy;
use agentgov::failure::Failure;
use agentgov_policy::{Bundle, BundleFiles};
use agentgov_service::ExitCode;

/// Curve whose added policies apply to tools that the agent never calls; also its label in the output.
pub const OTHER_TOOLS: &str = ", the added ones about other tools";
/// Curve whose added policies apply to every tool; also its label in the output.
pub const EVERY_TOOL: &str = ", the added ones about every tool";
const MANIFEST: &str = "bundle.yaml";

/// File of the example whose rules are removed from a bundle with fewer policies than the example.
const REMOVABLE: &str = "payment.cedar";

/// Pushes the example's bundle, extended to `count` policies.
pub fn push(stack: &Stack, count: usize, curve: &str) -> Result<(), Failure> {
    push_files(stack, &with_policies(count, curve)?)
}

/// Pushes a bundle of `count` policies for one environment: the example's without those about payment, and others about
/// other tools.
pub fn push_for(stack: &Stack, count: usize, environment: &str) -> Result<(), Failure> {
    push_files(stack, &for_environment(count, environment)?)
}

fn push_files(stack: &Stack, files: &BundleFiles) -> Result<(), Failure> {
    let bundle = Bundle::compile(files)
        .map_err(|problems| Failure::all(ExitCode::Failed, "the generated bundle has errors:", problems))?;
    policy::push(&bundle, files, (&stack.endpoints, &stack.topology), true).map(drop)
}

fn for_environment(count: usize, environment: &str) -> Result<BundleFiles, Failure> {
    let mut files = AIRLINE.bundle_files();
    files.0.retain(|path, _| path != REMOVABLE && !path.starts_with("tests/"));
    add_policies(&mut files, count, OTHER_TOOLS)?;
    let manifest =
        format!("name: airline-{environment}\nversion: \"{count}\"\nenvironments: [{environment}]\n");
    files.0.insert(MANIFEST.to_owned(), manifest.into_bytes());
    Ok(files)
}

/// Adds generated policies, up to `count` in all.
fn add_policies(files: &mut BundleFiles, count: usize, curve: &str) -> Result<(), Failure> {
    let own = Bundle::compile(files)
        .map_err(|problems| Failure::all(ExitCode::Config, "the example's bundle has errors:", problems))?
        .policies()
        .count();
    let mut text = String::new();
    for number in own..count {
        let resource = match curve {
            EVERY_TOOL => "resource".to_owned(),
            _ => format!("resource == Tool::\"elsewhere_{number}\""),
        };
        let _ = write!(
            text,
            "@id(\"more-{number}\")\n@title(\"No more than so many calls at a time\")\n@severity(\"low\")\n\
             @remediation(\"Fewer calls at a time.\")\nforbid (principal, action in Action::\"act\", {resource})\n\
             when {{ context has message && context.message.tool_calls > {} }};\n\n",
            1_000 + number
        );
    }
    files.0.insert("more.cedar".to_owned(), text.into_bytes());
    Ok(())
}

fn with_policies(count: usize, curve: &str) -> Result<BundleFiles, Failure> {
    let mut files = AIRLINE.bundle_files();
    add_policies(&mut files, count, curve)?;
    let version = format!("version: \"{count}{}\"", if curve == EVERY_TOOL { "-every" } else { "-other" });
    let known = files.0.get(MANIFEST).map(|text| String::from_utf8_lossy(text).into_owned());
    let known =
        known.ok_or_else(|| Failure::new(ExitCode::Failed, "the example's bundle has no bundle.yaml"))?;
    let lines: Vec<&str> = known
        .lines()
        .map(|line| if line.starts_with("version:") { version.as_str() } else { line })
        .collect();
    files.0.insert(MANIFEST.to_owned(), lines.join("\n").into_bytes());
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundle_for_an_environment_has_fewer_or_more_policies_than_the_example() {
        for count in [10, 40] {
            let files = for_environment(count, "few").unwrap_or_else(|_| panic!("{count}"));
            let bundle = Bundle::compile(&files).unwrap();
            assert_eq!(bundle.policies().count(), count);
            assert_eq!(bundle.environments(), ["few"]);
        }
    }

    #[test]
    fn generated_bundle_has_the_requested_number_of_policies() {
        for curve in [OTHER_TOOLS, EVERY_TOOL] {
            for count in [13, 40] {
                let files = with_policies(count, curve).unwrap_or_else(|_| panic!("{count}{curve}"));
                let bundle = Bundle::compile(&files).unwrap();
                assert_eq!(bundle.policies().count(), count);
                assert!(bundle.version().starts_with(&format!("{count}-")), "{}", bundle.version());
            }
        }
    }
}
