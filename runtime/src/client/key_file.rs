//! The client's key file: the secret key and a public id of it. It stays with the client; checkpoints name the id only.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use peregrine_ckks::context::Context;
use peregrine_ckks::keys::{KeyGenerator, SecretKey};
use peregrine_ckks::wire::Wire;
use zeroize::Zeroizing;

use super::error::ClientError;

const MAGIC: [u8; 8] = *b"PGRNKEY1";

/// A secret key with its public id.
pub struct ClientKey {
    /// Names the key without telling anything about it.
    pub id: [u8; 32],
    /// The key.
    pub secret: SecretKey,
}

impl ClientKey {
    /// A fresh key. Its id is random.
    pub fn fresh(context: &Context) -> Self {
        let generator = KeyGenerator::new(context);
        // An independent key of the same generator, hashed: nothing of it remains but the id.
        let bytes = Zeroizing::new(generator.secret().to_bytes(context));
        let id = *blake3::Hasher::new_derive_key("peregrine key id v1").update(&bytes).finalize().as_bytes();
        Self { id, secret: generator.secret() }
    }

    /// Reads the key of `path`, or makes one and writes it there, for its owner's eyes only, if there is no such file.
    ///
    /// # Errors
    /// [`ClientError::KeyFile`] when the file cannot be read or written, others may read it, or it holds no key of these parameters.
    pub fn open_or_create(path: &Path, context: &Context) -> Result<Self, ClientError> {
        match path.exists() {
            true => Self::open(path, context),
            false => {
                let key = Self::fresh(context);
                key.create(path, context).map_err(|source| refuse(path, source.to_string()))?;
                Ok(key)
            }
        }
    }

    /// Reads the key of `path`.
    ///
    /// # Errors
    /// [`ClientError::KeyFile`].
    pub fn open(path: &Path, context: &Context) -> Result<Self, ClientError> {
        let io = |source: std::io::Error| refuse(path, source.to_string());
        let mut file = fs::File::open(path).map_err(io)?;
        private(&file).map_err(|why| refuse(path, why))?;
        let (mut magic, mut id) = ([0; 8], [0; 32]);
        file.read_exact(&mut magic).map_err(io)?;
        if magic != MAGIC {
            return Err(refuse(path, "it is no key file of this version".to_owned()));
        }
        file.read_exact(&mut id).map_err(io)?;
        let secret = SecretKey::read_from(context, &mut file).map_err(|e| refuse(path, e.to_string()))?;
        Ok(Self { id, secret })
    }

    fn create(&self, path: &Path, context: &Context) -> std::io::Result<()> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // A temporary file is its owner's only, and stays so under its new name.
        let mut file = tempfile::Builder::new().prefix(".peregrine-").tempfile_in(folder)?;
        file.write_all(&MAGIC)?;
        file.write_all(&self.id)?;
        let bytes = Zeroizing::new(self.secret.to_bytes(context));
        file.write_all(&bytes)?;
        file.as_file().sync_all()?;
        file.persist_noclobber(path).map_err(|error| error.error)?;
        Ok(())
    }
}

fn refuse(path: &Path, reason: String) -> ClientError {
    ClientError::KeyFile { path: path.to_owned(), reason }
}

/// A secret that others can read is none.
#[cfg(unix)]
fn private(file: &fs::File) -> Result<(), String> {
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&file.metadata().map_err(|e| e.to_string())?.permissions());
    if mode & 0o077 == 0 {
        Ok(())
    } else {
        Err(format!("others may read it (mode {:o}); chmod 600 it", mode & 0o777))
    }
}

#[cfg(not(unix))]
fn private(_: &fs::File) -> Result<(), String> {
    Ok(())
}
