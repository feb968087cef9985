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
        let received_at = Instant::now();
        let mut answers = Vec::new();
        for item in items {
            let answer = match item {
                Ok(item) => api.evaluate(caller.as_deref(), &item, received_at).await,
                Err(message) => Err(Refusal::Invalid(message)),
            };
            let answer = BatchItem::new(answer);
            let allowed = answer.is_allowed();
            answers.push(answer);
            if semantic.ends_after(allowed) {
                break;
            }
            // Other requests get their turn between two evaluations.
            tokio::task::yield_now().await;
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

/// Serves the public keys of decision points. They need no token, since anyone may verify a decision.
pub(super) async fn jwks<D: DecisionPoint>(State(api): State<Arc<Api<D>>>) -> Answered {
    match api.point.jwks() {
        Ok(Some(keys)) => json(&keys),
        Ok(None) => Err(HttpError::no_keys()),
        Err(reason) => Err(HttpError::unavailable(reason)),
    }
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
                "`Content-Type`: expected {JSON} once, found another, several or none"
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
        json(&self.evaluate(caller, request, Instant::now()).await?)
    }

    async fn evaluate(
        &self,
        caller: Option<&Caller>,
        request: &EvaluationRequest,
        received_at: Instant,
    ) -> Result<Answer, Refusal> {
        let began = Instant::now();
        let answer = self.point.evaluate(caller, request.question(received_at)).await?;
        self.metrics.decided(answer.decision, answer.reason, began.elapsed());
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
        let search = Search {
            target,
            context,
            arguments: request.arguments.as_deref(),
            received_at: Instant::now(),
            from: page.from,
            limit: page.limit,
        };
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

/// Returns true for JSON's media type, with or without parameters. A second header may be read by a proxy in front.
fn is_json(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let value = value.to_str().unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case(JSON)
}

/// Returns true for a token in the syntax of RFC 6750, section 2.1.
fn is_token(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    !body.is_empty()
        && body.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~' | '+' | '/'))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use agentgov_policy::authzen::Properties;
    use agentgov_schemas::verdict::Decision;
    use agentgov_service::metrics::DecisionMetrics;
    use uuid::Uuid;

    use super::*;
    use crate::point::{Found, Question};

    /// Decision point that allows everything, and keeps the requests.
    #[derive(Clone, Default)]
    struct Allowing {
        /// Time of each request, and whether another task has run before.
        evaluated: Arc<Mutex<Vec<(Instant, bool)>>>,
        searched: Arc<Mutex<Vec<Option<String>>>>,
        other_task: Arc<AtomicBool>,
    }

    impl DecisionPoint for Allowing {
        async fn evaluate(&self, _: Option<&Caller>, question: Question<'_>) -> Result<Answer, Refusal> {
            let entry = (question.received_at, self.other_task.load(Ordering::SeqCst));
            self.evaluated.lock().unwrap().push(entry);
            Ok(Answer {
                decision: Decision::Allow,
                reason: "granted",
                policies: Vec::new(),
                observed: Vec::new(),
                errors: Vec::new(),
                evaluation_id: Uuid::nil(),
                bundle: None,
                recorded: false,
                more: Properties::new(),
            })
        }

        async fn search(&self, _: Option<&Caller>, search: Search<'_>) -> Result<Found, Refusal> {
            self.searched.lock().unwrap().push(search.arguments.map(str::to_owned));
            Ok(Found::default())
        }
    }

    fn api(point: &Allowing) -> State<Arc<Api<Allowing>>> {
        let metrics = DecisionMetrics::new();
        State(Arc::new(Api { point: point.clone(), callers: None, url: None, metrics }))
    }

    /// Returns a complete request with this member.
    fn request(member: &str) -> Request<HttpBody> {
        let body = format!(
            r#"{{"subject": {{"type": "agent", "id": "bot"}}, "action": {{"name": "tools/call"}},
                "resource": {{"type": "tool", "id": "pay"}}, {member}}}"#
        );
        Request::post("/").header(header::CONTENT_TYPE, JSON).body(HttpBody::from(body)).unwrap()
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn batch_has_one_time_and_lets_other_tasks_run() {
        let point = Allowing::default();
        let other_task = Arc::clone(&point.other_task);
        runtime().block_on(async {
            tokio::spawn(async move { other_task.store(true, Ordering::SeqCst) });
            let batch = request(r#""evaluations": [{}, {}, {}]"#);
            assert_eq!(evaluations(api(&point), batch).await.unwrap().status(), 200);
        });
        let evaluated = point.evaluated.lock().unwrap().clone();
        let [(first, _), (second, _), (third, has_run)] = evaluated.as_slice() else {
            panic!("{evaluated:?}")
        };
        assert!(first == second && second == third, "{evaluated:?}");
        assert!(has_run, "the worker thread is the batch's to its end");
    }

    #[test]
    fn search_has_the_text_of_its_arguments() {
        let point = Allowing::default();
        runtime().block_on(async {
            for member in [r#""context": {"arguments": {"n":  1.0}}"#, r#""context": {}"#] {
                assert_eq!(search_resource(api(&point), request(member)).await.unwrap().status(), 200);
            }
        });
        assert_eq!(*point.searched.lock().unwrap(), [Some(r#"{"n":  1.0}"#.to_owned()), None]);
    }
}
