//! Runs each program in its own process.

use crate::work::{Kind, Work};
use crate::{Outcome, programs, queue};
use puka_benches::Sample;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The number of seconds after which a program that hangs is killed, and the whole run ends.
const LIMIT: &str = "60";

#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: String,
    path: PathBuf,
    /// The arguments before those that every program receives.
    arguments: Vec<String>,
}

impl Program {
    /// Returns the built-in programs, and those on the command line.
    pub(crate) fn all() -> Outcome<Vec<Self>> {
        let here = std::env::current_exe()?;
        let ours = programs::names().map(|name| Self {
            name: name.to_owned(),
            path: here.clone(),
            arguments: vec!["--run".to_owned(), name.to_owned()],
        });
        let others = std::env::args().skip(1).filter_map(|argument| {
            let (name, path) = argument.split_once('=')?;
            Some(Self {
                name: name.to_owned(),
                path: path.into(),
                arguments: Vec::new(),
            })
        });
        Ok(ours.chain(others).collect())
    }

    pub(crate) fn is_puka(&self) -> bool {
        self.name.starts_with("puka")
    }

    /// Returns `true` if this is another client in Rust.
    pub(crate) fn is_other_rust(&self) -> bool {
        !self.is_puka() && !self.arguments.is_empty()
    }
}

#[derive(Debug)]
pub(crate) struct Runs<'a> {
    url: &'a str,
    /// The number of runs so far.
    number: u64,
}

impl<'a> Runs<'a> {
    pub(crate) fn new(url: &'a str) -> Self {
        Self { url, number: 0 }
    }

    pub(crate) fn run(&mut self, program: &Program, work: Work, messages: u64) -> Outcome<Sample> {
        self.number += 1;
        let queue = format!("puka-benches-others-{}-{}", std::process::id(), self.number);
        if matches!(work.kind, Kind::Consume | Kind::Ack) {
            queue::fill(self.url, &queue, work, messages)?;
        }
        let output = Command::new("timeout")
            .arg(LIMIT)
            .arg(&program.path)
            .args(&program.arguments)
            .args([
                work.kind.to_string(),
                work.size.to_string(),
                messages.to_string(),
                queue,
            ])
            .env("AMQP_URL", self.url)
            .stderr(Stdio::inherit())
            .output()?;
        let failed = || format!("{}, {work}: {}", program.name, output.status);
        if !output.status.success() {
            return Err(failed().into());
        }
        let line = String::from_utf8(output.stdout)?;
        let (time, cpu) = line.trim().split_once(' ').ok_or_else(failed)?;
        let time = Duration::from_nanos(time.parse()?);
        let cpu = Duration::from_nanos(cpu.parse()?);
        Ok(Sample {
            messages,
            time,
            cpu,
        })
    }
}
