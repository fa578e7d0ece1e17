//! S3, or what speaks like it.
//!
//! Parts go up in pieces (an upload that is cut off leaves nothing that can be read), the document last: objects
//! without it are no set. Requests are repeated by the client library; an object that breaks off is read on from there.
//! Invariants: pieces in memory have [`MEMORY`] bytes together, or there is one (S3 takes ten thousand pieces: those of
//! more than 300 GB are larger); nobody waits for a server that moves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path as Key;
use object_store::{
    ClientOptions, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload,
    RetryConfig, WriteMultipart,
};
use seaworthy_base::{Code, Fault};
use tokio::runtime::Runtime;

use super::{STALL, Stamp, Store};
use crate::model::StorePlace;
use crate::set::{DOCUMENT, Set, SetId};
use crate::work::Work;

/// Bytes of a piece; S3 takes ten thousand of them, which makes 80 GB.
const PIECE: usize = 8 << 20;
/// Larger pieces for what would be more than ten thousand.
const MOST_PIECES: u64 = 9000;
/// Pieces under way at a time, besides the one that is read.
const SIDE_BY_SIDE: usize = 2;
/// What all of them may take.
const MEMORY: usize = 32 << 20;
/// One piece, over a slow line.
const REQUEST: Duration = Duration::from_secs(10 * 60);
/// An object that breaks off is asked for the rest so often, unless some of it came meanwhile.
const AGAIN: u32 = 3;
/// What an upload that was cut off left is removed after this time; a younger one may be somebody's that runs.
const ABANDONED: Duration = Duration::from_secs(86_400);

/// A bucket.
pub(crate) struct S3 {
    name: String,
    shown: String,
    prefix: Key,
    /// For all but what is written: answers come soon, and content as it comes, however long it takes.
    client: AmazonS3,
    /// For what is written: nothing comes back before all of it is there.
    writer: AmazonS3,
    runtime: Rc<Runtime>,
}

