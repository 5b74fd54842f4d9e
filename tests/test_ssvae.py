"""The semi-supervised VAE against quadrature, an exact linear Gaussian model and finite differences."""

import math

import numpy as np
import pytest
import scipy.special
import torch
from oracles import standard_errors
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, kl_divergence

from course_lib.bounds import elbo, estimate_log_likelihood, iwae_bound
from course_lib.distributions import diagonal_normal
from course_lib.semi_supervised_model import SSVAE
from course_lib.ssvae import (
    BernoulliSSVAE,
    GaussianSSVAE,
    SemiSupervisedObjective,
    unlabelled_bound,
)

pytestmark = pytest.mark.usefixtures("double_precision")

C, D, L = 3, 6, 2


class LinearM2(SSVAE):
    """p(x | y, z) = N(W z + b_y, σ² I) with orthogonal columns of W: posteriors exact, or spoilt."""

    def __init__(self, temper: float = 1.0, widen: float = 1.0) -> None:
        super().__init__(nn.Identity(), nn.Identity(), nn.Identity(), D, C, L)
        self.weight = nn.Parameter(torch.linalg.qr(torch.randn(D, L)).Q * torch.tensor([1.5, 0.8]))
        self.means, self.noise = nn.Parameter(torch.randn(C, D)), 0.6
        self.temper, self.widen = temper, widen

    def evidence(self) -> MultivariateNormal:
        """p(x | y) of every label."""
        covariance = self.weight @ self.weight.T + self.noise**2 * torch.eye(D).to(self.weight)
        return MultivariateNormal(self.means, covariance)

    def label_posterior(self, x: Tensor) -> Categorical:
        return Categorical(logits=self.temper * self.evidence().log_prob(x.unsqueeze(-2)))

    def likelihood(self, y: Tensor, z: Tensor):
        mean = z @ self.weight.T + self.means[y]
        return diagonal_normal(mean, torch.full_like(mean, self.noise))

    def posterior(self, x: Tensor, y: Tensor):
        precision = 1 + self.weight.square().sum(0) / self.noise**2
        mean = (x - self.means[y]) @ self.weight / self.noise**2 / precision
        return diagonal_normal(mean, self.widen * precision.rsqrt().expand_as(mean))

    def log_likelihood(self, x: Tensor) -> Tensor:
        weights = Categorical(torch.ones(C).to(x))
        return MixtureSameFamily(weights, self.evidence()).log_prob(x)


@pytest.fixture
def tiny(device):
    """An untrained M2 with one latent, steep enough that both of its guesses are wrong."""
    model = BernoulliSSVAE(D, C, 1, hidden=(5,)).to(device)
    for weights in model.parameters():
        weights.data *= 3
    return model


@pytest.fixture
def bits(device):
    return torch.bernoulli(torch.full((4, D), 0.5)).to(device)


def by_quadrature(model: SSVAE, x: Tensor) -> dict[str, np.ndarray]:
    """Everything about an M2 with one latent, in numpy: a loop over labels, a sum over a grid of z."""
    grid = torch.linspace(-40, 40, 16_001).to(x)[:, None, None]
    log_dz = math.log(80 / 16_000)
    log_joint, log_q_z = [], []
    with torch.no_grad():
        for c in range(model.n_classes):
            y = torch.tensor(c, device=x.device)
            log_prior = -0.5 * grid[..., 0].square() - 0.5 * math.log(2 * math.pi) - math.log(model.n_classes)
            log_joint.append((model.likelihood(y, grid).log_prob(x) + log_prior).cpu().numpy())
            log_q_z.append(model.posterior(x, y).log_prob(grid).cpu().numpy())
        logits = model.classifier(x).cpu().numpy()
    log_joint, log_q_z = np.stack(log_joint), np.stack(log_q_z)  # (C, G, B)
    log_q_y = (logits - scipy.special.logsumexp(logits, axis=1, keepdims=True)).T  # (C, B)
    q_z = np.exp(log_q_z + log_dz)
    np.testing.assert_allclose(q_z.sum(1), 1, atol=1e-9)
    log_p_xy = scipy.special.logsumexp(log_joint, axis=1) + log_dz
    log_p_x = scipy.special.logsumexp(log_p_xy, axis=0)
    bound_xy = (q_z * (log_joint - log_q_z)).sum(1)
    kl_z = (q_z * (log_q_z - log_joint + log_p_xy[:, None])).sum(1)
    q_y = np.exp(log_q_y)
    return {
        "log p(x, y)": log_p_xy,
        "log p(x)": log_p_x,
        "labelled": bound_xy,
        "unlabelled": (q_y * (bound_xy - log_q_y)).sum(0),
        "gap": (q_y * (log_q_y - log_p_xy + log_p_x + kl_z)).sum(0),
        "entropy": -(q_y * log_q_y).sum(0),
    }


