# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% tags=["variant"]
import math

import torch
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

SEED = int(rng.integers(1000))
N_PIXELS = int(rng.integers(9, 17))
N_LATENTS = int(rng.integers(2, 5))
BATCH = int(rng.integers(6, 9))
BETA = float(rng.choice([0.5, 2.0, 3.0, 4.0]))
N_COMPONENTS = int(rng.integers(3, 6))
N_SAMPLES = int(rng.integers(3, 6))
SHIFT = round(float(rng.uniform(0.1, 0.3)), 2)
SCALE = round(float(rng.uniform(1.4, 1.6)), 2)
COUNTS = [16, 32, 64, 128, 256]
N_CLASSES = int(rng.integers(3, 6))
N_PER_CLASS = int(rng.integers(3, 6))
ALPHA = float(rng.choice([2.0, 5.0, 10.0]))
RHO = float(rng.choice([0.1, 0.25, 0.5]))
NOISE_VARIANCE = float(rng.choice([0.5, 1.0, 1.5]))
BETA_LINEAR = float(rng.choice([2.0, 3.0, 4.0]))
DATA_VARIANCE = BETA_LINEAR * NOISE_VARIANCE + float(rng.choice([1.0, 2.0, 3.0]))
WEIGHT_SQUARED = DATA_VARIANCE - BETA_LINEAR * NOISE_VARIANCE
MODEL_VARIANCE = WEIGHT_SQUARED + NOISE_VARIANCE
THRESHOLD_BETA = round(DATA_VARIANCE / NOISE_VARIANCE, 3)
CODE_SLOPE_SQUARED = round(WEIGHT_SQUARED / DATA_VARIANCE**2, 4)
CODE_VARIANCE = round(BETA_LINEAR * NOISE_VARIANCE / DATA_VARIANCE, 4)
GAP = float(rng.choice([2.0, 2.5, 3.0, 3.5, 4.0]))
TOLERANCE = float(rng.choice([0.01, 0.02, 0.05]))
GAP_V = round(2.718281828459045 ** (2 * GAP) - 1)
GAP_K = round((2.718281828459045 ** (2 * GAP) - 1) / (2 * TOLERANCE))
GAP_FIRST_K = round((2.718281828459045 ** (2 * GAP) - 1) / (2 * GAP))
# The true gap of K log-normal weights, by log x = ∫ (e^-t - e^-xt)/t dt, with y = log t.
grid_z, grid_y = torch.linspace(-12, 15, 2701).double(), torch.linspace(-45, 12, 401).double()
lognormal = ((2 * GAP) ** 0.5 * grid_z - GAP).exp()
grid_p = 0.01 * (-(grid_z**2) / 2).exp() / math.sqrt(2 * math.pi)


def true_gap(k):
    tail = -torch.expm1(-grid_y.exp()[:, None] / k * lognormal) @ grid_p
    return float(((k * torch.log1p(-tail)).exp() - (-grid_y.exp()).exp()).sum() * (grid_y[1] - grid_y[0]))


low, high = 0.0, 2 * math.log(GAP_K)
for _ in range(40):
    middle = (low + high) / 2
    low, high = (middle, high) if true_gap(math.exp(middle)) > TOLERANCE else (low, middle)
GAP_TRUE_K = int(float(f"{math.exp(high):.2g}"))
GAP_AT_LAW = float(f"{true_gap(GAP_K):.2g}")
GAP_AT_FIRST = float(f"{true_gap(GAP_FIRST_K):.2g}")


# What public tests compare with stands in them as numbers: their files reach the students, formulas do not.
def drawn(*shape):
    """Normal numbers with two decimals."""
    return torch.from_numpy(rng.normal(size=shape)).mul(100).round() / 100


def numbers(*tensors):
    """The right value first, then those of the mistakes."""
    return [torch.as_tensor(value).tolist() for value in tensors]


def gradient(value, *leaves):
    return torch.stack(torch.autograd.grad(value, leaves, retain_graph=True))


# vae_loss: a linear decoder.
x, mean, eps = (drawn(BATCH, N_PIXELS) > 0).double(), drawn(BATCH, N_LATENTS), drawn(BATCH, N_LATENTS)
log_std, weight = drawn(BATCH, N_LATENTS) / 2, 0.4 * drawn(N_LATENTS, N_PIXELS)
VAE_X, VAE_MEAN, VAE_LOG_STD, VAE_NOISE, VAE_WEIGHT = numbers(x, mean, log_std, eps, weight)


def kl_of(variance, log_variance):
    return 0.5 * (mean**2 + variance - 1 - log_variance).sum(-1)


def score(z):
    return (x * (z @ weight) - F.softplus(z @ weight)).sum(-1)


right = kl_of((2 * log_std).exp(), 2 * log_std)
KL_VALUES = numbers(
    right,
    2 * right,
    -right,
    kl_of(log_std.exp(), log_std),
    kl_of(log_std.exp(), 2 * log_std),
    right / N_LATENTS,
    kl_of((2 * log_std).exp(), log_std),
)
kl, right = right, score(mean + log_std.exp() * eps)
loss = (BETA * kl - right).mean()
LOSSES = numbers(
    loss,
    (kl - BETA * right).mean(),
    (kl - right).mean(),
    -loss,
    -(BETA * kl + right).mean(),
    BATCH * loss,
    (BETA * kl - right / N_PIXELS).mean(),
)
SCORES = numbers(
    right,
    right / N_PIXELS,
    -right,
    score(mean),
    score(mean + (2 * log_std).exp() * eps),
    score(mean + (log_std / 2).exp() * eps),
    score(mean + log_std * eps),
    score(-mean - log_std.exp() * eps),
)

# mixture_kl: one component, and several.
mean, log_std, eps = drawn(BATCH, N_LATENTS) / 2, drawn(BATCH, N_LATENTS) / 2, drawn(BATCH, N_LATENTS)
centres, widths = drawn(N_COMPONENTS, N_LATENTS), drawn(N_COMPONENTS, N_LATENTS) / 2
logits = drawn(N_COMPONENTS)
CODES, MIXTURE = numbers(mean, log_std, eps), numbers(logits, centres, widths)
z, q = mean + log_std.exp() * eps, Normal(mean, log_std.exp())
log_q, one = q.log_prob(z).sum(-1), Normal(centres[0], widths[0].exp())
log_p = one.log_prob(z).sum(-1)
ONE_VALUES = numbers(
    log_q - log_p,
    log_p - log_q,
    log_q - log_p - logits[0],
    log_q - Normal(centres[0], (widths[0] / 2).exp()).log_prob(z).sum(-1),
    log_q - log_p + log_std.sum(-1),
    log_q - log_p - widths[0].sum(),
    kl_divergence(q, one).sum(-1),
    (q.log_prob(mean) - one.log_prob(mean)).sum(-1),
)
log_c = Normal(centres, widths.exp()).log_prob(z[:, None]).sum(-1)
log_pi = logits.log_softmax(0)
MIXTURE_VALUES = numbers(
    log_q - (log_pi + log_c).logsumexp(-1),
    log_q - (log_pi.exp() * log_c).sum(-1),
    log_q - log_c.amax(-1),
    log_q - (log_pi + log_c).amax(-1),
    log_q - log_c.logsumexp(-1),
    log_q - log_c.logsumexp(-1) + math.log(N_COMPONENTS),
    log_q - (logits + log_c).logsumexp(-1),
    (log_pi + log_c).logsumexp(-1) - log_q,
)

# iwae_bound: one sample, and several.
a, b, c = drawn(BATCH) - 3, drawn(BATCH) - 3, drawn(BATCH) - 3
SINGLE_TERMS, SINGLE_BOUNDS = numbers(a, b, c), numbers(a + b - c, a + b + c, a - c, c - a - b)
a, b, c = (2 * drawn(BATCH * N_SAMPLES) - 3 for _ in range(3))
MANY_TERMS, log_w, log_k = numbers(a, b, c), a + b - c, math.log(N_SAMPLES)
rows, folded = log_w.reshape(BATCH, N_SAMPLES), log_w.reshape(N_SAMPLES, BATCH)
kl = (c - b).reshape(BATCH, N_SAMPLES).mean(1, keepdim=True)
MANY_BOUNDS = numbers(
    rows.logsumexp(1) - log_k,
    folded.logsumexp(0) - log_k,
    rows.mean(1),
    rows.logsumexp(1),
    rows.logsumexp(1) + log_k,
    (a.reshape(BATCH, N_SAMPLES) - kl).logsumexp(1) - log_k,
    rows.amax(1),
)

# iwae_surrogate: values, and gradients in log w.
log_w = (2 * drawn(N_SAMPLES, BATCH) - 3).requires_grad_()
LOG_WEIGHTS, share, across = log_w.tolist(), log_w.softmax(0), log_w.softmax(1)
loss = -(share * log_w).sum(0).mean()
SURROGATES = numbers(
    loss,
    -loss,
    -(across * log_w).sum(0).mean(),
    loss * BATCH,
    loss / N_SAMPLES,
    -log_w.mean(),
    math.log(N_SAMPLES) - log_w.logsumexp(0).mean(),
    -(log_w.exp() * log_w).sum(0).mean(),
)
SURROGATE_GRADIENTS = numbers(
    -share / BATCH,
    gradient(loss, log_w)[0],
    -across / BATCH,
    torch.full((N_SAMPLES, BATCH), -1 / log_w.numel()),
    -(share**2) / BATCH,
)

# dreg_surrogate: gradients in (μ, log σ).
mean, log_std = drawn(BATCH, N_LATENTS).requires_grad_(), (drawn(BATCH, N_LATENTS) / 2).requires_grad_()
eps = drawn(N_SAMPLES, BATCH, N_LATENTS)
ENCODED, ENCODED_NOISE = numbers(mean, log_std), eps.tolist()
z = mean + log_std.exp() * eps
log_joint = (z.cos() - z**2).sum(-1)
full = log_joint - Normal(mean, log_std.exp()).log_prob(z).sum(-1)
path = log_joint - Normal(mean.detach(), log_std.detach().exp()).log_prob(z).sum(-1)
share = path.detach().softmax(0)
DREG_GRADIENTS = numbers(
    *(
        gradient(-term.sum(0).mean(), mean, log_std)
        for term in (
            share**2 * path,
            share * path,
            share**2 * full,
            full.softmax(0).detach() * full,
            path.softmax(0) ** 2 * path,
            path.detach().softmax(1) ** 2 * path,
        )
    )
)

# bias_slope: 120 weights, and the factor of the law.
log_r = drawn(120) - 0.5
LOG_R, r = log_r.tolist(), log_r.exp()
means = [r.reshape(-1, k).mean(1) for k in (1, 4, 30)]


def gaps_of(blocks, sign=1):
    return torch.stack([(sign * (b - 1) - b.log()).mean() for b in blocks])


GAP_VALUES = numbers(
    gaps_of(means),
    gaps_of(means, 0),
    gaps_of(means, -1),
    (r - 1 - log_r).mean().expand(3),
    gaps_of([r.reshape(k, -1).mean(0) for k in (1, 4, 30)]),
    gaps_of([k * b for k, b in zip((1, 4, 30), means)]),
)
LAW = SCALE**2 / math.sqrt(2 * SCALE**2 - 1) * math.exp(SHIFT**2 / (2 * SCALE**2 - 1)) - 1

# unlabelled_bound and m2_loss.
per_label, logits = 2 * drawn(N_CLASSES, BATCH) - 6, drawn(BATCH, N_CLASSES)
log_prior = drawn(N_CLASSES).log_softmax(0)
PER_LABEL, LOGITS, LOG_PRIOR = numbers(per_label, logits, log_prior)
log_q, over_images, prior = logits.log_softmax(-1).T, logits.log_softmax(0).T, log_prior[:, None]
q, best = log_q.exp(), (log_q.argmax(0), torch.arange(BATCH))
UNLABELLED = numbers(
    (q * (per_label + prior - log_q)).sum(0),
    (q * (per_label - log_q)).sum(0),
    (q * (per_label + prior)).sum(0),
    (q * (per_label + prior + log_q)).sum(0),
    (q * per_label).sum(0),
    (over_images.exp() * (per_label + prior - over_images)).sum(0),
    (per_label + prior - log_q).mean(0),
    (per_label + prior - log_q).sum(0),
    (per_label + prior - log_q)[best],
    (per_label + prior)[best],
    (per_label + prior).logsumexp(0),
)
labelled, unlabelled = 2 * drawn(BATCH) - 6, 2 * drawn(BATCH + 3) - 8
y = torch.from_numpy(rng.integers(N_CLASSES, size=BATCH))
LABELLED, LABELS, OTHERS = numbers(labelled, y, unlabelled)
log_y = logits.log_softmax(-1)[torch.arange(BATCH), y]
entropy, l, p, u = -ALPHA * log_y.mean(), labelled.mean(), log_prior[y].mean(), unlabelled.mean()
M2_LOSSES = numbers(
    entropy - RHO * (l + p) - u,
    -RHO * (l + p) - u,
    entropy - RHO * l - u,
    BATCH * (entropy - RHO * (l + p)) - unlabelled.sum(),
    -entropy - RHO * (l + p) - u,
    u + RHO * (l + p) - entropy,
    entropy - (l + p) - RHO * u,
    RHO / ALPHA * entropy - ALPHA * (l + p) - u,
    entropy - (l + p) - u,
    entropy - RHO * (l + log_prior.mean()) - u,
    -ALPHA * logits[torch.arange(BATCH), y].mean() - RHO * (l + p) - u,
)

# %% [markdown]
# # Problem set 3: the VAE family
#
# **Effort.** 7 to 9 hours: about 3 for the two derivations, 4 for the code, 1 for the experiment and its
# comment.
#
# **You need** chapter 8 (variational autoencoders), chapter 11 (Gaussian-mixture VAE), chapter 12
# (importance-weighted autoencoders) and chapter 13 (semi-supervised VAE), with the evidence lower bound of
# chapter 5.
#
# **Data.** None to download. Everything is synthetic, and the whole notebook runs in less than a minute on
# one processor core, or in a free Colab session. You train no large network. Each question isolates a line
# of code that people get wrong while the loss still falls.
#
# **Points.** There are 100. Code is graded by tests. Some of them are in this notebook: run them as often as
# you like. Others use other numbers, other sizes and harder cases, and run when you hand in. Tests of one
# question never use your answer to another. Derivations, and what you write about your experiment, are
# graded by hand: a correct result without its steps earns at most a third.
#
# **Conventions.** All logarithms are natural, all bounds are in nats. $B$ is the number of images, $D$ of
# pixels, $L$ of latents, $K$ of samples, $C$ of a mixture's components and, in the questions on labels, of
# classes. The tests use double precision. Use it for your own draws, too: `dtype=torch.float64`. One call of
# your function may take ten seconds. You may use everything in PyTorch that a question does not exclude. The
# course's own library, `course_lib`, solves several of these questions; its solutions are switched off while
# your answer is tested.
#
# **On your honour.** Talk with others about the ideas, and write your answers alone. If a program or a
# person wrote or changed a part of an answer, say which part and how you checked it. You must be able to
# explain every line that you hand in.

