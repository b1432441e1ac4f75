"""Cosine similarity and the shortlist of gallery images per query.

unit-length embeddings → the B most similar gallery images of each query (paper §5.1).
Shape letters: Q queries, G gallery, D embedding, B shortlist.
"""

import numpy as np
import torch

BLOCK_ELEMENTS = 16_000_000  # similarities held at once: 64 MB of float32


def shortlist(query_QD: np.ndarray, gallery_GD: np.ndarray, size: int, *, device: str = "cpu"):
    """The `size` gallery images most similar to each query, best first.

    Args:
        query_QD: Query embeddings of length 1; shape (Q, D), float32.
        gallery_GD: Gallery embeddings of length 1; shape (G, D), float32.
        size: Images per query, B.
        device: Where the products are computed.

    Returns:
        index_QB: Index into the gallery; shape (Q, B), int64, -1 where the gallery has fewer than B images.
        cosine_QB: Cosine similarity in [-1, 1]; shape (Q, B), float32, NaN where the index is -1.

    Example:
        >>> index, cosine = shortlist(np.eye(2, dtype="f"), np.eye(2, dtype="f")[::-1].copy(), 1)
        >>> index.tolist(), cosine.tolist()
        ([[1], [0]], [[1.0], [1.0]])
    """
    num_queries, num_gallery = len(query_QD), len(gallery_GD)
    index_QB = np.full((num_queries, size), -1, dtype=np.int64)
    cosine_QB = np.full((num_queries, size), np.nan, dtype=np.float32)
    if num_gallery == 0 or num_queries == 0:
        return index_QB, cosine_QB
    kept = min(size, num_gallery)
    gallery_DG = torch.from_numpy(np.ascontiguousarray(gallery_GD)).to(device).T
    block = max(1, BLOCK_ELEMENTS // num_gallery)
    for start in range(0, num_queries, block):
        rows = slice(start, start + block)
        similarity = torch.from_numpy(np.ascontiguousarray(query_QD[rows])).to(device) @ gallery_DG
        top = torch.topk(similarity, kept, dim=1)
        index_QB[rows, :kept] = top.indices.cpu().numpy()
        cosine_QB[rows, :kept] = top.values.cpu().numpy()
    return index_QB, cosine_QB
