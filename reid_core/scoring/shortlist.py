"""The shortlist of each query: the gallery images with the largest cosine similarity.

unit-length embeddings → the B most similar gallery images of each query (paper §5.1).
Shape letters: Q queries, G gallery, D embedding, B shortlist, C contenders for it.
"""

import numpy as np
import torch

BLOCK_ELEMENTS = 2**24  # similarities held at once: 64 MB of float32
GALLERY_BLOCK = 2**14  # gallery images per product, at least: each is loaded once for many queries
SPARE = 8  # contenders beyond B: rounding in a product of float32 may swap the last ones


def find_most_similar(
    query_QD: np.ndarray, gallery_GD: np.ndarray, shortlist_size: int, *, device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """The `shortlist_size` gallery images most similar to each query, best first, equal ones in the gallery's order.

    Blocks of queries meet blocks of the gallery: memory grows with Q × B, never with Q × G. The cosines of the
    contenders are computed again in float64, so that neither the blocks nor the device show in the result.

    Args:
        query_QD: Query embeddings of length 1; shape (Q, D), float32.
        gallery_GD: Gallery embeddings of length 1; shape (G, D), float32.
        shortlist_size: Images per query, B.
        device: Where the products are computed.

    Returns:
        index_QB: Index into the gallery; shape (Q, B), int64, -1 where the gallery has fewer than B images. Where
            more than 8 images beyond the last are as similar as it, any of these may take its place.
        cosine_QB: Cosine similarity in [-1, 1]; shape (Q, B), float32, NaN where the index is -1.

    Example:
        >>> index, cosine = find_most_similar(np.eye(2, dtype="f"), np.eye(2, dtype="f")[::-1].copy(), 1)
        >>> index.tolist(), cosine.tolist()
        ([[1], [0]], [[1.0], [1.0]])
    """
    num_queries, num_gallery = len(query_QD), len(gallery_GD)
    index_QB = np.full((num_queries, shortlist_size), -1, dtype=np.int64)
    cosine_QB = np.full((num_queries, shortlist_size), np.nan, dtype=np.float32)
    if num_gallery == 0 or num_queries == 0:
        return index_QB, cosine_QB
    kept = min(shortlist_size, num_gallery)
    gallery = torch.from_numpy(np.ascontiguousarray(gallery_GD)).to(device)
    # A long shortlist gets longer blocks, of which it is still a small part.
    columns = min(num_gallery, max(GALLERY_BLOCK, 16 * (kept + SPARE)))
    num_blocks = -(-num_queries // max(1, BLOCK_ELEMENTS // columns))
    # Blocks of equal height: a short last one would cost nearly as much as a full one.
    products = gallery.new_empty(-(-num_queries // num_blocks), columns)
    for start in range(0, num_queries, len(products)):
        rows = slice(start, start + len(products))
        query = torch.from_numpy(np.ascontiguousarray(query_QD[rows])).to(device)
        contender_QC = _find_largest_products(query, gallery, min(kept + SPARE, num_gallery), products)
        index, cosine = _rank_by_cosine(query, gallery, contender_QC)
        index_QB[rows, :kept], cosine_QB[rows, :kept] = index[:, :kept].cpu(), cosine[:, :kept].cpu()
    return index_QB, cosine_QB


def _find_largest_products(
    query_QD: torch.Tensor, gallery_GD: torch.Tensor, count: int, products: torch.Tensor
) -> torch.Tensor:
    """Indices of the `count` largest products of each query in any order; (Q, C). `products` is memory to work in."""
    best_QC = query_QD.new_empty(len(query_QD), 0)
    index_QC = torch.empty(len(query_QD), 0, dtype=torch.int64, device=query_QD.device)
    for start in range(0, len(gallery_GD), products.shape[1]):
        block_GD = gallery_GD[start : start + products.shape[1]]
        # A view of the beginning, contiguous whatever its shape.
        similarity = products.view(-1)[: len(query_QD) * len(block_GD)].view(len(query_QD), len(block_GD))
        torch.mm(query_QD, block_GD.T, out=similarity)
        top = torch.topk(similarity, min(count, len(block_GD)), dim=1, sorted=False)
        best_QC = torch.cat([best_QC, top.values], dim=1)
        index_QC = torch.cat([index_QC, top.indices + start], dim=1)
        best_QC, order = torch.topk(best_QC, min(count, best_QC.shape[1]), dim=1, sorted=False)
        index_QC = index_QC.gather(1, order)
    return index_QC


def _rank_by_cosine(
    query_QD: torch.Tensor, gallery_GD: torch.Tensor, index_QC: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The contenders by cosine, largest first, equal ones by index; index and cosine, each (Q, C)."""
    index_QC = index_QC.sort(dim=1).values
    cosine_QC = query_QD.new_empty(index_QC.shape, dtype=torch.float32)
    block = max(1, BLOCK_ELEMENTS // (index_QC.shape[1] * query_QD.shape[1]))
    for start in range(0, len(query_QD), block):
        rows = slice(start, start + block)
        contender_QCD = gallery_GD[index_QC[rows]].double()
        cosine_QC[rows] = torch.bmm(contender_QCD, query_QD[rows].double()[:, :, None])[:, :, 0].float()
    cosine_QC, order = torch.sort(cosine_QC, dim=1, descending=True, stable=True)
    return index_QC.gather(1, order), cosine_QC
