//! The plugged-in camera: speaks the USB/IP protocol on one socket whose other
//! end belongs to vhci-hcd, and paces frames into the bulk endpoint's URBs.

use crate::clock::monotonic_ns;
use crate::jpeg;
use crate::pictures::{self, Composer, Library};
use crate::profile::Profile;
use crate::tuning::Tuning;
use crate::uvc::{Event, Mode, STATUS_EP, STREAM_EP, Uvc};
use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

const CMD_SUBMIT: u32 = 1;
const CMD_UNLINK: u32 = 2;
const RET_SUBMIT: u32 = 3;
const RET_UNLINK: u32 = 4;
const EXDEV: i32 = -18;
const EPIPE: i32 = -32;
const ECONNRESET: i32 = -104;
/// Brightness of a picture that is exposed as it should be.
const RIGHT: f64 = 127.0;

#[derive(Default)]
pub struct Stats {
    /// Frames of the whole session, never reset: the number in the COM segment.
    pub frames: u64,
    /// Frames not sent because the host had no URB waiting at their time.
    pub missed: u64,
    pub commits: u64,
    pub bytes: u64,
}

/// How long a camera that was opened too soon stalls probes.
const STALL_TIME: Duration = Duration::from_secs(1);

pub struct State {
    uvc: Uvc,
    pub tuning: Tuning,
    pub stats: Stats,
    pub stall_until: Option<Instant>,
    /// How many waiting URBs to fail with a transfer error.
    pub urb_errors: u32,
    mode: Option<Mode>,
    mode_since: Instant,
    composer: Composer,
    /// The picture before, for cameras that mix it with the next.
    previous: Vec<u8>,
    urbs: VecDeque<Urb>,
    /// The transfer of the status endpoint, which waits as long as somebody has the camera open.
    status_urb: Option<u32>,
    /// When it was closed after a stream.
    closed_at: Option<Instant>,
    has_streamed: bool,
    /// It was opened too soon: until then it stalls probes.
    stalls_until: Option<Instant>,
    /// Number of the newest transfer asked for. vhci-hcd counts on over a replug.
    last_submit: u32,
    /// Unlink requests that overtook their submission: URB to unlink request.
    early_unlinks: HashMap<u32, u32>,
    /// Our end of the connection to vhci-hcd while plugged in.
    socket: Option<UnixStream>,
    /// Changes with each plug and pull: a transfer requested before that gets no response.
    connection: u32,
}

/// A transfer that the host waits for; `packets` holds the isochronous packet
/// descriptors (offset, length, actual length, status; 16 bytes each).
struct Urb {
    seq: u32,
    size: usize,
    packets: Vec<u8>,
}

pub struct Camera {
    state: Mutex<State>,
    wake: Condvar,
    library: Library,
}

fn header(command: u32, seq: u32, status: i32, length: usize) -> [u8; 48] {
    let mut h = [0; 48];
    h[0..4].copy_from_slice(&command.to_be_bytes());
    h[4..8].copy_from_slice(&seq.to_be_bytes());
    h[20..24].copy_from_slice(&status.to_be_bytes());
    h[24..28].copy_from_slice(&(length as u32).to_be_bytes());
    h
}

impl State {
    fn reply(&mut self, command: u32, seq: u32, status: i32, data: &[u8], length: usize) {
        let mut packet = header(command, seq, status, length).to_vec();
        packet.extend(data);
        self.write(&packet, &[]);
    }

    /// Completes a stream transfer.
    fn transfer(&mut self, urb: &Urb, status: i32, data: &[u8], packets: &[u8]) {
        let mut head = header(RET_SUBMIT, urb.seq, status, data.len());
        head[32..36].copy_from_slice(&(packets.len() as u32 / 16).to_be_bytes());
        self.stats.bytes += data.len() as u64;
        self.write(&head, data);
        self.write(packets, &[]);
    }

    fn write(&mut self, head: &[u8], body: &[u8]) {
        let Some(socket) = &mut self.socket else { return };
        // A failed write means that vhci let go; the reader sees it too.
        let n = socket.write_vectored(&[IoSlice::new(head), IoSlice::new(body)]).unwrap_or(0);
        if n < head.len() {
            let _ = socket.write_all(&head[n..]).and_then(|()| socket.write_all(body));
        } else {
            let _ = socket.write_all(&body[n - head.len()..]);
        }
    }

