//! A scheduler and executors as processes.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::common::World;
use crate::night::{signal, wait_for};

/// The processes of a cluster; they end with it.
pub(crate) struct Processes {
    /// The scheduler's address, `df://127.0.0.1:port`.
    pub scheduler: String,
    children: Vec<Child>,
}

/// Starts a process and waits for the line that says where it listens.
fn start(mut command: Command) -> (Child, String) {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let (_, address) = line.trim_end().split_once(" at ").unwrap_or_else(|| panic!("it does not listen: {line:?}"));
    (child, address.to_owned())
}

impl Processes {
    /// A scheduler and so many executors with one thread each. What they write temporarily lies in `tmp` of the world.
    pub(crate) fn of(world: &World, executors: usize) -> Processes {
        let tmp = world.path("tmp");
        std::fs::create_dir_all(&tmp).unwrap();
        let command = |args: &[&str]| {
            let mut command = world.command(args);
            command.env("TMPDIR", &tmp);
            command
        };
        let (child, scheduler) = start(command(&["cluster", "scheduler", "--bind", "127.0.0.1:0"]));
        let mut children = vec![child];
        for _ in 0..executors {
            let args =
                ["cluster", "executor", "--scheduler", &scheduler, "--threads", "1", "--memory-limit", "256 MiB"];
            let (child, address) = start(command(&args));
            assert!(address.starts_with("127.0.0.1:"), "an executor listens on {address}");
            children.push(child);
        }
        assert!(scheduler.starts_with("df://127.0.0.1:"), "the scheduler listens on {scheduler}");
        Processes { scheduler, children }
    }

    /// Kills one process, the scheduler being the first.
    pub(crate) fn kill(&mut self, number: usize) {
        self.children[number].kill().unwrap();
        self.children[number].wait().unwrap();
    }

    /// Ends one process, the scheduler being the first, as an operator does; returns its exit code.
    pub(crate) fn stop(&mut self, number: usize) -> Option<i32> {
        let child = &mut self.children[number];
        signal(child, "-TERM");
        let mut code = None;
        wait_for("the process ends", || {
            code = child.try_wait().unwrap();
            code.is_some()
        });
        code.unwrap().code()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
