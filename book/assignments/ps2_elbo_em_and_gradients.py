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
from torch.distributions import MultivariateNormal, Normal
from torch.nn.functional import one_hot

SEED = int(rng.integers(1000))  # the pipeline provides rng
# Ranges that do not overlap: no axis can be mistaken for another without a change of shape.
N_LATENTS = int(rng.integers(2, 5))
N_BATCH = int(rng.integers(5, 8))
N_PIXELS = int(rng.integers(8, 11))
N_SAMPLES = int(rng.integers(11, 15))
N_COMPONENTS = int(rng.integers(3, 5))
N_POINTS = int(rng.integers(40, 61))
# Question 3: a gap in nats, and what follows from it.
GAP = round(float(rng.uniform(1.0, 2.5)), 2)
SPREAD = f"{math.sqrt(2 * GAP):.2f}"
RELATIVE_VARIANCE = f"{math.expm1(2 * GAP):.1f}"
GUESSES_BOUND = f"{2 * GAP / 0.05**2:.0f}"
GUESSES_EVIDENCE = f"{math.expm1(2 * GAP) / 0.05**2:.0f}"
# Question 8: two classes.
# (For ℓ > 0 the bias changes its sign at some temperature, and "the best temperature" would be an accident.)
LOGIT = -round(float(rng.uniform(0.8, 1.4)), 2)
TARGET = round(float(rng.uniform(0.1, 0.3)), 2)
# Question 9: an exponential under a Gaussian.
RATE = round(float(rng.uniform(0.4, 0.9)), 2)
SIGMA = round(float(rng.uniform(0.4, 0.9)), 2)
T_VALUE = (RATE * SIGMA) ** 2
T = f"{T_VALUE:.4f}"
PATHWISE = T_VALUE * math.expm1(T_VALUE)
NO_BASELINE = math.exp(T_VALUE) * (1 + 4 * T_VALUE) - T_VALUE
WITHOUT = f"{NO_BASELINE / PATHWISE:.1f}"
WITH_BEST = f"{(NO_BASELINE - (1 + T_VALUE) ** 2) / PATHWISE:.1f}"


# What public tests compare with stands in them as numbers: their files reach the students, formulas do not.
def drawn(*shape):
    return torch.from_numpy(rng.normal(size=shape)).mul(100).round() / 100


def numbers(*tensors):
    return [value.tolist() for value in tensors]


def em_values(x, w, m, v, std, share):
    """Of one EM round: log-likelihoods, new weights and new means, right ones first, then the mistakes."""
    n, parts, log_w = len(x), Normal(m, std).log_prob(x[:, None]), w.log()
    joint = log_w + parts.sum(-1)
    r, hard, axis = joint.softmax(1), one_hot(joint.argmax(1), len(w)).double(), joint.softmax(0)
    right = joint.logsumexp(1).sum()
    spherical_mistake = joint + (share - 1) * std.log().mean(-1)
    likelihoods = [
        right,
        right / n,
        parts.sum(-1).logsumexp(1).sum(),
        (w + parts.sum(-1)).logsumexp(1).sum(),
        (log_w + Normal(m, v).log_prob(x[:, None]).sum(-1)).logsumexp(1).sum(),
        (log_w + parts.mean(-1)).logsumexp(1).sum(),
        joint.sum(),
        spherical_mistake.logsumexp(1).sum(),
    ]
    new_weights = [r.mean(0), hard.mean(0), axis.mean(0), r.sum(0), parts.sum(-1).softmax(1).mean(0)]
    new_means = [
        r.T @ x / r.sum(0)[:, None],
        r.T @ x / n,
        r.T @ x,
        hard.T @ x / hard.sum(0).clamp(min=1)[:, None],
    ]
    return numbers(*likelihoods), numbers(*new_weights), numbers(*new_means)


# Question 5: twelve points in three dimensions, three components.
x, m = 1.5 * drawn(12, 3), drawn(3, 3)
w, v = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), 0.3 + drawn(3).abs()
EM_X, EM_MEANS, EM_WEIGHTS, EM_VARIANCES = numbers(x, m, w, v)
TIED_LIKELIHOODS, TIED_WEIGHTS, TIED_MEANS = em_values(x, w, m, v, v.sqrt(), 1)
ball = v[:, None].expand(3, 3)
BALL_LIKELIHOODS, BALL_WEIGHTS, BALL_MEANS = em_values(x, w, m, ball, ball.sqrt(), 3)

# Question 6: four rounds of EM for two kinds of bit strings.
bits = (drawn(14, 5) > 0).double()
share = torch.tensor([0.6, 0.4], dtype=torch.float64)
chance = torch.sigmoid(drawn(2, 5)).mul(100).round() / 100
BITS, SHARE, CHANCE = numbers(bits, share, chance)
TABLE, Q_ALONE, M_STEPS = [], [], []
for _ in range(4):
    joint = share.log() + bits @ chance.log().T + (1 - bits) @ (1 - chance).log().T
    r = joint.softmax(1)
    counts = r.sum(0) + 1e-9
    share, chance = counts / counts.sum(), (r.T @ bits / counts[:, None]).clamp(0.01, 0.99)
    M_STEPS.append(numbers(r[:, 0], share, chance))
    after = share.log() + bits @ chance.log().T + (1 - bits) @ (1 - chance).log().T
    q_alone = (r * after).sum()
    bound = q_alone - torch.xlogy(r, r).sum()
    TABLE.append(torch.stack([joint.logsumexp(1).sum(), bound, after.logsumexp(1).sum()]).tolist())
    Q_ALONE.append(float(q_alone))

# Question 8: by quadrature over the logistic noise; for each temperature one-sample spread, bias, mistakes.
TEMPERATURES = [0.25, 0.5, 1.0]
BIASES, SPREADS = [], []
noise = torch.linspace(-40, 40, 40_001).double()
density = torch.sigmoid(noise) * torch.sigmoid(-noise)
pi = 1 / (1 + math.exp(-LOGIT))
exact = pi * (1 - pi) * (1 - 2 * TARGET)
for tau in TEMPERATURES:
    y, late = torch.sigmoid((LOGIT + noise) / tau), torch.sigmoid(LOGIT / tau + noise)
    soft = 2 * (y - TARGET) * y * (1 - y) / tau
    hard = 2 * ((LOGIT + noise > 0).double() - TARGET) * y * (1 - y) / tau
    moved = 2 * (late - TARGET) * late * (1 - late) / tau
    mean, second, straight, misplaced, value = (
        float(torch.trapezoid(density * f, noise)) for f in (soft, soft**2, hard, moved, (y - TARGET) ** 2)
    )
    BIASES.append([
        math.sqrt(second - mean**2),
        mean - exact,
        exact - mean,
        mean,
        tau * mean - exact,
        straight - exact,
        misplaced - exact,
        value - pi * (1 - TARGET) ** 2 - (1 - pi) * TARGET**2,
        mean - (1 - 2 * TARGET),
        mean + exact,
    ])
    # The second column for 100,000 samples: right, mistakes, and five standard errors of its estimate.
    variance, fourth = second - mean**2, float(torch.trapezoid(density * (soft - mean) ** 4, noise))
    SPREADS.append([
        math.sqrt(variance),
        variance,
        math.sqrt(variance / 100_000),
        math.sqrt(second),
        tau * math.sqrt(variance),
        5 * math.sqrt((fourth - variance**2) / 100_000 / (4 * variance)),
    ])

# Question 1: to a standard normal, from log-variances or from a diagonal factor.
def kl_of(m, s):
    return 0.5 * (m**2 + s**2 - 1).sum(-1) - s.log().sum(-1)


m, v, s = drawn(N_BATCH, N_LATENTS), drawn(N_BATCH, N_LATENTS), 0.2 + drawn(N_BATCH, N_LATENTS).abs()
KL_MEANS, KL_LOG_VARS, KL_FACTORS = numbers(m, v, s)
right = kl_of(m, (v / 2).exp())
KL_VALUES = numbers(
    right,
    2 * right,
    -right,
    kl_of(m, v.exp()),
    kl_of(m, v.abs().clamp(min=0.01).sqrt()),
    right / N_LATENTS,
    0.5 * ((1 + m**2) / v.exp() - 1 + v).sum(-1),
    right + 0.5 * N_LATENTS,
    right + v.sum(-1),
)
right, logs = kl_of(m, s), s.log().sum(-1)
FACTOR_VALUES = numbers(
    right,
    2 * right,
    -right,
    right + 0.5 * logs,
    kl_of(m, s.sqrt()),
    right + 2 * logs,
    right + 0.5 * N_LATENTS,
    right / N_LATENTS,
)

# Question 2: three observations of four pixels, two latents, five samples; q is the exact posterior.
weight, bias, noise_var = drawn(4, 2), drawn(4), 0.3 + drawn(4).abs()
x, z = 1.5 * drawn(3, 4), drawn(5, 3, 2)
cov = torch.linalg.inv(torch.eye(2).double() + weight.T @ (weight / noise_var[:, None]))
mean = (x - bias) / noise_var @ weight @ cov
LINEAR_MODEL, LINEAR_X, LINEAR_Z = numbers(weight, bias, noise_var), x.tolist(), z.tolist()
LINEAR_MEAN, LINEAR_COV = numbers(mean, cov)
reconstruction = Normal(z @ weight.T + bias, noise_var.sqrt()).log_prob(x)
log_prior = Normal(0 * z, 1 + 0 * z).log_prob(z).sum(-1)
log_q = MultivariateNormal(mean, cov).log_prob(z)
closed = 0.5 * (cov.trace() + (mean**2).sum(-1) - 2 - cov.logdet())
WEIGHT_VALUES = numbers(
    MultivariateNormal(bias, weight @ weight.T + noise_var.diag()).log_prob(x).expand(5, 3),
    Normal(z @ weight.T + bias, noise_var).log_prob(x).sum(-1) + log_prior - log_q,
    reconstruction.mean(-1) + log_prior - log_q,
    reconstruction.sum(-1) - log_q,
    reconstruction.sum(-1) + log_prior,
    reconstruction.sum(-1) + log_prior + log_q,
    reconstruction.sum(-1) - closed,
    reconstruction.sum(-1) + log_prior - MultivariateNormal(mean, scale_tril=cov.tril()).log_prob(z),
    reconstruction.sum(-1) + log_prior - Normal(mean, cov.diagonal().sqrt()).log_prob(z).sum(-1),
)

# Question 4: twelve guesses for each of three observations.
logs = drawn(12, 3) - 5
right = logs.exp().mean(0).log()
GUESSES = logs.tolist()
GUESS_VALUES = numbers(
    right, logs.mean(0), right + math.log(12), right.exp(), right + 2 * math.log(12)
)

# Question 7: four samples for each of three examples; a normal q, with gradients in μ and log σ.
f, log_q, z, phi = 1.5 + drawn(4, 3), drawn(4, 3) - 1, drawn(4, 3), drawn(2, 3)
LOO_F, LOO_LOG_Q, LOO_Z, LOO_PHI = numbers(f, log_q, z, phi)
others = (f.sum(0) - f) / 3
SURROGATES = numbers(
    f.mean(0),
    (f + (f - others) * log_q).mean(0),
    ((f - others) * log_q).mean(0),
    (f * log_q).mean(0),
    f.sum(0),
)
std = phi[1].exp()
score = torch.stack([(z - phi[0]) / std**2, ((z - phi[0]) / std) ** 2 - 1])
GRADIENTS = numbers(
    *(((f - b) * score).mean(1) for b in (others, 0, f.mean(0), 0.75 * others, -others)),
    *(((f - b) * score).mean(1) for b in (f.mean(1, keepdim=True), f.mean())),
)

# %% [markdown]
# # Problem set 2: the ELBO, EM and gradient estimators
#
# **Effort:** about 12 hours: two each for questions 3, 5 and 8, one each for the others; less if you did the
# chapters' exercises. **100 points** in nine questions.
#
# **You need** chapter 4 (latent-variable models: Bayes' rule, linear Gaussian models, the naive estimate),
# chapter 5 (the evidence lower bound), chapter 6 (EM up to the ascent theorem) and chapter 7 (gradient
# estimators). Each question says which exercise or section it continues.
#
# **Data and machine.** Synthetic data and the 8×8 digits that come with scikit-learn. A laptop's processor or
# a free Colab session is enough: everything runs in less than two minutes on one core, without a GPU.
#
# **How points are given.** Questions 3 and 9 are derivations, graded by hand against a rubric, as is the
# comment on question 8: steps count, not only results. All others are graded by tests. You see some of them
# and can run them as often as you like. The rest are run when you hand in: they use other numbers, and also
# try the traps that a question names. Each test has its own points, so that a partly right answer earns a
# part. A mistake in one question costs nothing in another: the tests bring their own correct values. A call
# of your function may take 10 seconds, and print 100,000 characters. Tests are in `float64`. What is marked
# *for yourself* is not handed in.
#
# **Rules of the house.** All information quantities are in nats. Batch axes come first, in the order
# (samples, batch, event). Where a question says *not allowed*, the functions named there are switched off
# while your answer is tested. Everything else in `torch` may be used, `torch.distributions` included.
#
# **On your honour.** Talk with others about the ideas, and write your answers alone. If a program or a
# person wrote or changed a part of an answer, say which part and how you checked it. You must be able to
# explain every line that you hand in.

# %%
import math

import torch
from torch.distributions import MultivariateNormal, Normal
from torch.nn import functional as F

torch.manual_seed({{SEED}})
torch.set_default_dtype(torch.float64)

# %% [raw]
# # BEGIN QUESTION
# name: kl_diagonal
# points: 9
# pool: kl

# %% [markdown]
# ## Part A · The bound
#
# **Question 1 (9 points).** An encoder hands you means and *log-variances*, and so does a learned prior.
# Write $\mathrm{KL}(q\,\|\,p)$ between the two diagonal Gaussians $q=\mathcal
# N(\boldsymbol\mu_q,\operatorname{diag}\boldsymbol\sigma_q^2)$ and $p=\mathcal
# N(\boldsymbol\mu_p,\operatorname{diag}\boldsymbol\sigma_p^2)$. The arguments are $\boldsymbol\mu_q$,
# $\log\boldsymbol\sigma_q^2$, $\boldsymbol\mu_p$ and $\log\boldsymbol\sigma_p^2$, each of shape $(B,L)$.
# Return one number in nats for each example, shape $(B,)$. (This continues chapter 5, *Divergences in closed
# form*.)
#
# *Not allowed:* `course_lib`'s divergences and `torch.distributions.kl_divergence`.

# %% [raw]
# # BEGIN SOLUTION