    /// Whether the exposure is the user's, and its time in units of 100 µs.
    fn exposure(&self) -> (bool, Option<i32>) {
        let controls = &self.uvc.controls;
        let is_manual = controls.value("auto_exposure").is_some_and(|mode| mode == 1 || mode == 2);
        (is_manual, controls.value("exposure_time_absolute"))
    }

    /// Time between two frames: what was negotiated, as far as the light allows.
    fn period(&self, mode: Mode) -> Duration {
        let negotiated = Duration::from_nanos(u64::from(mode.interval) * 100);
        let is_dim = self.tuning.get("dim") != 0 && self.uvc.controls.value("exposure_dynamic_framerate") == Some(1);
        let period = match self.exposure() {
            (true, Some(time)) => negotiated.max(Duration::from_micros(time.max(0) as u64 * 100)),
            (false, _) if is_dim => negotiated * 2,
            _ => negotiated,
        };
        match self.tuning.get("fps_max") {
            1.. => period.max(Duration::from_secs(1) / self.tuning.get("fps_max") as u32),
            _ => period,
        }
    }

    /// Mean brightness of a picture that is taken now.
    fn level(&self, width: u16) -> u8 {
        let usual = self.uvc.controls.0.iter().find(|control| control.name == "exposure_time_absolute");
        let tau = self.tuning.get("ae_tau_ms") as f64 / 1e3;
        let level = match self.exposure() {
            _ if self.is_starting("start_ms", width) => self.tuning.get("start_level") as f64,
            (true, Some(time)) => RIGHT * f64::from(time) / f64::from(usual.map_or(1, |c| c.default()).max(1)),
            _ if tau > 0.0 => {
                let from = self.tuning.get("ae_from") as f64;
                RIGHT + (from - RIGHT) * (-self.mode_since.elapsed().as_secs_f64() / tau).exp()
            }
            _ => RIGHT,
        };
        level.clamp(6.0, 246.0).round() as u8 & !1 // as the composer has them
    }

    /// Whether this much of a stream's first time is not over, for streams as wide as such a camera takes time for.
    fn is_starting(&self, name: &str, width: u16) -> bool {
        i64::from(width) >= self.tuning.get("start_min_w")
            && self.mode_since.elapsed() < Duration::from_millis(self.tuning.get(name).max(0) as u64)
    }

    pub fn plugged(&self) -> bool {
        self.socket.is_some()
    }

    pub fn line(&self) -> String {
        let mode = self.mode.map_or("idle".into(), |m| {
            format!(
                "{}:{}x{}@{:.0}",
                if m.mjpeg { "mjpeg" } else { "yuyv" },
                m.width,
                m.height,
                1e7 / m.interval as f64
            )
        });
        let s = &self.stats;
        format!(
            "profile={} plugged={} mode={mode} frames={} missed={} commits={} bytes={} {}",
            self.uvc.profile.name,
            self.plugged() as u8,
            s.frames,
            s.missed,
            s.commits,
            s.bytes,
            self.uvc.settings()
        )
    }
}

impl Camera {
    pub fn new(library: Library, profile: Profile) -> Arc<Self> {
        let camera = Arc::new(Camera {
            state: Mutex::new(State {
                uvc: Uvc::new(profile),
                tuning: Tuning::new(),
                stats: Stats::default(),
                stall_until: None,
                urb_errors: 0,
                mode: None,
                mode_since: Instant::now(),
                composer: Composer::default(),
                previous: Vec::new(),
                urbs: VecDeque::new(),
                status_urb: None,
                closed_at: None,
                has_streamed: false,
                stalls_until: None,
                last_submit: 0,
                early_unlinks: HashMap::new(),
                socket: None,
                connection: 0,
            }),
            wake: Condvar::new(),
            library,
        });
        let streamer = camera.clone();
        thread::spawn(move || streamer.stream());
        camera
    }

