//! S3 and SFTP, against real servers: back up, lose everything here, restore from each store.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use seaworthy_backup::{
    Action, RestoreTarget, Restored, Source, State, StoreAt, StorePlace, Verified,
};
use seaworthy_testkit::eventually;
use seaworthy_testkit::peers::{Postgres, Sshd};

use crate::platform::{Platform, take};

const ITEM: &str = "files.uploads";

/// An S3 server on a loopback port, as long as the test's process lives.
pub(crate) fn s3(folder: &Path) -> String {
    std::fs::create_dir_all(folder.join("bucket")).unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let files = s3s_fs::FileSystem::new(folder).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut service = S3ServiceBuilder::new(files);
            service.set_auth(SimpleAuth::from_single("key", "secret"));
            let service = service.build();
            socket.set_nonblocking(true).unwrap();
            let socket = tokio::net::TcpListener::from_std(socket).unwrap();
            loop {
                let (stream, _) = socket.accept().await.unwrap();
                let service = service.clone();
                tokio::spawn(async move {
                    Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await
                        .ok();
                });
            }
        });
    });
    format!("http://{address}")
}

pub(crate) fn s3_store(endpoint: &str, secret: &str) -> StoreAt {
    let place = StorePlace::S3 {
        bucket: "bucket".to_owned(),
        prefix: "a/b".to_owned(),
        endpoint: Some(endpoint.to_owned()),
        region: "us-east-1".to_owned(),
        key: Some(("key".to_owned(), secret.to_owned())),
    };
    StoreAt { name: "offsite".to_owned(), place }
}

pub(crate) fn sftp_store(sshd: &Sshd, host_key: &str) -> StoreAt {
    let place = StorePlace::Sftp {
        host: "127.0.0.1".to_owned(),
        port: sshd.port,
        user: Some(sshd.user.clone()),
        path: sshd.folder().display().to_string(),
        key: Some(sshd.key()),
        host_key: Some(host_key.to_owned()),
    };
    StoreAt { name: "nas".to_owned(), place }
}

pub(crate) fn files(platform: &Platform) -> (PathBuf, Source) {
    let root = platform.place.path().join("uploads");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::write(root.join("small"), "small").unwrap();
    // More than one piece of an upload, and nothing that compresses.
    let (mut state, mut bytes) = (1u64, Vec::with_capacity(9 << 20));
    while bytes.len() < 9 << 20 {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend(state.to_le_bytes());
    }
    std::fs::write(root.join("large"), bytes).unwrap();
    (root.clone(), Source::Files { trees: vec![("uploads".to_owned(), root)] })
}

/// Takes, damages what the store keeps, finds it, loses everything here, restores from there.
fn proves(platform: &Platform, name: &str, kept: &Path) {
    let (root, source) = files(platform);
    let taken = platform.take(ITEM, &source);
    assert_eq!((taken.stores.len(), taken.failed.len()), (2, 0), "{:?}", taken.failed);
    let large = std::fs::read(root.join("large")).unwrap();
    let copies = &platform.list(ITEM, &source).sets[0].copies;
    assert!(copies.iter().all(|(_, state)| *state == State::Verified), "{copies:?}");
    let verified: Verified = platform.run(ITEM, &source, Action::Verify { full: false, set: None });
    assert_eq!(verified.read_bytes, 0, "{verified:?}");

    // Everything here is gone, but for the keys.
    std::fs::remove_dir_all(&root).unwrap();
    std::fs::remove_dir_all(platform.state().join("records")).unwrap();
    std::fs::remove_dir_all(platform.place.path().join("store")).unwrap();
    let restore = Action::Restore {
        set: None,
        at: None,
        store: Some(name.to_owned()),
        target: RestoreTarget::InPlace,
        identity: Some(platform.owner.identity.clone()),
    };
    let restored: Restored = platform.run(ITEM, &source, restore.clone());
    assert_eq!(restored.store, name);
    assert_eq!(std::fs::read(root.join("large")).unwrap(), large);

    // One byte of what is kept there.
    let part = kept.join(format!("shop/{ITEM}/{}/files.tar.zst.age", taken.set.id));
    let mut bytes = std::fs::read(&part).unwrap();
    bytes[5 << 20] ^= 0x10;
    std::fs::write(&part, bytes).unwrap();
    let verified: Verified = platform.run(
        ITEM,
        &source,
        Action::Verify { full: true, set: Some(taken.set.id.to_string()) },
    );
    assert!(
        verified.copies.iter().any(|(_, store, read, state)| store == name
            && *read
            && matches!(state, State::Damaged(_))),
        "{verified:?}"
    );
    let fault = platform.fails(ITEM, &source, restore);
    assert!(["SW-BAK-004", "SW-BAK-001"].contains(&fault.code.as_str()), "{fault:?}");

    // What the rules no longer keep goes there, too.
    let again = platform.take(ITEM, &source);
    std::fs::remove_file(part.with_file_name("set.json")).unwrap();
    assert_eq!(
        platform
            .list(ITEM, &source)
            .sets
            .iter()
            .filter(|set| set.copies.iter().any(|(store, _)| store == name))
            .map(|set| &set.set.id)
            .collect::<Vec<_>>(),
        [&again.set.id]
    );
    platform.assert_tidy();
}

#[test]
fn a_backup_in_s3_is_read_back_found_damaged_and_restored_from_when_all_here_is_lost() {
    let mut platform = Platform::new();
    let folder = platform.place.path().join("s3");
    let endpoint = s3(&folder);
    platform.stores.push(s3_store(&endpoint, "secret"));
    proves(&platform, "offsite", &folder.join("bucket/a/b"));
}