# %%
def kl_diagonal(mean_q, log_var_q, mean_p, log_var_p):
    """KL(q ‖ p) in nats of diagonal Gaussians; four arguments of shape (B, L), result (B,)."""
    # BEGIN SOLUTION
    difference = log_var_q - log_var_p
    distance = (mean_q - mean_p).square() / log_var_p.exp()
    return 0.5 * (difference.exp() + distance - 1 - difference).sum(-1)
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: to a standard normal
points: 3
""" # END TEST CONFIG
def test_standard(kl_diagonal):
    import torch
    from course_lib.answer_checks import bounded, compare
    m, v = torch.tensor([{{KL_MEANS}}, {{KL_LOG_VARS}}], dtype=torch.float64)
    right, twice, flipped, log_std, plain, mean, back, ones, logs = torch.tensor(
        {{KL_VALUES}}, dtype=torch.float64)
    off = ["course_lib.distributions." + name for name in
           ("kl_between_diagonal_normals", "kl_to_standard_normal", "kl_between_normals")]
    off = [*off, "torch.distributions.kl.kl_divergence"]
    seen = bounded(kl_diagonal, m, v, torch.zeros_like(m), torch.zeros_like(m), without=off)
    compare("KL(q ‖ N(0, I))", seen, right, {
        "your KL is twice the expected value: did you forget the ½?": twice,
        "your KL has the wrong sign: it is never negative": flipped,
        "the second argument is log σ², you read it as log σ": log_std,
        "the second argument is log σ², you read it as σ²": plain,
        "the divergence of independent coordinates is a sum over the latents, you took their mean": mean,
        "this is KL(p ‖ q): the expectation is taken under the first argument": back,
        "the −1 for each latent is missing: KL(q ‖ q) would not be zero": ones,
        "the logarithm of the variance has the wrong sign": logs,
    })

# %%
""" # BEGIN TEST CONFIG
name: between two Gaussians
points: 6
hidden: true
""" # END TEST CONFIG
def test_general(kl_diagonal):
    import torch
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 12)
    m, v, a, b = torch.randn(4, {{N_BATCH}}, {{N_LATENTS}} + 1, generator=noise).double()
    b = b + 0.5
    q = torch.distributions.MultivariateNormal(m, torch.diag_embed(v.exp()))
    p = torch.distributions.MultivariateNormal(a, torch.diag_embed(b.exp()))
    truth, back = torch.distributions.kl_divergence(q, p), torch.distributions.kl_divergence(p, q)
    ratio, square = (v - b).exp(), (m - a) ** 2
    off = ["course_lib.distributions." + name for name in
           ("kl_between_diagonal_normals", "kl_to_standard_normal", "kl_between_normals")]
    off = [*off, "torch.distributions.kl.kl_divergence"]
    seen = bounded(kl_diagonal, m, v, a, b, without=off)
    compare("KL(q ‖ p)", seen, truth, {
        "it is twice the expected value: did you forget the ½?": 2 * truth,
        "it has the wrong sign: a KL is never negative": -truth,
        "this is KL(p ‖ q): the expectation is taken under the first argument": back,
        "the squared distance of the means is measured in units of p's variance, yours in no unit":
            0.5 * (ratio + square - 1 - v + b).sum(-1),
        "the squared distance of the means is divided by p's variance, you divided by q's":
            0.5 * (ratio + square / v.exp() - 1 - v + b).sum(-1),
        "the squared distance of the means is divided by p's variance, you divided by p's standard deviation":
            0.5 * (ratio + square / (0.5 * b).exp() - 1 - v + b).sum(-1),
        "log det Σ_p is missing: does your KL(q ‖ q) vanish?":
            0.5 * (ratio + square / b.exp() - 1 - v).sum(-1),
    }, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: the ½ is missing
# earns: 0
# says: forget the ½
def kl_diagonal(mean_q, log_var_q, mean_p, log_var_p):
    difference = log_var_q - log_var_p
    return (difference.exp() + (mean_q - mean_p).square() / log_var_p.exp() - 1 - difference).sum(-1)

# %%
# wrong: flipped sign
# earns: 0
# says: wrong sign
def kl_diagonal(mean_q, log_var_q, mean_p, log_var_p):
    difference = log_var_q - log_var_p
    return 0.5 * (1 + difference - difference.exp() - (mean_q - mean_p).square() / log_var_p.exp()).sum(-1)

# %%
# wrong: log-variance read as log standard deviation
# earns: 0
# says: you read it as log σ
def kl_diagonal(mean_q, log_var_q, mean_p, log_var_p):
    std_q, std_p = log_var_q.exp(), log_var_p.exp()
    ratio = (std_q / std_p).square()
    return 0.5 * (ratio + ((mean_q - mean_p) / std_p).square() - 1 - ratio.log()).sum(-1)

# %%
# wrong: mean over latents
# earns: 0
# says: you took their mean
def kl_diagonal(mean_q, log_var_q, mean_p, log_var_p):
    difference = log_var_q - log_var_p
    distance = (mean_q - mean_p).square() / log_var_p.exp()
    return 0.5 * (difference.exp() + distance - 1 - difference).mean(-1)

# %%
# wrong: averaged over the batch
# earns: 0
# says: expected the shape
def kl_diagonal(mean_q, log_var_q, mean_p, log_var_p):
    difference = log_var_q - log_var_p
    distance = (mean_q - mean_p).square() / log_var_p.exp()
    return 0.5 * (difference.exp() + distance - 1 - difference).sum(-1).mean()

# %%
# wrong: KL in the other direction
# earns: 0
# says: this is KL(p ‖ q)
def kl_diagonal(mean_q, log_var_q, mean_p, log_var_p):
    difference = log_var_p - log_var_q
    distance = (mean_q - mean_p).square() / log_var_q.exp()
    return 0.5 * (difference.exp() + distance - 1 - difference).sum(-1)

# %%
# wrong: distance of the means without the variance of p
# earns: 3
# says: yours in no unit
def kl_diagonal(mean_q, log_var_q, mean_p, log_var_p):
    difference = log_var_q - log_var_p
    return 0.5 * (difference.exp() + (mean_q - mean_p).square() - 1 - difference).sum(-1)

# %%
# wrong: log det of p forgotten
# earns: 3
# says: log det Σ_p is missing
def kl_diagonal(mean_q, log_var_q, mean_p, log_var_p):
    ratio = (log_var_q - log_var_p).exp()
    return 0.5 * (ratio + (mean_q - mean_p).square() / log_var_p.exp() - 1 - log_var_q).sum(-1)

# %%
# wrong: calls the library
# earns: 0
# says: switched off
def kl_diagonal(mean_q, log_var_q, mean_p, log_var_p):
    from course_lib.distributions import kl_between_diagonal_normals

    return kl_between_diagonal_normals(mean_q, (0.5 * log_var_q).exp(), mean_p, (0.5 * log_var_p).exp())

# %%
# wrong: returns the public test's numbers
# earns: 3
# says: not the right value
def kl_diagonal(mean_q, log_var_q, mean_p, log_var_p):
    return torch.tensor({{KL_VALUES}}[0])

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: kl_triangular
# points: 9
# pool: kl

# %% [markdown]
# ## Part A · The bound
#
# **Question 1 (9 points).** A diagonal $q$ cannot follow a posterior whose coordinates are correlated. So let
# the encoder hand you a mean $\boldsymbol\mu$ of shape $(B,L)$ and a *lower-triangular* matrix $\mathbf F$ of
# shape $(B,L,L)$ with a positive diagonal, and take $q=\mathcal N(\boldsymbol\mu,\mathbf F\mathbf F^\top)$.
# Write $\mathrm{KL}(q\,\|\,\mathcal N(\mathbf 0,\mathbf I))$ without inverting or factorising any matrix.
# Return one number in nats for each example, shape $(B,)$. (This continues chapter 5, *Divergences in closed
# form*.)
#
# *Not allowed:* `course_lib`'s divergences and `torch.distributions.kl_divergence`.

# %% [raw]
# # BEGIN SOLUTION


# %%
def kl_triangular(mean, factor):
    """KL(N(mean, F Fᵀ) ‖ N(0, I)) in nats; mean of shape (B, L), F of shape (B, L, L), result (B,)."""
    # BEGIN SOLUTION
    trace = factor.square().sum((-2, -1))
    half_log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 0.5 * (trace + mean.square().sum(-1) - mean.shape[-1]) - half_log_det
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: a diagonal factor
points: 3
""" # END TEST CONFIG
def test_diagonal(kl_triangular):
    import torch
    from course_lib.answer_checks import bounded, compare
    m, s = torch.tensor([{{KL_MEANS}}, {{KL_FACTORS}}], dtype=torch.float64)
    right, twice, flipped, half, covariance, sign, ones, mean = torch.tensor(
        {{FACTOR_VALUES}}, dtype=torch.float64)
    off = ["course_lib.distributions." + name for name in
           ("kl_between_diagonal_normals", "kl_to_standard_normal", "kl_between_normals")]
    off = [*off, "torch.distributions.kl.kl_divergence"]
    seen = bounded(kl_triangular, m, torch.diag_embed(s), without=off)
    compare("KL(q ‖ N(0, I)) with a diagonal F", seen, right, {
        "your KL is twice the expected value: did you forget the ½?": twice,
        "your KL has the wrong sign: it is never negative": flipped,
        "log det(F Fᵀ) is not log det F: a factor 2 is missing": half,
        "you took F for the covariance: it is F Fᵀ": covariance,
        "the log-determinant has the wrong sign": sign,
        "the −L is missing: KL(q ‖ q) would not be zero": ones,
        "the divergence is a sum over the latents, you took their mean": mean,
    })

