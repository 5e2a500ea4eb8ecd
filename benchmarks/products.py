"""A lower bound on the time of a step: its matrix products alone, one after another, each at its best speed."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Product = tuple[torch.Size, tuple[int, ...], torch.Size, tuple[int, ...]]
"""Shape and strides of both matrices."""
TRIES = 20
"""Repetitions of each product; the fastest counts."""
LARGE = 1024
"""Side of the large matrices: at 1,024 three of them fill 12 MB, more than a core's own cache, as large products do."""


class _RecordProducts(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            one, other = args[-2:]
            self.found[one.shape, one.stride(), other.shape, other.stride()] += 1
        return func(*args, **(kwargs or {}))


def matrix_products(work: Callable[[], object]) -> Counter[Product]:
    """Matrix products of linear layers in `work`, forward and backward, without attention and convolutions."""
    with _RecordProducts() as listener:
        work()
    return listener.found


def limit(products: Counter[Product]) -> float:
    """Core seconds that `products` take on their own."""
    return sum(count * _fastest(product) for product, count in products.items())


def arithmetic(products: Counter[Product]) -> int:
    """Floating-point operations of `products`: a multiplication and an addition for each pair of numbers that meet."""
    return sum(2 * shape.numel() * other_shape[-1] * count for (shape, _, other_shape, _), count in products.items())


def large_peak() -> float:
    """Floating-point operations per core second of a product of two large square matrices."""
    square = torch.Size((LARGE, LARGE))
    product = (square, (LARGE, 1), square, (LARGE, 1))
    return arithmetic(Counter([product])) / _fastest(product)


def _fastest(product: Product) -> float:
    """Seconds of the fastest of `TRIES`."""
    shape, stride, other_shape, other_stride = product
    one = torch.empty_strided(shape, stride).fill_(1.5)
    other = torch.empty_strided(other_shape, other_stride).fill_(1.5)
    times = []
    for _ in range(TRIES):
        start = time.perf_counter()
        one @ other
        times.append(time.perf_counter() - start)
    return min(times)