# %%
import math

import torch
from torch.nn import functional as F

torch.manual_seed({{SEED}})

# %% [raw]
# # BEGIN QUESTION
# name: vae_loss
# points: 14

# %% [markdown]
# ## The loss of a VAE (14 points)
#
# The encoder has answered for $B$ images of bits, `x` of shape $(B, D)$: `mean` and `log_std`, both of shape
# $(B, L)$, with
# $q_\phi(\mathbf z\mid\mathbf x_b)=\mathcal N(\boldsymbol\mu_b,\operatorname{diag}\boldsymbol\sigma_b^2)$
# and `log_std` $=\log\boldsymbol\sigma$. `noise`, of shape $(B, L)$, holds standard normal numbers. `decode`
# is a function that turns codes of shape $(B, L)$ into Bernoulli **logits** of shape $(B, D)$. The prior is
# $\mathcal N(\mathbf 0,\mathbf I)$.
#
# Write `vae_loss`. Draw one code an image by reparametrisation, from the given noise. Return three tensors,
# in this order:
#
# - the loss to minimise, a scalar: the batch average of
#   $-\log p_\theta(\mathbf x_b\mid\mathbf z_b)+\beta\,\mathrm{KL}_b$ with
#   $\mathrm{KL}_b=\mathrm{KL}(q_\phi(\mathbf z\mid\mathbf x_b)\,\|\,p(\mathbf z))$;
# - the reconstruction $\log p_\theta(\mathbf x_b\mid\mathbf z_b)$, shape $(B,)$;
# - the KL, in closed form, shape $(B,)$.
#
# The loss must be right for logits of any finite size and must pass its gradient to `mean` and `log_std`.
# Write the KL yourself: `torch.distributions.kl_divergence` and the functions of `course_lib` are not
# allowed.

# %% [raw]
# # BEGIN SOLUTION


# %%
def vae_loss(x, mean, log_std, noise, decode, beta=1.0):
    """Loss (scalar), reconstruction (B,) and KL (B,) in nats: x (B, D); mean, log_std, noise (B, L)."""
    # BEGIN SOLUTION
    z = mean + log_std.exp() * noise
    logits = decode(z)
    reconstruction = (x * logits - F.softplus(logits)).sum(-1)
    kl = 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum(-1)
    return (beta * kl - reconstruction).mean(), reconstruction, kl
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: the KL of each image
points: 2
""" # END TEST CONFIG
def test_kl(vae_loss):
    import torch
    from course_lib.answer_checks import bounded, compare
    forbidden = ["course_lib.distributions.kl_to_standard_normal",
                 "course_lib.distributions.kl_between_diagonal_normals",
                 "torch.distributions.kl.kl_divergence"]
    x, mean, log_std, eps, weight = (torch.tensor(t, dtype=torch.float64) for t in (
        {{VAE_X}}, {{VAE_MEAN}}, {{VAE_LOG_STD}}, {{VAE_NOISE}}, {{VAE_WEIGHT}}))
    seen = bounded(vae_loss, x, mean, log_std, eps, lambda z: z @ weight, without=forbidden)
    if not isinstance(seen, (tuple, list)) or len(seen) != 3:
        raise AssertionError("vae_loss: return three tensors: loss, reconstruction, KL")
    right, twice, flipped, half, std, mean_kl, log_std_only = torch.tensor(
        {{KL_VALUES}}, dtype=torch.float64)
    compare("the KL", seen[2], right, {
        "your KL is twice the expected value: did you forget the ½?": twice,
        "the sign is flipped: a KL is never negative": flipped,
        "log σ was read as log σ²": half,
        "σ² is needed, not σ": std,
        "the mean over the latents was taken, it must be the sum": mean_kl,
        "the logarithm of the variance is needed, not that of the standard deviation": log_std_only,
    })

# %%
""" # BEGIN TEST CONFIG
name: the reconstruction of each image
points: 2
""" # END TEST CONFIG
def test_reconstruction(vae_loss):
    import torch
    from course_lib.answer_checks import bounded, compare
    forbidden = ["course_lib.distributions.kl_to_standard_normal",
                 "course_lib.distributions.kl_between_diagonal_normals",
                 "torch.distributions.kl.kl_divergence"]
    x, mean, log_std, eps, weight = (torch.tensor(t, dtype=torch.float64) for t in (
        {{VAE_X}}, {{VAE_MEAN}}, {{VAE_LOG_STD}}, {{VAE_NOISE}}, {{VAE_WEIGHT}}))
    seen = bounded(vae_loss, x, mean, log_std, eps, lambda z: z @ weight, without=forbidden)
    if not isinstance(seen, (tuple, list)) or len(seen) != 3:
        raise AssertionError("vae_loss: return three tensors: loss, reconstruction, KL")
    right, pixels, flipped, middle, variance, root, log, swapped = torch.tensor(
        {{SCORES}}, dtype=torch.float64)
    compare("the reconstruction", seen[1], right, {
        "the mean over the pixels was taken, it must be the sum: this is a β-VAE with β = D": pixels,
        "the sign is flipped: log p(x | z) of bits is never positive": flipped,
        "the code is the posterior's mean: a sample is asked for": middle,
        "the sample was scaled by σ², not by σ": variance,
        "the sample was scaled by √σ: log_std is log σ, not log σ²": root,
        "the sample was scaled by log σ": log,
        "bits and their complements are swapped": swapped,
    })

# %%
""" # BEGIN TEST CONFIG
name: the loss with β = {{BETA}}
points: 2
""" # END TEST CONFIG
def test_loss(vae_loss):
    import torch
    from course_lib.answer_checks import bounded, compare
    forbidden = ["course_lib.distributions.kl_to_standard_normal",
                 "course_lib.distributions.kl_between_diagonal_normals",
                 "torch.distributions.kl.kl_divergence"]
    x, mean, log_std, eps, weight = (torch.tensor(t, dtype=torch.float64) for t in (
        {{VAE_X}}, {{VAE_MEAN}}, {{VAE_LOG_STD}}, {{VAE_NOISE}}, {{VAE_WEIGHT}}))
    seen = bounded(vae_loss, x, mean, log_std, eps, lambda z: z @ weight, beta={{BETA}}, without=forbidden)
    if not isinstance(seen, (tuple, list)) or len(seen) != 3:
        raise AssertionError("vae_loss: return three tensors: loss, reconstruction, KL")
    right, swapped, without, bound, sign, total, pixels = torch.tensor({{LOSSES}}, dtype=torch.float64)
    compare("the loss with β = {{BETA}}", seen[0], right, {
        "β weighs the KL, not the reconstruction": swapped,
        "β has no effect": without,
        "this is the bound; the loss is its negative": bound,
        "the loss rewards a large KL: a sign is flipped": sign,
        "the sum over the images was taken, it must be their mean": total,
        "the reconstruction is a mean over pixels": pixels,
    })

# %%
""" # BEGIN TEST CONFIG
name: the loss with another β
points: 3
hidden: true
""" # END TEST CONFIG
def test_loss_hidden(vae_loss):
    import torch
    from course_lib.answer_checks import bounded, compare
    forbidden = ["course_lib.distributions.kl_to_standard_normal",
                 "course_lib.distributions.kl_between_diagonal_normals",
                 "torch.distributions.kl.kl_divergence"]
    beta = {{BETA}} + 0.7
    noise = torch.Generator().manual_seed({{SEED}} + 3)
    mean, log_std, eps = (0.7 * torch.randn(5, 3, generator=noise, dtype=torch.float64) for _ in range(3))
    x = torch.randint(2, (5, 7), generator=noise).double()
    weight = 0.5 * torch.randn(3, 7, generator=noise, dtype=torch.float64)
    seen = bounded(vae_loss, x, mean, log_std, eps, lambda z: z @ weight, beta=beta, without=forbidden)
    if not isinstance(seen, (tuple, list)) or len(seen) != 3:
        raise AssertionError("vae_loss: return three tensors: loss, reconstruction, KL")
    logits = (mean + log_std.exp() * eps) @ weight
    reconstruction = (x * logits - torch.nn.functional.softplus(logits)).sum(-1)
    kl = 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum(-1)
    truth = (beta * kl - reconstruction).mean()
    compare("the loss with another β", seen[0], truth, {
        "β weighs the KL, not the reconstruction": (kl - beta * reconstruction).mean(),
        "β has no effect": (kl - reconstruction).mean(),
        "this is the bound; the loss is its negative": -truth,
        "the loss rewards a large KL: a sign is flipped": -(beta * kl + reconstruction).mean(),
        "the sum over the images was taken, it must be their mean": 5 * truth,
        "the reconstruction is a mean over pixels": (beta * kl - reconstruction / 7).mean(),
    }, show=False)

# %%
""" # BEGIN TEST CONFIG
name: the gradient reaches the encoder
points: 3
hidden: true
""" # END TEST CONFIG
def test_gradient(vae_loss):
    import torch
    from course_lib.answer_checks import bounded, compare
    forbidden = ["course_lib.distributions.kl_to_standard_normal",
                 "course_lib.distributions.kl_between_diagonal_normals",
                 "torch.distributions.kl.kl_divergence"]
    noise = torch.Generator().manual_seed({{SEED}} + 4)
    mean, log_std, eps = (0.7 * torch.randn(4, 2, generator=noise, dtype=torch.float64) for _ in range(3))
    x = torch.randint(2, (4, 6), generator=noise).double()
    weight = 0.5 * torch.randn(2, 6, generator=noise, dtype=torch.float64)
    mean.requires_grad_(), log_std.requires_grad_()
    seen = bounded(vae_loss, x, mean, log_std, eps, lambda z: z @ weight, beta={{BETA}}, without=forbidden)
    loss = seen[0] if isinstance(seen, (tuple, list)) and len(seen) == 3 else None
    if not isinstance(loss, torch.Tensor) or not loss.requires_grad:
        raise AssertionError("the gradient: the loss carries none")

    def gradient(value):
        grads = torch.autograd.grad(value.sum(), [mean, log_std], retain_graph=True, materialize_grads=True)
        return torch.stack(grads)

    logits = (mean + log_std.exp() * eps) @ weight
    reconstruction = (x * logits - torch.nn.functional.softplus(logits)).sum(-1)
    kl = {{BETA}} * 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum(-1)
    truth = gradient((kl - reconstruction).mean())
    compare("the gradient of the loss in (μ, log σ)", gradient(loss), truth, {
        "the reconstruction's gradient does not reach the encoder: the sample was detached":
            gradient(kl.mean()),
        "the KL's gradient is missing": gradient(-reconstruction.mean()),
        "it points uphill": gradient((reconstruction - kl).mean()),
    }, show=False)

# %%
""" # BEGIN TEST CONFIG
name: large logits
points: 2
hidden: true
""" # END TEST CONFIG
def test_large_logits(vae_loss):
    import torch
    from course_lib.answer_checks import bounded, compare
    forbidden = ["course_lib.distributions.kl_to_standard_normal",
                 "course_lib.distributions.kl_between_diagonal_normals",
                 "torch.distributions.kl.kl_divergence"]
    noise = torch.Generator().manual_seed({{SEED}} + 5)
    mean, log_std, eps = (torch.randn(4, 2, generator=noise, dtype=torch.float64) for _ in range(3))
    x = torch.randint(2, (4, 6), generator=noise).double()
    weight = 500 * torch.randn(2, 6, generator=noise, dtype=torch.float64)
    seen = bounded(vae_loss, x, mean, log_std, eps, lambda z: z @ weight, without=forbidden)
    if not isinstance(seen, (tuple, list)) or len(seen) != 3:
        raise AssertionError("vae_loss: return three tensors: loss, reconstruction, KL")
    logits = (mean + log_std.exp() * eps) @ weight
    truth = (x * logits - torch.nn.functional.softplus(logits)).sum(-1)
    what = "the reconstruction at large logits (do you leave the logits for probabilities?)"
    compare(what, seen[1], truth, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: mean over pixels
# earns: 2
# says: β-VAE with β = D
def vae_loss(x, mean, log_std, noise, decode, beta=1.0):
    logits = decode(mean + log_std.exp() * noise)
    reconstruction = -F.binary_cross_entropy_with_logits(logits, x, reduction="none").mean(-1)
    kl = 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum(-1)
    return (beta * kl - reconstruction).mean(), reconstruction, kl

# %%
# wrong: missing ½ in the KL
# earns: 4
# says: forget the ½
def vae_loss(x, mean, log_std, noise, decode, beta=1.0):
    logits = decode(mean + log_std.exp() * noise)
    reconstruction = (x * logits - F.softplus(logits)).sum(-1)
    kl = (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum(-1)
    return (beta * kl - reconstruction).mean(), reconstruction, kl

# %%
# wrong: flipped sign of the KL
# earns: 4
# says: a KL is never negative
def vae_loss(x, mean, log_std, noise, decode, beta=1.0):
    logits = decode(mean + log_std.exp() * noise)
    reconstruction = (x * logits - F.softplus(logits)).sum(-1)
    kl = 0.5 * (1 + 2 * log_std - mean**2 - (2 * log_std).exp()).sum(-1)
    return (beta * kl - reconstruction).mean(), reconstruction, kl

# %%
# wrong: log σ read as log σ² in the KL
# earns: 4
# says: log σ was read as log σ²
def vae_loss(x, mean, log_std, noise, decode, beta=1.0):
    logits = decode(mean + log_std.exp() * noise)
    reconstruction = (x * logits - F.softplus(logits)).sum(-1)
    kl = 0.5 * (mean**2 + log_std.exp() - 1 - log_std).sum(-1)
    return (beta * kl - reconstruction).mean(), reconstruction, kl

# %%
# wrong: the sample scaled by the variance
# earns: 2
# says: scaled by σ², not by σ
def vae_loss(x, mean, log_std, noise, decode, beta=1.0):
    logits = decode(mean + (2 * log_std).exp() * noise)
    reconstruction = (x * logits - F.softplus(logits)).sum(-1)
    kl = 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum(-1)
    return (beta * kl - reconstruction).mean(), reconstruction, kl

# %%
# wrong: the code at its mean
# earns: 2
# says: a sample is asked for
def vae_loss(x, mean, log_std, noise, decode, beta=1.0):
    logits = decode(mean)
    reconstruction = (x * logits - F.softplus(logits)).sum(-1)
    kl = 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum(-1)
    return (beta * kl - reconstruction).mean(), reconstruction, kl

# %%
# wrong: β on the reconstruction
# earns: 6
# says: β weighs the KL
def vae_loss(x, mean, log_std, noise, decode, beta=1.0):
    logits = decode(mean + log_std.exp() * noise)
    reconstruction = (x * logits - F.softplus(logits)).sum(-1)
    kl = 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum(-1)
    return (kl - beta * reconstruction).mean(), reconstruction, kl

# %%
# wrong: the sample detached
# earns: 11
# says: the sample was detached
def vae_loss(x, mean, log_std, noise, decode, beta=1.0):
    logits = decode((mean + log_std.exp() * noise).detach())
    reconstruction = (x * logits - F.softplus(logits)).sum(-1)
    kl = 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum(-1)
    return (beta * kl - reconstruction).mean(), reconstruction, kl

# %%
# wrong: probabilities with a small constant
# earns: 12
# says: leave the logits
def vae_loss(x, mean, log_std, noise, decode, beta=1.0):
    p = decode(mean + log_std.exp() * noise).sigmoid()
    reconstruction = (x * (p + 1e-8).log() + (1 - x) * (1 - p + 1e-8).log()).sum(-1)
    kl = 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum(-1)
    return (beta * kl - reconstruction).mean(), reconstruction, kl

# %%
# wrong: calls the library
# earns: 0
# says: switched off
def vae_loss(x, mean, log_std, noise, decode, beta=1.0):
    from course_lib.distributions import kl_to_standard_normal
    logits = decode(mean + log_std.exp() * noise)
    reconstruction = (x * logits - F.softplus(logits)).sum(-1)
    kl = kl_to_standard_normal(mean, log_std.exp())
    return (beta * kl - reconstruction).mean(), reconstruction, kl

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: linear_collapse
# points: 12
# manual: true
# pool: derivation

# %% [markdown]
# ## When does a β-VAE give up its latent? (12 points)
#
# Chapter 8 showed that a unit which the decoder ignores is switched off. Now find out when the decoder
# *should* ignore it. The data are numbers $x$ with mean 0 and variance $\tau^2>0$. The model is
#
# $$
# p(z)=\mathcal N(0,1),\qquad p_\theta(x\mid z)=\mathcal N(wz,\sigma^2),\qquad
# q_\phi(z\mid x)=\mathcal N(vx,s^2),
# $$
#
# with $\sigma^2$ fixed. Learned are $w$, $v$ and $s>0$. The objective, to be maximised, is, with $\beta>0$,
#
# $$
# F=\mathbb E_x\bigl[\mathbb E_{q_\phi}[\log p_\theta(x\mid z)]
# -\beta\,\mathrm{KL}(q_\phi(z\mid x)\,\|\,p(z))\bigr].
# $$
#
# 1. Write $F$ as a function of $w$, $v$ and $s^2$, without any expectation. (3 points)
# 2. For a fixed $w$ find the best $v$ and $s^2$. (3 points)
# 3. Insert them. Show that $F=-\frac\beta2\bigl(\frac{\tau^2}{u}+\log\frac uc\bigr)+\text{const}$ with
#    $c=\beta\sigma^2$ and $u=w^2+c$, and find the best $w^2$ (the sign of $w$ is free). When is it 0? What
#    are $v$ and $s^2$ in that case, and otherwise? (4 points)
# 4. Take $\tau^2={{DATA_VARIANCE}}$, $\sigma^2={{NOISE_VARIANCE}}$ and $\beta={{BETA_LINEAR}}$. Give $w^2$
#    and the variance of $x$ under the learned model. From which $\beta$ on is the latent unused? For which
#    $\beta$ does the model's variance equal that of the data? (2 points)

# %% [raw]
# # BEGIN SOLUTION

# %% [markdown]
# 1. Given $x$, write $z=vx+s\varepsilon$ with $\varepsilon\sim\mathcal N(0,1)$. Then
#    $x-wz=(1-wv)x-ws\varepsilon$, and $x$ and $\varepsilon$ are independent with mean 0, so
#    $\mathbb E[(x-wz)^2]=(1-wv)^2\tau^2+w^2s^2$. The KL is $\frac12(v^2x^2+s^2-1-\log s^2)$. Hence
#    $$F=-\tfrac12\log(2\pi\sigma^2)-\frac{(1-wv)^2\tau^2+w^2s^2}{2\sigma^2}
#    -\frac\beta2\bigl(v^2\tau^2+s^2-1-\log s^2\bigr).$$
# 2. $F$ is a concave quadratic in $v$ plus a function of $s^2$ that is concave, too. The zeros of the
#    derivatives are the maximum:
#    $$\frac{w(1-wv)\tau^2}{\sigma^2}=\beta v\tau^2\ \Rightarrow\ v=\frac w{w^2+\beta\sigma^2},\qquad
#    \frac{w^2}{\sigma^2}+\beta=\frac\beta{s^2}\ \Rightarrow\ s^2=\frac{\beta\sigma^2}{w^2+\beta\sigma^2}.$$
# 3. With $c=\beta\sigma^2$ and $u=w^2+c$: $v=w/u$, $1-wv=c/u$, $s^2=c/u$. Since
#    $\frac1{2\sigma^2}=\frac\beta{2c}$,
#    $$F=\text{const}-\frac\beta2\Bigl[\frac{c\tau^2}{u^2}+\frac{w^2}{u}+\frac{w^2\tau^2}{u^2}
#    +\frac cu-1+\log\frac uc\Bigr].$$
#    First and third term add up to $\tau^2(c+w^2)/u^2=\tau^2/u$; second and fourth to 1, which cancels $-1$.
#    This is the claim. The function $\tau^2/u+\log u$ has the derivative $(u-\tau^2)/u^2$: it falls up to
#    $u=\tau^2$ and rises after it. Allowed are $u\ge c$. So $u=\max(\tau^2,c)$, that is
#    $$w^2=\max(0,\ \tau^2-\beta\sigma^2).$$
#    The weight is 0 exactly if $\tau^2\le\beta\sigma^2$. Then $v=0$ and $s^2=1$: posterior equals prior, the
#    collapse. It is the global optimum of the objective, no failure of the optimiser. Otherwise $u=\tau^2$,
#    so $v=w/\tau^2$ and $s^2=\beta\sigma^2/\tau^2$.
# 4. $w^2={{DATA_VARIANCE}}-{{BETA_LINEAR}}\cdot{{NOISE_VARIANCE}}={{WEIGHT_SQUARED}}$ (then
#    $v^2={{CODE_SLOPE_SQUARED}}$ and $s^2={{CODE_VARIANCE}}$). The model's variance is
#    $w^2+\sigma^2={{MODEL_VARIANCE}}$, not {{DATA_VARIANCE}}. The latent is unused from
#    $\beta=\tau^2/\sigma^2={{THRESHOLD_BETA}}$ on. In general the model's variance is
#    $\tau^2-(\beta-1)\sigma^2$ while $w\ne0$: it equals $\tau^2$ only for $\beta=1$, where the objective is
#    a bound and the bound is tight. (In the collapsed regime the model's variance is $\sigma^2$. It equals
#    $\tau^2$ only if $\tau^2=\sigma^2$, and then for every $\beta\ge1$.)

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN RUBRIC

# %% [markdown]
# **12 points.** Part 1: expected square 2 (the term $w^2s^2$ is one of them), KL 1. Part 2: $v$ 1.5, $s^2$
# 1.5. Part 3: insertion 2, minimisation over $u\ge c$ with the boundary case 1.5, $v$ and $s^2$ in both
# cases 0.5. Part 4: 0.5 for each of the four numbers.
#
# Typical wrong answers and what they earn:
#
# - The code is put at its mean, so that $w^2s^2$ is missing: part 1 earns 1, part 2 only $v$ (1.5). Then
#   $s^2=1$ always; stop there: 2.5.
# - KL without the ½: part 1 loses 1; all that follows with $2\beta$ for $\beta$ and is consistent: full
#   marks for it. 11.
# - $s$ and $s^2$ confused in the derivative ($\log s^2$ differentiated as $1/s$ in $s^2$): loses 1 in part
#   2, part 3 cannot come out; up to 1 for the method there. 7.
# - Only the stationary point $u=\tau^2$, without the constraint $u\ge c$: part 3 loses 1.5 and part 4 the
#   threshold (0.5). 10.
# - "It collapses because the optimiser is stuck": the derivation may be right; loses the 0.5 of $v$ and
#   $s^2$.
# - Model variance given as $w^2$, or as $w^2s^2+\sigma^2$: loses 0.5.
# - Only the final formula $w^2=\max(0,\tau^2-\beta\sigma^2)$ and the numbers, no steps: 4.

# %% [raw]
# # END RUBRIC

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: mixture_kl
# points: 12

# %% [markdown]
# ## The KL to a mixture (12 points)
#
# The prior is
# $p_\theta(\mathbf z)=\sum_c\pi_c\,\mathcal N(\mathbf z;\mathbf m_c,\operatorname{diag}\mathbf s_c^2)$. Its
# parameters are `logits`, of shape $(C,)$ ($\pi$ is their softmax: they need not be normalised), `means` and
# `log_stds`, of shape $(C, L)$. The encoder gives `mean` and `log_std` of shape $(B, L)$, and `noise` of
# shape $(B, L)$ is standard normal.
#
# Write `mixture_kl`: the one-sample estimate
# $\log q_\phi(\mathbf z_b\mid\mathbf x_b)-\log p_\theta(\mathbf z_b)$ at the reparametrised sample of each
# image, shape $(B,)$, in nats. The gradient must reach all five parameters, and a code 60 standard
# deviations away from every component must not break it. `MixtureSameFamily` and the mixture of `course_lib`
# are not allowed.

# %% [raw]
# # BEGIN SOLUTION


# %%
def mixture_kl(mean, log_std, noise, logits, means, log_stds):
    """One-sample KL, (B,), nats: mean, log_std, noise (B, L); logits (C,); means, log_stds (C, L)."""
    # BEGIN SOLUTION
    def log_normal(z, mean, log_std):
        return (-0.5 * ((z - mean) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    z = mean + log_std.exp() * noise
    log_components = log_normal(z[:, None], means, log_stds)  # (B, C)
    log_prior = torch.logsumexp(logits.log_softmax(-1) + log_components, -1)
    return log_normal(z, mean, log_std) - log_prior
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: one component
points: 2
""" # END TEST CONFIG
def test_one_component(mixture_kl):
    import torch
    from course_lib.answer_checks import bounded, compare
    forbidden = ["course_lib.distributions.diagonal_normal_mixture",
                 "course_lib.distributions.DiagonalNormalMixture.component_log_prob",
                 "torch.distributions.MixtureSameFamily.log_prob"]
    mean, log_std, eps = torch.tensor({{CODES}}, dtype=torch.float64)
    logits, means, log_stds = (torch.tensor(t, dtype=torch.float64) for t in {{MIXTURE}})
    seen = bounded(mixture_kl, mean, log_std, eps, logits[:1], means[:1], log_stds[:1], without=forbidden)
    right, flipped, logit, half, log_q, log_p, closed, middle = torch.tensor(
        {{ONE_VALUES}}, dtype=torch.float64)
    compare("the one-sample KL to one component", seen, right, {
        "the sign is flipped": flipped,
        "the logits are not normalised: π is their softmax": logit,
        "the component's log s was read as its log variance": half,
        "−log σ is missing from log q": log_q,
        "−log s is missing from the component's log-density": log_p,
        "this is the closed form; the value at the sample is asked for": closed,
        "this is the density at the mean, not at the sample": middle,
    })

