"""Checkpoints: a continued run equals one that never stopped, bit for bit; files are whole or absent."""

import copy
import errno
import os
import stat

import pytest
import torch
from oracles import assert_bits_equal
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR

from course_lib.batches import Batches
from course_lib.bounds import NegativeElbo
from course_lib.checkpoint import load_checkpoint, save_checkpoint
from course_lib.training import fit
from course_lib.vae import GaussianVAE

DESCRIPTION = {"model": "vae", "seed": 0}


class Run:
    """A small training run, different at every start: only a checkpoint can make two of them equal."""

    def __init__(self, device="cpu", optimizer="adam", n_latents=2, schedule=None, **settings):
        self.objective = NegativeElbo(GaussianVAE(4, n_latents, (8,))).to(device)
        parameters = self.objective.parameters()
        self.optimizer = {
            "adam": lambda: torch.optim.Adam(parameters, lr=0.01, fused=True),
            "momentum": lambda: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
        }[optimizer]()
        pixels = torch.arange(80, dtype=torch.uint8, device=device).reshape(20, 4)
        seed = int(torch.randint(10_000, ()))
        options = {"batch_size": 6, "transform": "dequantize"} | settings
        self.batches = Batches(pixels[: options.pop("examples", None)], seed=seed, **options)
        self.scheduler = {
            None: lambda _: None,
            "cosine": lambda optimizer: CosineAnnealingLR(optimizer, 25),
            "exponential": lambda optimizer: ExponentialLR(optimizer, 0.9),
        }[schedule](self.optimizer)

    def train(self, first_step, steps):
        parts = self.optimizer, self.scheduler
        return fit(self.objective, self.batches, steps, *parts, log_every=1, first_step=first_step).losses

    def save(self, path, step=10, description=DESCRIPTION):
        save_checkpoint(path, description, step, self.objective, self.optimizer, self.batches, self.scheduler)

    def load(self, path, description=DESCRIPTION):
        parts = self.objective, self.optimizer, self.batches, self.scheduler
        return load_checkpoint(path, description, *parts)

    def state(self):
        parts = (self.objective, self.optimizer, self.batches, self.scheduler)
        return [part and part.state_dict() for part in parts] + [torch.get_rng_state()]


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_a_continued_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, device, optimizer):
    run = Run(device, optimizer)
    run.train(0, 10)
    run.save(tmp_path / "checkpoint.pt")
    losses, state = run.train(10, 25), run.state()

    resumed = Run(device, optimizer)
    assert resumed.load(tmp_path / "checkpoint.pt") == 10
    assert resumed.train(10, 25) == losses
    assert_bits_equal(resumed.state(), state)


def test_a_continued_run_with_a_cosine_schedule_equals_an_uninterrupted_one(tmp_path, device):
    run = Run(device, schedule="cosine")
    run.train(0, 10)
    run.save(tmp_path / "checkpoint.pt")
    losses, state = run.train(10, 25), run.state()
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)

    resumed = Run(device, schedule="cosine")
    resumed.load(tmp_path / "checkpoint.pt")
    assert resumed.train(10, 25) == losses
    assert_bits_equal(resumed.state(), state)


@pytest.mark.parametrize("forgotten", ["objective", "optimizer", "batches", "random state"])
def test_forgetting_any_part_of_the_state_changes_the_run(tmp_path, forgotten):
    run = Run()
    run.train(0, 10)
    run.save(tmp_path / "checkpoint.pt")
    losses = run.train(10, 25)

    resumed, fresh = Run(), Run()
    parts = {name: getattr(resumed, name) for name in ("objective", "optimizer", "batches")}
    if forgotten in parts:
        parts[forgotten] = getattr(fresh, forgotten)
    load_checkpoint(tmp_path / "checkpoint.pt", DESCRIPTION, **parts)
    if forgotten == "random state":
        torch.manual_seed(1)
    assert resumed.train(10, 25) != losses