    /// The first frames of a stream of this size, without a bus.
    pub fn frames(&self, (width, height): (u16, u16), count: u64) -> Vec<Vec<u8>> {
        let mut state = self.lock();
        state.mode_since = Instant::now();
        state.previous.clear();
        let mode = Mode { mjpeg: true, width, height, interval: 333_333 };
        (0..count).map(|index| self.frame(&mut state, mode, index).data).collect()
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Becomes another device, unplugged.
    pub fn become_device(&self, profile: Profile) -> Result<(), String> {
        let tuning = Tuning::of(&profile.behaviour)?;
        self.unplug();
        let mut state = self.lock();
        state.tuning = tuning;
        state.uvc = Uvc::new(profile);
        Ok(())
    }

    /// Forgets what it was told to do wrong; what its profile says it does on.
    pub fn reset(&self) {
        let mut state = self.lock();
        state.tuning = Tuning::of(&state.uvc.profile.behaviour).unwrap_or_else(|_| Tuning::new());
        state.stall_until = None;
        state.urb_errors = 0;
    }

    /// Plugs the camera in: hands one end of a socket pair to vhci-hcd.
    pub fn plug(self: &Arc<Self>) -> Result<(), String> {
        let base = Path::new("/sys/devices/platform/vhci_hcd.0");
        let mut state = self.lock();
        if state.plugged() {
            return Err("already plugged".into());
        }
        // "hub port sta spd dev sockfd local_busid": state 004 is a free port.
        let (hub, speed) = if state.uvc.profile.link.is_super { ("ss", 5) } else { ("hs", 3) };
        let deadline = Instant::now() + Duration::from_secs(5);
        let port = loop {
            let status = std::fs::read_to_string(base.join("status")).map_err(|e| format!("vhci status: {e}"))?;
            let free = status.lines().find_map(|l| {
                let f: Vec<&str> = l.split_whitespace().collect();
                (f.len() > 2 && f[0] == hub && f[2] == "004").then(|| f[1].to_string())
            });
            match free {
                Some(port) => break port,
                None if Instant::now() > deadline => return Err("no free vhci port".into()),
                None => thread::sleep(Duration::from_millis(20)),
            }
        };
        let (ours, theirs) = UnixStream::pair().map_err(|e| e.to_string())?;
        let order = format!("{port} {} 65537 {speed}", theirs.as_raw_fd());
        std::fs::write(base.join("attach"), order).map_err(|e| format!("vhci attach: {e}"))?;
        // Without power it forgot what its controls were set to.
        state.uvc = Uvc::new(state.uvc.profile.clone());
        state.socket = Some(ours.try_clone().map_err(|e| e.to_string())?);
        state.connection += 1;
        let connection = state.connection;
        drop(state);
        let reader = self.clone();
        thread::spawn(move || {
            let _ = reader.serve(ours, connection);
            // By now it may be plugged in again.
            let state = reader.lock();
            if state.connection == connection {
                reader.pull(state);
            }
        });
        Ok(())
    }

    /// Pulls the plug: the camera falls silent, then vhci-hcd sees the connection die and disconnects.
    pub fn unplug(&self) {
        self.silence(&mut self.lock());
        // A URB that is taken back before vhci-hcd has sent it, and its connection dead, is never given back: the
        // driver would wait for it for ever. In this time what was submitted is sent, and nothing new completes.
        thread::sleep(Duration::from_millis(20));
        self.pull(self.lock());
    }

    fn pull(&self, mut state: MutexGuard<'_, State>) {
        self.silence(&mut state);
        if let Some(socket) = state.socket.take() {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }

    /// From now on nothing is answered.
    fn silence(&self, state: &mut State) {
        state.mode = None;
        state.urbs.clear();
        state.status_urb = None;
        (state.closed_at, state.has_streamed, state.stalls_until) = (None, false, None);
        state.early_unlinks.clear();
        state.connection += 1;
        self.wake.notify_all();
    }

    pub fn wake(&self) {
        self.wake.notify_all();
    }

    fn serve(&self, mut socket: UnixStream, connection: u32) -> io::Result<()> {
        loop {
            let mut h = [0u8; 48];
            socket.read_exact(&mut h)?;
            let word = |at: usize| u32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
            let (command, seq, inbound, ep) = (word(0), word(4), word(12) == 1, word(16));
            if command == CMD_UNLINK {
                let target = word(20);
                let mut state = self.lock();
                if state.connection != connection {
                    continue;
                }
                if target > state.last_submit {
                    // vhci-hcd may send an unlink ahead of its submission. To
                    // answer now would leave that URB in limbo; see below.
                    state.early_unlinks.insert(target, seq);
                    continue;
                }
                let before = state.urbs.len();
                state.urbs.retain(|u| u.seq != target);
                let is_close = state.status_urb == Some(target);
                if is_close {
                    state.status_urb = None;
                    state.closed_at = state.has_streamed.then(Instant::now);
                    state.has_streamed = false;
                }
                let status = if is_close || state.urbs.len() < before { ECONNRESET } else { 0 };
                state.reply(RET_UNLINK, seq, status, &[], 0);
                continue;
            }
            if command != CMD_SUBMIT {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "unknown command"));
            }
            let length = word(24) as usize;
            let isoc = ep == u32::from(STREAM_EP) && (1..=1024).contains(&word(32));
            let extra = if isoc { 16 * word(32) as usize } else { 0 };
            let mut data = vec![0; if inbound { extra } else { length + extra }];
            socket.read_exact(&mut data)?;
            let mut state = self.lock();
            state.last_submit = state.last_submit.max(seq);
            if state.connection != connection {
                continue; // read behind the pull, only to know its number
            }
            if let Some(unlink) = state.early_unlinks.remove(&seq) {
                state.reply(RET_UNLINK, unlink, ECONNRESET, &[], 0);
                continue;
            }
            if ep == 0 {
                self.control(state, seq, h[40..48].try_into().unwrap(), inbound, length, &data);
            } else if ep == u32::from(STREAM_EP) && inbound {
                state.urbs.push_back(Urb { seq, size: length, packets: data });
                self.wake.notify_all();
            } else if ep == u32::from(STATUS_EP) && inbound {
                let closed_for = state.closed_at.take().map(|at| at.elapsed().as_millis() as i64);
                let is_too_soon = |limit: &str| closed_for.is_some_and(|millis| millis < state.tuning.get(limit));
                if is_too_soon("reopen_ms") {
                    return Ok(()); // it leaves the bus
                }
                state.stalls_until = is_too_soon("reopen_stall_ms").then(|| Instant::now() + STALL_TIME);
                state.status_urb = Some(seq);
            } else {
                state.reply(RET_SUBMIT, seq, EPIPE, &[], 0);
            }
        }
    }