# %%
""" # BEGIN TEST CONFIG
name: correlated coordinates
points: 6
hidden: true
""" # END TEST CONFIG
def test_full(kl_triangular):
    import torch
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 14)
    n = {{N_LATENTS}} + 1
    m, a = (torch.randn(s, generator=noise).double() for s in [({{N_BATCH}}, n), ({{N_BATCH}}, n, n)])
    f = a.tril(-1) + torch.diag_embed((0.5 * a.diagonal(dim1=-2, dim2=-1)).exp())
    cov = f @ f.mT
    trace, log_det, square = cov.diagonal(dim1=-2, dim2=-1).sum(-1), torch.logdet(cov), (m**2).sum(-1)
    truth = 0.5 * (trace + square - n - log_det)
    off = ["course_lib.distributions." + name for name in
           ("kl_between_diagonal_normals", "kl_to_standard_normal", "kl_between_normals")]
    off = [*off, "torch.distributions.kl.kl_divergence"]
    seen = bounded(kl_triangular, m, f, without=off)
    diagonal = f.diagonal(dim1=-2, dim2=-1)
    compare("KL(q ‖ N(0, I))", seen, truth, {
        "it is twice the expected value: did you forget the ½?": 2 * truth,
        "it has the wrong sign: a KL is never negative": -truth,
        "tr(F Fᵀ) is the sum of all squared entries of F, you squared the diagonal only":
            0.5 * ((diagonal**2).sum(-1) + square - n - log_det),
        "log det(F Fᵀ) is 2 Σ log F_ll, a factor 2 is missing": 0.5 * (trace + square - n - 0.5 * log_det),
        "you took the determinant of a diagonal covariance: correlations shrink it":
            0.5 * (trace + square - n - cov.diagonal(dim1=-2, dim2=-1).log().sum(-1)),
    }, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: the ½ is missing
# earns: 0
# says: forget the ½
def kl_triangular(mean, factor):
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return factor.square().sum((-2, -1)) + mean.square().sum(-1) - mean.shape[-1] - log_det

# %%
# wrong: log det of the factor for log det of the covariance
# earns: 0
# says: a factor 2 is missing
def kl_triangular(mean, factor):
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 0.5 * (factor.square().sum((-2, -1)) + mean.square().sum(-1) - mean.shape[-1] - log_det)

# %%
# wrong: the factor taken for the covariance
# earns: 0
# says: you took F for the covariance
def kl_triangular(mean, factor):
    diagonal = factor.diagonal(dim1=-2, dim2=-1)
    return 0.5 * (diagonal.sum(-1) + mean.square().sum(-1) - mean.shape[-1] - diagonal.log().sum(-1))

# %%
# wrong: the −L is missing
# earns: 0
# says: the −L is missing
def kl_triangular(mean, factor):
    half_log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 0.5 * (factor.square().sum((-2, -1)) + mean.square().sum(-1)) - half_log_det

# %%
# wrong: trace of the diagonal only
# earns: 3
# says: you squared the diagonal only
def kl_triangular(mean, factor):
    diagonal = factor.diagonal(dim1=-2, dim2=-1)
    return 0.5 * (diagonal.square() + mean.square() - 1 - 2 * diagonal.log()).sum(-1)

# %%
# wrong: variances of the covariance as if it were diagonal
# earns: 3
# says: determinant of a diagonal covariance
def kl_triangular(mean, factor):
    variances = (factor @ factor.mT).diagonal(dim1=-2, dim2=-1)
    return 0.5 * (variances + mean.square() - 1 - variances.log()).sum(-1)

# %%
# wrong: calls the library
# earns: 0
# says: switched off
def kl_triangular(mean, factor):
    from course_lib.distributions import kl_between_normals

    eye = torch.eye(mean.shape[-1]).expand_as(factor)
    return kl_between_normals(mean, factor @ factor.mT, torch.zeros_like(mean), eye)

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: log_weights
# points: 11

# %% [markdown]
# **Question 2 (11 points).** The instrument of chapter 5 for finding mistakes is a model whose answers are
# known. Take the linear Gaussian model $\mathbf z\sim\mathcal N(\mathbf 0,\mathbf I)$, $\mathbf x\mid\mathbf
# z\sim\mathcal N(\mathbf W\mathbf z+\mathbf b,\operatorname{diag}\boldsymbol\psi)$ and, for each observation,
# $q_b=\mathcal N(\mathbf m_b,\mathbf S)$ with a full covariance $\mathbf S$ that all share. Write the
# log-weights
#
# $$\begin{aligned}
# \log w_{kb}&=\log p(\mathbf x_b\mid\mathbf z_{kb})\\
# &\quad+\log p(\mathbf z_{kb})-\log q_b(\mathbf z_{kb})
# \end{aligned}$$
#
# in nats, of samples that are given to you. Shapes: `x` $(B,D)$, `z` $(K,B,L)$, `mean` $(B,L)$, `cov`
# $(L,L)$, `weight` $(D,L)$, `bias` $(D,)$ and `noise_var` $(D,)$, which holds the noise *variances*
# $\boldsymbol\psi$. Result: $(K,B)$.
#
# For yourself: in the first public test $q$ is the exact posterior. What must all $K$ log-weights of one
# observation be then? (This continues chapter 5, *The measuring instrument: PPCA*.)
#
# *Not allowed:* `course_lib`'s models and bounds.

# %% [raw]
# # BEGIN SOLUTION


# %%
def log_weights(x, z, mean, cov, weight, bias, noise_var):
    """log p(x, z) − log q(z) in nats of given samples, shape (K, B)."""
    # BEGIN SOLUTION
    reconstruction = Normal(z @ weight.T + bias, noise_var.sqrt()).log_prob(x).sum(-1)
    log_prior = Normal(0.0, 1.0).log_prob(z).sum(-1)
    return reconstruction + log_prior - MultivariateNormal(mean, cov).log_prob(z)
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: with the exact posterior
points: 5
""" # END TEST CONFIG
def test_exact(log_weights):
    import torch
    from course_lib.answer_checks import bounded, compare
    x, z, mean, cov, weight, bias, psi = (torch.tensor(t, dtype=torch.float64) for t in (
        {{LINEAR_X}}, {{LINEAR_Z}}, {{LINEAR_MEAN}}, {{LINEAR_COV}}, *{{LINEAR_MODEL}}))
    right, variances, pixels, prior, joint, added, closed, factor, diagonal = torch.tensor(
        {{WEIGHT_VALUES}}, dtype=torch.float64)
    off = ["course_lib.bounds.log_importance_weights", "course_lib.bounds.elbo",
           "course_lib.linear_gaussian.LinearGaussian.likelihood",
           "course_lib.linear_gaussian.LinearGaussian.prior"]
    seen = bounded(log_weights, x, z, mean, cov, weight, bias, psi, without=off)
    compare("log w, with q the exact posterior", seen, right, {
        "noise_var holds variances, Normal wants standard deviations": variances,
        "log p(x | z) is a sum over the pixels, you took their mean": pixels,
        "log p(z) is missing": prior,
        "log q(z) is missing: this is log p(x, z)": joint,
        "log q(z) is to be subtracted, you added it": added,
        "the closed-form KL stands inside the weight: every term is to be evaluated at the sample": closed,
        "cov is a covariance, you used it as a Cholesky factor": factor,
        "the off-diagonal entries of cov are not used": diagonal,
    })

# %%
""" # BEGIN TEST CONFIG
name: with another q
points: 6
hidden: true
""" # END TEST CONFIG
def test_other(log_weights):
    import torch
    from torch.distributions import MultivariateNormal, Normal
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 22)
    k, n, d, l = {{N_SAMPLES}} + 4, {{N_BATCH}} - 1, {{N_PIXELS}} + 3, {{N_LATENTS}}
    weight, bias, x, e = (torch.randn(s, generator=noise).double() for s in [(d, l), (d,), (n, d), (k, n, l)])
    mean, a = (torch.randn(s, generator=noise).double() for s in [(n, l), (l, l)])
    psi = 0.3 + torch.rand(d, generator=noise).double()
    cov = 0.4 * a @ a.T + 0.3 * torch.eye(l).double()
    z = mean + e @ torch.linalg.cholesky(cov).T
    pixels = MultivariateNormal(z @ weight.T + bias, psi.diag()).log_prob(x)
    prior = -0.5 * (z**2).sum(-1) - 0.5 * l * torch.log(torch.tensor(2 * torch.pi))
    log_q = MultivariateNormal(mean, cov).log_prob(z)
    truth = pixels + prior - log_q
    off = ["course_lib.bounds.log_importance_weights", "course_lib.bounds.elbo",
           "course_lib.linear_gaussian.LinearGaussian.likelihood",
           "course_lib.linear_gaussian.LinearGaussian.prior"]
    seen = bounded(log_weights, x, z, mean, cov, weight, bias, psi, without=off)
    evidence = MultivariateNormal(bias, weight @ weight.T + psi.diag()).log_prob(x).expand(k, n)
    compare("log w", seen, truth, {
        "this is log p(x): only with the exact posterior do all weights equal it": evidence,
        "noise_var holds variances, Normal wants standard deviations":
            Normal(z @ weight.T + bias, psi).log_prob(x).sum(-1) + prior - log_q,
        "log p(z) is missing": pixels - log_q,
        "the off-diagonal entries of cov are not used":
            pixels + prior - Normal(mean, cov.diagonal().sqrt()).log_prob(z).sum(-1),
    }, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: noise variance used as standard deviation
# earns: 0
# says: noise_var holds variances
def log_weights(x, z, mean, cov, weight, bias, noise_var):
    reconstruction = Normal(z @ weight.T + bias, noise_var).log_prob(x).sum(-1)
    return reconstruction + Normal(0.0, 1.0).log_prob(z).sum(-1) - MultivariateNormal(mean, cov).log_prob(z)

# %%
# wrong: mean over pixels
# earns: 0
# says: sum over the pixels
def log_weights(x, z, mean, cov, weight, bias, noise_var):
    reconstruction = Normal(z @ weight.T + bias, noise_var.sqrt()).log_prob(x).mean(-1)
    return reconstruction + Normal(0.0, 1.0).log_prob(z).sum(-1) - MultivariateNormal(mean, cov).log_prob(z)

# %%
# wrong: the prior is forgotten
# earns: 0
# says: log p(z) is missing
def log_weights(x, z, mean, cov, weight, bias, noise_var):
    reconstruction = Normal(z @ weight.T + bias, noise_var.sqrt()).log_prob(x).sum(-1)
    return reconstruction - MultivariateNormal(mean, cov).log_prob(z)

# %%
# wrong: log q is added
# earns: 0
# says: you added it
def log_weights(x, z, mean, cov, weight, bias, noise_var):
    reconstruction = Normal(z @ weight.T + bias, noise_var.sqrt()).log_prob(x).sum(-1)
    return reconstruction + Normal(0.0, 1.0).log_prob(z).sum(-1) + MultivariateNormal(mean, cov).log_prob(z)

# %%
# wrong: closed-form KL inside the weight
# earns: 0
# says: closed-form KL stands inside
def log_weights(x, z, mean, cov, weight, bias, noise_var):
    reconstruction = Normal(z @ weight.T + bias, noise_var.sqrt()).log_prob(x).sum(-1)
    kl = 0.5 * (cov.trace() + mean.square().sum(-1) - mean.shape[-1] - torch.logdet(cov))
    return reconstruction - kl

# %%
# wrong: covariance used as a Cholesky factor
# earns: 0
# says: you used it as a Cholesky factor
def log_weights(x, z, mean, cov, weight, bias, noise_var):
    reconstruction = Normal(z @ weight.T + bias, noise_var.sqrt()).log_prob(x).sum(-1)
    log_q = MultivariateNormal(mean, scale_tril=cov.tril()).log_prob(z)
    return reconstruction + Normal(0.0, 1.0).log_prob(z).sum(-1) - log_q

# %%
# wrong: mean over the samples
# earns: 0
# says: expected the shape
def log_weights(x, z, mean, cov, weight, bias, noise_var):
    reconstruction = Normal(z @ weight.T + bias, noise_var.sqrt()).log_prob(x).sum(-1)
    log_w = reconstruction + Normal(0.0, 1.0).log_prob(z).sum(-1) - MultivariateNormal(mean, cov).log_prob(z)
    return log_w.mean(0)

# %%
# wrong: diagonal q
# earns: 0
# says: off-diagonal entries of cov
def log_weights(x, z, mean, cov, weight, bias, noise_var):
    reconstruction = Normal(z @ weight.T + bias, noise_var.sqrt()).log_prob(x).sum(-1)
    log_q = Normal(mean, cov.diagonal().sqrt()).log_prob(z).sum(-1)
    return reconstruction + Normal(0.0, 1.0).log_prob(z).sum(-1) - log_q

# %%
# wrong: the log evidence for every sample
# earns: 5
# says: only with the exact posterior
def log_weights(x, z, mean, cov, weight, bias, noise_var):
    evidence = MultivariateNormal(bias, weight @ weight.T + torch.diag(noise_var)).log_prob(x)
    return evidence.expand(z.shape[:2])

# %%
# wrong: calls the library
# earns: 0
# says: switched off
def log_weights(x, z, mean, cov, weight, bias, noise_var):
    from course_lib.latent_variable_model import FactorAnalysis

    model = FactorAnalysis(weight, bias, noise_var.sqrt())
    log_joint = model.likelihood(z).log_prob(x) + model.prior().log_prob(z)
    return log_joint - MultivariateNormal(mean, cov).log_prob(z)

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: shifted_posterior
# points: 12
# manual: true

# %% [markdown]
# **Question 3 (12 points, pencil and paper).** A model has a Gaussian posterior, $p(\mathbf z\mid\mathbf
# x)=\mathcal N(\mathbf m,\boldsymbol\Lambda^{-1})$ with the precision matrix $\boldsymbol\Lambda$. Your $q$
# has the right covariance and is off by a vector $\boldsymbol\delta$: $q=\mathcal N(\mathbf
# m+\boldsymbol\delta,\boldsymbol\Lambda^{-1})$. Let $w=p(\mathbf x,\mathbf z)/q(\mathbf z)$ with $\mathbf
# z\sim q$, and $g=\frac12\boldsymbol\delta^\top\boldsymbol\Lambda\boldsymbol\delta\ge0$.
#
# 1. Derive, for *any* density $q$ for which the two terms exist and without Jensen's inequality,
#
#    $$\begin{aligned}
#    \log p(\mathbf x)={}&\mathbb E_q[\log w]\\
#    &+\mathrm{KL}(q\,\|\,p(\mathbf z\mid\mathbf x)) .
#    \end{aligned}$$
#
#    When is the first term equal to the left side? *(3 points)*
# 2. For the shifted $q$ show that $\log w$ has exactly a normal distribution, with mean
#    $\log p(\mathbf x)-g$ and variance $2g$. *(4 points)*
# 3. Conclude that $\mathbb E_q[w]=p(\mathbf x)$, as it must be, and that the relative variance
#    $\operatorname{Var}[w]/p(\mathbf x)^2$ is $e^{2g}-1$. *(3 points)*
# 4. Let $g={{GAP}}$ nats. How many samples give a standard error of 0.05 nats for the mean of $\log w$, and
#    how many a relative standard error of 0.05 for the mean of $w$? Which of the two averages tends to the
#    evidence (or its logarithm) as the number of samples grows? *(2 points)*
#
# (This continues the exercise *Counting the noise* of chapter 5, and the price of a guess in chapter 4.)

# %% [raw]
# # BEGIN SOLUTION

# %% [markdown]
# **1.** For every $\mathbf z$ the product rule says $p(\mathbf x,\mathbf z)=p(\mathbf x)\,p(\mathbf
# z\mid\mathbf x)$, so
#
# $$\log p(\mathbf x)=\log\frac{p(\mathbf x,\mathbf z)}{q(\mathbf z)}+
# \log\frac{q(\mathbf z)}{p(\mathbf z\mid\mathbf x)} .$$
#
# The left side does not depend on $\mathbf z$. Average both sides under $q$: the first term becomes
# $\mathbb E_q[\log w]$, the second $\mathrm{KL}(q\,\|\,p(\mathbf z\mid\mathbf x))$. By Gibbs' inequality it
# is zero if and only if $q$ is the posterior (almost everywhere), and only then is $\mathbb E_q[\log w]=\log
# p(\mathbf x)$.
#
# **2.** Write $\mathbf z=\mathbf m+\boldsymbol\delta+\boldsymbol\Lambda^{-1/2}\boldsymbol\varepsilon$ with
# $\boldsymbol\varepsilon\sim\mathcal N(\mathbf 0,\mathbf I)$. By part 1, $\log w=\log p(\mathbf x)+\log
# p(\mathbf z\mid\mathbf x)-\log q(\mathbf z)$. The normalising constants of the two Gaussians are equal and
# cancel, and
#
# $$\begin{aligned}
# \log w-\log p(\mathbf x)
# &=-\tfrac12(\boldsymbol\delta+\boldsymbol\Lambda^{-1/2}\boldsymbol\varepsilon)^\top\boldsymbol\Lambda
#   (\boldsymbol\delta+\boldsymbol\Lambda^{-1/2}\boldsymbol\varepsilon)+
#   \tfrac12\boldsymbol\varepsilon^\top\boldsymbol\varepsilon\\
# &=-\tfrac12\boldsymbol\delta^\top\boldsymbol\Lambda\boldsymbol\delta
#   -\boldsymbol\delta^\top\boldsymbol\Lambda^{1/2}\boldsymbol\varepsilon .
# \end{aligned}$$
#
# The quadratic terms in $\boldsymbol\varepsilon$ cancel, *because the covariances are equal*. What is left is
# linear in $\boldsymbol\varepsilon$, hence normal, with mean $-g$ and variance
# $\lVert\boldsymbol\Lambda^{1/2}\boldsymbol\delta\rVert^2
# =\boldsymbol\delta^\top\boldsymbol\Lambda\boldsymbol\delta=2g$.
#
# **3.** If $Y\sim\mathcal N(\mu,v)$ then $\mathbb E[e^{Y}]=e^{\mu+v/2}$ and $\mathbb E[e^{2Y}]=e^{2\mu+2v}$.
# With $\mu=\log p(\mathbf x)-g$ and $v=2g$,
#
# $$\begin{aligned}
# \mathbb E_q[w]&=p(\mathbf x)\,e^{-g+g}=p(\mathbf x),\\
# \mathbb E_q[w^2]&=p(\mathbf x)^2\,e^{-2g+4g}=p(\mathbf x)^2\,e^{2g} ,
# \end{aligned}$$
#
# so $\operatorname{Var}[w]/p(\mathbf x)^2=e^{2g}-1$. (Three numbers that look
# unrelated are one: the gap of the bound, half the variance of the log-weights, and half of $\log(1+V)$ with
# $V$ the relative variance of a weight.)
#
# **4.** The standard deviation of $\log w$ is $\sqrt{2g}={{SPREAD}}$ nats, so its mean needs
# $2g/0.05^2={{GUESSES_BOUND}}$ samples. The relative variance of $w$ is $e^{2g}-1={{RELATIVE_VARIANCE}}$, so
# its mean needs $(e^{2g}-1)/0.05^2={{GUESSES_EVIDENCE}}$ samples. The mean of $w$ tends to $p(\mathbf x)$.
# The mean of $\log w$ tends to the ELBO, which stays ${{GAP}}$ nats below $\log p(\mathbf x)$ however many
# samples are taken: more samples make it quieter, never tighter.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN RUBRIC

# %% [markdown]
# **Points.** *Part 1 (3):* the pointwise identity from the product rule (1); average under $q$, with the
# remark that the left side is constant (1); equality exactly for the posterior (1). *Part 2 (4):* $\log w$ as
# $\log p(\mathbf x)$ plus the difference of two log-densities (1); constants cancel (1); quadratic terms
# cancel, the rest is linear, hence normal (1); mean and variance (1). *Part 3 (3):* a correct formula for the
# mean of a log-normal variable, or the equivalent integral (1); $\mathbb E[w]=p(\mathbf x)$ (1); the relative
# variance (1). *Part 4 (2):* both numbers (1, half for one of them); which average tends to what (1).
#
# **Typical wrong answers.**
#
# - Part 1 by Jensen's inequality: a correct bound, but no equality and no gap. 1 of 3.
# - Part 1 with the KL the other way round, $\mathrm{KL}(p(\mathbf z\mid\mathbf x)\,\|\,q)$: 1 of 3 if the
#   pointwise identity is there, else 0.
# - Part 2 computes mean and variance of $\log w$ but calls it normal without saying why the quadratic terms
#   cancel: 3 of 4. "A Gaussian minus a Gaussian is Gaussian": 2 of 4 with the right moments.
# - Part 2 with variance $g$ (the ½ kept where it squares away) or $4g$: 3 of 4; what follows from it is not
#   punished again, provided that the student notices that $\mathbb E[w]=p(\mathbf x)$ then fails. If not, 1
#   less in part 3.
# - Part 3: $\mathbb E[w]=e^{\mathbb E[\log w]}$, the log of a mean taken for the mean of logs: 0 of 3.
# - Part 3: $\mathbb E[w]=\int p(\mathbf x,\mathbf z)\,\mathrm d\mathbf z=p(\mathbf x)$ directly: right, and
#   full points for it; the variance must still be derived.
# - Part 4: "both tend to $\log p(\mathbf x)$": 1 of 2 with both numbers. Standard deviation in the place of
#   the variance in either number: half a point off.

# %% [raw]
# # END RUBRIC

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: naive_evidence
# points: 11

# %% [markdown]
# **Question 4 (11 points).** A number without an error bar is half an answer. You are given
# $\log p(\mathbf x_b\mid\mathbf z_{kb})$ of $K$ draws from the prior for each of $B$ observations, shape
# $(K,B)$. Return a tuple of two tensors of shape $(B,)$, both in nats:
#
# - the naive estimate $\log\hat p_K(\mathbf x_b)$, the logarithm of the mean likelihood;
# - its standard error by the delta method, $\dfrac{s_b}{\bar w_b\sqrt K}$, where $\bar w_b$ is the mean of
#   the $K$ likelihoods and $s_b$ their standard deviation (with $K-1$ in the denominator).
#
# Log-likelihoods of images are near $-10^3$ nats, where every likelihood is zero in double precision. Your
# answer must not mind. (This continues chapter 4, *Guessing causes*.)
#
# *Not allowed:* `course_lib`'s `log_mean_exp` and `naive_log_likelihood`. `torch.logsumexp` is allowed.

# %% [raw]
# # BEGIN SOLUTION


# %%
def naive_evidence(log_likelihoods):
    """log p̂ and its standard error, a pair of shape (B,) in nats, from log p(x | z) of shape (K, B)."""
    # BEGIN SOLUTION
    n_samples = len(log_likelihoods)
    estimate = log_likelihoods.logsumexp(0) - math.log(n_samples)
    relative = (log_likelihoods - estimate).exp()  # w divided by its mean: between 0 and K
    return estimate, relative.std(0) / math.sqrt(n_samples)
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: the estimate
points: 4
""" # END TEST CONFIG
def test_estimate(naive_evidence):
    import torch
    from course_lib.answer_checks import bounded, compare
    right, logs, total, plain, added = torch.tensor({{GUESS_VALUES}}, dtype=torch.float64)
    off = ["course_lib.distributions.log_mean_exp", "course_lib.bounds.naive_log_likelihood"]
    seen = bounded(naive_evidence, torch.tensor({{GUESSES}}, dtype=torch.float64), without=off)
    assert isinstance(seen, tuple | list) and len(seen) == 2, "expected a tuple: estimate, standard error"
    compare("log p̂", seen[0], right, {
        "this is the mean of the logs, asked is the log of the mean": logs,
        "this is the log of the sum: log K is to be subtracted": total,
        "this is p̂ itself: its logarithm is missing": plain,
        "log K is added, not subtracted": added,
    })

# %%
""" # BEGIN TEST CONFIG
name: the estimate, far down
points: 3
hidden: true
""" # END TEST CONFIG
def test_far(naive_evidence):
    import math
    import torch
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 42)
    k, n = 9 * {{N_SAMPLES}}, {{N_BATCH}} + 2
    logs = -1500 + 20 * torch.randn(k, n, generator=noise).double()
    off = ["course_lib.distributions.log_mean_exp", "course_lib.bounds.naive_log_likelihood"]
    seen = bounded(naive_evidence, logs, without=off)
    assert isinstance(seen, tuple | list) and len(seen) == 2, "expected a tuple: estimate, standard error"
    top = logs.amax(0)
    truth = top + (logs - top).exp().mean(0).log()
    compare("log p̂ near −1,500 nats", seen[0], truth, {
        "this is the mean of the logs, asked is the log of the mean": logs.mean(0),
        "this is the log of the sum: log K is to be subtracted": truth + math.log(k),
        "this is the largest log-likelihood: the others count, too": top,
    }, rtol=1e-8, show=False)

