//! The nodes themselves: they start, end, restart, and leave no processes or files.

use std::error::Error;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use puka_test_rabbitmq::{Node, shared_node, shared_url, unique};

type Outcome = Result<(), Box<dyn Error>>;

/// Returns the beginning of the reply to a protocol header: the frame header, class and method.
fn greeting(port: u16) -> std::io::Result<[u8; 11]> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"AMQP\x00\x00\x09\x01")?;
    let mut answer = [0; 11];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn greets(port: u16) -> bool {
    matches!(greeting(port), Ok([1, 0, 0, .., 0, 10, 0, 10]))
}

/// Returns `true` if the process runs. A zombie does not.
fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn soon(condition: impl Fn() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() && Instant::now() < end {
        thread::sleep(Duration::from_millis(20));
    }
    condition()
}

#[test]
fn dropped_node_leaves_no_process_or_folder() -> Outcome {
    let node = Node::start()?;
    assert!(greets(node.port()), "{:?}", greeting(node.port()));
    let (folder, processes) = (node.folder().to_path_buf(), node.processes());
    assert_eq!(processes.len(), 2);
    assert!(folder.is_dir() && processes.iter().all(|&pid| runs(pid)));
    drop(node);
    assert!(!folder.exists());
    assert!(!processes.iter().any(|&pid| runs(pid)));
    Ok(())
}

#[test]
fn killed_node_restarts_with_its_port_and_data() -> Outcome {
    let node = Node::start()?;
    let port = node.port();
    node.add_vhost("kept")?;
    node.kill();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    assert!(node.freeze().is_err());
    node.start_again()?;
    assert_eq!(node.port(), port);
    assert!(greets(port));
    assert_eq!(node.list_queues_in("kept")?, []);
    Ok(())
}

#[test]
fn frozen_node_accepts_connections_but_stays_silent() -> Outcome {
    let node = Node::start()?;
    node.freeze()?;
    assert!(greeting(node.port()).is_err());
    node.thaw()?;
    assert!(soon(|| greets(node.port())));
    node.freeze()?;
    let processes = node.processes();
    drop(node);
    assert!(!processes.iter().any(|&pid| runs(pid)));
    Ok(())
}

#[test]
fn second_node_can_join_the_first() -> Outcome {
    let first = Node::start()?;
    let second = Node::builder()
        .join_cluster(&first)
        .config("heartbeat = 7")
        .start()?;
    assert_ne!(first.port(), second.port());
    assert!(greets(first.port()) && greets(second.port()));
    let status = first.ctl(&["cluster_status"])?;
    assert!(
        status.contains(first.name()) && status.contains(second.name()),
        "{status}"
    );
    first.shut_down()?;
    assert!(greets(second.port()));
    Ok(())
}

#[test]
fn shared_node_executes_commands() -> Outcome {
    let node = shared_node()?;
    assert!(shared_url()?.starts_with("amqp://"));
    assert_ne!(unique("orders"), unique("orders"));
    assert_eq!(node.list_channels()?, []);
    let definitions = node.folder().join("definitions.json");
    std::fs::write(
        &definitions,
        r#"{"queues": [{"vhost": "/", "name": "tab\tq", "durable": true,
            "auto_delete": false, "arguments": {}}]}"#,
    )?;
    node.ctl(&["import_definitions", definitions.to_str().ok_or("folder")?])?;
    let queues = node.list_queues()?;
    assert!(
        matches!(&queues[..], [queue] if queue.name == "tab\tq" && queue.messages == 0),
        "{queues:?}"
    );

    let mut stream = TcpStream::connect(("127.0.0.1", node.port()))?;
    stream.write_all(b"AMQP\x00\x00\x09\x01")?;
    let port = stream.local_addr()?.port();
    let connections = node.list_connections()?;
    assert!(
        connections
            .iter()
            .any(|connection| connection.peer_port == port),
        "{connections:?}"
    );
    node.close_connection(port, "enough")?;
    // The stream ends, with or without a reset.
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let end = stream.read_to_end(&mut Vec::new());
    assert!(!end.is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
    assert!(node.close_connection(port, "enough").is_err());
    node.close_all_connections("none left")?;

    node.add_user("u", "secret")?;
    node.set_permissions("/", "u", ".*", "", "^a$")?;
    assert!(node.ctl(&["list_permissions"])?.contains("u\t.*\t\t^a$"));
    node.clear_permissions("/", "u")?;
    node.delete_user("u")?;
    // RabbitMQ 4 also deletes a user that does not exist.
    assert!(node.set_permissions("/", "u", "", "", "").is_err());
    node.set_memory_alarm(true)?;
    assert!(node.ctl(&["status"])?.contains("Memory alarm on node"));
    node.set_memory_alarm(false)?;
    assert!(!node.ctl(&["status"])?.contains("Memory alarm on node"));
    Ok(())
}

#[test]
fn failed_node_start_reports_its_reason() {
    let error = Node::builder()
        .config("no_such_setting = 1")
        .start()
        .map(drop)
        .map_err(|error| error.to_string());
    assert!(
        error
            .as_ref()
            .is_err_and(|error| error.contains("no_such_setting")),
        "{error:?}"
    );
}

#[test]
fn node_ends_when_its_process_is_killed() -> Outcome {
    let folder = tempfile::tempdir()?;
    let mut holder = Command::new(env!("CARGO_BIN_EXE_with-rabbitmq"))
        .args(["sh", "-c", "echo $PUKA_TEST_RABBITMQ_URL; exec sleep 5"])
        .env("TMPDIR", folder.path())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut url = String::new();
    BufReader::new(holder.stdout.take().ok_or("no output")?).read_line(&mut url)?;
    let port = url
        .trim_end()
        .trim_end_matches('/')
        .rsplit(':')
        .next()
        .ok_or("no port")?
        .parse()?;
    assert!(greets(port), "{url}");
    let descendants = descendants(holder.id())?;
    let watched = || {
        descendants
            .iter()
            .filter(|(_, name)| name != "sleep")
            .any(|&(pid, _)| runs(pid))
    };
    assert!(
        descendants.iter().any(|(_, name)| name == "beam.smp") && watched(),
        "{descendants:?}"
    );
    holder.kill()?;
    holder.wait()?;
    assert!(soon(|| !watched()), "{descendants:?}");
    assert!(soon(
        || std::fs::read_dir(folder.path()).is_ok_and(|mut left| left.next().is_none())
    ));
    Ok(())
}

/// Returns the descendants of this process, with their names.
fn descendants(root: u32) -> Result<Vec<(u32, String)>, Box<dyn Error>> {
    let mut processes = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        // "pid (name) state parent ..."
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let (Some((pid, rest)), Some((_, fields))) =
            (stat.split_once(" ("), stat.rsplit_once(") "))
        else {
            continue;
        };
        let name = rest.rsplit_once(") ").map_or("", |(name, _)| name);
        let parent = fields.split(' ').nth(1).unwrap_or_default();
        processes.push((pid.parse::<u32>()?, parent.parse::<u32>()?, name.to_owned()));
    }
    let mut found = vec![(root, String::new())];
    let mut next = 0;
    while let Some(&(parent, _)) = found.get(next) {
        found.extend(
            processes
                .iter()
                .filter(|process| process.1 == parent)
                .map(|(pid, _, name)| (*pid, name.clone())),
        );
        next += 1;
    }
    found.remove(0);
    Ok(found)
}
