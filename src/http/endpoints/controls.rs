//! `/controls`: the camera's controls as JSON, to read and to set.

use serde_json::{Value, json};
use tiny_http::Method;

use crate::camera::controls::{Control, Panel, Refusal, Wish};
use crate::http::response::Response;
use crate::http::route::Query;

/// What clients may do with the camera's controls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlAccess {
    /// Nothing.
    None,
    /// See them.
    Read,
    /// Set them.
    Write,
}

impl ControlAccess {
    /// As the option has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Read => "read",
            Self::Write => "write",
        }
    }

    /// Why not, where it is not allowed.
    pub fn refuses(self, changes: bool) -> Option<&'static str> {
        match self {
            Self::None => Some("the camera's controls are switched off here (--controls none)"),
            Self::Read if changes => Some("the camera's controls can only be read here (--controls read)"),
            Self::Read | Self::Write => None,
        }
    }
}

/// GET answers with all controls, POST with what they are after setting those that it names.
pub fn respond(panel: &Panel, method: &Method, query: &Query<'_>, body: &[u8]) -> Response {
    let controls = match method {
        Method::Post => match Order::read(query, body) {
            Ok(order) => panel.set(&order.wishes, order.resets),
            Err(why) => return Response::text(400, why),
        },
        _ => panel.controls(),
    };
    match controls {
        Ok(controls) => Response::json(&controls.iter().map(describe).collect()),
        Err(refusal) => refuse(refusal),
    }
}

/// The answer to a request that the camera did not fulfil.
pub fn refuse(refusal: Refusal) -> Response {
    match refusal {
        Refusal::Wrong(why) => Response::text(400, why),
        Refusal::Unwilling(why) => Response::text(409, why),
        Refusal::Absent(why) => Response::unavailable(format!("no controls: {why}")),
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
struct Order {
    wishes: Vec<Wish>,
    resets: bool,
}

impl Order {
    /// From a JSON object or a form in the body, and from the query.
    fn read(query: &Query<'_>, body: &[u8]) -> Result<Self, String> {
        let mut order = Self::default();
        let body = str::from_utf8(body).map_err(|_| "the body is not UTF-8")?.trim();
        if body.starts_with(['{', '[', '"']) {
            let object: serde_json::Map<_, _> = serde_json::from_str(body)
                .map_err(|error| format!("the body is no JSON object such as {{\"brightness\": 10}}: {error}"))?;
            for (name, value) in object {
                let text = match value {
                    Value::Bool(is_on) => u8::from(is_on).to_string(),
                    Value::Number(number) => number.to_string(),
                    Value::String(text) => text,
                    _ => return Err(format!("{name} is neither a number nor true, false or a text")),
                };
                order.add(name, text);
            }
        } else {
            Query::new(body).pairs().for_each(|(name, value)| order.add(name, value));
        }
        // Credentials are no control.
        query.pairs().filter(|(name, _)| name != "token").for_each(|(name, value)| order.add(name, value));
        match order.wishes.is_empty() && !order.resets {
            true => Err("name what to set, as JSON ({\"brightness\": 10}) or as brightness=10, or reset=1".into()),
            false => Ok(order),
        }
    }

    fn add(&mut self, name: String, value: String) {
        match name.as_str() {
            "reset" => self.resets = !matches!(value.as_str(), "0" | "false" | "off"),
            _ => self.wishes.push(Wish { name, value }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_come_as_json_as_a_form_and_in_the_query() {
        let wish = |name: &str, value: &str| Wish::new(name, value);
        let ab = vec![wish("a", "1"), wish("b", "50 Hz")];
        for (query, body, wishes, resets) in [
            ("", r#" {"a": 1, "b": "50 Hz"} "#, ab.clone(), false),
            ("", "a=1&b=50+Hz", ab.clone(), false),
            ("a=1&b=50%20Hz&token=secret", "", ab.clone(), false),
            ("b=50+Hz", "a=1\r\n", ab, false),
            ("", r#"{"a": true, "b": -1.5}"#, vec![wish("a", "1"), wish("b", "-1.5")], false),
            ("", r#"{"reset": true}"#, vec![], true),
            ("reset=1&a=1", "", vec![wish("a", "1")], true),
            ("reset", "", vec![], true),
            ("reset=0&a", "", vec![wish("a", "")], false),
        ] {
            assert_eq!(
                Order::read(&Query::new(query), body.as_bytes()),
                Ok(Order { wishes, resets }),
                "{query} {body}"
            );
        }
    }

    #[test]
    fn orders_that_are_none_say_what_would_be_one() {
        for (body, words) in [
            (&b""[..], "brightness=10"),
            (b"{}", "brightness=10"),
            (b"[1]", "JSON object"),
            (b"{\"a\": 1", "JSON object"),
            (b"{\"a\": null}", "a is neither"),
            (b"{\"a\": {\"b\": 1}}", "a is neither"),
            (b"\xff\xfe", "UTF-8"),
            (b"reset=0", "reset=1"),
        ] {
            let error = Order::read(&Query::new("token=x"), body).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
