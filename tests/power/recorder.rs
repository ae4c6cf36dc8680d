//! The recorder against a process that uses every call it knows, from threads and a child at once.
use crate::campaign::Space;
use crate::image::Step;
use crate::trace::Recorder;
use std::process::Command;

/// Threads and a child write over each other: only the true order of the writes gives the content.
const PROGRAM: &str = r#"
import os, subprocess, sys, threading
os.chdir(sys.argv[1])
here = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
fd = os.open("a", os.O_RDWR | os.O_CREAT, 0o644)
os.write(fd, b"one"); os.writev(fd, [b"two", b"three"]); os.pwrite(fd, b"x" * 700, 600)
os.pwritev(fd, [b"y" * 10, b"z" * 600], 900)
copy = os.dup(fd); os.write(copy, b"at the end of dup"); os.fsync(copy)
os.ftruncate(fd, 1000); os.truncate("a", 1100); os.posix_fallocate(fd, 1000, 3000); os.fdatasync(fd)
more = os.open("a", os.O_WRONLY | os.O_APPEND); os.write(more, b"appended"); os.close(more)
os.link("a", "b"); os.rename("b", "c"); os.unlink("a"); os.pwrite(fd, b"still c", 5); os.fsync(here)
os.close(os.open("c", os.O_WRONLY | os.O_TRUNC)); os.pwrite(fd, b"again", 0)
os.close(os.open("d", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=here))
os.rename("d", "e", src_dir_fd=here, dst_dir_fd=here); os.link("e", "f", src_dir_fd=here, dst_dir_fd=here)
os.unlink("f", dir_fd=here)
with open("g", "wb") as file: file.write(b"buffered" * 3000)
open("x-shm", "wb").write(b"not durable")
open("../outside", "wb").write(b"not recorded")
child = subprocess.Popen(["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do echo from the child $i >> c; done"])
def work(byte):
    for i in range(300): os.pwrite(fd, byte * 50, i * 7 % 500)
threads = [threading.Thread(target=work, args=(b,)) for b in (b"p", b"q", b"r")]
[t.start() for t in threads]; [t.join() for t in threads]
child.wait()
"#;

#[test]
fn the_recorder_sees_every_call() {
    let space = Space::new();
    let recorder = Recorder::new(&space.0.join("recorded"), &space.0.join("trace"));
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", PROGRAM]).arg(recorder.dir());
    recorder.watch(&mut command);
    assert!(command.status().unwrap().success());
    // This is the proof: the trace gives the files, byte for byte.
    let steps = recorder.finish();
    let names: Vec<String> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Create { name, .. } => Some(format!("create {name}")),
            Step::Link { name, .. } => Some(format!("link {name}")),
            Step::Rename { name, to } => Some(format!("rename {name} {to}")),
            Step::Unlink { name } => Some(format!("unlink {name}")),
            Step::SyncDirectory => Some("sync".into()),
            _ => None,
        })
        .collect();
    let expected =
        "create a,link b,rename b c,unlink a,sync,create d,rename d e,link f,unlink f,create g";
    assert_eq!(names.join(","), expected);
    assert_eq!(
        steps
            .iter()
            .filter(|step| matches!(step, Step::Sync { .. }))
            .count(),
        2
    );
}
