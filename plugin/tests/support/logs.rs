//! What the plugin writes to stderr, each line checked the way SPIRE Server reads it.

use std::sync::{Arc, Mutex};

use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::task::JoinHandle;

use super::{eventually, until};

/// One line.
pub type Line = Map<String, Value>;

/// All lines so far.
#[derive(Clone, Default)]
pub struct Logs(Arc<Mutex<Vec<Line>>>);

impl Logs {
    /// Reads until the end of the pipe. A line that SPIRE would not take as hclog fails the task, and the test with it.
    pub fn read(&self, pipe: impl AsyncRead + Send + Unpin + 'static) -> JoinHandle<()> {
        let lines = self.0.clone();
        tokio::spawn(async move {
            let mut pipe = BufReader::new(pipe).lines();
            while let Some(text) = pipe.next_line().await.unwrap() {
                if std::env::var_os("SHOW_PLUGIN_LOG").is_some() {
                    eprintln!("{text}");
                }
                lines.lock().unwrap().push(checked(&text));
            }
        })
    }

    pub fn all(&self) -> Vec<Line> {
        self.0.lock().unwrap().clone()
    }

    pub fn with_message(&self, message: &str) -> Vec<Line> {
        self.all().into_iter().filter(|line| line["@message"] == message).collect()
    }

    pub async fn wait_for(&self, message: &str) -> Line {
        eventually(&format!("log line {message:?}"), || self.with_message(message).pop()).await
    }

    pub async fn wait_for_level(&self, level: &str, message: &str) -> Line {
        let found = || self.with_message(message).into_iter().find(|line| line["@level"] == level);
        eventually(&format!("{level} line {message:?}"), found).await
    }

    pub async fn wait_for_count(&self, message: &str, count: usize) {
        until(&format!("{count} log lines {message:?}"), || self.with_message(message).len() >= count).await;
    }
}

fn checked(text: &str) -> Line {
    assert!(text.len() < 65_536, "SPIRE would cut this line: {text:.200}");
    let line: Line = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    for key in ["@level", "@message", "@timestamp"] {
        assert!(line.get(key).is_some_and(Value::is_string), "SPIRE would die of {text}");
    }
    let stamp = line["@timestamp"].as_str().unwrap();
    assert_eq!((stamp.len(), stamp.as_bytes()[19]), (27, b'.'), "SPIRE would show this raw: {text}");
    assert!(
        ["trace", "debug", "info", "warn", "error"].contains(&line["@level"].as_str().unwrap()),
        "{text}"
    );
    assert_ne!(line["@message"], "plugin panicked", "{text}");
    line
}
