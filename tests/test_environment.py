"""The environment that make creates: torch reused where asked for, no stamp left by an interruption."""

import json

import pytest

from pipeline import environment
from pipeline.environment import main, reusing_constraints
from pipeline.settings import ROOT

LOCKED = [
    "cuda-toolkit==13.0.3",
    "numpy==2.4.6",
    "nvidia-cublas==13.1.1.3",
    "torch==2.14.1",
    "torchvision==0.29.1",
    "torchviz==0.1",
    "triton==3.8.0",
]


def test_without_torch_the_locked_versions_stay():
    assert reusing_constraints(LOCKED, {"numpy": "1.26.0"}) == LOCKED


def test_an_installed_torch_and_its_family_take_the_place_of_the_locked_ones():
    installed = {"torch": "2.9.0+cpu", "torchvision": "0.24.0+cpu", "numpy": "1.26.0", "triton": "3.5.0"}
    assert reusing_constraints(LOCKED, installed) == [
        "numpy==2.4.6",
        "torchviz==0.1",
        "torch==2.9.0+cpu",
        "torchvision==0.24.0+cpu",
        "triton==3.5.0",
    ]


def test_the_real_constraints_lock_torch_and_lose_its_family_when_it_is_reused():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert any(line.startswith("torch==") for line in lines)
    kept = reusing_constraints(lines, {"torch": "2.9.0"})
    family = ("torch==", "torchvision", "torchaudio", "triton", "nvidia", "cuda")
    assert [line for line in kept if line.startswith(family)] == ["torch==2.9.0"]
    assert {line for line in lines if not line.startswith(family)} <= set(kept)


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """What main does to a `.venv` under tmp_path, with the two slow steps replaced by notes."""
    done = []
    (tmp_path / ".venv").mkdir()
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "_create", lambda venv, reuse: done.append(("create", reuse)))
    monkeypatch.setattr(environment, "_install", lambda venv, reuse: done.append(("install", reuse)))
    return done


def test_a_finished_environment_is_updated_in_place(tmp_path, steps):
    main([])
    main([])
    assert steps == [("create", False), ("install", False), ("install", False)]
    assert json.loads((tmp_path / ".venv" / "installed.json").read_text())["reuse"] is False


def test_another_way_to_make_it_starts_afresh(steps):
    main([])
    main(["--reuse"])
    assert steps == [("create", False), ("install", False), ("create", True), ("install", True)]


def test_an_interrupted_installation_leaves_no_stamp_and_starts_afresh(tmp_path, steps, monkeypatch):
    main([])

    def interrupted(venv, reuse):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(environment, "_install", interrupted)
        with pytest.raises(KeyboardInterrupt):
            main([])
    assert not (tmp_path / ".venv" / "installed.json").exists()
    main([])
    assert steps[2:] == [("create", False), ("install", False)]
