//! What the camera is told to do wrong.

/// Behaviour that `set` changes. Counts say how many coming frames are
/// affected; -1 means all of them.
pub struct Tuning {
    values: Vec<(&'static str, i64)>,
}

impl Tuning {
    pub fn new() -> Self {
        let names = [
            "nodht",
            "pad",
            "commit_ms",
            "first_ms",
            "warmup",
            "fps_max",
            "truncate",
            "corrupt",
            "empty",
            "error",
            "oversize",
            "noeof",
            "drop",
            "lost",
            // What profiles use. Of the light: the brightness at which a stream starts, the time constant in which it
            // becomes right, half the rate while the exposure is automatic.
            "ae_from",
            "ae_tau_ms",
            "dim",
            // For this time after a start, in streams at least so wide: pictures of this brightness; blurred ones.
            "start_ms",
            "start_level",
            "focus_ms",
            "start_min_w",
            // Of the controls: after how many frames of a stream those that forget do; locked values stall.
            "forget_after",
            "stall_auto",
            // Opened again so soon after a close that followed a stream, it leaves the bus, or stalls probes for a second.
            // Both need a status endpoint.
            "reopen_ms",
            "reopen_stall_ms",
            // Of the JPEGs: damaged pictures at the start of each stream, then bytes or pictures too many or too few.
            "first_bad",
            "stray",
            "junk",
            "fill",
            "stale",
            "noeoi",
            "twice",
            "half",
            // Pictures of larger sizes really have this one.
            "sof_w",
            "sof_h",
        ];
        Tuning { values: names.map(|n| (n, 0)).to_vec() }
    }

    /// As a profile has it from the start.
    pub fn of(behaviour: &[(String, i64)]) -> Result<Self, String> {
        let mut tuning = Tuning::new();
        match behaviour.iter().find(|(name, value)| !tuning.set(name, *value)) {
            Some((name, _)) => Err(format!("unknown behaviour {name}")),
            None => Ok(tuning),
        }
    }

    pub fn get(&self, name: &str) -> i64 {
        self.values.iter().find(|v| v.0 == name).map_or(0, |v| v.1)
    }

    pub fn set(&mut self, name: &str, value: i64) -> bool {
        let found = self.values.iter_mut().find(|v| v.0 == name);
        found.map(|v| v.1 = value).is_some()
    }

    /// Whether a counted fault hits this frame; uses up one count.
    pub fn take(&mut self, name: &str) -> bool {
        let left = self.get(name);
        if left > 0 {
            self.set(name, left - 1);
        }
        left != 0
    }

    pub fn line(&self) -> String {
        let list: Vec<String> = self.values.iter().map(|(n, v)| format!("{n}={v}")).collect();
        list.join(" ")
    }
}