    fn control<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        seq: u32,
        setup: &[u8; 8],
        inbound: bool,
        length: usize,
        data: &[u8],
    ) {
        let locks = state.tuning.get("stall_auto") != 0;
        let is_probe = setup[0] == 0x21 && setup[3..6] == [1, 1, 0];
        let (answer, event) = match state.stalls_until {
            Some(until) if is_probe && Instant::now() < until => (Err(()), None),
            _ => state.uvc.request(setup, data, locks),
        };
        match event {
            Some(Event::Commit(mode)) => {
                let delay = state.tuning.get("commit_ms");
                if delay > 0 {
                    let connection = state.connection;
                    drop(state);
                    thread::sleep(Duration::from_millis(delay as u64));
                    state = self.lock();
                    if state.connection != connection {
                        return;
                    }
                }
                state.stats.commits += 1;
                if state.tuning.get("forget_after") == 0 {
                    state.uvc.controls.forget();
                }
                state.mode = Some(mode);
                state.has_streamed = true;
                state.mode_since = Instant::now();
                self.wake.notify_all();
            }
            Some(Event::Stop) => {
                state.mode = None;
                self.wake.notify_all();
            }
            None => {}
        }
        match answer {
            Ok(mut bytes) if inbound => {
                bytes.truncate(length);
                state.reply(RET_SUBMIT, seq, 0, &bytes, bytes.len());
            }
            Ok(_) => state.reply(RET_SUBMIT, seq, 0, &[], length),
            Err(()) => state.reply(RET_SUBMIT, seq, EPIPE, &[], 0),
        }
    }

    /// The frame clock. A new stream session starts at each commit; frame
    /// times lie on a fixed grid from its first frame.
    fn stream(&self) {
        let mut session = 0;
        let mut due = Instant::now();
        let mut index = 0u64;
        let mut fid = 0u8;
        loop {
            let mut state = self.lock();
            let Some(mode) = state.mode else {
                drop(self.wake.wait_timeout(state, Duration::from_secs(1)));
                continue;
            };
            let period = state.period(mode);
            if session != state.stats.commits {
                session = state.stats.commits;
                index = 0;
                due = state.mode_since + period + Duration::from_millis(state.tuning.get("first_ms") as u64);
            }
            let now = Instant::now();
            while state.urb_errors > 0 {
                let Some(urb) = state.urbs.pop_front() else { break };
                state.urb_errors -= 1;
                state.transfer(&urb, EPIPE, &[], &urb.packets);
            }
            let start = state.stall_until.map_or(due, |s| s.max(due));
            if now < start {
                drop(self.wake.wait_timeout(state, start - now));
                continue;
            }
            state.stall_until = None;
            let sent = !state.urbs.is_empty() && !state.tuning.take("drop");
            if sent {
                let frame = self.frame(&mut state, mode, index);
                drop(state);
                self.send(session, &frame, fid);
                fid ^= 1;
                index += 1;
            } else {
                state.stats.missed += 1;
                drop(state);
            }
            // Frame times that have passed are lost, as on a real sensor.
            due += period;
            let late = Instant::now().saturating_duration_since(due).as_nanos() / period.as_nanos();
            if late > 0 {
                due += period * late as u32;
                self.lock().stats.missed += late as u64;
            }
        }
    }

    fn frame(&self, state: &mut State, mode: Mode, index: u64) -> Frame {
        let number = state.stats.frames;
        state.stats.frames += 1;
        if index > 0 && state.tuning.get("forget_after") == index as i64 {
            state.uvc.controls.forget();
        }
        let mut data = if mode.mjpeg {
            let whole = self.picture(state, mode, number, index);
            with_quirks(&state.tuning, &whole, &std::mem::replace(&mut state.previous, whole.clone()), index)
        } else {
            let luma = (number * 8) as u8;
            [luma, 0x60, luma, 0xa0].repeat(usize::from(mode.width) * usize::from(mode.height) / 2)
        };
        let t = &mut state.tuning;
        if t.take("truncate") {
            data.truncate(data.len() * 2 / 3);
        }
        if t.take("corrupt") {
            corrupt(&mut data);
        }
        if t.take("empty") {
            data.clear();
        }
        data.extend(vec![0; t.get("pad").max(0) as usize]);
        if t.take("oversize") {
            data.resize(usize::from(mode.width) * usize::from(mode.height) * 2 + 100_000, 0);
        }
        Frame { data, error: t.take("error"), eof: !t.take("noeof"), lost: t.take("lost") }
    }

    /// What the sensor sees, as a whole JPEG that says in a comment which it is.
    fn picture(&self, state: &mut State, mode: Mode, number: u64, index: u64) -> Vec<u8> {
        let real = (state.tuning.get("sof_w") as u16, state.tuning.get("sof_h") as u16);
        let size = if real.0 > 0 && mode.width > real.0 { real } else { (mode.width, mode.height) };
        let has_tables = state.tuning.get("nodht") == 0;
        let is_wide = i64::from(mode.width) >= state.tuning.get("start_min_w");
        let is_dark = is_wide && (index as i64) < state.tuning.get("warmup");
        let (mut data, text, level, sum);
        if state.uvc.profile.name == "rig" {
            let picture = self.library.picture(size, number, is_dark);
            (level, sum) = (if is_dark { 12 } else { 120 }, picture.sum);
            (data, text) = if has_tables { picture.full.clone() } else { picture.no_dht.clone() };
        } else {
            level = if is_dark { 12 } else { state.level(mode.width) };
            let is_blurred = state.is_starting("focus_ms", mode.width);
            let stray = state.tuning.get("stray").max(0) as usize;
            let jpeg = state.composer.picture(size, number, level, is_blurred, stray);
            sum = pictures::scan_sum(&jpeg);
            (data, text) = pictures::with_comment(&if has_tables { jpeg } else { jpeg::without_dht(&jpeg) });
        }
        let comment = format!(
            "RIGCAM frame={number} mono_ns={} session={} index={index} size={}x{} level={level} sum={sum:08x}",
            monotonic_ns(),
            state.stats.commits,
            size.0,
            size.1
        );
        data[text..text + comment.len()].copy_from_slice(comment.as_bytes());
        data
    }

    /// Sends one frame as UVC payloads, waiting for URBs when the host is slow.
    /// Gives up when the stream stops or another one starts.
    fn send(&self, session: u64, frame: &Frame, fid: u8) {
        let mut at = 0;
        let mut wire = Instant::now();
        let mut last = false;
        while !last {
            let mut state = self.lock();
            let deadline = Instant::now() + Duration::from_secs(2);
            while state.urbs.is_empty() && state.mode.is_some() && state.stats.commits == session {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return;
                }
                state = self.wake.wait_timeout(state, left).unwrap().0;
            }
            if state.mode.is_none() || state.stats.commits != session {
                return;
            }
            let mut urb = state.urbs.pop_front().unwrap();
            let mut data = Vec::with_capacity(urb.size);
            let mut payload = |data: &mut Vec<u8>, size: usize| {
                let chunk = &frame.data[at..frame.data.len().min(at + size.saturating_sub(2))];
                at += chunk.len();
                last = at == frame.data.len();
                let end = last && frame.eof;
                data.extend([2, 0x80 | fid | u8::from(end) << 1 | u8::from(frame.error) << 6]);
                data.extend(chunk);
                last
            };
            if urb.packets.is_empty() {
                payload(&mut data, urb.size);
                state.transfer(&urb, 0, &data, &[]);
                continue;
            }
            let mut packets = std::mem::take(&mut urb.packets);
            let mut ended = false;
            for (i, p) in packets.chunks_exact_mut(16).enumerate() {
                let size = u32::from_be_bytes(p[4..8].try_into().unwrap()) as usize;
                let before = data.len();
                if !ended {
                    ended = payload(&mut data, size);
                }
                let lost = frame.lost && i == 3;
                if lost {
                    data.truncate(before);
                }
                p[8..12].copy_from_slice(&((data.len() - before) as u32).to_be_bytes());
                p[12..16].copy_from_slice(&if lost { EXDEV } else { 0 }.to_be_bytes());
            }
            state.transfer(&urb, 0, &data, &packets);
            drop(state);
            // The bus carries one packet per microframe.
            wire += Duration::from_micros(125) * (packets.len() as u32 / 16);
            thread::sleep(wire.saturating_duration_since(Instant::now()));
        }
    }
}

