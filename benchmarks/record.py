"""What every result file says about the run that made it, and how it is written."""

import datetime
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import course_lib

RESULTS = Path(__file__).parent / "results"


def machine(device: torch.device) -> dict[str, Any]:
    """The device, threads and versions of this run."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"CPU ({_processor()})",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "course_lib": course_lib.__version__,
        "date": datetime.date.today().isoformat(),
    }


def _processor() -> str:
    """The processor's name, which only Linux tells in a file."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    return names[0].split(":")[1].strip() if names else platform.processor() or platform.machine()


def reset_peak_memory() -> None:
    """Start measuring the peak anew, where the system allows it (Linux)."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def peak_memory_gib() -> float:
    """The most memory this process has held since the last reset, interpreter and libraries included."""
    status = Path("/proc/self/status")
    if status.exists():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30  # bytes on macOS, never reset


def seconds(run: Callable[[], None], device: torch.device) -> float:
    """Wall-clock time of one call, the device's queue included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def interleaved_seconds(
    runs: dict[str, Callable[[], None]], device: torch.device, repeats: int
) -> dict[str, list[float]]:
    """Wall-clock times of every run, by turns, after one round that warms the caches up."""
    rounds = [{name: seconds(run, device) for name, run in runs.items()} for _ in range(repeats + 1)]
    return {name: [times[name] for times in rounds[1:]] for name in runs}


def report_speed(
    name: str,
    times: dict[str, list[float]],
    device: torch.device,
    peers: Sequence[str],
    work: str,
    details: str,
) -> None:
    """Print the medians beside the products and the peers, and write `results/speed_<name>_<device>.json`.

    Args:
        name: of the result.
        times: of every run, one of them called products and the others by the names of the peers among them.
        device: where they ran.
        peers: the runs that the others are compared with.
        work: what was timed, for the screen and the protocol.
        details: what else the protocol says.
    """
    medians = {run: statistics.median(values) for run, values in times.items()}
    repeats = len(times["products"])
    print(f"{work}, {torch.get_num_threads()} threads, {device}")
    for run, median in medians.items():
        print(
            f"{run:13s} {median:7.3f} s   {median / medians['products']:5.2f} × the products   "
            + "   ".join(f"{medians[peer] / median:5.2f} × faster than {peer}" for peer in peers)
        )
    content = {
        "kind": "speed",
        "protocol": f"{work}{details}; medians of {repeats} interleaved repeats in one process",
        "seconds": medians,
        "repeats": times,
        "machine": machine(device),
    }
    print(f"written to {write(f'speed_{name}_{device.type}', content)}")


def write(name: str, content: dict[str, Any]) -> Path:
    """Write `results/<name>.json`, whole or not at all."""
    path = RESULTS / f"{name}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    os.replace(partial, path)
    return path
