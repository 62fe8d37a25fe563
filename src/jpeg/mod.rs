//! Motion-JPEG frames as a camera leaves them in its buffer.
//!
//! The capture thread calls [`inspect`] on every frame, to distinguish a whole picture from a damaged one, and
//! [`Picture::append_to`] for the one copy out of the driver's buffer, which also repairs what browsers and stream
//! parsers misread. [`mean_luma`] measures how bright a picture is.
//!
//! Pure: bytes in, bytes out. It knows neither cameras nor HTTP and never decodes a picture, so damage inside the
//! entropy-coded data is noticed only where it shows as a marker. Names and section numbers are those of the JPEG
//! standard, ITU-T T.81.

pub mod encoder;
mod header;
mod luma;
mod scanner;
mod segments;

pub use self::header::{Capture, Flip, Orientation, captured_at, orientation, with_capture};
pub use self::luma::mean_luma;
pub(crate) use self::scanner::find_pair;
pub use self::scanner::{Picture, inspect, inspect_without_eoi};
pub use self::segments::Fault;
