"""The endless stream of transformed batches a training loop needs, gathered on the device."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["TRANSFORMS", "Batches", "ZippedBatches", "check_transform", "describe_differences", "sub_seed"]

STREAMS = {"batches": 1, "evaluation": 2, "labelled": 3}


def sub_seed(seed: int, stream: str) -> int:
    """The seed of one stream of random numbers, so that the streams made from one seed share none.

    Generators started from the same number repeat each other: after `torch.manual_seed(seed)`, noise drawn
    from a generator of its own with that seed would reuse the numbers that initialised the network.

    Args:
        seed: the user's, at least 0.
        stream: a name from `STREAMS`.

    Returns:
        a hash of both, of 64 bits, from numpy's SeedSequence.
    """
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    return int(np.random.SeedSequence([seed, STREAMS[stream]]).generate_state(1, np.uint64)[0])


def _scale(pixels: Tensor, generator: torch.Generator, n_levels: int) -> Tensor:
    """Grey levels in [0, 1]: level / (n_levels − 1)."""
    return pixels / (n_levels - 1)


def _binarize(pixels: Tensor, generator: torch.Generator, n_levels: int) -> Tensor:
    """Bits with p(1) = level / (n_levels − 1), drawn afresh each time.

    The threshold r is uniform on the n_levels − 1 values 0 … n_levels − 2, so exactly v of them are below
    the level v.
    """
    threshold = torch.randint(
        n_levels - 1, pixels.shape, dtype=torch.uint8, device=pixels.device, generator=generator
    )
    return (threshold < pixels).to(torch.get_default_dtype())


def _dequantize(pixels: Tensor, generator: torch.Generator, n_levels: int) -> Tensor:
    """Uniform noise inside each grey level: (level + u) / n_levels, u uniform on [0, 1) in steps of 2⁻¹⁶.

    The coarse grid keeps level + u exact in float32. A finer u would now and then be rounded up to the next
    grey level, and for the highest level to x = 1, where a logit is infinite.
    """
    noise = torch.rand(pixels.shape, device=pixels.device, generator=generator)
    return (pixels + (noise * 2**16).floor() / 2**16) / n_levels


TRANSFORMS: dict[str | None, Callable[[Tensor, torch.Generator, int], Tensor]] = {
    None: _scale,
    "binarize": _binarize,
    "dequantize": _dequantize,
}


class Batches:
    """An endless iterator of random batches, gathered and transformed on the device.

    Each pass takes the examples in a new order, none of them twice, and visits all of them if the batch size
    divides their number. If it does not, the last few of that order are left out, others in every pass.
    Two iterators with equal arguments give equal batches, and `state_dict` / `load_state_dict` continue one
    exactly where it stopped.

    Where several processes train one model, as under torchrun, give each its own seed, for example
    `seed=1000 * run + rank`: with equal seeds every process would draw the same examples and the same noise,
    and their averaged gradient would be that of one process. The same holds for `torch.manual_seed`, from
    which a model draws its latents.

    Args:
        tensors: one or more tensors with the same first axis; several are gathered together.
        batch_size: examples per batch.
        transform: a name from `TRANSFORMS`, applied to the first tensor, which must then be uint8;
            or "identity", which leaves tensors of any type alone.
        seed: of the order and of the transform's noise.
        n_levels: how many grey levels the images have, 2 … 256; pixels are the levels 0 … n_levels − 1.

    Yields:
        the batch of the only tensor, or a tuple with one batch per tensor.
    """

    def __init__(
        self,
        *tensors: Tensor,
        batch_size: int = 100,
        transform: str | None = "identity",
        seed: int = 0,
        n_levels: int = 256,
    ) -> None:
        if not tensors or len(tensors[0]) == 0:
            raise ValueError("Batches needs at least one example, got an empty data set")
        sizes = [len(tensor) for tensor in tensors]
        if len(set(sizes)) > 1:
            raise ValueError(f"tensors must have equally many examples, got {sizes}")
        if not 1 <= batch_size <= sizes[0]:
            raise ValueError(f"batch_size must be between 1 and the {sizes[0]} examples, got {batch_size}")
        if transform != "identity":
            check_transform(transform, tensors[0], n_levels)
        self.tensors, self.batch_size = tensors, batch_size
        self.transform, self.n_levels = transform, n_levels
        self.generator = torch.Generator(tensors[0].device).manual_seed(sub_seed(seed, "batches"))
        self.order, self.position = self._shuffle(), 0

    def _shuffle(self) -> Tensor:
        return torch.randperm(len(self.tensors[0]), generator=self.generator, device=self.tensors[0].device)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Any:
        if self.position + self.batch_size > len(self.order):
            self.order, self.position = self._shuffle(), 0
        index = self.order[self.position : self.position + self.batch_size]
        self.position += self.batch_size
        first, *rest = (tensor.index_select(0, index) for tensor in self.tensors)
        if self.transform != "identity":
            first = TRANSFORMS[self.transform](first, self.generator, self.n_levels)
        return (first, *rest) if rest else first

    def _settings(self) -> dict[str, Any]:
        """What must be equal for one stream to continue another."""
        names = ("batch_size", "transform", "n_levels")
        settings = {name: getattr(self, name) for name in names}
        return {"examples": len(self.order), **settings, "device": self.generator.device.type}

    def state_dict(self) -> dict[str, Any]:
        """All that decides the next batches: the settings, the order, the place in it, the generator."""
        place = {"order": self.order, "position": self.position, "generator": self.generator.get_state()}
        return {"settings": self._settings(), **place}

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Refuse the state of a stream with other settings; change nothing.

        Raises:
            ValueError: names every difference.
        """
        if differences := describe_differences(state["settings"], self._settings()):
            raise ValueError(
                f"the saved batches are others ({differences}). Build Batches as in the run that was saved."
            )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where the iterator that gave `state` had stopped."""
        self.check_state_dict(state)
        self.order, self.position = state["order"].to(self.order.device), state["position"]
        self.generator.set_state(state["generator"].cpu())


class ZippedBatches:
    """Several streams side by side: each step yields one batch of every stream, as a tuple.

    The streams turn at their own pace: 100 labelled images come round every step, 60,000 without labels every
    600 steps. Give them different seeds, or their noise is the same.

    Args:
        streams: two or more `Batches`.
    """

    def __init__(self, *streams: Batches) -> None:
        self.streams = streams

    def __iter__(self) -> "ZippedBatches":
        return self

    def __next__(self) -> tuple[Any, ...]:
        return tuple(next(stream) for stream in self.streams)

    def state_dict(self) -> dict[str, Any]:
        """The state of every stream."""
        return {"streams": [stream.state_dict() for stream in self.streams]}

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Refuse the state of other streams; change nothing."""
        if len(state.get("streams", ())) != len(self.streams):
            raise ValueError(f"the saved batches are not those of {len(self.streams)} streams")
        for stream, saved in zip(self.streams, state["streams"], strict=True):
            stream.check_state_dict(saved)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where the streams that gave `state` had stopped."""
        self.check_state_dict(state)
        for stream, saved in zip(self.streams, state["streams"], strict=True):
            stream.load_state_dict(saved)


def describe_differences(saved: dict[str, Any], present: dict[str, Any]) -> str:
    """The entries in which two descriptions differ, as "key: saved …, asked for …; …"; empty if none."""
    return "; ".join(
        f"{key}: saved {saved.get(key)!r}, asked for {present.get(key)!r}"
        for key in sorted(saved.keys() | present.keys())
        if saved.get(key) != present.get(key)
    )


def check_transform(transform: str | None, pixels: Tensor, n_levels: int) -> None:
    """Refuse an unknown transform, or pixels that are not grey levels 0 … n_levels − 1 in 8 bits."""
    if transform not in TRANSFORMS:
        raise ValueError(f"transform must be one of {list(TRANSFORMS)}, got {transform!r}")
    if pixels.dtype != torch.uint8:
        raise ValueError(
            f"transform={transform!r} needs uint8 pixels in 0 … 255, got {pixels.dtype}; "
            "for other tensors use Batches(…, transform='identity')"
        )
    if not 2 <= n_levels <= 256:
        raise ValueError(f"n_levels must be between 2 and the 256 of 8 bits, got {n_levels}")
    if n_levels < 256 and (highest := int(pixels.max())) >= n_levels:
        raise ValueError(
            f"the pixels go up to {highest}, but n_levels={n_levels} allows the grey levels "
            f"0 … {n_levels - 1}; pass the number of levels that the images have (256 for 8-bit images)"
        )