# The bounds.


def test_unlabelled_bound_is_log_evidence_minus_the_kl_of_label_and_style(tiny, bits):
    exact = by_quadrature(tiny, bits)
    np.testing.assert_allclose(exact["unlabelled"] + exact["gap"], exact["log p(x)"], atol=1e-9)
    with torch.no_grad():
        draws = unlabelled_bound(tiny, bits.repeat(5000, 1)).unflatten(0, (5000, 4))
    truth = torch.as_tensor(exact["unlabelled"]).to(bits)
    assert standard_errors(draws, truth) < 4
    assert (truth < torch.as_tensor(exact["log p(x)"]).to(bits) - 0.01).all()
    forgotten_entropy = draws - torch.as_tensor(exact["entropy"]).to(bits)
    assert standard_errors(forgotten_entropy, truth) > 4


def test_neither_the_labels_prior_nor_its_entropy_may_be_left_out(device):
    model, x = LinearM2().to(device), torch.randn(50, D).to(device)
    with torch.no_grad():
        u, truth = unlabelled_bound(model, x, importance_weighted=True), model.log_likelihood(x)
        q = model.label_posterior(x)
        per_label = iwae_bound(model.given_every_label(), x, 1)  # (C, B)
        without_prior = (q.probs.T * per_label).sum(0) + q.entropy()
        without_entropy = (q.probs.T * per_label).sum(0) - math.log(C)
    torch.testing.assert_close(u, truth, rtol=0, atol=1e-10)
    torch.testing.assert_close(without_prior - truth, torch.full_like(truth, math.log(C)))  # no bound
    torch.testing.assert_close(truth - without_entropy, q.entropy())  # a loose one
    assert q.entropy().max() > 0.1


def test_labelled_bound_is_below_log_p_of_image_and_label_for_every_label(tiny, bits):
    exact = by_quadrature(tiny, bits)
    with torch.no_grad():
        draws = elbo(tiny.given_every_label(), bits, 5000).value  # (C, B)
        samples = torch.stack([elbo(tiny.given_every_label(), bits, 5).value for _ in range(1000)])
    assert draws.shape == (C, 4)
    truth = torch.as_tensor(exact["labelled"]).to(bits) + math.log(C)
    assert standard_errors(samples, truth) < 4
    assert (exact["labelled"] < exact["log p(x, y)"]).all()
    assert standard_errors(samples.transpose(1, 2)[:, :C, :C], truth[:, :C]) > 4  # the axes exchanged


@pytest.mark.parametrize("n_samples", [1, 3])
def test_with_exact_posteriors_every_sample_gives_log_p(n_samples, device):
    model, x = LinearM2().to(device), torch.randn(7, D).to(device)
    truth = model.log_likelihood(x)
    for _ in range(5):
        bound = unlabelled_bound(model, x, n_samples, importance_weighted=True)
        torch.testing.assert_close(bound, truth, rtol=0, atol=1e-10)
    spoilt = unlabelled_bound(_spoil(model, 0.5, 1.0), x, n_samples, importance_weighted=True)
    assert (spoilt < truth - 1e-4).all()


