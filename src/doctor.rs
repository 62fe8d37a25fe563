//! `--list` and `--check`: which cameras there are, and whether the chosen one can do what framehub needs, measured.
//! Works on the camera directly, without the capture thread; the server does not run at the same time.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::camera::elsewhere::Elsewhere;
use crate::camera::encode::{self, Encode};
use crate::camera::intake::{Counters, Intake, Rejected};
use crate::camera::settle::{Known, Rule};
use crate::camera::{
    CameraError, Device, ErrorKind, Identity, Mode, Offer, RawFrame, Source,
    v4l2::{self, diagnose},
};
use crate::cli::Config;
use crate::frame::Size;
use crate::jpeg::Fault;
use crate::system::os;

/// Pictures that are looked at.
const PICTURES: u32 = 30;
/// Longest wait for the first picture of a stream.
const FIRST: Duration = Duration::from_secs(10);
/// Longest wait for pictures to settle, and for all of them together.
const ALL: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_secs(5);
const BUFFERS: u32 = 4;

/// Lists all video nodes: those that can be used with all that is known about them, the others with the reason.
pub fn list(out: &mut dyn Write) -> io::Result<()> {
    let nodes = v4l2::list();
    if nodes.is_empty() {
        writeln!(out, "no cameras: there is no /dev/video*")?;
    }
    for (node, opened) in nodes {
        match opened {
            Ok(device) => describe(out, &node, &device)?,
            Err(error) => writeln!(out, "{}: not usable: {error}", node.display())?,
        }
    }
    Ok(())
}

fn describe(out: &mut dyn Write, node: &Path, device: &dyn Device) -> io::Result<()> {
    let identity = device.identity();
    writeln!(out, "{}: \"{}\"", node.display(), identity.card)?;
    for link in links(node) {
        writeln!(out, "  stable name  {link}")?;
    }
    writeln!(out, "  or           --device \"name:{}\"", identity.card)?;
    if !identity.serial.is_empty() {
        writeln!(out, "  or           --device serial:{}", identity.serial)?;
    }
    writeln!(out, "  driver, bus  {}, {}", identity.driver, identity.bus)?;
    for holder in diagnose::holders(node) {
        writeln!(out, "  in use by    {holder}")?;
    }
    let offers = device.offers();
    for offer in &offers {
        writeln!(out, "{}", line(offer))?;
    }
    let largest = offers.iter().map(|offer| offer.size.area()).max().filter(|_| device.has_jpeg());
    let mut raw = device.raw_offers();
    raw.retain(|(_, offer)| offer.size.area() > largest.unwrap_or(0));
    let purpose = if device.has_jpeg() { "for stills, with" } else { "with" };
    while let Some((_, offer)) = raw.first().cloned() {
        let (same, others): (Vec<_>, Vec<_>) = raw.into_iter().partition(|(_, other)| *other == offer);
        writeln!(out, "{}  {purpose} --encode, from {}", line(&offer), encode::names(&same))?;
        raw = others;
    }
    Ok(())
}

fn line(Offer { size, fps }: &Offer) -> String {
    let rates: Vec<String> = fps.iter().map(|fps| format!("{}", (fps * 100.0).round() / 100.0)).collect();
    format!("  {:<12} {} fps", size.to_string(), rates.join(", "))
}

/// The links that udev keeps to a node.
fn links(node: &Path) -> Vec<String> {
    let folders = ["/dev/v4l/by-id", "/dev/v4l/by-path"];
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let mut links: Vec<String> = entries
        .map(|entry| entry.path())
        .filter(|link| fs::canonicalize(link).is_ok_and(|target| target == node))
        .map(|link| link.display().to_string())
        .collect();
    links.sort();
    links
}

/// Opens the camera, looks at its pictures, switches it there and back, and says what to paste where. A camera that would
/// have to be encoded is measured so. `false` if no picture came, or none would without that.
pub fn check(
    out: &mut dyn Write,
    source: &dyn Fn(Option<Encode>) -> Box<dyn Source>,
    config: &Config,
) -> io::Result<bool> {
    let mut chosen = source(config.encode);
    // Closed again before the list is made, which opens each camera.
    let mut opened = chosen.open().map(|device| device.identity().clone());
    let encoding = config.encode.is_none().then(|| source(Some(Encode::PROPOSED)));
    let mut refusal = None;
    if let (Err(error), Some(encoding)) = (&opened, encoding)
        && error.kind == ErrorKind::Refused
        && let Ok(device) = encoding.open()
    {
        refusal = Some(error.clone());
        opened = Ok(device.identity().clone());
        chosen = encoding;
    }
    list(out)?;
    if let Ok(Identity { node, card, .. }) = &opened {
        writeln!(out, "\nexamining {node} \"{card}\"{}", refusal.as_ref().map_or("", |_| " as with --encode 80"))?;
    }
    match opened.and_then(|_| examine(chosen.as_ref(), config)) {
        Ok(report) => {
            writeln!(out, "{}", report.join("\n"))?;
            settings(out, config)?;
            if let Some(refusal) = &refusal {
                writeln!(out, "\nFAILED without --encode: {refusal}")?;
            }
            Ok(refusal.is_none())
        }
        Err(error) => {
            writeln!(out, "FAILED: {error}")?;
            Ok(false)
        }
    }
}

