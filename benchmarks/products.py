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
    total = 0.0
    for (shape, stride, other_shape, other_stride), count in products.items():
        one = torch.empty_strided(shape, stride).fill_(1.5)
        other = torch.empty_strided(other_shape, other_stride).fill_(1.5)
        times = []
        for _ in range(TRIES):
            start = time.perf_counter()
            one @ other
            times.append(time.perf_counter() - start)
        total += count * min(times)
    return total
