//! A process that cannot outlive the process that started it.
//!
//! A small shell, the watchdog, starts the command in its own session. Then it reads a pipe whose
//! other end only the test process has. A word on the pipe requests the end of the command. An end
//! of file without a word means that the test process has ended or was killed; then the watchdog
//! also removes the folder. In both cases it kills the command's process group with SIGKILL, which
//! also ends a frozen one. The watchdog has its own process group, so a terminal's Ctrl-C does not
//! reach it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process};

use crate::error::NodeError;

/// `$1` is the log, `$2` the folder to remove (or empty), the rest is the command. The background
/// process is not a group leader, so `setsid` does not fork and `$!` is the command and its group.
const WATCHDOG: &str = r#"
log=$1 folder=$2
shift 2
setsid "$@" </dev/null >>"$log" 2>&1 &
command=$!
echo "$command"
exec >/dev/null 2>&1
read -r word || word=orphaned
kill -s KILL -- "-$command"
kill -s KILL "$command"
wait "$command"
if [ "$word" = orphaned ] && [ -n "$folder" ]; then rm -rf -- "$folder"; fi
"#;

/// The timeout for the threads of a command to stop.
const FREEZING: Duration = Duration::from_secs(5);

/// A running command, with its watchdog.
#[derive(Debug)]
pub(crate) struct Guard {
    watchdog: Child,
    command: Pid,
}

impl Guard {
    /// Starts `command` with its explicit environment only. Its output is appended to `log`.
    /// `folder` is removed if this process ends without ending the guard.
    pub(crate) fn start(
        command: &Command,
        log: &Path,
        folder: Option<&Path>,
    ) -> Result<Self, NodeError> {
        let program = command.get_program();
        let starting = || NodeError::io(format!("starting {}", Path::new(program).display()));
        let mut watchdog = Command::new("/bin/sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(log)
            .arg(folder.unwrap_or(Path::new("")))
            .arg(program)
            .args(command.get_args())
            .env_clear()
            .envs(
                command
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .current_dir(command.get_current_dir().unwrap_or(Path::new("/")))
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(starting())?;
        let mut first = String::new();
        if let Some(output) = watchdog.stdout.take() {
            BufReader::new(output)
                .read_line(&mut first)
                .map_err(starting())?;
        }
        let Some(command) = first.trim().parse().ok().and_then(Pid::from_raw) else {
            drop(watchdog.stdin.take());
            let status = watchdog.wait().map_err(starting())?;
            return Err(starting()(std::io::Error::other(format!(
                "the watchdog ended: {status}"
            ))));
        };
        Ok(Self { watchdog, command })
    }

    /// Returns the process id of the command.
    pub(crate) fn pid(&self) -> u32 {
        self.command.as_raw_nonzero().get().unsigned_abs()
    }

    /// Sends a signal to the command's process group.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), NodeError> {
        kill_process_group(self.command, signal).map_err(|errno| {
            NodeError::io(format!(
                "sending {signal:?} to process group {}",
                self.pid()
            ))(errno.into())
        })
    }

    /// Stops the command. Returns when all its threads have stopped, because SIGSTOP reaches the
    /// threads on other processors a moment later.
    pub(crate) fn freeze(&self) -> Result<(), NodeError> {
        self.signal(Signal::STOP)?;
        let deadline = Instant::now() + FREEZING;
        while !self.is_frozen() {
            if Instant::now() > deadline {
                let late = std::io::Error::from(std::io::ErrorKind::TimedOut);
                return Err(NodeError::io(format!("stopping process {}", self.pid()))(
                    late,
                ));
            }
            thread::yield_now();
        }
        Ok(())
    }

    /// Returns `true` if every thread has stopped. Without /proc, this is assumed.
    fn is_frozen(&self) -> bool {
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", self.pid())) else {
            return true;
        };
        threads.flatten().all(|thread| {
            fs::read_to_string(thread.path().join("stat")).is_ok_and(|stat| {
                stat.rsplit(')')
                    .next()
                    .is_some_and(|rest| rest.trim_start().starts_with('T'))
            })
        })
    }

    /// Returns `true` if the command still runs. An ended command is a zombie until its watchdog
    /// ends.
    pub(crate) fn is_running(&self) -> bool {
        match fs::read_to_string(format!("/proc/{}/stat", self.pid())) {
            // "pid (name) state ...", where the name may contain any characters.
            Ok(stat) => !stat
                .rsplit(')')
                .next()
                .is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])),
            Err(_) => {
                !Path::new("/proc/self/stat").exists() && test_kill_process(self.command).is_ok()
            }
        }
    }

    /// Waits until the command has ended without a signal. Returns `true` if it ended in time.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.is_running() {
            if Instant::now() >= end {
                return false;
            }
            thread::sleep(Duration::from_millis(20));
        }
        true
    }
}

impl Drop for Guard {
    /// Kills the command. Returns when it has ended.
    fn drop(&mut self) {
        if let Some(mut pipe) = self.watchdog.stdin.take() {
            // This fails only if the watchdog was killed. Then the signal below still ends the
            // command.
            if pipe.write_all(b"end\n").is_err() {
                self.signal(Signal::KILL).ok();
            }
        }
        self.watchdog.wait().ok();
    }
}
