//! The last word to somebody who is turned away.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// For them to read why.
const TIMEOUT: Duration = Duration::from_secs(1);

/// So much of what they say is still read.
const UNREAD_BYTES: u64 = 256 << 10;

/// Says `word`, which may be nothing where TLS has said why, and closes. Closing with unread bytes would reset the connection
/// and could take the last word with it; a client of TLS 1.3 has sent its first bytes by then. So they are read.
pub(crate) async fn say_farewell(mut stream: impl AsyncRead + AsyncWrite + Unpin, word: &[u8]) {
    let farewell = async {
        stream.write_all(word).await?;
        stream.shutdown().await?;
        let mut unread = stream.take(UNREAD_BYTES);
        tokio::io::copy(&mut unread, &mut tokio::io::sink()).await?;
        Ok::<_, io::Error>(())
    };
    // Whoever cannot wait for it does not get it.
    let _ = timeout(TIMEOUT, farewell).await;
}