# %%
""" # BEGIN TEST CONFIG
name: the standard error
points: 4
hidden: true
""" # END TEST CONFIG
def test_error(naive_evidence):
    import math
    import torch
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 43)
    k, n = {{N_SAMPLES}}, {{N_BATCH}} + 1
    logs = -3 + torch.randn(k, n, generator=noise).double()
    off = ["course_lib.distributions.log_mean_exp", "course_lib.bounds.naive_log_likelihood"]
    seen = bounded(naive_evidence, logs, without=off)
    assert isinstance(seen, tuple | list) and len(seen) == 2, "expected a tuple: estimate, standard error"
    w = logs.exp()
    truth = w.std(0) / w.mean(0) / math.sqrt(k)
    compare("the standard error of log p̂", seen[1], truth, {
        "this is the standard deviation of the logs: the error of their mean, not of the log of the mean":
            logs.std(0) / math.sqrt(k),
        "the square root of K is missing: this is the spread of one guess": truth * math.sqrt(k),
        "divided by K, not by its square root": truth / math.sqrt(k),
        "this is the error of p̂: the delta method divides by p̂": w.std(0) / math.sqrt(k),
        "this is a variance: the square root is missing": truth**2,
        "the denominator of the standard deviation is K, asked is K − 1": truth * math.sqrt((k - 1) / k),
    }, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: the mean of the logs
# earns: 0
# says: this is the mean of the logs
def naive_evidence(log_likelihoods):
    return log_likelihoods.mean(0), log_likelihoods.std(0) / math.sqrt(len(log_likelihoods))

# %%
# wrong: log K forgotten
# earns: 4
# says: log K is to be subtracted
def naive_evidence(log_likelihoods):
    relative = log_likelihoods.softmax(0) * len(log_likelihoods)
    return log_likelihoods.logsumexp(0), relative.std(0) / math.sqrt(len(log_likelihoods))

# %%
# wrong: outside log space
# earns: 8
# says: NaN or infinite
def naive_evidence(log_likelihoods):
    w = log_likelihoods.exp()
    return w.mean(0).log(), w.std(0) / w.mean(0) / math.sqrt(len(w))

# %%
# wrong: average over the wrong axis
# earns: 0
# says: expected the shape
def naive_evidence(log_likelihoods):
    n = log_likelihoods.shape[1]
    estimate = log_likelihoods.logsumexp(1) - math.log(n)
    relative = (log_likelihoods - estimate.unsqueeze(1)).exp()
    return estimate, relative.std(1) / math.sqrt(n)

# %%
# wrong: standard error of the mean of the logs
# earns: 7
# says: standard deviation of the logs
def naive_evidence(log_likelihoods):
    estimate = log_likelihoods.logsumexp(0) - math.log(len(log_likelihoods))
    return estimate, log_likelihoods.std(0) / math.sqrt(len(log_likelihoods))

# %%
# wrong: spread of one guess
# earns: 7
# says: square root of K is missing
def naive_evidence(log_likelihoods):
    estimate = log_likelihoods.logsumexp(0) - math.log(len(log_likelihoods))
    return estimate, (log_likelihoods - estimate).exp().std(0)

# %%
# wrong: error of the likelihood, not of its logarithm
# earns: 7
# says: the delta method divides
def naive_evidence(log_likelihoods):
    estimate = log_likelihoods.logsumexp(0) - math.log(len(log_likelihoods))
    return estimate, log_likelihoods.exp().std(0) / math.sqrt(len(log_likelihoods))

# %%
# wrong: calls the library
# earns: 0
# says: switched off
def naive_evidence(log_likelihoods):
    from course_lib.distributions import log_mean_exp

    estimate = log_mean_exp(log_likelihoods)
    return estimate, (log_likelihoods - estimate).exp().std(0) / math.sqrt(len(log_likelihoods))

# %%
# wrong: returns the public test's numbers
# earns: 4
# says: expected the shape
def naive_evidence(log_likelihoods):
    return torch.tensor({{GUESS_VALUES}}[0]), torch.ones(3)

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: em_round_tied
# points: 14
# pool: em

# %% [markdown]
# ## Part B · Expectation maximisation
#
# **Question 5 (14 points).** Chapter 6 gives every component of its mixture a covariance of its own, and
# shows that the likelihood then has no maximum. Here all components *share* one vector of variances:
#
# $$p(\mathbf x)=\sum_{c=1}^C\pi_c\,\mathcal N(\mathbf x;\boldsymbol\mu_c,\operatorname{diag}\mathbf v) .$$
#
# For yourself, on paper: what maximises $Q$ in $\mathbf v$? Then write one round of EM. Arguments:
# `x` of shape $(N,D)$, `weights` $(C,)$, `means` $(C,D)$, `variances` $(D,)$. Return a tuple of four:
#
# 1. the log-likelihood of all observations *at the old parameters*, $\sum_n\log p(\mathbf x_n)$, a scalar in
#    nats;
# 2. the new weights, shape $(C,)$;
# 3. the new means, shape $(C,D)$;
# 4. the new variances, shape $(D,)$, around the *new* means.
#
# An observation may be so far from every component that all densities are zero in double precision. It still
# has responsibilities. A component without any, $N_c=0$, does not occur.
#
# *Not allowed:* `course_lib`'s mixtures.

# %% [raw]
# # BEGIN SOLUTION


# %%
def em_round_tied(x, weights, means, variances):
    """One EM round: (log-likelihood before it, new weights, new means, new shared variances)."""
    # BEGIN SOLUTION
    log_normal = Normal(means, variances.sqrt()).log_prob(x.unsqueeze(1)).sum(-1)
    log_joint = weights.log() + log_normal
    log_evidence = log_joint.logsumexp(1)
    r = (log_joint - log_evidence.unsqueeze(1)).exp()
    counts = r.sum(0)
    new_means = r.T @ x / counts.unsqueeze(1)
    squares = (x.unsqueeze(1) - new_means).square()
    new_variances = torch.einsum("nc,ncd->d", r, squares) / len(x)
    return log_evidence.sum(), counts / len(x), new_means, new_variances
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: log-likelihood
points: 2
""" # END TEST CONFIG
def test_likelihood(em_round_tied):
    import torch
    from course_lib.answer_checks import bounded, compare
    x, w, m, v = (torch.tensor(t, dtype=torch.float64) for t in (
        {{EM_X}}, {{EM_WEIGHTS}}, {{EM_MEANS}}, {{EM_VARIANCES}}))
    off = ["course_lib.gaussian_mixture.GaussianMixture." + f for f in ("log_joint", "e_step", "m_step")]
    seen = bounded(em_round_tied, x, w, m, v, without=[*off, "course_lib.em.fit_em"])
    assert isinstance(seen, tuple | list) and len(seen) == 4, "expected a tuple of four, see the question"
    right, mean, flat, shares, spread, coordinates, logs, short = torch.tensor(
        {{TIED_LIKELIHOODS}}, dtype=torch.float64)
    compare("the log-likelihood", seen[0], right, {
        "it is the sum over the observations, you took their mean": mean,
        "the mixing weights are missing": flat,
        "the mixing weights enter as π, not as log π": shares,
        "Normal wants standard deviations, you passed variances": spread,
        "log N(x; μ, Σ) is a sum over the coordinates, you took their mean": coordinates,
        "this is Σ_c of the logs: the logarithm stands before the sum over components": logs,
    })

# %%
""" # BEGIN TEST CONFIG
name: weights and means
points: 4
""" # END TEST CONFIG
def test_means(em_round_tied):
    import torch
    from course_lib.answer_checks import bounded, compare
    x, w, m, v = (torch.tensor(t, dtype=torch.float64) for t in (
        {{EM_X}}, {{EM_WEIGHTS}}, {{EM_MEANS}}, {{EM_VARIANCES}}))
    off = ["course_lib.gaussian_mixture.GaussianMixture." + f for f in ("log_joint", "e_step", "m_step")]
    seen = bounded(em_round_tied, x, w, m, v, without=[*off, "course_lib.em.fit_em"])
    assert isinstance(seen, tuple | list) and len(seen) == 4, "expected a tuple of four, see the question"
    right, hard, axis, counts, flat = torch.tensor({{TIED_WEIGHTS}}, dtype=torch.float64)
    compare("the new weights", seen[1], right, {
        "hard assignments: each observation is shared out in the proportions of its posterior": hard,
        "the responsibilities of one observation sum to 1 over the components, "
        "yours sum to 1 over the observations": axis,
        "these are the counts N_c, not yet divided by N": counts,
        "the mixing weights are missing in the E-step": flat,
        "these are the old weights": w,
    })
    right, by_n, sums, hard = torch.tensor({{TIED_MEANS}}, dtype=torch.float64)
    compare("the new means", seen[2], right, {
        "divided by N: the weighted mean divides by the N_c of its component": by_n,
        "not divided by N_c": sums,
        "hard assignments": hard,
        "these are the old means": m,
    })

# %%
""" # BEGIN TEST CONFIG
name: shared variances
points: 4
hidden: true
""" # END TEST CONFIG
def test_variances(em_round_tied):
    import torch
    from torch.distributions import Normal
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 53)
    n, c, d = {{N_POINTS}} + 5, {{N_COMPONENTS}}, {{N_LATENTS}} + 3
    x, m = (torch.randn(s, generator=noise).double() for s in [(n, d), (c, d)])
    w, v = (torch.rand(s, generator=noise).double() + 0.3 for s in [(c,), (d,)])
    w = w / w.sum()
    off = ["course_lib.gaussian_mixture.GaussianMixture." + f for f in ("log_joint", "e_step", "m_step")]
    seen = bounded(em_round_tied, x, w, m, v, without=[*off, "course_lib.em.fit_em"])
    assert isinstance(seen, tuple | list) and len(seen) == 4, "expected a tuple of four, see the question"
    r = (w.log() + Normal(m, v.sqrt()).log_prob(x[:, None]).sum(-1)).softmax(1)
    new = r.T @ x / r.sum(0)[:, None]
    def around(centre):
        return torch.einsum("nc,ncd->cd", r, (x[:, None] - centre) ** 2)
    truth = around(new).sum(0) / n
    own = around(new) / r.sum(0)[:, None]
    compare("the new variances", seen[3], truth, {
        "around the old means: the M-step maximises in the means first": around(m).sum(0) / n,
        "each component counts in proportion to its N_c, yours count equally": own.mean(0),
        "the responsibilities are missing: every observation counts for every component":
            ((x[:, None] - new) ** 2).mean((0, 1)),
        "averaged over the components as well: Σ_c r_nc is already 1": truth / c,
        "each coordinate has a variance of its own, you averaged over them": truth.mean().expand(d),
        "these are standard deviations": truth.sqrt(),
        "the components share one vector, you return one each; it has the shape (D,)": own.sum(0),
        "not divided by N": around(new).sum(0),
        "this is the variance of the data around their common mean": x.var(0, correction=0),
        "divided by N − 1: maximum likelihood divides by N": truth * n / (n - 1),
    }, show=False)

# %%
""" # BEGIN TEST CONFIG
name: weights and means, far from every component
points: 2
hidden: true
""" # END TEST CONFIG
def test_far(em_round_tied):
    import torch
    from torch.distributions import Normal
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 54)
    n, c, d = {{N_POINTS}}, {{N_COMPONENTS}}, {{N_LATENTS}} + 1
    x, m = (torch.randn(s, generator=noise).double() for s in [(n, d), (c, d)])
    m[:, 0], x[::5, 0] = 0.0, 90.0  # far away in a coordinate that does not tell the components apart
    w = torch.full((c,), 1 / c).double()
    v = torch.full((d,), 1.7).double()
    off = ["course_lib.gaussian_mixture.GaussianMixture." + f for f in ("log_joint", "e_step", "m_step")]
    seen = bounded(em_round_tied, x, w, m, v, without=[*off, "course_lib.em.fit_em"])
    assert isinstance(seen, tuple | list) and len(seen) == 4, "expected a tuple of four, see the question"
    r = (w.log() + Normal(m, v.sqrt()).log_prob(x[:, None]).sum(-1)).softmax(1)
    compare("the new weights, with observations far away", seen[1], r.mean(0), show=False)
    compare("the new means, with observations far away", seen[2], r.T @ x / r.sum(0)[:, None], show=False)

# %%
""" # BEGIN TEST CONFIG
name: log-likelihood, far from every component
points: 2
hidden: true
""" # END TEST CONFIG
def test_far_likelihood(em_round_tied):
    import torch
    from torch.distributions import Normal
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 59)
    n, c, d = {{N_POINTS}} - 3, {{N_COMPONENTS}} + 1, {{N_LATENTS}} + 2
    x, m = (torch.randn(s, generator=noise).double() for s in [(n, d), (c, d)])
    x[::5, 0] = 90.0
    w, v = (torch.rand(s, generator=noise).double() + 0.3 for s in [(c,), (d,)])
    w = w / w.sum()
    off = ["course_lib.gaussian_mixture.GaussianMixture." + f for f in ("log_joint", "e_step", "m_step")]
    seen = bounded(em_round_tied, x, w, m, v, without=[*off, "course_lib.em.fit_em"])
    assert isinstance(seen, tuple | list) and len(seen) == 4, "expected a tuple of four, see the question"
    truth = (w.log() + Normal(m, v.sqrt()).log_prob(x[:, None]).sum(-1)).logsumexp(1).sum()
    compare("the log-likelihood, with observations far away", seen[0], truth, {
        "it is the sum over the observations, you took their mean": truth / n,
    }, rtol=1e-7, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: mean log-likelihood
# earns: 10
# says: you took their mean
def em_round_tied(x, weights, means, variances):
    log_joint = weights.log() + Normal(means, variances.sqrt()).log_prob(x.unsqueeze(1)).sum(-1)
    r = log_joint.softmax(1)
    counts = r.sum(0)
    new_means = r.T @ x / counts.unsqueeze(1)
    new_variances = torch.einsum("nc,ncd->d", r, (x.unsqueeze(1) - new_means).square()) / len(x)
    return log_joint.logsumexp(1).mean(), counts / len(x), new_means, new_variances

# %%
# wrong: variances used as standard deviations
# earns: 0
# says: you passed variances
def em_round_tied(x, weights, means, variances):
    log_joint = weights.log() + Normal(means, variances).log_prob(x.unsqueeze(1)).sum(-1)
    r = log_joint.softmax(1)
    counts = r.sum(0)
    new_means = r.T @ x / counts.unsqueeze(1)
    new_variances = torch.einsum("nc,ncd->d", r, (x.unsqueeze(1) - new_means).square()) / len(x)
    return log_joint.logsumexp(1).sum(), counts / len(x), new_means, new_variances

# %%
# wrong: mixing weights forgotten in the E-step
# earns: 2
# says: mixing weights are missing
def em_round_tied(x, weights, means, variances):
    log_joint = Normal(means, variances.sqrt()).log_prob(x.unsqueeze(1)).sum(-1)
    r = log_joint.softmax(1)
    counts = r.sum(0)
    new_means = r.T @ x / counts.unsqueeze(1)
    new_variances = torch.einsum("nc,ncd->d", r, (x.unsqueeze(1) - new_means).square()) / len(x)
    return log_joint.logsumexp(1).sum(), counts / len(x), new_means, new_variances

# %%
# wrong: hard assignments
# earns: 4
# says: hard assignments
def em_round_tied(x, weights, means, variances):
    log_joint = weights.log() + Normal(means, variances.sqrt()).log_prob(x.unsqueeze(1)).sum(-1)
    r = F.one_hot(log_joint.argmax(1), len(weights)).to(x)
    counts = r.sum(0)
    new_means = r.T @ x / counts.unsqueeze(1)
    new_variances = torch.einsum("nc,ncd->d", r, (x.unsqueeze(1) - new_means).square()) / len(x)
    return log_joint.logsumexp(1).sum(), counts / len(x), new_means, new_variances

# %%
# wrong: responsibilities normalised over the observations
# earns: 4
# says: yours sum to 1 over the observations
def em_round_tied(x, weights, means, variances):
    log_joint = weights.log() + Normal(means, variances.sqrt()).log_prob(x.unsqueeze(1)).sum(-1)
    r = log_joint.softmax(0)
    counts = r.sum(0)
    new_means = r.T @ x / counts.unsqueeze(1)
    new_variances = torch.einsum("nc,ncd->d", r, (x.unsqueeze(1) - new_means).square()) / len(x)
    return log_joint.logsumexp(1).sum(), counts / len(x), new_means, new_variances

# %%
# wrong: outside log space
# earns: 10
# says: NaN or infinite
def em_round_tied(x, weights, means, variances):
    joint = weights * Normal(means, variances.sqrt()).log_prob(x.unsqueeze(1)).sum(-1).exp()
    evidence = joint.sum(1)
    r = joint / evidence.unsqueeze(1)
    counts = r.sum(0)
    new_means = r.T @ x / counts.unsqueeze(1)
    new_variances = torch.einsum("nc,ncd->d", r, (x.unsqueeze(1) - new_means).square()) / len(x)
    return evidence.log().sum(), counts / len(x), new_means, new_variances

# %%
# wrong: around the old means
# earns: 10
# says: around the old means
def em_round_tied(x, weights, means, variances):
    log_joint = weights.log() + Normal(means, variances.sqrt()).log_prob(x.unsqueeze(1)).sum(-1)
    r = log_joint.softmax(1)
    counts = r.sum(0)
    new_variances = torch.einsum("nc,ncd->d", r, (x.unsqueeze(1) - means).square()) / len(x)
    return log_joint.logsumexp(1).sum(), counts / len(x), r.T @ x / counts.unsqueeze(1), new_variances

# %%
# wrong: unweighted mean of the components' variances
# earns: 10
# says: yours count equally
def em_round_tied(x, weights, means, variances):
    log_joint = weights.log() + Normal(means, variances.sqrt()).log_prob(x.unsqueeze(1)).sum(-1)
    r = log_joint.softmax(1)
    counts = r.sum(0)
    new_means = r.T @ x / counts.unsqueeze(1)
    own = torch.einsum("nc,ncd->cd", r, (x.unsqueeze(1) - new_means).square()) / counts.unsqueeze(1)
    return log_joint.logsumexp(1).sum(), counts / len(x), new_means, own.mean(0)

# %%
# wrong: a variance for each component
# earns: 10
# says: expected the shape
def em_round_tied(x, weights, means, variances):
    log_joint = weights.log() + Normal(means, variances.sqrt()).log_prob(x.unsqueeze(1)).sum(-1)
    r = log_joint.softmax(1)
    counts = r.sum(0)
    new_means = r.T @ x / counts.unsqueeze(1)
    own = torch.einsum("nc,ncd->cd", r, (x.unsqueeze(1) - new_means).square()) / counts.unsqueeze(1)
    return log_joint.logsumexp(1).sum(), counts / len(x), new_means, own

# %%
# wrong: calls the library
# earns: 0
# says: switched off
def em_round_tied(x, weights, means, variances):
    from course_lib.gaussian_mixture import GaussianMixture

    model = GaussianMixture(weights, means, variances.expand_as(means), variance_floor=1e-12)
    expectations = model.e_step(x)
    model.m_step(x, expectations)
    shared = model.weights @ model.covariances
    return expectations.log_likelihood.sum(), model.weights, model.means, shared

# %%
# wrong: returns the public test's numbers
# earns: 6
# says: with observations far away
def em_round_tied(x, weights, means, variances):
    values = {{TIED_LIKELIHOODS}}[0], {{TIED_WEIGHTS}}[0], {{TIED_MEANS}}[0], [1.0, 1.0, 1.0]
    return tuple(torch.tensor(value) for value in values)

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: em_round_spherical
# points: 14
# pool: em

# %% [markdown]
# ## Part B · Expectation maximisation
#
# **Question 5 (14 points).** Between one covariance matrix for each component and a single number for all
# lies the *spherical* mixture: each component has one variance $v_c$, the same in all $D$ directions,
#
# $$p(\mathbf x)=\sum_{c=1}^C\pi_c\,\mathcal N(\mathbf x;\boldsymbol\mu_c,v_c\,\mathbf I) .$$
#
# For yourself, on paper: what maximises $Q$ in $v_c$? Then write one round of EM. Arguments: `x` of
# shape $(N,D)$, `weights` $(C,)$, `means` $(C,D)$, `variances` $(C,)$. Return a tuple of four:
#
# 1. the log-likelihood of all observations *at the old parameters*, $\sum_n\log p(\mathbf x_n)$, a scalar in
#    nats;
# 2. the new weights, shape $(C,)$;
# 3. the new means, shape $(C,D)$;
# 4. the new variances, shape $(C,)$, around the *new* means.
#
# An observation may be so far from every component that all densities are zero in double precision. It still
# has responsibilities. A component without any, $N_c=0$, does not occur.
#
# *Not allowed:* `course_lib`'s mixtures.

# %% [raw]
# # BEGIN SOLUTION


# %%
def em_round_spherical(x, weights, means, variances):
    """One EM round: (log-likelihood before it, new weights, new means, new variances)."""
    # BEGIN SOLUTION
    std = variances.sqrt().unsqueeze(1)
    log_joint = weights.log() + Normal(means, std).log_prob(x.unsqueeze(1)).sum(-1)
    log_evidence = log_joint.logsumexp(1)
    r = (log_joint - log_evidence.unsqueeze(1)).exp()
    counts = r.sum(0)
    new_means = r.T @ x / counts.unsqueeze(1)
    squares = (x.unsqueeze(1) - new_means).square().mean(-1)
    return log_evidence.sum(), counts / len(x), new_means, (r * squares).sum(0) / counts
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: log-likelihood
points: 2
""" # END TEST CONFIG
def test_likelihood(em_round_spherical):
    import torch
    from course_lib.answer_checks import bounded, compare
    x, w, m, v = (torch.tensor(t, dtype=torch.float64) for t in (
        {{EM_X}}, {{EM_WEIGHTS}}, {{EM_MEANS}}, {{EM_VARIANCES}}))
    off = ["course_lib.gaussian_mixture.GaussianMixture." + f for f in ("log_joint", "e_step", "m_step")]
    seen = bounded(em_round_spherical, x, w, m, v, without=[*off, "course_lib.em.fit_em"])
    assert isinstance(seen, tuple | list) and len(seen) == 4, "expected a tuple of four, see the question"
    right, mean, flat, shares, spread, coordinates, logs, short = torch.tensor(
        {{BALL_LIKELIHOODS}}, dtype=torch.float64)
    compare("the log-likelihood", seen[0], right, {
        "it is the sum over the observations, you took their mean": mean,
        "the mixing weights are missing": flat,
        "the mixing weights enter as π, not as log π": shares,
        "Normal wants standard deviations, you passed variances": spread,
        "log N(x; μ, Σ) is a sum over the coordinates, you took their mean": coordinates,
        "this is Σ_c of the logs: the logarithm stands before the sum over components": logs,
        "log det(v I) is D log v, a factor D is missing": short,
    })

# %%
""" # BEGIN TEST CONFIG
name: weights and means
points: 4
""" # END TEST CONFIG
def test_means(em_round_spherical):
    import torch
    from course_lib.answer_checks import bounded, compare
    x, w, m, v = (torch.tensor(t, dtype=torch.float64) for t in (
        {{EM_X}}, {{EM_WEIGHTS}}, {{EM_MEANS}}, {{EM_VARIANCES}}))
    off = ["course_lib.gaussian_mixture.GaussianMixture." + f for f in ("log_joint", "e_step", "m_step")]
    seen = bounded(em_round_spherical, x, w, m, v, without=[*off, "course_lib.em.fit_em"])
    assert isinstance(seen, tuple | list) and len(seen) == 4, "expected a tuple of four, see the question"
    right, hard, axis, counts, flat = torch.tensor({{BALL_WEIGHTS}}, dtype=torch.float64)
    compare("the new weights", seen[1], right, {
        "hard assignments: each observation is shared out in the proportions of its posterior": hard,
        "the responsibilities of one observation sum to 1 over the components, "
        "yours sum to 1 over the observations": axis,
        "these are the counts N_c, not yet divided by N": counts,
        "the mixing weights are missing in the E-step": flat,
        "these are the old weights": w,
    })
    right, by_n, sums, hard = torch.tensor({{BALL_MEANS}}, dtype=torch.float64)
    compare("the new means", seen[2], right, {
        "divided by N: the weighted mean divides by the N_c of its component": by_n,
        "not divided by N_c": sums,
        "hard assignments": hard,
        "these are the old means": m,
    })

# %%
""" # BEGIN TEST CONFIG
name: variances
points: 4
hidden: true
""" # END TEST CONFIG
def test_variances(em_round_spherical):
    import torch
    from torch.distributions import Normal
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 57)
    n, c, d = {{N_POINTS}} + 5, {{N_COMPONENTS}}, {{N_LATENTS}} + 3
    x, m = (torch.randn(s, generator=noise).double() for s in [(n, d), (c, d)])
    w, v = (torch.rand(s, generator=noise).double() + 0.3 for s in [(c,), (c,)])
    w = w / w.sum()
    off = ["course_lib.gaussian_mixture.GaussianMixture." + f for f in ("log_joint", "e_step", "m_step")]
    seen = bounded(em_round_spherical, x, w, m, v, without=[*off, "course_lib.em.fit_em"])
    assert isinstance(seen, tuple | list) and len(seen) == 4, "expected a tuple of four, see the question"
    r = (w.log() + Normal(m, v.sqrt()[:, None]).log_prob(x[:, None]).sum(-1)).softmax(1)
    new = r.T @ x / r.sum(0)[:, None]
    def around(centre):
        return (r * ((x[:, None] - centre) ** 2).sum(-1)).sum(0)
    truth = around(new) / r.sum(0) / d
    compare("the new variances", seen[3], truth, {
        "around the old means: the M-step maximises in the means first": around(m) / r.sum(0) / d,
        "the D coordinates share one variance, so their squares are averaged; yours are summed": truth * d,
        "divided by N: a component's variance divides by its own N_c": around(new) / n / d,
        "the responsibilities are missing: every observation counts for every component":
            ((x[:, None] - new) ** 2).mean((0, 2)),
        "these are standard deviations": truth.sqrt(),
        "all components have the same variance here: this is the tied mixture":
            (around(new).sum() / n / d).expand(c),
        "divided by N_c − 1: maximum likelihood divides by N_c": around(new) / (r.sum(0) - 1) / d,
    }, show=False)

