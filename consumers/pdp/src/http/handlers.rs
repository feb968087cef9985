//! Handlers, one per path.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::http::{HeaderMap, Request, header};
use axum::response::Response;
use hyper::body::Body as _;

use super::page::Page;
use super::reply::{HttpError, json};
use super::{Api, MAX_BODY_BYTES, metadata};
use crate::answer::{Answer, BatchItem, Evaluations, PageInfo, SearchPage};
use crate::callers::Caller;
use crate::json::Body;
use crate::point::{DecisionPoint, Refusal, Search, SearchTarget};
use crate::request::{EvaluationRequest, EvaluationsRequest, SearchKind, SearchRequest};

/// Timeout of a request body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum bytes of a body above the limit that are read and discarded, so that the client reads the response.
const MAX_DROPPED_BYTES: usize = 64 << 20;
const JSON: &str = "application/json";

type Answered = Result<Response, HttpError>;

pub(super) async fn evaluation<D: DecisionPoint>(
    State(api): State<Arc<Api<D>>>,
    request: Request<HttpBody>,
) -> Answered {
    api.counted(async |api| {
        let (caller, body) = api.open(request).await?;
        let request = EvaluationRequest::read(&body).map_err(HttpError::bad_request)?;
        api.evaluate_one(caller.as_deref(), &request).await
    })
    .await
}

pub(super) async fn evaluations<D: DecisionPoint>(
    State(api): State<Arc<Api<D>>>,
    request: Request<HttpBody>,
) -> Answered {
    api.counted(async |api| {
        let (caller, body) = api.open(request).await?;
        let (semantic, items) = match EvaluationsRequest::read(&body).map_err(HttpError::bad_request)? {
            EvaluationsRequest::One(request) => return api.evaluate_one(caller.as_deref(), &request).await,
            EvaluationsRequest::Many(semantic, items) => (semantic, items),
        };
        let mut answers = Vec::new();
        for item in items {
            let answer = match item {
                Ok(item) => api.evaluate(caller.as_deref(), &item).await,
                Err(message) => Err(Refusal::Invalid(message)),
            };
            let answer = BatchItem::new(answer);
            let allowed = answer.is_allowed();
            answers.push(answer);
            if semantic.ends_after(allowed) {
                break;
            }
        }
        json(&Evaluations { evaluations: answers })
    })
    .await
}

pub(super) async fn search_subject<D: DecisionPoint>(
    State(api): State<Arc<Api<D>>>,
    request: Request<HttpBody>,
) -> Answered {
    api.counted(async |api| api.search(request, SearchKind::Subject).await).await
}

pub(super) async fn search_resource<D: DecisionPoint>(
    State(api): State<Arc<Api<D>>>,
    request: Request<HttpBody>,
) -> Answered {
    api.counted(async |api| api.search(request, SearchKind::Resource).await).await
}

pub(super) async fn search_action<D: DecisionPoint>(
    State(api): State<Arc<Api<D>>>,
    request: Request<HttpBody>,
) -> Answered {
    api.counted(async |api| api.search(request, SearchKind::Action).await).await
}

/// Serves the metadata. It needs no token, since it contains paths only.
pub(super) async fn configuration<D: DecisionPoint>(
    State(api): State<Arc<Api<D>>>,
    headers: HeaderMap,
) -> Answered {
    let base = match &api.url {
        Some(url) => url.clone(),
        None => metadata::base_url(&headers).map_err(HttpError::bad_request)?,
    };
    json(&metadata::configuration(&base))
}

impl<D: DecisionPoint> Api<D> {
    /// Counts a request that got an error.
    async fn counted(&self, handle: impl AsyncFnOnce(&Self) -> Answered) -> Answered {
        let answered = handle(self).await;
        if let Err(error) = &answered {
            self.metrics.refused(error.status.as_u16());
        }
        answered
    }

