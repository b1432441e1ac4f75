"""What a command prints: never lost for its characters, and never the cause of losing anything else.

stdout and stderr → streams that take every character, and an exit status if one of them took no more.
"""

import contextlib
import os
import sys
from typing import Any, TextIO

CLOSED_PIPE = 141  # 128 + SIGPIPE: as a shell reports a command whose reader (`| head`) has gone
NO_ROOM = 1
PRINTS_ANYTHING = "backslashreplace"  # a character that the encoding does not have becomes its Python escape


class Watched:
    """A stream that remembers why it took no more: of an error alone nobody knows which file it came from."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As that of the stream."""
        with self._watching():
            return self._stream.write(text)

    def flush(self) -> None:
        """As that of the stream."""
        with self._watching():
            self._stream.flush()

    @contextlib.contextmanager
    def _watching(self):
        try:
            yield
        except OSError as error:
            self.error = error
            raise


def use_utf8() -> None:
    """Begin the process again in Python's UTF-8 mode if names of files have another encoding here.

    In metadata.csv they are UTF-8; under LC_ALL=C without coercion, or in a Latin-1 locale, Python would look for other
    bytes. What is printed keeps the terminal's encoding. Processes that this one starts inherit both.
    """
    if sys.getfilesystemencoding() == "utf-8":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.environ.setdefault("PYTHONIOENCODING", f"{sys.stdout.encoding if sys.stdout else 'utf-8'}:{PRINTS_ANYTHING}")
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def watch_output() -> None:
    """Make stdout and stderr show what their encoding cannot, and remember their errors (`find_lost_output`).

    Processes that this one starts print likewise.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        is_plain = hasattr(stream, "reconfigure")  # None where it was closed, another class in a notebook
        if is_plain and not isinstance(stream, Watched):
            stream.reconfigure(errors=PRINTS_ANYTHING)
            setattr(sys, name, Watched(stream))
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    if encoding.lower() != "utf-8":
        os.environ["PYTHONIOENCODING"] = f"{encoding}:{PRINTS_ANYTHING}"


def say(text: str) -> None:
    """A line on stderr, for whoever can still read it."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def find_lost_output() -> int | None:
    """The exit status if stdout or stderr took no more, which then swallow the rest; None if all was printed."""
    status = None
    for stream in (sys.stderr, sys.stdout):
        if isinstance(stream, Watched):
            with contextlib.suppress(OSError):
                stream.flush()
            if stream.error is not None:
                status = _swallow(stream, stream.error)
    return status


def _swallow(stream: Watched, error: OSError) -> int:
    """Lead a stream's file to nowhere: what it still holds would fail again when the interpreter ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    if isinstance(error, BrokenPipeError):
        return CLOSED_PIPE
    say(f"error: the output cannot be written: {error.strerror}; what is finished is kept")
    return NO_ROOM