# %%
""" # BEGIN TEST CONFIG
name: weights and means, far from every component
points: 2
hidden: true
""" # END TEST CONFIG
def test_far(em_round_spherical):
    import torch
    from torch.distributions import Normal
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 58)
    n, c, d = {{N_POINTS}}, {{N_COMPONENTS}}, {{N_LATENTS}} + 1
    x, m = (torch.randn(s, generator=noise).double() for s in [(n, d), (c, d)])
    m[:, 0], x[::5, 0] = 0.0, 90.0  # far away in a coordinate that does not tell the components apart
    w = torch.full((c,), 1 / c).double()
    v = torch.full((c,), 1.7).double()
    off = ["course_lib.gaussian_mixture.GaussianMixture." + f for f in ("log_joint", "e_step", "m_step")]
    seen = bounded(em_round_spherical, x, w, m, v, without=[*off, "course_lib.em.fit_em"])
    assert isinstance(seen, tuple | list) and len(seen) == 4, "expected a tuple of four, see the question"
    r = (w.log() + Normal(m, v.sqrt()[:, None]).log_prob(x[:, None]).sum(-1)).softmax(1)
    compare("the new weights, with observations far away", seen[1], r.mean(0), show=False)
    compare("the new means, with observations far away", seen[2], r.T @ x / r.sum(0)[:, None], show=False)

