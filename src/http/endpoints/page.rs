//! `/` and the files that belong to it, all part of the program: the page works without internet.

use crate::http::response::Response;
use crate::http::route::Route;

/// Nothing from elsewhere, and nothing written into the page. The page makes pictures of its own: blobs of what it
/// fetched, and data when it holds the live picture.
const POLICY: &str = "default-src 'self'; img-src 'self' blob: data:";

/// The file of this route.
pub fn respond(route: Route) -> Response {
    let (content_type, bytes): (&str, &'static [u8]) = match route {
        Route::Style => ("text/css; charset=utf-8", include_bytes!("../../assets/page.css")),
        Route::Script => ("text/javascript; charset=utf-8", include_bytes!("../../assets/page.js")),
        Route::Favicon => ("image/svg+xml", include_bytes!("../../assets/favicon.svg")),
        _ => ("text/html; charset=utf-8", include_bytes!("../../assets/index.html")),
    };
    // Asked for again each time: files of two versions would not go together.
    Response::file(content_type, bytes).with("Cache-Control", "no-cache").with("Content-Security-Policy", POLICY)
}
