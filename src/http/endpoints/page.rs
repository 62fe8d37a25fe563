//! `/` and its files. They are part of the binary, so the page works without internet access.

use crate::http::response::Response;
use crate::http::route::Route;

/// Allows files from this server only, and no inline scripts or styles. The page also shows pictures that it made
/// itself: blobs from what it fetched, and a data URL while the live picture is paused.
const POLICY: &str =
    "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

/// Responds with the file for this route. Only pages of this server and of `origins` may have it in a frame, since
/// others could lay it under something that people click on.
pub fn respond(route: Route, origins: impl Iterator<Item = String>) -> Response {
    let (content_type, bytes): (&str, &'static [u8]) = match route {
        Route::Style => ("text/css; charset=utf-8", include_bytes!("../../assets/page.css")),
        Route::Script => ("text/javascript; charset=utf-8", include_bytes!("../../assets/page.js")),
        Route::Favicon => ("image/svg+xml", include_bytes!("../../assets/favicon.svg")),
        _ => ("text/html; charset=utf-8", include_bytes!("../../assets/index.html")),
    };
    // Revalidated on every load: files from two versions of framehub do not fit together.
    let policy = origins.fold(POLICY.to_owned(), |policy, origin| policy + " " + &origin);
    Response::file(content_type, bytes).with("Cache-Control", "no-cache").with("Content-Security-Policy", policy)
}

/// Redirects from another page to ours, with the same parameters: a token may be one.
pub fn redirect(target: &str) -> Response {
    let (_, query) = target.split_once('?').unwrap_or_default();
    let location = if query.is_empty() { "/".into() } else { format!("/?{query}") };
    Response::text(302, "this page is / here").with("Location", location)
}
