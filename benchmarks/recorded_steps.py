"""The steps of `course_lib.training.fit`, replayed by a GPU from a recording: for runs of very many steps.

A step of a small model is a long row of small kernels, and to ask for each of them from Python takes longer
than to compute it. A CUDA graph records the kernels of a block of steps once and replays all with one call.
What is computed stays the same: the objective, fresh bits for every batch, fused Adam, a rate that falls to 0
along a cosine with every step. Several trainings may share a recording; a GPU that none of them fills
computes them side by side. On a CPU the same blocks of steps simply run.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from course_lib.batches import TRANSFORMS

BLOCK = 20  # steps of one recording


class BitStream:
    """Random batches of fresh bits, whose indices lie in one buffer that recorded steps read.

    Each pass takes the images in a new order, as `course_lib.batches.Batches` does; the noise comes from
    torch's global generator.

    Args:
        pixels: grey levels in 8 bits, shape (N, D), with `BLOCK` batches or more.
        batch_size: images in a batch.
        n_levels: grey levels.
    """

    def __init__(self, pixels: Tensor, batch_size: int, n_levels: int = 256) -> None:
        if len(pixels) < BLOCK * batch_size:
            raise ValueError(
                f"need at least {BLOCK} batches of {batch_size} images, got {len(pixels)} images"
            )
        self.pixels, self.n_levels = pixels, n_levels
        self.indices = torch.zeros(BLOCK, batch_size, dtype=torch.long, device=pixels.device)
        self.order, self.position = self.indices[:0].flatten(), 0

    def refill(self) -> None:
        """Choose the images of the next block."""
        size = self.indices.numel()
        if self.position + size > len(self.order):
            self.order, self.position = torch.randperm(len(self.pixels), device=self.pixels.device), 0
        self.indices.copy_(self.order[self.position : self.position + size].view_as(self.indices))
        self.position += size

    def batch(self, step: int) -> Tensor:
        """The bits of one step of the block."""
        return self.bits(self.pixels.index_select(0, self.indices[step]))

    def bits(self, pixels: Tensor) -> Tensor:
        """Fresh bits for some grey levels."""
        generator: Any = None  # torch's global one, which a recording knows how to continue
        return TRANSFORMS["binarize"](pixels, generator, self.n_levels)


class LabelledBitStream(BitStream):
    """The same with the labelled images, all of them in every batch: ((x, y), x without labels)."""

    def __init__(
        self, pixels: Tensor, batch_size: int, labelled: Tensor, labels: Tensor, n_levels: int = 256
    ) -> None:
        super().__init__(pixels, batch_size, n_levels)
        self.labelled, self.labels = labelled, labels

    def batch(self, step: int) -> Any:
        """The batches of one step of the block."""
        return (self.bits(self.labelled), self.labels), super().batch(step)


@dataclass
class Training:
    """One model to train: what, on which batches, and the learning rate of each module at the first step.

    The objective must not wait for the device, and its batches must have one shape.
    """

    objective: nn.Module
    stream: BitStream
    rates: dict[nn.Module, float]


def train_recorded(
    trainings: Sequence[Training],
    steps: int,
    watch: Callable[[int, list[float]], None] | None = None,
    watched: Sequence[int] = (),
    record: bool = True,
) -> None:
    """Minimise every objective by Adam, with rates that fall to 0 along a cosine.

    Args:
        trainings: on one device; all draw from torch's global generator, one after the other.
        steps: of each, a multiple of `BLOCK`.
        watch: called with the step and the mean loss of its block, after each of the watched steps.
        watched: multiples of `BLOCK`.
        record: whether a GPU replays the steps; False runs them one by one, which takes longer.

    Raises:
        ValueError: steps that are no multiple of `BLOCK`.
        FloatingPointError: a loss is not finite at a watched step or at the end.
    """
    if steps % BLOCK or any(step % BLOCK for step in watched):
        raise ValueError(f"steps and watched steps must be multiples of {BLOCK}, got {steps} and {watched}")
    device = trainings[0].stream.pixels.device
    record = record and device.type == "cuda"
    angles = torch.arange(steps, device=device, dtype=torch.float64) * (math.pi / steps)
    cosine = ((1 + angles.cos()) / 2).float()
    factors, totals = torch.zeros(BLOCK, device=device), torch.zeros(len(trainings), device=device)
    optimizers = [_adam(training.rates, device) for training in trainings]
    sides = [torch.cuda.Stream() for _ in trainings] if record else []
    for training in trainings:
        training.objective.train()

    def steps_of(place: int) -> None:
        training, optimizer = trainings[place], optimizers[place]
        for step in range(BLOCK):
            for group in optimizer.param_groups:
                torch.mul(group["first"], factors[step], out=group["lr"])
            loss = training.objective(training.stream.batch(step))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            totals[place].add_(loss.detach())

    def block() -> None:
        totals.zero_()
        for place in range(len(trainings)):
            if record:
                sides[place].wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(sides[place]):
                    steps_of(place)
            else:
                steps_of(place)
        for side in sides:
            torch.cuda.current_stream().wait_stream(side)

    run = block
    for done in range(0, steps, BLOCK):
        factors.copy_(cosine[done : done + BLOCK])
        for training in trainings:
            training.stream.refill()
        if record and done == BLOCK:  # the first block ran as usual: what is recorded must be allocated
            graph = torch.cuda.CUDAGraph()
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            with torch.cuda.graph(graph):
                block()
            run = graph.replay
        run()
        step = done + BLOCK
        if step in watched or step == steps:
            losses = (totals / BLOCK).tolist()
            if not all(map(math.isfinite, losses)):
                raise FloatingPointError(f"the losses are {losses} at step {step}; lower the learning rate")
            if watch is not None and step in watched:
                watch(step, losses)


def _adam(rates: dict[nn.Module, float], device: torch.device) -> torch.optim.Adam:
    """Fused Adam whose rates are tensors on the device, the first of them kept beside the present one."""
    groups = [
        {
            "params": list(module.parameters()),
            "lr": torch.tensor(rate, device=device),
            "first": torch.tensor(rate, device=device),
        }
        for module, rate in rates.items()
    ]
    return torch.optim.Adam(groups, fused=True, capturable=device.type == "cuda")
