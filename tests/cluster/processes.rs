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

/// Starts a process and waits for the line that says where it listens. What it writes temporarily lies in `tmp` of the world.
fn start(world: &World, args: &[&str], variables: &[(&str, &str)]) -> (Child, String) {
    let tmp = world.path("tmp");
    std::fs::create_dir_all(&tmp).unwrap();
    let mut command: Command = world.command(args);
    command.env("TMPDIR", &tmp).envs(variables.iter().copied());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let (_, address) = line.trim_end().split_once(" at ").unwrap_or_else(|| panic!("it does not listen: {line:?}"));
    (child, address.to_owned())
}

impl Processes {
    /// A scheduler and so many executors with one thread each.
    pub(crate) fn of(world: &World, executors: usize) -> Processes {
        let (child, scheduler) = start(world, &["cluster", "scheduler", "--bind", "127.0.0.1:0"], &[]);
        assert!(scheduler.starts_with("df://127.0.0.1:"), "the scheduler listens on {scheduler}");
        let mut processes = Processes { scheduler, children: vec![child] };
        (0..executors).for_each(|_| processes.add(world, &[], &[]));
        processes
    }

    /// Starts one more executor with one thread, with flags and variables of its own.
    pub(crate) fn add(&mut self, world: &World, more: &[&str], variables: &[(&str, &str)]) {
        let args =
            ["cluster", "executor", "--scheduler", &self.scheduler, "--threads", "1", "--memory-limit", "256 MiB"];
        let device = ["--device", "cpu"];
        let (child, address) = start(world, &[&args[..], &device, more].concat(), variables);
        assert!(address.starts_with("127.0.0.1:"), "an executor listens on {address}");
        self.children.push(child);
    }

    /// Kills one process, the scheduler being the first.
    pub(crate) fn kill(&mut self, number: usize) {
        self.children[number].kill().unwrap();
        self.children[number].wait().unwrap();
    }

    /// Waits until one process, the scheduler being the first, has ended by itself.
    pub(crate) fn wait(&mut self, number: usize) {
        wait_for("the process dies", || self.children[number].try_wait().unwrap().is_some());
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
