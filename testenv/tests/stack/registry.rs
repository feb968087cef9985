//! Tests that the registry keeps schemas and enforces compatibility.

use serde_json::{Value, json};

use super::addresses;
use super::http::{Response, request};

fn call(method: &str, path: &str, body: &Value) -> Response {
    let headers = "Content-Type: application/vnd.schemaregistry.v1+json\r\n";
    request(method, &format!("{}{path}", addresses().registry), headers, body.to_string().as_bytes())
}

fn record(fields: &Value) -> Value {
    json!({ "schema": json!({ "type": "record", "name": "R", "fields": fields }).to_string() })
}

#[test]
fn incompatible_schema_is_rejected() {
    let compatibility = call("PUT", "/config/s-value", &json!({ "compatibility": "FULL_TRANSITIVE" }));
    assert_eq!(compatibility.status, 200, "{}", compatibility.text());
    let first = call("POST", "/subjects/s-value/versions", &record(&json!([{ "name": "a", "type": "int" }])));
    assert_eq!(first.status, 200, "{}", first.text());
    let id = serde_json::from_slice::<Value>(&first.body).unwrap()["id"].as_u64().unwrap();
    let stored = call("GET", &format!("/schemas/ids/{id}"), &Value::Null);
    assert!(stored.text().contains("record"), "{}", stored.text());
    let fields = json!([{ "name": "a", "type": "int" }, { "name": "b", "type": "int" }]);
    let second = call("POST", "/subjects/s-value/versions", &record(&fields));
    assert_eq!(second.status, 409, "{}", second.text());
}
