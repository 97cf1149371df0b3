//! Writes the seeds of the fuzz targets of the disk: `cargo run -p tidelog-core --example storage_fuzz_seeds -- DIRECTORY`.

#[path = "../../fuzz/src/counting.rs"]
#[allow(dead_code, reason = "the seeds are only written here, not checked")]
mod counting;
#[path = "../../fuzz/src/storage_checks.rs"]
#[allow(dead_code, reason = "the seeds are only written here, not checked")]
mod storage_checks;
#[path = "../../fuzz/src/storage_seeds.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a seed that cannot be made ends the program"
)]
mod storage_seeds;

use std::path::PathBuf;
use std::{env, fs, io, process};

fn main() {
    let Some(directory) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: storage_fuzz_seeds DIRECTORY");
        process::exit(2);
    };
    for (target, name, input) in storage_seeds::all() {
        let folder = directory.join(target);
        let written: io::Result<()> =
            fs::create_dir_all(&folder).and_then(|()| fs::write(folder.join(name), input));
        if let Err(error) = written {
            eprintln!("cannot write the seeds into {}: {error}", directory.display());
            process::exit(1);
        }
    }
}
