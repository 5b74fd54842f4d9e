"""Reproduce a published number: `python benchmarks/reproduce.py NAME`.

Each run follows a stated protocol on real MNIST and writes `benchmarks/results/<name>.json`, which the
book's page of reproductions shows beside the published value.
"""

import argparse
import statistics
from typing import Any

import torch
from flow_runs import FLOW_RUNS
from iwae_runs import IWAE_RUNS
from rbm_runs import RBM_RUNS
from record import machine, write
from ssvae_runs import SSVAE_RUNS
from vae_runs import VAE_RUNS

from course_lib.data import default_device

RUNS: dict[str, dict[str, Any]] = VAE_RUNS | RBM_RUNS | IWAE_RUNS | SSVAE_RUNS | FLOW_RUNS
SECONDS = ("training", "evaluation")
COSTS = (*SECONDS, "evaluation memory")


def reproduce(name: str, seeds: list[int], device: torch.device) -> dict[str, Any]:
    """Run one entry for every seed and gather means, spreads, times and the machine."""
    entry = RUNS[name]
    if "run_all" in entry:  # all seeds side by side
        runs: list[dict[str, float]] = entry["run_all"](seeds, device)
    else:
        runs = [entry["run"](seed, device) for seed in seeds]
    quantities = [key for key in runs[0] if key not in COSTS]
    return {
        "kind": "reproduction",
        **{key: entry[key] for key in ("model", "protocol", "published", "source", "unit", "steps")},
        "seeds": seeds,
        "ours": {
            key: {
                "mean": statistics.mean(values := [result[key] for result in runs]),
                "spread": statistics.stdev(values) if len(values) > 1 else None,
                "values": values,
            }
            for key in quantities
        },
        "seconds": {key: statistics.median(result[key] for result in runs) for key in SECONDS},
        "peak_memory_gib": max(result["evaluation memory"] for result in runs),
        "machine": machine(device),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("name", choices=sorted(RUNS))
    arguments.add_argument("--seeds", type=int, nargs="+", help="default: those of the committed result")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--device", default=None, help="default: the GPU if there is one")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device) if options.device else default_device()
    result = reproduce(options.name, options.seeds or RUNS[options.name]["seeds"], device)
    for key, value in result["ours"].items():
        spread = f" ± {value['spread']:.2f}" if value["spread"] is not None else ""
        print(f"{key:48s} {value['mean']:8.2f}{spread}   published {result['published'].get(key, '–')}")
    print(
        f"training {result['seconds']['training']:.0f} s, evaluation {result['seconds']['evaluation']:.0f} s"
    )
    path = write(options.name, result)
    print(f"peak memory of the evaluation {result['peak_memory_gib']:.2f} GiB; written to {path}")


if __name__ == "__main__":
    main()
