//! One HTTP request: parse, run, respond.

use axum::body::{Body, to_bytes};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::mpsc;

use super::EngineError;
use super::insert::{self, MAX_QUEUED_PIECES, Piece};
use super::request::Request;
use super::session::{Session, StatementResult};
use super::sql::insert_with_data;
use super::storage::Storage;

/// Runs a statement of a GET or POST.
pub(super) async fn statement(
    State(storage): State<Storage>,
    method: Method,
    Query(keys): Query<Vec<(String, String)>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    match run(storage, method, keys, &headers, body).await {
        Ok((result, format)) => success(result, &format),
        Err(error) => error.into_response(),
    }
}

/// Responds to GET without a statement, which load balancers and containers use as a health check.
pub(super) async fn root(
    state: State<Storage>,
    method: Method,
    Query(keys): Query<Vec<(String, String)>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    if keys.iter().any(|(key, _)| key == "query") {
        return statement(state, method, Query(keys), headers, body).await;
    }
    "Ok.\n".into_response()
}

async fn run(
    storage: Storage,
    method: Method,
    keys: Vec<(String, String)>,
    headers: &HeaderMap,
    body: Body,
) -> Result<(StatementResult, String), EngineError> {
    let mut request = Request::default();
    for (key, value) in keys {
        request.add(&key, value)?;
    }
    if method == Method::GET || method == Method::HEAD {
        request.set_read_only();
    }
    if let Some(format) = headers.get("x-clickhouse-format").and_then(|value| value.to_str().ok()) {
        request.default_format = Some(format.to_owned());
    }
    reject_content_encodings(headers)?;
    let body = match boundary(headers) {
        None => body,
        Some(boundary) => {
            add_form_fields(&mut request, body, boundary).await?;
            Body::empty()
        }
    };
    let format = request.default_format.clone().unwrap_or_else(|| "TabSeparated".to_owned());
    if insert_with_data(request.query.as_bytes()).is_some() {
        return Ok((stream_insert(storage, request, body).await?, format));
    }
    let mut text = std::mem::take(&mut request.query).into_bytes();
    let body = collect(&request, body).await?;
    if !text.is_empty() && !body.is_empty() {
        text.push(b'\n');
    }
    text.extend(body);
    let answer_format = format.clone();
    let result = storage.run(move |session| run_statement(session, &request, &text, &answer_format)).await?;
    Ok((result, format))
}

/// Streams an INSERT whose SQL is in the URL and whose rows are in the body.
async fn stream_insert(
    storage: Storage,
    request: Request,
    body: Body,
) -> Result<StatementResult, EngineError> {
    let (pieces, inbox) = mpsc::channel(MAX_QUEUED_PIECES);
    let (framed, receive_timeout) = (request.framed, request.receive_timeout());
    let fed = storage.run(move |session| {
        prepare(session, &request)?;
        let insert = insert_with_data(request.query.as_bytes())
            .ok_or_else(|| EngineError::Request("expected an INSERT".to_owned()))?;
        let format = insert.format.or(request.default_format.as_deref()).unwrap_or("Values");
        insert::feed(session, insert.statement, format, &request.parameters, inbox)
    });
    let received = async {
        let outcome = insert::receive(body.into_data_stream(), framed, receive_timeout, &pieces).await;
        // Closes the channel; otherwise the feeding thread waits forever.
        drop(pieces);
        outcome
    };
    let (fed, received) = tokio::join!(fed, received);
    match (fed, received) {
        // A broken body is the cause; the feeder's error is its consequence.
        (Ok(_) | Err(EngineError::Truncated(_)), Err(cause)) => Err(cause),
        (outcome, _) => outcome,
    }
}

/// Runs a statement whose text and data are complete.
fn run_statement(
    session: &mut Session,
    request: &Request,
    text: &[u8],
    format: &str,
) -> Result<StatementResult, EngineError> {
    prepare(session, request)?;
    match insert_with_data(text) {
        None => session.query(text, format, &request.parameters),
        Some(insert) => {
            let format = insert.format.unwrap_or("Values");
            let mut stream = session.insert(insert.statement, format, &request.parameters)?;
            stream.append(insert.data)?;
            stream.finish()
        }
    }
}

/// Applies settings and database to the connection, which serves this request only.
fn prepare(session: &mut Session, request: &Request) -> Result<(), EngineError> {
    for statement in request.preparations() {
        session.query(statement.as_bytes(), "Null", &[])?;
    }
    Ok(())
}

async fn collect(request: &Request, body: Body) -> Result<Vec<u8>, EngineError> {
    let (pieces, mut inbox) = mpsc::channel(MAX_QUEUED_PIECES);
    let receiving = async {
        let outcome =
            insert::receive(body.into_data_stream(), request.framed, request.receive_timeout(), &pieces)
                .await;
        drop(pieces);
        outcome
    };
    let gathering = async {
        let mut body = Vec::new();
        while let Some(Piece::Data(bytes)) = inbox.recv().await {
            body.extend(bytes);
        }
        body
    };
    let (received, body) = tokio::join!(receiving, gathering);
    received.map(|()| body)
}

fn reject_content_encodings(headers: &HeaderMap) -> Result<(), EngineError> {
    match headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"" | b"identity") => Ok(()),
        Some(other) => Err(EngineError::Request(format!(
            "this engine server reads plain bodies and decompress=1, not Content-Encoding: {}",
            String::from_utf8_lossy(other)
        ))),
    }
}

fn boundary(headers: &HeaderMap) -> Option<String> {
    let content_type = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    multer::parse_boundary(content_type).ok()
}

/// Adds form fields, which are equivalent to URL keys. Forms are small: SQL and parameter values.
async fn add_form_fields(request: &mut Request, body: Body, boundary: String) -> Result<(), EngineError> {
    let wrong = |error: multer::Error| EngineError::Request(format!("the form does not parse: {error}"));
    let bytes =
        to_bytes(body, usize::MAX).await.map_err(|error| EngineError::Truncated(error.to_string()))?;
    let once = tokio_stream::once(Ok::<_, std::io::Error>(bytes));
    let mut form = multer::Multipart::new(once, boundary);
    while let Some(field) = form.next_field().await.map_err(wrong)? {
        let key = field.name().unwrap_or_default().to_owned();
        request.add(&key, field.text().await.map_err(wrong)?)?;
    }
    Ok(())
}

fn success(result: StatementResult, format: &str) -> Response {
    let summary =
        format!(r#"{{"read_rows":"{}","written_rows":"{}"}}"#, result.rows_read, result.rows_written);
    let mut headers = HeaderMap::new();
    for (name, value) in [("x-clickhouse-summary", summary.as_str()), ("x-clickhouse-format", format)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    (headers, result.body).into_response()
}
