//! Locations as they are written, what cannot be opened, and compare-and-swap.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::time::Instant;

use super::*;

#[test]
fn locations_say_where_they_are() {
    let local = Location::parse("/tmp/a b/../w").unwrap();
    assert_eq!(local.local_path().unwrap(), PathBuf::from("/tmp/w"));
    assert_eq!(local.child("t/dt=2026-11-21/x.parquet").to_string(), "/tmp/w/t/dt=2026-11-21/x.parquet");
    let spaced = Location::parse("/tmp/a b%/c").unwrap();
    assert_eq!(spaced.local_path().unwrap(), PathBuf::from("/tmp/a b%/c"));
    // A child's name is encoded where a store could not hold it, on disk as elsewhere.
    assert_eq!(spaced.child("50%").local_path().unwrap(), PathBuf::from("/tmp/a b%/c/50%25"));
    // In URLs too a question mark and a hash belong to the name; percent escapes are read.
    let url = Location::parse("file:///tmp/a?b#c/d%20e").unwrap();
    assert_eq!(url.local_path().unwrap(), PathBuf::from("/tmp/a?b#c/d e"));
    let marked = Location::parse("/tmp/a?b#c/50%25").unwrap();
    assert_eq!(marked.local_path().unwrap(), PathBuf::from("/tmp/a?b#c/50%25"));
    let memory = Location::parse("memory://where/w").unwrap();
    assert_eq!(memory.url(), "memory://where/w");
    assert_eq!(memory.child("a/b").relative_to(&memory).unwrap(), "a/b");
    let vars = [("AWS_REGION", "eu-west-1"), ("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "hunter2")];
    let vars = vars.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let options = StoreOptions { vars, ..StoreOptions::default() };
    let s3 = Location::parse_with("s3://bucket/pre/fix", &options).unwrap();
    assert_eq!(s3.child("a.parquet").url(), "s3://bucket/pre/fix/a.parquet");
    let marked = Location::parse_with("s3://bucket/team#1/what?x=1", &options).unwrap();
    assert_eq!(marked.path().as_ref(), "team#1/what?x=1");
    assert!(!format!("{options:?}{s3:?}").contains("hunter2"));
}

#[test]
fn what_cannot_be_opened_is_a_configuration_error() {
    for text in ["", "ftp://host/x", "s3:///nobucket"] {
        let e = Location::parse(text).unwrap_err();
        assert_eq!(e.kind(), Kind::Config, "{text}");
    }
    let e = Location::parse("s3://key:hunter2@bucket/x").unwrap_err();
    assert!(!e.explain().contains("hunter2"), "{}", e.explain());
}

fn options(vars: &[(&str, &str)]) -> StoreOptions {
    let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    StoreOptions { vars, ..StoreOptions::default() }
}

#[tokio::test]
async fn where_there_are_no_credentials_the_variables_are_named_at_once() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let started = Instant::now();
    let metadata = format!("http://{nobody}");
    let at = Location::parse_with("s3://bucket/w", &options(&[("AWS_METADATA_ENDPOINT", &metadata)])).unwrap();
    for error in [
        at.child("x").get().await.unwrap_err(),
        at.child("x").put_new(Bytes::from_static(b"1")).await.unwrap_err(),
        at.list().await.unwrap_err(),
        Location::parse_with("s3://bucket/w", &options(&[("AWS_EC2_METADATA_DISABLED", "true")])).unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::Config, "{error:?}");
        assert!(error.explain().contains("AWS_ACCESS_KEY_ID"), "{}", error.explain());
    }
    assert!(started.elapsed() < Duration::from_secs(5), "it took {:?}", started.elapsed());
}

#[test]
fn a_control_character_in_a_variable_is_refused_by_its_name() {
    let vars = [("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "hunter2\nhunter3")];
    let error = Location::parse_with("s3://bucket/w", &options(&vars)).unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.explain().contains("AWS_SECRET_ACCESS_KEY"), "{}", error.explain());
    assert!(!error.explain().contains("hunter"), "{}", error.explain());
}

async fn compare_and_swap(root: Location) {
    let at = root.child("x/_commit.json");
    assert!(at.get().await.unwrap().is_none());
    assert!(at.put_if(None, Bytes::from_static(b"1")).await.unwrap());
    assert!(!at.put_if(None, Bytes::from_static(b"2")).await.unwrap());
    let (bytes, seen) = at.get_versioned().await.unwrap().unwrap();
    assert_eq!(&bytes[..], b"1");
    assert!(at.put_if(Some(&seen), Bytes::from_static(b"22")).await.unwrap());
    assert!(!at.put_if(Some(&seen), Bytes::from_static(b"333")).await.unwrap());
    assert_eq!(at.get().await.unwrap().unwrap(), Bytes::from_static(b"22"));
    let copy = root.child("y/copy");
    at.copy_to(&copy).await.unwrap();
    assert_eq!(root.list().await.unwrap().len(), 2);
    assert_eq!(copy.digest().await.unwrap(), blake3::hash(b"22").to_hex().to_string());
    copy.delete().await.unwrap();
    copy.delete().await.unwrap();
    assert!(copy.head().await.unwrap().is_none());
    assert!(root.child("nothing here").list().await.unwrap().is_empty());
}

#[tokio::test]
async fn compare_and_swap_in_memory() {
    compare_and_swap(Location::parse("memory://cas/w").unwrap()).await;
}

#[tokio::test]
async fn compare_and_swap_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    compare_and_swap(Location::parse(folder.path().to_str().unwrap()).unwrap()).await;
}
