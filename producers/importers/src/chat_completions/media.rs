//! Describes images, audio, video and files of a message by media type, size and digest. Their bytes are not imported.

use agentgov_schemas::Digest;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::reader::Reader;
use crate::json::{Kind, Object, Value};

/// Fields with bytes in base64, in the dialects of OpenAI, Anthropic and MCP.
const DATA: &[&str] = &["data", "file_data", "blob", "base64"];
/// Fields with the URL of the bytes.
const URL: &[&str] = &["url", "image_url", "file_url", "audio_url", "video_url", "uri", "image"];
const MEDIA_TYPE: &[&str] = &["mimeType", "mime_type", "media_type"];
const ID: &[&str] = &["file_id", "id"];

/// Returns true if this module describes parts of this type.
pub(super) fn is_kind(kind: &str) -> bool {
    matches!(
        kind,
        "image_url"
            | "image"
            | "input_image"
            | "image_file"
            | "input_audio"
            | "audio"
            | "output_audio"
            | "audio_url"
            | "video"
            | "video_url"
            | "input_video"
            | "file"
            | "input_file"
            | "document"
            | "resource"
            | "resource_link"
    )
}

/// Returns true if a part of this type has a field that [`described`] reads.
pub(super) fn holds_any(part: &Object<'_>, kind: &str) -> bool {
    let known = [DATA, URL, ID, &["text", "transcript", kind]].concat();
    part.any(&known).is_some() || part.some("source").is_some_and(|source| source.kind() == Kind::Object)
}

/// Returns the transcript of an assistant's audio, or else a description of it.
pub(super) fn audio(reader: &mut Reader<'_>, at: &str, audio: Value<'_>) -> Option<String> {
    let fields = audio.object()?;
    match fields.some("transcript") {
        Some(transcript) if transcript.kind() == Kind::String => reader.text(at, transcript),
        _ => fields.any(DATA).is_some().then(|| described(reader, at, "audio", audio)),
    }
}

/// Describes a part in brackets. A part with a text or transcript gives that text.
pub(super) fn described(reader: &mut Reader<'_>, at: &str, kind: &str, value: Value<'_>) -> String {
    let whole = value.object().unwrap_or_default();
    let inner = [kind, "source", "file", "resource", "audio"]
        .into_iter()
        .filter_map(|name| whole.get(name)?.object());
    let holders: Vec<Object<'_>> = std::iter::once(whole.clone()).chain(inner).collect();
    let text = |names: &[&str]| {
        let found = holders.iter().flat_map(|holder| names.iter().filter_map(|name| holder.get(name)));
        found
            .filter(|value| value.kind() == Kind::String)
            .find_map(Value::text)
            .filter(|text| !text.is_empty())
    };
    let spoken = ["transcript", "text"];
    for holder in &holders {
        if let Some(spoken_text) =
            holder.any(&spoken).filter(|spoken_text| spoken_text.kind() == Kind::String)
        {
            return reader.text(at, spoken_text).unwrap_or_default();
        }
    }
    let family = family(kind);
    let media_type = text(MEDIA_TYPE).or_else(|| Some(format!("{family}/{}", text(&["format"])?).into()));
    let url = text(URL);
    let (data_type, data) = match (text(DATA), &url) {
        (Some(data), _) => split_data_url(&data).map_or((None, Some(data.clone())), |(kind, data)| {
            (Some(kind.to_owned()), Some(data.to_owned().into()))
        }),
        (None, Some(url)) => split_data_url(url)
            .map_or((None, None), |(kind, data)| (Some(kind.to_owned()), Some(data.to_owned().into()))),
        (None, None) => (None, None),
    };
    let data_type = data_type.filter(|kind| !kind.is_empty());
    let media_type = data_type.or(media_type.map(Into::into)).unwrap_or_else(|| family.to_owned());
    let mut words = vec![media_type];
    if let Some(data) = data {
        words.push(measured(&data));
    } else if let Some(url) = url.map(|url| without_secrets(&url)).filter(|url| !url.is_empty()) {
        words.push(url);
    } else if let Some(id) = text(ID) {
        words.push(format!("id {id}"));
    } else {
        let bytes = value.bytes();
        words.push(format!("{} bytes of JSON, sha256:{}", bytes.len(), Digest::of(bytes)));
    }
    if let Some(name) = text(&["filename", "name", "title"]) {
        words.push(name.into_owned());
    }
    format!("[{}]", words.join(", "))
}

fn family(kind: &str) -> &'static str {
    if kind.contains("image") {
        "image"
    } else if kind.contains("audio") {
        "audio"
    } else if kind.contains("video") {
        "video"
    } else if kind.starts_with("resource") {
        "resource"
    } else {
        "file"
    }
}

/// Removes the parts of a URL that may grant access: user and password, query (e.g. the signature of a presigned URL) and
/// fragment.
fn without_secrets(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let split = url.split_once("//").filter(|(scheme, _)| scheme.is_empty() || scheme.ends_with(':'));
    let Some((scheme, rest)) = split else { return url.to_owned() };
    let authority = rest.split(['/', '\\']).next().unwrap_or_default();
    let user = authority.rfind('@').map_or(0, |at| at + 1);
    format!("{scheme}//{}", rest.get(user..).unwrap_or_default())
}

/// Returns media type and data of a `data:` URL.
fn split_data_url(url: &str) -> Option<(&str, &str)> {
    let (head, data) = url.strip_prefix("data:")?.split_once(',')?;
    Some((head.split(';').next().unwrap_or_default(), data))
}

/// Returns size and digest of the decoded bytes, or of the text itself if it is not base64.
fn measured(data: &str) -> String {
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let alphabet = if data.contains(['-', '_']) { &alphabet::URL_SAFE } else { &alphabet::STANDARD };
    let compact: String;
    let data = if data.contains(char::is_whitespace) {
        compact = data.split_whitespace().collect();
        &compact
    } else {
        data
    };
    match GeneralPurpose::new(alphabet, config).decode(data) {
        Ok(bytes) => format!("{} bytes, sha256:{}", bytes.len(), Digest::of(&bytes)),
        Err(_) => format!("{} bytes that are no base64, sha256:{}", data.len(), Digest::of(data.as_bytes())),
    }
}
