//! S3, or what speaks like it.
//!
//! Parts go up in pieces (an upload that is cut off leaves nothing that can be read), the document last: objects
//! without it are no set. Requests are repeated by the client library. Invariant: at most [`SIDE_BY_SIDE`] + 1
//! pieces are in memory.

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
    ClientOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig, WriteMultipart,
};
use seaworthy_base::{Code, Fault};
use tokio::runtime::Runtime;

use super::{Stamp, Store};
use crate::model::StorePlace;
use crate::set::{DOCUMENT, Set, SetId};

/// Bytes of a piece; S3 takes ten thousand of them, which makes 80 GB.
const PIECE: usize = 8 << 20;
/// Larger pieces for what would be more than ten thousand.
const MOST_PIECES: u64 = 9000;
/// Pieces under way at a time.
const SIDE_BY_SIDE: usize = 2;
/// One request: a piece over a slow line.
const REQUEST: Duration = Duration::from_secs(10 * 60);
/// What an upload that was cut off left is removed after this time; a younger one may be somebody's that runs.
const ABANDONED: Duration = Duration::from_secs(86_400);

/// A bucket.
pub(crate) struct S3 {
    name: String,
    shown: String,
    prefix: Key,
    client: AmazonS3,
    runtime: Rc<Runtime>,
}

impl S3 {
    /// Nothing is connected yet.
    pub(crate) fn new(
        name: &str,
        place: &StorePlace,
        site: &str,
        item: &str,
    ) -> Result<Self, Fault> {
        let StorePlace::S3 { bucket, prefix, endpoint, region, key } = place else {
            return Err(Fault::new(Code::Internal, "this store is no S3"));
        };
        let options = ClientOptions::new()
            .with_timeout(REQUEST)
            .with_connect_timeout(Duration::from_secs(20));
        let retry = RetryConfig {
            max_retries: 6,
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
        let plain = endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        let built = builder.with_client_options(options.with_allow_http(plain)).build();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let failed = |error: &dyn std::error::Error| {
            Fault::new(Code::BackupStore, format!("store `{name}` cannot be used"))
                .because_of(error)
        };
        Ok(Self {
            name: name.to_owned(),
            shown: format!("s3://{bucket}/{prefix}"),
            prefix: Key::from(format!("{prefix}/{site}/{item}")),
            client: built.map_err(|error| failed(&error))?,
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
        let mut upload =
            WriteMultipart::new_with_chunk_size(self.client.put_multipart(to).await?, piece);
        let work = async {
            let mut buffer = vec![0; 1 << 20];
            loop {
                let got = file.read(&mut buffer)?;
                let bytes = buffer.get(..got).unwrap_or_default();
                if bytes.is_empty() {
                    return Ok::<(), Box<dyn std::error::Error + Send + Sync>>(());
                }
                upload.wait_for_capacity(SIDE_BY_SIDE).await?;
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
        let put = self.client.put(&key, document);
        self.runtime.block_on(put).map(drop).map_err(|error| self.fault(&what, &error))
    }

    fn open(&mut self, set: &Set, file: &str) -> Result<Box<dyn Read>, Fault> {
        let got = self.runtime.block_on(self.client.get(&self.key(&set.id, file)));
        let got = got.map_err(|error| {
            self.fault(&format!("`{file}` of backup {} cannot be read", set.id), &error)
        })?;
        Ok(Box::new(Body {
            stream: got.into_stream(),
            piece: Bytes::new(),
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
    stream: BoxStream<'static, Result<Bytes, object_store::Error>>,
    piece: Bytes,
    runtime: Rc<Runtime>,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.runtime.block_on(self.stream.next()) {
                None => return Ok(0),
                Some(piece) => self.piece = piece.map_err(io::Error::other)?,
            }
        }
        let count = self.piece.len().min(buffer.len());
        let taken = self.piece.split_to(count);
        buffer.get_mut(..count).unwrap_or_default().copy_from_slice(&taken);
        Ok(count)
    }
}
