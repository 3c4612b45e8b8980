# What makes CPython wait until its script is there: the hook of a prepared interpreter.
#
# The interpreter is started as `python main.py`, in the sandbox of its script, before that script is known. The folder of
# this file is the first one in which it looks for modules, so it imports this one as `sitecustomize`: at the end of its own
# start, and before it looks for `main.py`. Here it waits. Then it takes the arguments, the environment and the standard
# input of the run, removes every trace of this file, and goes on as if it had been started only now.
#
# Only modules are used that every start has loaded by now.
import io
import os
import sys


def wait():
    wake, later = map(int, os.environ["RUNMESH_PREPARED"].split(","))
    folder = os.environ["PYTHONPATH"]
    os.write(wake, b"+")
    # One answer: fields with NUL between them, the last of which says that it is whole.
    pieces = []
    while not pieces or pieces[-1]:
        pieces.append(os.read(wake, 1 << 16))
    has_input, count, *fields, end = b"".join(pieces).split(b"\0")
    if end != b"end":
        raise EOFError
    arguments, variables = fields[: int(count)], fields[int(count) :]

    os.environ.clear()
    os.environb.update(variable.split(b"=", 1) for variable in variables)

    arguments = [os.fsdecode(argument) for argument in arguments]
    sys.argv[1:] = arguments
    if hasattr(sys, "orig_argv"):
        sys.orig_argv[2:] = arguments

    if has_input == b"1":
        # Until now it was /dev/null, which differs from a pipe in what can be done with it.
        os.dup2(later, 0)
        before = sys.stdin
        stream = io.open(0, "rb", closefd=False)
        stream.raw.name = "<stdin>"
        sys.stdin = sys.__stdin__ = io.TextIOWrapper(
            stream,
            encoding=before.encoding,
            errors=before.errors,
            newline="\n",
            line_buffering=before.line_buffering,
            write_through=before.write_through,
        )
        sys.stdin.mode = "r"
    os.close(later)

    sys.path.remove(folder)
    sys.path_importer_cache.pop(folder, None)
    del sys.modules["sitecustomize"]
    os.write(wake, b"+")
    os.close(wake)


try:
    wait()
except BaseException:
    # Nothing has run yet: the script is started in another sandbox.
    os._exit(70)

# The one of this machine, if it has one. If not, the error is the one that Python expects then.
import sitecustomize  # noqa: E402, F401