def _spoil(model: LinearM2, temper: float, widen: float) -> LinearM2:
    other = LinearM2(temper, widen).to(model.weight.device)
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize(("temper", "widen"), [(0.5, 1.0), (1.0, 1.4), (0.3, 0.7)])
def test_gap_is_the_classifiers_kl_plus_the_expected_encoders_kl(temper, widen, device):
    model, x = LinearM2().to(device), torch.randn(5, D).to(device)
    spoilt, y = _spoil(model, temper, widen), torch.arange(C, device=device)[:, None]
    with torch.no_grad():
        kl_y = kl_divergence(spoilt.label_posterior(x), model.label_posterior(x))
        kl_z = kl_divergence(spoilt.posterior(x, y), model.posterior(x, y))
        expected = kl_y + (spoilt.label_posterior(x).probs.T * kl_z).sum(0)
        draws = unlabelled_bound(spoilt, x.repeat(4000, 1), importance_weighted=True).unflatten(0, (4000, 5))
        gaps = model.log_likelihood(x) - draws
    # KL(y) alone leaves no noise: every draw is then exact.
    if widen == 1.0:
        torch.testing.assert_close(gaps, expected.expand_as(gaps), rtol=0, atol=1e-9)
    else:
        assert standard_errors(gaps, expected) < 4
        assert standard_errors(gaps, kl_y) > 4


def test_importance_weighted_bound_stays_below_and_is_tighter(tiny, bits):
    exact = torch.as_tensor(by_quadrature(tiny, bits)["log p(x)"]).to(bits)
    with torch.no_grad():
        means = {}
        for k in (1, 20):
            draws = unlabelled_bound(tiny, bits.repeat(2000, 1), k, True).unflatten(0, (2000, 4))
            means[k] = draws.mean(0)
            assert (means[k] < exact + 4 * draws.std(0) / math.sqrt(2000)).all()
    assert (means[20] > means[1]).all()


def test_importance_sampling_with_a_label_gives_log_p_of_the_image_given_it(device):
    model, x = _spoil(LinearM2().to(device), 1.0, 1.3), torch.randn(4, D).to(device)
    truth = model.evidence().log_prob(x.unsqueeze(-2))  # (4, C)
    for c in range(C):
        with torch.no_grad():
            groups = torch.stack(
                [iwae_bound(model.given(torch.tensor(c, device=device)), x, 500) for _ in range(50)]
            )
        estimate = estimate_log_likelihood(model.given(torch.tensor(c, device=device)), x, 20_000)
        four_errors = 4 * groups.std(0) * math.sqrt(500 / 20_000)  # wider posteriors have finite variance
        assert ((estimate - truth[:, c]).abs() < four_errors).all()
        assert ((estimate - truth[:, (c + 1) % C]).abs() > four_errors).any()


# The label axis.


@pytest.mark.parametrize("make", [BernoulliSSVAE, GaussianSSVAE])
def test_label_axis_is_a_python_loop_over_labels(make, device):
    model = make(D, C, L, hidden=(5, 4)).to(device)
    x, noise = torch.rand(4, D).to(device), torch.randn(C, 4, L).to(device)

    def bound(given, noise):
        q = given.posterior(x)
        z = q.mean + q.stddev * noise
        return given.likelihood(z).log_prob(x) - kl_divergence(q, given.prior())

    together = bound(model.given_every_label(), noise)
    one_by_one = torch.stack([bound(model.given(torch.full((4,), c).to(device)), noise[c]) for c in range(C)])
    assert together.shape == (C, 4)
    torch.testing.assert_close(together, one_by_one, rtol=0, atol=1e-10)
    assert not torch.allclose(together[:, :C], one_by_one[:, :C].T)


def test_the_layer_that_sees_images_sees_each_of_them_once(device):
    model, x = BernoulliSSVAE(D, C, L, hidden=(5, 4)).to(device), torch.rand(7, D).to(device)
    seen = {"encoder": [], "decoder": []}
    for name, network in (("encoder", model.encoder), ("decoder", model.decoder)):
        network.inputs.register_forward_hook(
            lambda layer, inputs, output, name=name: seen[name].append(inputs[0].shape[:-1].numel())
        )
    unlabelled_bound(model, x, n_samples=2)
    assert seen["encoder"] == [7]
    assert seen["decoder"] == [2 * C * 7]


