//! Cipher suites whose hashes take what a client sent where rustls hashes what it read in its place.
//!
//! Why: both sides of a handshake prove that they saw the same messages by hashing them (RFC 8446 § 4.4.1, RFC 7627
//! § 3). Where a ClientHello was changed before rustls read it ([`Misnamed`]), the hash has to be that of the hello
//! as it came, or the client ends the handshake; nobody in between can use the change for the same reason. rustls
//! takes a hash from its provider and asks it for each of these sums, with the messages as bytes. Invariants: what
//! is put in place are the client's own bytes, and only of a hello that equals the changed one byte for byte; all
//! other handshakes use the provider's own hashes, after one look at a variable of the thread; the changed hello is
//! known within [`hashing`] only. Not here: HKDF, HMAC and PRF, which never see a hello, and the signature of a
//! client's certificate in TLS 1.2, which covers the messages themselves: certificates are asked for by server name
//! only ([`super::demanding`]), and such a client named none.

use std::cell::RefCell;
use std::sync::{Arc, LazyLock};

use rustls::crypto::CipherSuiteCommon;
use rustls::crypto::aws_lc_rs::DEFAULT_CIPHER_SUITES;
use rustls::crypto::hash::{Context, Hash, HashAlgorithm, Output};
use rustls::{SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite};

use super::misnamed::Misnamed;

thread_local! {
    /// The hello that is being hashed on this thread.
    static HASHED: RefCell<Option<Arc<Misnamed>>> = const { RefCell::new(None) };
}

/// The end of [`hashing`], also by a panic.
struct Until;

impl Drop for Until {
    fn drop(&mut self) {
        HASHED.take();
    }
}

/// Does what hashes a hello, if one was changed.
pub(super) fn hashing<T>(misnamed: Option<&Arc<Misnamed>>, act: impl FnOnce() -> T) -> T {
    let Some(misnamed) = misnamed else { return act() };
    HASHED.set(Some(Arc::clone(misnamed)));
    let _until = Until;
    act()
}

/// The suites of the provider, made once for the process.
pub(super) fn suites() -> Vec<SupportedCipherSuite> {
    static SUITES: LazyLock<Vec<SupportedCipherSuite>> =
        LazyLock::new(|| DEFAULT_CIPHER_SUITES.iter().map(careful).collect());
    SUITES.clone()
}

/// The suite with a hash that minds what a changed hello was.
fn careful(suite: &SupportedCipherSuite) -> SupportedCipherSuite {
    with_hash(suite, |hash| Box::leak(Box::new(Careful(hash))))
}

/// The same suite with another hash. rustls wants it for ever.
pub(super) fn with_hash(
    suite: &SupportedCipherSuite,
    other: impl Fn(&'static dyn Hash) -> &'static dyn Hash,
) -> SupportedCipherSuite {
    let common = |of: &CipherSuiteCommon| CipherSuiteCommon {
        suite: of.suite,
        hash_provider: other(of.hash_provider),
        confidentiality_limit: of.confidentiality_limit,
    };
    match *suite {
        SupportedCipherSuite::Tls13(of) => {
            let common = common(&of.common);
            SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite { common, ..*of })))
        }
        SupportedCipherSuite::Tls12(of) => {
            let common = common(&of.common);
            SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite { common, ..*of })))
        }
    }
}

/// A hash that hands out the provider's own sums, except while a changed hello is hashed.
struct Careful(&'static dyn Hash);

impl Hash for Careful {
    fn start(&self) -> Box<dyn Context> {
        let sum = self.0.start();
        if HASHED.with_borrow(Option::is_none) { sum } else { Box::new(Sum(sum)) }
    }

    fn hash(&self, data: &[u8]) -> Output {
        self.0.hash(data)
    }

    fn output_len(&self) -> usize {
        self.0.output_len()
    }

    fn algorithm(&self) -> HashAlgorithm {
        self.0.algorithm()
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

/// A sum over the messages of a handshake that began with a changed hello.
struct Sum(Box<dyn Context>);

impl Context for Sum {
    fn fork_finish(&self) -> Output {
        self.0.fork_finish()
    }

    fn fork(&self) -> Box<dyn Context> {
        Box::new(Self(self.0.fork()))
    }

    fn finish(self: Box<Self>) -> Output {
        self.0.finish()
    }

    fn update(&mut self, data: &[u8]) {
        HASHED.with_borrow(|hashed| match hashed.as_ref().and_then(|hello| hello.sent(data)) {
            Some(sent) => sent.into_iter().for_each(|part| self.0.update(part)),
            None => self.0.update(data),
        });
    }
}
