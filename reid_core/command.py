"""What surrounds the work of every command: its result folder before, the messages of mistakes after.

path → a result folder that can be written and belongs to one configuration; function → a process with an exit status.
"""

import logging
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import fingerprint
from reid_core.data.synthetic import SYNTHETIC
from reid_core.errors import TrainingError, UserError
from reid_core.files import output
from reid_core.files.escape import escape_lines

CLAIM = "configuration.txt"  # in OUT: whose result it holds
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # a Path has lost the second slash


def is_uri(text: str) -> bool:
    """Whether a text names a storage (`sweeps/results/storage.py`) and no local folder.

    Example:
        >>> is_uri("s3://bucket/runs"), is_uri("runs/demo"), is_uri("/mnt/shared/runs")
        (True, False, False)
    """
    return _SCHEME.match(text) is not None


def make_out(out: Path, *, flag: str = "--out") -> Path:
    """Make the result folder and prove that it can be written.

    Args:
        out: The folder.
        flag: That names it.

    Raises:
        UserError: If it cannot.
    """
    if is_uri(str(out)):
        raise UserError(f"{flag} {out}: a URI; here it must be a folder of this machine")
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError(f"{flag} {out}: cannot be written: {error.strerror}") from error
    return out.resolve()


def check_out(out: Path, *, flag: str = "--out") -> None:
    """Find out whether `make_out` can make the folder and write there, and leave nothing behind.

    Raises:
        UserError: If it cannot.
    """
    try:
        existing = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=existing):
            return
    except OSError as error:
        raise UserError(f"{flag} {out}: cannot be written: {error.strerror}") from error


def absolute_data(data: str) -> str:
    """`--data` as it means the same from everywhere."""
    return data if data == SYNTHETIC else str(Path(data).resolve())


def claim(out: Path, config: TrialConfig, data: str) -> None:
    """Mark a result folder as this configuration's on these data, to be continued by the same only.

    Raises:
        UserError: If it holds the result of another one, or of a sweep.
    """
    mark, identity = out / CLAIM, f"{fingerprint(config)} {absolute_data(data)}"
    if (out / "sweep.json").exists():
        raise UserError(f"--out {out} holds a sweep; choose another folder")
    if mark.exists() and mark.read_text(encoding="utf-8", errors="surrogateescape").strip() != identity:
        raise UserError(
            f"--out {out} holds the result of another configuration, or of other data; choose another folder"
        )
    mark.write_text(identity + "\n", encoding="utf-8", errors="surrogateescape")


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return escape_lines(super().format(record))


def run(main: Callable[[list[str] | None], int]) -> None:
    """Run a command; errors that explain themselves are printed without a traceback (status 2, in training 1).

    Names from data may be in messages: signs that cannot be printed are shown as escapes (`escape.escape_lines`).
    Where nobody reads what is printed any more (`| head`), or there is no room for it, the command ends without a
    traceback: whatever it prints it has written before.
    """
    output.use_utf8()
    output.watch_output()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    try:
        status = _status_of(main)
    except Exception:
        if (lost := output.find_lost_output()) is None:
            raise
        sys.exit(lost)
    lost = output.find_lost_output()
    sys.exit(status or lost)


def _status_of(main: Callable[[list[str] | None], int]) -> int:
    """The exit status of a command, with its errors that explain themselves printed."""
    try:
        return main(None)
    except SystemExit as end:  # argparse
        return end.code if isinstance(end.code, int) else 0
    except (UserError, TrainingError) as error:
        output.say(f"error: {escape_lines(str(error))}")
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        output.say("interrupted: what is finished is kept, and the same command continues")
        return 130  # 128 + SIGINT
