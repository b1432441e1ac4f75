"""Work on many images in chunks: how it is spread, and a progress bar that counts what comes back.

function + chunks → Arrow tables in the order of the chunks.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import pyarrow as pa
from tqdm import tqdm

CHUNK_IMAGES = 64  # 28 MB of pixels at 384 px
Result = TypeVar("Result")
MapChunks = Callable[[Callable[[Any], pa.Table], Sequence[Any]], Iterator[pa.Table]]


def count_cpus() -> int:
    """CPUs that this process may use: on a shared machine fewer than there are."""
    return len(os.sched_getaffinity(0))


def local_map(function: Callable[[Any], pa.Table], chunks: Sequence[Any]) -> Iterator[pa.Table]:
    """Apply a function to chunks in threads; results come in the order of the chunks, few are held at a time."""
    num_threads = count_cpus()
    return map_ahead(function, chunks, num_threads=num_threads, num_ahead=num_threads)


def map_ahead(
    function: Callable[[Any], Result], arguments: Iterable[Any], *, num_threads: int, num_ahead: int
) -> Iterator[Result]:
    """Results of a function in the order of its arguments, `num_ahead` of them made before they are asked for."""
    pool = ThreadPoolExecutor(num_threads)
    pending: deque[Future[Result]] = deque()
    try:
        for argument in arguments:
            pending.append(pool.submit(function, argument))
            if len(pending) > num_ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def count_rows(tables: Iterable[pa.Table], num_rows: int, what: str) -> Iterator[pa.Table]:
    """Pass tables on under a progress bar; a chunk that got lost on its way is an error, not a shorter file."""
    num_returned = 0
    with tqdm(total=num_rows, desc=what, unit="image", disable=None) as bar:
        for table in tables:
            num_returned += table.num_rows
            bar.update(table.num_rows)
            yield table
    if num_returned != num_rows:
        raise RuntimeError(f"{what}: {num_returned} of {num_rows} images came back")
