//! What operators tell stages.

use agentgov_schemas::governance::Control;

use crate::push::append;
use crate::{Error, RegistryContext};

/// Tells a stage that the cause of its flood of rejects is mended: it consumes again. When it returns, every in-sync
/// replica has it; the stage hears of it within a moment. A stage that was not standing still does nothing.
pub fn send_resume(
    context: RegistryContext<'_>,
    stage: &str,
    reason: &str,
    sent_by: &str,
) -> Result<(), Error> {
    let topic = context.topic::<Control<'static>>()?;
    let control = Control { stage, command: Control::RESUME, reason, sent_by };
    let value = topic
        .encoder()?
        .encode(&control)
        .map_err(|e| Error::Encode { key: stage.to_owned(), message: e.to_string() })?;
    append(&topic, &[(stage.to_owned(), value)])
}