struct Frame {
    data: Vec<u8>,
    error: bool,
    eof: bool,
    lost: bool,
}

/// Damages the scan's second half; no marker comes of it.
fn corrupt(data: &mut [u8]) {
    let from = data.len() / 2;
    for (i, b) in data[from..].iter_mut().enumerate().filter(|(i, _)| i % 37 == 0) {
        *b = b.wrapping_mul(31).wrapping_add(i as u8);
    }
}

/// What a camera makes of a picture before it is sent: see the README.
fn with_quirks(tuning: &Tuning, picture: &[u8], previous: &[u8], index: u64) -> Vec<u8> {
    let count = |name: &str| tuning.get(name).max(0) as usize;
    let mut data = vec![0x4a; count("junk")];
    if count("twice") > 0 {
        data.extend(previous);
    }
    if count("half") > 0 {
        data.extend(&previous[..previous.len() / 2]);
    }
    let begin = data.len();
    data.extend(&picture[..picture.len() - 2]);
    if (index as usize) < count("first_bad") {
        corrupt(&mut data[begin..]);
    }
    if count("noeoi") > 0 {
        return data;
    }
    data.extend(vec![0xff; count("fill")]);
    data.extend([0xff, 0xd9]);
    data.extend(&previous[previous.len().saturating_sub(count("stale"))..]);
    data
}