impl S3 {
    /// Nothing is connected yet.
    pub(crate) fn new(
        name: &str,
        place: &StorePlace,
        site: &str,
        item: &str,
        work: &Work,
    ) -> Result<Self, Fault> {
        let StorePlace::S3 { bucket, prefix, endpoint, region, key } = place else {
            return Err(Fault::new(Code::Internal, "this store is no S3"));
        };
        let plain = endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        let options = ClientOptions::new()
            .with_connect_timeout(Duration::from_secs(20))
            .with_allow_http(plain);
        let retry = RetryConfig {
            max_retries: 4,
            retry_timeout: Duration::from_secs(120),
            ..RetryConfig::default()
        };
        let mut builder = match key {
            Some((key, secret)) => {
                AmazonS3Builder::new().with_access_key_id(key).with_secret_access_key(secret)
            }
            None => AmazonS3Builder::from_env(),
        };
        builder = builder.with_bucket_name(bucket).with_region(region).with_retry(retry);
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let build = |options| builder.clone().with_client_options(options).build();
        let client =
            build(options.clone().with_timeout_disabled().with_read_timeout(work.patience(STALL)));
        let writer = build(options.with_timeout(work.patience(REQUEST)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let failed = |error: &dyn std::error::Error| {
            Fault::new(Code::BackupStore, format!("store `{name}` cannot be used"))
                .because_of(error)
        };
        Ok(Self {
            name: name.to_owned(),
            shown: format!("s3://{bucket}/{prefix}"),
            prefix: Key::from(format!("{prefix}/{site}/{item}")),
            client: client.map_err(|error| failed(&error))?,
            writer: writer.map_err(|error| failed(&error))?,
            runtime: Rc::new(runtime.map_err(|error| failed(&error))?),
        })
    }

    fn key(&self, id: &SetId, file: &str) -> Key {
        self.prefix.clone().join(id.as_str()).join(file)
    }

    fn fault(&self, what: &str, error: &object_store::Error) -> Fault {
        // The library repeats the whole answer in each link of the chain.
        let text = error.to_string();
        let cause: String = text.lines().next().unwrap_or_default().chars().take(400).collect();
        let fault = Fault::new(
            Code::BackupStore,
            format!("store `{}` ({}): {what}", self.name, self.shown),
        )
        .because(cause);
        // Servers answer with 403 to a wrong signature, and to a right one that may not.
        let denied = text.contains(" 403 ") || text.contains(" 401 ");
        if denied {
            return fault.next("check `key` and `secret` of the store, and what they may do: list, read, write and delete objects");
        }
        fault.next("check the store's `url`, `region` and `endpoint`, then: seaworthy backup list")
    }

    /// All objects of the item, by id.
    fn objects(&self) -> Result<BTreeMap<SetId, Vec<ObjectMeta>>, Fault> {
        let listed: Vec<Result<ObjectMeta, object_store::Error>> =
            self.runtime.block_on(self.client.list(Some(&self.prefix)).collect());
        let mut all: BTreeMap<SetId, Vec<ObjectMeta>> = BTreeMap::new();
        for meta in listed {
            let meta = meta.map_err(|error| self.fault("it cannot be listed", &error))?;
            let id = meta.location.parts().rev().nth(1).and_then(|part| part.as_ref().parse().ok());
            if let Some(id) = id {
                all.entry(id).or_default().push(meta);
            }
        }
        Ok(all)
    }

    async fn upload(
        &self,
        from: &std::path::Path,
        to: &Key,
        moved: &mut dyn FnMut(u64),
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut file = File::open(from)?;
        let size = file.metadata()?.len();
        let piece = usize::try_from(size / MOST_PIECES + 1)?.max(PIECE);
        let side_by_side = (MEMORY / piece).saturating_sub(1).min(SIDE_BY_SIDE);
        let mut upload =
            WriteMultipart::new_with_chunk_size(self.writer.put_multipart(to).await?, piece);
        let work = async {
            let mut buffer = vec![0; 1 << 20];
            loop {
                let got = file.read(&mut buffer)?;
                let bytes = buffer.get(..got).unwrap_or_default();
                if bytes.is_empty() {
                    return Ok::<(), Box<dyn std::error::Error + Send + Sync>>(());
                }
                upload.wait_for_capacity(side_by_side).await?;
                upload.write(bytes);
                moved(got as u64);
            }
        };
        match work.await {
            Ok(()) => {
                upload.finish().await?;
                Ok(())
            }
            Err(error) => {
                // What came of it matters less than why.
                upload.abort().await.ok();
                Err(error)
            }
        }
    }
}

impl Store for S3 {
    fn sets(&mut self) -> Result<Vec<SetId>, Fault> {
        let whole = |metas: &Vec<ObjectMeta>| {
            metas.iter().any(|meta| meta.location.filename() == Some(DOCUMENT))
        };
        Ok(self
            .objects()?
            .into_iter()
            .filter(|(_, metas)| whole(metas))
            .map(|(id, _)| id)
            .collect())
    }

    fn document(&mut self, id: &SetId) -> Result<Vec<u8>, Fault> {
        let key = self.key(id, DOCUMENT);
        let read = async { self.client.get(&key).await?.bytes().await };
        let bytes = self
            .runtime
            .block_on(read)
            .map_err(|error| self.fault(&format!("backup {id} cannot be read"), &error))?;
        Ok(bytes.to_vec())
    }

    fn stamps(&mut self, set: &Set) -> Result<Vec<(String, Stamp)>, Fault> {
        let mut stamps = Vec::new();
        for part in &set.parts {
            match self.runtime.block_on(self.client.head(&self.key(&set.id, &part.file))) {
                Ok(meta) => stamps.push((
                    part.file.clone(),
                    Stamp { bytes: meta.size, mark: meta.e_tag.unwrap_or_default() },
                )),
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(self.fault("a part cannot be looked at", &error)),
            }
        }
        Ok(stamps)
    }

    fn publish(
        &mut self,
        set: &Set,
        staged: &std::path::Path,
        moved: &mut dyn FnMut(u64),
    ) -> Result<(), Fault> {
        let what = format!("backup {} could not be written", set.id);
        for part in &set.parts {
            let (from, to) = (staged.join(&part.file), self.key(&set.id, &part.file));
            let upload = self.upload(&from, &to, moved);
            self.runtime.block_on(upload).map_err(|error| {
                match error.downcast_ref::<object_store::Error>() {
                    Some(error) => self.fault(&what, error),
                    None => Fault::new(
                        Code::BackupStore,
                        format!("store `{}` ({}): {what}", self.name, self.shown),
                    )
                    .because(error.to_string()),
                }
            })?;
        }
        let document = PutPayload::from(set.document()?);
        let key = self.key(&set.id, DOCUMENT);
        let put = self.writer.put(&key, document);
        self.runtime.block_on(put).map(drop).map_err(|error| self.fault(&what, &error))
    }

    fn open(&mut self, set: &Set, file: &str) -> Result<Box<dyn Read>, Fault> {
        let key = self.key(&set.id, file);
        let got = self.runtime.block_on(self.client.get(&key)).map_err(|error| {
            self.fault(&format!("`{file}` of backup {} cannot be read", set.id), &error)
        })?;
        Ok(Box::new(Body {
            key,
            tag: got.meta.e_tag.clone(),
            left: got.meta.size,
            at: 0,
            tries: 0,
            stream: got.into_stream(),
            piece: Bytes::new(),
            client: self.client.clone(),
            runtime: Rc::clone(&self.runtime),
        }))
    }

    fn remove(&mut self, id: &SetId) -> Result<(), Fault> {
        let delete = |key: &Key| match self.runtime.block_on(self.client.delete(key)) {
            Err(object_store::Error::NotFound { .. }) | Ok(()) => Ok(()),
            Err(error) => Err(self.fault(&format!("backup {id} could not be removed"), &error)),
        };
        delete(&self.key(id, DOCUMENT))?;
        let rest = self.objects()?.remove(id).unwrap_or_default();
        rest.iter().try_for_each(|meta| delete(&meta.location))
    }

    fn tidy(&mut self) -> Result<(), Fault> {
        let published: BTreeSet<SetId> = self.sets()?.into_iter().collect();
        let now = Duration::from_millis(seaworthy_base::Timestamp::now().0);
        for (id, metas) in self.objects()? {
            let old = |meta: &ObjectMeta| {
                let written =
                    Duration::from_millis(meta.last_modified.timestamp_millis().max(0) as u64);
                now.saturating_sub(written) > ABANDONED
            };
            if !published.contains(&id) && metas.iter().all(old) {
                self.remove(&id)?;
            }
        }
        Ok(())
    }
}

/// An object that is read as it comes.
struct Body {
    key: Key,
    /// Changes when the object does: the rest of another one is of no use.
    tag: Option<String>,
    /// Where the next byte is, and how many are to come.
    at: u64,
    left: u64,
    /// How often it broke off since anything came.
    tries: u32,
    stream: BoxStream<'static, Result<Bytes, object_store::Error>>,
    piece: Bytes,
    client: AmazonS3,
    runtime: Rc<Runtime>,
}

impl Body {
    /// Asks for what is to come of an object that broke off.
    fn go_on(&mut self, error: object_store::Error) -> io::Result<()> {
        self.tries += 1;
        if self.tries > AGAIN || self.tag.is_none() {
            return Err(io::Error::other(error));
        }
        let options = GetOptions {
            range: Some(GetRange::Offset(self.at)),
            if_match: self.tag.clone(),
            ..GetOptions::default()
        };
        let got = self.runtime.block_on(self.client.get_opts(&self.key, options));
        self.stream = got.map_err(io::Error::other)?.into_stream();
        Ok(())
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.runtime.block_on(self.stream.next()) {
                None => return Ok(0),
                Some(Ok(piece)) => {
                    let length = piece.len() as u64;
                    (self.at, self.left) = (self.at + length, self.left.saturating_sub(length));
                    (self.piece, self.tries) = (piece, 0);
                }
                Some(Err(_)) if self.left == 0 => return Ok(0),
                Some(Err(error)) => self.go_on(error)?,
            }
        }
        let count = self.piece.len().min(buffer.len());
        let taken = self.piece.split_to(count);
        buffer.get_mut(..count).unwrap_or_default().copy_from_slice(&taken);
        Ok(count)
    }
}
