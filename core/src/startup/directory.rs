//! Is a data directory there, writable, and on a file system that keeps what it is given.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use tidelog_segment_log::reserve::{RESERVE_FILE, is_full};

use super::StartupError;

const PROBE_FILE: &str = ".tidelog-write-probe";

/// What is known of a usable data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryFacts {
    /// Its absolute path.
    pub path: PathBuf,
    /// It did not exist before.
    pub created: bool,
    /// Name of its file system.
    pub filesystem: String,
    /// It was full, and its reserve was given up.
    pub was_full: bool,
    /// A sentence to log when the file system is an odd choice.
    pub warning: Option<String>,
}

/// Makes the directory when it is missing, writes and syncs a probe file, and names the file system. A full
/// one gives up its reserve, so that the broker starts and records can be deleted.
///
/// # Errors
/// One sentence: not a directory, read-only, no permission, full, or a file system on which our promises do
/// not hold, a network file system unless `allow_network`.
pub fn probe_data_directory(path: &Path, allow_network: bool) -> Result<DirectoryFacts, StartupError> {
    let created = !path.exists();
    fs::create_dir_all(path).map_err(|error| sentence_for(path, "be created", &error))?;
    let path = fs::canonicalize(path).map_err(|error| sentence_for(path, "be opened", &error))?;
    let kind = rustix::fs::statfs(&path)
        .map_err(|errno| sentence_for(&path, "be examined", &io::Error::from(errno)))?;
    let filesystem = filesystem_name(kind.f_type.cast_unsigned());
    let warning = filesystem_warning(&path, &filesystem, allow_network)?;
    let was_full =
        probe_or_give_up_reserve(&path).map_err(|error| sentence_for(&path, "be written to", &error))?;
    Ok(DirectoryFacts {
        path,
        created,
        filesystem,
        was_full,
        warning,
    })
}

/// True: the directory was full.
fn probe_or_give_up_reserve(path: &Path) -> io::Result<bool> {
    let probe = path.join(PROBE_FILE);
    match write_probe(&probe) {
        Err(error) if is_full(&error) && give_up_reserve(path) => {
            tracing::warn!(path = %path.display(), "the disk is full; the reserve is given up");
            write_probe(&probe).map(|()| true)
        }
        result => result.map(|()| false),
    }
}

/// Removes the reserve of a data directory that nobody looks after (any more). Whether there is room now that was
/// not there before.
pub fn give_up_reserve(path: &Path) -> bool {
    let removed = fs::remove_file(path.join(RESERVE_FILE));
    // Some file systems let nobody have the space before the removal is durable.
    removed.is_ok() && fs::File::open(path).is_ok_and(|directory| directory.sync_all().is_ok())
}

fn write_probe(file: &Path) -> io::Result<()> {
    // A probe left behind by a killed start is simply overwritten.
    let mut probe = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(file)?;
    let written = probe.write_all(&[0; 4_096]).and_then(|()| probe.sync_data());
    let removed = fs::remove_file(file);
    written.and(removed)
}

/// The sentence for an error on a data directory; `doing` completes "cannot ...".
pub(super) fn sentence_for(path: &Path, doing: &str, error: &io::Error) -> StartupError {
    let path = path.display();
    StartupError::machine(match error.kind() {
        ErrorKind::PermissionDenied => format!(
            "data directory {path} cannot {doing}: permission denied; give it to the user that runs tidelog (chown) or choose another with --data-dir"
        ),
        ErrorKind::ReadOnlyFilesystem => format!(
            "data directory {path} cannot {doing}: its file system is read-only; remount it or choose another with --data-dir"
        ),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => format!(
            "data directory {path} cannot {doing}: no space left; free some or choose another with --data-dir"
        ),
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => format!(
            "data directory {path} cannot {doing}: it, or something above it, is a file; choose another with --data-dir"
        ),
        ErrorKind::NotFound => format!(
            "data directory {path} cannot {doing}: something above it does not exist; create it or choose another with --data-dir"
        ),
        _ => format!(
            "data directory {path} cannot {doing}: {error}; look at the kernel log before trying again"
        ),
    })
}

/// The sentence for the directory lock's error.
pub fn directory_locked(path: &Path, error: &io::Error) -> StartupError {
    if error.kind() != ErrorKind::WouldBlock {
        return sentence_for(path, "be locked", error);
    }
    StartupError::machine(format!(
        "data directory {} is in use by another tidelog; stop that one or choose another with --data-dir",
        path.display()
    ))
}

/// File systems by the magic number of `statfs`.
const FILESYSTEMS: &[(u64, &str)] = &[
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x2fc1_2fc1, "zfs"),
    (0xf2f5_2010, "f2fs"),
    (0xca45_1a4e, "bcachefs"),
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x794c_7630, "overlayfs"),
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x0102_1997, "9p"),
    (0x6573_5546, "fuse"),
    (0x4d44, "vfat"),
    (0x2011_bab0, "exfat"),
    (0x00c3_6400, "ceph"),
    (0x5346_414f, "afs"),
    (0x0116_1970, "gfs2"),
    (0x7461_636f, "ocfs2"),
    (0x0bd0_0bd0, "lustre"),
    (0x4750_4653, "gpfs"),
    (0xf15f, "ecryptfs"),
    (0x3153_464a, "jfs"),
    (0x5265_4973, "reiserfs"),
    (0x0000_3434, "nilfs"),
    (0x7371_7368, "squashfs"),
    (0x9660, "iso9660"),
];

