//! A process that can't outlive the one that started it.
//!
//! A small shell, the watchdog, starts the command in a session of its own and then reads a pipe
//! whose other end only the test process has. A word on the pipe means: end the command. End of
//! file without a word means that the test process is gone, killed perhaps; then the watchdog also
//! removes the folder. Either way it kills the command's whole process group, with SIGKILL, so a
//! frozen one ends too. The watchdog is in a process group of its own, where a terminal's Ctrl-C
//! does not reach it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process};

use crate::error::NodeError;

/// `$1` is the log, `$2` the folder to remove (or nothing), the rest is the command. The background
/// process is no group leader, so `setsid` does not fork and `$!` is the command and its group.
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

/// How long the threads of a command may take to stop.
const FREEZING: Duration = Duration::from_secs(5);

/// A running command, with its watchdog.
#[derive(Debug)]
pub(crate) struct Guard {
    watchdog: Child,
    command: Pid,
}

impl Guard {
    /// Starts `command`, with only the environment it names. What it prints is appended to `log`.
    /// `folder` is removed if this process goes away without ending the guard.
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

    /// The process id of the command.
    pub(crate) fn pid(&self) -> u32 {
        self.command.as_raw_nonzero().get().unsigned_abs()
    }

    /// Sends a signal to the command and all of its group.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), NodeError> {
        kill_process_group(self.command, signal).map_err(|errno| {
            NodeError::io(format!(
                "sending {signal:?} to process group {}",
                self.pid()
            ))(errno.into())
        })
    }

    /// Stops the command and returns when none of its threads runs any more: SIGSTOP reaches those
    /// that are on another processor a moment later.
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

    /// Whether every thread has stopped; taken for granted where there is no /proc.
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

    /// Whether the command still runs. One that ended stays a zombie until its watchdog ends.
    pub(crate) fn is_running(&self) -> bool {
        match fs::read_to_string(format!("/proc/{}/stat", self.pid())) {
            // "pid (name) state ...", where the name may hold anything
            Ok(stat) => !stat
                .rsplit(')')
                .next()
                .is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])),
            Err(_) => {
                !Path::new("/proc/self/stat").exists() && test_kill_process(self.command).is_ok()
            }
        }
    }

    /// Waits until the command has ended by itself; whether it did in time.
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
    /// Kills the command and returns when it is gone.
    fn drop(&mut self) {
        if let Some(mut pipe) = self.watchdog.stdin.take() {
            // Fails only when somebody killed the watchdog; then the signal below still ends the
            // command.
            if pipe.write_all(b"end\n").is_err() {
                self.signal(Signal::KILL).ok();
            }
        }
        self.watchdog.wait().ok();
    }
}
