//! The committed bindings against the kernel's headers, as C compilers read them.
//!
//! bindgen wrote an assertion for each size and offset into the files. rustc enforces those of
//! the width it compiles for, on every build; here a C compiler judges the same numbers. So the
//! 32-bit file is checked on a 64-bit machine too, and no list of fields is kept by hand.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use v4l::v4l2::vidioc;

const BINDINGS_64: &str = include_str!("../src/bindings_64.rs");
const BINDINGS_32: &str = include_str!("../src/bindings_32_time64.rs");

/// Where an ioctl number holds the size of its argument.
const SIZE_SHIFT: u32 = 16;
const SIZE_MASK: u32 = 0x3fff << SIZE_SHIFT;

/// An ioctl that v4l or framehub uses.
struct Ioctl {
    name: &'static str,
    argument: &'static str,
    /// What `v4l` sends on the machine that runs the test.
    sent: u32,
    on_64_bit: u32,
    on_32_bit: u32,
}

macro_rules! ioctls {
    ($($name:ident $argument:ident $on_64_bit:literal $on_32_bit:literal)*) => {
        [$(Ioctl {
            name: stringify!($name),
            argument: stringify!($argument),
            sent: vidioc::$name as u32,
            on_64_bit: $on_64_bit,
            on_32_bit: $on_32_bit,
        }),*]
    };
}

/// The numbers that the kernel answers to: 64-bit, then 32-bit ARM with 64-bit time.
const IOCTLS: [Ioctl; 22] = ioctls! {
    VIDIOC_QUERYCAP            v4l2_capability     0x80685600 0x80685600
    VIDIOC_ENUM_FMT            v4l2_fmtdesc        0xc0405602 0xc0405602
    VIDIOC_G_FMT               v4l2_format         0xc0d05604 0xc0cc5604
    VIDIOC_S_FMT               v4l2_format         0xc0d05605 0xc0cc5605
    VIDIOC_TRY_FMT             v4l2_format         0xc0d05640 0xc0cc5640
    VIDIOC_REQBUFS             v4l2_requestbuffers 0xc0145608 0xc0145608
    VIDIOC_QUERYBUF            v4l2_buffer         0xc0585609 0xc0505609
    VIDIOC_QBUF                v4l2_buffer         0xc058560f 0xc050560f
    VIDIOC_DQBUF               v4l2_buffer         0xc0585611 0xc0505611
    VIDIOC_STREAMON            int                 0x40045612 0x40045612
    VIDIOC_STREAMOFF           int                 0x40045613 0x40045613
    VIDIOC_G_PARM              v4l2_streamparm     0xc0cc5615 0xc0cc5615
    VIDIOC_S_PARM              v4l2_streamparm     0xc0cc5616 0xc0cc5616
    VIDIOC_ENUMINPUT           v4l2_input          0xc050561a 0xc050561a
    VIDIOC_G_CTRL              v4l2_control        0xc008561b 0xc008561b
    VIDIOC_QUERYMENU           v4l2_querymenu      0xc02c5625 0xc02c5625
    VIDIOC_G_EXT_CTRLS         v4l2_ext_controls   0xc0205647 0xc0185647
    VIDIOC_S_EXT_CTRLS         v4l2_ext_controls   0xc0205648 0xc0185648
    VIDIOC_TRY_EXT_CTRLS       v4l2_ext_controls   0xc0205649 0xc0185649
    VIDIOC_ENUM_FRAMESIZES     v4l2_frmsizeenum    0xc02c564a 0xc02c564a
    VIDIOC_ENUM_FRAMEINTERVALS v4l2_frmivalenum    0xc034564b 0xc034564b
    VIDIOC_QUERY_EXT_CTRL      v4l2_query_ext_ctrl 0xc0e85667 0xc0e85667
};

/// What one bindings file says, as C expressions and their values.
fn claims(bindings: &str) -> BTreeMap<String, u64> {
    // rustfmt breaks long lines at spaces.
    let text = bindings.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut claims = BTreeMap::new();

    for assertion in text.split("[\"").skip(1) {
        let (what, rest) = assertion.split_once("\"]").expect("a name in quotes");
        let (value, _) = rest.split_once("usize").expect("a number");
        let value = value.rsplit("- ").next().and_then(|n| n.parse().ok());
        let value = value.unwrap_or_else(|| panic!("no number in the assertion {what:?}"));
        if let Some(expression) = c_expression(what) {
            claims.insert(expression, value);
        }
    }
    for constant in text.split("pub const ").skip(1) {
        let (declaration, _) = constant.split_once(';').expect("an end");
        let (name, rest) = declaration.split_once(": ").expect("a type");
        let (kind, value) = rest.split_once(" = ").expect("a value");
        // An enum's constants carry its name in front.
        let name = name.strip_prefix(&format!("{kind}_")).unwrap_or(name);
        claims.insert(name.to_string(), value.parse().expect("a number"));
    }
    claims
}

