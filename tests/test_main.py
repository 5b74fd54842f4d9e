"""`python -m course_lib train`: what it writes, how it continues, and how it refuses."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch
from oracles import assert_bits_equal, random_ppca
from torchvision import datasets

import course_lib.__main__ as command_line
from course_lib.data import load_images
from course_lib.ssvae import BernoulliSSVAE

SETTINGS = [
    *("--dataset", "digits", "--device", "cpu", "--quiet"),
    *("--hidden", "8", "--n-latents", "2", "--learning-rate", "0.01"),
]
SMALL = ["train", "vae", *SETTINGS]
OWN = {"vae": [], "gmvae": ["--n-components", 7], "ssvae": ["--labels", 50, "--classifier-weight", 20]}


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    """The reader's own settings do not reach these tests."""
    for variable in ("COURSE_DATASET", "COURSE_DATA_DIR", "COURSE_DEVICE"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


def train(out, *options, model="vae"):
    """Run the command in this process; its exit code."""
    return command_line.main(["train", model, *SETTINGS, "--out", str(out), *map(str, options)])


def records(out):
    """The JSON lines, without the wall-clock times."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def checkpoint(out):
    return torch.load(out / "checkpoint.pt", weights_only=True)


def contents(folder):
    """Every file below a folder with its bytes."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(capsys):
    """The one line on stderr."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("course_lib: ")
    return line


# A run.


def test_the_command_writes_metrics_and_a_checkpoint(out, monkeypatch):
    monkeypatch.delenv("COURSE_PROGRESS")  # so that --quiet alone hides the bar
    command = [sys.executable, "-m", "course_lib", *SMALL, "--steps", "120", "--out", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == f"results in {out}: metrics.jsonl, checkpoint.pt\n"
    assert result.stderr == ""
    assert sorted(os.listdir(out)) == ["checkpoint.pt", "metrics.jsonl"]
    *losses, test = records(out)
    assert [line["step"] for line in losses] == [50, 100, 120]
    assert losses[0]["loss"] > losses[-1]["loss"]
    assert test["step"] == 120
    assert 0 < test["test_negative_elbo"] < 64 * math.log(2)  # the cost of 64 fair coins
    assert checkpoint(out)["step"] == 120


def test_the_seed_decides_the_weights_and_the_order_of_the_data(tmp_path):
    def run(name, seed):
        assert train(tmp_path / name, "--steps", 1, "--seed", seed) == 0
        content = checkpoint(tmp_path / name)
        return content["objective"]["model.decoder.logits.bias"], content["batches"]["order"]

    first, again, other = run("first", 0), run("again", 0), run("other", 1)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(first, other, strict=True))


def test_the_bar_is_shown_unless_quiet(out, capsys, monkeypatch):
    monkeypatch.delenv("COURSE_PROGRESS")
    loud = [option for option in SMALL if option != "--quiet"]
    assert command_line.main([*loud, "--steps", "5", "--out", str(out)]) == 0
    assert "5/5" in capsys.readouterr().err


def test_test_negative_elbo_is_the_mean_over_all_examples_in_parts(device):
    ppca, x = random_ppca(device=device), torch.randn(2500, 5, device=device)
    mean = command_line.test_negative_elbo(ppca, x)  # its ELBO is log p(x) exactly
    assert mean == pytest.approx(-ppca.log_likelihood(x).mean().item(), rel=1e-5)


@pytest.mark.parametrize("objective", ["elbo", "iwae"])
@pytest.mark.parametrize("model", ["vae", "gmvae", "ssvae"])
def test_every_model_learns_with_every_objective(out, model, objective):
    options = ["--objective", objective, "--n-samples", 3, "--steps", 200, *OWN[model]]
    assert train(out, *options, model=model) == 0
    *losses, test = records(out)
    assert losses[-1]["loss"] < losses[0]["loss"]
    assert 0 < test["test_negative_elbo"] < 64 * math.log(2)  # the cost of 64 fair coins
    assert ("test_accuracy" in test) == (model == "ssvae")
    description = checkpoint(out)["description"]
    assert {"model": model, "objective": objective, "n_samples": 3}.items() <= description.items()
    names, values = OWN[model][::2], OWN[model][1::2]
    own = {name.strip("-").replace("-", "_"): value for name, value in zip(names, values, strict=True)}
    assert own.items() <= description.items()


@pytest.mark.parametrize("model", ["vae", "gmvae", "ssvae"])
def test_the_objective_asked_for_is_the_one_that_trains(tmp_path, model):
    """With equal seeds the first losses differ only by the bound: the importance-weighted one is tighter."""
    loss = {}
    for objective in ("elbo", "iwae"):
        options = ["--objective", objective, "--n-samples", 20, "--learning-rate", 1e-9]
        assert train(tmp_path / objective, *options, "--steps", 10, *OWN[model], model=model) == 0
        loss[objective] = records(tmp_path / objective)[0]["loss"]
    assert loss["iwae"] < loss["elbo"]


@pytest.mark.parametrize(
    ("model", "objective", "n_samples"),
    [("vae", "elbo", 1), ("gmvae", "iwae", 50), ("ssvae", "elbo", 1), ("ssvae", "iwae", 5)],
)
def test_the_defaults_are_those_that_help_states(out, model, objective, n_samples):
    assert train(out, "--objective", objective, "--steps", 1, model=model) == 0
    description = checkpoint(out)["description"]
    assert description["n_samples"] == n_samples
    defaults = {"n_components": 500, "labels": 100, "classifier_weight": 100.0}
    own = {"vae": [], "gmvae": ["n_components"], "ssvae": ["labels", "classifier_weight"]}[model]
    assert {name: description.get(name) for name in own} == {name: defaults[name] for name in own}
    assert not (defaults.keys() - set(own)) & description.keys()


def test_the_accuracy_of_ssvae_is_counted_on_the_whole_test_set(out):
    assert train(out, "--steps", 400, "--labels", 500, model="ssvae") == 0
    accuracy = records(out)[-1]["test_accuracy"]
    saved = checkpoint(out)["objective"]
    model = BernoulliSSVAE(64, 10, 2, (8,))
    model.load_state_dict({name.removeprefix("model."): value for name, value in saved.items()})
    images = load_images("digits", "cpu")
    with torch.no_grad():
        right = model.classifier(images.evaluation()).argmax(-1) == images.test_labels
    assert len(right) == 297
    assert accuracy == pytest.approx(right.sum().item() / 297, abs=1e-12)
    assert accuracy > 0.5  # chance is 0.1


def test_only_the_labels_asked_for_reach_the_objective(out, monkeypatch):
    seen = []
    objective = command_line.SemiSupervisedObjective

    class Spy(objective):
        def forward(self, batch):
            seen.append(batch[0])
            return super().forward(batch)

    monkeypatch.setattr(command_line, "SemiSupervisedObjective", Spy)
    assert train(out, "--steps", 3, "--labels", 20, model="ssvae") == 0
    for _, y in seen:  # twenty labels are a whole batch
        assert y.bincount().tolist() == [2] * 10


def test_a_checkpoint_is_saved_at_the_first_log_after_each_interval_and_at_the_end(out, monkeypatch):
    saved = []
    monkeypatch.setattr(
        command_line, "save_checkpoint", lambda path, description, step, *_: saved.append(step)
    )
    assert train(out, "--steps", 330, "--checkpoint-every", 70) == 0
    assert saved == [100, 150, 250, 300, 330]  # past 70, 140, 210, 280


# An interruption.


def interrupt(monkeypatch, at_step):
    """Let the next run die in the middle of writing one line of metrics."""
    append = command_line.append

    def dying(metrics, values):
        if values["step"] < at_step:
            return append(metrics, values)
        with metrics.open("a") as file:
            file.write('{"step": ')
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "append", dying)


@pytest.mark.parametrize("objective", ["elbo", "iwae"])
@pytest.mark.parametrize("model", ["vae", "gmvae", "ssvae"])
def test_an_interrupted_run_continues_as_if_nothing_had_happened(
    tmp_path, monkeypatch, device, model, objective
):
    options = ["--objective", objective, "--n-samples", 2, "--device", device.type, *OWN[model]]
    options += ["--steps", 300, "--checkpoint-every", 100]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train(whole, *options, model=model) == 0
    with monkeypatch.context() as patch:
        interrupt(patch, at_step=300)
        with pytest.raises(KeyboardInterrupt):
            train(broken, *options, model=model)
    assert checkpoint(broken)["step"] == 200
    assert (broken / "metrics.jsonl").read_text().endswith('{"step": ')

    assert train(broken, *options, "--resume", model=model) == 0
    assert records(broken) == records(whole)
    ours, theirs = checkpoint(broken), checkpoint(whole)
    assert ours.pop("description") == theirs.pop("description")
    assert_bits_equal(ours, theirs)


def test_a_finished_run_can_be_prolonged(out):
    assert train(out, "--steps", 100) == 0
    assert train(out, "--steps", 200, "--resume") == 0
    assert [line["step"] for line in records(out)] == [50, 100, 150, 200, 200]
    assert ["test_negative_elbo" in line for line in records(out)] == [False] * 4 + [True]


# Refusals: exit code 2, one line with the cause and the cure, and every file left as it was.


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (["--n-latents", 3], "n_latents: saved 2, asked for 3"),
        (["--hidden", 8, 8], "hidden: saved [8], asked for [8, 8]"),
        (["--objective", "iwae"], "objective: saved 'elbo', asked for 'iwae'"),
        (["--n-samples", 5], "n_samples: saved 1, asked for 5"),
        (["--seed", 1], "seed: saved 0, asked for 1"),
        (["--batch-size", 50], "batch_size: saved 100, asked for 50"),
        (["--learning-rate", 0.5], "learning_rate: saved 0.01, asked for 0.5"),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(out, capsys, options, difference):
    assert train(out, "--steps", 10) == 0
    before = contents(out)
    capsys.readouterr()
    assert train(out, "--steps", 20, *options, "--resume") == 2
    line = refusal(capsys)
    assert difference in line
    assert "Ask for the same settings, or choose another output folder" in line
    assert contents(out) == before


@pytest.mark.parametrize(
    ("model", "other", "options", "difference"),
    [
        ("vae", "gmvae", ["--n-components", 7], "model: saved 'vae', asked for 'gmvae'"),
        ("gmvae", "gmvae", ["--n-components", 8], "n_components: saved 7, asked for 8"),
        ("ssvae", "ssvae", ["--labels", 60], "labels: saved 50, asked for 60"),
        ("ssvae", "ssvae", ["--classifier-weight", 5], "classifier_weight: saved 20.0, asked for 5.0"),
    ],
)
def test_the_checkpoint_of_another_model_is_refused(out, capsys, model, other, options, difference):
    assert train(out, "--steps", 2, *OWN[model], model=model) == 0
    before = contents(out)
    capsys.readouterr()
    own = [] if model != other else OWN[other]
    assert train(out, "--steps", 4, *own, *options, "--resume", model=other) == 2
    assert difference in refusal(capsys)
    assert contents(out) == before


def test_a_truncated_checkpoint_is_refused(out, capsys):
    assert train(out, "--steps", 10) == 0
    path = out / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-100])
    before = contents(out)
    capsys.readouterr()
    assert train(out, "--steps", 20, "--resume") == 2
    assert "Delete it and start the run without --resume" in refusal(capsys)
    assert contents(out) == before


def test_an_existing_run_is_neither_overwritten_nor_shortened(out, capsys):
    assert train(out, "--steps", 10) == 0
    before = contents(out)
    capsys.readouterr()
    assert train(out, "--steps", 10) == 2
    assert "holds a run already; continue it with --resume or choose another --out" in refusal(capsys)
    assert train(out, "--steps", 5, "--resume") == 2
    assert "has taken 10 steps; ask for --steps 10 or more" in refusal(capsys)
    assert contents(out) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resume"], "no checkpoint at {out}/checkpoint.pt; start the run without --resume"),
        (["--n-samples", 0], "n_samples must be a whole number of at least 1, got 0"),
        (["--objective", "iwae", "--n-samples", 0], "n_samples must be a whole number of at least 1, got 0"),
        (["--steps", 0], "--steps must be at least 1, got 0"),
        (["--checkpoint-every", 0], "--checkpoint-every must be at least 1, got 0"),
        (["--n-latents", 0], "--n-latents must be at least 1, got 0"),
        (["--hidden", 8, 0], "--hidden must be widths of at least 1, got [8, 0]"),
        (["--batch-size", 0], "batch_size must be between 1 and the 1500 examples, got 0"),
        (["--batch-size", 1501], "batch_size must be between 1 and the 1500 examples, got 1501"),
        (["--learning-rate", -1], "Invalid learning rate: -1.0"),
        (["--device", "gpu"], "cannot compute on device 'gpu'"),
    ],
)
def test_options_that_make_no_run_are_refused_before_anything_is_written(out, capsys, options, message):
    assert train(out, *options) == 2
    assert message.format(out=out) in refusal(capsys)
    assert not out.exists()


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("vae", ["--n-components", 5], "--n-components belongs to gmvae, got it with vae; leave it out, or"),
        (
            "vae",
            ["--labels", 100],
            "--labels belongs to ssvae, got it with vae; leave it out, or train ssvae",
        ),
        ("gmvae", ["--classifier-weight", 1], "--classifier-weight belongs to ssvae, got it with gmvae"),
        ("ssvae", ["--n-components", 5], "--n-components belongs to gmvae, got it with ssvae"),
        ("gmvae", ["--n-components", 0], "n_components must be a whole number of at least 1, got 0"),
        ("ssvae", ["--labels", 105], "--labels must be a multiple of the 10 classes, so that each has"),
        ("ssvae", ["--labels", 0], "--labels must be a multiple of the 10 classes"),
        ("ssvae", ["--labels", 2000], "fewer than n_per_class=200"),
        ("ssvae", ["--classifier-weight", -1], "--classifier-weight must be at least 0, got -1.0"),
        ("ssvae", ["--classifier-weight", "nan"], "--classifier-weight must be at least 0, got nan"),
        ("ssvae", ["--hidden"], "--hidden must name at least one width"),
        ("ssvae", ["--n-samples", 0], "n_samples must be a whole number of at least 1, got 0"),
    ],
)
def test_options_that_do_not_fit_the_model_are_refused(out, capsys, model, options, message):
    assert train(out, *options, model=model) == 2
    assert message in refusal(capsys)
    assert not out.exists()


def test_an_unwritable_folder_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert train(tmp_path / "file" / "run") == 2
    line = refusal(capsys)
    assert f"cannot write to --out {tmp_path}/file/run" in line
    assert "choose another folder" in line
    assert contents(tmp_path) == {"file": b"mine"}


def test_an_unknown_data_set_is_refused(out, capsys, monkeypatch):
    with pytest.raises(SystemExit) as stop:
        train(out, "--dataset", "minst")
    assert stop.value.code == 2
    assert "invalid choice: 'minst' (choose from" in capsys.readouterr().err

    monkeypatch.setenv("COURSE_DATASET", "minst")
    assert command_line.main(["train", "vae", "--out", str(out)]) == 2
    line = refusal(capsys)
    assert "unknown data set 'minst'; COURSE_DATASET and name may be one of ['digits', 'mnist'" in line
    assert not out.exists()


def test_data_that_cannot_be_downloaded_is_refused(out, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    assert train(out, "--dataset", "mnist") == 2
    assert "could not be downloaded" in (line := refusal(capsys))
    assert "COURSE_DATASET=digits" in line
    assert contents(tmp_path) == {}


def test_a_damaged_data_file_is_refused(out, tiny_mnist, capsys, monkeypatch):
    monkeypatch.setenv("COURSE_DATA_DIR", str(tiny_mnist))
    path = tiny_mnist / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:5000])
    assert train(out, "--dataset", "mnist") == 2
    assert "the mnist files in" in (line := refusal(capsys))
    assert "Delete that folder" in line
    assert not out.exists()


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_what_was_written(out, capsys):
    assert train(out, "--steps", 100, "--learning-rate", 1e30) == 2
    assert "the loss became nan between steps 1 and 50. Lower the learning rate" in refusal(capsys)
    assert contents(out) == {"metrics.jsonl": b""}


def test_a_run_that_ends_with_weights_gone_astray_fails(out, capsys):
    """One step at this rate makes weights of ±1e30: finite, and so was the loss before them."""
    assert train(out, "--steps", 1, "--learning-rate", 1e30) == 2
    line = refusal(capsys)
    assert "the negative ELBO of the test set is nan after step 1: the weights have run away" in line
    assert "lower --learning-rate" in line
    assert ["loss" in values for values in records(out)] == [True]


def test_weights_that_are_not_finite_never_reach_a_checkpoint(out, capsys):
    assert train(out, "--steps", 1, "--learning-rate", "inf") == 2
    assert "after step 1 the weights are no longer finite" in refusal(capsys)
    assert "checkpoint.pt" not in contents(out)


def test_metrics_are_json_without_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        command_line.append(tmp_path / "metrics.jsonl", {"step": 1, "loss": float("nan")})
    assert contents(tmp_path) == {}
