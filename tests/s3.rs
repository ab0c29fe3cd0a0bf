//! The nightly job on S3: an S3 server in the process (s3s-fs), the real binary, conditional puts for lease and commit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::{World, expect_code, stderr, stdout, summary};

const KEY: &str = "test-access-key";
const SECRET: &str = "a-secret-that-must-not-be-seen";

/// Serves `root` (a folder for each bucket) until the process ends; returns the endpoint.
fn serve(root: &Path) -> String {
    let files = s3s_fs::FileSystem::new(root).unwrap();
    let mut builder = s3s::service::S3ServiceBuilder::new(files);
    builder.set_auth(s3s::auth::SimpleAuth::from_single(KEY, SECRET));
    let service = builder.build();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service.clone());
                tokio::spawn(connection);
            }
        });
    });
    format!("http://{}", receiver.recv().unwrap())
}

/// A world whose inputs and warehouse are in a bucket.
struct Bucket {
    world: World,
    endpoint: String,
}

impl Bucket {
    fn new() -> Bucket {
        let world = World::new();
        std::fs::create_dir_all(world.path("s3/logs")).unwrap();
        std::fs::create_dir_all(world.path("s3/lake")).unwrap();
        std::fs::rename(world.path("input"), world.path("s3/logs/input")).unwrap();
        let endpoint = serve(&world.path("s3"));
        Bucket { world, endpoint }
    }

    fn command(&self, args: &[&str], secret: &str) -> Command {
        let mut command = self.world.command(args);
        command.args(["--set", "warehouse=s3://lake/curec"]);
        command.args(["--set", "input.interaction=s3://logs/input/interaction.parquet"]);
        command.args(["--set", "input.item=s3://logs/input/item.parquet"]);
        command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", secret);
        command.env("AWS_ENDPOINT_URL", &self.endpoint).env("AWS_ALLOW_HTTP", "true").env("AWS_REGION", "us-east-1");
        command
    }

    fn run(&self, secret: &str) -> Output {
        let args = ["run", "job.toml", "--interval-start", "2026-01-20", "--interval-end", "2026-01-21"];
        self.command(&args, secret).output().unwrap()
    }
}

fn says_no_secret(out: &Output) {
    let said = stdout(out) + &stderr(out);
    assert!(!said.contains(SECRET) && !said.contains("wrong-secret"), "a secret was printed: {said}");
}

#[test]
fn a_night_on_s3_publishes_the_same_rows_as_on_disk() {
    let bucket = Bucket::new();
    let out = bucket.run(SECRET);
    expect_code(&out, 0);
    says_no_secret(&out);
    assert_eq!(summary(&out)["status"], "published");
    assert!(summary(&out)["report"].as_str().unwrap().starts_with("s3://lake/curec/_runs/"), "{}", stdout(&out));

    // The same rows to the bit. The files differ in one thing: a footer names the inputs by the store's tags.
    let local = World::new();
    expect_code(&local.run(&[]), 0);
    for table in ["user_history", "item_audience", "reason_prompt", "reason_score", "item_feature", "user_feature"] {
        let query = format!("select * from {table} order by 1, 2, 3");
        let args = ["sql", "--job", "job.toml", "--format", "json", &query];
        let there = bucket.command(&args, SECRET).output().unwrap();
        expect_code(&there, 0);
        assert_eq!(stdout(&there), stdout(&local.curec(&args)), "{table}");
        assert!(!there.stdout.is_empty());
    }

    let again = bucket.run(SECRET);
    expect_code(&again, 0);
    assert_eq!(summary(&again)["status"], "nothing_to_do");

    let listed = bucket.command(&["runs", "list", "job.toml", "--json"], SECRET).output().unwrap();
    expect_code(&listed, 0);
    assert_eq!(summary(&listed)["run_id"], summary(&out)["run_id"], "{}", stdout(&listed));

    let query = ["sql", "--job", "job.toml", "--format", "csv", "select count(*) as n from item_feature"];
    let out = bucket.command(&query, SECRET).output().unwrap();
    expect_code(&out, 0);
    assert_eq!(stdout(&out), "n\n18\n");
}

#[test]
fn wrong_credentials_are_an_error_without_the_secret() {
    let bucket = Bucket::new();
    let out = bucket.run("wrong-secret");
    says_no_secret(&out);
    assert!(matches!(out.status.code(), Some(1 | 2 | 75)), "{}", stderr(&out));
    assert!(!stderr(&out).contains("panicked"), "{}", stderr(&out));
    assert!(!bucket.world.path("s3/lake/curec/item_feature").exists());
}
