"""M1+M2 against quadrature over both of its latents, and the two ways of training it."""

import math

import pytest
import torch
from oracles import standard_errors

from course_lib.ssvae import GaussianSSVAE, SemiSupervisedObjective
from course_lib.stacked_ssvae import StackedObjective, StackedSSVAE
from course_lib.vae import BernoulliVAE

pytestmark = pytest.mark.usefixtures("double_precision")

C, D, N = 2, 4, 3


@pytest.fixture
def stack(device):
    """An untrained stack with a code of one number and one latent, steep enough to be no good guess."""
    model = StackedSSVAE(BernoulliVAE(D, 1, (5,)), GaussianSSVAE(1, C, 1, (5,), min_std=0.3)).to(device)
    for weights in model.parameters():
        weights.data *= 2
    return model


@pytest.fixture
def bits(device):
    return torch.bernoulli(torch.full((N, D), 0.5)).to(device)


@torch.no_grad()
def by_quadrature(model, x):
    """log p(x), and the bound of an image without label, by sums over grids of z₁ and z₂; shape (N,) each."""
    grid = torch.linspace(-30, 30, 1501).to(x)
    log_step = math.log(60 / 1500)
    log_prior = -0.5 * grid.square() - 0.5 * math.log(2 * math.pi)  # of z₂
    codes, latents = grid[:, None], grid[:, None, None]
    log_image = model.vae.likelihood(codes[:, None]).log_prob(x)  # (z₁, N)
    log_q_code = model.vae.posterior(x).log_prob(codes[:, None])  # (z₁, N)
    per_label, bounds = [], []
    for label in range(C):
        y = torch.tensor(label, device=x.device)
        given = model.ssvae.given(y)
        log_code = given.likelihood(latents).log_prob(codes)  # (z₂, z₁)
        per_label.append((log_code + log_prior[:, None] + log_step).logsumexp(0))  # log p(z₁ | y)
        q = given.posterior(codes)
        log_q = q.log_prob(latents)  # (z₂, z₁)
        bounds.append((log_q.exp() * (log_code + log_prior[:, None] - log_q)).sum(0) * math.exp(log_step))
    log_half = math.log(1 / C)
    log_marginal = (torch.stack(per_label) + log_half).logsumexp(0)  # log p(z₁)
    log_evidence = (log_image + log_marginal[:, None] + log_step).logsumexp(0)
    log_q_label = model.ssvae.label_posterior(codes).logits.T
    of_code = (log_q_label.exp() * (torch.stack(bounds) + log_half - log_q_label)).sum(0)
    bound = (log_q_code.exp() * (log_image - log_q_code + of_code[:, None])).sum(0) * math.exp(log_step)
    return log_evidence, bound


def draws_of_the_bound(model, x, n_draws):
    """The joint objective of each image alone, repeated: minus the bound, one sample of z₁ and z₂ a draw."""
    objective = StackedObjective(model, classifier_weight=0, labelled_weight=0, joint=True)
    labelled = x[:1], torch.zeros(1, dtype=torch.long, device=x.device)
    with torch.no_grad():
        values = [[-objective((labelled, image.expand(200, D))) for image in x] for _ in range(n_draws)]
    return torch.tensor(values)


def test_the_joint_objective_is_the_bound_of_the_whole_stack(stack, bits):
    log_evidence, bound = (value.cpu() for value in by_quadrature(stack, bits))
    assert (bound < log_evidence - 1e-3).all()
    draws = draws_of_the_bound(stack, bits, 60)
    assert standard_errors(draws, bound) < 4
    assert standard_errors(draws, log_evidence) > 4  # the control: the gap is seen


def test_in_stages_it_is_m2_of_the_codes_and_the_vae_is_left_alone(stack, bits):
    y = torch.tensor([0, 1, 1], device=bits.device)
    torch.manual_seed(1)
    loss = StackedObjective(stack, 3.0, 0.5)(((bits, y), bits))
    loss.backward()
    assert all(parameter.grad is None for parameter in stack.vae.parameters())
    assert all(parameter.grad is not None for parameter in stack.ssvae.parameters())
    torch.manual_seed(1)
    codes = [stack.vae.posterior(bits).sample() for _ in range(2)]
    expected = SemiSupervisedObjective(stack.ssvae, 3.0, 0.5)(((codes[0], y), codes[1]))
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)


def test_the_joint_gradient_reaches_both_networks_and_equals_finite_differences(stack, bits):
    y = torch.tensor([0, 1, 1], device=bits.device)
    objective = StackedObjective(stack, 3.0, 0.5, joint=True)

    def loss():
        torch.manual_seed(1)
        return objective(((bits, y), bits))

    loss().backward()
    step = 1e-6
    for parameter in stack.parameters():
        where = parameter.grad.abs().argmax()
        slope, place = parameter.grad.flatten()[where], parameter.data.view(-1)
        values = []
        for sign in (1, -1):
            place[where] += sign * step
            values.append(loss().item())
            place[where] -= sign * step
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope.item(), rel=1e-5, abs=1e-7)
    assert stack.vae.encoder.mean.weight.grad.abs().max() > 0


def test_the_classifier_reads_the_mean_code(stack, bits):
    expected = stack.ssvae.label_posterior(stack.vae.encoder(bits).mean)
    torch.testing.assert_close(stack.label_posterior(bits).logits, expected.logits)


def test_models_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"codes have 3 entries, but the SSVAE was built for 2"):
        StackedSSVAE(BernoulliVAE(D, 3, (5,)), GaussianSSVAE(2, C, 1, (5,)))