/// C for one of bindgen's assertions, or None for what C cannot name or need not agree upon.
fn c_expression(what: &str) -> Option<String> {
    if what.contains("__bindgen") {
        return None; // An anonymous struct or union: what lies around it fixes its place and size.
    }
    if what.contains("v4l2_meta_format") {
        return None; // Grown after Linux 6.1, within v4l2_format's room for it: nobody here uses it.
    }
    if let Some(name) = what.strip_prefix("Size of ") {
        return Some(format!("sizeof(struct {name})"));
    }
    if let Some(name) = what.strip_prefix("Alignment of ") {
        return Some(format!("_Alignof(struct {name})"));
    }
    let field = what.strip_prefix("Offset of field: ").expect(what);
    let (name, field) = field.split_once("::").expect(what);
    if field.starts_with("reserved") {
        return None; // Later kernels take new fields from here.
    }
    let field = field.trim_end_matches('_'); // `type_`
    Some(format!("offsetof(struct {name}, {field})"))
}

/// Asks a C compiler whether every claim holds with its own headers. Panics if not, or if there is none.
fn ask_compiler(compiler: &str, flags: &[&str], claims: &BTreeMap<String, u64>) {
    let mut source = String::from("#include <stddef.h>\n#include <linux/videodev2.h>\n");
    for (expression, value) in claims {
        source += &format!("_Static_assert(({expression}) == {value}u, \"{expression}\");\n");
    }

    let mut words = compiler.split_whitespace();
    let mut child = Command::new(words.next().expect("a compiler's name"))
        .args(words)
        .args(flags)
        .args(["-std=gnu11", "-fsyntax-only", "-x", "c", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("this test needs a C compiler: cannot run {compiler}: {e}"));
    // A compiler that gives up early closes the pipe; its own words below say why.
    let mut pipe = child.stdin.take().expect("a pipe");
    let _ = pipe.write_all(source.as_bytes());
    drop(pipe);
    let output = child.wait_with_output().expect("the compiler's answer");
    assert!(
        output.status.success(),
        "{compiler} does not agree. Are linux/videodev2.h of Linux 6.1 or later and its libc installed?\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    println!("{compiler} agrees with {} claims", claims.len());
}

#[test]
fn v4l_sends_the_recorded_numbers() {
    let (claims_64, claims_32) = (claims(BINDINGS_64), claims(BINDINGS_32));
    let size_in = |claims: &BTreeMap<String, u64>, argument| match argument {
        "int" => 4,
        name => claims[&format!("sizeof(struct {name})")] as u32,
    };
    for ioctl in &IOCTLS {
        let here = match cfg!(target_pointer_width = "64") {
            true => ioctl.on_64_bit,
            false => ioctl.on_32_bit,
        };
        assert_eq!(ioctl.sent, here, "{} as v4l sends it", ioctl.name);
        // v4l makes the number from the argument's size, and nothing else in it varies.
        for (number, claims) in [(ioctl.on_64_bit, &claims_64), (ioctl.on_32_bit, &claims_32)] {
            let size = size_in(claims, ioctl.argument);
            assert_eq!(number, ioctl.sent & !SIZE_MASK | size << SIZE_SHIFT, "{} as the bindings say", ioctl.name);
        }
    }
}

#[test]
#[cfg(target_pointer_width = "64")]
fn the_installed_header_agrees() {
    let mut claims = claims(BINDINGS_64);
    for ioctl in &IOCTLS {
        claims.insert(ioctl.name.to_string(), ioctl.on_64_bit.into());
    }
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_string());
    ask_compiler(&compiler, &[], &claims);
}

#[test]
#[ignore = "needs a C compiler for ARM: apt-get install gcc-arm-linux-gnueabihf libc6-dev-armhf-cross"]
fn the_arm_header_with_64_bit_time_agrees() {
    let mut claims = claims(BINDINGS_32);
    for ioctl in &IOCTLS {
        claims.insert(ioctl.name.to_string(), ioctl.on_32_bit.into());
    }
    let compiler = std::env::var("ARM_CC").unwrap_or_else(|_| "arm-linux-gnueabihf-gcc".to_string());
    ask_compiler(&compiler, &["-D_TIME_BITS=64", "-D_FILE_OFFSET_BITS=64"], &claims);
}