# %%
""" # BEGIN TEST CONFIG
name: a mixture
points: 3
""" # END TEST CONFIG
def test_mixture(mixture_kl):
    import torch
    from course_lib.answer_checks import bounded, compare
    forbidden = ["course_lib.distributions.diagonal_normal_mixture",
                 "course_lib.distributions.DiagonalNormalMixture.component_log_prob",
                 "torch.distributions.MixtureSameFamily.log_prob"]
    mean, log_std, eps = torch.tensor({{CODES}}, dtype=torch.float64)
    logits, means, log_stds = (torch.tensor(t, dtype=torch.float64) for t in {{MIXTURE}})
    seen = bounded(mixture_kl, mean, log_std, eps, logits, means, log_stds, without=forbidden)
    right, logs, nearest, largest, weights, equal, scores, flipped = torch.tensor(
        {{MIXTURE_VALUES}}, dtype=torch.float64)
    compare("the one-sample KL to the mixture", seen, right, {
        "the mean of the logs was taken: it must be the log of the sum": logs,
        "only the nearest component was used": nearest,
        "only the largest term of the sum was used": largest,
        "the weights π are missing": weights,
        "all weights were taken as 1/C": equal,
        "the logits are not normalised": scores,
        "the sign is flipped": flipped,
    })

# %%
""" # BEGIN TEST CONFIG
name: the gradient of every parameter
points: 4
hidden: true
""" # END TEST CONFIG
def test_gradient(mixture_kl):
    import torch
    Normal = torch.distributions.Normal
    from course_lib.answer_checks import bounded, compare
    forbidden = ["course_lib.distributions.diagonal_normal_mixture",
                 "course_lib.distributions.DiagonalNormalMixture.component_log_prob",
                 "torch.distributions.MixtureSameFamily.log_prob"]
    noise = torch.Generator().manual_seed({{SEED}} + 13)
    mean, log_std, eps = (0.5 * torch.randn(4, 3, generator=noise, dtype=torch.float64) for _ in range(3))
    means, log_stds = (0.5 * torch.randn(4, 3, generator=noise, dtype=torch.float64) for _ in range(2))
    logits = torch.randn(4, generator=noise, dtype=torch.float64)
    parameters = [p.requires_grad_() for p in (mean, log_std, logits, means, log_stds)]
    seen = bounded(mixture_kl, mean, log_std, eps, logits, means, log_stds, without=forbidden)
    if not isinstance(seen, torch.Tensor) or not seen.requires_grad:
        raise AssertionError("the gradient of the one-sample KL: there is none")

    def gradient(value):
        grads = torch.autograd.grad(value.sum(), parameters, retain_graph=True, materialize_grads=True)
        return torch.cat([g.flatten() for g in grads])

    def estimate(z):
        log_q = Normal(mean, log_std.exp()).log_prob(z).sum(-1)
        log_c = Normal(means, log_stds.exp()).log_prob(z[:, None]).sum(-1)
        return log_q - (logits.log_softmax(0) + log_c).logsumexp(-1)

    z = mean + log_std.exp() * eps
    compare("the gradient of the one-sample KL", gradient(seen), gradient(estimate(z)), {
        "it does not pass through the sample": gradient(estimate(z.detach())),
    }, show=False)
    compare("the one-sample KL", seen, estimate(z), show=False)