#[test]
fn a_backup_behind_ssh_is_read_back_found_damaged_and_restored_from_when_all_here_is_lost() {
    let sshd = Sshd::start();
    let mut platform = Platform::new();
    platform.stores.push(sftp_store(&sshd, &sshd.host_key()));
    proves(&platform, "nas", &sshd.folder());
}

#[test]
fn a_store_that_is_away_or_refuses_costs_its_own_copy_only_and_the_next_run_makes_up_for_it() {
    let mut sshd = Sshd::start();
    let mut platform = Platform::new();
    let (_, source) = files(&platform);
    let folder = platform.place.path().join("s3");
    let endpoint = s3(&folder);
    platform.stores.push(s3_store(&endpoint, "expired"));
    platform.stores.push(sftp_store(
        &sshd,
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ4rMSuNDBvnpxZbEIVvlXTwUzKEJWMCXb9C5sKbqRaR",
    ));
    let first = platform.take(ITEM, &source);
    assert_eq!(first.stores, ["local"]);
    let [s3_fault, sftp_fault] = &first.failed[..] else { panic!("{:?}", first.failed) };
    assert!(s3_fault.fault.next[0].contains("check `key` and `secret`"), "{s3_fault:?}");
    assert!(
        sftp_fault.fault.to_string().contains("Host key verification failed"),
        "{sftp_fault:?}"
    );
    assert!(!format!("{:?}", first.failed).contains("expired"), "no secret in a fault");
    let report = platform.list(ITEM, &source);
    assert_eq!(report.last_run.unwrap().fault.unwrap().code.as_str(), "SW-BAK-003");

    // The server goes away while it is written to.
    platform.stores = vec![platform.stores[0].clone(), sftp_store(&sshd, &sshd.host_key())];
    let mut worker = platform.start(ITEM, &source, take());
    worker.until("in `nas`");
    sshd.stop();
    let taken: seaworthy_backup::Taken = serde_json::from_value(worker.finish().unwrap()).unwrap();
    assert!(taken.stores.contains(&"local".to_owned()));

    // All are back: everything that was missed is there as well.
    sshd.restart();
    platform.stores.push(s3_store(&endpoint, "secret"));
    let last = platform.take(ITEM, &source);
    assert_eq!(last.failed.len(), 0, "{:?}", last.failed);
    let report = platform.list(ITEM, &source);
    assert_eq!(report.sets.len(), 3);
    for set in &report.sets {
        assert_eq!(set.copies.len(), 3, "{:?}", set.copies);
        assert!(set.copies.iter().all(|(_, state)| *state == State::Verified), "{:?}", set.copies);
    }
    platform.assert_tidy();
}

/// In front of a server: what a client sends on one connection goes no further than a megabyte until it is opened.
struct Gate {
    address: String,
    open: Arc<AtomicBool>,
    held: Arc<AtomicUsize>,
}

impl Gate {
    fn before(server: &str) -> Self {
        let server = server.trim_start_matches("http://").to_owned();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let gate = Self {
            address: format!("http://{}", socket.local_addr().unwrap()),
            open: Arc::default(),
            held: Arc::default(),
        };
        let (open, held) = (Arc::clone(&gate.open), Arc::clone(&gate.held));
        std::thread::spawn(move || {
            for client in socket.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(&server).unwrap();
                let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut from, &mut to).ok());
                let (open, held) = (Arc::clone(&open), Arc::clone(&held));
                std::thread::spawn(move || forward(client, server, &open, &held));
            }
        });
        gate
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, open: &AtomicBool, held: &AtomicUsize) {
    let (mut buffer, mut passed) = (vec![0; 64 << 10], 0);
    while let Ok(got) = from.read(&mut buffer) {
        if got == 0 || to.write_all(&buffer[..got]).is_err() {
            break;
        }
        passed += got;
        if passed > 1 << 20 && !open.load(Ordering::Acquire) {
            held.fetch_add(1, Ordering::AcqRel);
            eventually("the gate opens", Duration::from_secs(60), || open.load(Ordering::Acquire));
        }
    }
    to.shutdown(std::net::Shutdown::Write).ok();
}

#[test]
fn a_slow_store_holds_neither_the_source_nor_the_copy_elsewhere() {
    let server = Postgres::start();
    server.sql("postgres", "CREATE DATABASE shop");
    server.sql(
        "shop",
        "CREATE TABLE t AS SELECT sha512(n::text::bytea) FROM generate_series(1, 60000) n",
    );
    let mut platform = Platform::new();
    let gate = Gate::before(&s3(&platform.place.path().join("s3")));
    platform.stores.push(s3_store(&gate.address, "secret"));
    let source = Source::Postgres { url: server.url("shop"), databases: None };
    let mut worker = platform.start("database.main", &source, take());
    worker.until("in `offsite`");
    eventually("the upload is held", Duration::from_secs(60), || {
        gate.held.load(Ordering::Acquire) > 0
    });
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'seaworthy%' OR application_name LIKE 'pg_dump%'";
    assert_eq!(server.sql("postgres", sessions), "0", "the database is let go");
    let report = platform.list("database.main", &source);
    assert_eq!(report.sets[0].copies, [("local".to_owned(), State::Verified)]);
    gate.open.store(true, Ordering::Release);
    let taken: seaworthy_backup::Taken = serde_json::from_value(worker.finish().unwrap()).unwrap();
    assert_eq!(taken.stores, ["local", "offsite"], "{:?}", taken.failed);
}
