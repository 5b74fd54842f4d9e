"""Steps that a GPU replays from a recording are those of an ordinary loop."""

import copy

import pytest
import torch
from torch import nn

from benchmarks.recorded_steps import BLOCK, BitStream, LabelledBitStream, Training, train_recorded
from course_lib.bounds import NegativeIwaeBound
from course_lib.ssvae import BernoulliSSVAE, GaussianSSVAE, SemiSupervisedObjective
from course_lib.stacked_ssvae import StackedObjective, StackedSSVAE
from course_lib.vae import BernoulliVAE


def pixels(device, n=200, d=12):
    return torch.randint(256, (n, d), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)).to(
        device
    )


def parameters(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


class SquaredLoss(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return (self.layer(x) - 1).square().mean()


def test_it_is_adam_with_a_cosine(device):
    ours = nn.Sequential(nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 1)).to(device)
    reference = copy.deepcopy(ours)
    same = (pixels(device, 1) // 128 * 255).expand(2 * BLOCK, -1)  # all images alike, and without greys
    rates = {ours[0]: 0.02, ours[2]: 0.005}
    steps = 4 * BLOCK
    train_recorded([Training(SquaredLoss(ours), BitStream(same, 2), rates)], steps)
    groups = [
        {"params": reference[0].parameters(), "lr": 0.02},
        {"params": reference[2].parameters(), "lr": 0.005},
    ]
    optimizer = torch.optim.Adam(groups)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        SquaredLoss(reference)((same[:2] / 255).float()).backward()
        optimizer.step()
        scheduler.step()
    torch.testing.assert_close(parameters(ours), parameters(reference), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["iwae", "ssvae", "frozen", "joint"])
def test_a_recording_repeats_the_steps_with_fresh_noise(device, kind):
    x, labels = pixels(device), torch.arange(10, device=device)

    def training():
        if kind == "iwae":
            model = BernoulliVAE(12, 3, (8,)).to(device)
            return Training(NegativeIwaeBound(model, 4), BitStream(x, 4), {model: 1e-3})
        stream = LabelledBitStream(x, 4, x[:10], labels)
        if kind != "ssvae":
            stack = StackedSSVAE(BernoulliVAE(12, 3, (8,)), GaussianSSVAE(3, 10, 2, (8,))).to(device)
            objective = StackedObjective(stack, joint=kind == "joint")
            return Training(objective, stream, {stack if kind == "joint" else stack.ssvae: 1e-3})
        model = BernoulliSSVAE(12, 10, 2, (8,)).to(device)
        return Training(SemiSupervisedObjective(model), stream, {model: 1e-3})

    def trained(record):
        torch.manual_seed(3)
        trainings, losses = [training() for _ in range(3)], []
        watched = range(BLOCK, 7 * BLOCK, BLOCK)
        train_recorded(trainings, 6 * BLOCK, lambda step, values: losses.extend(values), watched, record)
        return torch.cat([parameters(training.objective) for training in trainings]), losses

    (recorded, losses), (one_by_one, _) = trained(True), trained(False)
    torch.testing.assert_close(recorded, one_by_one, rtol=1e-3, atol=1e-4)
    assert len(set(losses)) == 18  # a recording that repeated its noise and its batches would repeat its loss


def test_every_pass_visits_every_image(device):
    stream = BitStream(pixels(device, 2 * BLOCK * 3), 3)
    seen = []
    for _ in range(2):
        stream.refill()
        seen.append(stream.indices.flatten().clone())
    assert torch.equal(torch.cat(seen).sort().values, torch.arange(2 * BLOCK * 3, device=device))


def test_refusals(device):
    with pytest.raises(ValueError, match=f"at least {BLOCK} batches of 50 images, got 200"):
        BitStream(pixels(device), 50)
    model = BernoulliVAE(12, 3, (8,)).to(device)
    objective, stream = NegativeIwaeBound(model), BitStream(pixels(device), 4)
    with pytest.raises(ValueError, match=f"multiples of {BLOCK}, got {BLOCK + 1}"):
        train_recorded([Training(objective, stream, {model: 1e-3})], BLOCK + 1)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        train_recorded([Training(objective, stream, {model: 1e20})], 4 * BLOCK)
