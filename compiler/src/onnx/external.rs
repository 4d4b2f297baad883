//! Weights that an ONNX file keeps in files beside it are read into the model.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path};

use tract_onnx::pb::tensor_proto::DataLocation;
use tract_onnx::pb::{GraphProto, TensorProto};

use super::error::ImportError;

/// Most bytes of one tensor.
const MAX_BYTES: u64 = 1 << 31;

/// Reads the external data of every initialiser from files under `folder`.
pub(crate) fn read_external(graph: &mut GraphProto, folder: &Path) -> Result<(), ImportError> {
    let external = |t: &&mut TensorProto| t.data_location == Some(DataLocation::External as i32);
    graph.initializer.iter_mut().filter(external).try_for_each(|tensor| read_tensor(tensor, folder))
}

fn read_tensor(tensor: &mut TensorProto, folder: &Path) -> Result<(), ImportError> {
    let entry = |key: &str| tensor.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
    let location = entry("location").unwrap_or_default().to_owned();
    let fail =
        |why: String| ImportError::ExternalFile { tensor: tensor.name.clone(), file: location.clone(), why };
    let number =
        |key: &str| entry(key).map(|v| v.parse::<u64>().map_err(|e| fail(format!("{key}: {e}")))).transpose();
    let inside =
        Path::new(&location).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if location.is_empty() || !inside {
        return Err(fail("the file must lie in the model's folder".into()));
    }
    let mut file = File::open(folder.join(&location)).map_err(|e| fail(e.to_string()))?;
    let size = file.metadata().map_err(|e| fail(e.to_string()))?.len();
    let offset = number("offset")?.unwrap_or(0);
    let length = number("length")?.unwrap_or(size.saturating_sub(offset));
    if offset.checked_add(length).is_none_or(|end| end > size) || length > MAX_BYTES {
        return Err(fail(format!("{length} bytes from {offset} are not in the file, which has {size}")));
    }
    let mut data = vec![0; length as usize];
    file.seek(SeekFrom::Start(offset))
        .and_then(|_| file.read_exact(&mut data))
        .map_err(|e| fail(e.to_string()))?;
    tensor.raw_data = data;
    tensor.external_data.clear();
    tensor.data_location = None;
    Ok(())
}
