//! The files of the page, in the program itself: nothing is loaded from elsewhere.

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";

/// Name, type, content.
const ASSETS: [(&str, &str, &[u8]); 5] = [
    ("app.js", JAVASCRIPT, include_bytes!("../../assets/app.js")),
    ("app.css", CSS, include_bytes!("../../assets/app.css")),
    ("icon.svg", "image/svg+xml", include_bytes!("../../assets/icon.svg")),
    ("uplot.js", JAVASCRIPT, include_bytes!("../../assets/vendor/uPlot.iife.min.js")),
    ("uplot.css", CSS, include_bytes!("../../assets/vendor/uPlot.min.css")),
];

pub(super) async fn index() -> Response {
    let page = include_str!("../../assets/index.html");
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")], page)
        .into_response()
}

pub(super) async fn asset(Path(name): Path<String>) -> Response {
    match ASSETS.iter().find(|(known, ..)| *known == name) {
        Some((_, kind, content)) => {
            ([(header::CONTENT_TYPE, *kind), (header::CACHE_CONTROL, "no-cache")], *content).into_response()
        }
        None => (StatusCode::NOT_FOUND, "there is no such file\n").into_response(),
    }
}
