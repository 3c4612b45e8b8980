# Prints what a Python finds when its script begins, but for what is another in each process.
import sys

modules, path, importers = list(sys.modules), list(sys.path), sorted(sys.path_importer_cache)

import gc
import json
import os
import re
import resource
import signal
import threading
import time


def stream(one):
    raw = getattr(one.buffer, "raw", one.buffer)
    simple = ["name", "mode", "encoding", "errors", "line_buffering", "write_through", "newlines", "closed"]
    return {
        **{name: getattr(one, name) for name in simple},
        "repr": repr(one),
        "buffer": [repr(one.buffer), repr(raw), raw.name, raw._blksize, raw.closefd],
        "can": [one.isatty(), one.seekable(), one.readable(), one.writable(), one.fileno()],
        "inherited": os.get_inheritable(one.fileno()),
    }


def show(value):
    return re.sub("0x[0-9a-f]+", "0x", repr(value))


site, posix = sys.modules["site"], sys.modules["posix"]
# As a program has them that is started from here.
with os.popen("env") as output:
    child = output.read().splitlines()
found = {
    "arguments": [sys.argv, getattr(sys, "orig_argv", None)],
    "flags": [show(sys.flags), sys.warnoptions, sys._xoptions],
    "path": path,
    "modules": modules,
    "importers": importers,
    "import": [show(sys.meta_path), show(sys.path_hooks)],
    "environment": [list(os.environ.items()), show(list(posix.environ.items())), sorted(child)],
    "folders": [os.getcwd(), sorted(os.listdir(".")), sorted(os.listdir("/tmp")), os.path.exists(__file__)],
    "descriptors": {one: os.readlink("/proc/self/fd/" + one).split(":")[0] for one in os.listdir("/proc/self/fd")[:-1]},
    "streams": [stream(sys.stdin), stream(sys.stdout), stream(sys.stderr)],
    "same streams": [sys.stdin is sys.__stdin__, sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__],
    "input": [sys.stdin.readline(), sys.stdin.read()],
    "signals": {int(one): show(signal.getsignal(one)) for one in signal.valid_signals()},
    "blocked": show(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "umask": os.umask(0o22),
    "limits": {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT")},
    "processes": [os.getpid(), os.getppid(), os.getpgrp(), os.getsid(0), sorted(filter(str.isdigit, os.listdir("/proc")))],
    "user": [os.getuid() == os.geteuid(), os.getgroups()],
    "status": [line for line in open("/proc/self/status") if line.startswith(("Cap", "NoNewPrivs", "Seccomp", "Sig", "Shd"))],
    "threads": [threading.active_count(), show(threading.main_thread().name)],
    "main": [__file__, __name__, __spec__, sorted(globals())],
    "system": sorted(vars(sys)),
    "site": [site.ENABLE_USER_SITE, site.USER_SITE, site.USER_BASE, site.PREFIXES, sorted(vars(site))],
    "prefixes": [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.executable],
    "hooks": [show(sys.excepthook), show(sys.displayhook), sys.gettrace(), sys.getprofile()],
    "settings": [gc.get_threshold(), gc.isenabled(), sys.getrecursionlimit(), sys.getswitchinterval(), time.tzname],
    "encodings": [sys.getfilesystemencoding(), sys.getdefaultencoding(), os.device_encoding(0)],
}
for name, value in found.items():
    print(name, json.dumps(value))
