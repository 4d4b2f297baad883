//! Compiles the schema of the `.fhe` container; protox needs no installed `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/peregrine.proto");
    let descriptors = protox::compile(["proto/peregrine.proto"], ["proto"])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
