//! `/controls`: lists the camera's controls as JSON, and sets them.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use tiny_http::Method;

use crate::camera::control::{Control, ControlValue};
use crate::camera::controls::{ControlError, Panel};
use crate::http::response::Response;
use crate::http::route::Query;

/// What clients may do with the camera's controls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlAccess {
    /// Nothing.
    None,
    /// List them.
    Read,
    /// List and set them.
    Write,
}

impl ControlAccess {
    /// The option's word: `none`, `read` or `write`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Read => "read",
            Self::Write => "write",
        }
    }

    /// Why a request that lists controls, or `changes` them, is refused; `None` if it is allowed.
    pub fn refuses(self, changes: bool) -> Option<&'static str> {
        match self {
            Self::None => Some("the camera's controls are disabled (--controls none)"),
            Self::Read if changes => Some("the camera's controls are read-only (--controls read)"),
            Self::Read | Self::Write => None,
        }
    }
}

impl FromStr for ControlAccess {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::None, Self::Read, Self::Write].into_iter().find(|access| access.name() == text);
        known.ok_or_else(|| "expected none, read or write".into())
    }
}

/// Lists all controls. A POST sets those that it names first.
pub fn respond(panel: &Panel, method: &Method, query: &Query<'_>, body: &[u8]) -> Response {
    let controls = match method {
        Method::Post => match ControlUpdate::read(query, body) {
            Ok(changes) => panel.set(&changes.values, changes.resets),
            Err(why) => return Response::text(400, why),
        },
        _ => panel.controls(),
    };
    match controls {
        Ok(controls) => Response::json(&controls.iter().map(describe).collect()),
        Err(error) => refuse(error),
    }
}

/// The response to a request that the camera did not carry out.
pub fn refuse(error: ControlError) -> Response {
    match error {
        ControlError::Wrong(why) => Response::text(400, why),
        ControlError::Unwilling(why) => Response::text(409, why),
        ControlError::Absent(why) => Response::unavailable(format!("cannot reach the camera's controls: {why}")),
    }
}

fn describe(control: &Control) -> Value {
    let menu = control.menu.iter().map(|(value, name)| json!({"value": value, "name": name}));
    let mut shown = json!({
        "name": control.name(),
        "label": control.label,
        "id": control.id,
        "type": control.kind.name(),
        "min": control.min,
        "max": control.max,
        "step": control.step,
        "default": control.default,
        "value": control.value,
        "flags": control.flag_names(),
    });
    if !control.menu.is_empty() {
        shown["menu"] = menu.collect();
    }
    shown
}

/// What a POST asks for.
#[derive(Debug, Default, PartialEq)]
struct ControlUpdate {
    values: Vec<ControlValue>,
    resets: bool,
}

impl ControlUpdate {
    /// From a JSON object or a form in the body, and from the query.
    ///
    /// Values stay unparsed text until they are known to be flat: parsing 127 nested arrays, which serde_json allows,
    /// takes more stack than a client's thread has.
    fn read(query: &Query<'_>, body: &[u8]) -> Result<Self, String> {
        let mut changes = Self::default();
        let body = str::from_utf8(body).map_err(|_| "cannot read the body: it is not UTF-8")?.trim();
        if body.starts_with(['{', '[', '"']) {
            let invalid =
                |error| format!("cannot read the body: expected a JSON object such as {{\"brightness\": 10}}: {error}");
            let object: BTreeMap<String, &RawValue> = serde_json::from_str(body).map_err(invalid)?;
            for (name, value) in object {
                let value = match value.get() {
                    "true" => "1".into(),
                    "false" => "0".into(),
                    text if text.starts_with('"') => serde_json::from_str(text).map_err(invalid)?,
                    text if text.starts_with(['{', '[', 'n']) => {
                        return Err(format!("invalid value for {name}: expected a number, true, false or a string"));
                    }
                    number => number.into(),
                };
                changes.add(name, value);
            }
        } else {
            Query::new(body).pairs().for_each(|(name, value)| changes.add(name, value));
        }
        // A credential names no control.
        query.pairs().filter(|(name, _)| name != "token").for_each(|(name, value)| changes.add(name, value));
        match changes.values.is_empty() && !changes.resets {
            true => Err("no control is named: expected JSON such as {\"brightness\": 10}, a form such as \
                brightness=10, or reset=1"
                .into()),
            false => Ok(changes),
        }
    }

    fn add(&mut self, name: String, value: String) {
        match name.as_str() {
            "reset" => self.resets = !matches!(value.as_str(), "0" | "false" | "off"),
            _ => self.values.push(ControlValue { name, value }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_come_as_json_as_a_form_and_in_the_query() {
        let wish = |name: &str, value: &str| ControlValue::new(name, value);
        let ab = vec![wish("a", "1"), wish("b", "50 Hz")];
        for (query, body, values, resets) in [
            ("", r#" {"a": 1, "b": "50 Hz"} "#, ab.clone(), false),
            ("", "a=1&b=50+Hz", ab.clone(), false),
            ("a=1&b=50%20Hz&token=secret", "", ab.clone(), false),
            ("b=50+Hz", "a=1\r\n", ab, false),
            ("", r#"{"a": true, "b": -1.5}"#, vec![wish("a", "1"), wish("b", "-1.5")], false),
            ("", r#"{"a": "\u0041\n", "b": 1e3}"#, vec![wish("a", "A\n"), wish("b", "1e3")], false),
            ("", r#"{"reset": true}"#, vec![], true),
            ("reset=1&a=1", "", vec![wish("a", "1")], true),
            ("reset", "", vec![], true),
            ("reset=0&a", "", vec![wish("a", "")], false),
        ] {
            let changes = ControlUpdate::read(&Query::new(query), body.as_bytes());
            assert_eq!(changes, Ok(ControlUpdate { values, resets }), "{query} {body}");
        }
    }

    #[test]
    fn a_request_that_changes_nothing_is_told_what_would() {
        for (body, words) in [
            (&b""[..], "brightness=10"),
            (b"{}", "brightness=10"),
            (b"[1]", "JSON object"),
            (b"{\"a\": 1", "JSON object"),
            (b"{\"a\": null}", "invalid value for a"),
            (b"{\"a\": {\"b\": 1}}", "invalid value for a"),
            (b"{\"a\": [1]}", "invalid value for a"),
            (b"{\"a\": \"\\ud800\"}", "JSON object"),
            (b"\xff\xfe", "UTF-8"),
            (b"reset=0", "reset=1"),
        ] {
            let error = ControlUpdate::read(&Query::new("token=x"), body).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    /// A client's thread has 128 KiB in all; reading any body takes a small part of them.
    #[test]
    fn a_nested_body_is_refused_on_a_small_stack() {
        let nested = |open: &str, depth| format!("{{\"a\": {}", open.repeat(depth));
        let bodies = [nested("[", 65_000), nested("{\"a\":", 10_000), nested("[", 120) + &"]".repeat(120) + "}"];
        for body in bodies {
            let read = move || ControlUpdate::read(&Query::new(""), body.as_bytes());
            let refused = std::thread::Builder::new().stack_size(24 * 1024).spawn(read).unwrap().join().unwrap();
            assert!(refused.is_err());
        }
    }
}