    /// Identifies the caller, then reads the body.
    async fn open(&self, request: Request<HttpBody>) -> Result<(Option<Arc<Caller>>, Body), HttpError> {
        let (parts, body) = request.into_parts();
        let caller = self.caller(&parts.headers)?;
        if !is_json(&parts.headers) {
            return Err(HttpError::bad_request(format!(
                "`Content-Type`: expected {JSON}, found another or none"
            )));
        }
        let bytes =
            tokio::time::timeout(BODY_TIMEOUT, read(body)).await.map_err(|_| HttpError::timeout())??;
        let body = Body::parse(&bytes).map_err(HttpError::bad_request)?;
        Ok((caller, body))
    }

    fn caller(&self, headers: &HeaderMap) -> Result<Option<Arc<Caller>>, HttpError> {
        let Some(callers) = &self.callers else { return Ok(None) };
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Err(HttpError::no_token()) };
        let value = value.to_str().map_err(|_| HttpError::malformed_token())?;
        let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(HttpError::no_token());
        }
        let token = token.trim_matches(' ');
        if values.next().is_some() || !is_token(token) {
            return Err(HttpError::malformed_token());
        }
        callers.of_token(token).map(Some).ok_or_else(HttpError::unknown_token)
    }

    async fn evaluate_one(&self, caller: Option<&Caller>, request: &EvaluationRequest) -> Answered {
        json(&self.evaluate(caller, request).await?)
    }

    async fn evaluate(
        &self,
        caller: Option<&Caller>,
        request: &EvaluationRequest,
    ) -> Result<Answer, Refusal> {
        let began = Instant::now();
        let answer = self.point.evaluate(caller, request.question()).await?;
        self.metrics.decided(answer.decision, began.elapsed());
        Ok(answer)
    }

    async fn search(&self, request: Request<HttpBody>, kind: SearchKind) -> Answered {
        let (caller, body) = self.open(request).await?;
        let request = SearchRequest::read(&body, kind).map_err(HttpError::bad_request)?;
        let page = Page::of(&request, kind).map_err(HttpError::bad_request)?;
        let SearchRequest { subject, action, resource, context, .. } = &request;
        let target = match kind {
            SearchKind::Subject => SearchTarget::Subject { kind: &subject.kind, action, resource },
            SearchKind::Resource => SearchTarget::Resource { kind: &resource.kind, subject, action },
            SearchKind::Action => SearchTarget::Action { subject, resource },
        };
        let search = Search { target, context, from: page.from, limit: page.limit };
        let found = self.point.search(caller.as_deref(), search).await?;
        let next_token = found.next.map(|from| page.next(from)).unwrap_or_default();
        let page = PageInfo { next_token, count: found.results.len() };
        json(&SearchPage { page, results: found.results })
    }
}

/// Reads a body. Reads a body above the limit to its end and discards it, since a client that still sends does not read
/// the response.
async fn read(mut body: HttpBody) -> Result<Vec<u8>, HttpError> {
    let mut bytes = Vec::new();
    let mut length = 0_usize;
    while let Some(frame) =
        std::future::poll_fn(|context| std::pin::Pin::new(&mut body).poll_frame(context)).await
    {
        let frame = frame.map_err(|_| HttpError::bad_request("the body ended before it was complete"))?;
        let Ok(data) = frame.into_data() else { continue };
        length = length.saturating_add(data.len());
        if length <= MAX_BODY_BYTES {
            bytes.extend_from_slice(&data);
        } else {
            bytes = Vec::new();
            if length > MAX_DROPPED_BYTES {
                break;
            }
        }
    }
    if length > MAX_BODY_BYTES { Err(HttpError::too_large(MAX_BODY_BYTES)) } else { Ok(bytes) }
}

/// Returns true for JSON's media type, with or without parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case(JSON)
}

/// Returns true for a token in the syntax of RFC 6750, section 2.1.
fn is_token(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    !body.is_empty()
        && body.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~' | '+' | '/'))
}
