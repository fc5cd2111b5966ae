//! What the tests of the HTTP side share: a relay that has one, and the check against the schema.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::indexing_slicing, reason = "of JSON, where what is missing is null")]

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use testkit::{HttpAnswer, PATIENCE, Port, Relay, http, wait_until};

/// A token that is long enough.
pub(crate) const TOKEN: &str = "a-token-for-this-test";

/// The HTTP side of a relay.
pub(crate) struct Web {
    port: Port,
    _folder: tempfile::TempDir,
    token: std::path::PathBuf,
}

impl Web {
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let token = folder.path().join("token");
        std::fs::write(&token, format!("{TOKEN}\n"))?;
        std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(Self { port: Port::reserve()?, _folder: folder, token })
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port.number()
    }

    /// The lines of the configuration.
    pub(crate) fn yaml(&self) -> String {
        let (port, token) = (self.port(), self.token.display());
        format!("http: \"127.0.0.1:{port}\"\nhttp_token_file: {token}\n")
    }

    /// Starts a relay that has it.
    pub(crate) fn relay(&self, upstream: u16, more: &str) -> Result<Relay> {
        let relay = Relay::start(binary(), upstream, &(self.yaml() + more))?;
        self.wait_ready(|answer| answer.status < 600)?;
        Ok(relay)
    }

    pub(crate) fn get(&self, path: &str) -> Result<HttpAnswer> {
        http(self.port(), "GET", path, &[], "")
    }

    pub(crate) fn json(&self, path: &str) -> Result<Value> {
        self.get(path)?.json()
    }

    /// Asks for a change with these lines of the head.
    pub(crate) fn post(&self, path: &str, headers: &[&str]) -> Result<HttpAnswer> {
        http(self.port(), "POST", path, headers, "")
    }

    /// Waits for an answer to `/readyz`.
    pub(crate) fn wait_ready(&self, good: impl Fn(&HttpAnswer) -> bool) -> Result<()> {
        wait_until("an answer to /readyz", PATIENCE, || {
            let answer = self.get("/readyz");
            Ok(answer.is_ok_and(|it| good(&it)).then_some(()))
        })
    }

    /// The client of this name, once `good` holds for it.
    pub(crate) fn client(&self, name: &str, good: impl Fn(&Value) -> bool) -> Result<Value> {
        wait_until(&format!("client {name}"), PATIENCE, || {
            let all = self.json("/v1/relay/clients")?;
            let named = all.as_array().context("a list")?.iter().find(|it| it["name"] == name);
            Ok(named.filter(|it| good(it)).cloned())
        })
    }
}

/// The program under test.
pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pgherd"))
}

/// Holds an answer against what the schema says of its path, method and status.
pub(crate) fn check(openapi: &Value, method: &str, path: &str, answer: &HttpAnswer) -> Result<()> {
    let what = format!("{method} {path} {}", answer.status);
    let declared = &openapi["paths"][path][method.to_lowercase()]["responses"];
    let declared = declared.get(answer.status.to_string());
    let content = declared.with_context(|| format!("{what} is not in the schema"))?;
    let content = content["content"].as_object().context("no content")?;
    let (kind, schema) = content.iter().next().context("no content")?;
    let sent = answer.headers.get("content-type").context("no content type")?;
    ensure!(sent == kind, "{what}: {sent} instead of {kind}");
    if kind == "application/json" {
        let value = serde_json::from_str(&answer.body)?;
        fits(openapi, &schema["schema"], &value, &what)?;
    }
    Ok(())
}

/// The part of JSON Schema that the description uses; anything else in it is an error.
fn fits(openapi: &Value, schema: &Value, value: &Value, at: &str) -> Result<()> {
    if let Some(reference) = schema["$ref"].as_str() {
        let schema = openapi.pointer(reference.trim_start_matches('#')).context("a dead $ref")?;
        return fits(openapi, schema, value, at);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        ensure!(any.iter().any(|it| fits(openapi, it, value, at).is_ok()), "{at}: {value}");
        return Ok(());
    }
    for key in schema.as_object().context("no schema")?.keys() {
        let known = [
            "type",
            "description",
            "properties",
            "required",
            "additionalProperties",
            "items",
            "enum",
            "minimum",
        ];
        ensure!(known.contains(&key.as_str()), "{at}: this check does not know {key}");
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.clone(),
        one => vec![one.clone()],
    };
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() || number.is_i64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let is_of = |it: &Value| it == found || (it == "number" && found == "integer");
    ensure!(types.iter().any(is_of), "{at}: {value} is no {types:?}");
    if let Some(values) = schema["enum"].as_array() {
        ensure!(values.contains(value), "{at}: {value} is none of {values:?}");
    }
    if let (Some(least), Some(number)) = (schema["minimum"].as_f64(), value.as_f64()) {
        ensure!(number >= least, "{at}: {number} is below {least}");
    }
    match value {
        Value::Array(items) => {
            for item in items {
                fits(openapi, &schema["items"], item, &format!("{at}[]"))?;
            }
        }
        Value::Object(fields)
            if schema.get("properties").is_some()
                || schema.get("additionalProperties").is_some() =>
        {
            for name in schema["required"].as_array().into_iter().flatten() {
                ensure!(fields.contains_key(name.as_str().unwrap_or("")), "{at}: no {name}");
            }
            for (name, value) in fields {
                let at = format!("{at}.{name}");
                match (schema["properties"].get(name), &schema["additionalProperties"]) {
                    (Some(schema), _) => fits(openapi, schema, value, &at)?,
                    (None, other @ Value::Object(_)) => fits(openapi, other, value, &at)?,
                    (None, _) => bail!("{at} is not in the schema"),
                }
            }
        }
        _ => {}
    }
    Ok(())
}