# %%
""" # BEGIN TEST CONFIG
name: log-likelihood, far from every component
points: 2
hidden: true
""" # END TEST CONFIG
def test_far_likelihood(em_round_spherical):
    import torch
    from torch.distributions import Normal
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 59)
    n, c, d = {{N_POINTS}} - 3, {{N_COMPONENTS}} + 1, {{N_LATENTS}} + 2
    x, m = (torch.randn(s, generator=noise).double() for s in [(n, d), (c, d)])
    x[::5, 0] = 90.0
    w, v = (torch.rand(s, generator=noise).double() + 0.3 for s in [(c,), (c,)])
    w = w / w.sum()
    off = ["course_lib.gaussian_mixture.GaussianMixture." + f for f in ("log_joint", "e_step", "m_step")]
    seen = bounded(em_round_spherical, x, w, m, v, without=[*off, "course_lib.em.fit_em"])
    assert isinstance(seen, tuple | list) and len(seen) == 4, "expected a tuple of four, see the question"
    truth = (w.log() + Normal(m, v.sqrt()[:, None]).log_prob(x[:, None]).sum(-1)).logsumexp(1).sum()
    compare("the log-likelihood, with observations far away", seen[0], truth, {
        "it is the sum over the observations, you took their mean": truth / n,
    }, rtol=1e-7, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: mean log-likelihood
# earns: 10
# says: you took their mean
def em_round_spherical(x, weights, means, variances):
    std = variances.sqrt().unsqueeze(1)
    log_joint = weights.log() + Normal(means, std).log_prob(x.unsqueeze(1)).sum(-1)
    r = log_joint.softmax(1)
    counts = r.sum(0)
    new_means = r.T @ x / counts.unsqueeze(1)
    squares = (x.unsqueeze(1) - new_means).square().mean(-1)
    return log_joint.logsumexp(1).mean(), counts / len(x), new_means, (r * squares).sum(0) / counts

# %%
# wrong: a factor D missing in the log-determinant
# earns: 2
# says: a factor D is missing
def em_round_spherical(x, weights, means, variances):
    squares = (x.unsqueeze(1) - means).square().sum(-1)
    constant = x.shape[1] * math.log(2 * math.pi)
    log_joint = weights.log() - 0.5 * (squares / variances + variances.log() + constant)
    r = log_joint.softmax(1)
    counts = r.sum(0)
    new_means = r.T @ x / counts.unsqueeze(1)
    squares = (x.unsqueeze(1) - new_means).square().mean(-1)
    return log_joint.logsumexp(1).sum(), counts / len(x), new_means, (r * squares).sum(0) / counts

# %%
# wrong: hard assignments
# earns: 4
# says: hard assignments
def em_round_spherical(x, weights, means, variances):
    std = variances.sqrt().unsqueeze(1)
    log_joint = weights.log() + Normal(means, std).log_prob(x.unsqueeze(1)).sum(-1)
    r = F.one_hot(log_joint.argmax(1), len(weights)).to(x)
    counts = r.sum(0)
    new_means = r.T @ x / counts.unsqueeze(1)
    squares = (x.unsqueeze(1) - new_means).square().mean(-1)
    return log_joint.logsumexp(1).sum(), counts / len(x), new_means, (r * squares).sum(0) / counts

# %%
# wrong: outside log space
# earns: 10
# says: NaN or infinite
def em_round_spherical(x, weights, means, variances):
    std = variances.sqrt().unsqueeze(1)
    joint = weights * Normal(means, std).log_prob(x.unsqueeze(1)).sum(-1).exp()
    r = joint / joint.sum(1, keepdim=True)
    counts = r.sum(0)
    new_means = r.T @ x / counts.unsqueeze(1)
    squares = (x.unsqueeze(1) - new_means).square().mean(-1)
    return joint.sum(1).log().sum(), counts / len(x), new_means, (r * squares).sum(0) / counts

# %%
# wrong: around the old means
# earns: 10
# says: around the old means
def em_round_spherical(x, weights, means, variances):
    std = variances.sqrt().unsqueeze(1)
    log_joint = weights.log() + Normal(means, std).log_prob(x.unsqueeze(1)).sum(-1)
    r = log_joint.softmax(1)
    counts = r.sum(0)
    squares = (x.unsqueeze(1) - means).square().mean(-1)
    new_means = r.T @ x / counts.unsqueeze(1)
    return log_joint.logsumexp(1).sum(), counts / len(x), new_means, (r * squares).sum(0) / counts

# %%
# wrong: squares summed over the coordinates
# earns: 10
# says: yours are summed
def em_round_spherical(x, weights, means, variances):
    std = variances.sqrt().unsqueeze(1)
    log_joint = weights.log() + Normal(means, std).log_prob(x.unsqueeze(1)).sum(-1)
    r = log_joint.softmax(1)
    counts = r.sum(0)
    new_means = r.T @ x / counts.unsqueeze(1)
    squares = (x.unsqueeze(1) - new_means).square().sum(-1)
    return log_joint.logsumexp(1).sum(), counts / len(x), new_means, (r * squares).sum(0) / counts

# %%
# wrong: variances divided by N
# earns: 10
# says: divides by its own N_c
def em_round_spherical(x, weights, means, variances):
    std = variances.sqrt().unsqueeze(1)
    log_joint = weights.log() + Normal(means, std).log_prob(x.unsqueeze(1)).sum(-1)
    r = log_joint.softmax(1)
    counts = r.sum(0)
    new_means = r.T @ x / counts.unsqueeze(1)
    squares = (x.unsqueeze(1) - new_means).square().mean(-1)
    return log_joint.logsumexp(1).sum(), counts / len(x), new_means, (r * squares).mean(0)

# %%
# wrong: calls the library
# earns: 0
# says: switched off
def em_round_spherical(x, weights, means, variances):
    from course_lib.gaussian_mixture import GaussianMixture

    model = GaussianMixture(weights, means, variances.unsqueeze(1).expand_as(means), variance_floor=1e-12)
    expectations = model.e_step(x)
    model.m_step(x, expectations)
    return expectations.log_likelihood.sum(), model.weights, model.means, model.covariances.mean(1)

# %%
# wrong: returns the public test's numbers
# earns: 6
# says: with observations far away
def em_round_spherical(x, weights, means, variances):
    values = {{BALL_LIKELIHOODS}}[0], {{BALL_WEIGHTS}}[0], {{BALL_MEANS}}[0], [1.0, 1.0, 1.0]
    return tuple(torch.tensor(value) for value in values)

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: em_sandwich
# points: 10

# %% [markdown]
# **Question 6 (10 points, experiment).** Why can the likelihood not fall? In each round
#
# $$\ell(\theta)=\mathcal L(q,\theta)\ \le\ \mathcal L(q,\theta')\ \le\ \ell(\theta') ,$$
#
# where $q_n=p_\theta(z\mid\mathbf x_n)$, $\ell=\sum_n\log p(\mathbf x_n)$ and $\mathcal L$ is the bound,
# summed over the observations. Measure all three for any mixture. Arguments:
#
# - `x`, shape $(N,D)$, and `parameters`, a tuple of tensors: the start;
# - `log_joint`, a function: `log_joint(x, *parameters)` returns $\log p(\mathbf x_n,z=c)$, finite numbers of
#   shape $(N,C)$;
# - `m_step`, a function: `m_step(x, r)` returns new parameters, a tuple, for responsibilities of shape
#   $(N,C)$;
# - `n_rounds`, how many rounds to run.
#
# Return a tensor of shape `(n_rounds, 3)` in nats: in each row $\ell(\theta)$ before the round, the bound
# $\mathcal L(q,\theta')$ after its M-step with the $q$ of *its* E-step, and $\ell(\theta')$. Some
# responsibilities may be zero in double precision; $0\log0=0$.
#
# The tests bring mixtures of their own, one of them on the digits. The second number minus the first is what
# the M-step gains, the third minus the second is the gap that it opens. (This continues chapter 6, *Why the
# likelihood cannot fall*.)
#
# *Not allowed:* `course_lib`'s mixtures and `fit_em`.

# %% [raw]
# # BEGIN SOLUTION


# %%
def em_sandwich(x, parameters, log_joint, m_step, n_rounds):
    """log p(x), the bound after the M-step, and the new log p(x), in nats; shape (n_rounds, 3)."""
    # BEGIN SOLUTION
    rows = []
    for _ in range(n_rounds):
        joint = log_joint(x, *parameters)
        before = joint.logsumexp(1)
        log_r = joint - before.unsqueeze(1)
        r = log_r.exp()
        parameters = m_step(x, r)
        joint = log_joint(x, *parameters)
        bound = (r * (joint - log_r)).sum()  # log_r stays finite where r is zero
        rows.append(torch.stack([before.sum(), bound, joint.logsumexp(1).sum()]))
    return torch.stack(rows)
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: three numbers a round
points: 4
""" # END TEST CONFIG
def test_rounds(em_sandwich):
    import torch
    from course_lib.answer_checks import bounded, compare
    # A mixture of two kinds of bit strings; the parameters are shares and chances of a 1.
    x, share, chance = (torch.tensor(t, dtype=torch.float64) for t in ({{BITS}}, {{SHARE}}, {{CHANCE}}))
    def log_joint(x, share, chance):
        return share.log() + x @ chance.log().T + (1 - x) @ (1 - chance).log().T
    # The new parameters of four rounds, each beside the responsibilities that lead to them.
    rounds = [tuple(torch.tensor(t, dtype=torch.float64) for t in row) for row in {{M_STEPS}}]
    def m_step(x, r):
        return min(rounds, key=lambda row: float((row[0] - r[:, 0]).abs().sum()))[1:]
    truth, q_only = (torch.tensor(t, dtype=torch.float64) for t in ({{TABLE}}, {{Q_ALONE}}))
    n, start = len(x), (share, chance)
    off = ["course_lib.em.fit_em", "course_lib.gaussian_mixture.GaussianMixture.e_step"]
    seen = bounded(em_sandwich, x, start, log_joint, m_step, 4, without=off)
    assert isinstance(seen, torch.Tensor), "the table: expected one tensor (no list); not answered yet?"
    compare("the table", torch.zeros_like(seen), torch.zeros(4, 3))
    compare("ℓ before each round", seen[:, 0], truth[:, 0], {
        "they are sums over the observations, you took means": truth[:, 0] / n,
        "these are the values after the round": truth[:, 2],
    })
    compare("ℓ after each round", seen[:, 2], truth[:, 2], {
        "these are the values before the round: evaluate again with the new parameters": truth[:, 0],
    })
    compare("the bound after the M-step", seen[:, 1], truth[:, 1], {
        "the entropy of q is missing: Q alone is not the bound": q_only,
        "the entropy of q has the wrong sign": 2 * q_only - truth[:, 1],
        "this is the new ℓ: you took a new q, and with it the bound touches again": truth[:, 2],
        "this is the old ℓ: the bound is to be evaluated with the new parameters": truth[:, 0],
    })

# %%
""" # BEGIN TEST CONFIG
name: on the digits
points: 6
hidden: true
""" # END TEST CONFIG
def test_digits(em_sandwich):
    import torch
    from sklearn.datasets import load_digits
    from course_lib.answer_checks import bounded, compare
    x = torch.from_numpy(load_digits().data).double()[{{SEED}} : {{SEED}} + 200] / 16
    c = {{N_COMPONENTS}} + 4
    def log_joint(x, w, m, v):
        squares = (x**2).sum(1, keepdim=True) - 2 * x @ m.T + (m**2).sum(1)
        return w.log() - 0.5 * (squares / v + 64 * (2 * torch.pi * v).log())
    def m_step(x, r):
        counts = r.sum(0)
        means = r.T @ x / counts[:, None]
        squares = (x**2).sum(1, keepdim=True) - 2 * x @ means.T + (means**2).sum(1)
        return counts / len(x), means, (r * squares).sum() / x.numel()
    start = (torch.full((c,), 1 / c).double(), x[:c].clone(), torch.tensor(0.004).double())
    off = ["course_lib.em.fit_em", "course_lib.gaussian_mixture.GaussianMixture.e_step"]
    seen = bounded(em_sandwich, x, start, log_joint, m_step, 6, without=off)
    rows, p = [], start
    for _ in range(6):
        joint = log_joint(x, *p)
        r = joint.softmax(1)
        p = m_step(x, r)
        after = log_joint(x, *p)
        bound = (r * after).sum() - torch.xlogy(r, r).sum()
        rows.append(torch.stack([joint.logsumexp(1).sum(), bound, after.logsumexp(1).sum()]))
    truth = torch.stack(rows)
    assert isinstance(seen, torch.Tensor), "on the digits: expected one tensor (no list); not answered yet?"
    compare("the table on the digits", torch.zeros_like(seen), torch.zeros(6, 3))
    assert torch.as_tensor(seen).isfinite().all(), (
        "the table on the digits holds NaN or infinite values: "
        "some responsibilities are zero there, and 0 log 0 = 0")
    slack = 1e-7 * truth.abs().max()
    assert (seen[:, 0] <= seen[:, 1] + slack).all(), (
        "the M-step lowers your bound: the chain ℓ(θ) ≤ ℒ(q, θ′) is broken")
    assert (seen[:, 1] <= seen[:, 2] + slack).all(), "your bound lies above the new ℓ, so it is no bound"
    assert (seen[1:, 0] - seen[:-1, 2]).abs().max() <= slack, (
        "a round does not begin where the one before it ended")
    compare("the bound on the digits", seen[:, 1], truth[:, 1], {
        "this is the new ℓ: you took a new q, and with it the bound touches again": truth[:, 2],
        "this is the old ℓ: the bound is to be evaluated with the new parameters": truth[:, 0],
    }, rtol=1e-8, show=False)
    compare("ℓ on the digits", seen[:, [0, 2]], truth[:, [0, 2]], rtol=1e-8, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: Q without the entropy
# earns: 0
# says: Q alone is not the bound
def em_sandwich(x, parameters, log_joint, m_step, n_rounds):
    rows = []
    for _ in range(n_rounds):
        joint = log_joint(x, *parameters)
        r = joint.softmax(1)
        parameters = m_step(x, r)
        after = log_joint(x, *parameters)
        rows.append(torch.stack([joint.logsumexp(1).sum(), (r * after).sum(), after.logsumexp(1).sum()]))
    return torch.stack(rows)

# %%
# wrong: a new q in the bound
# earns: 0
# says: you took a new q
def em_sandwich(x, parameters, log_joint, m_step, n_rounds):
    rows = []
    for _ in range(n_rounds):
        joint = log_joint(x, *parameters)
        parameters = m_step(x, joint.softmax(1))
        after = log_joint(x, *parameters)
        r = after.softmax(1)
        bound = (r * (after - after.log_softmax(1))).sum()
        rows.append(torch.stack([joint.logsumexp(1).sum(), bound, after.logsumexp(1).sum()]))
    return torch.stack(rows)

# %%
# wrong: the bound with the old parameters
# earns: 0
# says: this is the old ℓ
def em_sandwich(x, parameters, log_joint, m_step, n_rounds):
    rows = []
    for _ in range(n_rounds):
        joint = log_joint(x, *parameters)
        log_r = joint.log_softmax(1)
        r = log_r.exp()
        bound = (r * (joint - log_r)).sum()
        parameters = m_step(x, r)
        after = log_joint(x, *parameters)
        rows.append(torch.stack([joint.logsumexp(1).sum(), bound, after.logsumexp(1).sum()]))
    return torch.stack(rows)

# %%
# wrong: 0 log 0 is NaN
# earns: 4
# says: 0 log 0 = 0
def em_sandwich(x, parameters, log_joint, m_step, n_rounds):
    rows = []
    for _ in range(n_rounds):
        joint = log_joint(x, *parameters)
        r = joint.softmax(1)
        parameters = m_step(x, r)
        after = log_joint(x, *parameters)
        bound = (r * (after - r.log())).sum()
        rows.append(torch.stack([joint.logsumexp(1).sum(), bound, after.logsumexp(1).sum()]))
    return torch.stack(rows)

# %%
# wrong: means over the observations
# earns: 0
# says: you took means
def em_sandwich(x, parameters, log_joint, m_step, n_rounds):
    rows = []
    for _ in range(n_rounds):
        joint = log_joint(x, *parameters)
        log_r = joint.log_softmax(1)
        parameters = m_step(x, log_r.exp())
        after = log_joint(x, *parameters)
        bound = (log_r.exp() * (after - log_r)).sum(1)
        rows.append(torch.stack([joint.logsumexp(1), bound, after.logsumexp(1)], 1).mean(0))
    return torch.stack(rows)

# %%
# wrong: parameters never updated
# earns: 0
# says: ℓ before each round
def em_sandwich(x, parameters, log_joint, m_step, n_rounds):
    joint = log_joint(x, *parameters)
    log_r = joint.log_softmax(1)
    after = log_joint(x, *m_step(x, log_r.exp()))
    bound = (log_r.exp() * (after - log_r)).sum()
    return torch.stack([joint.logsumexp(1).sum(), bound, after.logsumexp(1).sum()]).expand(n_rounds, 3)

# %%
# wrong: outside log space
# earns: 4
# says: NaN or infinite
def em_sandwich(x, parameters, log_joint, m_step, n_rounds):
    rows = []
    for _ in range(n_rounds):
        joint = log_joint(x, *parameters).exp()
        r = joint / joint.sum(1, keepdim=True)
        parameters = m_step(x, r)
        after = log_joint(x, *parameters)
        bound = (r * after).sum() - (r * r.log()).sum()
        rows.append(torch.stack([joint.sum(1).log().sum(), bound, after.exp().sum(1).log().sum()]))
    return torch.stack(rows)

# %%
# wrong: calls the library
# earns: 0
# says: switched off
def em_sandwich(x, parameters, log_joint, m_step, n_rounds):
    from course_lib.em import fit_em
    from course_lib.gaussian_mixture import GaussianMixture

    model = GaussianMixture(parameters[0], parameters[1], parameters[2].expand_as(parameters[1]))
    values = torch.tensor(fit_em(model, x, max_iterations=n_rounds).log_likelihoods) * len(x)
    return torch.stack([values[:-1], values[1:], values[1:]], 1)

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: loo_surrogate
# points: 11

# %% [markdown]
# ## Part C · Gradient estimators
#
# **Question 7 (11 points).** The score-function estimator with the leave-one-out baseline, for an integrand
# that itself contains $\phi$, as the ELBO's does. You get `f`, the values $f_\phi(\mathbf z_{kb})$, and
# `log_q`, the values $\log q_\phi(\mathbf z_{kb})$, both of shape $(K,B)$ with $K\ge2$. Both carry autograd's
# graph to $\phi$; the samples themselves do not. Return a *surrogate* of shape $(B,)$:
#
# - its value is $\frac1K\sum_kf_\phi(\mathbf z_{kb})$;
# - its gradient, with $\beta_{kb}=\frac1{K-1}\sum_{j\ne k}f_{jb}$, is
#
#   $$\begin{aligned}
#   \frac1K\sum_k\bigl[&(f_{kb}-\beta_{kb})\nabla_\phi\log q_\phi(\mathbf z_{kb})\\
#   &+\nabla_\phi f_\phi(\mathbf z_{kb})\bigr] .
#   \end{aligned}$$
#
# No loops over samples are needed. (This continues chapter 7, *Leave one out*, and the exercise *One bit*.)
#
# *Not allowed:* `course_lib`'s estimators.

# %% [raw]
# # BEGIN SOLUTION


# %%
def loo_surrogate(f, log_q):
    """Value mean f, gradient of the leave-one-out estimator; f and log_q of shape (K, B), result (B,)."""
    # BEGIN SOLUTION
    baseline = (f.sum(0) - f) / (len(f) - 1)
    weight = (f - baseline).detach()
    return (f + weight * (log_q - log_q.detach())).mean(0)
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: value
points: 2
""" # END TEST CONFIG
def test_value(loo_surrogate):
    import torch
    from course_lib.answer_checks import bounded, compare
    f, log_q = torch.tensor([{{LOO_F}}, {{LOO_LOG_Q}}], dtype=torch.float64)
    right, inside, without_f, product, total = torch.tensor({{SURROGATES}}, dtype=torch.float64)
    off = ["course_lib.gradient_estimators.leave_one_out", "course_lib.gradient_estimators.score_function",
           "course_lib.gradient_estimators._score_surrogate"]
    seen = bounded(loo_surrogate, f.requires_grad_(), log_q.requires_grad_(), without=off)
    compare("the surrogate's value", seen, right, {
        "the baseline belongs into the gradient only: f minus its baseline has the mean 0": 0 * right,
        "log q contributes to the value: it belongs into the gradient only": inside,
        "this is the mean of (f − baseline) log q: the value should be the mean of f": without_f,
        "this is the mean of f log q: the value should be the mean of f": product,
        "it is the mean over the samples, you took their sum": total,
    })

# %%
""" # BEGIN TEST CONFIG
name: gradient, f without φ
points: 3
""" # END TEST CONFIG
def test_gradient(loo_surrogate):
    import torch
    from torch.distributions import Normal
    from course_lib.answer_checks import bounded, compare
    f, z = torch.tensor([{{LOO_F}}, {{LOO_Z}}], dtype=torch.float64)
    phi = torch.tensor({{LOO_PHI}}, dtype=torch.float64, requires_grad=True)
    right, plain, own, by_k, added, batch, table = torch.tensor({{GRADIENTS}}, dtype=torch.float64)
    off = ["course_lib.gradient_estimators.leave_one_out", "course_lib.gradient_estimators.score_function",
           "course_lib.gradient_estimators._score_surrogate"]
    seen = bounded(loo_surrogate, f, Normal(phi[0], phi[1].exp()).log_prob(z), without=off)
    compare("the surrogate", torch.zeros(3) if getattr(seen, "shape", 0) == (3,) else seen, torch.zeros(3))
    assert isinstance(seen, torch.Tensor) and seen.requires_grad, (
        "the surrogate does not depend on φ: something is detached that must not be")
    compare("the gradient", torch.autograd.grad(seen.sum(), phi)[0], right, {
        "there is no baseline in it": plain,
        "the baseline contains the sample's own f: that shrinks the gradient by 1 − 1/K": own,
        "the others are K − 1, you divided their sum by K": by_k,
        "it is the mean over the samples, you took their sum": 4 * right,
        "the sign is flipped: the surrogate rises where f rises": -right,
        "the baseline is added, not subtracted": added,
        "the baseline is the mean over the batch, not over the other samples of the same example": batch,
        "the baseline is the mean over the whole table": table,
    })

# %%
""" # BEGIN TEST CONFIG
name: gradient of an ELBO
points: 5
hidden: true
""" # END TEST CONFIG
def test_elbo(loo_surrogate):
    import torch
    from torch.distributions import Normal
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 73)
    k, n = {{N_SAMPLES}}, {{N_BATCH}} + 1
    z = torch.randn(k, n, generator=noise).double()
    phi = torch.randn(2, n, generator=noise).double().requires_grad_()
    log_q = Normal(phi[0], phi[1].exp()).log_prob(z)
    f = Normal(0.0, 1.0).log_prob(z) + Normal(z, 0.5).log_prob(torch.ones(n).double()) - log_q
    off = ["course_lib.gradient_estimators.leave_one_out", "course_lib.gradient_estimators.score_function",
           "course_lib.gradient_estimators._score_surrogate"]
    seen = bounded(loo_surrogate, f, log_q, without=off)
    compare("the surrogate", torch.zeros(n) if getattr(seen, "shape", 0) == (n,) else seen, torch.zeros(n))
    assert isinstance(seen, torch.Tensor) and seen.requires_grad, (
        "the surrogate does not depend on φ: something is detached that must not be")
    found = torch.autograd.grad(seen.sum(), phi, retain_graph=True)[0]
    def gradient(value):
        return torch.autograd.grad(value.mean(0).sum(), phi, retain_graph=True)[0]
    others = (f.sum(0) - f) / (k - 1)
    weight = (f - others).detach()
    truth = gradient(weight * log_q + f)
    compare("the gradient of an ELBO", found, truth, {
        "f − baseline is not detached: its derivative times log q is in the gradient":
            gradient((f - others) * log_q),
        "f − baseline is not detached: its derivative times log q is in the gradient, beside ∇f":
            gradient((f - others) * log_q + f),
        "∇f is missing: the integrand contains φ, too": gradient(weight * log_q),
        "this is ∇f alone: the score term is missing": gradient(f),
        "there is no baseline in it": gradient(f.detach() * log_q + f),
        "∇(f − baseline) stands where ∇f should: the baseline has no gradient":
            gradient(weight * log_q + f - others),
        "the baseline contains the sample's own f": gradient((f - f.mean(0)).detach() * log_q + f),
    }, show=False)

