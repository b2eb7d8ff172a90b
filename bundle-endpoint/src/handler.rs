//! One request to a public listener to its answer: `GET /` and `HEAD /` are the document, everything else is its status.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, RETRY_AFTER,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;

use crate::metrics::Metrics;
use crate::published::{Published, PublishedWatch};

/// Answers requests; cheap to share.
#[derive(Debug)]
pub(crate) struct BundleHandler {
    published: PublishedWatch,
    metrics: Arc<Metrics>,
    last_served: AtomicU64,
}

impl BundleHandler {
    pub(crate) fn new(published: PublishedWatch, metrics: Arc<Metrics>) -> Self {
        Self { published, metrics, last_served: AtomicU64::new(0) }
    }

    /// When the document was last asked for, Unix seconds.
    pub(crate) fn last_served(&self) -> Option<u64> {
        Some(self.last_served.load(Ordering::Relaxed)).filter(|seconds| *seconds != 0)
    }

    /// The answer to one request; the body of a request is never read.
    pub(crate) fn respond<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let response = self.choose(request);
        self.metrics.request(response.status().as_u16());
        response
    }

    fn choose<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let head = request.method() == Method::HEAD;
        if request.method() != Method::GET && !head {
            let mut response =
                text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here\n", false);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        if request.uri().path() != "/" {
            return text(StatusCode::NOT_FOUND, "the bundle is at /\n", head);
        }
        let Some(published) = self.published.borrow().clone() else {
            // An empty `keys` would revoke every key of this trust domain (TDB 4.1.3); a 503 leaves peers what they hold.
            let reason = "no bundle yet: the plugin of the SPIRE Server has not sent one\n";
            let mut response = text(StatusCode::SERVICE_UNAVAILABLE, reason, head);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
            return response;
        };
        self.last_served.store(crate::time::unix_now().as_secs(), Ordering::Relaxed);
        if request.headers().get_all(IF_NONE_MATCH).iter().any(|tags| published.matches(tags)) {
            return document(&published, StatusCode::NOT_MODIFIED, true);
        }
        document(&published, StatusCode::OK, head)
    }
}

fn document(published: &Published, status: StatusCode, without_body: bool) -> Response<Full<Bytes>> {
    let body = if without_body { Bytes::new() } else { published.body.clone() };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(ETAG, published.etag.clone());
    headers.insert(CACHE_CONTROL, published.cache_control.clone());
    if status == StatusCode::OK {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, published.body.len().into());
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    response
}

fn text(status: StatusCode, text: &'static str, without_body: bool) -> Response<Full<Bytes>> {
    let body = if without_body { Bytes::new() } else { Bytes::from_static(text.as_bytes()) };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CONTENT_LENGTH, text.len().into());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use entente_bundle::{Bundle, TrustDomain};
    use http_body_util::BodyExt;
    use tokio::sync::watch;

    use super::*;

    fn handler(with_bundle: bool) -> BundleHandler {
        let domain = TrustDomain::new("a.test").unwrap();
        let bundle = Bundle::new(domain, vec![], vec![], Some(1), None);
        let published =
            with_bundle.then(|| Arc::new(Published::new(Arc::new(bundle), SystemTime::UNIX_EPOCH)));
        BundleHandler::new(watch::channel(published).1, Arc::new(Metrics::new()))
    }

    fn ask(handler: &BundleHandler, method: Method, uri: &str) -> Response<Full<Bytes>> {
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = uri.parse().unwrap();
        handler.respond(&request)
    }

    async fn body(response: Response<Full<Bytes>>) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn before_the_first_bundle_the_answer_is_503_and_never_an_empty_document() {
        let response = ask(&handler(false), Method::GET, "/");
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key(RETRY_AFTER));
        let text = body(response).await;
        assert!(text.contains("no bundle yet") && !text.contains("keys"));
    }

    #[test]
    fn other_methods_are_405_with_what_is_allowed_and_other_paths_404() {
        let handler = handler(true);
        for method in [Method::POST, Method::OPTIONS, Method::PUT, Method::DELETE, Method::CONNECT] {
            let response = ask(&handler, method, "/");
            assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(response.headers()[ALLOW], "GET, HEAD");
        }
        for path in ["/foo", "//", "/.", "/%2e"] {
            assert_eq!(ask(&handler, Method::GET, path).status(), StatusCode::NOT_FOUND, "{path}");
        }
    }

    #[tokio::test]
    async fn get_and_head_say_the_same_but_for_the_body() {
        let handler = handler(true);
        let get = ask(&handler, Method::GET, "/?ignored=1");
        let head = ask(&handler, Method::HEAD, "/");
        assert_eq!((get.status(), head.status()), (StatusCode::OK, StatusCode::OK));
        assert_eq!(get.headers(), head.headers());
        assert_eq!(get.headers()[CONTENT_TYPE], "application/json");
        let length: usize = get.headers()[CONTENT_LENGTH].to_str().unwrap().parse().unwrap();
        assert_eq!(body(get).await.len(), length);
        assert!(body(head).await.is_empty());
    }

    #[tokio::test]
    async fn a_known_tag_is_answered_304_without_a_body() {
        let handler = handler(true);
        let tag = ask(&handler, Method::GET, "/").headers()[ETAG].clone();
        let request = Request::builder().uri("/").header(IF_NONE_MATCH, tag).body(()).unwrap();
        let response = handler.respond(&request);
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
        assert!(body(response).await.is_empty());
    }
}
