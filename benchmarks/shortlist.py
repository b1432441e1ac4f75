"""Top-20 shortlist of a gallery of 200,000, against the whole similarity matrix and its largest 20.

    python benchmarks/shortlist.py                                # 1,000 queries: about a minute and a half
    python benchmarks/shortlist.py --queries 20000 --repeats 1    # the whole claim: about five minutes

Random embeddings of 512 numbers. The dense side takes the queries in slices whose matrix fits in memory (`--slice`).
Both sides are timed on each slice in turn, with the same number of threads. The extra memory is the peak resident
memory of a process of its own that shortlists all queries at once, beyond what it holds with the inputs loaded (read
from /proc: Linux).
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reid_core.scoring.shortlist import find_most_similar

SIZE = 20
INPUTS, RESULTS = ("query.npy", "gallery.npy"), ("index.npy", "cosine.npy")
SPARE = 20  # so many equal cosines at the last place the check can put into order


def make_embeddings(num_images: int, dimensions: int, seed: int) -> np.ndarray:
    """Random embeddings of length 1; (N, D), float32."""
    embedding_ND = np.random.default_rng(seed).standard_normal((num_images, dimensions), dtype=np.float32)
    embedding_ND /= np.linalg.norm(embedding_ND, axis=1, keepdims=True)
    return embedding_ND


def shortlist_dense(query_QD: np.ndarray, gallery_GD: np.ndarray, device: str) -> tuple[np.ndarray, np.ndarray]:
    """The peer: one product of everything with everything, then its largest values."""
    query, gallery = (torch.from_numpy(array).to(device) for array in (query_QD, gallery_GD))
    top = torch.topk(query @ gallery.T, SIZE, dim=1)
    return top.indices.cpu().numpy(), top.values.cpu().numpy()


def shortlist_float64(query_QD: np.ndarray, gallery_GD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The dense product in float64, rounded to float32; equal ones in the gallery's order."""
    query, gallery = torch.from_numpy(query_QD).double(), torch.from_numpy(gallery_GD)
    cosine_QG = torch.cat([(query @ block.double().T).float() for block in gallery.split(20_000)], dim=1)
    index_QC = torch.topk(cosine_QG, SIZE + SPARE, dim=1).indices.sort(dim=1).values
    cosine_QC, order = torch.sort(cosine_QG.gather(1, index_QC), dim=1, descending=True, stable=True)
    return index_QC.gather(1, order)[:, :SIZE].numpy(), cosine_QC[:, :SIZE].numpy()


def check(query_QD: np.ndarray, gallery_GD: np.ndarray, index_QB: np.ndarray, cosine_QB: np.ndarray) -> None:
    """Ours equals the exact dense result, and the dense float32 result but for places that rounding swaps."""
    exact_index_QB, exact_cosine_QB = shortlist_float64(query_QD, gallery_GD)
    np.testing.assert_array_equal(index_QB, exact_index_QB)
    np.testing.assert_array_equal(cosine_QB, exact_cosine_QB)
    dense_index_QB, dense_cosine_QB = shortlist_dense(query_QD, gallery_GD, "cpu")
    np.testing.assert_allclose(cosine_QB, dense_cosine_QB, atol=1e-6)
    swapped = int((index_QB != dense_index_QB).sum())
    print(
        f"same result for {len(query_QD)} queries: indices and cosines equal to the dense product in float64, all "
        f"{index_QB.size}; cosines of the dense product in float32 equal to 1e-6, {swapped} places swapped by rounding"
    )


def peak_memory() -> int:
    """Largest resident memory of this process so far, bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def measure_memory(folder: Path, device: str) -> None:
    """In a process of its own: shortlist all queries at once, print the extra peak memory in bytes."""
    query_QD, gallery_GD = (np.load(folder / name) for name in INPUTS)
    find_most_similar(query_QD[:1], gallery_GD[:SIZE], SIZE, device=device)  # libraries loaded, threads started
    before = peak_memory()
    results = find_most_similar(query_QD, gallery_GD, SIZE, device=device)
    print(peak_memory() - before)
    for name, array in zip(RESULTS, results, strict=True):
        np.save(folder / name, array)


def shortlist_elsewhere(
    query_QD: np.ndarray, gallery_GD: np.ndarray, device: str
) -> tuple[int, np.ndarray, np.ndarray]:
    """Extra peak memory of ours in bytes and its result, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for name, array in zip(INPUTS, (query_QD, gallery_GD), strict=True):
            np.save(Path(folder) / name, array)
        command = [sys.executable, __file__, "--memory-of", folder, "--device", device]
        command += ["--threads", str(torch.get_num_threads())]
        extra = int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        index_QB, cosine_QB = (np.load(Path(folder) / name) for name in RESULTS)
        return extra, index_QB, cosine_QB


def time_turn(query_QD: np.ndarray, gallery_GD: np.ndarray, index_QB: np.ndarray, device: str) -> tuple[float, float]:
    """Seconds per query of ours and of the dense side on one slice; ours must give `index_QB`."""
    start = time.perf_counter()
    shortlist_dense(query_QD, gallery_GD, device)
    middle = time.perf_counter()
    again_QB, _ = find_most_similar(query_QD, gallery_GD, SIZE, device=device)
    end = time.perf_counter()
    np.testing.assert_array_equal(again_QB, index_QB)
    ours, dense = (end - middle) / len(query_QD), (middle - start) / len(query_QD)
    print(f"ours {1000 * ours:.3f} ms per query, dense {1000 * dense:.3f}", flush=True)
    return ours, dense


def main() -> None:
    """Measure memory, result and time of both sides and print the claims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=1000, help="20000 for the whole claim")
    parser.add_argument("--slice", type=int, default=1000, help="queries whose dense matrix fits")
    parser.add_argument("--gallery", type=int, default=200_000)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        measure_memory(options.memory_of, options.device)
        return
    query_QD = make_embeddings(options.queries, options.dimensions, seed=0)
    gallery_GD = make_embeddings(options.gallery, options.dimensions, seed=1)
    print(
        f"run: {options.queries} queries x {options.gallery} x {options.dimensions}, in slices of {options.slice}, "
        f"{options.threads} threads, {options.device}"
    )
    extra, index_QB, cosine_QB = shortlist_elsewhere(query_QD, gallery_GD, options.device)
    slices = [slice(start, start + options.slice) for start in range(0, options.queries, options.slice)]
    check(query_QD[slices[0]], gallery_GD, index_QB[slices[0]], cosine_QB[slices[0]])
    turns = [
        time_turn(query_QD[rows], gallery_GD, index_QB[rows], options.device)
        for rows in slices[:1] + slices * options.repeats  # the first turn only wakes the libraries
    ][1:]
    ours, dense = (statistics.median(seconds) for seconds in zip(*turns, strict=True))
    report(ours, dense, extra, options.queries * options.gallery * 4)


def report(ours: float, dense: float, extra: int, matrix: int) -> None:
    """Print the claims; times in s per query, memory in bytes."""
    ratio, extra_gb, matrix_gb = ours / dense, extra / 1e9, matrix / 1e9
    print(
        f"RESULT shortlist_time_per_query value={ours:.6f} peer={dense:.6f} ratio={ratio:.3f} bar=1.25 "
        f"{'ok' if ratio <= 1.25 else 'short'}"
    )
    print(
        f"RESULT shortlist_extra_memory_gb value={extra_gb:.3f} peer={matrix_gb:.3f} ratio={extra_gb / matrix_gb:.3f} "
        f"bar=1 {'ok' if extra_gb <= 1 else 'short'}"
    )


if __name__ == "__main__":
    main()