# %%
""" # BEGIN TEST CONFIG
name: value of an ELBO
points: 1
hidden: true
""" # END TEST CONFIG
def test_elbo_value(loo_surrogate):
    import torch
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 74)
    f, log_q = torch.randn(2, {{N_SAMPLES}} - 3, {{N_BATCH}}, generator=noise).double()
    off = ["course_lib.gradient_estimators.leave_one_out", "course_lib.gradient_estimators.score_function",
           "course_lib.gradient_estimators._score_surrogate"]
    seen = bounded(loo_surrogate, (f - 9).requires_grad_(), (log_q - 2).requires_grad_(), without=off)
    compare("the surrogate's value", seen, f.mean(0) - 9, {
        "it is the mean over the samples, you took their sum": f.sum(0) - 9 * len(f),
    }, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: no baseline
# earns: 3
# says: no baseline
def loo_surrogate(f, log_q):
    return (f + f.detach() * (log_q - log_q.detach())).mean(0)

# %%
# wrong: baseline with its own sample
# earns: 3
# says: contains the sample's own f
def loo_surrogate(f, log_q):
    return (f + (f - f.mean(0)).detach() * (log_q - log_q.detach())).mean(0)

# %%
# wrong: sum of the others divided by K
# earns: 3
# says: you divided their sum by K
def loo_surrogate(f, log_q):
    baseline = (f.sum(0) - f) / len(f)
    return (f + (f - baseline).detach() * (log_q - log_q.detach())).mean(0)

# %%
# wrong: f not detached
# earns: 3
# says: is not detached
def loo_surrogate(f, log_q):
    baseline = (f.sum(0) - f) / (len(f) - 1)
    return ((f - baseline) * log_q).mean(0)

# %%
# wrong: the gradient of the integrand dropped
# earns: 6
# says: ∇f is missing
def loo_surrogate(f, log_q):
    baseline = (f.sum(0) - f) / (len(f) - 1)
    return (f.detach() + (f - baseline).detach() * (log_q - log_q.detach())).mean(0)

# %%
# wrong: log q in the value
# earns: 8
# says: log q contributes to the value
def loo_surrogate(f, log_q):
    baseline = (f.sum(0) - f) / (len(f) - 1)
    return (f + (f - baseline).detach() * log_q).mean(0)

# %%
# wrong: log q detached
# earns: 3
# says: something is detached
def loo_surrogate(f, log_q):
    baseline = (f.sum(0) - f) / (len(f) - 1)
    return (f + (f - baseline).detach() * (log_q - log_q).detach()).mean(0)

# %%
# wrong: sum over the samples
# earns: 0
# says: you took their sum
def loo_surrogate(f, log_q):
    baseline = (f.sum(0) - f) / (len(f) - 1)
    return (f + (f - baseline).detach() * (log_q - log_q.detach())).sum(0)

# %%
# wrong: means over the batch instead of the samples
# earns: 0
# says: expected the shape
def loo_surrogate(f, log_q):
    n = f.shape[1]
    baseline = (f.sum(1, keepdim=True) - f) / (n - 1)
    return (f + (f - baseline).detach() * (log_q - log_q.detach())).mean(1)

# %%
# wrong: calls the library
# earns: 0
# says: switched off
def loo_surrogate(f, log_q):
    from types import SimpleNamespace

    from course_lib.gradient_estimators import leave_one_out

    q = SimpleNamespace(sample=lambda shape: f, log_prob=lambda z: log_q, support=None, event_shape=())
    return leave_one_out(q, lambda z: z, len(f))

# %%
# wrong: returns the public test's numbers
# earns: 2
# says: does not depend on φ
def loo_surrogate(f, log_q):
    return torch.tensor({{SURROGATES}}[0])

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: temperature_trade_off
# points: 10

# %% [markdown]
# **Question 8 (10 points, experiment).** Temperature buys variance with bias. Two classes have logits
# $(\ell,0)$, so class one has the probability $\operatorname{sigmoid}(\ell)$, and the integrand is
# $f(y)=(y-y^\star)^2$ of the indicator $y$ of class one, with a target $y^\star$. Its exact gradient
# $\frac{\mathrm d}{\mathrm d\ell}\mathbb E[f]$ takes one line: enumerate. The Gumbel-softmax estimator with
# temperature $\tau$ is
#
# $$\begin{aligned}
# \hat g_\tau&=\frac{\mathrm d}{\mathrm d\ell}f(y_\tau),\\
# y_\tau&=\operatorname{sigmoid}\Bigl(\frac{\ell+G_1-G_2}\tau\Bigr)
# \end{aligned}$$
#
# and independent standard Gumbel variables $G_1$ and $G_2$.
#
# For each temperature of a list draw `n_samples` single-sample estimates. Return a tensor of shape
# `(len(temperatures), 2)`: in the first column the *signed* bias of the gradient, mean minus exact value; in
# the second the standard deviation *of one sample's estimate*. Take all random numbers from `generator`, a
# `torch.Generator`. (This continues chapter 7, *How biased, how noisy?*)
#
# *Not allowed:* `course_lib`'s estimators and `estimate_gradients`.

# %% [raw]
# # BEGIN SOLUTION


# %%
def temperature_trade_off(logit, target, temperatures, n_samples, generator):
    """Signed bias and one-sample standard deviation of d/dℓ (y − y*)² at each temperature, shape (T, 2)."""
    # BEGIN SOLUTION
    probability = 1 / (1 + math.exp(-logit))
    exact = probability * (1 - probability) * ((1 - target) ** 2 - target**2)
    rows = []
    for tau in temperatures:
        uniform = torch.rand(2, n_samples, generator=generator, dtype=torch.float64)
        gumbel = -torch.log(-torch.log(uniform))
        y = torch.sigmoid((logit + gumbel[0] - gumbel[1]) / tau)
        gradient = 2 * (y - target) * y * (1 - y) / tau
        rows.append(torch.stack([gradient.mean() - exact, gradient.std()]))
    return torch.stack(rows)
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: bias
points: 3
""" # END TEST CONFIG
def test_bias(temperature_trade_off):
    import torch
    from course_lib.answer_checks import bounded, compare
    logit, t, taus, n = {{LOGIT}}, {{TARGET}}, {{TEMPERATURES}}, 100_000
    off = ["course_lib.gradient_estimators.gumbel_softmax", "course_lib.gradient_samples.estimate_gradients"]
    noise = torch.Generator().manual_seed({{SEED}} + 81)
    seen = bounded(temperature_trade_off, logit, t, taus, n, noise, without=off)
    assert isinstance(seen, torch.Tensor), "the table: expected one tensor (no list); not answered yet?"
    compare("the table", torch.zeros_like(seen), torch.zeros(3, 2))
    assert not (seen[:, 1].abs() < 1e-9).any(), (
        "the second column is zero. Is it not filled in yet? If it is, your estimates do not vary: "
        "the two Gumbel variables are independent, draw two")
    for i, numbers in enumerate({{BIASES}}):
        spread, bias, flipped, mean, inner, straight, late, value, flat, added = numbers
        compare(f"the bias at temperature {taus[i]}", seen[i, 0], torch.tensor(bias), {
            "this is exact minus mean: the sign is flipped": flipped,
            "this is the mean of the estimates: the exact gradient is not subtracted": mean,
            "the inner derivative 1/τ is missing": inner,
            "this is the straight-through estimator: f′ is taken at the hard sample": straight,
            "the temperature divides the logit only: it divides the noise, too": late,
            "this is the bias of the value: asked is that of the gradient": value,
            "the exact gradient lacks the derivative of the class's probability": flat,
            "the exact gradient is added, not subtracted": added,
        }, rtol=0, atol=5 * spread / n**0.5, show=False)

# %%
""" # BEGIN TEST CONFIG
name: standard deviation
points: 1
""" # END TEST CONFIG
def test_spread(temperature_trade_off):
    import torch
    from course_lib.answer_checks import bounded, compare
    logit, t, taus, n = {{LOGIT}}, {{TARGET}}, {{TEMPERATURES}}, 100_000
    off = ["course_lib.gradient_estimators.gumbel_softmax", "course_lib.gradient_samples.estimate_gradients"]
    noise = torch.Generator().manual_seed({{SEED}} + 85)
    seen = bounded(temperature_trade_off, logit, t, taus, n, noise, without=off)
    assert isinstance(seen, torch.Tensor), "the table: expected one tensor (no list); not answered yet?"
    compare("the table", torch.zeros_like(seen), torch.zeros(3, 2))
    for i, (right, square, error, root, inner, tolerance) in enumerate({{SPREADS}}):
        compare(f"the standard deviation at temperature {taus[i]}", seen[i, 1], torch.tensor(right), {
            "this is a variance: the square root is missing": square,
            "this is the standard error of the mean: asked is the spread of one sample": error,
            "this is the root of the mean square: the mean is not subtracted": root,
            "the inner derivative 1/τ is missing": inner,
        }, rtol=0, atol=tolerance, show=False)

# %%
""" # BEGIN TEST CONFIG
name: standard deviation, other numbers
points: 2
hidden: true
""" # END TEST CONFIG
def test_std(temperature_trade_off):
    import torch
    from course_lib.answer_checks import bounded, compare
    logit, t, taus, n = -0.8 * {{LOGIT}}, {{TARGET}} + 0.1, [0.3, 0.8], 100_000
    off = ["course_lib.gradient_estimators.gumbel_softmax", "course_lib.gradient_samples.estimate_gradients"]
    noise = torch.Generator().manual_seed({{SEED}} + 82)
    seen = bounded(temperature_trade_off, logit, t, taus, n, noise, without=off)
    assert isinstance(seen, torch.Tensor), "the table: expected one tensor (no list); not answered yet?"
    compare("the table", torch.zeros_like(seen), torch.zeros(2, 2))
    a = torch.linspace(-40, 40, 20_001).double()
    rho = torch.sigmoid(a) * torch.sigmoid(-a)
    def mean(values):
        return torch.trapezoid(rho * values, a)
    for i, tau in enumerate(taus):
        y = torch.sigmoid((logit + a) / tau)
        soft = 2 * (y - t) * y * (1 - y) / tau
        variance = mean((soft - mean(soft)) ** 2)
        error = ((mean((soft - mean(soft)) ** 4) - variance**2) / n).sqrt() / (2 * variance.sqrt())
        compare(f"the standard deviation at temperature {tau}", seen[i, 1], variance.sqrt(), {
            "this is a variance: the square root is missing": variance,
            "this is the standard error of the mean: asked is the spread of one sample":
                (variance / n).sqrt(),
            "this is the root of the mean square: the mean is not subtracted": mean(soft**2).sqrt(),
            "the inner derivative 1/τ is missing": tau * variance.sqrt(),
        }, rtol=0, atol=5 * float(error), show=False)

# %%
""" # BEGIN TEST CONFIG
name: shape of the trade-off
points: 2
hidden: true
""" # END TEST CONFIG
def test_shape(temperature_trade_off):
    import math
    import torch
    from course_lib.answer_checks import bounded, compare
    n, taus = 100_000, [0.01, 0.04]
    off = ["course_lib.gradient_estimators.gumbel_softmax", "course_lib.gradient_samples.estimate_gradients"]
    noise = torch.Generator().manual_seed({{SEED}} + 83)
    seen = bounded(temperature_trade_off, {{LOGIT}}, {{TARGET}}, taus, n, noise, without=off)
    assert isinstance(seen, torch.Tensor), "the table: expected one tensor (no list); not answered yet?"
    compare("the table", torch.zeros_like(seen), torch.zeros(2, 2))
    assert torch.as_tensor(seen).isfinite().all() and (seen[:, 1] > 0).all(), (
        "at low temperature your table holds NaN, infinite values or no noise at all")
    slope = math.log(float(seen[1, 1] / seen[0, 1])) / math.log(taus[1] / taus[0])
    assert abs(slope + 0.5) < 0.1, (
        "as τ → 0 the standard deviation should grow like τ^(−1/2), yours "
        + ("grows like 1/τ: is it a variance?" if abs(slope + 1) < 0.2 else f"goes like τ^({slope:.2f})"))
    limit = 5 * float(seen[1, 1]) / math.sqrt(n) + 0.2 * taus[1]
    assert abs(float(seen[1, 0])) < limit, "the bias should vanish as τ → 0, yours does not"

# %%
""" # BEGIN TEST CONFIG
name: bias, other numbers
points: 2
hidden: true
""" # END TEST CONFIG
def test_other_bias(temperature_trade_off):
    import math
    import torch
    from course_lib.answer_checks import bounded, compare
    logit, t, taus, n = {{LOGIT}} + 0.3, {{TARGET}} + 0.15, [0.4, 0.7], 100_000
    off = ["course_lib.gradient_estimators.gumbel_softmax", "course_lib.gradient_samples.estimate_gradients"]
    noise = torch.Generator().manual_seed({{SEED}} + 84)
    seen = bounded(temperature_trade_off, logit, t, taus, n, noise, without=off)
    assert isinstance(seen, torch.Tensor), "the table: expected one tensor (no list); not answered yet?"
    compare("the table", torch.zeros_like(seen), torch.zeros(2, 2))
    a = torch.linspace(-40, 40, 20_001).double()
    rho = torch.sigmoid(a) * torch.sigmoid(-a)
    pi = 1 / (1 + math.exp(-logit))
    exact = pi * (1 - pi) * (1 - 2 * t)
    for i, tau in enumerate(taus):
        y = torch.sigmoid((logit + a) / tau)
        soft = 2 * (y - t) * y * (1 - y) / tau
        mean, second = torch.trapezoid(rho * soft, a), torch.trapezoid(rho * soft**2, a)
        compare(f"the bias at temperature {tau}", seen[i, 0], mean - exact, {
            "this is exact minus mean: the sign is flipped": exact - mean,
            "this is the mean of the estimates: the exact gradient is not subtracted": mean,
            "the exact gradient lacks the derivative of the class's probability": mean - (1 - 2 * t),
            "the exact gradient is added, not subtracted": mean + exact,
        }, rtol=0, atol=5 * float((second - mean**2) / n) ** 0.5, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: inner derivative forgotten
# earns: 0
# says: inner derivative 1/τ is missing
def temperature_trade_off(logit, target, temperatures, n_samples, generator):
    s = 1 / (1 + math.exp(-logit))
    rows = []
    for tau in temperatures:
        g = -torch.log(-torch.log(torch.rand(2, n_samples, generator=generator, dtype=torch.float64)))
        y = torch.sigmoid((logit + g[0] - g[1]) / tau)
        gradient = 2 * (y - target) * y * (1 - y)
        rows.append(torch.stack([gradient.mean() - s * (1 - s) * (1 - 2 * target), gradient.std()]))
    return torch.stack(rows)

# %%
# wrong: straight-through
# earns: 2
# says: straight-through
def temperature_trade_off(logit, target, temperatures, n_samples, generator):
    s = 1 / (1 + math.exp(-logit))
    rows = []
    for tau in temperatures:
        g = -torch.log(-torch.log(torch.rand(2, n_samples, generator=generator, dtype=torch.float64)))
        y = torch.sigmoid((logit + g[0] - g[1]) / tau)
        gradient = 2 * (y.round() - target) * y * (1 - y) / tau
        rows.append(torch.stack([gradient.mean() - s * (1 - s) * (1 - 2 * target), gradient.std()]))
    return torch.stack(rows)

# %%
# wrong: the temperature divides the logit only
# earns: 0
# says: divides the logit only
def temperature_trade_off(logit, target, temperatures, n_samples, generator):
    s = 1 / (1 + math.exp(-logit))
    rows = []
    for tau in temperatures:
        g = -torch.log(-torch.log(torch.rand(2, n_samples, generator=generator, dtype=torch.float64)))
        y = torch.sigmoid(logit / tau + g[0] - g[1])
        gradient = 2 * (y - target) * y * (1 - y) / tau
        rows.append(torch.stack([gradient.mean() - s * (1 - s) * (1 - 2 * target), gradient.std()]))
    return torch.stack(rows)

# %%
# wrong: one Gumbel variable for both classes
# earns: 0
# says: draw two
def temperature_trade_off(logit, target, temperatures, n_samples, generator):
    s = 1 / (1 + math.exp(-logit))
    rows = []
    for tau in temperatures:
        g = -torch.log(-torch.log(torch.rand(n_samples, generator=generator, dtype=torch.float64)))
        y = torch.sigmoid((logit + g - g) / tau)
        gradient = 2 * (y - target) * y * (1 - y) / tau
        rows.append(torch.stack([gradient.mean() - s * (1 - s) * (1 - 2 * target), gradient.std()]))
    return torch.stack(rows)

# %%
# wrong: bias with the sign flipped
# earns: 5
# says: exact minus mean
def temperature_trade_off(logit, target, temperatures, n_samples, generator):
    s = 1 / (1 + math.exp(-logit))
    rows = []
    for tau in temperatures:
        g = -torch.log(-torch.log(torch.rand(2, n_samples, generator=generator, dtype=torch.float64)))
        y = torch.sigmoid((logit + g[0] - g[1]) / tau)
        gradient = 2 * (y - target) * y * (1 - y) / tau
        rows.append(torch.stack([s * (1 - s) * (1 - 2 * target) - gradient.mean(), gradient.std()]))
    return torch.stack(rows)

# %%
# wrong: mean of the estimates for their bias
# earns: 3
# says: exact gradient is not subtracted
def temperature_trade_off(logit, target, temperatures, n_samples, generator):
    rows = []
    for tau in temperatures:
        g = -torch.log(-torch.log(torch.rand(2, n_samples, generator=generator, dtype=torch.float64)))
        y = torch.sigmoid((logit + g[0] - g[1]) / tau)
        gradient = 2 * (y - target) * y * (1 - y) / tau
        rows.append(torch.stack([gradient.mean(), gradient.std()]))
    return torch.stack(rows)

# %%
# wrong: the exact gradient without p(1 − p)
# earns: 3
# says: lacks the derivative
def temperature_trade_off(logit, target, temperatures, n_samples, generator):
    s = 1 / (1 + math.exp(-logit))
    rows = []
    for tau in temperatures:
        g = -torch.log(-torch.log(torch.rand(2, n_samples, generator=generator, dtype=torch.float64)))
        y = torch.sigmoid((logit + g[0] - g[1]) / tau)
        gradient = 2 * (y - target) * y * (1 - y) / tau
        rows.append(torch.stack([gradient.mean() - (1 - 2 * target), gradient.std()]))
    return torch.stack(rows)

# %%
# wrong: the exact gradient added
# earns: 3
# says: is added, not subtracted
def temperature_trade_off(logit, target, temperatures, n_samples, generator):
    s = 1 / (1 + math.exp(-logit))
    rows = []
    for tau in temperatures:
        g = -torch.log(-torch.log(torch.rand(2, n_samples, generator=generator, dtype=torch.float64)))
        y = torch.sigmoid((logit + g[0] - g[1]) / tau)
        gradient = 2 * (y - target) * y * (1 - y) / tau
        rows.append(torch.stack([gradient.mean() + s * (1 - s) * (1 - 2 * target), gradient.std()]))
    return torch.stack(rows)

# %%
# wrong: standard error of the mean
# earns: 7
# says: standard error of the mean
def temperature_trade_off(logit, target, temperatures, n_samples, generator):
    s = 1 / (1 + math.exp(-logit))
    rows = []
    for tau in temperatures:
        g = -torch.log(-torch.log(torch.rand(2, n_samples, generator=generator, dtype=torch.float64)))
        y = torch.sigmoid((logit + g[0] - g[1]) / tau)
        gradient = 2 * (y - target) * y * (1 - y) / tau
        bias = gradient.mean() - s * (1 - s) * (1 - 2 * target)
        rows.append(torch.stack([bias, gradient.std() / math.sqrt(n_samples)]))
    return torch.stack(rows)

# %%
# wrong: variance for standard deviation
# earns: 5
# says: this is a variance
def temperature_trade_off(logit, target, temperatures, n_samples, generator):
    s = 1 / (1 + math.exp(-logit))
    rows = []
    for tau in temperatures:
        g = -torch.log(-torch.log(torch.rand(2, n_samples, generator=generator, dtype=torch.float64)))
        y = torch.sigmoid((logit + g[0] - g[1]) / tau)
        gradient = 2 * (y - target) * y * (1 - y) / tau
        rows.append(torch.stack([gradient.mean() - s * (1 - s) * (1 - 2 * target), gradient.var()]))
    return torch.stack(rows)

# %%
# wrong: calls the library
# earns: 0
# says: switched off
def temperature_trade_off(logit, target, temperatures, n_samples, generator):
    from functools import partial

    from torch.distributions import OneHotCategorical

    from course_lib.gradient_estimators import gumbel_softmax
    from course_lib.gradient_samples import estimate_gradients

    s = 1 / (1 + math.exp(-logit))
    rows = []
    for tau in temperatures:
        g = estimate_gradients(
            partial(gumbel_softmax, temperature=tau),
            lambda l: OneHotCategorical(logits=torch.stack([l, torch.zeros_like(l)], -1)),
            (torch.tensor(logit),),
            lambda z: (z[..., 0] - target) ** 2,
            n_samples,
        )[0]
        rows.append(torch.stack([g.mean() - s * (1 - s) * (1 - 2 * target), g.std()]))
    return torch.stack(rows)

# %%
# wrong: the public test's biases
# earns: 8
# says: the bias at temperature 0.4
def temperature_trade_off(logit, target, temperatures, n_samples, generator):
    rows = []
    for i, tau in enumerate(temperatures):
        g = -torch.log(-torch.log(torch.rand(2, n_samples, generator=generator, dtype=torch.float64)))
        y = torch.sigmoid((logit + g[0] - g[1]) / tau)
        bias = {{BIASES}}[i][1] if list(temperatures) == {{TEMPERATURES}} else 0.0
        rows.append([bias, float((2 * (y - target) * y * (1 - y) / tau).std())])
    return torch.tensor(rows)

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: temperature_comment
# points: 4
# manual: true

# %% [markdown]
# **Question 8, continued: what you saw (4 points, by hand).** Run your function with $\ell={{LOGIT}}$,
# $y^\star={{TARGET}}$, $10^6$ samples and at least twelve temperatures from 0.02 to 5, evenly spread on a
# logarithmic scale. In the code cell draw three curves against $\tau$, on logarithmic axes: the size of the
# bias, its standard error, and the standard deviation *(1 point)*. Then comment, in 60 to 150 words
# *(3 points)*:
#
# - How do bias and standard deviation depend on the temperature at its low end? From which temperature on is
#   the bias seen, that is, larger than twice its standard error?
# - Which temperature has the smallest root mean square error when you use one sample, and which when you
#   average $10^4$ samples? Why do they differ?
# - When would you use the estimator of question 7 instead?

# %% [raw]
# # BEGIN SOLUTION

# %% [markdown]
# At low temperature the bias falls in proportion to $\tau$ (for this $f$ it is $\tau\rho'(-\ell)$ to first
# order, $\rho$ the logistic density, whatever $y^\star$ is), and the standard deviation grows like
# $\tau^{-1/2}$. The standard error is a thousandth of the latter, about 0.001 at $\tau=0.02$, where the bias
# is about $-0.002$ and lost in it. From about $\tau=0.04$ on it stands clear of the noise, and only there can
# its power be read off.
#
# The mean square error of an average of $n$ samples is $\text{bias}^2+\text{variance}/n$. With one sample the
# variance dominates, and a high temperature is best, near 2. With $10^4$ samples the variance is divided by
# $10^4$, the bias is not, and the best temperature moves to a few hundredths, about 0.05. No number of
# samples repairs a bias at fixed $\tau$.
#
# Leave-one-out is unbiased, has no temperature to tune, and needs no derivative of $f$ and no $f$ between the
# classes: use it when samples are plentiful and $f$ is cheap, when $f$ accepts real choices only, or when
# gradients must be right in the long run. (With two classes, enumerate.)

# %%
# BEGIN SOLUTION
import matplotlib.pyplot as plt

temperatures = torch.logspace(math.log10(0.02), math.log10(5), 15).tolist()
generator = torch.Generator().manual_seed({{SEED}})
bias, spread = temperature_trade_off({{LOGIT}}, {{TARGET}}, temperatures, 10**6, generator).T
plt.loglog(temperatures, bias.abs(), "o-", label="size of the bias")
plt.loglog(temperatures, spread / 1000, ":", label="its standard error")
plt.loglog(temperatures, spread, "s-", label="standard deviation of one sample")
plt.xlabel("temperature τ")
plt.ylabel("gradient in ℓ")
plt.legend()
plt.show()
for n in (1, 10**4):
    error = (bias**2 + spread**2 / n).sqrt()
    print(f"{n} samples: smallest error {error.min():.4f} at {temperatures[error.argmin()]:.3f}")
# END SOLUTION

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN RUBRIC

# %% [markdown]
# **Points.** *Picture (1):* three curves from the student's own run, on logarithmic axes, half a point for
# two. *Comment (3):* both powers of $\tau$, read off where the bias is seen, or derived, and from where it is
# seen (1, half for one of the two); the two best temperatures with the reason,
# $\text{bias}^2+\text{variance}/n$ (1); a sound reason for or against leave-one-out (1).
# Temperatures count as right if they fit the student's own table.
#
# **Typical wrong answers.**
#
# - "At low temperature the bias levels off": noise taken for bias, below its standard error: half a point
#   off.
# - Reports the variance's slope $-1$ as that of the standard deviation: half a point off.
# - "More samples remove the bias": at most 1 of 3. "Lower is always better" without the noise: at most 1 of
#   3.
# - One sample's best temperature at the edge of the range, "the higher the better": half a point off; the
#   bias catches up.
# - Fewer than 60 words, or a text that fits any picture (no number from the student's own run): at most 2 of
#   3.

# %% [raw]
# # END RUBRIC

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: which_estimator
# points: 8
# manual: true

# %% [markdown]
# **Question 9 (8 points, pencil and paper).** Let $z\sim\mathcal N(\mu,\sigma^2)$ and
# $f(z)=e^{az}$ with $a\ne0$. Write $t=a^2\sigma^2$ and $m=\mathbb E[f(z)]$. All gradients are in $\mu$, with
# one sample. You may use that $\mathbb E[e^{c\varepsilon}]=e^{c^2/2}$ for a standard normal $\varepsilon$,
# and its derivatives in $c$.
#
# 1. Compute $m$ and the exact gradient. Show that the pathwise estimator is unbiased and has the variance
#    $\frac{m^2}{\sigma^2}\,t\,(e^t-1)$. *(2 points)*
# 2. Show that the score-function estimator $(f(z)-b)\,\frac{z-\mu}{\sigma^2}$ is unbiased for every constant
#    $b$; find the $b$ of smallest variance, and the variances for $b=0$ and for this $b$. *(4 points)*
# 3. Divide both variances by that of the pathwise estimator. What is the leading term of each ratio as
#    $t\to0$ (a number times a power of $t$), and to what does it tend as $t\to\infty$? What are they for
#    $a={{RATE}}$ and $\sigma={{SIGMA}}$? *(2 points)*
#
# (This continues chapter 7, the propositions on variances and the exercise *At the optimum*.)

# %% [raw]
# # BEGIN SOLUTION

# %% [markdown]
# **1.** With $z=\mu+\sigma\varepsilon$, $m=e^{a\mu}\,\mathbb E[e^{a\sigma\varepsilon}]=e^{a\mu+t/2}$, and the
# gradient is $a\,m$. The pathwise estimator is $\frac{\mathrm d}{\mathrm
# d\mu}f(\mu+\sigma\varepsilon)=a\,e^{az}$, with mean $a\,m$. Its second moment is $a^2\,\mathbb
# E[e^{2az}]=a^2e^{2a\mu+2t}=a^2m^2e^t$. Subtract $a^2m^2$: the variance is
# $a^2m^2(e^t-1)=\frac{m^2}{\sigma^2}t(e^t-1)$.
#
# **2.** The score is $s=\varepsilon/\sigma$. Differentiating $\mathbb E[e^{c\varepsilon}]=e^{c^2/2}$ in $c$
# gives $\mathbb E[\varepsilon e^{c\varepsilon}]=c\,e^{c^2/2}$ and $\mathbb
# E[\varepsilon^2e^{c\varepsilon}]=(1+c^2)\,e^{c^2/2}$. With $c=a\sigma$, $c^2=t$: $\mathbb E[fs]=\frac1\sigma
# e^{a\mu}a\sigma e^{t/2}=a\,m$, and $\mathbb E[b\,s]=0$, so the estimator is unbiased. Further $\mathbb
# E[fs^2]=\frac{m}{\sigma^2}(1+t)$ and $\mathbb E[s^2]=\frac1{\sigma^2}$, and with $c=2a\sigma$, $c^2=4t$:
# $\mathbb E[f^2s^2]=\frac1{\sigma^2}e^{2a\mu}(1+4t)\,e^{2t}=\frac{m^2}{\sigma^2}(1+4t)\,e^t$. The second
# moment $\mathbb E[f^2s^2]-2b\,\mathbb E[fs^2]+b^2\,\mathbb E[s^2]$ is smallest for $b^\star=m\,(1+t)$. Since
# $(a\,m)^2=\frac{m^2}{\sigma^2}t$,
#
# $$\begin{aligned}
# \operatorname{Var}_{b=0}&=\tfrac{m^2}{\sigma^2}\bigl[(1+4t)e^t-t\bigr],\\
# \operatorname{Var}_{b^\star}&=\tfrac{m^2}{\sigma^2}\bigl[(1+4t)e^t-(1+t)^2-t\bigr] .
# \end{aligned}$$
#
# **3.** The ratios are
#
# $$\begin{aligned}
# &\frac{(1+4t)e^t-t}{t(e^t-1)}&&(b=0),\\
# &\frac{(1+4t)e^t-(1+t)^2-t}{t(e^t-1)}&&(b=b^\star) .
# \end{aligned}$$
#
# As $t\to0$ the denominator is $t^2+O(t^3)$. The first numerator tends to 1, so the first ratio's leading
# term is $1/t^2$. The second is $(1+5t)-(1+2t)-t+O(t^2)=2t+O(t^2)$, so the second ratio's is $2/t$. As
# $t\to\infty$ the exponentials dominate and both ratios tend to 4: there the baseline no longer helps. For
# $a={{RATE}}$, $\sigma={{SIGMA}}$: $t={{T}}$, and the ratios are ${{WITHOUT}}$ without a baseline and
# ${{WITH_BEST}}$ with the best one.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN RUBRIC

# %% [markdown]
# **Points.** *Part 1 (2):* $m$, the gradient and the pathwise estimator's mean (1); its variance (1). *Part 2
# (4):* unbiased for every $b$, with $\mathbb E[s]=0$ named (1); $\mathbb E[\varepsilon^2e^{c\varepsilon}]$
# (1); $b^\star$ from the parabola (1); both variances (1, half each). *Part 3 (2):* $1/t^2$, $2/t$ and the
# common limit 4 (1, half for each end); both numbers (1, half each; numbers that follow from wrong formulas
# of part 2 count if they are positive).
#
# **Typical wrong answers.**
#
# - Part 1: $\mathbb E[e^{az}]=e^{a\mu}$, the exponential of the mean: 0 of 2; the later parts are graded with
#   the student's $m$.
# - Part 1: the variance is given as $a^2\operatorname{Var}[z]$, a linearisation: 1 of 2 (right only as
#   $t\to0$).
# - Part 2: $b^\star=\mathbb E[f]$ "because a baseline should be the mean": 3 of 4 if the variance for this
#   $b$ is right (it is larger by $\frac{m^2}{\sigma^2}t^2$), 2 of 4 otherwise. Part 3 is then graded with
#   that variance.
# - Part 2: $f$ and $s^2$ treated as independent, $\mathbb E[f^2s^2]=\mathbb E[f^2]/\sigma^2$: 2 of 4.
# - Part 2: unbiased "since $b$ is a constant", without $\mathbb E[s]=0$: half a point off.
# - Part 3: "both ratios tend to infinity as $t\to0$", without the powers: a quarter of a point for that end.
# - Part 3: "pathwise is always better by the factor 4" or only one end: half of the point for limits.

# %% [raw]
# # END RUBRIC

# %% [raw]
# # END QUESTION
