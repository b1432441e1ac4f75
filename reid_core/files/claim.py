"""Which of several processes makes a file that all of them need: the others wait, or look again.

a name → whether this process may make what has it. A process that dies lets go of its claim.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def claim(file: Path) -> Iterator[bool]:
    """Claim what is to be made under a name; whether it is ours until the end of the block.

    Two may both have it where the file system knows no locks: both then make the same.

    Args:
        file: Name of what is to be made. The lock lies beside it, and is removed with the claim.
    """
    lock = file.with_name(f".{file.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a", encoding="utf-8") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:  # some network file systems know no locks
            pass
        try:
            yield True
        finally:
            lock.unlink(missing_ok=True)
