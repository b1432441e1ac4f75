"""A GPU's behaviour on torch's meta device: which tensors there would be, without any values.

operations of a network → the dtypes and kernels that CUDA would choose, and how many bytes live at a time.
"""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

# What CUDA's autocast computes in bfloat16, and what in float32, by the names of torch's functions
# (https://docs.pytorch.org/docs/stable/amp.html#cuda-op-specific-behavior).
IN_BFLOAT16 = """
    __matmul__ __rmatmul__ addbmm addmm addmv addr baddbmm bmm chain_matmul conv1d conv2d conv3d conv_transpose1d
    conv_transpose2d conv_transpose3d linear matmul mm mv multi_dot prelu scaled_dot_product_attention
"""
IN_FLOAT32 = """
    __pow__ __rdiv__ __rpow__ __rtruediv__ acos asin cdist cosh cosine_similarity cross_entropy cumprod cumsum dist
    erfinv exp expm1 group_norm kl_div l1_loss layer_norm log log10 log1p log2 log_softmax mse_loss nll_loss norm
    normalize pow prod reciprocal renorm rsqrt sinh smooth_l1_loss softmax softmin softplus sum tan
"""
DTYPE_OF = dict.fromkeys(IN_BFLOAT16.split(), torch.bfloat16) | dict.fromkeys(IN_FLOAT32.split(), torch.float32)
FLOATS = (torch.float32, torch.bfloat16)
ATTENTION_MULTIPLE = 8  # channels of a head that CUDA's attention kernels want


class CudaRules(TorchFunctionMode):
    """Lets functions choose as they would on CUDA: the dtype under autocast, and attention without its matrix.

    On "cpu", attention is left as it is, and bfloat16 by CUDA's rules is an estimate.
    """

    def __init__(self, device: str, *, bfloat16: bool) -> None:
        super().__init__()
        self._is_cuda, self._bfloat16 = device == "cuda", bfloat16

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if self._bfloat16 and (dtype := DTYPE_OF.get(name)) is not None:
            args, kwargs = tree_map(lambda value: _cast(value, dtype), (args, kwargs))
        if self._is_cuda and name == "scaled_dot_product_attention" and args[0].shape[-1] % ATTENTION_MULTIPLE == 0:
            return _attend(*args, **kwargs)
        return func(*args, **kwargs)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.dtype in FLOATS else value


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> torch.Tensor:
    """`scaled_dot_product_attention` by the kernel that takes a trained bias; arguments are torch's."""
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*query.shape[:-1], key.shape[-2])
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, torch.is_grad_enabled(), dropout_p, is_causal, scale=options.get("scale")
    )[0]


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that live at a time.

    Attributes:
        now: Bytes that live.
        peak: The most that there have been.
    """

    def __init__(self, there: Iterable[torch.Tensor]) -> None:
        """Begin with tensors that are there already."""
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref] = {}
        for tensor in there:
            self._add(tensor.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self._add(value.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        """Views share what they are of; its address says so, and is free again when it is."""
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def free(_: weakref.ref) -> None:
            self.now -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, free)
        self.now += size
        self.peak = max(self.peak, self.now)


def backward(loss: torch.Tensor) -> None:
    """`loss.backward()` such that rules of functions hold in what it computes again (checkpointing).

    They are asked about `backward` too, which is then run without them; autograd's engine itself asks nobody.
    """
    torch.autograd.graph._engine_run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )
