//! Controls: instructions of operators to stages.

use agentgov_schemas::governance::Control;

use crate::push::append;
use crate::{Error, RegistryContext};

/// Sends the control that lets a stage consume again after its share of rejects has stopped it. When the function returns,
/// all in-sync replicas have the record, and the stage reads it shortly afterwards. A stage that is not stopped ignores it.
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
    append(&topic, &[(stage.to_owned(), value)]).map(drop)
}
