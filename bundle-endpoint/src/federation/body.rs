//! Reads an answer: at most so many bytes, as they come and after inflating.

use std::io::Read;

use entente_bundle::text::printable;
use flate2::read::MultiGzDecoder;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes};

use super::error::FetchError;

/// The only encoding that is asked for, as SPIRE's own client does.
const GZIP: &str = "gzip";

/// The whole body, inflated.
pub(crate) async fn read<B>(headers: &HeaderMap, body: B, limit: usize) -> Result<Vec<u8>, FetchError>
where
    B: Body<Data = Bytes, Error = hyper::Error>,
{
    let gzip = is_gzip(headers)?;
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(FetchError::TooLarge { limit });
    }
    let raw = collect(body, limit).await?;
    if gzip { inflate(&raw, limit) } else { Ok(raw) }
}

/// The first bytes of an answer that is not a bundle, for the error.
pub(crate) async fn start<B>(body: B) -> String
where
    B: Body<Data = Bytes, Error = hyper::Error>,
{
    const SHOWN: usize = 200;
    let mut body = std::pin::pin!(body);
    let mut text = Vec::new();
    while text.len() < SHOWN {
        match body.frame().await {
            Some(Ok(frame)) => text.extend(frame.into_data().unwrap_or_default()),
            Some(Err(_)) | None => break,
        }
    }
    printable(String::from_utf8_lossy(&text).trim(), SHOWN)
}

fn is_gzip(headers: &HeaderMap) -> Result<bool, FetchError> {
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    let refused = |value: &http::HeaderValue| FetchError::Encoding {
        encoding: printable(&String::from_utf8_lossy(value.as_bytes()), 50),
    };
    let Some(value) = encodings.next() else {
        return Ok(false);
    };
    if let Some(second) = encodings.next() {
        return Err(refused(second));
    }
    match value.to_str() {
        Ok(name) if name.eq_ignore_ascii_case(GZIP) => Ok(true),
        Ok(name) if name.eq_ignore_ascii_case("identity") => Ok(false),
        _ => Err(refused(value)),
    }
}

async fn collect<B>(body: B, limit: usize) -> Result<Vec<u8>, FetchError>
where
    B: Body<Data = Bytes, Error = hyper::Error>,
{
    let mut body = std::pin::pin!(body);
    let mut raw = Vec::new();
    while let Some(frame) = body.frame().await {
        let data = frame?.into_data().unwrap_or_default();
        if raw.len() + data.len() > limit {
            return Err(FetchError::TooLarge { limit });
        }
        raw.extend_from_slice(&data);
    }
    Ok(raw)
}

fn inflate(raw: &[u8], limit: usize) -> Result<Vec<u8>, FetchError> {
    let mut inflated = Vec::new();
    // One byte more than allowed tells that there is more, however much it is.
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    MultiGzDecoder::new(raw)
        .take(bound)
        .read_to_end(&mut inflated)
        .map_err(|source| FetchError::Inflate { source })?;
    if inflated.len() > limit {
        return Err(FetchError::TooLarge { limit });
    }
    Ok(inflated)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http::HeaderValue;

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_bomb_is_cut_at_the_limit() {
        let bomb = gzip(&vec![0; 64 << 20]);
        assert!(bomb.len() < 100_000);
        assert!(matches!(inflate(&bomb, 1 << 20), Err(FetchError::TooLarge { limit: 1_048_576 })));
    }

    #[test]
    fn what_fits_is_inflated_and_what_is_broken_is_refused() {
        let whole = gzip(b"{\"keys\":[]}");
        assert_eq!(inflate(&whole, 11).unwrap(), b"{\"keys\":[]}");
        assert!(matches!(inflate(&whole, 10), Err(FetchError::TooLarge { .. })));
        assert!(matches!(inflate(&whole[..whole.len() - 4], 100), Err(FetchError::Inflate { .. })));
        assert!(matches!(inflate(b"plain", 100), Err(FetchError::Inflate { .. })));
    }

    #[test]
    fn only_the_encoding_that_was_asked_for_is_taken() {
        let mut headers = HeaderMap::new();
        assert!(!is_gzip(&headers).unwrap());
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert!(is_gzip(&headers).unwrap());
        headers.append(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert!(matches!(is_gzip(&headers), Err(FetchError::Encoding { .. })));
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("br"));
        assert!(matches!(is_gzip(&headers), Err(FetchError::Encoding { .. })));
    }
}
