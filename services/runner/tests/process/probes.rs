//! What an interpreter that waited is compared with one just started by.

use std::path::{Path, PathBuf};
use std::time::Duration;

use runmesh_runner::{RunSpec, Runtimes, Search, SourceFile};

use super::python_of;

/// The Pythons of this machine that this user may run, with the folders that they need.
pub(super) async fn pythons() -> Vec<(PathBuf, Vec<PathBuf>)> {
    let search = Search {
        path: std::env::var_os("PATH").unwrap_or_default(),
        home: std::env::home_dir(),
        registry: None,
        cache: None,
    };
    let found = Runtimes::discover(&search).await.unwrap();
    let versions = found.list().iter().filter(|runtime| runtime.language == "python");
    for runtime in versions {
        let old = ["2.", "3.6.", "3.7."].iter().any(|old| runtime.version.to_string().starts_with(old));
        assert_eq!(runtime.prepared, !old, "{}", runtime.version);
    }
    let versions = found.list().iter().filter(|runtime| runtime.prepared);
    versions.map(|runtime| (runtime.program.clone(), runtime.folder().into_iter().collect())).collect()
}

/// Scripts that show all that an interpreter which waited could have different.
pub(super) fn probes(program: &Path) -> Vec<RunSpec> {
    let dump = python_of(program, include_str!("dump.py"));
    let mut with_all = dump.clone();
    with_all.stdin = "ä\r\nb\rc\n\u{1F600} end".into();
    with_all.command.extend(["a".to_owned(), "ü \u{1F600}".to_owned(), String::new(), "--x=1\n2".to_owned()]);
    with_all.environment = [("A", "1"), ("ZÄ", "ü=\n"), ("PATH", "/bin:/usr/bin"), ("EMPTY", ""), ("TMPDIR", "/work")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    with_all.limits.cpu_time = Some(Duration::from_secs(20));
    with_all.limits.file_bytes = Some(1 << 20);
    with_all.limits.disk_bytes = Some(8 << 20);
    with_all.limits.processes = Some(20);
    let mut sibling =
        python_of(program, "import other\nfrom folder import inner\nprint(__file__, other.__file__, inner.X)");
    for (path, content) in [("other.py", "print(__name__)"), ("folder/__init__.py", ""), ("folder/inner.py", "X = 5")] {
        sibling.files.push(SourceFile { path: path.to_owned(), content: content.into() });
    }
    let raises = "import sys\ndef f(x):\n    return 1 / x\nprint('before')\nf(0)\n";
    let forks = "import multiprocessing, os\n\
        def work(x):\n    return x * x, sorted(os.listdir('/proc/self/fd'))[:3]\n\
        if __name__ == '__main__':\n    pid = os.fork()\n    if not pid:\n        os._exit(3)\n    \
        print(os.waitpid(pid, 0)[1])\n    context = multiprocessing.get_context('spawn')\n    \
        with context.Pool(1) as pool:\n        print(pool.map(work, [1, 2, 3]))\n";
    let simple = [
        raises,
        "print('x'\n",
        "raise SystemExit(7)",
        "import sys; sys.exit('words')",
        "import os; os._exit(9)",
        "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "import atexit, threading; atexit.register(print, 'end'); threading.Thread(target=print, args=[1]).start()",
        "import traceback, warnings\ntry: x\nexcept NameError: traceback.print_exc()\nwarnings.warn('careful')\nassert 0",
        "import sys; sys.stdout.write('no end'); sys.stderr.write('e'); open('/dev/stdout', 'a').write('named')",
        "import os; print(os.path.isdir('__pycache__'), open(0).read(), end='')",
        forks,
    ];
    let mut probes = vec![dump, with_all, sibling];
    probes.extend(simple.map(|script| python_of(program, script)));
    probes
}
