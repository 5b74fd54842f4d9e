"""Checkpoints: a continued run equals one that never stopped, bit for bit; files are whole or absent."""

import errno
import os

import pytest
import torch

from course_lib.batches import Batches
from course_lib.bounds import NegativeElbo
from course_lib.checkpoint import load_checkpoint, save_checkpoint
from course_lib.training import fit
from course_lib.vae import GaussianVAE

DESCRIPTION = {"model": "vae", "seed": 0}


class Run:
    """A small training run, different at every start: only a checkpoint can make two of them equal."""

    def __init__(self, device="cpu", optimizer="adam", n_latents=2):
        self.objective = NegativeElbo(GaussianVAE(4, n_latents, (8,))).to(device)
        parameters = self.objective.parameters()
        self.optimizer = {
            "adam": lambda: torch.optim.Adam(parameters, lr=0.01, fused=True),
            "momentum": lambda: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
        }[optimizer]()
        pixels = torch.arange(80, dtype=torch.uint8, device=device).reshape(20, 4)
        seed = int(torch.randint(10_000, ()))
        self.batches = Batches(pixels, batch_size=6, transform="dequantize", seed=seed)

    def train(self, first_step, steps):
        return fit(
            self.objective, self.batches, steps, self.optimizer, log_every=1, first_step=first_step
        ).losses

    def save(self, path, step=10, description=DESCRIPTION):
        save_checkpoint(path, description, step, self.objective, self.optimizer, self.batches)

    def load(self, path, description=DESCRIPTION):
        return load_checkpoint(path, description, self.objective, self.optimizer, self.batches)

    def state(self):
        parts = (self.objective, self.optimizer, self.batches)
        return [part.state_dict() for part in parts] + [torch.get_rng_state()]


def assert_bits_equal(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


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
    before = run.state()
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


def test_a_checkpoint_of_another_model_is_refused_even_under_the_same_description(tmp_path):
    Run(n_latents=3).save(tmp_path / "checkpoint.pt")
    message = (
        r"holds another model \(.*size mismatch for .*\)\. Build the one that was saved, or start a new run"
    )
    with pytest.raises(ValueError, match=message):
        Run(n_latents=2).load(tmp_path / "checkpoint.pt")
