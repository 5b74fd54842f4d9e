"""The bounds against models whose evidence is known: PPCA, enumeration, quadrature, finite differences."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from oracles import (
    GaussianMixture,
    MixturePriorModel,
    OtherPosteriorPPCA,
    gaussian_expectation,
    random_ppca,
    standard_errors,
)
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence
from torch.func import functional_call

from course_lib import bounds
from course_lib.bounds import (
    NegativeElbo,
    NegativeIwaeBound,
    elbo,
    estimate_log_likelihood,
    iwae_bound,
    log_importance_weights,
    naive_log_likelihood,
)
from course_lib.vae import GaussianVAE

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.fixture
def ppca(device):
    return random_ppca(device=device)


@pytest.fixture
def x(device):
    return torch.randn(3, 5, device=device)


@pytest.fixture
def bimodal(device):
    """The model with the mixture prior, and two points of shape (2, 1)."""
    return MixturePriorModel().to(device), torch.tensor([[-1.0], [2.5]], device=device)


def repeated(x, n):
    """The same examples n times on a new first axis, so that one call gives n independent values."""
    return x.expand(n, *x.shape)


def log_weight_at(model, x):
    """z ↦ log p(x | z) + log p(z) − log q(z | x), the definition."""
    q = model.posterior(x)
    return lambda z: model.likelihood(z).log_prob(x) + model.prior().log_prob(z) - q.log_prob(z)


# The exact posterior: no gap, whatever the number of samples.


@torch.no_grad()
def test_with_the_exact_posterior_every_log_weight_is_the_log_evidence(ppca, x):
    truth = ppca.log_likelihood(x)
    log_weights = log_importance_weights(ppca, x, 50)
    assert log_weights.shape == (50, 3)
    torch.testing.assert_close(log_weights, truth.expand(50, 3), rtol=0, atol=1e-10)
    torch.testing.assert_close(elbo(ppca, x, 3).value, truth, rtol=0, atol=1e-10)
    torch.testing.assert_close(iwae_bound(ppca, x, 3), truth, rtol=0, atol=1e-10)
    torch.testing.assert_close(estimate_log_likelihood(ppca, x, 7, chunk=4), truth, rtol=0, atol=1e-10)

    q = ppca.posterior(x)  # the mistake that log_importance_weights' docstring warns of
    kl = kl_divergence(q, MultivariateNormal(torch.zeros_like(q.mean), torch.eye(2).to(x)))
    kl_inside_the_weight = ppca.likelihood(q.sample((50,))).log_prob(x) - kl
    assert (kl_inside_the_weight - truth).abs().max() > 0.1


@torch.no_grad()
def test_objectives_are_the_negative_batch_means_of_their_bounds(ppca, x):
    truth = -ppca.log_likelihood(x).mean()
    torch.testing.assert_close(NegativeElbo(ppca, n_samples=2)(x), truth)
    torch.testing.assert_close(NegativeIwaeBound(ppca, n_samples=2)(x), truth)


def test_leading_axes_of_x_are_batch_axes(ppca, device):
    x = torch.randn(4, 3, 5, device=device)
    truth = ppca.log_likelihood(x)
    assert log_importance_weights(ppca, x, 6).shape == (6, 4, 3)
    torch.testing.assert_close(elbo(ppca, x, 6).value, truth)
    torch.testing.assert_close(iwae_bound(ppca, x, 6), truth)


@torch.no_grad()
def test_in_single_precision_and_784_pixels_the_bounds_are_exact_to_a_five_hundredth_of_a_nat(device):
    """Against the same model in double precision, where log p(x) is near −900 nats."""
    ppca = random_ppca(784, 10, device)
    x = ppca.sample(20)
    truth, single = ppca.log_likelihood(x), copy.deepcopy(ppca).float()
    for values in (
        log_importance_weights(single, x.float(), 50),
        elbo(single, x.float(), 3).value,
        iwae_bound(single, x.float(), 50),
        estimate_log_likelihood(single, x.float(), 50, chunk=70),
    ):
        assert values.dtype == torch.float32
        torch.testing.assert_close(values.double(), truth.expand(values.shape), rtol=0, atol=0.002)
    torch.testing.assert_close(single.log_likelihood(x.float()).double(), truth, rtol=0, atol=0.03)


# Another posterior: the gap is a known KL divergence.


@torch.no_grad()
@pytest.mark.parametrize("n_samples", [1, 5])
def test_elbo_gap_is_the_kl_divergence_to_the_exact_posterior(ppca, x, n_samples):
    other = OtherPosteriorPPCA.like(ppca)
    q = other.posterior(x)
    gap = kl_divergence(MultivariateNormal(q.mean, q.stddev.square().diag_embed()), ppca.posterior(x))
    bound = elbo(other, repeated(x, 10_000), n_samples)
    assert bound.closed_form_kl
    assert standard_errors(bound.value, ppca.log_likelihood(x) - gap) < 4
    assert standard_errors(bound.reconstruction - 2 * bound.kl, ppca.log_likelihood(x) - gap) > 4


@torch.no_grad()
def test_elbo_terms_are_the_expected_log_likelihood_and_the_kl(ppca, x):
    other = OtherPosteriorPPCA.like(ppca)
    q, noise_variance = other.posterior(x), ppca.noise_std.square()
    scatter = torch.einsum("dl,bl->b", ppca.weight.square(), q.stddev.square())  # tr(W S Wᵀ)
    expected = ppca.likelihood(q.mean).log_prob(x) - scatter / (2 * noise_variance)
    bound = elbo(other, repeated(x, 10_000))
    assert standard_errors(bound.reconstruction, expected) < 4
    assert standard_errors(bound.reconstruction, ppca.likelihood(q.mean).log_prob(x)) > 4
    torch.testing.assert_close(bound.kl[0], kl_divergence(q, ppca.prior()))


@torch.no_grad()
@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_beta_weights_the_kl_alone(ppca, x, beta):
    other = OtherPosteriorPPCA.like(ppca)
    bound = elbo(other, x, beta=beta)
    torch.testing.assert_close(bound.reconstruction - bound.value, beta * bound.kl)

    q = MultivariateNormal(other.posterior(x).mean, other.posterior(x).variance.diag_embed())
    prior = MultivariateNormal(torch.zeros_like(q.mean), torch.eye(2).to(x))
    gap, kl = kl_divergence(q, ppca.posterior(x)), kl_divergence(q, prior)
    value = (ppca.log_likelihood(x) - gap - (beta - 1) * kl).mean()
    objective = NegativeElbo(other, beta=beta, n_samples=2)
    losses = torch.stack([objective(repeated(x, 100)) for _ in range(200)])
    assert standard_errors(losses, -value) < 4
    assert standard_errors(losses, -value + kl.mean()) > 4  # β off by one
    assert standard_errors(3 * losses, -value) > 4  # a sum over the batch of three


# A prior without a closed-form KL, checked by quadrature.


@torch.no_grad()
def test_sampled_kl_is_unbiased_and_says_that_it_is_sampled(bimodal):
    model, x = bimodal
    q, prior = model.posterior(x), model.prior()
    truth = gaussian_expectation(lambda z: q.log_prob(z) - prior.log_prob(z), q)
    bound = elbo(model, repeated(x, 20_000))
    assert not bound.closed_form_kl
    assert standard_errors(bound.kl, truth) < 4
    assert standard_errors(bound.kl, 2 * truth) > 4
    torch.testing.assert_close(bound.value, bound.reconstruction - bound.kl)


@torch.no_grad()
def test_importance_weights_are_unbiased_for_the_evidence(bimodal):
    model, x = bimodal
    evidence = model.log_likelihood(x).exp()
    torch.testing.assert_close(
        gaussian_expectation(lambda z: log_weight_at(model, x)(z).exp(), model.posterior(x)), evidence
    )
    weights = log_importance_weights(model, x, 20_000).exp()
    assert standard_errors(weights, evidence) < 4
    assert standard_errors(weights, 1.1 * evidence) > 4


@torch.no_grad()
def test_iwae_bound_with_one_sample_has_the_mean_of_the_elbo(bimodal):
    model, x = bimodal
    truth = gaussian_expectation(log_weight_at(model, x), model.posterior(x))
    assert standard_errors(elbo(model, repeated(x, 20_000)).value, truth) < 4
    assert standard_errors(iwae_bound(model, repeated(x, 20_000), 1), truth) < 4


@torch.no_grad()
def test_iwae_bound_with_two_samples_has_the_mean_of_its_double_integral(bimodal):
    model, x = bimodal
    q, log_weight = model.posterior(x), log_weight_at(model, x)

    def log_mean_of_two(z):
        pairs = torch.logaddexp(log_weight(z).unsqueeze(1), log_weight(z)) - math.log(2)
        return gaussian_expectation(lambda _: pairs, q)  # the inner integral, over the second sample

    truth = gaussian_expectation(log_mean_of_two, q)
    assert standard_errors(iwae_bound(model, repeated(x, 20_000), 2), truth) < 4
    mean_of_logs = log_importance_weights(model, repeated(x, 20_000), 2).mean(0)
    assert standard_errors(mean_of_logs, truth) > 4


@torch.no_grad()
def test_iwae_bound_rises_with_the_number_of_samples_towards_the_evidence(bimodal):
    model, x = bimodal
    bounds_by_k = [iwae_bound(model, repeated(x, 10_000), k) for k in (1, 2, 5, 64)]
    for lower, higher in pairwise(bounds_by_k):
        rise = higher - lower  # of independent runs, so its standard error is that of the difference
        assert (rise.mean(0) > 4 * rise.std(0) / math.sqrt(len(rise))).all()
    gap = model.log_likelihood(x) - bounds_by_k[-1]
    assert (gap.mean(0) > -4 * gap.std(0) / math.sqrt(len(gap))).all()
    assert (gap.mean(0) < 0.05).all()


# The estimate of log p(x).


def test_estimate_log_likelihood_is_the_iwae_bound_of_the_same_random_numbers(bimodal):
    model, x = bimodal
    torch.manual_seed(3)
    bound = iwae_bound(model, x, 100)
    torch.manual_seed(3)
    estimate = estimate_log_likelihood(model, x, 100)
    torch.testing.assert_close(estimate, bound)
    assert not estimate.requires_grad


@pytest.mark.parametrize("chunk", [1, 7, 10, 25, 30, 99, 1000])
def test_estimate_log_likelihood_visits_every_pair_once_in_chunks_of_bounded_size(monkeypatch, x, chunk):
    """Prepared log-weights, handed out by example and sample, so that the answer is exact."""
    table = 30 * torch.randn(10, 3, device=x.device)
    given, sizes = [0, 0, 0], []

    def prepared(model, examples, n_samples):
        sizes.append(n_samples * len(examples))
        columns = [int((x == example).all(1).nonzero()) for example in examples]
        starts = [given[column] for column in columns]
        for column in columns:
            given[column] += n_samples
        rows = [table[s : s + n_samples, c] for s, c in zip(starts, columns, strict=True)]
        return torch.stack(rows, 1)

    monkeypatch.setattr(bounds, "log_importance_weights", prepared)
    estimate = estimate_log_likelihood(None, x, 10, chunk)
    torch.testing.assert_close(estimate, table.exp().mean(0).log())
    assert given == [10, 10, 10]
    assert max(sizes) <= chunk


@pytest.mark.parametrize("chunk", [64, 5000, 1_000_000])
def test_estimate_log_likelihood_converges_to_the_evidence_for_any_chunk(ppca, x, chunk):
    """The s.e. of log(mean w) is that of the mean of w, relative to p(x) (delta method)."""
    other, truth = OtherPosteriorPPCA.like(ppca), ppca.log_likelihood(x)
    k = 20_000
    relative_weights = (log_importance_weights(other, x, k) - truth).exp()
    standard_error = relative_weights.std(0) / math.sqrt(k)
    error = estimate_log_likelihood(other, x, k, chunk) - truth
    assert (error.abs() < 4 * standard_error).all()
    assert (standard_error < 0.05).all()
    lower_bound = log_importance_weights(other, x, k).mean(0)  # the mean of the logs
    assert ((lower_bound - truth).abs() > 4 * standard_error).all()


# The estimate from prior samples.


@torch.no_grad()
@pytest.mark.parametrize("chunk", [64, 1_000_000])
def test_naive_log_likelihood_converges_to_the_evidence_with_the_variance_of_theory(ppca, x, chunk):
    """E p(x|z)² under the prior is (4πσ²)^(−D/2) times the density of a PPCA with half the noise variance."""
    truth, variance, k = ppca.log_likelihood(x), ppca.noise_std**2, 4000
    covariance = ppca.weight @ ppca.weight.T + variance / 2 * torch.eye(5).to(x)
    square = MultivariateNormal(ppca.bias, covariance).log_prob(x) - 2.5 * (4 * math.pi * variance).log()
    relative_variance = ((square - 2 * truth).exp() - 1) / k
    estimates = torch.stack([naive_log_likelihood(ppca, x, k, chunk) for _ in range(60)])
    weights = (estimates - truth).exp()
    assert standard_errors(weights, torch.ones_like(truth)) < 4
    assert standard_errors(weights, torch.full_like(truth, 1.2)) > 4
    spread = weights.var(0) / relative_variance  # the s.e. of a sample variance is about sqrt(2/59)
    assert (spread - 1).abs().max() < 4 * math.sqrt(2 / 59)
    errors = weights[:, 0] - 1, weights[:, 1] - 1  # of two examples: independent
    correlation = (errors[0] * errors[1]).mean() / (errors[0].std() * errors[1].std())
    assert correlation.abs() < 4 / math.sqrt(60)


@torch.no_grad()
def test_naive_log_likelihood_is_below_the_evidence_on_average(ppca, x):
    estimates = torch.stack([naive_log_likelihood(ppca, x, 3) for _ in range(1000)])
    assert standard_errors(estimates, ppca.log_likelihood(x)) > 4
    assert (estimates.mean(0) < ppca.log_likelihood(x)).all()


@torch.no_grad()
def test_naive_log_likelihood_draws_discrete_latents_and_ignores_the_posterior(device):
    model, x = GaussianMixture().to(device), torch.randn(4, 2, device=device)
    truth = model.log_joint(x).logsumexp(-1)
    model.posterior = None
    relative = torch.stack([naive_log_likelihood(model, x, 500) for _ in range(60)]).sub(truth).exp()
    assert standard_errors(relative, torch.ones_like(truth)) < 4
    assert standard_errors(relative, torch.full_like(truth, 1.1)) > 4


# A discrete latent variable, summed over.


@torch.no_grad()
def test_elbo_of_a_discrete_latent_variable_agrees_with_enumeration(device):
    model, x = GaussianMixture().to(device), torch.randn(2, 2, device=device)
    q = model.posterior(x).probs
    truth = (q * (model.log_joint(x) - q.log())).sum(-1)
    bound = elbo(model, repeated(x, 5000), 2)
    assert bound.closed_form_kl
    torch.testing.assert_close(bound.kl[0], (q * (q / model.probabilities).log()).sum(-1))
    assert standard_errors(bound.value, truth) < 4
    assert standard_errors(bound.value, model.log_joint(x).logsumexp(-1)) > 4
    assert standard_errors(iwae_bound(model, repeated(x, 5000), 1), truth) < 4


@torch.no_grad()
def test_exact_discrete_posterior_gives_the_enumerated_evidence(device):
    model, x = GaussianMixture(exact=True).to(device), torch.randn(4, 2, device=device)
    truth = model.log_joint(x).logsumexp(-1)
    torch.testing.assert_close(log_importance_weights(model, x, 9), truth.expand(9, 4))
    torch.testing.assert_close(estimate_log_likelihood(model, x, 9, chunk=5), truth)


@pytest.mark.parametrize("bound", [elbo, iwae_bound, log_importance_weights])
def test_a_gradient_through_discrete_samples_is_refused(bound):
    with pytest.raises(ValueError, match=r"Categorical has no reparametrised sampler.*torch\.no_grad\(\)"):
        bound(GaussianMixture(), torch.randn(4, 2), 2)


# Gradients, compilation, parallel training.


def frozen_noise(objective, x):
    """The loss as a function of the parameters alone, and those parameters."""
    names, parameters = zip(*objective.named_parameters(), strict=True)

    def loss(*values):
        torch.manual_seed(5)
        return functional_call(objective, dict(zip(names, values, strict=True)), x)

    return loss, parameters


@pytest.mark.parametrize("objective", [NegativeElbo, NegativeIwaeBound])
@pytest.mark.parametrize("closed_form_kl", [True, False])
def test_gradients_equal_finite_differences_with_frozen_noise(objective, closed_form_kl):
    model = GaussianVAE(3, 2, (3,)) if closed_form_kl else MixturePriorModel()
    x = torch.randn(4, 3 if closed_form_kl else 1)
    assert torch.autograd.gradcheck(*frozen_noise(objective(model, n_samples=2), x))


def test_gradients_without_reparametrisation_differ_from_finite_differences(monkeypatch):
    draw = bounds.draw_latents
    monkeypatch.setattr(bounds, "draw_latents", lambda *arguments: draw(*arguments).detach())
    loss, parameters = frozen_noise(NegativeElbo(GaussianVAE(3, 2, (3,))), torch.randn(4, 3))
    assert not torch.autograd.gradcheck(loss, parameters, raise_exception=False)


def gradients(objective, x):
    """Loss and gradients under one seed."""
    torch.manual_seed(5)
    loss = objective(x)
    return loss, torch.autograd.grad(loss, list(objective.parameters()))


@pytest.mark.parametrize("objective", [NegativeElbo, NegativeIwaeBound])
def test_objectives_compile_into_one_graph(objective, device):
    plain = objective(GaussianVAE(6, 2, (4,)).to(device))
    x = torch.rand(5, 6, device=device)
    plain(x)  # the first KL of two types searches torch's table of formulas, which no compiler can follow
    compiled = torch.compile(plain, backend="eager", fullgraph=True)
    torch.testing.assert_close(gradients(compiled, x), gradients(plain, x))


def test_objectives_train_inside_distributed_data_parallel(tmp_path):
    plain, x = NegativeElbo(GaussianVAE(6, 2, (4,))), torch.rand(5, 6)
    expected = gradients(plain, x)[1]
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        torch.manual_seed(5)
        nn.parallel.DistributedDataParallel(plain)(x).backward()
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close([parameter.grad for parameter in plain.parameters()], list(expected))


# Bad input.


@pytest.mark.parametrize("n_samples", [0, -3, 1e3])
@pytest.mark.parametrize(
    "call",
    [
        lambda model, x, k: elbo(model, x, k),
        log_importance_weights,
        iwae_bound,
        estimate_log_likelihood,
        naive_log_likelihood,
        lambda model, x, k: NegativeElbo(model, n_samples=k),
        lambda model, x, k: NegativeIwaeBound(model, k),
    ],
)
def test_no_samples_are_refused(call, n_samples):
    with pytest.raises(ValueError, match=f"n_samples must be a whole number of at least 1, got {n_samples}"):
        call(random_ppca(), torch.randn(3, 5), n_samples)


@pytest.mark.parametrize(
    ("shape", "chunk", "message"),
    [
        ((5,), 10, r"x must hold floats in the shape \(N, D\), N ≥ 1, got torch.float64 of \(5,\)"),
        ((0, 5), 10, r"x must hold floats in the shape \(N, D\), N ≥ 1, got torch.float64 of \(0, 5\)"),
        ((3, 5), 0, "chunk must be a whole number of at least 1, got 0"),
        ((3, 5), 10.0, "chunk must be a whole number of at least 1, got 10.0"),
        ((3, 1), 10, r"x has shape \(\d, 1\); its last axis must have this model's n_pixels=5"),
    ],
)
@pytest.mark.parametrize("estimate", [estimate_log_likelihood, naive_log_likelihood])
def test_estimates_refuse_what_they_cannot_split(estimate, shape, chunk, message):
    with pytest.raises(ValueError, match=message):
        estimate(random_ppca(), torch.randn(shape), 4, chunk)


@pytest.mark.parametrize("estimate", [estimate_log_likelihood, naive_log_likelihood])
def test_estimates_refuse_grey_levels(estimate):
    with pytest.raises(ValueError, match=r"x must hold floats .* got torch.uint8 of \(3, 5\)"):
        estimate(random_ppca(), torch.zeros(3, 5, dtype=torch.uint8), 4)