def test_a_new_checkpoint_replaces_the_old_one_and_leaves_nothing_else(tmp_path):
    run = Run()
    run.save(tmp_path / "checkpoint.pt", step=10)
    run.save(tmp_path / "checkpoint.pt", step=20)
    assert run.load(tmp_path / "checkpoint.pt") == 20
    assert os.listdir(tmp_path) == ["checkpoint.pt"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_checkpoint_is_as_readable_as_other_files(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        Run().save(tmp_path / "checkpoint.pt")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "checkpoint.pt").stat().st_mode) == mode


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_breaks_off_leaves_the_old_file_whole(tmp_path, monkeypatch, error):
    run, path = Run(), tmp_path / "checkpoint.pt"
    run.save(path)
    before = path.read_bytes()

    def half(content, file):
        file.write(before[: len(before) // 2])
        raise error

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(type(error)):
        run.save(path)
    assert os.listdir(tmp_path) == ["checkpoint.pt"]
    assert path.read_bytes() == before
    assert run.load(path) == 10


def test_a_folder_that_is_a_file_cannot_be_saved_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=f"{tmp_path}/file"):
        Run().save(tmp_path / "file" / "checkpoint.pt")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, value):
    run, path = Run(), tmp_path / "checkpoint.pt"
    run.save(path)
    before = path.read_bytes()
    with torch.no_grad():
        run.objective.model.encoder.mean.bias[1] = value
    message = r"after step 20 the weights are no longer finite \(model\.encoder\.mean\.bias\).* Lower"
    with pytest.raises(FloatingPointError, match=message):
        run.save(path, step=20)
    assert path.read_bytes() == before


# Files that cannot be continued from.


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no checkpoint at .*checkpoint\.pt; start .* without --resume"
    ):
        Run().load(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_a_truncated_checkpoint_is_refused(tmp_path, kept):
    path = tmp_path / "checkpoint.pt"
    Run().save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"is not a readable checkpoint \(.*\)\. Delete it and start"):
        Run().load(path)


@pytest.mark.parametrize("content", ["text", {"weights": torch.zeros(3)}, [1, 2]])
def test_a_file_with_something_else_in_it_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="is not a readable checkpoint"):
        Run().load(tmp_path / "checkpoint.pt")


def test_a_checkpoint_of_other_settings_is_refused_with_every_difference_named(tmp_path):
    path, run = tmp_path / "checkpoint.pt", Run()
    run.save(path, description={"model": "vae", "seed": 0, "beta": 4.0})
    before = copy.deepcopy(run.state())
    with pytest.raises(ValueError, match="belongs to another run") as error:
        run.load(path, description={"model": "vae", "seed": 1, "objective": "iwae"})
    for difference in (
        "seed: saved 0, asked for 1",
        "beta: saved 4.0",
        "objective: saved None, asked for 'iwae'",
    ):
        assert difference in str(error.value)
    assert "model:" not in str(error.value)
    assert "Ask for the same settings, or choose another output folder" in str(error.value)
    assert_bits_equal(run.state(), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"n_latents": 3},
            r"holds another model \(.*encoder\.mean\.bias: saved \(3,\), asked for \(2,\).*"
            r"Build the one that was saved, or start a new run",
        ),
        ({"optimizer": "momentum"}, r"holds another optimizer \(group 0: saved .*momentum.*asked for"),
        ({"batch_size": 5}, "saved batches are others .batch_size: saved 5, asked for 6.*Build Batches as"),
        ({"transform": None}, "saved batches are others .transform: saved None, asked for 'dequantize'"),
        ({"n_levels": 100}, "saved batches are others .n_levels: saved 100, asked for 256"),
        ({"examples": 19}, "saved batches are others .examples: saved 19, asked for 20"),
        ({"schedule": "cosine"}, "was saved with a scheduler and none was passed. Pass the schedule of the"),
    ],
)
def test_a_checkpoint_of_other_parts_changes_nothing_even_under_the_same_description(
    tmp_path, settings, message
):
    saved, run = Run(**settings), Run()
    saved.train(0, 3)
    saved.save(tmp_path / "checkpoint.pt")
    before = copy.deepcopy(run.state())
    with pytest.raises(ValueError, match=message):
        run.load(tmp_path / "checkpoint.pt")
    assert_bits_equal(run.state(), before)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (None, "was saved with no scheduler and one was passed"),
        ("exponential", r"holds another scheduler \(entries: saved .*gamma.*asked for .*T_max"),
    ],
)
def test_a_schedule_that_was_not_saved_is_refused(tmp_path, schedule, message):
    Run(schedule=schedule).save(tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=message):
        Run(schedule="cosine").load(tmp_path / "checkpoint.pt")
