//! A build in a process group of its own: when the lab ends before it, compilers and all end with it.

use std::io;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

/// A running build. Dropping it before it has ended kills the whole group.
#[derive(Debug)]
pub struct BuildGroup {
    /// The build's own process, for its output and its end.
    pub child: Child,
}

impl BuildGroup {
    /// Starts `command` as the first process of a new group: Ctrl-C in the terminal reaches the lab alone, which then ends it.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        command.process_group(0).kill_on_drop(true).spawn().map(|child| Self { child })
    }
}

impl Drop for BuildGroup {
    fn drop(&mut self) {
        // Nothing once its end was seen; until then nobody else can have got its number.
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(group) = pid {
            // Gone already is as good.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;
    use std::time::Duration;

    use tokio::io::AsyncReadExt;

    use super::*;

    // A compiler that lives on would hold the pipe open, as it would hold cargo's lock.
    #[tokio::test]
    async fn what_the_build_started_ends_with_it() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & sleep 600"]).stdout(Stdio::piped());
        let mut group = BuildGroup::start(&mut command).unwrap();
        let mut output = group.child.stdout.take().unwrap();
        drop(group);
        let mut printed = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(60), output.read_to_end(&mut printed)).await;
        assert_eq!(ended.expect("both sleepers end").unwrap(), 0);
    }
}