def test_batch_of_as_many_images_as_labels_is_not_transposed(device):
    """With B = C a mix-up of the two axes changes no shape, so it must be caught by value."""
    model, x = LinearM2().to(device), torch.randn(C, D).to(device)
    truth = model.log_likelihood(x)
    torch.testing.assert_close(
        unlabelled_bound(model, x, importance_weighted=True), truth, rtol=0, atol=1e-10
    )
    log_q = model.label_posterior(x).logits
    wrong = (log_q.exp() * (iwae_bound(model.given_every_label(), x, 1) - math.log(C) - log_q)).sum(0)
    assert (wrong - truth).abs().min() > 1e-3


def test_an_image_has_the_same_bound_in_every_batch(tiny, bits):
    with torch.no_grad():
        means = [
            unlabelled_bound(tiny, batch.repeat(4000, 1)).unflatten(0, (4000, -1))[:, 0]
            for batch in (bits[:1], bits)
        ]
    difference = means[0].mean() - means[1].mean()
    error = math.sqrt(float(means[0].var() + means[1].var()) / 4000)
    assert abs(difference) < 4 * error


# Gradients.


def test_gradients_equal_finite_differences_with_fixed_noise(device):
    model, x = (
        BernoulliSSVAE(D, C, L, hidden=(4,), activation=nn.Tanh).to(device),
        torch.rand(3, D).to(device),
    )
    parameters = list(model.parameters())

    def value() -> Tensor:
        torch.manual_seed(3)
        return unlabelled_bound(model, x, n_samples=2).sum()

    gradients = torch.autograd.grad(value(), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn_like(parameter)
        with torch.no_grad():
            parameter += 1e-5 * direction
            above = value()
            parameter -= 2e-5 * direction
            below = value()
            parameter += 1e-5 * direction
        slope = (above - below) / 2e-5
        assert float(slope) == pytest.approx(float((gradient * direction).sum()), rel=1e-5, abs=1e-7)


def test_labelled_bound_leaves_the_classifier_alone_and_the_unlabelled_bound_does_not(tiny, bits):
    y = torch.tensor([0, 1, 2, 0], device=bits.device)
    classifier = list(tiny.classifier.parameters())
    labelled = torch.autograd.grad(elbo(tiny.given(y), bits).value.sum(), classifier, allow_unused=True)
    assert labelled == (None,) * len(classifier)
    unlabelled = torch.autograd.grad(unlabelled_bound(tiny, bits).sum(), classifier)
    assert all(gradient.abs().max() > 0 for gradient in unlabelled)


def test_gradient_in_the_logits_is_that_of_the_page(device):
    """∂U/∂ℓ_c = q_c (f_c − log q_c − U), with f from the exact model."""
    model, x = LinearM2(temper=0.4).to(device), torch.randn(4, D).to(device)
    logits = (0.4 * model.evidence().log_prob(x.unsqueeze(-2))).detach().requires_grad_()
    model.label_posterior = lambda x: Categorical(logits=logits)
    u = unlabelled_bound(model, x, importance_weighted=True)
    (gradient,) = torch.autograd.grad(u.sum(), logits)
    f = model.evidence().log_prob(x.unsqueeze(-2)) - math.log(C)
    log_q = logits.log_softmax(-1)
    torch.testing.assert_close(gradient, log_q.exp() * (f - log_q - u[:, None]), rtol=0, atol=1e-10)


# The objective.


def batch(device, n_labelled=4, n_unlabelled=5):
    x, u = torch.rand(n_labelled, D).round(), torch.rand(n_unlabelled, D).round()
    return (x.to(device), (torch.arange(n_labelled) % C).to(device)), u.to(device)


@pytest.mark.parametrize("importance_weighted", [False, True])
def test_objective_is_the_weighted_sum_of_its_three_terms(importance_weighted, device):
    model = BernoulliSSVAE(D, C, L, hidden=(5,)).to(device)
    (x, y), u = given = batch(device)
    torch.manual_seed(5)
    loss = SemiSupervisedObjective(model, 7.0, 0.3, True, 2, importance_weighted)(given)
    torch.manual_seed(5)
    given_y = model.given(y)
    labelled = iwae_bound(given_y, x, 2) if importance_weighted else elbo(given_y, x, 2).value
    unlabelled = unlabelled_bound(model, u, 2, importance_weighted)
    log_q = model.classifier(x).log_softmax(-1)[torch.arange(4), y]
    expected = -0.3 * (labelled - math.log(C)).mean() - unlabelled.mean() - 7 * log_q.mean()
    torch.testing.assert_close(loss, expected)


def test_without_the_generative_terms_the_cross_entropy_is_left(device):
    model = BernoulliSSVAE(D, C, L, hidden=(5,)).to(device)
    (x, y), _ = given = batch(device)
    loss = SemiSupervisedObjective(model, 2.0, generative=False)(given)
    log_q = model.classifier(x).log_softmax(-1)[torch.arange(4), y]
    torch.testing.assert_close(loss, -2 * log_q.mean())
    loss.backward()
    assert all(weights.grad is None for weights in [*model.encoder.parameters(), *model.decoder.parameters()])


def test_objective_teaches_a_separable_problem(device):
    """Two clouds far apart, one label each: every point ends with the label of its cloud."""
    torch.manual_seed(0)
    clouds = torch.cat([torch.randn(40, 2) - 4, torch.randn(40, 2) + 4]).to(device)
    truth = torch.arange(2).repeat_interleave(40).to(device)
    model = GaussianSSVAE(2, 2, 1, hidden=(8,)).to(device)
    objective = SemiSupervisedObjective(model, 1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        objective(((clouds[[0, -1]], truth[[0, -1]]), clouds)).backward()
        optimizer.step()
    assert (model.label_posterior(clouds).logits.argmax(-1) == truth).double().mean() > 0.95


# The model.


def test_shapes_and_support(device):
    model = BernoulliSSVAE(D, C, L, hidden=(5, 4)).to(device)
    y = torch.arange(C, device=device)[:, None]
    assert model.prior().event_shape == (L,)
    assert model.label_prior().probs.tolist() == pytest.approx([1 / C] * C)
    assert model.label_posterior(torch.rand(2, 7, D).to(device)).batch_shape == (2, 7)
    q = model.posterior(torch.rand(7, D).to(device), y)
    assert (q.batch_shape, q.event_shape) == ((C, 7), (L,))
    p = model.likelihood(y, torch.randn(2, C, 7, L).to(device))
    assert (p.batch_shape, p.event_shape) == ((2, C, 7), (D,))
    assert set(p.sample().unique().tolist()) <= {0.0, 1.0}
    assert model.given(torch.tensor(2, device=device)).sample(9).shape == (9, D)


def test_decoder_has_the_hidden_widths_in_reverse():
    model = BernoulliSSVAE(D, C, L, hidden=(5, 4))
    widths = {
        name: [layer.out_features for layer in network.modules() if isinstance(layer, nn.Linear)]
        for name, network in (("encoder", model.encoder), ("decoder", model.decoder))
    }
    assert widths == {"encoder": [5, 4, L, L], "decoder": [4, 5, D]}


def test_gaussian_decoder_keeps_its_floor(device):
    model = GaussianSSVAE(D, C, L, hidden=(5,), min_std=0.3).to(device)
    nn.init.constant_(model.decoder.network.log_std.bias, -1000.0)
    p = model.likelihood(torch.tensor(0, device=device), torch.zeros(4, L).to(device))
    assert p.stddev.min().item() == pytest.approx(0.3)


def test_saved_weights_are_loaded_again(device):
    one, other = (BernoulliSSVAE(D, C, L, hidden=(5,)).to(device) for _ in range(2))
    other.load_state_dict(one.state_dict())
    x = torch.rand(3, D).to(device)
    torch.testing.assert_close(one.label_posterior(x).logits, other.label_posterior(x).logits)


# What is refused.


@pytest.mark.parametrize("wrong", [-1, C, 255])
def test_labels_out_of_range_are_refused(wrong, device):
    model = BernoulliSSVAE(D, C, L, hidden=(5,)).to(device)
    (x, y), u = batch(device)
    y[2] = wrong
    message = rf"y must be labels 0 … {C - 1}, got values from"
    with torch.no_grad(), pytest.raises(ValueError, match=message):
        SemiSupervisedObjective(model)(((x, y), u))
    with torch.no_grad(), pytest.raises(ValueError, match=message):
        model.given(y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bool])
def test_labels_that_are_no_whole_numbers_are_refused(dtype, device):
    model = BernoulliSSVAE(D, C, L, hidden=(5,)).to(device)
    (x, y), u = batch(device)
    with pytest.raises(
        ValueError, match=r"y must hold whole numbers, got torch\.\w+; convert with \.long\(\)"
    ):
        SemiSupervisedObjective(model)(((x, y.to(dtype)), u))


@pytest.mark.parametrize("shape", [(4, 1), (1,), (), (3,)])
def test_labels_in_another_shape_are_refused(shape, device):
    model = BernoulliSSVAE(D, C, L, hidden=(5,)).to(device)
    (x, _), u = batch(device)
    y = torch.zeros(shape, dtype=torch.long, device=device)
    with pytest.raises(ValueError, match=r"y must have the shape \(4,\), a label an image, got"):
        SemiSupervisedObjective(model)(((x, y), u))


@pytest.mark.parametrize("width", [1, D - 1, D + 1])
def test_images_of_another_width_are_refused(width, device):
    model = BernoulliSSVAE(D, C, L, hidden=(5,)).to(device)
    (x, y), u = batch(device)
    message = rf"x has shape \(\d, {width}\); its last axis must have this model's n_inputs={D}"
    with pytest.raises(ValueError, match=message):
        unlabelled_bound(model, torch.rand(5, width).to(device))
    with pytest.raises(ValueError, match=message):
        SemiSupervisedObjective(model)(((torch.rand(4, width).to(device), y), u))
    with pytest.raises(ValueError, match=message):
        SemiSupervisedObjective(model)(((x, y), torch.rand(5, width).to(device)))
    with pytest.raises(ValueError, match=message):
        model.label_posterior(torch.rand(5, width).to(device))


@pytest.mark.parametrize("shape", [(0, D), (D,), (2, 3, D)])
def test_what_is_no_batch_of_images_is_refused(shape, device):
    model = BernoulliSSVAE(D, C, L, hidden=(5,)).to(device)
    (x, y), u = batch(device)
    wrong = torch.rand(shape).to(device)
    with pytest.raises(ValueError, match=r"x must have the shape \(B, D\) with B ≥ 1, got"):
        SemiSupervisedObjective(model)(((x, y), wrong))
    with pytest.raises(ValueError, match=r"x with labels must have the shape \(B, D\) with B ≥ 1, got"):
        SemiSupervisedObjective(model)(((wrong, y), u))


@pytest.mark.parametrize("n_samples", [0, -1, 1.0, True])
def test_too_few_samples_are_refused(n_samples, device):
    model = BernoulliSSVAE(D, C, L, hidden=(5,)).to(device)
    message = "n_samples must be a whole number of at least 1"
    with pytest.raises(ValueError, match=message):
        SemiSupervisedObjective(model, n_samples=n_samples)
    for importance_weighted in (False, True):
        with pytest.raises(ValueError, match=message):
            unlabelled_bound(model, torch.rand(2, D).to(device), n_samples, importance_weighted)


@pytest.mark.parametrize("name", ["classifier_weight", "labelled_weight"])
@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_weights_that_are_none_are_refused(name, weight):
    model = BernoulliSSVAE(D, C, L, hidden=(5,))
    with pytest.raises(ValueError, match=f"{name} must be a finite number of at least 0, got {weight}"):
        SemiSupervisedObjective(model, **{name: weight})


@pytest.mark.parametrize("make", [BernoulliSSVAE, GaussianSSVAE])
def test_models_that_are_none_are_refused(make):
    with pytest.raises(ValueError, match="n_classes must be a whole number of at least 2, got 1"):
        make(D, 1, L)
    with pytest.raises(ValueError, match="n_latents must be a whole number of at least 1, got 0"):
        make(D, C, 0)
    with pytest.raises(ValueError, match="hidden must hold at least one width"):
        make(D, C, L, hidden=())