/// The lines of the report.
fn examine(source: &dyn Source, config: &Config) -> Result<Vec<String>, CameraError> {
    let began = Instant::now();
    let mut device = source.open()?;
    let device = device.as_mut();
    let mode = device.start(config.live, BUFFERS)?;
    let mut live = Look::new(mode.size, None);
    live.first(device)?;
    let has_any_size = mode.size == Size::UNKNOWN;
    let mode = Mode { size: live.intake.size(), ..mode };
    let cold = began.elapsed();
    live.until(device, SETTLE, |look| look.is_settled)?;
    let settle = began.elapsed() - cold;
    let first_looked = live.seen;
    let (looking, used) = (Instant::now(), os::processor_time());
    live.until(device, ALL, |look| look.seen >= first_looked + PICTURES)?;
    let used = (os::processor_time() - used).as_secs_f64();
    let share = 100.0 * used / looking.elapsed().as_secs_f64().max(0.001);
    let each = 1000.0 * used / f64::from((live.seen - first_looked).max(1));
    let mut report = vec![
        format!(
            "live mode        {mode}{}",
            if has_any_size || mode.size == config.live.size { "" } else { " (nearest to what was asked)" }
        ),
        format!("cold start       {} ms to the first whole picture", cold.as_millis()),
        format!(
            "settling         {} ms, {}",
            settle.as_millis(),
            if live.is_settled { "steady" } else { "not steady in time" }
        ),
    ];
    report.extend(live.report());
    report.push(format!(
        "processor        {each:.1} ms for each picture, {share:.1} % of one processor, before any viewer"
    ));
    let offers = device.offers();
    let want = config.still.mode(&offers, |_| false);
    if let Some(address) = &config.still_address {
        report.push(examine_elsewhere(address, device, config.still.deadline)?);
    } else if want.size != mode.size && !has_any_size {
        let switching = Instant::now();
        let still = device.start_still(want, 2)?;
        let mut look = Look::new(still.size, Some(mode.size));
        look.first(device)?;
        let there = switching.elapsed();
        look.until(device, SETTLE, |look| look.is_settled)?;
        let settle = switching.elapsed() - there;
        let returning = Instant::now();
        let mode = device.start(config.live, BUFFERS)?;
        let mut back = Look::new(mode.size, Some(still.size));
        back.until(device, FIRST, |look| look.whole() > 0)?;
        let back = returning.elapsed();
        report.push(format!(
            "still {still}: there {} ms, settled in {} ms{}, back {} ms; the live picture rests {} ms",
            there.as_millis(),
            settle.as_millis(),
            if look.is_settled { "" } else { " (not steady)" },
            back.as_millis(),
            (there + settle + back).as_millis()
        ));
    } else {
        report.push("still            the camera has no other size; /still gives a fresh live picture".into());
    }
    Ok(report)
}

/// The line of the report on a still that does not come from the camera's stream.
fn examine_elsewhere(
    elsewhere: &dyn Elsewhere,
    device: &mut dyn Device,
    time: Duration,
) -> Result<String, CameraError> {
    device.stop()?;
    let began = Instant::now();
    let mut look = Look::new(Size::UNKNOWN, None);
    elsewhere.take(began + time, &|| true, &mut |raw| look.look(&raw))?;
    match look.whole() {
        0 => Err(look.nothing_whole()),
        _ => Ok(format!("still {}: in {} ms, from elsewhere", look.intake.size(), began.elapsed().as_millis())),
    }
}

/// What was seen of one stream.
struct Look {
    intake: Intake,
    counters: Counters,
    seen: u32,
    padded: u32,
    first_fault: Option<Fault>,
    times: Vec<Duration>,
    is_settled: bool,
}

impl Look {
    fn new(size: Size, leftover: Option<Size>) -> Self {
        Self {
            intake: Intake::new(size, leftover, Rule::Auto, Known::default(), Arc::default()),
            counters: Counters::default(),
            seen: 0,
            padded: 0,
            first_fault: None,
            times: Vec::new(),
            is_settled: false,
        }
    }

    /// Number of whole pictures.
    fn whole(&self) -> u32 {
        self.intake.pictures()
    }

    /// Takes pictures until one is whole.
    fn first(&mut self, device: &mut dyn Device) -> Result<(), CameraError> {
        self.until(device, FIRST, |look| look.whole() > 0)?;
        if self.whole() > 0 { Ok(()) } else { Err(self.nothing_whole()) }
    }

    /// Takes pictures until `enough` or the time is over.
    fn until(
        &mut self,
        device: &mut dyn Device,
        time: Duration,
        enough: impl Fn(&Self) -> bool,
    ) -> Result<(), CameraError> {
        let deadline = Instant::now() + time;
        let readiness = device.readiness();
        while !enough(self) && Instant::now() < deadline {
            if readiness.wait(Duration::from_millis(100))? {
                device.take(&mut |raw| self.look(&raw))?;
            }
        }
        Ok(())
    }

