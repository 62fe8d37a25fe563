//! The camera's controls in mjpg-streamer's format, for Octolapse and for pages written for mjpg-streamer:
//! `/input.json`, `/program.json` and `/?action=command`. All values are strings in this format.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::controls::refuse;
use crate::camera::Device;
use crate::camera::control::{Control, ControlType, ControlValue};
use crate::camera::controls::{ControlError, Panel};
use crate::camera::session::Session;
use crate::frame::Size;
use crate::http::response::Response;
use crate::http::route::Query;

/// Time to read the camera's sizes. The camera was opened a moment before, to list its controls.
const DEADLINE: Duration = Duration::from_secs(1);
/// mjpg-streamer's groups of controls.
const V4L2: &str = "1";
const JPEG_QUALITY: &str = "3";

/// `/input.json`: lists the controls and the camera's sizes.
pub fn input(panel: &Panel, session: &Session) -> Response {
    let controls = match panel.controls() {
        Ok(controls) => controls,
        Err(refusal) => return refuse(refusal),
    };
    let live = session.status().mode.map(|mode| mode.size);
    let known = |size: Size| if size == Size::UNKNOWN { live } else { Some(size) };
    let sizes = session.with_device(Instant::now() + DEADLINE, |device: &mut dyn Device| {
        Ok(device.offers().into_iter().filter_map(|offer| known(offer.size)).collect::<Vec<_>>())
    });
    let sizes = sizes.unwrap_or_default();
    let current = live.and_then(|live| sizes.iter().position(|size| *size == live));
    let resolutions: Map<_, _> =
        sizes.iter().enumerate().map(|(index, size)| (index.to_string(), size.to_string().into())).collect();
    let mut shown: Vec<Value> = controls.iter().map(describe).collect();
    // mjpg-streamer ends the list of every camera with this entry, which has no effect there either. Octolapse
    // recognizes a camera by its whole list.
    shown.push(json!({
        "name": "JPEG quality", "id": "1", "type": "1", "min": "0", "max": "100", "step": "1", "default": "50",
        "value": "0", "dest": "0", "flags": "0", "group": JPEG_QUALITY,
    }));
    Response::json(&json!({
        "controls": shown,
        "formats": [{
            "id": "0",
            "name": "Motion-JPEG",
            "compressed": "true",
            "emulated": "false",
            "current": "true",
            "resolutions": resolutions,
            "currentResolution": current.unwrap_or(0).to_string(),
        }],
    }))
}

fn describe(control: &Control) -> Value {
    let mut shown = json!({
        "name": control.label,
        "id": control.id.to_string(),
        "type": (control.kind as u32).to_string(),
        "min": control.min.to_string(),
        "max": control.max.to_string(),
        "step": control.step.to_string(),
        "default": control.default.to_string(),
        "value": control.value.unwrap_or(0).to_string(),
        "dest": "0",
        "flags": control.flags.to_string(),
        "group": V4L2,
    });
    if control.kind == ControlType::Menu {
        // Gaps included, as in the lists that Octolapse compares with.
        let last = control.menu.last().map_or(0, |(last, _)| *last);
        let name = |index: i64| {
            control.menu.iter().find(|(value, _)| *value == index).map_or(String::new(), |(_, name)| name.clone())
        };
        let entries = control.min.max(0)..=last.max(control.max.min(255));
        shown["menu"] =
            entries.map(|index| (index.to_string(), Value::from(name(index)))).collect::<Map<_, _>>().into();
    }
    shown
}

/// `/program.json`: lists the plugins. Pages ask it how many cameras they can show.
pub fn program(session: &Session) -> Response {
    let card = session.status().identity.map_or("camera".into(), |identity| identity.card);
    Response::json(&json!({
        "inputs": [{"id": "0", "name": card, "plugin": "input_uvc.so", "args": ""}],
        "outputs": [{"id": "0", "name": "framehub", "plugin": "output_http.so", "args": ""}],
    }))
}

/// `/?action=command&dest=0&plugin=0&id=ID&group=1&value=VALUE`: sets one control.
///
/// Responds as mjpg-streamer does: `ID: 0`, or `ID: -1` where the camera refused. Octolapse sends all controls in turn,
/// inactive ones too, and treats any status but 200 as a server failure.
pub fn command(panel: &Panel, query: &Query<'_>) -> Response {
    let parameter = |name: &str| query.get(name).unwrap_or_default();
    let id = parameter("id");
    let Ok(number) = id.parse::<i64>() else {
        let why = format!("invalid id \"{id}\": expected the number of a control, as listed by /input.json");
        return Response::text(400, why);
    };
    let done = |result: i32| Response::text(200, format!("{id}: {result}"));
    if number == -1 {
        // Octolapse asks in this way whether controls are supported at all.
        return done(-1);
    }
    let is = |name: &str, known: &[&str]| known.contains(&parameter(name).as_str());
    if number == 1 && is("group", &[JPEG_QUALITY]) {
        return done(-1);
    }
    if !is("dest", &["", "0"]) || !is("plugin", &["", "0"]) || !is("group", &["", V4L2]) {
        return Response::text(400, "only the camera's own controls can be set: expected dest=0, plugin=0 and group=1");
    }
    let controls = match panel.controls() {
        Ok(controls) => controls,
        Err(refusal) => return refuse(refusal),
    };
    let Some(control) = controls.iter().find(|control| i64::from(control.id) == number) else {
        return Response::text(400, format!("this camera has no control {id}: /input.json lists those that it has"));
    };
    // mjpg-streamer reads a number up to its decimal point, and an empty value as 0.
    let value = parameter("value");
    let value = value.split('.').next().filter(|value| !value.is_empty()).unwrap_or("0");
    match panel.set(&[ControlValue::new(control.name(), value)], false) {
        Ok(_) => done(0),
        Err(ControlError::Unwilling(_)) => done(-1),
        Err(refusal) => refuse(refusal),
    }
}