# %%
""" # BEGIN TEST CONFIG
name: a code far away
points: 3
hidden: true
""" # END TEST CONFIG
def test_far(mixture_kl):
    import torch
    Normal = torch.distributions.Normal
    from course_lib.answer_checks import bounded, compare
    forbidden = ["course_lib.distributions.diagonal_normal_mixture",
                 "course_lib.distributions.DiagonalNormalMixture.component_log_prob",
                 "torch.distributions.MixtureSameFamily.log_prob"]
    noise = torch.Generator().manual_seed({{SEED}} + 14)
    mean = 60 + torch.randn(3, 2, generator=noise, dtype=torch.float64)
    log_std, eps = (torch.randn(3, 2, generator=noise, dtype=torch.float64) for _ in range(2))
    means = torch.randn(4, 2, generator=noise, dtype=torch.float64)
    log_stds = -0.1 * torch.rand(4, 2, generator=noise, dtype=torch.float64)
    logits = torch.randn(4, generator=noise, dtype=torch.float64)
    seen = bounded(mixture_kl, mean, log_std, eps, logits, means, log_stds, without=forbidden)
    z = mean + log_std.exp() * eps
    log_c = Normal(means, log_stds.exp()).log_prob(z[:, None]).sum(-1)
    truth = Normal(mean, log_std.exp()).log_prob(z).sum(-1) - (logits.log_softmax(0) + log_c).logsumexp(-1)
    what = "the one-sample KL of a far code (densities underflow there; stay in log-space)"
    compare(what, seen, truth, rtol=1e-8, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: mean of the logs
# earns: 2
# says: it must be the log of the sum
def mixture_kl(mean, log_std, noise, logits, means, log_stds):
    normal = torch.distributions.Normal
    z = mean + log_std.exp() * noise
    log_c = normal(means, log_stds.exp()).log_prob(z[:, None]).sum(-1)
    return normal(mean, log_std.exp()).log_prob(z).sum(-1) - (logits.softmax(0) * log_c).sum(-1)

# %%
# wrong: logits not normalised
# earns: 0
# says: π is their softmax
def mixture_kl(mean, log_std, noise, logits, means, log_stds):
    normal = torch.distributions.Normal
    z = mean + log_std.exp() * noise
    log_c = normal(means, log_stds.exp()).log_prob(z[:, None]).sum(-1)
    return normal(mean, log_std.exp()).log_prob(z).sum(-1) - (logits + log_c).logsumexp(-1)

# %%
# wrong: nearest component only
# earns: 2
# says: only the nearest component
def mixture_kl(mean, log_std, noise, logits, means, log_stds):
    normal = torch.distributions.Normal
    z = mean + log_std.exp() * noise
    log_c = normal(means, log_stds.exp()).log_prob(z[:, None]).sum(-1)
    return normal(mean, log_std.exp()).log_prob(z).sum(-1) - log_c.amax(-1)

# %%
# wrong: weights forgotten
# earns: 2
# says: the weights π are missing
def mixture_kl(mean, log_std, noise, logits, means, log_stds):
    normal = torch.distributions.Normal
    z = mean + log_std.exp() * noise
    log_c = normal(means, log_stds.exp()).log_prob(z[:, None]).sum(-1)
    return normal(mean, log_std.exp()).log_prob(z).sum(-1) - log_c.logsumexp(-1)

# %%
# wrong: average of closed-form KLs
# earns: 0
# says: this is the closed form
def mixture_kl(mean, log_std, noise, logits, means, log_stds):
    normal, kl = torch.distributions.Normal, torch.distributions.kl_divergence
    each = kl(normal(mean[:, None], log_std[:, None].exp()), normal(means, log_stds.exp())).sum(-1)
    return (logits.softmax(0) * each).sum(-1)

# %%
# wrong: log s read as log variance
# earns: 0
# says: read as its log variance
def mixture_kl(mean, log_std, noise, logits, means, log_stds):
    normal = torch.distributions.Normal
    z = mean + log_std.exp() * noise
    log_c = normal(means, (0.5 * log_stds).exp()).log_prob(z[:, None]).sum(-1)
    return normal(mean, log_std.exp()).log_prob(z).sum(-1) - (logits.log_softmax(0) + log_c).logsumexp(-1)

# %%
# wrong: log σ missing in log q
# earns: 0
# says: −log σ is missing
def mixture_kl(mean, log_std, noise, logits, means, log_stds):
    z = mean + log_std.exp() * noise
    log_q = (-0.5 * noise**2 - 0.5 * math.log(2 * math.pi)).sum(-1)
    log_c = torch.distributions.Normal(means, log_stds.exp()).log_prob(z[:, None]).sum(-1)
    return log_q - (logits.log_softmax(0) + log_c).logsumexp(-1)

# %%
# wrong: leaves log-space
# earns: 9
# says: stay in log-space
def mixture_kl(mean, log_std, noise, logits, means, log_stds):
    normal = torch.distributions.Normal
    z = mean + log_std.exp() * noise
    p_c = normal(means, log_stds.exp()).log_prob(z[:, None]).sum(-1).exp()
    return normal(mean, log_std.exp()).log_prob(z).sum(-1) - (logits.softmax(0) * p_c).sum(-1).log()

# %%
# wrong: the sample detached
# earns: 8
# says: does not pass through the sample
def mixture_kl(mean, log_std, noise, logits, means, log_stds):
    normal = torch.distributions.Normal
    z = (mean + log_std.exp() * noise).detach()
    log_c = normal(means, log_stds.exp()).log_prob(z[:, None]).sum(-1)
    return normal(mean, log_std.exp()).log_prob(z).sum(-1) - (logits.log_softmax(0) + log_c).logsumexp(-1)

# %%
# wrong: calls the library
# earns: 0
# says: switched off
def mixture_kl(mean, log_std, noise, logits, means, log_stds):
    from course_lib.distributions import diagonal_normal, diagonal_normal_mixture
    z = mean + log_std.exp() * noise
    prior = diagonal_normal_mixture(logits, means, log_stds.exp())
    return diagonal_normal(mean, log_std.exp()).log_prob(z) - prior.log_prob(z)

# %%
# wrong: returns the public test's numbers
# earns: 3
# says: there is none
def mixture_kl(mean, log_std, noise, logits, means, log_stds):
    return torch.tensor({{MIXTURE_VALUES}}[0])

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: iwae_bound
# points: 10

# %% [markdown]
# ## The importance-weighted bound, from repeated images (10 points)
#
# A program repeats each of $B$ images $K$ times with `x.repeat_interleave(K, 0)`, draws one code for each of
# the $B\cdot K$ rows, and hands you three vectors of shape $(B\cdot K,)$, in the order of those rows:
# $\log p_\theta(\mathbf x\mid\mathbf z)$, $\log p(\mathbf z)$ and $\log q_\phi(\mathbf z\mid\mathbf x)$.
#
# Write `iwae_bound`: $\log\frac1K\sum_k w_k$ for each image, shape $(B,)$, in nats. Log-weights of $-5000$
# must not break it. The functions of `course_lib` are not allowed.

# %% [raw]
# # BEGIN SOLUTION


# %%
def iwae_bound(log_likelihood, log_prior, log_q, n_samples):
    """The K-sample bound of each image, (B,): three vectors of shape (B * n_samples,), in nats."""
    # BEGIN SOLUTION
    log_w = (log_likelihood + log_prior - log_q).reshape(-1, n_samples)
    return log_w.logsumexp(1) - math.log(n_samples)
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: one sample
points: 1
""" # END TEST CONFIG
def test_one_sample(iwae_bound):
    import torch
    from course_lib.answer_checks import bounded, compare
    a, b, c = torch.tensor({{SINGLE_TERMS}}, dtype=torch.float64)
    seen = bounded(iwae_bound, a, b, c, 1, without=["course_lib.distributions.log_mean_exp"])
    right, times_q, no_prior, flipped = torch.tensor({{SINGLE_BOUNDS}}, dtype=torch.float64)
    compare("the bound with K = 1", seen, right, {
        "q divides: its logarithm is subtracted": times_q,
        "log p(z) is missing": no_prior,
        "this is the negative bound": flipped,
    })

# %%
""" # BEGIN TEST CONFIG
name: several samples
points: 3
""" # END TEST CONFIG
def test_several(iwae_bound):
    import torch
    from course_lib.answer_checks import bounded, compare
    a, b, c = torch.tensor({{MANY_TERMS}}, dtype=torch.float64)
    seen = bounded(iwae_bound, a, b, c, {{N_SAMPLES}}, without=["course_lib.distributions.log_mean_exp"])
    right, folded, logs, total, added, kl, largest = torch.tensor({{MANY_BOUNDS}}, dtype=torch.float64)
    compare("the bound with K = {{N_SAMPLES}}", seen, right, {
        "you folded the rows as (sample, image), but they are (image, sample): "
        "weights of different images were averaged": folded,
        "mean of the logs: it must be the log of the mean (this is an ELBO for every K)": logs,
        "−log K is missing: it is the mean of the weights, not their sum": total,
        "log K is added, it must be subtracted": added,
        "the average KL stands inside the weight: every term must be taken at its own sample": kl,
        "only the largest weight was used": largest,
    })

# %%
""" # BEGIN TEST CONFIG
name: small weights
points: 3
hidden: true
""" # END TEST CONFIG
def test_small(iwae_bound):
    import math
    import torch
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 23)
    B = K = 6
    a, b, c = (3 * torch.randn(B * K, generator=noise, dtype=torch.float64) for _ in range(3))
    a = a - 5000
    seen = bounded(iwae_bound, a, b, c, K, without=["course_lib.distributions.log_mean_exp"])
    log_w, log_k = a + b - c, math.log(6)
    compare("the bound with log-weights near −5000 (the weights themselves underflow)", seen,
            log_w.reshape(B, K).logsumexp(1) - log_k, {
        "the rows are (image, sample)": log_w.reshape(K, B).logsumexp(0) - log_k,
        "mean of the logs": log_w.reshape(B, K).mean(1),
    }, rtol=0, atol=1e-6, show=False)

# %%
""" # BEGIN TEST CONFIG
name: as many images as samples
points: 3
hidden: true
""" # END TEST CONFIG
def test_square(iwae_bound):
    import math
    import torch
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 24)
    a, b, c = (2 * torch.randn(25, generator=noise, dtype=torch.float64) - 4 for _ in range(3))
    seen = bounded(iwae_bound, a, b, c, 5, without=["course_lib.distributions.log_mean_exp"])
    rows = (a + b - c).reshape(5, 5)
    compare("the bound of five images with five samples each", seen, rows.logsumexp(1) - math.log(5), {
        "the rows are (image, sample)": rows.logsumexp(0) - math.log(5),
        "mean of the logs": rows.mean(1),
        "log K is missing": rows.logsumexp(1),
    }, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: folded in the other order
# earns: 1
# says: weights of different images
def iwae_bound(log_likelihood, log_prior, log_q, n_samples):
    log_w = (log_likelihood + log_prior - log_q).reshape(n_samples, -1)
    return log_w.logsumexp(0) - math.log(n_samples)

# %%
# wrong: mean of the logs
# earns: 1
# says: it must be the log of the mean
def iwae_bound(log_likelihood, log_prior, log_q, n_samples):
    return (log_likelihood + log_prior - log_q).reshape(-1, n_samples).mean(1)

# %%
# wrong: log K forgotten
# earns: 1
# says: −log K is missing
def iwae_bound(log_likelihood, log_prior, log_q, n_samples):
    return (log_likelihood + log_prior - log_q).reshape(-1, n_samples).logsumexp(1)

# %%
# wrong: average KL inside the weight
# earns: 1
# says: the average KL stands inside the weight
def iwae_bound(log_likelihood, log_prior, log_q, n_samples):
    kl = (log_q - log_prior).reshape(-1, n_samples).mean(1, keepdim=True)
    return (log_likelihood.reshape(-1, n_samples) - kl).logsumexp(1) - math.log(n_samples)

# %%
# wrong: leaves log-space
# earns: 7
# says: underflow
def iwae_bound(log_likelihood, log_prior, log_q, n_samples):
    return (log_likelihood + log_prior - log_q).reshape(-1, n_samples).exp().mean(1).log()

# %%
# wrong: multiplies by q
# earns: 0
# says: q divides
def iwae_bound(log_likelihood, log_prior, log_q, n_samples):
    log_w = (log_likelihood + log_prior + log_q).reshape(-1, n_samples)
    return log_w.logsumexp(1) - math.log(n_samples)

# %%
# wrong: averaged over the images
# earns: 0
# says: expected the shape
def iwae_bound(log_likelihood, log_prior, log_q, n_samples):
    log_w = (log_likelihood + log_prior - log_q).reshape(-1, n_samples)
    return (log_w.logsumexp(1) - math.log(n_samples)).mean()

# %%
# wrong: calls the library
# earns: 0
# says: switched off
def iwae_bound(log_likelihood, log_prior, log_q, n_samples):
    from course_lib.distributions import log_mean_exp
    return log_mean_exp((log_likelihood + log_prior - log_q).reshape(-1, n_samples), dim=1)

# %%
# wrong: returns the public test's numbers
# earns: 3
# says: expected the shape
def iwae_bound(log_likelihood, log_prior, log_q, n_samples):
    return torch.tensor({{MANY_BOUNDS}}[0])

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: iwae_surrogate
# points: 10
# pool: gradient

# %% [markdown]
# ## The surrogate loss of IWAE (10 points)
#
# Chapter 12 gives the gradient of the bound as
# $\nabla\mathcal L_K=\mathbb E\bigl[\sum_k\tilde w_k\nabla\log w_k\bigr]$ with $\tilde w_k=w_k/\sum_jw_j$.
# Much published code builds it as a loss. Given `log_w` of shape $(K, B)$, which carries gradients of
# encoder and decoder, return the scalar
#
# $$-\frac1B\sum_b\sum_k\tilde w_{kb}\log w_{kb}$$
#
# such that its gradient is that of $-\frac1B\sum_b\mathcal L_K(\mathbf x_b)$. (Its *value* is no bound of
# anything: never report it.)

# %% [raw]
# # BEGIN SOLUTION


# %%
def iwae_surrogate(log_w):
    """A scalar loss with the gradient of minus the mean bound: log_w of shape (K, B), in nats."""
    # BEGIN SOLUTION
    return -(log_w.detach().softmax(0) * log_w).sum(0).mean()
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: the value
points: 2
""" # END TEST CONFIG
def test_value(iwae_surrogate):
    import torch
    from course_lib.answer_checks import bounded, compare
    seen = bounded(iwae_surrogate, torch.tensor({{LOG_WEIGHTS}}, dtype=torch.float64))
    right, flipped, axis, total, mean, elbo, bound, raw = torch.tensor({{SURROGATES}}, dtype=torch.float64)
    compare("the value of the surrogate", seen, right, {
        "the sign is flipped: it is a loss": flipped,
        "the weights are normalised along the wrong axis: over images": axis,
        "the sum over the images was taken, it must be their mean": total,
        "the mean over the samples was taken: the weights add up to 1 already": mean,
        "all weights are equal: this is the ELBO": elbo,
        "this is the bound itself, not the surrogate": bound,
        "the weights are not normalised": raw,
    })

# %%
""" # BEGIN TEST CONFIG
name: the gradient
points: 2
""" # END TEST CONFIG
def test_gradient(iwae_surrogate):
    import torch
    from course_lib.answer_checks import bounded, compare
    log_w = torch.tensor({{LOG_WEIGHTS}}, dtype=torch.float64, requires_grad=True)
    seen = bounded(iwae_surrogate, log_w)
    if not isinstance(seen, torch.Tensor) or not seen.requires_grad:
        raise AssertionError(
            "the gradient of the surrogate: it carries none. Only the weights are constants.")
    found = torch.autograd.grad(seen.sum(), log_w, materialize_grads=True)[0]
    right, attached, axis, alike, squared = torch.tensor({{SURROGATE_GRADIENTS}}, dtype=torch.float64)
    compare("the gradient of the surrogate in log w", found, right, {
        "the weights are coefficients and must be constants": attached,
        "it points uphill": -right,
        "the weights are normalised over the images": axis,
        "all samples count alike": alike,
        "the weights are squared: that belongs to the doubly reparametrised gradient": squared,
        "the sum over the images was taken": right * log_w.shape[1],
    })

# %%
""" # BEGIN TEST CONFIG
name: the gradient, harder
points: 6
hidden: true
""" # END TEST CONFIG
def test_harder(iwae_surrogate):
    import torch
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 33)
    log_w = 3 * torch.randn(5, 5, generator=noise, dtype=torch.float64) - 2000
    log_w.requires_grad_()
    seen = bounded(iwae_surrogate, log_w)
    if not isinstance(seen, torch.Tensor) or not seen.requires_grad:
        raise AssertionError("the gradient of the surrogate: it carries none")
    value = -(log_w.softmax(0) * log_w).sum(0).mean()
    got = torch.autograd.grad(seen.sum(), log_w, materialize_grads=True)[0]
    compare("the surrogate's gradient at weights that underflow", got, -log_w.detach().softmax(0) / 5, {
        "detach the weights": torch.autograd.grad(value, log_w, retain_graph=True)[0],
    }, show=False)
    compare("the surrogate's value", seen, value, rtol=0, atol=0.1, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: weights not detached
# earns: 2
# says: must be constants
def iwae_surrogate(log_w):
    return -(log_w.softmax(0) * log_w).sum(0).mean()

# %%
# wrong: everything detached
# earns: 2
# says: Only the weights are constants
def iwae_surrogate(log_w):
    log_w = log_w.detach()
    return -(log_w.softmax(0) * log_w).sum(0).mean()

# %%
# wrong: softmax over the images
# earns: 0
# says: along the wrong axis
def iwae_surrogate(log_w):
    return -(log_w.detach().softmax(1) * log_w).sum(0).mean()

# %%
# wrong: flipped sign
# earns: 0
# says: it is a loss
def iwae_surrogate(log_w):
    return (log_w.detach().softmax(0) * log_w).sum(0).mean()

# %%
# wrong: equal weights
# earns: 0
# says: this is the ELBO
def iwae_surrogate(log_w):
    return -log_w.mean()

# %%
# wrong: mean over samples and images
# earns: 0
# says: add up to 1 already
def iwae_surrogate(log_w):
    return -(log_w.detach().softmax(0) * log_w).mean()

# %%
# wrong: squared weights
# earns: 0
# says: doubly reparametrised
def iwae_surrogate(log_w):
    return -(log_w.detach().softmax(0) ** 2 * log_w).sum(0).mean()

# %%
# wrong: the bound instead of the surrogate
# earns: 2
# says: this is the bound itself
def iwae_surrogate(log_w):
    return -(log_w.logsumexp(0) - math.log(len(log_w))).mean()

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: dreg_surrogate
# points: 10
# pool: gradient

# %% [markdown]
# ## The doubly reparametrised gradient as a loss (10 points)
#
# Chapter 12 gives the encoder's gradient with the better signal-to-noise ratio as
#
# $$
# \nabla_\phi\mathcal L_K=\mathbb E\Bigl[\sum_k\tilde w_k^2\,
# \frac{\partial\log w_k}{\partial\mathbf z_k}\nabla_\phi\mathbf z_k\Bigr].
# $$
#
# Here `mean` and `log_std`, of shape $(B, L)$, are the encoder's answer, `noise` of shape $(K, B, L)$ is
# standard normal, and `log_joint` is a function that turns codes of shape $(K, B, L)$ into
# $\log p_\theta(\mathbf x_b,\mathbf z_{kb})$, shape $(K, B)$.
#
# Return a scalar whose gradient in `mean` and `log_std` is minus the average over images of that sum. Only
# this gradient is graded; the scalar's value is up to you. The functions of `course_lib` are not allowed.

# %% [raw]
# # BEGIN SOLUTION


# %%
def dreg_surrogate(mean, log_std, noise, log_joint):
    """A scalar loss: mean, log_std (B, L), noise (K, B, L), log_joint maps (K, B, L) to (K, B)."""
    # BEGIN SOLUTION
    z = mean + log_std.exp() * noise
    mean, log_std = mean.detach(), log_std.detach()  # the density of q: through z alone
    log_q = (-0.5 * ((z - mean) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
    log_w = log_joint(z) - log_q
    return -(log_w.detach().softmax(0) ** 2 * log_w).sum(0).mean()
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: no gradient at the exact posterior
points: 2
""" # END TEST CONFIG
def test_landing(dreg_surrogate):
    import torch
    Normal = torch.distributions.Normal
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 41)
    K, B, L = {{N_SAMPLES}}, {{BATCH}}, {{N_LATENTS}}
    mean, log_std = (torch.randn(B, L, generator=noise, dtype=torch.float64) for _ in range(2))
    eps = torch.randn(K, B, L, generator=noise, dtype=torch.float64)
    posterior = Normal(mean.clone(), log_std.exp())
    mean.requires_grad_(), log_std.requires_grad_()
    seen = bounded(dreg_surrogate, mean, log_std, eps, lambda z: posterior.log_prob(z).sum(-1) - 7,
                   without=["course_lib.importance_weighted.doubly_reparametrised_bound"])
    if not isinstance(seen, torch.Tensor) or not seen.requires_grad:
        raise AssertionError("the gradient: the loss carries none, although it should pass through z")
    got = torch.autograd.grad(seen.sum(), [mean, log_std], materialize_grads=True)
    compare("the gradient at the exact posterior, where every log w is the same number", torch.stack(got),
            torch.zeros(2, B, L, dtype=torch.float64), {}, atol=1e-9)

# %%
""" # BEGIN TEST CONFIG
name: the gradient
points: 2
""" # END TEST CONFIG
def test_gradient(dreg_surrogate):
    import torch
    from course_lib.answer_checks import bounded, compare
    mean, log_std = (
        torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in {{ENCODED}})
    eps = torch.tensor({{ENCODED_NOISE}}, dtype=torch.float64)
    seen = bounded(dreg_surrogate, mean, log_std, eps, lambda z: (z.cos() - z**2).sum(-1),
                   without=["course_lib.importance_weighted.doubly_reparametrised_bound"])
    if not isinstance(seen, torch.Tensor) or not seen.requires_grad:
        raise AssertionError("the gradient: the loss carries none, although it should pass through z")
    found = torch.stack(torch.autograd.grad(seen.sum(), [mean, log_std], materialize_grads=True))
    right, once, score, plain, attached, axis = torch.tensor({{DREG_GRADIENTS}}, dtype=torch.float64)
    compare("the gradient in (μ, log σ)", found, right, {
        "the weights are not squared": once,
        "the score of q is still in it: q's density must see μ and σ through z only": score,
        "this is the plain gradient of the bound": plain,
        "the squared weights are coefficients: they must be constants": attached,
        "the weights are normalised over the images": axis,
        "it points uphill": -right,
        "the sum over the images was taken": {{BATCH}} * right,
    })

# %%
""" # BEGIN TEST CONFIG
name: the gradient, other sizes
points: 6
hidden: true
""" # END TEST CONFIG
def test_other_sizes(dreg_surrogate):
    import torch
    Normal = torch.distributions.Normal
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 43)
    mean, log_std = (torch.randn(5, 2, generator=noise, dtype=torch.float64) for _ in range(2))
    eps = torch.randn(5, 5, 2, generator=noise, dtype=torch.float64)
    mean.requires_grad_(), log_std.requires_grad_()
    log_joint = lambda z: -1500 - 0.5 * ((z - 1) ** 2).sum(-1) + torch.sin(2 * z).sum(-1)
    seen = bounded(dreg_surrogate, mean, log_std, eps, log_joint,
                   without=["course_lib.importance_weighted.doubly_reparametrised_bound"])
    if not isinstance(seen, torch.Tensor) or not seen.requires_grad:
        raise AssertionError("the gradient: the loss carries none, although it should pass through z")
    z = mean + log_std.exp() * eps
    path = log_joint(z) - Normal(mean.detach(), log_std.detach().exp()).log_prob(z).sum(-1)
    loss = -(path.detach().softmax(0) ** 2 * path).sum(0).mean()
    got, truth = (
        torch.stack(torch.autograd.grad(v.sum(), [mean, log_std], retain_graph=True, materialize_grads=True))
        for v in (seen, loss)
    )
    compare("the gradient in (μ, log σ)", got, truth, {"it points uphill": -truth}, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: weights not squared
# earns: 2
# says: the weights are not squared
def dreg_surrogate(mean, log_std, noise, log_joint):
    z = mean + log_std.exp() * noise
    q = torch.distributions.Normal(mean.detach(), log_std.detach().exp())
    log_w = log_joint(z) - q.log_prob(z).sum(-1)
    return -(log_w.detach().softmax(0) * log_w).sum(0).mean()

# %%
# wrong: the score left in
# earns: 0
# says: the score of q is still in it
def dreg_surrogate(mean, log_std, noise, log_joint):
    z = mean + log_std.exp() * noise
    log_w = log_joint(z) - torch.distributions.Normal(mean, log_std.exp()).log_prob(z).sum(-1)
    return -(log_w.detach().softmax(0) ** 2 * log_w).sum(0).mean()

# %%
# wrong: the bound itself
# earns: 0
# says: this is the plain gradient
def dreg_surrogate(mean, log_std, noise, log_joint):
    z = mean + log_std.exp() * noise
    log_w = log_joint(z) - torch.distributions.Normal(mean, log_std.exp()).log_prob(z).sum(-1)
    return -log_w.logsumexp(0).mean()

# %%
# wrong: weights not detached
# earns: 2
# says: they must be constants
def dreg_surrogate(mean, log_std, noise, log_joint):
    z = mean + log_std.exp() * noise
    q = torch.distributions.Normal(mean.detach(), log_std.detach().exp())
    log_w = log_joint(z) - q.log_prob(z).sum(-1)
    return -(log_w.softmax(0) ** 2 * log_w).sum(0).mean()

# %%
# wrong: the sample detached
# earns: 0
# says: the loss carries none
def dreg_surrogate(mean, log_std, noise, log_joint):
    z = (mean + log_std.exp() * noise).detach()
    q = torch.distributions.Normal(mean.detach(), log_std.detach().exp())
    log_w = log_joint(z) - q.log_prob(z).sum(-1)
    return -(log_w.softmax(0) ** 2 * log_w).sum(0).mean()

# %%
# wrong: softmax over the images
# earns: 2
# says: normalised over the images
def dreg_surrogate(mean, log_std, noise, log_joint):
    z = mean + log_std.exp() * noise
    q = torch.distributions.Normal(mean.detach(), log_std.detach().exp())
    log_w = log_joint(z) - q.log_prob(z).sum(-1)
    return -(log_w.detach().softmax(1) ** 2 * log_w).sum(0).mean()

# %%
# wrong: flipped sign
# earns: 2
# says: it points uphill
def dreg_surrogate(mean, log_std, noise, log_joint):
    z = mean + log_std.exp() * noise
    q = torch.distributions.Normal(mean.detach(), log_std.detach().exp())
    log_w = log_joint(z) - q.log_prob(z).sum(-1)
    return (log_w.detach().softmax(0) ** 2 * log_w).sum(0).mean()

# %%
# wrong: calls the library
# earns: 0
# says: switched off
def dreg_surrogate(mean, log_std, noise, log_joint):
    from course_lib.importance_weighted import doubly_reparametrised_bound
    return -doubly_reparametrised_bound(None, mean, len(noise)).mean()

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: bias_slope
# points: 12

# %% [markdown]
# ## Measure the bias (12 points)
#
# For large $K$ the gap $\log p_\theta(\mathbf x)-\mathcal L_K$ tends to $V/(2K)$, with $V$ the variance of
# $r=w/p_\theta(\mathbf x)$. Measure it where $r$ is known: the exact posterior is $\mathcal N(0,1)$, and the
# encoder is $\mathcal N(a,c^2)$ with $a={{SHIFT}}$ and standard deviation $c={{SCALE}}$, wider than the
# posterior. So $r=p(u)/q(u)$ at $u\sim q$.
#
# 1. Write `measured_gaps(log_r, counts)`. `log_r` of shape $(N,)$ holds values of $\log r$, and `counts` is
#    a list of values of $K$. For each $K$ cut `log_r` into blocks of $K$ consecutive values (drop what is
#    left over) and return the average over the blocks of $-\log\bar r_K+(\bar r_K-1)$, where $\bar r_K$ is a
#    block's mean of $r$. The bracket has mean zero. It is a control variate: without it the noise at $K=256$
#    is as large as the gap.
# 2. Draw $N=2^{20}$ values of $\log r$ from a generator with a seed of your choice. Set `gaps` to the gaps,
#    in nats, for $K\in$ {{COUNTS}}, shape $(5,)$.
# 3. Set `slope` to the slope of the least-squares line through $\log$ gap against $\log K$: a number.
#
# The tests look at the shape of your result: gaps that fall, a slope of $-1\pm0.1$, the right size. Measure;
# do not insert the formula. Keep the numbers: part 5 of *What does a gap cost?* asks what they say.

# %% [raw]
# # BEGIN SOLUTION


# %%
def measured_gaps(log_r, counts):
    """The gap in nats for each K of the list counts, shape (len(counts),): log_r of shape (N,)."""
    # BEGIN SOLUTION
    gaps = []
    for k in counts:
        blocks = log_r[: len(log_r) // k * k].reshape(-1, k)
        log_mean = blocks.logsumexp(1) - math.log(k)
        gaps.append((log_mean.exp() - 1 - log_mean).mean())
    return torch.stack(gaps)
    # END SOLUTION


# BEGIN SOLUTION NO PROMPT
generator = torch.Generator().manual_seed({{SEED}})
u = {{SHIFT}} + {{SCALE}} * torch.randn(2**20, generator=generator, dtype=torch.float64)
posterior, encoder = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal({{SHIFT}}, {{SCALE}})
log_r = posterior.log_prob(u) - encoder.log_prob(u)
log_counts = torch.tensor({{COUNTS}}).double().log()
# END SOLUTION
gaps = measured_gaps(log_r, {{COUNTS}})  # SOLUTION
slope = float(torch.cov(torch.stack([log_counts, gaps.log()]))[0, 1] / log_counts.var())  # SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: the function
points: 2
""" # END TEST CONFIG
def test_function(measured_gaps):
    import torch
    from course_lib.answer_checks import bounded, compare
    seen = bounded(measured_gaps, torch.tensor({{LOG_R}}, dtype=torch.float64), [1, 4, 30])
    right, no_control, sign, logs, order, total = torch.tensor({{GAP_VALUES}}, dtype=torch.float64)
    compare("the gaps for K = 1, 4, 30", seen, right, {
        "the control variate is missing": no_control,
        "the control variate has the wrong sign": sign,
        "the sign is flipped: the gap is log p − 𝓛, and not negative": -right,
        "the log of the mean is needed in every block, not the mean of the logs": logs,
        "the values are not consecutive in your blocks": order,
        "the sum of the weights was taken, not their mean": total,
    })

# %%
""" # BEGIN TEST CONFIG
name: the function, with a rest
points: 3
hidden: true
""" # END TEST CONFIG
def test_rest(measured_gaps):
    import torch
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 52)
    log_r = torch.randn(100, generator=noise, dtype=torch.float64) - 0.5
    seen = bounded(measured_gaps, log_r, [3, 7, 100])
    means = [log_r[: 100 // k * k].reshape(-1, k).exp().mean(1) for k in (3, 7, 100)]
    truth = torch.stack([(m - 1 - m.log()).mean() for m in means])
    compare("the gaps when K does not divide N", seen, truth, {
        "the control variate is missing": torch.stack([-m.log().mean() for m in means]),
        "the sign is flipped": -truth,
    }, show=False)

# %%
""" # BEGIN TEST CONFIG
name: the experiment
points: 3
""" # END TEST CONFIG
def test_experiment(measured_gaps, gaps, slope):
    import torch
    from course_lib.answer_checks import bounded, compare
    if gaps is Ellipsis or slope is Ellipsis or gaps is None or slope is None:
        raise AssertionError("the experiment: not answered yet")
    equal = bounded(measured_gaps, torch.zeros(32, dtype=torch.float64), [1, 4])
    compare("measured_gaps, where r is always 1", equal, torch.zeros(2, dtype=torch.float64), show=False)
    counts = torch.tensor({{COUNTS}}, dtype=torch.float64)
    values = torch.as_tensor(gaps).detach().double()
    if values.shape != counts.shape:
        raise AssertionError(f"the experiment: expected 5 gaps, got the shape {tuple(values.shape)}")
    if not (values > 0).all():
        raise AssertionError("the experiment: gaps must be positive numbers; 𝓛_K is below log p(x)")
    if torch.allclose(values * 2 * counts / {{LAW}}, torch.ones(5, dtype=torch.float64), rtol=1e-4):
        raise AssertionError("the experiment: this is the formula V/(2K), not a measurement")
    if not (values.diff() < 0).all():
        raise AssertionError("the experiment: a gap rises with K. Take 2^20 values and the control variate")
    fall = float(values[0] / values[-1])
    if not 12 <= fall <= 21:
        raise AssertionError(
            f"the experiment: from K = 16 to K = 256 your gaps fall by the factor {fall:.1f}; about 16 is "
            "expected. Is the mean of r equal to 1? Has the weight a finite variance, and is the logarithm "
            "taken after the mean?"
        )
    size = float((values * 2 * counts / {{LAW}}).mean())
    if not 0.7 <= size <= 1.4:
        raise AssertionError(
            f"the experiment: your gaps are {size:.2f} times as large as expected. Check a and c in the "
            "draws and in the densities: c is the encoder's standard deviation"
        )
    if not -1.1 <= float(slope) <= -0.9:
        raise AssertionError(f"the experiment: the slope is {float(slope):.3g}, not −1 ± 0.1")

# %%
""" # BEGIN TEST CONFIG
name: the experiment, its size
points: 2
hidden: true
""" # END TEST CONFIG
def test_size(measured_gaps, gaps):
    import math
    import torch
    from course_lib.answer_checks import bounded, compare
    if gaps is Ellipsis or gaps is None:
        raise AssertionError("the experiment: not answered yet")
    equal = bounded(measured_gaps, torch.zeros(32, dtype=torch.float64), [1, 4])
    compare("measured_gaps, where r is always 1", equal, torch.zeros(2, dtype=torch.float64), show=False)
    counts = torch.tensor({{COUNTS}}, dtype=torch.float64)
    values = torch.as_tensor(gaps).detach().double()
    if values.shape != counts.shape:
        raise AssertionError(f"the experiment: expected 5 gaps, got the shape {tuple(values.shape)}")
    if not (values > 0).all():
        raise AssertionError("the experiment: gaps must be positive numbers; 𝓛_K is below log p(x)")
    if torch.allclose(values * 2 * counts / {{LAW}}, torch.ones(5, dtype=torch.float64), rtol=1e-4):
        raise AssertionError("the experiment: this is the formula V/(2K), not a measurement")
    a, c, one = {{SHIFT}}, {{SCALE}}, torch.ones(5, dtype=torch.float64)
    V = c**2 / math.sqrt(2 * c**2 - 1) * math.exp(a**2 / (2 * c**2 - 1)) - 1
    wrong = c / math.sqrt(2 * c - 1) * math.exp(a**2 / (2 * c - 1)) - 1
    compare("the size of your gaps, times 2K/V", values * 2 * counts / V, one, {
        "c is the encoder's standard deviation, not its variance": wrong / V * one,
    }, rtol=0.17, show=False)

# %%
""" # BEGIN TEST CONFIG
name: the slope is that of the gaps
points: 2
hidden: true
""" # END TEST CONFIG
def test_slope(measured_gaps, gaps, slope):
    import torch
    from course_lib.answer_checks import bounded, compare
    if gaps is Ellipsis or slope is Ellipsis or gaps is None or slope is None:
        raise AssertionError("the experiment: not answered yet")
    equal = bounded(measured_gaps, torch.zeros(32, dtype=torch.float64), [1, 4])
    compare("measured_gaps, where r is always 1", equal, torch.zeros(2, dtype=torch.float64), show=False)
    counts = torch.tensor({{COUNTS}}, dtype=torch.float64)
    values = torch.as_tensor(gaps).detach().double()
    if values.shape != counts.shape:
        raise AssertionError(f"the experiment: expected 5 gaps, got the shape {tuple(values.shape)}")
    if not (values > 0).all():
        raise AssertionError("the experiment: gaps must be positive numbers; 𝓛_K is below log p(x)")
    if torch.allclose(values * 2 * counts / {{LAW}}, torch.ones(5, dtype=torch.float64), rtol=1e-4):
        raise AssertionError("the experiment: this is the formula V/(2K), not a measurement")
    x, y, plain = counts.log() - counts.log().mean(), values.log(), counts - counts.mean()
    fit = float((x * y).sum() / (x * x).sum())
    if not -1.1 <= fit <= -0.9:
        raise AssertionError(f"the experiment: your gaps have the slope {fit:.2f}, not −1 ± 0.1")
    compare("the slope of your gaps", slope, torch.tensor(fit, dtype=torch.float64), {
        "fit the logarithm of the gap against the logarithm of K":
            float((plain * values).sum() / (plain * plain).sum()),
        "fit against the logarithm of K, not against K": float((plain * y).sum() / (plain * plain).sum()),
        "take the logarithm of the gaps, too": float((x * values).sum() / (x * x).sum()),
        "the sign is flipped: the gap falls": -fit,
    }, rtol=0, atol=1e-3, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: no control variate, no experiment
# earns: 0
# says: the control variate is missing
def measured_gaps(log_r, counts):
    blocks = [log_r[: len(log_r) // k * k].reshape(-1, k) for k in counts]
    return torch.stack([-(b.logsumexp(1) - math.log(b.shape[1])).mean() for b in blocks])

# %%
# wrong: mean of the logs
# earns: 0
# says: not the mean of the logs
def measured_gaps(log_r, counts):
    blocks = [log_r[: len(log_r) // k * k].reshape(-1, k) for k in counts]
    return torch.stack([(b.exp().mean(1) - 1 - b.mean(1)).mean() for b in blocks])

generator = torch.Generator().manual_seed(1)
u = {{SHIFT}} + {{SCALE}} * torch.randn(2**16, generator=generator, dtype=torch.float64)
normal = torch.distributions.Normal
gaps = measured_gaps(normal(0.0, 1.0).log_prob(u) - normal({{SHIFT}}, {{SCALE}}).log_prob(u), {{COUNTS}})
slope = 0.0

# %%
# wrong: flipped sign
# earns: 0
# says: gaps must be positive
def measured_gaps(log_r, counts):
    blocks = [log_r[: len(log_r) // k * k].reshape(-1, k).exp().mean(1) for k in counts]
    return torch.stack([(b.log() + 1 - b).mean() for b in blocks])

generator = torch.Generator().manual_seed(1)
u = {{SHIFT}} + {{SCALE}} * torch.randn(2**16, generator=generator, dtype=torch.float64)
normal = torch.distributions.Normal
gaps = measured_gaps(normal(0.0, 1.0).log_prob(u) - normal({{SHIFT}}, {{SCALE}}).log_prob(u), {{COUNTS}})
slope = 1.0

# %%
# wrong: an encoder that is too narrow
# earns: 5
# says: Has the weight a finite variance
def measured_gaps(log_r, counts):
    blocks = [log_r[: len(log_r) // k * k].reshape(-1, k).exp().mean(1) for k in counts]
    return torch.stack([(b - 1 - b.log()).mean() for b in blocks])

u = {{SHIFT}} + 0.55 * torch.randn(2**20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
normal = torch.distributions.Normal
gaps = measured_gaps(normal(0.0, 1.0).log_prob(u) - normal({{SHIFT}}, 0.55).log_prob(u), {{COUNTS}})
slope = -0.5

# %%
# wrong: the formula instead of a measurement
# earns: 5
# says: not a measurement
def measured_gaps(log_r, counts):
    blocks = [log_r[: len(log_r) // k * k].reshape(-1, k).exp().mean(1) for k in counts]
    return torch.stack([(b - 1 - b.log()).mean() for b in blocks])

a, c = {{SHIFT}}, {{SCALE}}
V = c**2 / math.sqrt(2 * c**2 - 1) * math.exp(a**2 / (2 * c**2 - 1)) - 1
gaps = V / (2 * torch.tensor({{COUNTS}}).double())
slope = -1.0

# %%
# wrong: a line without logarithms
# earns: 7
# says: the logarithm of the gap against the logarithm of K
def measured_gaps(log_r, counts):
    blocks = [log_r[: len(log_r) // k * k].reshape(-1, k).exp().mean(1) for k in counts]
    return torch.stack([(b - 1 - b.log()).mean() for b in blocks])

generator = torch.Generator().manual_seed(1)
u = {{SHIFT}} + {{SCALE}} * torch.randn(2**20, generator=generator, dtype=torch.float64)
normal = torch.distributions.Normal
gaps = measured_gaps(normal(0.0, 1.0).log_prob(u) - normal({{SHIFT}}, {{SCALE}}).log_prob(u), {{COUNTS}})
K = torch.tensor({{COUNTS}}).double()
slope = float(torch.cov(torch.stack([K, gaps]))[0, 1] / K.var())

# %%
# wrong: p and q exchanged in r
# earns: 5
# says: Is the mean of r equal to 1
def measured_gaps(log_r, counts):
    blocks = [log_r[: len(log_r) // k * k].reshape(-1, k).exp().mean(1) for k in counts]
    return torch.stack([(b - 1 - b.log()).mean() for b in blocks])

generator = torch.Generator().manual_seed(1)
u = {{SHIFT}} + {{SCALE}} * torch.randn(2**20, generator=generator, dtype=torch.float64)
normal = torch.distributions.Normal
gaps = measured_gaps(normal({{SHIFT}}, {{SCALE}}).log_prob(u) - normal(0.0, 1.0).log_prob(u), {{COUNTS}})
slope = 0.0

# %%
# wrong: c taken as the variance
# earns: 7
# says: standard deviation, not its variance
def measured_gaps(log_r, counts):
    blocks = [log_r[: len(log_r) // k * k].reshape(-1, k).exp().mean(1) for k in counts]
    return torch.stack([(b - 1 - b.log()).mean() for b in blocks])

c = math.sqrt({{SCALE}})
u = {{SHIFT}} + c * torch.randn(2**20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
normal = torch.distributions.Normal
gaps = measured_gaps(normal(0.0, 1.0).log_prob(u) - normal({{SHIFT}}, c).log_prob(u), {{COUNTS}})
K = torch.tensor({{COUNTS}}).double().log()
slope = float(torch.cov(torch.stack([K, gaps.log()]))[0, 1] / K.var())

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: gap_cost
# points: 10
# manual: true

# %% [markdown]
# ## What does a gap cost? (10 points)
#
# With many latents $\log w$ is a sum of many terms, often nearly normal. Suppose that exactly
# $\log w\sim\mathcal N(m,s^2)$ under $q_\phi$, and that $q_\phi$ is positive wherever the posterior is.
#
# 1. Express $\log p_\theta(\mathbf x)$ and the gap $g$ of the ELBO by $m$ and $s^2$. (2 points)
# 2. Express $V=\operatorname{Var}(w)/p_\theta(\mathbf x)^2$ by $g$. (1 point)
# 3. What does the law $V/(2K)$ say: how many samples bring the gap from $g={{GAP}}$ nats down to
#    {{TOLERANCE}} nats? How does its number grow with $g$? (2 points) The law is not yet exact there: in
#    truth about {{GAP_TRUE_K}} samples do.
# 4. Use only that $\mathcal L_K$ rises with $K$ to show that the law cannot hold for $K<V/(2g)$. Give that
#    number for $g={{GAP}}$. (A larger $K$ is necessary, and by far not sufficient: at that number the true
#    gap is {{GAP_AT_FIRST}} nats.) A colleague plots $\log$ gap against $\log K$ for $K=1,\dots,16$, draws a
#    straight line through the points and extends it to large $K$. What do you tell her? (2 points)
# 5. Comment on the experiment of *Measure the bias* (80 to 150 words): which slope you found and with what
#    doubt (another seed or two show it); what would change for an encoder with $c^2<\frac12$; and why you
#    cannot use the control variate for a real VAE. (3 points)

# %% [raw]
# # BEGIN SOLUTION

# %% [markdown]
# 1. $\mathbb E_{q_\phi}[w]=\int p_\theta(\mathbf x,\mathbf z)\,\mathrm d\mathbf z=p_\theta(\mathbf x)$, and
#    the mean of a log-normal variable is $e^{m+s^2/2}$. So $\log p_\theta(\mathbf x)=m+\frac12s^2$. The ELBO
#    is $\mathbb E[\log w]=m$, and $g=\frac12s^2$: the gap is half the variance of the log-weight.
# 2. $\mathbb E[w^2]=e^{2m+2s^2}$, divided by $p_\theta(\mathbf x)^2=e^{2m+s^2}$ is $e^{s^2}$. So
#    $V=e^{s^2}-1=e^{2g}-1$, here about {{GAP_V}}.
# 3. $V/(2K)\le\delta$ for $K\ge(e^{2g}-1)/(2\delta)$: about {{GAP_K}} samples for $g={{GAP}}$,
#    $\delta={{TOLERANCE}}$. It grows exponentially: every further nat of gap multiplies $K$ by
#    $e^2\approx7.4$. (The true gap at this $K$ is {{GAP_AT_LAW}} nats. The law's next terms are of the order
#    $\mathbb E[(r-1)^3]/K^2\approx e^{6g}/K^2$, so it is accurate only for $K\gg e^{4g}$.)
# 4. The gap at $K$ is at most the gap at 1, which is $g$. If it were $V/(2K)$, then $V/(2K)\le g$, that is
#    $K\ge V/(2g)$, here about {{GAP_FIRST_K}}. For smaller $K$ the law is false, and above it need not hold
#    yet: at {{GAP_FIRST_K}} it says {{GAP}} nats, and the truth is {{GAP_AT_FIRST}}. Her points lie before
#    the law sets in; the slope there is shallower than $-1$, and the extension of her line says nothing
#    reliable. She must go on until the slope is $-1$, and look at the effective sample size.
# 5. Expected: a slope near $-1.01$, with a repeat over seeds or a standard error (about 0.01 here). Its mean
#    is not exactly $-1$, by the $K^{-2}$ term at $K=16$. For $c^2<\frac12$ the second moment of $r$ is
#    infinite, so $V$ is not defined, the gap falls more slowly than $1/K$, the measured slope is shallower
#    and changes from seed to seed, and the control variate has infinite variance itself. The control variate
#    needs $\bar r_K=\bar w_K/p_\theta(\mathbf x)$: it needs the number that we want to estimate.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN RUBRIC

# %% [markdown]
# **10 points.** Part 1 (2): $\mathbb E_q[w]=p_\theta(\mathbf x)$ named 0.5, log-normal mean 0.5, $g$ one
# point. Part 2 (1): second moment 0.5, $V$ in $g$ 0.5. Part 3 (2): the law's number 1 (accept one digit),
# exponential growth 1. Part 4 (2): monotonicity argument 1, number and answer to the colleague 1. Part 5 (3):
# slope with a doubt 1 (accept both "$-1$ within the doubt" and "a little steeper than $-1$"), infinite
# variance and its consequence 1, $p_\theta(\mathbf x)$ unknown 1.
#
# Typical wrong answers and what they earn:
#
# - $\log p_\theta(\mathbf x)=m$ (log and mean exchanged): part 1 earns 0.5 for
#   $\mathbb E_q[w]=p_\theta(\mathbf x)$; then $g=0$, and of parts 2 to 4 only the monotonicity argument (1)
#   is left.
# - $g=s^2$ (the ½ forgotten): part 1 loses 1; parts 2 to 4 consistently with $V=e^g-1$: full marks there. 9.
# - $V=\operatorname{Var}(\log w)=s^2$ (the variance of the log for the variance of the weight): part 2 earns
#   0, part 3 only 0.5 for the method (the number is far too small, the growth linear). 7.5.
# - $V=e^{s^2}$ without $-1$: loses 0.5, nothing afterwards.
# - Part 3: {{GAP_TRUE_K}} copied from the question: 0 for the number; the law's was asked for.
# - Part 4 by "the law holds for large $K$ only", without monotonicity: 1 of 2.
# - Part 4: "from $K=V/(2g)$ on her line is reliable": loses 0.5.
# - Part 5: "without the control variate the result would be biased" (it has mean zero: only noisier): loses
#   0.5 of part 5.
# - Part 5 outside 50 to 200 words: loses 0.5.

# %% [raw]
# # END RUBRIC

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: m2_loss
# points: 12

# %% [markdown]
# ## Two bounds and a classifier (12 points)
#
# M2 explains an image by a label $y\in\{0,\dots,C-1\}$ and a style. Somebody has already computed the
# labelled bounds $\mathcal L(\mathbf x,y)$ of chapter 13 (*without* $\log p(y)$). The class prior need not
# be uniform. **Mind the order of the axes: `per_label` is $(C, B)$, `logits` is $(B, C)$.**
#
# 1. `unlabelled_bound(per_label, logits, log_prior)`: `per_label` of shape $(C, B)$ holds
#    $\mathcal L(\mathbf x_b,y)$ for every label $y$; `logits` of shape $(B, C)$ are the classifier's, so
#    that $q_\phi(y\mid\mathbf x_b)$ is their softmax; `log_prior` of shape $(C,)$ is $\log p(y)$. Return
#    $\mathcal U(\mathbf x_b)$ with $y$ summed out exactly, shape $(B,)$, in nats. The logits are finite, but
#    may be thousands in size: a classifier that is certain ($q_\phi(y\mid\mathbf x)=0$ in floating point)
#    must not break it. Only the value is tested, not its gradient.
# 2. `m2_loss(labelled, y, logits, unlabelled, log_prior, alpha, rho)`: `labelled` of shape $(B,)$ holds
#    $\mathcal L(\mathbf x_b,y_b)$ for the true labels `y`, shape $(B,)$ and type `int64`; `logits` of shape
#    $(B, C)$ are the classifier's for the same labelled images; `unlabelled` of shape $(B',)$ holds
#    $\mathcal U$ of other images. Return the scalar to minimise,
#
# $$
# -\rho\,\operatorname*{mean}_{b}\bigl(\mathcal L(\mathbf x_b,y_b)+\log p(y_b)\bigr)
# -\operatorname*{mean}_{b'}\,\mathcal U(\mathbf x_{b'})
# -\alpha\,\operatorname*{mean}_{b}\log q_\phi(y_b\mid\mathbf x_b).
# $$
#
# The functions of `course_lib` are not allowed.

# %% [raw]
# # BEGIN SOLUTION


# %%
def unlabelled_bound(per_label, logits, log_prior):
    """U(x), (B,): per_label (C, B), classifier's logits (B, C), log_prior (C,), in nats."""
    # BEGIN SOLUTION
    log_q = logits.log_softmax(-1).T  # (C, B)
    return (log_q.exp() * (per_label + log_prior[:, None] - log_q)).sum(0)
    # END SOLUTION


def m2_loss(labelled, y, logits, unlabelled, log_prior, alpha, rho):
    """The scalar to minimise: labelled (B,), y (B,), logits (B, C), unlabelled (B',), log_prior (C,)."""
    # BEGIN SOLUTION
    labelled_term = (labelled + log_prior[y]).mean()
    return alpha * F.cross_entropy(logits, y) - rho * labelled_term - unlabelled.mean()
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: the unlabelled bound
points: 2
""" # END TEST CONFIG
def test_unlabelled(unlabelled_bound):
    import torch
    from course_lib.answer_checks import bounded, compare
    per_label, logits, log_prior = (
        torch.tensor(t, dtype=torch.float64) for t in ({{PER_LABEL}}, {{LOGITS}}, {{LOG_PRIOR}}))
    seen = bounded(unlabelled_bound, per_label, logits, log_prior,
                   without=["course_lib.ssvae.unlabelled_bound"])
    right, prior, entropy, sign, both, axis, alike, total, hard, guess, best = torch.tensor(
        {{UNLABELLED}}, dtype=torch.float64)
    compare("U(x)", seen, right, {
        "log p(y) is missing": prior,
        "the entropy of q(y | x) is missing": entropy,
        "the entropy of q(y | x) has the wrong sign": sign,
        "log p(y) and the entropy are missing": both,
        "the softmax was taken over the images, not over the labels": axis,
        "the labels were averaged alike: weigh them by q(y | x)": alike,
        "the labels were summed without weights": total,
        "only the likeliest label was used: sum over all of them": hard,
        "only the likeliest label was used": guess,
        "this is the best bound over all classifiers, not that of yours": best,
        "the sign is flipped": -right,
    })

# %%
""" # BEGIN TEST CONFIG
name: as many images as labels, and a certain classifier
points: 4
hidden: true
""" # END TEST CONFIG
def test_square(unlabelled_bound):
    import torch
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 62)
    per_label = 2 * torch.randn(4, 4, generator=noise, dtype=torch.float64) - 6
    logits = torch.randn(4, 4, generator=noise, dtype=torch.float64)
    log_prior = torch.randn(4, generator=noise, dtype=torch.float64).log_softmax(0)
    cases = {"U(x) with B = C": logits, "U(x) of a certain classifier (0 · log 0 is 0)": 3000 * logits}
    for name, scores in cases.items():
        seen = bounded(unlabelled_bound, per_label, scores, log_prior,
                       without=["course_lib.ssvae.unlabelled_bound"])
        log_q, flat = scores.log_softmax(-1), scores.log_softmax(0)
        prior = log_prior[:, None]
        compare(name, seen, (log_q.exp().T * (per_label + prior - log_q.T)).sum(0), {
            "the logits were not transposed": (log_q.exp() * (per_label + prior - log_q)).sum(0),
            "the softmax was taken over the images": (flat.exp().T * (per_label + prior - flat.T)).sum(0),
            "the prior lies along the images": (log_q.exp().T * (per_label + log_prior - log_q.T)).sum(0),
        }, show=False)

# %%
""" # BEGIN TEST CONFIG
name: the loss
points: 2
""" # END TEST CONFIG
def test_loss(m2_loss):
    import torch
    from course_lib.answer_checks import bounded, compare
    labelled, logits, unlabelled, log_prior = (
        torch.tensor(t, dtype=torch.float64) for t in ({{LABELLED}}, {{LOGITS}}, {{OTHERS}}, {{LOG_PRIOR}}))
    seen = bounded(m2_loss, labelled, torch.tensor({{LABELS}}), logits, unlabelled, log_prior,
                   {{ALPHA}}, {{RHO}}, without=["course_lib.ssvae.SemiSupervisedObjective.forward"])
    right, no_classifier, prior, total, sign, flipped, rho, exchanged, no_rho, mean, scores = torch.tensor(
        {{M2_LOSSES}}, dtype=torch.float64)
    compare("the loss", seen, right, {
        "the classifier's term is missing: labels do not reach the classifier through the bound":
            no_classifier,
        "log p(y) of the labelled images is missing": prior,
        "the sum over the images was taken, it must be their mean": total,
        "the classifier is rewarded for wrong labels: a sign is flipped": sign,
        "this is what to maximise; the loss is its negative": flipped,
        "ρ weighs the labelled bound, not the unlabelled one": rho,
        "α and ρ are exchanged": exchanged,
        "ρ is missing": no_rho,
        "log p(y) was averaged over all labels, not taken at y": mean,
        "the logits were used as log-probabilities": scores,
    })

# %%
""" # BEGIN TEST CONFIG
name: the loss, other weights
points: 4
hidden: true
""" # END TEST CONFIG
def test_other_weights(m2_loss):
    import torch
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 64)
    labelled, unlabelled = (torch.randn(n, generator=noise, dtype=torch.float64) - 90 for n in (3, 3))
    logits = torch.randn(3, 3, generator=noise, dtype=torch.float64)
    log_prior = torch.randn(3, generator=noise, dtype=torch.float64).log_softmax(0)
    y = torch.tensor([2, 0, 2])
    logits.requires_grad_()
    seen = bounded(m2_loss, labelled, y, logits, unlabelled, log_prior, 70.0, 0.3,
                   without=["course_lib.ssvae.SemiSupervisedObjective.forward"])
    l, p, u = labelled.mean(), log_prior[y].mean(), unlabelled.mean()
    entropy = torch.nn.functional.cross_entropy(logits, y)
    compare("the loss with other weights", seen, 70 * entropy - 0.3 * (l + p) - u, {
        "the classifier's term is missing": -0.3 * (l + p) - u,
        "log p(y) of the labelled images is missing": 70 * entropy - 0.3 * l - u,
    }, rtol=1e-6, show=False)
    if not isinstance(seen, torch.Tensor) or not seen.requires_grad:
        raise AssertionError("the loss with other weights: no gradient reaches the classifier")
    got, truth = (torch.autograd.grad(v, logits, materialize_grads=True)[0] for v in (seen, 70 * entropy))
    compare("the gradient of the loss in the logits", got, truth, {"it points uphill": -truth}, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: prior of the label left out
# earns: 6
# says: log p(y) is missing
def unlabelled_bound(per_label, logits, log_prior):
    log_q = logits.log_softmax(-1).T
    return (log_q.exp() * (per_label - log_q)).sum(0)

def m2_loss(labelled, y, logits, unlabelled, log_prior, alpha, rho):
    return alpha * F.cross_entropy(logits, y) - rho * (labelled + log_prior[y]).mean() - unlabelled.mean()

# %%
# wrong: entropy of the label left out
# earns: 6
# says: entropy of q(y | x) is missing
def unlabelled_bound(per_label, logits, log_prior):
    return (logits.softmax(-1).T * (per_label + log_prior[:, None])).sum(0)

def m2_loss(labelled, y, logits, unlabelled, log_prior, alpha, rho):
    return alpha * F.cross_entropy(logits, y) - rho * (labelled + log_prior[y]).mean() - unlabelled.mean()

# %%
# wrong: sign of the entropy
# earns: 6
# says: has the wrong sign
def unlabelled_bound(per_label, logits, log_prior):
    log_q = logits.log_softmax(-1).T
    return (log_q.exp() * (per_label + log_prior[:, None] + log_q)).sum(0)

def m2_loss(labelled, y, logits, unlabelled, log_prior, alpha, rho):
    return alpha * F.cross_entropy(logits, y) - rho * (labelled + log_prior[y]).mean() - unlabelled.mean()

# %%
# wrong: softmax over the images
# earns: 6
# says: over the images, not over the labels
def unlabelled_bound(per_label, logits, log_prior):
    log_q = logits.log_softmax(0).T
    return (log_q.exp() * (per_label + log_prior[:, None] - log_q)).sum(0)

def m2_loss(labelled, y, logits, unlabelled, log_prior, alpha, rho):
    return alpha * F.cross_entropy(logits, y) - rho * (labelled + log_prior[y]).mean() - unlabelled.mean()

# %%
# wrong: labels averaged alike
# earns: 6
# says: weigh them by q(y | x)
def unlabelled_bound(per_label, logits, log_prior):
    return (per_label + log_prior[:, None] - logits.log_softmax(-1).T).mean(0)

def m2_loss(labelled, y, logits, unlabelled, log_prior, alpha, rho):
    return alpha * F.cross_entropy(logits, y) - rho * (labelled + log_prior[y]).mean() - unlabelled.mean()

# %%
# wrong: the likeliest label only
# earns: 6
# says: only the likeliest label
def unlabelled_bound(per_label, logits, log_prior):
    guess = logits.argmax(-1)
    return per_label[guess, torch.arange(len(guess))] + log_prior[guess]

def m2_loss(labelled, y, logits, unlabelled, log_prior, alpha, rho):
    return alpha * F.cross_entropy(logits, y) - rho * (labelled + log_prior[y]).mean() - unlabelled.mean()

# %%
# wrong: 0 log 0
# earns: 8
# says: 0 · log 0
def unlabelled_bound(per_label, logits, log_prior):
    q = logits.softmax(-1).T
    return (q * (per_label + log_prior[:, None] - q.log())).sum(0)

def m2_loss(labelled, y, logits, unlabelled, log_prior, alpha, rho):
    return alpha * F.cross_entropy(logits, y) - rho * (labelled + log_prior[y]).mean() - unlabelled.mean()

# %%
# wrong: classifier's term forgotten
# earns: 6
# says: the classifier's term is missing
def unlabelled_bound(per_label, logits, log_prior):
    log_q = logits.log_softmax(-1).T
    return (log_q.exp() * (per_label + log_prior[:, None] - log_q)).sum(0)

def m2_loss(labelled, y, logits, unlabelled, log_prior, alpha, rho):
    return -rho * (labelled + log_prior[y]).mean() - unlabelled.mean()

# %%
# wrong: log p(y) of the labelled images forgotten
# earns: 6
# says: of the labelled images is missing
def unlabelled_bound(per_label, logits, log_prior):
    log_q = logits.log_softmax(-1).T
    return (log_q.exp() * (per_label + log_prior[:, None] - log_q)).sum(0)

def m2_loss(labelled, y, logits, unlabelled, log_prior, alpha, rho):
    return alpha * F.cross_entropy(logits, y) - rho * labelled.mean() - unlabelled.mean()

# %%
# wrong: sums instead of means
# earns: 6
# says: it must be their mean
def unlabelled_bound(per_label, logits, log_prior):
    log_q = logits.log_softmax(-1).T
    return (log_q.exp() * (per_label + log_prior[:, None] - log_q)).sum(0)

def m2_loss(labelled, y, logits, unlabelled, log_prior, alpha, rho):
    cross_entropy = F.cross_entropy(logits, y, reduction="sum")
    return alpha * cross_entropy - rho * (labelled + log_prior[y]).sum() - unlabelled.sum()

# %%
# wrong: calls the library
# earns: 6
# says: switched off
def unlabelled_bound(per_label, logits, log_prior):
    from course_lib import ssvae
    return ssvae.unlabelled_bound(None, per_label)

def m2_loss(labelled, y, logits, unlabelled, log_prior, alpha, rho):
    return alpha * F.cross_entropy(logits, y) - rho * (labelled + log_prior[y]).mean() - unlabelled.mean()

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: balanced_labels
# points: 8

# %% [markdown]
# ## Whose labels may be used? (8 points)
#
# Write `balanced_labels`. From the labels of all images (whole numbers, shape $(N,)$) choose at random $n$
# *different* images of every class that occurs, each such set with the same probability. Return their
# indices: shape $(C\cdot n,)$, type `int64`, in any order. All randomness must come from `generator`, a
# `torch.Generator` on the CPU, so that its seed names the set. The classes may be of very unequal size, and
# at least $n$ each. The function of `course_lib` is not allowed. The public test looks at the balance only;
# the use of the generator and the distribution are tested when you hand in.

# %% [raw]
# # BEGIN SOLUTION


# %%
def balanced_labels(labels, n_per_class, generator):
    """Indices of n_per_class different images of every class, int64, shape (C * n_per_class,)."""
    # BEGIN SOLUTION
    order = torch.randperm(len(labels), generator=generator)
    shuffled = labels[order]
    return torch.cat([order[shuffled == c][:n_per_class] for c in labels.unique()])
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: balanced, without duplicates
points: 3
""" # END TEST CONFIG
def test_balanced(balanced_labels):
    import torch
    from course_lib.answer_checks import bounded, compare
    n, C = {{N_PER_CLASS}}, {{N_CLASSES}}
    sizes = [n, n + 1] + [40 * c for c in range(2, C)]  # the first classes are hardly larger than n
    labels = torch.cat([torch.full((size,), c) for c, size in enumerate(sizes)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed({{SEED}}))]
    seen = bounded(balanced_labels, labels, n, torch.Generator().manual_seed({{SEED}} + 71),
                   without=["course_lib.labels.balanced_indices"])
    if seen is None or seen is Ellipsis:
        raise AssertionError("the indices: nothing was returned; not answered yet?")
    compare("the indices' number", torch.as_tensor(len(seen)), C * n, {
        "a mask over all images was returned; return indices": len(labels),
    })
    if not isinstance(seen, torch.Tensor) or seen.dtype != torch.int64 or seen.ndim != 1:
        raise AssertionError("the indices: return a vector of int64")
    if int(seen.min()) < 0 or int(seen.max()) >= len(labels):
        raise AssertionError("the indices: some name no image")
    if len(seen.unique()) < len(seen):
        twice = len(seen) - len(seen.unique())
        raise AssertionError(f"the indices: {twice} images are there twice; draw without replacement")
    counts = labels[seen].bincount(minlength=C)
    if not (counts == n).all():
        raise AssertionError(f"the indices: the classes are not balanced, they have {counts.tolist()} labels")

# %%
""" # BEGIN TEST CONFIG
name: the seed names the set
points: 3
hidden: true
""" # END TEST CONFIG
def test_seed(balanced_labels):
    import torch
    from course_lib.answer_checks import bounded
    labels = torch.arange(90) % 3
    draws = []
    for seed in (1, 1, 2, 3):
        torch.manual_seed(100 + len(draws))
        generator = torch.Generator().manual_seed({{SEED}} + seed)
        seen = bounded(balanced_labels, labels, 4, generator, without=["course_lib.labels.balanced_indices"])
        if not isinstance(seen, torch.Tensor) or seen.shape != (12,) or len(seen.unique()) < 12:
            raise AssertionError("twelve different indices were expected: four for each of three classes")
        if not (labels[seen].bincount(minlength=3) == 4).all():
            raise AssertionError("the classes are not balanced")
        draws.append(seen.sort().values)
    if not torch.equal(draws[0], draws[1]):
        raise AssertionError("the same seed gave two different sets: take all randomness from the generator")
    if torch.equal(draws[0], draws[2]) and torch.equal(draws[0], draws[3]):
        raise AssertionError("another seed gave the same set: always the first images, not random ones")

# %%
""" # BEGIN TEST CONFIG
name: every image is as likely as another
points: 2
hidden: true
""" # END TEST CONFIG
def test_uniform(balanced_labels):
    import torch
    from course_lib.answer_checks import bounded
    labels = torch.tensor([0] * 6 + [4] * 12 + [1] * 30)  # the classes 0, 1 and 4
    generator, counts, n_draws = torch.Generator().manual_seed({{SEED}} + 81), torch.zeros(48), 400

    def draw_all():
        return [balanced_labels(labels, 3, generator) for _ in range(n_draws)]

    for seen in bounded(draw_all, without=["course_lib.labels.balanced_indices"]):
        if not isinstance(seen, torch.Tensor) or seen.shape != (9,) or len(seen.unique()) < 9:
            raise AssertionError("nine different indices were expected: three for each of three classes")
        if not (labels[seen].bincount(minlength=5) == torch.tensor([3, 3, 0, 0, 3])).all():
            raise AssertionError("the classes are not balanced")
        counts[seen] += 1
    share = 3 / torch.tensor([6.0, 30.0, 0.0, 0.0, 12.0])[labels]
    deviation = (counts - n_draws * share).abs() / (n_draws * share * (1 - share)).sqrt()
    if float(deviation.max()) > 6:
        raise AssertionError("over 400 draws some images come too often: in a class all are equally likely")

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: drawn with replacement
# earns: 0
# says: draw without replacement
def balanced_labels(labels, n_per_class, generator):
    chosen = []
    for c in labels.unique():
        members = (labels == c).nonzero()[:, 0]
        chosen.append(members[torch.randint(min(len(members), 12), (n_per_class,), generator=generator)])
    indices = torch.cat(chosen)
    indices[1] = indices[0]  # as good as certain for a small class; here for sure
    return indices

# %%
# wrong: drawn from all images
# earns: 0
# says: not balanced
def balanced_labels(labels, n_per_class, generator):
    return torch.randperm(len(labels), generator=generator)[: n_per_class * len(labels.unique())]

# %%
# wrong: always the first images
# earns: 3
# says: always the first images
def balanced_labels(labels, n_per_class, generator):
    return torch.cat([(labels == c).nonzero()[:n_per_class, 0] for c in labels.unique()])

# %%
# wrong: the generator ignored
# earns: 5
# says: take all randomness from the generator
def balanced_labels(labels, n_per_class, generator):
    order = torch.randperm(len(labels))
    return torch.cat([order[labels[order] == c][:n_per_class] for c in labels.unique()])

# %%
# wrong: labels instead of indices
# earns: 0
# says: images are there twice
def balanced_labels(labels, n_per_class, generator):
    order = torch.randperm(len(labels), generator=generator)
    return torch.cat([labels[order][labels[order] == c][:n_per_class] for c in labels.unique()])

# %%
# wrong: a random start instead of a random set
# earns: 6
# says: some images come too often
def balanced_labels(labels, n_per_class, generator):
    chosen = []
    for c in labels.unique():
        members = (labels == c).nonzero()[:, 0]
        start = int(torch.randint(len(members) - n_per_class + 1, (1,), generator=generator))
        chosen.append(members[start : start + n_per_class])
    return torch.cat(chosen)

# %%
# wrong: calls the library
# earns: 0
# says: switched off
def balanced_labels(labels, n_per_class, generator):
    from course_lib.labels import balanced_indices
    return balanced_indices(labels, n_per_class, seed=generator.initial_seed())

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: partial_labels
# points: 12
# manual: true
# pool: derivation

# %% [markdown]
# ## A label that is half known (12 points)
#
# An annotator is sure only that the label is one of a set $S\subseteq\{0,\dots,C-1\}$, "a 4 or a 9". What is
# observed is $(\mathbf x,\,y\in S)$. Use the M2 model and the notation of chapter 13, with
# $f_y=\mathcal L(\mathbf x,y)+\log p(y)\le\log p_\theta(\mathbf x,y)$. Let $r$ be any distribution on $S$
# with $r_y>0$.
#
# 1. Use Jensen's inequality with the weights $r_y$ to find a lower bound $\mathcal U_S(\mathbf x)$ of
#    $\log p_\theta(\mathbf x,y\in S)$, where
#    $p_\theta(\mathbf x,y\in S)=\sum_{y\in S}p_\theta(\mathbf x,y)$. It may contain $f_y$ and $r_y$ only.
#    (3 points)
# 2. Write the gap as a sum of two terms that are not negative, and say what each measures. (3 points)
# 3. Which $r$ makes $\mathcal U_S$ largest, and what is its value then? What is $\mathcal U_S$ if $S$ has
#    one element, what if $S$ holds all labels? (3 points)
# 4. A colleague has a classifier $q_\phi(y\mid\mathbf x)$ on all $C$ labels. In your formula for
#    $\mathcal U_S$ she puts $q_\phi(y\mid\mathbf x)$ in the place of $r_y$, without renormalising: call the
#    result $A$. Express $A$ by $Q=\sum_{y\in S}q_\phi(y\mid\mathbf x)$ and a $\mathcal U_S$. For an image
#    with $\log p_\theta(\mathbf x,y\in S)=-100$ nats, what does $A$ reward? (3 points)

# %% [raw]
# # BEGIN SOLUTION

# %% [markdown]
# 1. The bound is $\mathcal U_S(\mathbf x)=\sum_{y\in S}r_y\,(f_y-\log r_y)$. By Jensen's inequality, since
#    $\sum_{y\in S}r_y=1$,
#    $$\log p_\theta(\mathbf x,y\in S)=\log\sum_{y\in S}r_y\frac{p_\theta(\mathbf x,y)}{r_y}
#    \ge\sum_{y\in S}r_y\log\frac{p_\theta(\mathbf x,y)}{r_y}\ge\sum_{y\in S}r_y(f_y-\log r_y).$$
#    The last step is $f_y\le\log p_\theta(\mathbf x,y)$, the labelled bound.
# 2. Write $p_\theta(y\mid\mathbf x,S)=p_\theta(\mathbf x,y)/p_\theta(\mathbf x,y\in S)$ for $y\in S$. By
#    chapter 13, $f_y=\log p_\theta(\mathbf x,y)-k_y$ with
#    $k_y=\mathrm{KL}(q_\phi(\mathbf z\mid\mathbf x,y)\,\|\,p_\theta(\mathbf z\mid\mathbf x,y))$. Insert
#    both:
#    $$\mathcal U_S=\sum_{y\in S}r_y\Bigl(\log p_\theta(\mathbf x,y\in S)
#    +\log\frac{p_\theta(y\mid\mathbf x,S)}{r_y}-k_y\Bigr)
#    =\log p_\theta(\mathbf x,y\in S)-\mathrm{KL}\bigl(r\,\|\,p_\theta(\cdot\mid\mathbf x,S)\bigr)
#    -\sum_{y\in S}r_yk_y.$$
#    The first is the error of the belief about the label *within* $S$, the second the encoder's error,
#    averaged over the labels that are believed.
# 3. With $Z=\sum_{j\in S}e^{f_j}$ and $r^*_y=e^{f_y}/Z$: $f_y=\log r^*_y+\log Z$, so
#    $\mathcal U_S=\log Z-\mathrm{KL}(r\,\|\,r^*)$. It is largest at $r=r^*$, and the value is
#    $\log\sum_{y\in S}e^{f_y}$. For $S=\{y\}$ only $r_y=1$ is possible, and
#    $\mathcal U_S=f_y=\mathcal L(\mathbf x,y)+\log p(y)$, the labelled bound. For all labels and
#    $r=q_\phi(\cdot\mid\mathbf x)$ it is $\mathcal U(\mathbf x)$. One formula for all three cases.
# 4. Here $A=\sum_{y\in S}q_\phi(y\mid\mathbf x)\bigl(f_y-\log q_\phi(y\mid\mathbf x)\bigr)$. Put
#    $r_y=q_\phi(y\mid\mathbf x)/Q$ on $S$. Then $\log q_\phi(y\mid\mathbf x)=\log r_y+\log Q$, and
#    $$A=Q\sum_{y\in S}r_y(f_y-\log r_y-\log Q)=Q\,(\mathcal U_S-\log Q).$$
#    With $\mathcal U_S\le-100$ it is about $-100\,Q$: it *rises* toward 0 as $Q\to0$. So $A$ rewards a
#    classifier that believes in labels outside $S$, the opposite of what the annotator said. It is no bound:
#    for small $Q$ it exceeds $-100$. With $r$ renormalised, $\mathcal U_S$ says nothing about $Q$ at all; to
#    teach the classifier that the label is in $S$, add $\alpha\log Q$ as a term of its own.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN RUBRIC

# %% [markdown]
# **12 points**, 3 for each part. Part 1: Jensen with a normalised $r$ 1, the bound with its $-\log r_y$ 1,
# the labelled bound inserted with its reason 1. Part 2: each term 1, their meaning 1. Part 3: $r^*$ 1, value
# 1, the two cases 1. Part 4: $A=Q(\mathcal U_S-\log Q)$ 1.5, what it rewards 1, "no bound" 0.5. The last
# remark of the solution is not asked for. A wrong bound of part 1 is not punished again: parts 2 to 4 are
# graded with the student's own, as far as that makes sense.
#
# Typical wrong answers and what they earn:
#
# - Jensen applied to $\sum_{y\in S}q_\phi(y\mid\mathbf x)\,(\cdot)$, whose weights do not add up to 1: part
#   1 earns 1. Part 4 may still be right.
# - $\log\sum\le\sum\log$, the inequality the wrong way round: part 1 earns 0.5.
# - Gap given with $p_\theta(y\mid\mathbf x)$ instead of $p_\theta(y\mid\mathbf x,S)$, so that the KL is
#   between distributions on different sets: loses 1 in part 2.
# - Only one KL, the encoder's error forgotten (as if $f_y=\log p_\theta(\mathbf x,y)$): loses 1.5 in part 2.
# - $r^*\propto e^{\mathcal L(\mathbf x,y)}$, prior forgotten: loses 1 in part 3.
# - All belief on the largest $f_y$ (the entropy forgotten): part 3 earns 1 for the cases.
# - Part 4: "$A$ is a lower bound, since it leaves out terms": the omitted terms are negative, so leaving
#   them out raises the sum; 0 for that statement, up to 1.5 for the expression.

# %% [raw]
# # END RUBRIC

# %% [raw]
# # END QUESTION
