//! `tools/list`: the client sees only the tools that the agent may use.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Proxy;
use super::governed::NoResponse;
use super::requests::CallEvents;
use crate::envelope::{Envelope, INTERNAL_ERROR, RequestId, ResponseOutcome};
use crate::json::{Members, splice};
use crate::methods::{Sender, Target};
use crate::reply;

impl Proxy {
    /// Returns the answer to `tools/list`; `None` if the client does not wait for it.
    pub(super) fn run_listing(&self, id: &RequestId, frame: &[u8], events: &CallEvents) -> Option<Vec<u8>> {
        let response = match self.exchange(id, frame, events) {
            Ok(response) => response,
            Err(NoResponse::Failed(reason)) => return Some(reply::error(Some(id), INTERNAL_ERROR, &reason)),
            Err(NoResponse::Cancelled) => return None,
        };
        Some(match self.reduced(&response) {
            Ok(reduced) => reduced.unwrap_or(response),
            Err(message) => reply::error(Some(id), INTERNAL_ERROR, &message),
        })
    }

    /// Returns the response without the tools that the agent may not use; `None` if it stays unchanged.
    fn reduced(&self, response: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let Ok(Envelope::Response { outcome: ResponseOutcome::Result(result), .. }) =
            Envelope::read(response)
        else {
            return Ok(None);
        };
        let unreadable = |message: String| {
            self.refuse(Sender::Server, &message, response);
            message
        };
        let members =
            Members::read(result.get()).map_err(|error| unreadable(format!("`result`: {error}")))?;
        let Some(list) = members.get("tools") else {
            return Err(unreadable("`result.tools`: expected a list of tools, found none".to_owned()));
        };
        let tools = Tools::read(list.get()).map_err(unreadable)?;
        let permitted = self.session.permitted_tools().map_err(|error| error.to_string())?;
        let permitted: BTreeSet<String> = permitted.into_iter().map(|tool| tool.name).collect();
        for name in tools.repeated() {
            self.refuse(
                Sender::Server,
                &format!("expected one tool of a name, found several: {name:?}"),
                response,
            );
        }
        let kept = tools.kept(|name| permitted.contains(&format!("{}/{name}", self.server)));
        if kept.len() == tools.0.len() {
            return Ok(None);
        }
        let text = std::str::from_utf8(response).map_err(|error| error.to_string())?;
        Ok(splice(text, list.get(), &format!("[{}]", kept.join(","))).map(String::into_bytes))
    }
}

/// Tools of a page, with the bytes of each.
struct Tools<'a>(Vec<(String, &'a RawValue)>);

#[derive(Deserialize)]
struct RawList<'a>(#[serde(borrow)] Vec<&'a RawValue>);

impl<'a> Tools<'a> {
    fn read(list: &'a str) -> Result<Self, String> {
        let list: RawList<'_> = serde_json::from_str(list)
            .map_err(|error| format!("`result.tools`: expected a list of tools: {error}"))?;
        let tools = list.0.into_iter().map(|tool| {
            let name =
                Members::read(tool.get()).ok().and_then(|members| Some(members.text("name")?.into_owned()));
            name.map(|name| (name, tool))
                .ok_or_else(|| "`result.tools`: expected a tool with a name".to_owned())
        });
        Ok(Self(tools.collect::<Result<_, _>>()?))
    }

    /// Returns the names that several tools have. Which of them a call would reach is not known.
    fn repeated(&self) -> Vec<&str> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, _) in &self.0 {
            *counts.entry(name).or_default() += 1;
        }
        counts.into_iter().filter(|(_, count)| *count > 1).map(|(name, _)| name).collect()
    }

    fn kept(&self, is_permitted: impl Fn(&str) -> bool) -> Vec<&'a str> {
        let repeated = self.repeated();
        let keeps =
            |name: &str| !repeated.contains(&name) && !Target::is_reserved(name) && is_permitted(name);
        self.0.iter().filter(|(name, _)| keeps(name)).map(|(_, tool)| tool.get()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permitted_tools_keep_their_bytes() {
        let list = r#"[{"name":"read", "n" : 1.0},{"name":"\u0077rite"},{"name":"two"},{"name":"two"},{"name":"resources.read"},{"name":"other"}]"#;
        let tools = Tools::read(list).unwrap();
        assert_eq!(tools.repeated(), ["two"]);
        assert_eq!(
            tools.kept(|name| name != "other"),
            [r#"{"name":"read", "n" : 1.0}"#, r#"{"name":"\u0077rite"}"#]
        );
        for list in ["{}", "[7]", r#"[{"title":"x"}]"#, r#"[{"name":7}]"#] {
            assert!(Tools::read(list).is_err(), "{list}");
        }
    }
}
