"""What torch's allocator really hands out on the CPU, the temporaries inside its operations included."""

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile


def peak_allocated(call: Callable[[], Any]) -> int:
    """The most bytes of tensors alive at one time during the call, beyond those alive before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    live = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    del result
    return peak
