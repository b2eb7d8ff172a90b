//! The admin listener: `/live`, `/ready`, `/metrics`, `/status`. What it says is put together in `view`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use tracing::error;

use crate::metrics;

mod trouble;
mod view;

pub(crate) use view::{View, bundle_summary};

/// All routes.
pub(crate) fn routes(view: Arc<View>) -> Router {
    Router::new()
        .route("/live", get(|| async { "ok\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics_text))
        .route("/status", get(status))
        .with_state(view)
}

async fn ready(State(view): State<Arc<View>>) -> Response {
    let readiness = view.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

async fn metrics_text(State(view): State<Arc<View>>) -> Response {
    match view.metrics_text() {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            error!(%error, "metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn status(State(view): State<Arc<View>>) -> Response {
    Json(view.status()).into_response()
}
