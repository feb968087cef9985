//! Page tokens: the position at which the next page starts, and the digest of its search.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use crate::request::{SearchKind, SearchRequest};

/// Maximum number of results in a page if the request has no limit.
const DEFAULT_LIMIT: usize = 100;
/// Maximum number of results in a page.
const MAX_LIMIT: usize = 1_000;

/// A page of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// Number of candidates that earlier pages have checked.
    pub(super) from: usize,
    /// Maximum number of results, from the first request of the search.
    pub(super) limit: usize,
    /// SHA-256 over the request without its page.
    of: [u8; 32],
}

impl Page {
    /// Returns the page that a request asks for.
    ///
    /// # Errors
    /// If the page token is invalid, or belongs to another search.
    pub(super) fn of(request: &SearchRequest, kind: SearchKind) -> Result<Self, String> {
        let of = digest(request, kind);
        let limit = request.limit.map(|limit| limit.min(MAX_LIMIT));
        // The last page has an empty token: no page follows.
        let Some(token) = request.token.as_deref().filter(|token| !token.is_empty()) else {
            return Ok(Self { from: 0, limit: limit.unwrap_or(DEFAULT_LIMIT), of });
        };
        let page = Self::decode(token)
            .ok_or("`page.token`: expected the next_token of an earlier response, found another text")?;
        if page.of != of {
            return Err(
                "`page.token`: expected the token of a search with the same subject, action, resource and \
                        context, found that of another"
                    .to_owned(),
            );
        }
        if limit.is_some_and(|limit| limit != page.limit) {
            return Err(format!(
                "`page.limit`: expected {}, as in the first request of this search, or none, found another",
                page.limit
            ));
        }
        Ok(page)
    }

    /// Returns the token of the page that starts at `from`.
    pub(super) fn next(self, from: usize) -> String {
        let mut bytes = Vec::with_capacity(48);
        bytes.extend_from_slice(&(from as u64).to_be_bytes());
        bytes.extend_from_slice(&(self.limit as u64).to_be_bytes());
        bytes.extend_from_slice(&self.of);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn decode(token: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (from, rest) = bytes.split_first_chunk::<8>()?;
        let (limit, of) = rest.split_first_chunk::<8>()?;
        Some(Self {
            from: usize::try_from(u64::from_be_bytes(*from)).ok()?,
            limit: usize::try_from(u64::from_be_bytes(*limit)).ok().filter(|limit| *limit <= MAX_LIMIT)?,
            of: of.try_into().ok()?,
        })
    }
}

fn digest(request: &SearchRequest, kind: SearchKind) -> [u8; 32] {
    let SearchRequest { subject, action, resource, context, .. } = request;
    let entity = |entity: &agentgov_policy::authzen::AccessEntity| {
        serde_json::json!([entity.kind, entity.id, entity.properties])
    };
    let parts = serde_json::json!([
        format!("{kind:?}"),
        entity(subject),
        [serde_json::json!(action.name), serde_json::json!(action.properties)],
        entity(resource),
        context,
    ]);
    Sha256::digest(parts.to_string().as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Body;

    fn request(page: &str, id: &str) -> SearchRequest {
        let text = format!(
            r#"{{"subject": {{"type": "user", "id": "x"}}, "action": {{"name": "read"}},
                "resource": {{"type": "record", "id": "{id}"}}, "page": {page}}}"#
        );
        SearchRequest::read(&Body::parse(text.as_bytes()).unwrap(), SearchKind::Subject).unwrap()
    }

    #[test]
    fn token_goes_on_with_the_same_search_only() {
        let kind = SearchKind::Subject;
        let first = Page::of(&request(r#"{"limit": 2}"#, "1"), kind).unwrap();
        assert_eq!((first.from, first.limit), (0, 2));
        let token = first.next(7);
        let next =
            |page: &str, id: &str| Page::of(&request(page, id), kind).map(|page| (page.from, page.limit));
        assert_eq!(next(&format!(r#"{{"token": "{token}"}}"#), "1"), Ok((7, 2)));
        assert_eq!(next(&format!(r#"{{"token": "{token}", "limit": 2}}"#), "1"), Ok((7, 2)));
        assert!(
            next(&format!(r#"{{"token": "{token}", "limit": 3}}"#), "1").unwrap_err().contains("page.limit")
        );
        assert!(next(&format!(r#"{{"token": "{token}"}}"#), "2").unwrap_err().contains("page.token"));
        assert!(
            Page::of(&request(&format!(r#"{{"token": "{token}"}}"#), "1"), SearchKind::Resource).is_err()
        );
        for token in ["x", "AAAA", "....", &token[1..], &format!("{token}AA")] {
            assert!(next(&format!(r#"{{"token": "{token}"}}"#), "1").unwrap_err().contains("page.token"));
        }
        assert_eq!(next(r#"{"token": ""}"#, "1"), Ok((0, DEFAULT_LIMIT)));
        assert_eq!(next(r#"{"limit": 1000000}"#, "1"), Ok((0, MAX_LIMIT)));
        assert_eq!(next("{}", "1"), Ok((0, DEFAULT_LIMIT)));
    }
}