/// Name of a file system by its magic number; the number itself when it is not known.
pub fn filesystem_name(magic: u64) -> String {
    // Magic numbers are 32 bits; a signed field may have extended them.
    let magic = magic & 0xffff_ffff;
    let known = FILESYSTEMS.iter().find(|(number, _)| *number == magic);
    known.map_or_else(|| format!("{magic:#x}"), |(_, name)| (*name).to_owned())
}

/// File systems whose other side is another machine.
const NETWORK: &[&str] = &[
    "nfs", "cifs", "smb2", "9p", "ceph", "afs", "gfs2", "ocfs2", "lustre", "gpfs",
];

fn filesystem_warning(
    path: &Path,
    filesystem: &str,
    allow_network: bool,
) -> Result<Option<String>, StartupError> {
    let shown = path.display();
    Ok(match filesystem {
        network if NETWORK.contains(&network) && !allow_network => {
            return Err(StartupError::usage(format!(
                "data directory {shown} is on {network}, a network file system: an acknowledged record is as safe there as the other side makes it; choose a local ext4 or xfs with --data-dir, or accept that with --set storage.allow_network=true"
            )));
        }
        network if NETWORK.contains(&network) => Some(format!(
            "data directory {shown} is on {network}, a network file system (storage.allow_network): an acknowledged record is as safe there as the other side makes it"
        )),
        "ext4" | "xfs" => None,
        "vfat" | "exfat" => {
            return Err(StartupError::machine(format!(
                "data directory {shown} is on {filesystem}, which cannot rename and sync durably; choose one on ext4 or xfs with --data-dir"
            )));
        }
        "tmpfs" | "ramfs" => Some(format!(
            "data directory {shown} is on {filesystem}: everything in it is gone when the host restarts"
        )),
        "overlayfs" => Some(format!(
            "data directory {shown} is on a container's own layer: it goes with the container; mount a volume there"
        )),
        "fuse" => Some(format!(
            "data directory {shown} is on fuse: an acknowledged record is as safe there as the program behind it makes it; a local ext4 or xfs is safe"
        )),
        other => Some(format!(
            "data directory {shown} is on {other}, which the power-cut tests do not cover; they cover ext4 and xfs"
        )),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_directory_is_made_and_left_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let facts = probe_data_directory(&path, false).unwrap();
        assert!(facts.created && facts.path.is_absolute() && !facts.filesystem.is_empty());
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        assert!(!probe_data_directory(&path, false).unwrap().created);
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("below")] {
            let error = probe_data_directory(&path, false).unwrap_err();
            assert!(
                error.exit_code == 1 && error.sentence.contains("is a file"),
                "{error}"
            );
        }
    }

    #[test]
    fn errors_say_what_to_do() {
        for (kind, part) in [
            (ErrorKind::PermissionDenied, "chown"),
            (ErrorKind::ReadOnlyFilesystem, "read-only"),
            (ErrorKind::StorageFull, "no space"),
            (ErrorKind::NotFound, "does not exist"),
            (ErrorKind::Other, "kernel log"),
        ] {
            let error = sentence_for(Path::new("/d"), "be written to", &io::Error::from(kind));
            assert!(
                error.sentence.contains(part) && error.sentence.contains("/d"),
                "{error}"
            );
        }
        let locked = directory_locked(Path::new("/d"), &io::Error::from(ErrorKind::WouldBlock));
        assert!(locked.sentence.contains("another tidelog") && locked.exit_code == 1);
        let denied = directory_locked(Path::new("/d"), &io::Error::from(ErrorKind::PermissionDenied));
        assert!(denied.sentence.contains("chown"));
    }

    #[test]
    fn file_systems() {
        assert_eq!(filesystem_name(0xef53), "ext4");
        assert_eq!(filesystem_name(0xffff_ffff_9123_683e), "btrfs");
        assert_eq!(filesystem_name(0x1234), "0x1234");
        let warning = |filesystem, allow_network| {
            filesystem_warning(Path::new("/d"), filesystem, allow_network).map(Option::unwrap_or_default)
        };
        for (filesystem, part) in [
            ("ext4", ""),
            ("xfs", ""),
            ("tmpfs", "gone"),
            ("ramfs", "gone"),
            ("overlayfs", "mount a volume"),
            ("fuse", "behind it"),
            ("btrfs", "power-cut"),
            ("0x1234", "0x1234"),
        ] {
            let said = warning(filesystem, false).unwrap();
            assert!(
                said.contains(part) && said.is_empty() == part.is_empty(),
                "{filesystem}: {said}"
            );
        }
        assert_eq!(warning("vfat", true).unwrap_err().exit_code, 1);
        for network in NETWORK {
            assert!(FILESYSTEMS.iter().any(|(_, name)| name == network), "{network}");
            let refused = warning(network, false).unwrap_err();
            assert_eq!(refused.exit_code, 2);
            assert!(
                refused.sentence.contains(network) && refused.sentence.contains("storage.allow_network=true"),
                "{refused}"
            );
            assert!(warning(network, true).unwrap().contains("network"));
        }
    }

    #[test]
    fn names_are_given_once() {
        for (at, (magic, name)) in FILESYSTEMS.iter().enumerate() {
            let rest = &FILESYSTEMS[at + 1..];
            assert!(
                !rest.iter().any(|(other, named)| other == magic || named == name),
                "{name}"
            );
        }
    }
}