    fn look(&mut self, raw: &RawFrame<'_>) {
        self.seen += 1;
        match self.intake.accept(raw, &self.counters) {
            Ok(accepted) => {
                self.padded += u32::from(accepted.picture.padding() > 0);
                self.times.extend(raw.exposed_at);
                self.is_settled |= accepted.info.is_settled;
            }
            Err(Rejected::Broken(fault)) => _ = self.first_fault.get_or_insert(fault),
            Err(_) => {}
        }
    }

    fn nothing_whole(&self) -> CameraError {
        let why = match (self.seen, self.first_fault) {
            (0, _) => "none came at all".into(),
            (seen, Some(fault)) => format!("{seen} came, the first: {fault}"),
            (seen, None) => format!("{seen} came, damaged or of another size"),
        };
        let message = format!("no whole picture of {} in {} s: {why}", self.intake.size(), FIRST.as_secs());
        CameraError::new(ErrorKind::Failed, message)
    }

    fn report(&self) -> Vec<String> {
        let mut lines = vec![format!("pictures         {} of {} whole", self.whole(), self.seen)];
        let counted = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        for (count, what) in [
            (counted(&counters.flagged), "flagged as damaged by the driver: a bad cable or hub? They are left out"),
            (counted(&counters.wrong_size), "of another size than the camera said; they are left out"),
            (counted(&counters.dht_inserted), "without Huffman tables (DHT); framehub puts the standard ones in"),
            (counted(&counters.eoi_appended), "without their end (EOI); framehub appends it"),
            (self.padded.into(), "padded, or with other bytes before them; framehub cuts these off"),
        ] {
            if count > 0 {
                lines.push(format!("  {count} {what}"));
            }
        }
        for (fault, count) in Fault::ALL.iter().zip(&counters.broken) {
            if counted(count) > 0 {
                lines.push(format!("  {} broken: {fault}; they are left out", counted(count)));
            }
        }
        lines.extend(self.pace());
        lines
    }

    fn pace(&self) -> Option<String> {
        let mut gaps: Vec<Duration> = self.times.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
        gaps.sort();
        let (median, longest) = (*gaps.get(gaps.len() / 2)?, *gaps.last()?);
        let fps = 1.0 / median.as_secs_f64().max(0.001);
        let verdict = if longest > median * 2 { "irregular" } else { "regular" };
        let (median, longest) = (median.as_millis(), longest.as_millis());
        Some(format!("pace             {fps:.1} fps, {verdict}: {median} ms between pictures, {longest} ms at most"))
    }
}

/// Ready-to-paste settings for the programs that people use with it.
fn settings(out: &mut dyn Write, config: &Config) -> io::Result<()> {
    let Some([address, local, host]) = config.addresses() else { return Ok(()) };
    let text = include_str!("assets/settings.txt");
    let text = text.replace("{host}", &host.to_string()).replace("{local}", &local.to_string());
    write!(out, "\nWhere to put it, with framehub running on {address}:\n{text}")?;
    match config.orientation {
        Some(_) => {
            writeln!(out, "\nBrowsers turn the picture already: set no rotation in OctoPrint, Mainsail or Fluidd.")
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::camera::Mode;
    use crate::camera::encode::Encoding;
    use crate::camera::synthetic::Synthetic;

    fn checked(device: &str) -> (bool, String) {
        let config = Config::from_args(&["--still-size=320x240".into(), "--size=160x120".into()]);
        let live = Mode { size: Size::new(160, 120), fps: None };
        let source = |encode| -> Box<dyn Source> {
            Box::new(Encoding::new(Box::new(Synthetic::from_text(device).unwrap()), encode, live))
        };
        let mut out = Vec::new();
        let good = check(&mut out, &source, &config.unwrap_or_else(|exit| panic!("{exit:?}"))).unwrap();
        (good, String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_good_camera_is_measured_and_settings_are_given() {
        let (good, text) = checked("synthetic");
        assert!(good, "{text}");
        for words in ["160x120@30", "still 320x240", "cold start", "regular", "127.0.0.1:8080/snapshot"] {
            assert!(text.contains(words), "{words} in {text}");
        }
        assert!(!text.contains("{host}") && text.contains("{camera_address}"), "{text}");
    }

    #[test]
    fn a_camera_without_motion_jpeg_is_measured_and_the_option_is_named() {
        let (good, text) = checked("synthetic:raw=YUYV");
        assert!(!good, "{text}");
        let words = [
            "160x120@30",
            "still 320x240",
            "% of one processor",
            "FAILED without --encode",
            "only raw pictures (YUYV)",
        ];
        for words in words {
            assert!(text.contains(words), "{words} in {text}");
        }
    }

    #[test]
    fn peculiar_and_absent_cameras_are_told() {
        let (good, text) = checked("synthetic:dht=0");
        assert!(good && text.contains("without Huffman tables"), "{text}");
        let file = tempfile::NamedTempFile::new().unwrap();
        let (good, text) = checked(&format!("synthetic:unplug_file={}", file.path().display()));
        assert!(!good && text.contains("FAILED"), "{text}");
    }
}
