"""A FUSE file system that passes everything through to a directory, and does wrong to fsync when told.

    fuse_pass_through.py MOUNT_POINT BACKING_DIR CONTROL_DIR

It speaks the kernel's FUSE protocol (linux/fuse.h, 7.31) on /dev/fuse by itself, so that it needs no library and
no helper; it must run as root. What it does wrong is read at each fsync and fdatasync of a file from CONTROL_DIR:

    eio      a file that holds words: an fsync of a path that contains each answers EIO, and the file is removed
    dead     a file that holds a text: each fsync of a path that contains it answers EIO, while the file is there
    hang     a text and a number: an fsync of a path that contains the text answers after so many seconds; once
    begun    is written when a hang begins

It ends when it is unmounted, or by SIGTERM, which makes every use of the mount fail.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pathlib
import struct
import sys
import threading
import time

LOOKUP, FORGET, GETATTR, SETATTR, MKDIR, UNLINK, RMDIR = 1, 2, 3, 4, 9, 10, 11
RENAME, LINK, OPEN, READ, WRITE, STATFS, RELEASE, FSYNC = 12, 13, 14, 15, 16, 17, 18, 20
FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, FSYNCDIR = 25, 26, 27, 28, 29, 30
ACCESS, CREATE, INTERRUPT, DESTROY, BATCH_FORGET, FALLOCATE, RENAME2 = 34, 35, 36, 38, 42, 43, 45

WRITE_BYTES_MAX = 1 << 20
ASYNC_READ, BIG_WRITES, MAX_PAGES = 1 << 0, 1 << 5, 1 << 22
THREADS = 12
ATTR_VALID_S = 1
SET_MODE, SET_SIZE, SET_FH = 1, 8, 64


class Files:
    """Which node of the kernel is which path. Nodes are never forgotten: a test is short."""

    def __init__(self, root: str) -> None:
        self.lock = threading.Lock()
        self.paths = {1: root}
        self.nodes = {root: 1}
        self.next = 2

    def path(self, node: int) -> str:
        with self.lock:
            return self.paths[node]

    def node(self, path: str) -> int:
        with self.lock:
            if path not in self.nodes:
                self.nodes[path] = self.next
                self.paths[self.next] = path
                self.next += 1
            return self.nodes[path]

    def removed(self, path: str) -> None:
        with self.lock:
            self.nodes.pop(path, None)

    def renamed(self, old: str, new: str) -> None:
        with self.lock:
            self.nodes.pop(new, None)
            for path in [p for p in self.nodes if p == old or p.startswith(old + "/")]:
                node = self.nodes.pop(path)
                moved = new + path[len(old) :]
                self.nodes[moved] = node
                self.paths[node] = moved


def attributes(stat: os.stat_result) -> bytes:
    seconds = [int(t) for t in (stat.st_atime, stat.st_mtime, stat.st_ctime)]
    nanos = [t % 10**9 for t in (stat.st_atime_ns, stat.st_mtime_ns, stat.st_ctime_ns)]
    return struct.pack(
        "<6Q10I",
        stat.st_ino, stat.st_size, stat.st_blocks, *seconds, *nanos,
        stat.st_mode, stat.st_nlink, stat.st_uid, stat.st_gid, stat.st_rdev, stat.st_blksize, 0,
    )  # fmt: skip


class PassThrough:
    def __init__(self, device: int, backing: str, control: pathlib.Path) -> None:
        self.device = device
        self.files = Files(backing)
        self.control = control
        self.control_lock = threading.Lock()

    def serve(self) -> None:
        while True:
            try:
                message = os.read(self.device, WRITE_BYTES_MAX + 65536)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                return
            if not message:
                return
            _, opcode, unique, node, *_ = struct.unpack_from("<IIQQIIII", message)
            if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            status, answer = 0, b""
            try:
                answer = self.handle(opcode, node, message[40:])
            except OSError as error:
                status = -(error.errno or errno.EIO)
            except KeyError:
                status = -errno.ESTALE
            try:
                os.write(self.device, struct.pack("<IiQ", 16 + len(answer), status, unique) + answer)
            except OSError as error:
                # The one who asked was interrupted.
                if error.errno != errno.ENOENT:
                    return

    def entry(self, path: str) -> bytes:
        stat = os.lstat(path)
        return struct.pack("<4Q2I", self.files.node(path), 0, ATTR_VALID_S, ATTR_VALID_S, 0, 0) + attributes(stat)

    def child(self, node: int, name: bytes) -> str:
        return f"{self.files.path(node)}/{os.fsdecode(name.rstrip(bytes(1)))}"

    def handle(self, opcode: int, node: int, body: bytes) -> bytes:
        if opcode == READ:
            handle, offset, size = struct.unpack_from("<QQI", body)
            return os.pread(handle, size, offset)
        if opcode == WRITE:
            handle, offset, size = struct.unpack_from("<QQI", body)
            return struct.pack("<II", os.pwrite(handle, body[40 : 40 + size], offset), 0)
        if opcode == FSYNC:
            handle, flags = struct.unpack_from("<QI", body)
            self.do_wrong(self.files.path(node))
            (os.fdatasync if flags & 1 else os.fsync)(handle)
            return b""
        if opcode == FALLOCATE:
            handle, offset, length, mode = struct.unpack_from("<QQQI", body)
            if mode != 0:
                raise OSError(errno.EOPNOTSUPP, "only reserving")
            os.posix_fallocate(handle, offset, length)
            return b""
        if opcode in (RELEASE, RELEASEDIR):
            os.close(struct.unpack_from("<Q", body)[0])
            return b""
        if opcode in (FLUSH, ACCESS, DESTROY):
            return b""
        return self.handle_name(opcode, node, body)

    def handle_name(self, opcode: int, node: int, body: bytes) -> bytes:
        if opcode == INIT:
            major, _, readahead = struct.unpack_from("<III", body)
            flags = ASYNC_READ | BIG_WRITES | MAX_PAGES
            return struct.pack(
                "<IIIIHHIIHHI7I",
                major, 31, readahead, flags, 64, 48, WRITE_BYTES_MAX, 1, WRITE_BYTES_MAX // 4096, 0, 0, *[0] * 7,
            )  # fmt: skip
        if opcode == LOOKUP:
            return self.entry(self.child(node, body))
        if opcode == GETATTR:
            return struct.pack("<QII", ATTR_VALID_S, 0, 0) + attributes(os.lstat(self.files.path(node)))
        if opcode == SETATTR:
            return self.set_attributes(node, body)
        if opcode == MKDIR:
            mode, _ = struct.unpack_from("<II", body)
            path = self.child(node, body[8:])
            os.mkdir(path, mode)
            return self.entry(path)
        if opcode in (UNLINK, RMDIR):
            path = self.child(node, body)
            (os.unlink if opcode == UNLINK else os.rmdir)(path)
            self.files.removed(path)
            return b""
        if opcode in (RENAME, RENAME2):
            (to,) = struct.unpack_from("<Q", body)
            old, new, *_ = body[8 if opcode == RENAME else 16 :].split(b"\0")
            old_path, new_path = self.child(node, old), self.child(to, new)
            os.rename(old_path, new_path)
            self.files.renamed(old_path, new_path)
            return b""
        if opcode == LINK:
            (of,) = struct.unpack_from("<Q", body)
            path = self.child(node, body[8:])
            os.link(self.files.path(of), path)
            return self.entry(path)
        if opcode == OPEN:
            (flags,) = struct.unpack_from("<I", body)
            return struct.pack("<QII", self.open(self.files.path(node), flags, 0), 0, 0)
        if opcode == CREATE:
            flags, mode = struct.unpack_from("<II", body)
            path = self.child(node, body[16:])
            handle = self.open(path, flags | os.O_CREAT, mode)
            return self.entry(path) + struct.pack("<QII", handle, 0, 0)
        if opcode == OPENDIR:
            handle = os.open(self.files.path(node), os.O_RDONLY | os.O_DIRECTORY)
            return struct.pack("<QII", handle, 0, 0)
        if opcode == READDIR:
            return self.read_directory(node, body)
        if opcode == FSYNCDIR:
            os.fsync(struct.unpack_from("<Q", body)[0])
            return b""
        if opcode == STATFS:
            stat = os.statvfs(self.files.path(node))
            return struct.pack(
                "<5Q10I",
                stat.f_blocks, stat.f_bfree, stat.f_bavail, stat.f_files, stat.f_ffree,
                stat.f_bsize, stat.f_namemax, stat.f_frsize, *[0] * 7,
            )  # fmt: skip
        raise OSError(errno.ENOSYS, "not passed through")

    @staticmethod
    def open(path: str, flags: int, mode: int) -> int:
        # The kernel's side is direct where asked; this side needs no aligned memory.
        return os.open(path, flags & ~(os.O_DIRECT | os.O_NOFOLLOW), mode)

    def set_attributes(self, node: int, body: bytes) -> bytes:
        valid, _, handle, size = struct.unpack_from("<IIQQ", body)
        path = self.files.path(node)
        if valid & SET_SIZE:
            os.truncate(handle if valid & SET_FH else path, size)
        if valid & SET_MODE:
            (mode,) = struct.unpack_from("<I", body, 68)
            os.chmod(path, mode & 0o7777)
        return struct.pack("<QII", ATTR_VALID_S, 0, 0) + attributes(os.lstat(path))

    def read_directory(self, node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        names = sorted(os.listdir(self.files.path(node)))
        out = bytearray()
        for at, name in enumerate(names[offset:], offset + 1):
            raw = os.fsencode(name)
            # Type unknown: the kernel looks it up.
            entry = struct.pack("<QQII", 0xFFFFFFFF, at, len(raw), 0) + raw
            entry += bytes(-len(entry) % 8)
            if len(out) + len(entry) > size:
                break
            out += entry
        return bytes(out)

    def do_wrong(self, path: str) -> None:
        with self.control_lock:
            eio, dead, hang = (self.control / name for name in ("eio", "dead", "hang"))
            fails = eio.exists() and all(word in path for word in eio.read_text().split())
            if fails:
                eio.unlink()
            fails = fails or (dead.exists() and dead.read_text() in path)
            seconds = 0.0
            if hang.exists():
                text, number = hang.read_text().rsplit(" ", 1)
                if text in path:
                    hang.unlink()
                    seconds = float(number)
        if fails:
            raise OSError(errno.EIO, "as told")
        if seconds:
            (self.control / "begun").write_text(path)
            # The fault itself.
            time.sleep(seconds)


def main() -> int:
    mount_point, backing, control = sys.argv[1:4]
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,max_read={WRITE_BYTES_MAX}"
    if libc.mount(b"tidelog-faults", os.fsencode(mount_point), b"fuse", 0, options.encode()) != 0:
        number = ctypes.get_errno()
        print(f"mount of a FUSE file system: {os.strerror(number)}", file=sys.stderr)
        return 1
    served = PassThrough(device, os.path.realpath(backing), pathlib.Path(control))
    threads = [threading.Thread(target=served.serve, daemon=True) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
