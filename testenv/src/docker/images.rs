//! Container images.

use crate::Error;
use crate::backend::external::Variables;
use crate::part::Part;
use crate::stack::Lock;

/// Image by name and tag, or by `name@sha256` and digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ImageName {
    pub(super) name: String,
    pub(super) tag: String,
}

impl ImageName {
    /// Returns the image that the environment names, or the official one of stack.lock.
    pub(super) fn of(part: Part, variable: Variables<'_>) -> Result<Self, Error> {
        let (key, official) = match part {
            Part::Broker => ("AGENTGOV_IMAGE_KAFKA", Lock::embedded()?.broker.image),
            Part::Registry => ("AGENTGOV_IMAGE_REGISTRY", Lock::embedded()?.registry.image),
            Part::Engine => ("AGENTGOV_IMAGE_CLICKHOUSE", Lock::embedded()?.engine.image),
        };
        let text = variable(key).unwrap_or(official);
        Self::parse(&text).ok_or_else(|| Error::Docker {
            what: format!("reading {key}"),
            reason: format!("expected an image with a tag, as in name:1.2, found '{text}'"),
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let (name, tag) = text.rsplit_once(':')?;
        // A slash means that the colon belongs to a registry's port.
        let is_tag = !name.is_empty() && !tag.is_empty() && !tag.contains('/');
        is_tag.then(|| Self { name: name.to_owned(), tag: tag.to_owned() })
    }

    /// Returns the image in Docker's notation.
    pub(super) fn full(&self) -> String {
        format!("{}:{}", self.name, self.tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_names_split_at_the_tag() {
        let parse = |text: &str| ImageName::parse(text).map(|image| (image.name, image.tag));
        let pair = |name: &str, tag: &str| Some((name.to_owned(), tag.to_owned()));
        assert_eq!(parse("apache/kafka:4.3.1"), pair("apache/kafka", "4.3.1"));
        assert_eq!(parse("host:5000/kafka:4"), pair("host:5000/kafka", "4"));
        assert_eq!(parse("kafka@sha256:ab"), pair("kafka@sha256", "ab"));
        assert_eq!(parse("host:5000/kafka"), None);
        assert_eq!(parse("kafka"), None);
    }

    #[test]
    fn environment_overrides_the_lock() {
        let image = ImageName::of(Part::Engine, &|_| Some("local/engine:1".to_owned())).unwrap();
        assert_eq!(image.full(), "local/engine:1");
        assert!(
            ImageName::of(Part::Engine, &|_| None)
                .unwrap()
                .full()
                .starts_with("clickhouse/clickhouse-server:")
        );
    }
}
