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

import numpy as np
import torch

SEED = int(rng.integers(1000))  # the pipeline provides rng
# radial layer
D_RADIAL = int(rng.integers(3, 7))
ALPHA = round(float(rng.uniform(0.8, 1.6)), 1)
BETA = round(-ALPHA * float(rng.uniform(0.4, 0.7)), 2)
RADIUS = round(float(rng.uniform(1.2, 2.0)), 1)
reached = RADIUS * (1 + BETA / (ALPHA + RADIUS))
across, along = BETA / (ALPHA + RADIUS), ALPHA * BETA / (ALPHA + RADIUS) ** 2
log_det = (D_RADIAL - 1) * math.log1p(across) + math.log1p(along)
RADIUS_OUT, LOG_DET = round(reached, 4), round(log_det, 4)
LOG_P = round(-D_RADIAL / 2 * math.log(2 * math.pi) - reached**2 / 2 + log_det, 4)
# planar layer
D_PLANAR = int(rng.integers(3, 6))
MILD = round(float(rng.uniform(0.4, 0.7)), 2)
STRONG = round(float(rng.uniform(4, 8)), 1)
WEAK = round(float(rng.uniform(-0.98, -0.92)), 3)
# coupling and autoregression
D_COUPLING = int(rng.integers(5, 8))
N_PASSING = D_COUPLING // 2
MASKS = []
while len(MASKS) < 3:
    mask = (rng.permutation(D_COUPLING) < N_PASSING).tolist()
    if mask not in MASKS and mask != sorted(mask, reverse=True):
        MASKS.append(mask)
ORDER = (rng.permutation(D_COUPLING) + 1).tolist()
if ORDER == sorted(ORDER):
    ORDER.reverse()
WIDTHS = [int(rng.integers(6, 10)), int(rng.integers(10, 13))]
DEGREES = [(1 + np.arange(width) % (D_COUPLING - 1)).tolist() for width in WIDTHS]
# the public tests of the coupling flow compare with numbers: they must not show how it is done
x = rng.normal(size=(2, D_COUPLING)).round(2)
z, grouped, unscaled, moved = x.copy(), x.copy(), x.copy(), []
for mask in np.array(MASKS[:2]):
    j = np.arange(1, D_COUPLING - N_PASSING + 1)
    total = z[:, mask].sum(1, keepdims=True)
    moved.append(0.5 * np.cos(total * j) + 0.2)
    z[:, ~mask] = z[:, ~mask] * np.exp(moved[-1]) + np.sin(total + j)
    if len(moved) == 1:
        one, backwards, again = z.copy(), z.copy(), z.copy()
        backwards[:, ~mask] = z[:, ~mask] * np.exp(-moved[0]) - np.sin(total + j)
        again[:, ~mask] = z[:, ~mask] * np.exp(moved[0]) + np.sin(total + j)
        X_GROUPED = np.concatenate([x[:, mask], x[:, ~mask]], 1).tolist()
    total = grouped[:, mask].sum(1, keepdims=True)
    changed = grouped[:, ~mask] * np.exp(0.5 * np.cos(total * j) + 0.2) + np.sin(total + j)
    grouped = np.concatenate([grouped[:, mask], changed], 1)
    total = unscaled[:, mask].sum(1, keepdims=True)
    unscaled[:, ~mask] = unscaled[:, ~mask] * (0.5 * np.cos(total * j) + 0.2) + np.sin(total + j)
X, Z, Z_GROUPED, Z_UNSCALED = x.tolist(), z.tolist(), grouped.tolist(), unscaled.tolist()
Z_ONE, X_ORDER, X_AGAIN = one.tolist(), backwards.tolist(), again.tolist()
same = z.copy()
for mask in np.array(MASKS[:2]):
    total = same[:, mask].sum(1, keepdims=True)
    same[:, ~mask] = (same[:, ~mask] - np.sin(total + j)) * np.exp(-0.5 * np.cos(total * j) - 0.2)
X_SAME = same.tolist()
S_SUMS = [moved[0].sum(1).tolist(), moved[1].sum(1).tolist()]
S_MEANS = [moved[0].mean(1).tolist(), moved[1].mean(1).tolist()]
E_SUM = (np.exp(moved[0]).sum(1) + np.exp(moved[1]).sum(1)).tolist()
# dequantisation
N_LEVELS = int(rng.choice([4, 8, 16, 32]))
N_PIXELS = int(rng.integers(3, 7))
N_DRAWS = int(rng.integers(4, 8))
LEVELS = rng.integers(N_LEVELS, size=(2, 2)).tolist()
NOISE = rng.uniform(0.1, 0.9, size=(3, 2, 2)).round(2).tolist()
log_p = np.log(1 + 0.9 * (2 * (np.array(LEVELS) + NOISE) / N_LEVELS - 1)).sum(2)
wide = np.log(1 + 0.9 * (2 * (np.array(LEVELS) + NOISE) / (N_LEVELS - 1) - 1)).sum(2)
bare = np.log(1 + 0.9 * (2 * np.array(LEVELS) / N_LEVELS - 1)).sum(1)
SINGLE = (math.log2(N_LEVELS) - log_p.mean(0) / (2 * math.log(2))).tolist()
MANY = (math.log2(N_LEVELS) - np.log(np.exp(log_p).mean(0)) / (2 * math.log(2))).tolist()
SINGLE_WIDE = (math.log2(N_LEVELS) - wide.mean(0) / (2 * math.log(2))).tolist()
SINGLE_BARE = (math.log2(N_LEVELS) - bare / (2 * math.log(2))).tolist()
MANY_SUM = (math.log2(N_LEVELS) - np.log(np.exp(log_p).sum(0)) / (2 * math.log(2))).tolist()
MANY_MAX = (math.log2(N_LEVELS) - log_p.max(0) / (2 * math.log(2))).tolist()
# smoothing
DELTA = round(float(rng.uniform(0.6, 0.85)), 2)
SKEW = round(float(rng.uniform(0.2, 0.5)), 2)
# adjoint
THETA = round(float(rng.uniform(0.3, 0.9)), 1)
PRICE = round(float(rng.uniform(0.4, 0.9)), 1)
START = round(float(rng.uniform(0.5, 1.5)), 1)
SLOPE = round(float(rng.uniform(-2, -1)), 1)
GROWTH = (math.exp(2 * THETA) - 1) / (2 * THETA)
BY_START = round(SLOPE * math.exp(THETA) + PRICE * START * GROWTH, 4)
BY_THETA = round(
    SLOPE * START * math.exp(THETA)
    + PRICE * START**2 * (math.exp(2 * THETA) / (2 * THETA) - GROWTH / (2 * THETA)),
    4,
)
D_ODE = int(rng.integers(2, 5))
# continuous flow
D_CNF = int(rng.integers(3, 5))
N_PROBES = int(rng.integers(3, 6))
# What public tests compare with stands in them as numbers: their files reach the students, formulas do not.
def drawn(*shape):
    """Normal numbers with two decimals."""
    return torch.from_numpy(rng.normal(size=shape)).mul(100).round() / 100


def numbers(*tensors):
    """The right value first, then those of the mistakes."""
    return [torch.as_tensor(value).tolist() for value in tensors]


# planar_inverse: a mild layer, with w·u = MILD and b = 0.7.
x, u, w = drawn(8, D_PLANAR), drawn(D_PLANAR), drawn(D_PLANAR)
w[0] = 1.1
u = u + (MILD - w @ u) * w / (w @ w)


def bend(a):
    return a / (1 + a**2).sqrt()


a = x @ w + 0.7
z = x + bend(a)[:, None] * u
without_b = z @ w
for _ in range(200):
    without_b = z @ w - MILD * bend(without_b)
PLANAR_Z, PLANAR_U, PLANAR_W = numbers(z, u, w)
PLANAR_X = numbers(
    x,
    z - bend(z @ w + 0.7)[:, None] * u,
    z + bend(z @ w + 0.7)[:, None] * u,
    z - bend(without_b)[:, None] * u,
    z - a.tanh()[:, None] * u,
)
right = -torch.log1p(MILD * (1 + a**2) ** -1.5)
PLANAR_LOG_DETS = numbers(
    right, -right, -torch.log1p(MILD * (1 - bend(a) ** 2)), right.exp(), -torch.log1p(MILD * bend(a))
)

# autoregressive_sample: two features, and many.
x = drawn(3, 2)
t = torch.stack([torch.full((3,), 0.4).double(), x[:, 0].sin()], 1)
s = torch.stack([torch.full((3,), -0.3).double(), 0.8 * x[:, 0]], 1)
z = x * s.exp() + t
t0, s0 = torch.tensor([[0.4, 0.0], [-0.3, 0.0]], dtype=torch.float64)
tz = torch.stack([torch.full((3,), 0.4).double(), z[:, 0].sin()], 1)
sz = torch.stack([torch.full((3,), -0.3).double(), 0.8 * z[:, 0]], 1)
base, at_x = (-0.5 * v.square().sum(1) - math.log(2 * math.pi) for v in (z, x))
PAIRS = z.tolist()
PAIRS_X = numbers(x, (z - t0) * (-s0).exp(), (z - tz) * (-sz).exp(), z * sz.exp() + tz)
PAIRS_LOG_P = numbers(
    base + s.sum(1), base - s.sum(1), base + s.sum(1) + math.log(2 * math.pi), base, at_x + s.sum(1)
)
x = drawn(3, D_COUPLING)
before = x.cumsum(1) - x
MANY_X, MANY_Z = numbers(x, x * (0.3 * before.cos()).exp() + before.sin())

# dequantisation_bounds: the density of a model that knows nothing, and constants that go wrong.
FLAT = [math.log2(N_LEVELS), 0.0, 2 * math.log2(N_LEVELS), math.log(N_LEVELS), N_PIXELS * math.log2(N_LEVELS)]
FLAT_SUM = [[FLAT[0]] * 2, [FLAT[0] - math.log2(N_DRAWS) / N_PIXELS] * 2]
SINGLE_LESS, SINGLE_MORE, SINGLE_ADDED = (
    [v + c * math.log2(N_LEVELS) for v in SINGLE] for c in (-1, 1, -2)
)
SINGLE_FLIPPED = [-v for v in SINGLE]

# smoothing_gaps: both rows by quadrature, and with mistakes.
WIDTHS = [0.01, 0.03, 0.1]
x = torch.linspace(-1.5, 1.5, 41).double()
nodes, weights = (torch.tensor(a)[:, None] for a in np.polynomial.hermite.hermgauss(40))
weights = weights / math.sqrt(math.pi)


def flow(v):
    return torch.sinh(DELTA * torch.asinh(v) + SKEW)


def log_slope(v):
    return (DELTA * torch.cosh(DELTA * torch.asinh(v) + SKEW) / (1 + v**2).sqrt()).log()


def smoothed_gap(noise, at=1):
    """The noise of each width, and whether the determinant follows it (1) or stays at x (0)."""
    v = [x + n for n in noise]
    change = [flow(y) ** 2 / 2 - flow(x) ** 2 / 2 + log_slope(x) - log_slope(x + at * (y - x)) for y in v]
    return torch.stack([(weights * c).sum(0).mean() for c in change])


def naive_gap(eta):
    gaps = []
    for width in WIDTHS:
        z = flow(x) + width * eta
        back = torch.sinh((torch.asinh(z) - SKEW) / DELTA)
        log_weight = -0.5 * ((x - back) / width) ** 2 - 0.5 * z**2 + 0.5 * eta**2
        gaps.append((log_slope(x) - flow(x) ** 2 / 2 - (weights * log_weight).sum(0)).mean())
    return torch.stack(gaps)


def unscaled(gap, constant):
    """With weights that add up to √π, where log p has that constant."""
    level = (log_slope(x) - flow(x) ** 2 / 2).mean() + constant
    return level - math.sqrt(math.pi) * (level - gap)


eta = math.sqrt(2) * nodes
right, constant = smoothed_gap([width * eta for width in WIDTHS]), -0.5 * math.log(2 * math.pi)
SMOOTHED = numbers(
    right,
    smoothed_gap([width * nodes for width in WIDTHS]),
    smoothed_gap([width * eta for width in WIDTHS], at=0),
    -right,
    41 * right,
    smoothed_gap([math.sqrt(width) * eta for width in WIDTHS]),
    unscaled(right, constant),
    unscaled(right, 0),
)
NAIVE = numbers(
    naive_gap(eta),
    right,
    -naive_gap(eta),
    naive_gap(nodes),
    naive_gap(eta) + 0.5 + torch.tensor(WIDTHS).double().log() - constant,
    unscaled(naive_gap(eta), constant),
    unscaled(naive_gap(eta), 0),
)

# adjoint_gradients: through a Runge-Kutta solver.
weight, b, z0, y = 1.2 * drawn(D_ODE, D_ODE), 0.4 * drawn(D_ODE), 0.7 * drawn(D_ODE), 2 * drawn(D_ODE)
ODE = numbers(weight, b, z0, y)
leaves = [z0.clone().requires_grad_(), weight.clone().requires_grad_(), b.clone().requires_grad_()]


def runge_kutta(slopes, state, h, n=50):
    """The state, a list of tensors, after n steps."""
    for _ in range(n):
        k1 = slopes(*state)
        k2 = slopes(*(v + h / 2 * k for v, k in zip(state, k1)))
        k3 = slopes(*(v + h / 2 * k for v, k in zip(state, k2)))
        k4 = slopes(*(v + h * k for v, k in zip(state, k3)))
        state = [v + h / 6 * (p + 2 * q + 2 * r + s) for v, p, q, r, s in zip(state, k1, k2, k3, k4)]
    return state


def with_energies(z, *_):
    """Beside the state the energy of the way, and the same where it does not feel W and b directly."""
    v = (leaves[1] @ z + leaves[2]).tanh()
    return v, 0.5 * v.square().sum(), 0.5 * (weight @ z + b).tanh().square().sum()


def adjoint_with(product):
    """The adjoint at 0 without a running cost, with some product in place of the right one."""

    def slopes(z, a):
        v = (weight @ z + b).tanh()
        return v, -product(1 - v**2, a)

    return runge_kutta(slopes, [end, end - y], -1 / 50)[1]


end, energy, felt = runge_kutta(with_energies, [leaves[0], torch.zeros(()), torch.zeros(())], 1 / 50)
fit, way, indirect = (
    torch.autograd.grad(loss, leaves, retain_graph=True)
    for loss in (0.5 * (end - y).square().sum(), energy, felt)
)
end = end.detach()
BY_STATE = numbers(
    fit[0],
    end - y,
    adjoint_with(lambda d, a: d * (weight @ a)),
    adjoint_with(lambda d, a: weight @ (d * a)),
    adjoint_with(lambda d, a: weight.T @ a),
    adjoint_with(lambda d, a: -weight.T @ (d * a)),
)
BY_WEIGHT, BY_BIAS = fit[1].tolist(), fit[2].tolist()
COST_STATE = numbers(*(fit[0] + c * way[0] for c in (PRICE, 0, -PRICE, 2 * PRICE, 1)))
COST_WEIGHT, COST_BIAS = (
    numbers(*(f + PRICE * c for c in (w, 0 * w, i, w - i)))
    for f, w, i in list(zip(fit, way, indirect))[1:]
)

# cnf_log_prob: linear fields.
slope, x = 0.5 * drawn(D_CNF, D_CNF), drawn(5, D_CNF)
slope = slope + (0.7 - slope.trace()) / D_CNF * torch.eye(D_CNF).double()
constant = D_CNF / 2 * math.log(2 * math.pi)
base, backwards = (
    -0.5 * (x @ torch.matrix_exp(sign * slope).T).square().sum(1) - constant for sign in (1, -1)
)
FIELD, FIELD_X = numbers(slope, x)
FIELD_LOG_P = numbers(
    base + 0.7,
    base - 0.7,
    base,
    torch.full((5,), 0.7).double(),
    base + 0.7 + constant,
    -0.5 * x.square().sum(1) - constant + 0.7,
    backwards - 0.7,
    base + slope.sum(),
)
probes = drawn(N_PROBES, 5, D_CNF)
forms = torch.einsum("kbi,ij,kbj->kb", probes, slope, probes)
PROBES = probes.tolist()
PROBED_LOG_P = numbers(
    base + forms.mean(0),
    base - forms.mean(0),
    base + 0.7,
    base + forms.sum(0),
    base + forms[0],
    base + torch.einsum("bi,ij,bj->b", probes.mean(0), slope, probes.mean(0)),
    base + torch.einsum("kbi,ij->kb", probes, slope).mean(0),
    base + forms.mean(0) / D_CNF,
    base + forms.mean(),
)


def scaled(state, trace):
    """log p(x) where the slope is integrated to one number for the state, and to another for the trace."""
    end = x @ torch.matrix_exp(state * slope).T
    return -0.5 * end.square().sum(1) - constant + trace * slope.trace()


# The same field times 0.2 + t: right, at t = 0 only, at each step's beginning, the trace at the start.
CLOCK_LOG_P = numbers(scaled(0.7, 0.7), scaled(0.2, 0.2), scaled(0.65, 0.65), scaled(0.7, 0.2))

# planar_inverse: a layer in which a fixed-point iteration does not converge.
x, u, w = 2 * drawn(8, D_PLANAR), drawn(D_PLANAR), drawn(D_PLANAR)
w[0] = 1.2
u = u + (3 - w @ u) * w / (w @ w)
z = x + bend(x @ w - 0.4)[:, None] * u
HARD_Z, HARD_U, HARD_W = numbers(z, u, w)
HARD_X = numbers(x, z - bend(z @ w - 0.4)[:, None] * u)

# %% [markdown]
# # Problem set 4: Flows and neural ODEs
#
# **100 points. About 12 hours:** two each for questions 1, 7 and 8, one each for the others. You need
# chapters 9 (Normalizing flows) and 10 (Continuous flows), from chapter 5 the evidence lower bound, and
# from chapter 4 the multivariate Gaussian.
#
# **Data and machine.** Everything is synthetic and small. A laptop's processor or a free Colab session is
# enough: the whole notebook runs in less than two minutes on one core. It computes in `float64`.
#
# **Points.** Questions marked *by hand* are read by a person, with the points of each part as stated. The
# others have public tests, which you can run as often as you like, and hidden tests, which run after you
# hand in: on other numbers, and on the traps that a question names. A question earns the points of the
# tests it passes. No test uses your answer to another question. A call of your function may take 10
# seconds, and print 100,000 characters. Tests are in `float64`. Functions of `course_lib` that do what a
# question asks for are switched off while it is tested. `torch`, `numpy` and `math` are allowed wherever a
# question does not say otherwise. What is marked *for yourself* is not handed in.
#
# **Conventions.** As in the chapters, $f$ normalises, $\mathbf z=f(\mathbf x)$, and $g=f^{-1}$ generates.
# Scales are $z=x\,e^{s}+t$. Logarithms are natural and log-densities are in nats. A batch has its examples
# in the first axis: $\mathbf x$ of shape `(B, D)`. A log-determinant is $\log\lvert\det\mathbf J\rvert$ of
# the map that the function computes, and has the shape `(B,)`.
#
# **On your honour.** Talk with others about the ideas, and write your answers alone. If a program or a
# person wrote or changed a part of an answer, say which part and how you checked it. You must be able to
# explain every line that you hand in.

# %%
import math

import numpy as np
import torch

torch.manual_seed({{SEED}})
torch.set_default_dtype(torch.float64)

# %% [raw]
# # BEGIN QUESTION
# name: radial
# points: 10
# manual: true

# %% [markdown]
# ## 1. A layer around a point (10 points, by hand)
#
# A planar layer moves points along one direction. A **radial** layer moves them towards a centre $\mathbf
# c\in\mathbb R^D$, or away from it. With numbers $\alpha>0$ and $\beta$, and $r=\lVert\mathbf x-\mathbf
# c\rVert$,
#
# $$ f(\mathbf x)=\mathbf x+\frac{\beta}{\alpha+r}\,(\mathbf x-\mathbf c). $$
#
# (a) *4 points.* For $\mathbf x\ne\mathbf c$ derive
#
# $$ \begin{aligned}
#    \det\mathbf J_f(\mathbf x)={}&\Bigl(1+\frac{\beta}{\alpha+r}\Bigr)^{D-1}\\
#    &\cdot\Bigl(1+\frac{\alpha\beta}{(\alpha+r)^2}\Bigr).
#    \end{aligned} $$
#
# (b) *3 points.* Show: $f$ is a bijection of $\mathbb R^D$ whose determinant is positive for all $\mathbf
# x\ne\mathbf c$ and for $\mathbf x\to\mathbf c$ stays away from 0, **if and only if** $\beta>-\alpha$.
#
# (c) *2 points.* The inverse of a planar layer needs a root finder. Give the inverse of a radial layer in
# closed form.
#
# (d) *1 point.* Let $D={{D_RADIAL}}$, $\mathbf c=\mathbf 0$, $\alpha={{ALPHA}}$, $\beta={{BETA}}$, and let
# the base be $\mathcal N(\mathbf 0,\mathbf I)$. Compute $\log p(\mathbf x)$ in nats at a point with
# $\lVert\mathbf x\rVert={{RADIUS}}$, with four digits after the point.

# %% [raw]
# # BEGIN SOLUTION

# %% [markdown]
# Write $h(r)=1/(\alpha+r)$, so $h'(r)=-h(r)^2$, and $\mathbf e=(\mathbf x-\mathbf c)/r$, a unit vector.
#
# **(a)** $\partial r/\partial\mathbf x=\mathbf e^\top$. The product rule gives
#
# $$ \begin{aligned}
#    \mathbf J_f&=(1+\beta h)\,\mathbf I+\beta h'\,(\mathbf x-\mathbf c)\,\mathbf e^\top\\
#    &=(1+\beta h)\,\mathbf I+\beta h' r\,\mathbf e\mathbf e^\top .
#    \end{aligned} $$
#
# This matrix is symmetric. A vector orthogonal to $\mathbf e$ is multiplied by $1+\beta h$: that is an
# eigenvalue of multiplicity $D-1$. The vector $\mathbf e$ is multiplied by $1+\beta h+\beta h'r$. The
# determinant is the product of all eigenvalues. The last one is
# $1+\beta\,\frac{(\alpha+r)-r}{(\alpha+r)^2}=1+\frac{\alpha\beta}{(\alpha+r)^2}$. (The matrix determinant
# lemma gives the same if $1+\beta h\ne0$; the eigenvalues need no such condition.)
#
# **(b)** $f$ keeps the direction $\mathbf e$ and, as long as $1+\beta h>0$, maps the distance $r$ to
# $\rho(r)=r+\beta r/(\alpha+r)$, with $\rho(0)=0$ and $\rho'(r)=1+\alpha\beta/(\alpha+r)^2$, the last
# factor of (a).
#
# *If.* Let $\beta>-\alpha$. For $\beta\ge0$ both factors are at least 1. For $-\alpha<\beta<0$ both
# $\frac1{\alpha+r}$ and $\frac{\alpha}{(\alpha+r)^2}$ are at most $\frac1\alpha$, so both factors are at
# least $1+\beta/\alpha>0$. So the determinant is at least $\min(1,1+\beta/\alpha)^D>0$ everywhere. And
# $\rho$ is continuous, strictly increasing, 0 at 0 and unbounded: a bijection of $[0,\infty)$. With the
# direction kept, $f$ is a bijection.
#
# *Only if.* Let $\beta<-\alpha$. At $r=-\beta-\alpha>0$ the factor $1+\beta h$ is 0, so the whole sphere of
# that radius is mapped to $\mathbf c$: no injection. Let $\beta=-\alpha$. Then both factors tend to
# $1+\beta/\alpha=0$ for $r\to0$. ($f$ is still injective, but its inverse is not differentiable at $\mathbf
# c$.)
#
# **(c)** Let $\rho=\lVert\mathbf z-\mathbf c\rVert$. The equation $\rho=r+\beta r/(\alpha+r)$, times
# $\alpha+r$, is $r^2+(\alpha+\beta-\rho)\,r-\alpha\rho=0$. The product of its roots is $-\alpha\rho\le0$,
# so the one that is not negative is
#
# $$ \begin{aligned}
#    r&=\tfrac12\Bigl(\rho-\alpha-\beta+\sqrt{(\rho-\alpha-\beta)^2+4\alpha\rho}\Bigr),\\
#    g(\mathbf z)&=\mathbf c+\frac{\mathbf z-\mathbf c}{1+\beta/(\alpha+r)} .
#    \end{aligned} $$
#
# **(d)** $\lVert f(\mathbf x)\rVert={{RADIUS_OUT}}$ and $\log\det\mathbf J_f={{LOG_DET}}$, so $\log
# p(\mathbf x)=-\frac{ {{D_RADIAL}} }2\log2\pi-\frac12\lVert f(\mathbf x)\rVert^2+\log\det\mathbf
# J_f={{LOG_P}}$ nats.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN RUBRIC

# %% [markdown]
# (a) 4: product rule with $\nabla r$ (1), $\mathbf J_f$ as a multiple of $\mathbf I$ plus rank one (1),
# eigenvalues or the lemma (1), simplification to $\alpha\beta/(\alpha+r)^2$ (1). (b) 3: positivity for
# $\beta>-\alpha$ with both signs of $\beta$ (1), $\rho$ increasing and unbounded, direction kept (1),
# failure for $\beta\le-\alpha$ (1). (c) 2: quadratic equation (1), right root with a reason (1). (d) 1 for
# {{LOG_P}} ± 0.001.
#
# Typical wrong answers:
#
# - $r$ treated as a constant, $\det=(1+\beta h)^D$: (a) earns 1; a (d) that follows from it earns 0.
# - Power $D$ in place of $D-1$, or the rank-one factor forgotten in the lemma, with a correct $\mathbf
#   J_f$: (a) earns 2.
# - Lemma used with division by $1+\beta h$, not said to be non-zero: (a) earns 4, mention it.
# - (b) by "the determinant is positive, so $f$ is invertible": a local statement; earns 1 of the first 2.
# - (b) for $\beta<-\alpha$ by "the determinant is negative near $\mathbf c$": true for odd $D$ only. For even
#   $D$ both factors' signs cancel there, and the sphere $r=-\alpha-\beta$, which collapses to $\mathbf c$, is
#   the reason. Half a point off.
# - (b) shows only the direction *if*: earns 2. Only $\beta<-\alpha$ treated, $\beta=-\alpha$ forgotten: the
#   last point is kept if the sphere is shown.
# - (c) with $\pm$ left open: earns 1. (d) with $-\log\det$ or with the density at $\mathbf x$ in place of
#   $f(\mathbf x)$: 0.

# %% [raw]
# # END RUBRIC

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: planar_inverse
# points: 12

# %% [markdown]
# ## 2. A planar layer backwards (12 points)
#
# Replace the $\tanh$ of a planar layer by $h(a)=a/\sqrt{1+a^2}$:
#
# $$ f(\mathbf x)=\mathbf x+\mathbf u\,h(\mathbf w^\top\mathbf x+b). $$
#
# Work out first, for yourself: $h'$, the determinant, for which $\mathbf w^\top\mathbf u$ this is a bijection
# whose determinant is nowhere 0, and between which two numbers $\mathbf w^\top\mathbf x$ lies for a given
# $\mathbf z$.
#
# Write `planar_inverse(z, u, w, b)`, with `z` of shape `(B, D)`, `u` and `w` of shape `(D,)` and a scalar
# tensor `b`. It returns $\mathbf x=g(\mathbf z)$, shape `(B, D)`, and $\log\lvert\det\mathbf J_g(\mathbf
# z)\rvert$, shape `(B,)`, in nats. Use `u` as it is, without $\hat{\mathbf u}$. The tests have $\mathbf
# w\ne\mathbf 0$, take $\mathbf w^\top\mathbf u$ between $-0.98$ and 8, and ask for errors below $10^{-7}$.
# Not allowed: `course_lib.planar`.

# %% [raw]
# # BEGIN SOLUTION

# %%
def planar_inverse(z, u, w, b):
    """g(z) of shape (B, D), and log|det J_g(z)| of shape (B,), for f(x) = x + u h(w·x + b)."""
    # BEGIN SOLUTION
    h = lambda a: a / (1 + a**2).sqrt()
    slope, target = w @ u, z @ w
    low, high = target - slope.abs(), target + slope.abs()
    for _ in range(80):
        middle = (low + high) / 2
        too_high = middle + slope * h(middle + b) > target
        low, high = torch.where(too_high, low, middle), torch.where(too_high, middle, high)
    a = (low + high) / 2 + b
    return z - h(a)[:, None] * u, -torch.log1p(slope * (1 + a**2) ** -1.5)
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: the point, in a mild layer
points: 2
""" # END TEST CONFIG
def test_mild_point(planar_inverse):
    import torch
    from course_lib.answer_checks import bounded, compare
    z, u, w = (torch.tensor(t, dtype=torch.float64) for t in ({{PLANAR_Z}}, {{PLANAR_U}}, {{PLANAR_W}}))
    seen = bounded(planar_inverse, z, u, w, torch.tensor(0.7, dtype=torch.float64),
                   without=["course_lib.planar.PlanarMap.inverse_and_log_det"])
    assert isinstance(seen, (tuple, list)) and len(seen) == 2, (
        "expected two tensors, x and log|det J_g|; not answered yet?")
    right, at_z, forwards, without_b, tanh = torch.tensor({{PLANAR_X}}, dtype=torch.float64)
    compare("x", seen[0], right, {
        "h belongs at w·x + b, not at w·z + b: w·x has to be found first": at_z,
        "this is f(z): the inverse subtracts": forwards,
        "b is missing": without_b,
        "this is the layer with tanh; h is a/√(1 + a²) here": tanh,
    }, rtol=1e-6, atol=1e-7)

# %%
""" # BEGIN TEST CONFIG
name: the log-determinant, in a mild layer
points: 2
""" # END TEST CONFIG
def test_mild_log_det(planar_inverse):
    import torch
    from course_lib.answer_checks import bounded, compare
    z, u, w = (torch.tensor(t, dtype=torch.float64) for t in ({{PLANAR_Z}}, {{PLANAR_U}}, {{PLANAR_W}}))
    seen = bounded(planar_inverse, z, u, w, torch.tensor(0.7, dtype=torch.float64),
                   without=["course_lib.planar.PlanarMap.inverse_and_log_det"])
    assert isinstance(seen, (tuple, list)) and len(seen) == 2, (
        "expected two tensors, x and log|det J_g|; not answered yet?")
    right, flipped, tanh, plain, h = torch.tensor({{PLANAR_LOG_DETS}}, dtype=torch.float64)
    compare("log|det J_g|", seen[1], right, {
        "this is log|det J_f|; the determinant of the inverse is the inverse of the determinant": flipped,
        "1 − h² is the derivative of tanh, not of this h": tanh,
        "the logarithm is missing": plain,
        "h itself stands where its derivative belongs": h,
    }, rtol=1e-6, atol=1e-7)

# %%
""" # BEGIN TEST CONFIG
name: the point, in a strong layer
points: 1
""" # END TEST CONFIG
def test_hard_point(planar_inverse):
    import torch
    from course_lib.answer_checks import bounded, compare
    z, u, w = (torch.tensor(t, dtype=torch.float64) for t in ({{HARD_Z}}, {{HARD_U}}, {{HARD_W}}))
    seen = bounded(planar_inverse, z, u, w, torch.tensor(-0.4, dtype=torch.float64),
                   without=["course_lib.planar.PlanarMap.inverse_and_log_det"])
    assert isinstance(seen, (tuple, list)) and len(seen) == 2, (
        "expected two tensors, x and log|det J_g|; not answered yet?")
    right, at_z = torch.tensor({{HARD_X}}, dtype=torch.float64)
    compare("x, where w·u = 3", seen[0], right, {
        "h belongs at w·x + b, not at w·z + b: w·x has to be found first": at_z,
        "f(x) is not z here: does your iteration converge where |w·u| is 1 or more?": seen[0],
    }, rtol=1e-6, atol=1e-7)

# %%
""" # BEGIN TEST CONFIG
name: strong layers
points: 7
hidden: true
""" # END TEST CONFIG
def test_strong(planar_inverse):
    import torch
    from course_lib.answer_checks import bounded, compare
    h = lambda a: a / (1 + a**2).sqrt()
    noise = torch.Generator().manual_seed({{SEED}} + 3)
    for product in ({{STRONG}}, {{WEAK}}):
        x, u, w = (torch.randn(s, {{D_PLANAR}} + 1, generator=noise).double() for s in (50, 1, 1))
        x, u, w, b = 3 * x, u[0], w[0], torch.tensor(0.3).double()
        u = u + (product - w @ u) * w / (w @ w)
        a = x @ w + b
        z = x + h(a)[:, None] * u
        truth = -torch.log1p(product * (1 + a**2) ** -1.5)
        seen = bounded(planar_inverse, z, u, w, b,
                       without=["course_lib.planar.PlanarMap.inverse_and_log_det"])
        assert isinstance(seen, (tuple, list)) and len(seen) == 2, "expected two tensors"
        compare(f"x, where w·u = {product}", seen[0], x, {
            "h belongs at w·x + b, not at w·z + b: w·x has to be found first": z - h(z @ w + b)[:, None] * u,
            "f(x) is not z here: does your iteration converge where |w·u| is 1 or more?": seen[0],
        }, rtol=1e-6, atol=1e-7, show=False)
        compare(f"log|det J_g|, where w·u = {product}", seen[1], truth, {
            "h′ belongs at w·x + b, not at w·z + b": -torch.log1p(product * (1 + (z @ w + b) ** 2) ** -1.5),
            "this is log|det J_f|; the determinant of the inverse is the inverse of the determinant": -truth,
            "1 − h² is the derivative of tanh, not of this h": -torch.log1p(product * (1 - h(a) ** 2)),
        }, rtol=1e-6, atol=1e-7, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: evaluates h at w·z + b instead of solving for w·x
# earns: 0
# says: has to be found first
def planar_inverse(z, u, w, b):
    a = z @ w + b
    return z - (a / (1 + a**2).sqrt())[:, None] * u, -torch.log1p(w @ u * (1 + a**2) ** -1.5)

# %%
# wrong: iterates the fixed-point equation, which converges only for small w·u
# earns: 4
# says: does your iteration converge
def planar_inverse(z, u, w, b):
    a = z @ w + b
    for _ in range(60):
        a = z @ w + b - w @ u * a / (1 + a**2).sqrt()
    return z - (a / (1 + a**2).sqrt())[:, None] * u, -torch.log1p(w @ u * (1 + a**2) ** -1.5)

# %%
# wrong: returns the log-determinant of f
# earns: 3
# says: this is log|det J_f|
def planar_inverse(z, u, w, b):
    slope, target = w @ u, z @ w
    low, high = target - slope.abs(), target + slope.abs()
    for _ in range(80):
        middle = (low + high) / 2
        too_high = middle + slope * (middle + b) / (1 + (middle + b) ** 2).sqrt() > target
        low, high = torch.where(too_high, low, middle), torch.where(too_high, middle, high)
    a = low + b
    return z - (a / (1 + a**2).sqrt())[:, None] * u, torch.log1p(slope * (1 + a**2) ** -1.5)

# %%
# wrong: keeps the derivative of tanh
# earns: 3
# says: derivative of tanh
def planar_inverse(z, u, w, b):
    slope, target = w @ u, z @ w
    low, high = target - slope.abs(), target + slope.abs()
    for _ in range(80):
        middle = (low + high) / 2
        too_high = middle + slope * (middle + b) / (1 + (middle + b) ** 2).sqrt() > target
        low, high = torch.where(too_high, low, middle), torch.where(too_high, middle, high)
    a = (low + b) / (1 + (low + b) ** 2).sqrt()
    return z - a[:, None] * u, -torch.log1p(slope * (1 - a**2))

# %%
# wrong: forgets b
# earns: 0
# says: b is missing
def planar_inverse(z, u, w, b):
    slope, target = w @ u, z @ w
    low, high = target - slope.abs(), target + slope.abs()
    for _ in range(80):
        middle = (low + high) / 2
        too_high = middle + slope * middle / (1 + middle**2).sqrt() > target
        low, high = torch.where(too_high, low, middle), torch.where(too_high, middle, high)
    return z - (low / (1 + low**2).sqrt())[:, None] * u, -torch.log1p(slope * (1 + low**2) ** -1.5)

# %%
# wrong: calls the library
# earns: 0
# says: switched off
def planar_inverse(z, u, w, b):
    from course_lib.planar import PlanarMap

    return PlanarMap(u, w, b).inverse_and_log_det(z)

# %%
# wrong: returns the public test's numbers
# earns: 4
# says: expected the shape
def planar_inverse(z, u, w, b):
    return torch.tensor({{PLANAR_X}}[0]), torch.tensor({{PLANAR_LOG_DETS}}[0])

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: coupling_flow
# points: 12
# pool: affine

# %% [markdown]
# ## 3. Coupling layers in both directions (12 points)
#
# A flow is a list of affine coupling layers. A layer is a pair `(mask, conditioner)`. The `mask` is a tensor
# of $D$ booleans, in any arrangement: where it is `True` a feature passes, the others change.
# `conditioner(passing)` takes the passing features, shape `(B, A)`, in their order in $\mathbf x$, and
# returns $\mathbf t$ and $\mathbf s$, both of shape `(B, D − A)`, for the changing features in their order.
#
# Write `coupling_flow(value, layers, inverse=False)`. Forwards it computes $\mathbf z=f_M(\dots f_1(\mathbf
# x))$, the first layer of the list first. With `inverse=True` it gets $\mathbf z$ and computes $\mathbf x$.
# Either way it returns the result, shape `(B, D)`, and $\log\lvert\det\mathbf J\rvert$ of the map it
# computed, shape `(B,)`, in nats. Every feature stays in its own column. Call each conditioner once. Not
# allowed: `course_lib.affine_flows`.

# %% [raw]
# # BEGIN SOLUTION

# %%
def coupling_flow(value, layers, inverse=False):
    """All layers forwards, or backwards: the result (B, D), and the log-determinant (B,) of that map."""
    # BEGIN SOLUTION
    log_det = value.new_zeros(len(value))
    for mask, conditioner in reversed(layers) if inverse else layers:
        shift, log_scale = conditioner(value[:, mask])
        changed = value.clone()
        if inverse:
            changed[:, ~mask] = (value[:, ~mask] - shift) * torch.exp(-log_scale)
            log_det = log_det - log_scale.sum(1)
        else:
            changed[:, ~mask] = value[:, ~mask] * torch.exp(log_scale) + shift
            log_det = log_det + log_scale.sum(1)
        value = changed
    return value, log_det
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: two layers forwards
points: 2
""" # END TEST CONFIG
def test_forwards(coupling_flow):
    import torch
    from course_lib.answer_checks import bounded, compare
    def conditioner(passing):
        j = torch.arange(1, {{D_COUPLING}} - {{N_PASSING}} + 1).double()
        total = passing.sum(1, keepdim=True)
        return torch.sin(total + j), 0.5 * torch.cos(total * j) + 0.2
    numbers = lambda values: torch.tensor(values, dtype=torch.float64)
    layers = [(torch.tensor(mask), conditioner) for mask in {{MASKS}}[:2]]
    seen = bounded(coupling_flow, numbers({{X}}), layers,
                   without=["course_lib.affine_flows.AffineCoupling.forward_and_log_det"])
    assert isinstance(seen, (tuple, list)) and len(seen) == 2, (
        "expected two tensors, z and log|det J|; not answered yet?")
    compare("z", seen[0], numbers({{Z}}), {
        "the features have changed places: write the changed ones back into their own columns":
            numbers({{Z_GROUPED}}),
        "the scale is e^s, not s": numbers({{Z_UNSCALED}}),
    })
    first, second = numbers({{S_SUMS}})
    compare("log|det J_f|", seen[1], first + second, {
        "only the last layer is counted: log-determinants of layers add up": second,
        "the sign is flipped": -first - second,
        "averaged over the features; the logarithm of a product is a sum": numbers({{S_MEANS}}).sum(0),
        "the determinant is the product of the scales e^s; its logarithm is another sum": numbers({{E_SUM}}),
    })

# %%
""" # BEGIN TEST CONFIG
name: one layer backwards
points: 2
""" # END TEST CONFIG
def test_one_back(coupling_flow):
    import torch
    from course_lib.answer_checks import bounded, compare
    def conditioner(passing):
        j = torch.arange(1, {{D_COUPLING}} - {{N_PASSING}} + 1).double()
        total = passing.sum(1, keepdim=True)
        return torch.sin(total + j), 0.5 * torch.cos(total * j) + 0.2
    numbers = lambda values: torch.tensor(values, dtype=torch.float64)
    layers = [(torch.tensor({{MASKS}}[0]), conditioner)]
    seen = bounded(coupling_flow, numbers({{Z_ONE}}), layers, inverse=True,
                   without=["course_lib.affine_flows.AffineCoupling.inverse_and_log_det"])
    assert isinstance(seen, (tuple, list)) and len(seen) == 2, (
        "expected two tensors, x and log|det J|; not answered yet?")
    compare("x", seen[0], numbers({{X}}), {
        "undo in the opposite order: first subtract t, then divide by e^s": numbers({{X_ORDER}}),
        "this is the forward map once more": numbers({{X_AGAIN}}),
        "the features have changed places: write the changed ones back into their own columns":
            numbers({{X_GROUPED}}),
    })
    log_det = -numbers({{S_SUMS}})[0]
    compare("log|det J_g|", seen[1], log_det, {
        "this is log|det J_f|; backwards the sign changes": -log_det,
        "averaged over the features; the logarithm of a product is a sum": -numbers({{S_MEANS}})[0],
    })

# %%
""" # BEGIN TEST CONFIG
name: two layers backwards
points: 1
""" # END TEST CONFIG
def test_two_back(coupling_flow):
    import torch
    from course_lib.answer_checks import bounded, compare
    def conditioner(passing):
        j = torch.arange(1, {{D_COUPLING}} - {{N_PASSING}} + 1).double()
        total = passing.sum(1, keepdim=True)
        return torch.sin(total + j), 0.5 * torch.cos(total * j) + 0.2
    numbers = lambda values: torch.tensor(values, dtype=torch.float64)
    layers = [(torch.tensor(mask), conditioner) for mask in {{MASKS}}[:2]]
    seen = bounded(coupling_flow, numbers({{Z}}), layers, inverse=True,
                   without=["course_lib.affine_flows.AffineCoupling.inverse_and_log_det"])
    assert isinstance(seen, (tuple, list)) and len(seen) == 2, (
        "expected two tensors, x and log|det J|; not answered yet?")
    compare("x", seen[0], numbers({{X}}), {
        "backwards the last layer is undone first: reverse the list": numbers({{X_SAME}}),
    })
    first, second = numbers({{S_SUMS}})
    compare("log|det J_g|", seen[1], -first - second, {
        "this is log|det J_f|; backwards the sign changes": first + second,
        "only the layer that is undone last is counted: log-determinants of layers add up": -first,
    })

# %%
""" # BEGIN TEST CONFIG
name: three layers backwards
points: 4
hidden: true
""" # END TEST CONFIG
def test_three_back(coupling_flow):
    import torch
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 3)
    def layer(mask):
        mask = torch.tensor(mask)
        shape = int(mask.sum()), int((~mask).sum())
        wt, ws = (torch.randn(shape, generator=noise).double() for _ in range(2))
        return mask, lambda v: (torch.cos(v @ wt), 0.5 * torch.tanh(v @ ws) - 0.2)
    layers = [layer(mask) for mask in {{MASKS}}]
    x = torch.randn(5, {{D_COUPLING}}, generator=noise).double()
    z, log_det = x, 0
    for mask, conditioner in layers:
        t, s = conditioner(z[:, mask])
        z = z.clone()
        z[:, ~mask] = z[:, ~mask] * s.exp() + t
        log_det = log_det + s.sum(1)
    same_order = z
    for mask, conditioner in layers:
        t, s = conditioner(same_order[:, mask])
        same_order = same_order.clone()
        same_order[:, ~mask] = (same_order[:, ~mask] - t) * (-s).exp()
    seen = bounded(coupling_flow, z, layers, inverse=True,
                   without=["course_lib.affine_flows.AffineCoupling.inverse_and_log_det"])
    assert isinstance(seen, (tuple, list)) and len(seen) == 2, "expected two tensors"
    compare("x", seen[0], x, {
        "backwards the last layer is undone first: reverse the list": same_order,
    }, show=False)
    compare("log|det J_g|", seen[1], -log_det, {
        "this is log|det J_f|; backwards the sign changes": log_det,
        "only the last layer is counted: log-determinants of layers add up":
            -layers[0][1](x[:, layers[0][0]])[1].sum(1),
    }, show=False)

# %%
""" # BEGIN TEST CONFIG
name: three layers forwards
points: 3
hidden: true
""" # END TEST CONFIG
def test_three_forwards(coupling_flow):
    import torch
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 4)
    def layer(mask):
        mask = torch.tensor(mask)
        shape = int(mask.sum()), int((~mask).sum())
        wt, ws = (torch.randn(shape, generator=noise).double() for _ in range(2))
        return mask, lambda v: (torch.sin(v @ wt) + 0.1, 0.4 * torch.tanh(v @ ws) + 0.1)
    layers = [layer(mask) for mask in {{MASKS}}]
    x = torch.randn(6, {{D_COUPLING}}, generator=noise).double()
    z, terms = x, []
    for mask, conditioner in layers:
        t, s = conditioner(z[:, mask])
        z = z.clone()
        z[:, ~mask] = z[:, ~mask] * s.exp() + t
        terms.append(s.sum(1))
    seen = bounded(coupling_flow, x, layers,
                   without=["course_lib.affine_flows.AffineCoupling.forward_and_log_det"])
    assert isinstance(seen, (tuple, list)) and len(seen) == 2, "expected two tensors"
    compare("z", seen[0], z, show=False)
    compare("log|det J_f|", seen[1], sum(terms), {
        "only the last layer is counted: log-determinants of layers add up": terms[-1],
        "the sign is flipped": -sum(terms),
    }, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: undoes the layers in the order in which they were applied
# earns: 7
# says: the last layer is undone first
def coupling_flow(value, layers, inverse=False):
    log_det = 0
    for mask, conditioner in layers:
        t, s = conditioner(value[:, mask])
        value = value.clone()
        rest = value[:, ~mask]
        value[:, ~mask] = (rest - t) * (-s).exp() if inverse else rest * s.exp() + t
        log_det = log_det + (-s if inverse else s).sum(1)
    return value, log_det

# %%
# wrong: the log-determinant keeps its sign backwards
# earns: 5
# says: backwards the sign changes
def coupling_flow(value, layers, inverse=False):
    log_det = 0
    for mask, conditioner in reversed(layers) if inverse else layers:
        t, s = conditioner(value[:, mask])
        value = value.clone()
        rest = value[:, ~mask]
        value[:, ~mask] = (rest - t) * (-s).exp() if inverse else rest * s.exp() + t
        log_det = log_det + s.sum(1)
    return value, log_det

# %%
# wrong: puts the passing features first
# earns: 0
# says: have changed places
def coupling_flow(value, layers, inverse=False):
    log_det = 0
    for mask, conditioner in reversed(layers) if inverse else layers:
        passing, rest = value[:, mask], value[:, ~mask]
        t, s = conditioner(passing)
        rest = (rest - t) * (-s).exp() if inverse else rest * s.exp() + t
        value = torch.cat([passing, rest], 1)
        log_det = log_det + (-s if inverse else s).sum(1)
    return value, log_det

# %%
# wrong: counts the last layer only
# earns: 2
# says: only the last layer
def coupling_flow(value, layers, inverse=False):
    for mask, conditioner in reversed(layers) if inverse else layers:
        t, s = conditioner(value[:, mask])
        value = value.clone()
        rest = value[:, ~mask]
        value[:, ~mask] = (rest - t) * (-s).exp() if inverse else rest * s.exp() + t
        log_det = (-s if inverse else s).sum(1)
    return value, log_det

# %%
# wrong: scales back before it subtracts the shift
# earns: 5
# says: first subtract t
def coupling_flow(value, layers, inverse=False):
    log_det = 0
    for mask, conditioner in reversed(layers) if inverse else layers:
        t, s = conditioner(value[:, mask])
        value = value.clone()
        rest = value[:, ~mask]
        value[:, ~mask] = rest * (-s).exp() - t if inverse else rest * s.exp() + t
        log_det = log_det + (-s if inverse else s).sum(1)
    return value, log_det

# %%
# wrong: multiplies by s
# earns: 0
# says: the scale is e^s
def coupling_flow(value, layers, inverse=False):
    log_det = 0
    for mask, conditioner in reversed(layers) if inverse else layers:
        t, s = conditioner(value[:, mask])
        value = value.clone()
        rest = value[:, ~mask]
        value[:, ~mask] = (rest - t) / s if inverse else rest * s + t
        log_det = log_det + (-1 if inverse else 1) * s.abs().log().sum(1)
    return value, log_det

# %%
# wrong: calls the library
# earns: 0
# says: switched off
def coupling_flow(value, layers, inverse=False):
    from course_lib.affine_flows import AffineCoupling

    for mask, _ in layers:
        layer = AffineCoupling(len(mask), (4,), mask).double()
        value, log_det = layer.inverse_and_log_det(value) if inverse else layer.forward_and_log_det(value)
    return value, log_det

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: autoregressive_sample
# points: 12
# pool: affine

# %% [markdown]
# ## 3. Sampling from an autoregressive flow (12 points)
#
# A masked autoregressive flow computes $z_i=x_i\,e^{s_i}+t_i$, where $s_i$ and $t_i$ depend on the features
# that come before feature $i$ **in some order, which you are not told**. `conditioner(x)` takes $\mathbf x$
# of shape `(B, D)` and returns $\mathbf t$ and $\mathbf s$, both of shape `(B, D)`. The base is $\mathcal
# N(\mathbf 0,\mathbf I)$.
#
# Write `autoregressive_sample(z, conditioner)`, with `z` of shape `(B, D)`. It returns the sample $\mathbf
# x=g(\mathbf z)$, shape `(B, D)`, and $\log p(\mathbf x)$ in nats, shape `(B,)`. It may call the
# conditioner at most $D$ times *in all*. (Think first: which features are right after one call, whatever
# the order is? After two?) Not allowed: `course_lib.affine_flows`.

# %% [raw]
# # BEGIN SOLUTION

# %%
def autoregressive_sample(z, conditioner):
    """x = g(z) of shape (B, D), and log p(x) of shape (B,), with at most D calls of the conditioner."""
    # BEGIN SOLUTION
    x = torch.zeros_like(z)
    for _ in range(z.shape[1]):
        shift, log_scale = conditioner(x)
        x = (z - shift) * torch.exp(-log_scale)
    # before call D the first D − 1 features were right, and no s depends on the last one
    log_base = -0.5 * (z**2).sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)
    return x, log_base + log_scale.sum(1)
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: two features
points: 3
""" # END TEST CONFIG
def test_two(autoregressive_sample):
    import torch
    from course_lib.answer_checks import bounded, compare
    def conditioner(x):
        first = x[:, 0]
        one = torch.ones_like(first)
        return torch.stack([0.4 * one, torch.sin(first)], 1), torch.stack([-0.3 * one, 0.8 * first], 1)
    seen = bounded(autoregressive_sample, torch.tensor({{PAIRS}}, dtype=torch.float64), conditioner,
                   without=["course_lib.affine_flows.AutoregressiveMap.inverse_and_log_det"])
    assert isinstance(seen, (tuple, list)) and len(seen) == 2, (
        "expected two tensors, x and log p(x); not answered yet?")
    right, one_pass, from_z, forwards = torch.tensor({{PAIRS_X}}, dtype=torch.float64)
    compare("x", seen[0], right, {
        "one pass is not enough: a feature needs the features before it, of x": one_pass,
        "the conditioner was given z; in this flow it reads x": from_z,
        "this is f: samples need the inverse": forwards,
    })
    right, minus, constant, base, at_x = torch.tensor({{PAIRS_LOG_P}}, dtype=torch.float64)
    compare("log p(x)", seen[1], right, {
        "log|det J_f| enters the density of x with a plus": minus,
        "the constant −D/2 log 2π is missing": constant,
        "this is log p(z): the log-determinant is missing": base,
        "the base density is evaluated at x; it belongs at z": at_x,
    })

# %%
""" # BEGIN TEST CONFIG
name: many features in any order
points: 7
hidden: true
""" # END TEST CONFIG
def test_order(autoregressive_sample):
    import math
    import torch
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 1)
    degrees = torch.tensor({{ORDER}})
    before = (degrees[:, None] < degrees).double()
    wt, ws = torch.randn(2, {{D_COUPLING}}, {{D_COUPLING}}, generator=noise).double() * before
    conditioner = lambda v: (torch.sin(v @ wt) + 0.1, 0.5 * torch.tanh(v @ ws) + 0.2)
    x = torch.randn(7, {{D_COUPLING}}, generator=noise).double()
    t, s = conditioner(x)
    z = x * s.exp() + t
    natural = torch.zeros_like(z)
    for i in range({{D_COUPLING}}):
        ti, si = conditioner(natural)
        natural[:, i] = (z[:, i] - ti[:, i]) * (-si[:, i]).exp()
    t0, s0 = conditioner(0 * x)
    base = -0.5 * z.square().sum(1) - {{D_COUPLING}} / 2 * math.log(2 * math.pi)
    seen = bounded(autoregressive_sample, z, conditioner,
                   without=["course_lib.affine_flows.AutoregressiveMap.inverse_and_log_det"])
    assert isinstance(seen, (tuple, list)) and len(seen) == 2, "expected two tensors"
    compare("x", seen[0], x, {
        "this fills the features from left to right; the order is not known": natural,
        "one pass is not enough: a feature needs the features before it, of x": (z - t0) * (-s0).exp(),
    }, show=False)
    compare("log p(x)", seen[1], base + s.sum(1), {
        "log|det J_f| enters the density of x with a plus": base - s.sum(1),
        "this is log p(z): the log-determinant is missing": base,
    }, show=False)

# %%
""" # BEGIN TEST CONFIG
name: at most D calls, and still right
points: 2
""" # END TEST CONFIG
def test_calls(autoregressive_sample):
    import torch
    from course_lib.answer_checks import bounded, compare
    calls = []
    def conditioner(x):
        calls.append(1)
        before = torch.cumsum(x, 1) - x
        return torch.sin(before), 0.3 * torch.cos(before)
    x, z = torch.tensor([{{MANY_X}}, {{MANY_Z}}], dtype=torch.float64)
    seen = bounded(autoregressive_sample, z, conditioner,
                   without=["course_lib.affine_flows.AutoregressiveMap.inverse_and_log_det"])
    assert isinstance(seen, (tuple, list)) and len(seen) == 2, (
        "expected two tensors, x and log p(x); not answered yet?")
    compare("x", seen[0], x, {"one pass is not enough: a feature needs the features before it, of x": seen[0]}
            if len(calls) == 1 else {})
    assert len(calls) <= {{D_COUPLING}}, (
        f"{len(calls)} calls for D = {{D_COUPLING}}: is the log-determinant not known already?")

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: one pass
# earns: 0
# says: one pass is not enough
def autoregressive_sample(z, conditioner):
    t, s = conditioner(torch.zeros_like(z))
    x = (z - t) * torch.exp(-s)
    return x, -0.5 * (z**2).sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi) + s.sum(1)

# %%
# wrong: reads z, as an inverse autoregressive flow would
# earns: 0
# says: was given z
def autoregressive_sample(z, conditioner):
    t, s = conditioner(z)
    x = (z - t) * torch.exp(-s)
    return x, -0.5 * (z**2).sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi) + s.sum(1)

# %%
# wrong: fills the features from left to right
# earns: 5
# says: the order is not known
def autoregressive_sample(z, conditioner):
    x = torch.zeros_like(z)
    for i in range(z.shape[1]):
        t, s = conditioner(x)
        x[:, i] = (z[:, i] - t[:, i]) * torch.exp(-s[:, i])
    return x, -0.5 * (z**2).sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi) + s.sum(1)

# %%
# wrong: subtracts the log-determinant
# earns: 2
# says: with a plus
def autoregressive_sample(z, conditioner):
    x = torch.zeros_like(z)
    for _ in range(z.shape[1]):
        t, s = conditioner(x)
        x = (z - t) * torch.exp(-s)
    return x, -0.5 * (z**2).sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi) - s.sum(1)

# %%
# wrong: one call more for the log-determinant
# earns: 10
# says: not known already
def autoregressive_sample(z, conditioner):
    x = torch.zeros_like(z)
    for _ in range(z.shape[1]):
        t, s = conditioner(x)
        x = (z - t) * torch.exp(-s)
    s = conditioner(x)[1]
    return x, -0.5 * (z**2).sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi) + s.sum(1)

# %%
# wrong: calls the library
# earns: 0
# says: switched off
def autoregressive_sample(z, conditioner):
    from course_lib.affine_flows import AutoregressiveMap

    x, log_det = AutoregressiveMap(conditioner).inverse_and_log_det(z)
    return x, -0.5 * (z**2).sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi) - log_det

# %%
# wrong: returns the public test's numbers
# earns: 3
# says: expected the shape
def autoregressive_sample(z, conditioner):
    return torch.tensor({{PAIRS_X}}[0]), torch.tensor({{PAIRS_LOG_P}}[0])

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: made_masks
# points: 10

# %% [markdown]
# ## 4. Masks for any order (10 points)
#
# The chapter made the masks of a network with one hidden layer, for features in their natural order. Now
# the order is free and there are several hidden layers. Feature $j$ has the **degree**
# $m_j\in\{1,\dots,D\}$, its place in the order. It keeps that degree as an input *and* as an output. Every
# hidden unit has a degree from $1,\dots,D-1$: it may know the features whose degrees are at most its own.
# Output $i$ may know the features $j$ with $m_j<m_i$ only. A weight stays if and only if all that the unit
# before it may know (an input: its own feature) the unit after it may know, too.
#
# Write `made_masks(degrees, hidden_degrees)`: `degrees` is a list of $D$ integers, `hidden_degrees` a list
# with one list of integers for each hidden layer. It returns a list of matrices, one for each layer of
# weights, from the input to the output, of shape `(units after, units before)`: 1 (or `True`) where a
# weight stays. Units stand in the order of the lists. The network has one output for each feature. Not
# allowed: `course_lib.masked_networks`.

# %% [raw]
# # BEGIN SOLUTION

# %%
def made_masks(degrees, hidden_degrees):
    """One mask a layer of weights, shape (units after, units before)."""
    # BEGIN SOLUTION
    layers = [torch.tensor(layer) for layer in [degrees, *hidden_degrees]]
    inner = [after[:, None] >= before for before, after in zip(layers, layers[1:])]
    return [*inner, layers[0][:, None] > layers[-1]]
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: three features in their order
points: 4
""" # END TEST CONFIG
def test_three(made_masks):
    import torch
    from course_lib.answer_checks import bounded, compare
    first = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 0]]).double()
    last = torch.tensor([[0, 0, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1]]).double()
    seen = bounded(made_masks, [1, 2, 3], [[1, 2, 1, 2]],
                   without=["course_lib.masked_networks.autoregressive_masks"])
    assert isinstance(seen, (tuple, list)) and len(seen) == 2, (
        "expected a list of two masks, one for each layer of weights; not answered yet?")
    for name, mask, truth in zip(("first", "last"), seen, (first, last)):
        assert not (isinstance(mask, torch.Tensor) and mask.shape == truth.T.shape), (
            f"the {name} mask is transposed: its shape is (units after, units before)")
    compare("first mask", seen[0], first, {
        "a hidden unit may know features of its own degree: ≥, not >":
            torch.tensor([[0, 0, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0]]).double(),
        "the inequality points the wrong way":
            torch.tensor([[1, 1, 1], [0, 1, 1], [1, 1, 1], [0, 1, 1]]).double(),
    })
    compare("last mask", seen[1], last, {
        "with ≥ output i sees input i: here the inequality is strict":
            torch.tensor([[1, 0, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]]).double(),
        "the inequality points the wrong way":
            torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]).double(),
    })

# %%
""" # BEGIN TEST CONFIG
name: any order, two hidden layers
points: 6
hidden: true
""" # END TEST CONFIG
def test_any_order(made_masks):
    import torch
    from course_lib.answer_checks import bounded, compare
    degrees, hidden = {{ORDER}}, {{DEGREES}}
    m, k1, k2 = torch.tensor(degrees), torch.tensor(hidden[0]), torch.tensor(hidden[1])
    natural = torch.arange(1, len(degrees) + 1)
    place = m.argsort() + 1
    seen = bounded(made_masks, degrees, hidden, without=["course_lib.masked_networks.autoregressive_masks"])
    assert isinstance(seen, (tuple, list)) and len(seen) == 3, (
        "expected a list of three masks, one for each layer of weights")
    paths = [torch.as_tensor(mask).double() for mask in seen]
    truths = [(after[:, None] >= before).double() for before, after in ((m, k1), (k1, k2))]
    truths.append((m[:, None] > k2).double())
    for name, mask, truth in zip(("first", "second", "last"), paths, truths):
        assert mask.shape == truth.shape, (
            f"the {name} mask is not of the shape (units after, units before): has it been transposed?")
    compare("first mask", paths[0], truths[0], {
        "this takes the features in their natural order; feature j has the degree degrees[j]":
            (k1[:, None] >= natural).double(),
        "degrees[j] is the place of feature j, not the feature in place j": (k1[:, None] >= place).double(),
        "a hidden unit may know features of its own degree: ≥, not >": (k1[:, None] > m).double(),
    }, show=False)
    compare("second mask", paths[1], truths[1], {
        "between hidden layers ≥ is enough; > throws knowledge away": (k2[:, None] > k1).double(),
        "hidden layers need a mask, too": torch.ones_like(truths[1]),
    }, show=False)
    compare("last mask", paths[2], truths[2], {
        "the outputs stand in the order of the features: output j has the degree degrees[j], too":
            (natural[:, None] > k2).double(),
        "with ≥ output i sees input i: here the inequality is strict": (m[:, None] >= k2).double(),
    }, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: the last inequality is not strict
# earns: 0
# says: the inequality is strict
def made_masks(degrees, hidden_degrees):
    layers = [torch.tensor(layer) for layer in [degrees, *hidden_degrees, degrees]]
    return [after[:, None] >= before for before, after in zip(layers, layers[1:])]

# %%
# wrong: all inequalities are strict
# earns: 0
# says: ≥, not >
def made_masks(degrees, hidden_degrees):
    layers = [torch.tensor(layer) for layer in [degrees, *hidden_degrees, degrees]]
    return [after[:, None] > before for before, after in zip(layers, layers[1:])]

# %%
# wrong: transposed
# earns: 0
# says: transposed
def made_masks(degrees, hidden_degrees):
    layers = [torch.tensor(layer) for layer in [degrees, *hidden_degrees]]
    inner = [after >= before[:, None] for before, after in zip(layers, layers[1:])]
    return [*inner, layers[0] > layers[-1][:, None]]

# %%
# wrong: ignores the order of the features
# earns: 4
# says: natural order
def made_masks(degrees, hidden_degrees):
    layers = [torch.tensor(layer) for layer in [list(range(1, len(degrees) + 1)), *hidden_degrees]]
    inner = [after[:, None] >= before for before, after in zip(layers, layers[1:])]
    return [*inner, layers[0][:, None] > layers[-1]]

# %%
# wrong: outputs in natural order behind inputs in another
# earns: 4
# says: has the degree degrees[j], too
def made_masks(degrees, hidden_degrees):
    layers = [torch.tensor(layer) for layer in [degrees, *hidden_degrees]]
    inner = [after[:, None] >= before for before, after in zip(layers, layers[1:])]
    return [*inner, torch.arange(1, len(degrees) + 1)[:, None] > layers[-1]]

# %%
# wrong: no mask between hidden layers
# earns: 4
# says: hidden layers need a mask
def made_masks(degrees, hidden_degrees):
    layers = [torch.tensor(layer) for layer in [degrees, *hidden_degrees]]
    inner = [layers[1][:, None] >= layers[0]]
    inner += [torch.ones(len(after), len(before)) for before, after in zip(layers[1:], layers[2:])]
    return [*inner, layers[0][:, None] > layers[-1]]

# %%
# wrong: calls the library
# earns: 0
# says: switched off
def made_masks(degrees, hidden_degrees):
    from course_lib.masked_networks import autoregressive_masks

    return autoregressive_masks(len(degrees), [len(layer) for layer in hidden_degrees])

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: dequantisation_bounds
# points: 10

# %% [markdown]
# ## 5. Two bounds on the bits of a pixel (10 points)
#
# An image has $D$ pixels $v_i\in\{0,\dots,M-1\}$. A flow gives the density $p(\mathbf x)$ of $\mathbf
# x=(\mathbf v+\mathbf u)/M\in[0,1)^D$, with $\mathbf u$ uniform on $[0,1)^D$. Let $p_y$ be the density of
# $\mathbf y=M\mathbf x$. The image's probability is the integral over its cell, $P(\mathbf
# v)=\int_{[0,1)^D}p_y(\mathbf v+\mathbf u)\,\mathrm d\mathbf u$. You have $K$ draws $\mathbf
# u_1,\dots,\mathbf u_K$ for each image. Two estimates bound $-\log_2P(\mathbf v)/D$ from above, on average
# over the draws: the one of the chapter, with one draw at a time and then the average over the draws; and a
# tighter one,
#
# $$ \begin{aligned}
#    \log P(\mathbf v)&\ge\mathbb E\Bigl[\log\frac1K\sum_{k=1}^K p_y(\mathbf v+\mathbf u_k)\Bigr]\\
#    &\ge\mathbb E\bigl[\log p_y(\mathbf v+\mathbf u_1)\bigr].
#    \end{aligned} $$
#
# (Both inequalities are Jensen's. Can you see where?
# For $K=1$ the second is an equality.)
#
# Write `dequantisation_bounds(levels, noise, log_density, n_levels)`: `levels` of shape `(B, D)` holds
# whole numbers as floats, `noise` of shape `(K, B, D)` the draws, `log_density(x)` maps $\mathbf x$ of
# shape `(..., D)` to $\log p(\mathbf x)$ in nats, of shape `(...)`. Return a tensor of shape `(2, B)` in
# **bits per dimension**: the bound with single draws averaged over $k$ in the first row, the tighter one in
# the second. Log-densities of real images are about −1000: exponentials alone underflow. Not allowed:
# `course_lib`.

# %% [raw]
# # BEGIN SOLUTION

# %%
def dequantisation_bounds(levels, noise, log_density, n_levels):
    """Bits per dimension, shape (2, B): single draws averaged, and all K draws inside the logarithm."""
    # BEGIN SOLUTION
    n_draws, _, n_pixels = noise.shape
    log_y = log_density((levels + noise) / n_levels) - n_pixels * math.log(n_levels)
    bounds = torch.stack([log_y.mean(0), torch.logsumexp(log_y, 0) - math.log(n_draws)])
    return -bounds / (n_pixels * math.log(2))
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: a model that knows nothing
points: 2
""" # END TEST CONFIG
def test_flat(dequantisation_bounds):
    import torch
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 1)
    levels = torch.randint({{N_LEVELS}}, (2, {{N_PIXELS}}), generator=noise).double()
    u = torch.rand({{N_DRAWS}}, 2, {{N_PIXELS}}, generator=noise).double()
    seen = bounded(dequantisation_bounds, levels, u, lambda x: torch.zeros_like(x[..., 0]), {{N_LEVELS}},
                   without=["course_lib.dequantisation.bits_per_dimension"])
    right, less, more, nats, image = (torch.full((2, 2), t).double() for t in {{FLAT}})
    compare("bits per dimension of the uniform density", seen, right, {
        "M is missing: without a model a pixel is not free": less,
        "M is counted twice": more,
        "these are nats": nats,
        "these are bits for the whole image": image,
        "the sign is flipped, of the whole or of log M: the next test tells which": -right,
        "the 1/K is missing in the second row": torch.tensor({{FLAT_SUM}}, dtype=torch.float64),
    })

# %%
""" # BEGIN TEST CONFIG
name: a density with a slope
points: 2
""" # END TEST CONFIG
def test_slope(dequantisation_bounds):
    import torch
    from course_lib.answer_checks import bounded, compare
    numbers = lambda values: torch.tensor(values, dtype=torch.float64)
    seen = bounded(dequantisation_bounds, numbers({{LEVELS}}), numbers({{NOISE}}),
                   lambda x: torch.log(1 + 0.9 * (2 * x - 1)).sum(-1), {{N_LEVELS}},
                   without=["course_lib.dequantisation.bits_per_dimension"])
    assert isinstance(seen, torch.Tensor), "expected one tensor (no list); not answered yet?"
    compare("the bounds", torch.zeros_like(seen), torch.zeros(2, 2))
    single, many = numbers({{SINGLE}}), numbers({{MANY}})
    compare("single draws, averaged", seen[0], single, {
        "this is the log of the mean; here the mean of the logs is asked for": many,
        "M is missing": numbers({{SINGLE_LESS}}),
        "M is counted twice": numbers({{SINGLE_MORE}}),
        "the sign is flipped: bits are a cost": numbers({{SINGLE_FLIPPED}}),
        "log M has the wrong sign: y is spread over a larger volume than x": numbers({{SINGLE_ADDED}}),
        "there are M levels, so x = (v + u)/M and not over M − 1": numbers({{SINGLE_WIDE}}),
        "the noise is missing": numbers({{SINGLE_BARE}}),
    }, rtol=1e-6)
    compare("all draws", seen[1], many, {
        "this is the mean of the logs; the tighter bound is the log of the mean": single,
        "the 1/K is missing": numbers({{MANY_SUM}}),
        "the largest draw is not their average": numbers({{MANY_MAX}}),
    }, rtol=1e-6)

# %%
""" # BEGIN TEST CONFIG
name: small densities, more images
points: 6
hidden: true
""" # END TEST CONFIG
def test_small(dequantisation_bounds):
    import math
    import torch
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 3)
    n_pixels, n_levels, n_draws = {{N_PIXELS}} + 2, 2 * {{N_LEVELS}}, {{N_DRAWS}} + 3
    levels = torch.randint(n_levels, (5, n_pixels), generator=noise).double()
    u = torch.rand(n_draws, 5, n_pixels, generator=noise).double()
    density = lambda x: -1000 - 8 * (x - 0.4).square().sum(-1) - (x[..., 0] - x[..., 1]).abs()
    to_bits = lambda log_p: (-log_p + n_pixels * math.log(n_levels)) / (n_pixels * math.log(2))
    log_p = density((levels + u) / n_levels)
    single, many = log_p.mean(0), log_p.logsumexp(0) - math.log(n_draws)
    seen = bounded(dequantisation_bounds, levels, u, density, n_levels,
                   without=["course_lib.dequantisation.bits_per_dimension"])
    assert isinstance(seen, torch.Tensor), "expected one tensor (no list)"
    compare("the bounds", torch.zeros_like(seen), torch.zeros(2, 5))
    assert not torch.isinf(torch.as_tensor(seen)).any(), (
        "infinite: exp(−1000) is 0 in floating point; use logsumexp")
    compare("single draws, averaged", seen[0], to_bits(single), {
        "this is the log of the mean; here the mean of the logs is asked for": to_bits(many),
        "M is missing": to_bits(single) - math.log2(n_levels),
        "log M has the wrong sign: y is spread over a larger volume than x":
            to_bits(single) - 2 * math.log2(n_levels),
        "there are M levels, so x = (v + u)/M and not over M − 1":
            to_bits(density((levels + u) / (n_levels - 1)).mean(0)),
        "the noise is missing": to_bits(density(levels / n_levels)),
    }, rtol=1e-7, show=False)
    compare("all draws", seen[1], to_bits(many), {
        "this is the mean of the logs; the tighter bound is the log of the mean": to_bits(single),
        "the 1/K is missing": to_bits(log_p.logsumexp(0)),
    }, rtol=1e-7, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: forgets log₂ M
# earns: 0
# says: M is missing
def dequantisation_bounds(levels, noise, log_density, n_levels):
    log_p = log_density((levels + noise) / n_levels)
    bounds = torch.stack([log_p.mean(0), torch.logsumexp(log_p, 0) - math.log(len(noise))])
    return -bounds / (levels.shape[1] * math.log(2))

# %%
# wrong: treats dequantisation as a layer with a log-determinant as well
# earns: 0
# says: M is counted twice
def dequantisation_bounds(levels, noise, log_density, n_levels):
    log_p = log_density((levels + noise) / n_levels) - 2 * levels.shape[1] * math.log(n_levels)
    bounds = torch.stack([log_p.mean(0), torch.logsumexp(log_p, 0) - math.log(len(noise))])
    return -bounds / (levels.shape[1] * math.log(2))

# %%
# wrong: nats
# earns: 0
# says: these are nats
def dequantisation_bounds(levels, noise, log_density, n_levels):
    log_p = log_density((levels + noise) / n_levels)
    bounds = torch.stack([log_p.mean(0), torch.logsumexp(log_p, 0) - math.log(len(noise))])
    return -bounds / levels.shape[1] + math.log(n_levels)

# %%
# wrong: divides by M − 1
# earns: 2
# says: not over M − 1
def dequantisation_bounds(levels, noise, log_density, n_levels):
    log_p = log_density((levels + noise) / (n_levels - 1))
    bounds = torch.stack([log_p.mean(0), torch.logsumexp(log_p, 0) - math.log(len(noise))])
    return -bounds / (levels.shape[1] * math.log(2)) + math.log2(n_levels)

# %%
# wrong: the mean of the logs twice
# earns: 2
# says: the tighter bound is the log of the mean
def dequantisation_bounds(levels, noise, log_density, n_levels):
    log_p = log_density((levels + noise) / n_levels)
    bounds = torch.stack([log_p.mean(0), log_p.mean(0)])
    return -bounds / (levels.shape[1] * math.log(2)) + math.log2(n_levels)

# %%
# wrong: adds log M to the log-density
# earns: 0
# says: log M has the wrong sign
def dequantisation_bounds(levels, noise, log_density, n_levels):
    log_y = log_density((levels + noise) / n_levels) + levels.shape[1] * math.log(n_levels)
    bounds = torch.stack([log_y.mean(0), torch.logsumexp(log_y, 0) - math.log(len(noise))])
    return -bounds / (levels.shape[1] * math.log(2))

# %%
# wrong: the sum of the draws for their mean
# earns: 0
# says: the 1/K is missing
def dequantisation_bounds(levels, noise, log_density, n_levels):
    log_p = log_density((levels + noise) / n_levels)
    bounds = torch.stack([log_p.mean(0), torch.logsumexp(log_p, 0)])
    return -bounds / (levels.shape[1] * math.log(2)) + math.log2(n_levels)

# %%
# wrong: no noise
# earns: 2
# says: the noise is missing
def dequantisation_bounds(levels, noise, log_density, n_levels):
    log_p = log_density((levels + 0 * noise) / n_levels)
    bounds = torch.stack([log_p.mean(0), torch.logsumexp(log_p, 0) - math.log(len(noise))])
    return -bounds / (levels.shape[1] * math.log(2)) + math.log2(n_levels)

# %%
# wrong: exponentials that underflow
# earns: 4
# says: use logsumexp
def dequantisation_bounds(levels, noise, log_density, n_levels):
    log_p = log_density((levels + noise) / n_levels)
    bounds = torch.stack([log_p.mean(0), log_p.exp().mean(0).log()])
    return -bounds / (levels.shape[1] * math.log(2)) + math.log2(n_levels)

# %%
# wrong: calls the library
# earns: 0
# says: switched off
def dequantisation_bounds(levels, noise, log_density, n_levels):
    from course_lib.dequantisation import bits_per_dimension

    log_p = log_density((levels + noise) / n_levels)
    many = torch.logsumexp(log_p, 0) - math.log(len(noise))
    return bits_per_dimension(torch.stack([log_p.mean(0), many]), levels.shape[1], n_levels)

# %%
# wrong: returns the public test's numbers
# earns: 2
# says: expected the shape
def dequantisation_bounds(levels, noise, log_density, n_levels):
    return torch.tensor([{{SINGLE}}, {{MANY}}])

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: smoothing_gaps
# points: 10

# %% [markdown]
# ## 6. An experiment: a flow as a VAE (10 points, and 4 by hand)
#
# A flow on the line, $z=f(x)$, with $f'>0$ and inverse $g$, is made a VAE in two ways, both with the prior
# $\mathcal N(0,1)$ and the decoder $\mathcal N(x;\,g(z),\sigma^2)$:
#
# - **smoothed:** the encoder draws $z=f(x+\sigma\eta)$ with $\eta\sim\mathcal N(0,1)$;
# - **naive:** the encoder draws $z\sim\mathcal N(f(x),\sigma^2)$. (The chapter writes $\varepsilon$ and $\xi$
#   for this encoder's $\sigma$ and $\eta$.)
#
# You will measure how far below $\log p(x)$, the log-density of the flow, the two ELBOs are, and how that
# depends on $\sigma$. Write `smoothing_gaps(f, f_prime, g, x, widths)`: `f`, `f_prime` and `g` are
# functions that work elementwise on tensors, `x` has the shape `(N,)`, `widths` is a list of values of
# $\sigma$. Return a tensor of shape `(2, len(widths))`: the mean over $x$ of $\log p(x)-\mathcal
# L_\sigma(x)$ in nats, smoothed in the first row, naive in the second.
#
# The smoothed gap is as small as $10^{-7}$ nats: random draws would drown it. Compute expectations over
# $\eta$ with Gauss–Hermite quadrature. `numpy.polynomial.hermite.hermgauss(n)` gives nodes $t_k$ and
# weights $w_k$ such that $\int e^{-t^2}h(t)\,\mathrm dt\approx\sum_kw_kh(t_k)$. Mind the change of
# variables from $t$ to $\eta$! With $n=40$ the error is negligible. Not allowed: `course_lib`.

# %% [raw]
# # BEGIN SOLUTION

# %%
def smoothing_gaps(f, f_prime, g, x, widths):
    """Mean of log p(x) − ELBO in nats, shape (2, len(widths)): smoothed, naive."""
    # BEGIN SOLUTION
    nodes, weights = (torch.tensor(a)[:, None] for a in np.polynomial.hermite.hermgauss(40))
    eta, weights = math.sqrt(2) * nodes, weights / math.sqrt(math.pi)
    log_normal = lambda v, mean, std: (
        -0.5 * ((v - mean) / std) ** 2 - math.log(std) - 0.5 * math.log(2 * math.pi)
    )
    log_p = lambda v: log_normal(f(v), 0, 1) + f_prime(v).log()
    gaps = []
    for width in widths:
        smoothed = (weights * log_p(x + width * eta)).sum(0)
        z = f(x) + width * eta
        log_weight = log_normal(x, g(z), width) + log_normal(z, 0, 1) - log_normal(z, f(x), width)
        naive = (weights * log_weight).sum(0)
        gaps.append(torch.stack([(log_p(x) - smoothed).mean(), (log_p(x) - naive).mean()]))
    return torch.stack(gaps, 1)
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: the smoothed encoder
points: 2
""" # END TEST CONFIG
def test_smoothed(smoothing_gaps):
    import torch
    from course_lib.answer_checks import bounded, compare
    f = lambda v: torch.sinh({{DELTA}} * torch.asinh(v) + {{SKEW}})
    f_prime = lambda v: {{DELTA}} * torch.cosh({{DELTA}} * torch.asinh(v) + {{SKEW}}) / (1 + v**2).sqrt()
    g = lambda v: torch.sinh((torch.asinh(v) - {{SKEW}}) / {{DELTA}})
    seen = bounded(smoothing_gaps, f, f_prime, g, torch.linspace(-1.5, 1.5, 41).double(), {{WIDTHS}})
    assert isinstance(seen, torch.Tensor), "expected one tensor (no list); not answered yet?"
    compare("the gaps", torch.zeros_like(seen), torch.zeros(2, 3))
    right, node, at_x, flipped, total, root, heavy, bare = torch.tensor({{SMOOTHED}}, dtype=torch.float64)
    compare("the smoothed gaps", seen[0], right, {
        "η is not the node: the rule is for exp(−t²), not for a normal density": node,
        "the determinant belongs at x + ση, where the encoder evaluates f, not at x": at_x,
        "the sign is flipped: log p(x) − ELBO is positive here": flipped,
        "summed over x; the mean is asked for": total,
        "the noise is σ η with standard deviation σ, not √σ": root,
        "the weights of the rule do not add up to 1; those of an expectation do": heavy,
        "the weights do not add up to 1, as those of an expectation do": bare,
    }, rtol=1e-3, atol=1e-9)

# %%
""" # BEGIN TEST CONFIG
name: the naive encoder
points: 2
""" # END TEST CONFIG
def test_naive(smoothing_gaps):
    import torch
    from course_lib.answer_checks import bounded, compare
    f = lambda v: torch.sinh({{DELTA}} * torch.asinh(v) + {{SKEW}})
    f_prime = lambda v: {{DELTA}} * torch.cosh({{DELTA}} * torch.asinh(v) + {{SKEW}}) / (1 + v**2).sqrt()
    g = lambda v: torch.sinh((torch.asinh(v) - {{SKEW}}) / {{DELTA}})
    seen = bounded(smoothing_gaps, f, f_prime, g, torch.linspace(-1.5, 1.5, 41).double(), {{WIDTHS}})
    assert isinstance(seen, torch.Tensor), "expected one tensor (no list); not answered yet?"
    compare("the gaps", torch.zeros_like(seen), torch.zeros(2, 3))
    right, smoothed, flipped, node, no_q, heavy, bare = torch.tensor({{NAIVE}}, dtype=torch.float64)
    compare("the naive gaps", seen[1], right, {
        "the encoder's density is missing from the ELBO": no_q,
        "the weights of the rule do not add up to 1; those of an expectation do": heavy,
        "the weights do not add up to 1, as those of an expectation do": bare,
        "these are the gaps of the smoothed encoder": smoothed,
        "the sign is flipped": flipped,
        "η is not the node: the rule is for exp(−t²), not for a normal density": node,
    }, rtol=1e-3, atol=1e-9)

# %%
""" # BEGIN TEST CONFIG
name: another flow, smoothed
points: 3
hidden: true
""" # END TEST CONFIG
def test_other_smoothed(smoothing_gaps):
    import torch
    from course_lib.answer_checks import bounded, compare
    f = lambda v: torch.asinh(2 * v) + {{SKEW}}
    f_prime = lambda v: 2 / (1 + 4 * v**2).sqrt()
    g = lambda v: 0.5 * torch.sinh(v - {{SKEW}})
    x = torch.linspace(-0.3, 0.3, 21).double()
    v = x.clone().requires_grad_()
    def rate_of(function):
        slope = torch.autograd.grad(function(v).sum(), v, create_graph=True)[0]
        return -0.5 * torch.autograd.grad(slope.sum(), v)[0].mean()
    rate, no_det = rate_of(lambda v: -0.5 * f(v) ** 2 + f_prime(v).log()), rate_of(lambda v: -0.5 * f(v) ** 2)
    widths = [0.001, 0.002, 0.004]
    seen = bounded(smoothing_gaps, f, f_prime, g, x, widths)
    assert isinstance(seen, torch.Tensor), "expected one tensor (no list)"
    compare("the gaps", torch.zeros_like(seen), torch.zeros(2, 3))
    smooth = seen[0].detach() / torch.tensor(widths).double() ** 2
    flat = torch.ones(3).double()
    compare("smoothed gap over σ²", smooth, rate * flat, {
        "half of the expected value: η is not the node, since the rule is for exp(−t²)": rate / 2 * flat,
        "the determinant belongs at x + ση, where the encoder evaluates f, not at x": no_det * flat,
        "the sign is flipped: log p(x) − ELBO is positive here": -rate * flat,
    }, rtol=0.05, show=False)

# %%
""" # BEGIN TEST CONFIG
name: another flow, naive
points: 3
hidden: true
""" # END TEST CONFIG
def test_other_naive(smoothing_gaps):
    import math
    import torch
    from course_lib.answer_checks import bounded, compare
    f = lambda v: torch.asinh(2 * v) + {{SKEW}}
    f_prime = lambda v: 2 / (1 + 4 * v**2).sqrt()
    g = lambda v: 0.5 * torch.sinh(v - {{SKEW}})
    x = torch.linspace(-0.3, 0.3, 21).double()
    stretch = 1 / f_prime(x)
    level = (0.5 * (stretch**2 - 1) - stretch.log()).mean() * torch.ones(3).double()
    seen = bounded(smoothing_gaps, f, f_prime, g, x, [0.001, 0.002, 0.004])
    assert isinstance(seen, torch.Tensor), "expected one tensor (no list)"
    compare("the gaps", torch.zeros_like(seen), torch.zeros(2, 3))
    compare("naive gap for small σ", seen[1], level, {
        "this gap vanishes: is it that of the smoothed encoder?":
            seen[1].detach() if abs(float(seen[1, 0])) < 1e-3 else float("nan") * level,
        "the encoder's density is missing from the ELBO":
            level + 0.5 + 0.5 * math.log(2 * math.pi) + torch.tensor([0.001, 0.002, 0.004]).double().log(),
    }, rtol=0.02, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: nodes of exp(−t²) taken for nodes of a standard normal
# earns: 0
# says: η is not the node
def smoothing_gaps(f, f_prime, g, x, widths):
    eta, weights = (torch.tensor(a)[:, None] for a in np.polynomial.hermite.hermgauss(40))
    weights = weights / math.sqrt(math.pi)
    log_p = lambda v: -0.5 * f(v) ** 2 + f_prime(v).log()
    gaps = []
    for s in widths:
        z = f(x) + s * eta
        naive = (weights * (-0.5 * ((x - g(z)) / s) ** 2 - 0.5 * z**2 + 0.5 * eta**2)).sum(0)
        gaps.append([(log_p(x) - (weights * log_p(x + s * eta)).sum(0)).mean(), (log_p(x) - naive).mean()])
    return torch.tensor(gaps).double().T

# %%
# wrong: the determinant at x, not where the encoder evaluates f
# earns: 5
# says: where the encoder evaluates f
def smoothing_gaps(f, f_prime, g, x, widths):
    nodes, weights = (torch.tensor(a)[:, None] for a in np.polynomial.hermite.hermgauss(40))
    eta, weights = math.sqrt(2) * nodes, weights / math.sqrt(math.pi)
    gaps = []
    for s in widths:
        smooth = (weights * (-0.5 * f(x + s * eta) ** 2)).sum(0) + f_prime(x).log()
        z = f(x) + s * eta
        naive = (weights * (-0.5 * ((x - g(z)) / s) ** 2 - 0.5 * z**2 + 0.5 * eta**2)).sum(0)
        log_p = -0.5 * f(x) ** 2 + f_prime(x).log()
        gaps.append(torch.stack([(log_p - smooth).mean(), (log_p - naive).mean()]))
    return torch.stack(gaps, 1)

# %%
# wrong: takes the smoothed encoder twice
# earns: 5
# says: of the smoothed encoder
def smoothing_gaps(f, f_prime, g, x, widths):
    nodes, weights = (torch.tensor(a)[:, None] for a in np.polynomial.hermite.hermgauss(40))
    eta, weights = math.sqrt(2) * nodes, weights / math.sqrt(math.pi)
    log_p = lambda v: -0.5 * f(v) ** 2 + f_prime(v).log()
    gap = torch.stack([(log_p(x) - (weights * log_p(x + s * eta)).sum(0)).mean() for s in widths])
    return torch.stack([gap, gap])

# %%
# wrong: ELBO minus log p
# earns: 0
# says: sign is flipped
def smoothing_gaps(f, f_prime, g, x, widths):
    nodes, weights = (torch.tensor(a)[:, None] for a in np.polynomial.hermite.hermgauss(40))
    eta, weights = math.sqrt(2) * nodes, weights / math.sqrt(math.pi)
    log_p = lambda v: -0.5 * f(v) ** 2 + f_prime(v).log()
    gaps = []
    for s in widths:
        z = f(x) + s * eta
        naive = (weights * (-0.5 * ((x - g(z)) / s) ** 2 - 0.5 * z**2 + 0.5 * eta**2)).sum(0)
        smooth = (weights * log_p(x + s * eta)).sum(0)
        gaps.append(torch.stack([(smooth - log_p(x)).mean(), (naive - log_p(x)).mean()]))
    return torch.stack(gaps, 1)

# %%
# wrong: weights that do not add up to 1
# earns: 0
# says: do not add up to 1
def smoothing_gaps(f, f_prime, g, x, widths):
    nodes, weights = (torch.tensor(a)[:, None] for a in np.polynomial.hermite.hermgauss(40))
    eta = math.sqrt(2) * nodes
    constant = -0.5 * math.log(2 * math.pi)
    log_p = lambda v: -0.5 * f(v) ** 2 + f_prime(v).log() + constant
    gaps = []
    for s in widths:
        z = f(x) + s * eta
        naive = (weights * (-0.5 * ((x - g(z)) / s) ** 2 - 0.5 * z**2 + 0.5 * eta**2 + constant)).sum(0)
        smooth = (weights * log_p(x + s * eta)).sum(0)
        gaps.append(torch.stack([(log_p(x) - smooth).mean(), (log_p(x) - naive).mean()]))
    return torch.stack(gaps, 1)

# %%
# wrong: the naive ELBO without the encoder's density
# earns: 5
# says: density is missing from the ELBO
def smoothing_gaps(f, f_prime, g, x, widths):
    nodes, weights = (torch.tensor(a)[:, None] for a in np.polynomial.hermite.hermgauss(40))
    eta, weights = math.sqrt(2) * nodes, weights / math.sqrt(math.pi)
    log_p = lambda v: -0.5 * f(v) ** 2 + f_prime(v).log()
    gaps = []
    for s in widths:
        z = f(x) + s * eta
        log_decoder = -0.5 * ((x - g(z)) / s) ** 2 - math.log(s * math.sqrt(2 * math.pi))
        naive = (weights * (log_decoder - 0.5 * z**2)).sum(0)
        smooth = (weights * log_p(x + s * eta)).sum(0)
        gaps.append(torch.stack([(log_p(x) - smooth).mean(), (log_p(x) - naive).mean()]))
    return torch.stack(gaps, 1)

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: smoothing_comment
# points: 4
# manual: true

# %% [markdown]
# **6, continued: what you saw (4 points, by hand).** In the code cell plot both gaps against $\sigma$ from
# 0.001 to 1, on logarithmic axes, for $f(x)=\sinh({{DELTA}}\operatorname{arsinh}x+{{SKEW}})$ and 41 values of
# $x$ evenly spread over $[-1.5,1.5]$. Answer in 80 to 250 words.
#
# (i) How does each gap behave as $\sigma\to0$: like which power, or with which limit? *(1 point)*
#
# (ii) Which of the two bounds becomes tight, and what about its encoder makes the difference? *(½ point)*
#
# (iii) For which flows $f$ on the line would both bounds become tight? *(½ point)*
#
# (iv) A friend says: "Then I train my VAE with the smoothed bound and a *large* $\sigma$. It is a lower
# bound on the flow's $\log p(x)$ anyway." Your picture does not contradict this. Look for a counterexample
# with another flow: an $x$ where $\log p$ is convex, as between two modes. Give $f$, $x$, $\sigma$ and the
# gap that your function finds there. What *is* this ELBO a lower bound of? *(2 points)*

# %% [raw]
# # BEGIN SOLUTION

# %% [markdown]
# (i) The smoothed gap falls like $\sigma^2$: a straight line with slope 2. The naive gap tends to a
# constant that is not zero: slope 0.
#
# (ii) The smoothed bound becomes tight. Its encoder sends the noise through $f$, so near $f(x)$ its
# standard deviation is $\sigma f'(x)$, and this is that of the exact posterior, because the decoder inverts
# $f$. The naive encoder has the standard deviation $\sigma$ at every $x$. The KL between two Gaussians with
# the same mean depends on the ratio of the widths only, here $\frac12(g'^2-1-\ln g'^2)$, and no $\sigma$
# changes the ratio.
#
# (iii) Where that is zero for all $x$: $f'=1$, so $f(x)=x+c$, a shift. (A decreasing flow could also
# reflect.)
#
# (iv) No. Take $f=\operatorname{arsinh}$ at $x=5$: there $\log
# p(x)=-\frac12\operatorname{arsinh}^2x-\frac12\ln 2\pi(1+x^2)$ is convex, as in any heavy tail. For
# $\sigma=1$ the smoothed gap is $-0.043$ nats: the ELBO lies *above* $\log p(x)$, by about
# $\frac{\sigma^2}2(\log p)''(x)$. Between two modes, $f(x)=x^3+x/10$ at $x=0$, it is so, too. It is a lower
# bound on the evidence of the *smoothed* model, $\log p_\sigma(x)$ with $p_\sigma(x)=\mathbb
# E[p(x+\sigma\eta)]$, a different density; a large $\sigma$ trains a blurred one.

# %%
# BEGIN SOLUTION
import matplotlib.pyplot as plt

x = torch.linspace(-1.5, 1.5, 41).double()
widths = np.geomspace(1e-3, 1, 13).tolist()
smoothed, naive = smoothing_gaps(
    lambda v: torch.sinh({{DELTA}} * torch.asinh(v) + {{SKEW}}),
    lambda v: {{DELTA}} * torch.cosh({{DELTA}} * torch.asinh(v) + {{SKEW}}) / (1 + v**2).sqrt(),
    lambda v: torch.sinh((torch.asinh(v) - {{SKEW}}) / {{DELTA}}),
    x,
    widths,
)
plt.loglog(widths, smoothed, "o-", label="smoothed")
plt.loglog(widths, naive, "s-", label="naive")
plt.xlabel("noise σ")
plt.ylabel("log p(x) − ELBO (nats)")
plt.legend()
plt.show()
tail = torch.tensor([5.0]).double()
print(smoothing_gaps(torch.asinh, lambda v: 1 / (1 + v**2).sqrt(), torch.sinh, tail, [1.0])[0])
# END SOLUTION

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN RUBRIC

# %% [markdown]
# (i) 1, with a plot on logarithmic axes as a condition. (ii) ½. (iii) ½. (iv) 2: a flow with $f'>0$ and a
# point where $\log p$ is convex, with a reason (½), a negative gap, computed (1), and the smoothed density
# (½). An argument with $\frac{\sigma^2}2(\log p)''$ at a named flow and point, without a run, earns ½ of
# the 1.
#
# Typical wrong answers:
#
# - "Both fall, one more slowly": (i) earns 0; the plot contradicts it.
# - (i) the naive gap "falls with a small power": it has a limit. Half a point.
# - (ii) "the naive encoder adds noise in the latent space", with no word on the width $\sigma f'$: a quarter
#   of a point.
# - (iii) "affine flows": 0, since $f'=2$ keeps a gap. "The identity" only, without shifts: a quarter.
# - (iv) "yes, an ELBO is always a lower bound": 0. "No", with the right density but no place where it
#   fails: half a point. A "flow" that is not monotone, as $x^2$: no point for the gap.
# - A comment that fits a plot that is itself wrong: up to 2 points in all.

# %% [raw]
# # END RUBRIC

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: adjoint_equations
# points: 10
# manual: true

# %% [markdown]
# ## 7. The adjoint when the way costs something (10 points, by hand)
#
# The chapter's loss looks at states. Let it also charge for every moment of the way:
#
# $$ \begin{aligned}
#    L&=\ell(\mathbf z(t_1))+\int_{t_0}^{t_1}c_\theta(\mathbf z(t))\,\mathrm dt,\\
#    \dot{\mathbf z}&=\mathbf v_\theta(\mathbf z),\quad\mathbf z(t_0)=\mathbf z_0,
#    \end{aligned} $$
#
# with smooth $\ell$, $c_\theta$ and $\mathbf v_\theta$. Neither $\ell$ nor $\mathbf z_0$ depends on
# $\theta$. Below, derivatives of $c_\theta$ and $\mathbf v_\theta$ are taken at $\mathbf z(t)$. (Kinetic
# energy, $c=\frac\lambda2\lVert\mathbf v_\theta\rVert^2$, is an example.)
#
# (a) *5 points.* State the differential equation and the final value of the adjoint $\mathbf a(t)$, and prove
#
# $$ \begin{aligned}
#    \nabla_{\mathbf z_0}L&=\mathbf a(t_0),\\
#    \nabla_\theta L&=\int_{t_0}^{t_1}\Bigl[
#    \Bigl(\frac{\partial\mathbf v_\theta}{\partial\theta}\Bigr)^{\!\top}\mathbf a
#    +\nabla_\theta c_\theta\Bigr]\mathrm dt .
#    \end{aligned} $$
#
# (b) *2 points.* Show that $\mathcal H=\mathbf a^\top\mathbf v_\theta(\mathbf z)+c_\theta(\mathbf z)$ does
# not change along the way, and that $\partial L/\partial t_1=\mathcal H$.
#
# (c) *3 points.* One dimension: $v=\theta z$, $c=\frac\lambda2z^2$, $\ell(z)=kz$, $t_0=0$, $t_1=1$. Find
# $a(t)$ in closed form. Then compute $\partial L/\partial z_0$ and $\partial L/\partial\theta$ with four
# digits after the point for $\theta={{THETA}}$, $\lambda={{PRICE}}$, $k={{SLOPE}}$, $z_0={{START}}$, and
# check both against $L$ itself, which has a closed form.

# %% [raw]
# # BEGIN SOLUTION

# %% [markdown]
# Write $\mathbf J=\partial\mathbf v_\theta/\partial\mathbf z$ and
# $\mathbf V=\partial\mathbf v_\theta/\partial\theta$ along the solution.
#
# **(a)** The adjoint solves
#
# $$ \dot{\mathbf a}=-\mathbf J^\top\mathbf a-\nabla_{\mathbf z}c_\theta,
#    \qquad\mathbf a(t_1)=\nabla\ell(\mathbf z(t_1)). $$
#
# Change $\mathbf z_0$ to $\mathbf z_0+\varepsilon\mathbf u$ and $\theta$ to
# $\theta+\varepsilon\boldsymbol\eta$, and let $\boldsymbol\delta=\mathrm d\mathbf z/\mathrm d\varepsilon$
# at $\varepsilon=0$. It obeys $\dot{\boldsymbol\delta}=\mathbf J\boldsymbol\delta+\mathbf
# V\boldsymbol\eta$, $\boldsymbol\delta(t_0)=\mathbf u$. Then
#
# $$ \begin{aligned}
#    \frac{\mathrm d}{\mathrm dt}(\mathbf a^\top\boldsymbol\delta)
#    ={}&-\mathbf a^\top\mathbf J\boldsymbol\delta-(\nabla_{\mathbf z}c)^\top\boldsymbol\delta\\
#    &+\mathbf a^\top\mathbf J\boldsymbol\delta+\mathbf a^\top\mathbf V\boldsymbol\eta\\
#    ={}&\mathbf a^\top\mathbf V\boldsymbol\eta-(\nabla_{\mathbf z}c)^\top\boldsymbol\delta .
#    \end{aligned} $$
#
# Integrate over $[t_0,t_1]$ and move the last term to the left:
#
# $$ \begin{aligned}
#    &\nabla\ell^\top\boldsymbol\delta(t_1)+\int(\nabla_{\mathbf z}c)^\top\boldsymbol\delta\,\mathrm dt\\
#    &\quad=\mathbf a(t_0)^\top\mathbf u+\int\mathbf a^\top\mathbf V\,\mathrm dt\;\boldsymbol\eta .
#    \end{aligned} $$
#
# By the chain rule $\mathrm dL/\mathrm d\varepsilon$ is the left side plus $\int(\nabla_\theta c)^\top\mathrm
# dt\,\boldsymbol\eta$, so
# $\mathrm dL/\mathrm d\varepsilon=\mathbf a(t_0)^\top\mathbf u
#  +\int[\mathbf V^\top\mathbf a+\nabla_\theta c]^\top\mathrm dt\,\boldsymbol\eta$ for all $\mathbf u$ and
# $\boldsymbol\eta$. That is the claim.
#
# **(b)** $\dot{\mathcal H}=\dot{\mathbf a}^\top\mathbf v+\mathbf a^\top\mathbf J\mathbf v+(\nabla_{\mathbf
# z}c)^\top\mathbf v =\bigl(\dot{\mathbf a}+\mathbf J^\top\mathbf a+\nabla_{\mathbf z}c\bigr)^\top\mathbf
# v=0$. A later end adds $\nabla\ell^\top\dot{\mathbf z}(t_1)$ to the first part of $L$ and $c(\mathbf
# z(t_1))$ to the second: $\partial L/\partial t_1=\mathbf a(t_1)^\top\mathbf v+c=\mathcal H(t_1)$.
#
# **(c)** $z=z_0e^{\theta t}$, and $\dot a=-\theta a-\lambda z$, $a(1)=k$, has the solution
#
# $$ \begin{aligned}
#    a(t)&=k\,e^{\theta(1-t)}+\lambda\int_t^1e^{\theta(s-t)}z(s)\,\mathrm ds\\
#    &=k\,e^{\theta(1-t)}+\frac{\lambda z_0}{2\theta}\bigl(e^{\theta(2-t)}-e^{\theta t}\bigr).
#    \end{aligned} $$
#
# So $\partial L/\partial z_0=a(0)=ke^\theta+\frac{\lambda z_0}{2\theta}(e^{2\theta}-1)={{BY_START}}$. With
# $\partial v/\partial\theta=z$ and no $\theta$ in $c$, $\partial L/\partial\theta=\int_0^1a\,z\,\mathrm dt
# =kz_0e^\theta+\frac{\lambda
# z_0^2}{2\theta}\bigl(e^{2\theta}-\frac{e^{2\theta}-1}{2\theta}\bigr)={{BY_THETA}}$. And
# $L=kz_0e^\theta+\frac{\lambda z_0^2}{4\theta}(e^{2\theta}-1)$ has these derivatives.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN RUBRIC

# %% [markdown]
# (a) 5: adjoint equation with the source $-\nabla_{\mathbf z}c$ (1), final value (1), variational equation
# (1), derivative of $\mathbf a^\top\boldsymbol\delta$ and its integral (1), both gradients read off with
# $\nabla_\theta c$ (1). A Lagrangian with $\mathbf a$ as multiplier and integration by parts, or a limit of
# Euler steps, earns the same; a limit without saying which limits are exchanged loses 1. Or: $\int c$ as an
# additional state $\dot s=c$ whose adjoint is 1, and the chapter's theorem: full points. (b) 2: one for
# each. (c) 3: $a(t)$ (1), {{BY_START}} (½), {{BY_THETA}} (1), check (½).
#
# Typical wrong answers:
#
# - Source with a plus, $\dot{\mathbf a}=-\mathbf J^\top\mathbf a+\nabla_{\mathbf z}c$: (a) loses 1 for the
#   equation and 1 for the integral; (c) with this error consistently carried on earns 1.
# - $\mathbf J\mathbf a$ in place of $\mathbf J^\top\mathbf a$: (a) loses 1; invisible in (c).
# - $\mathbf a(t_1)=\nabla\ell+\nabla c$, as if the running cost made a jump: (a) loses 1.
# - $\nabla_\theta c$ forgotten in $\nabla_\theta L$: (a) loses 1. Only $\int\nabla_\theta c$, the way
#   through $\mathbf z$ forgotten: loses 2.
# - (b) $\partial L/\partial t_1=\mathbf a^\top\mathbf v$, without $c$: earns 1 of 2.
# - (c) $z$ replaced by $z_0$ in the integral: earns 0 for {{BY_THETA}}.

# %% [raw]
# # END RUBRIC

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: adjoint_gradients
# points: 10

# %% [markdown]
# ## 8. The adjoint at work (10 points)
#
# Take the field $\mathbf v(\mathbf z)=\tanh(\mathbf W\mathbf z+\mathbf b)$, times from 0 to 1, and
#
# $$ \begin{aligned}
#    L={}&\tfrac12\lVert\mathbf z(1)-\mathbf y\rVert^2\\
#    &+\frac\lambda2\int_0^1\lVert\mathbf v(\mathbf z(t))\rVert^2\,\mathrm dt .
#    \end{aligned} $$
#
# Write `adjoint_gradients(weight, bias, z0, target, price, n_steps)` for $\mathbf W$ of shape `(D, D)`,
# $\mathbf b$, $\mathbf z_0$ and $\mathbf y$ of shape `(D,)`, and the number $\lambda$. Solve forwards with
# the classical Runge–Kutta method of fourth order in `n_steps` equal steps, and then $\mathbf z$, $\mathbf
# a$ and the two parameter gradients backwards together, in as many steps. Keep no state of the forward
# solve but the last. Return $\nabla_{\mathbf z_0}L$, $\nabla_{\mathbf W}L$, $\nabla_{\mathbf b}L$, of
# shapes `(D,)`, `(D, D)`, `(D,)`. The tests ask for three digits with 25 steps, where Euler's method does
# not reach them.
#
# Write the products with the Jacobians as formulas, without automatic differentiation of any kind:
# `backward`, `torch.autograd.grad`, `torch.autograd.functional` and the derivatives of `torch.func` are
# switched off while you are tested, and so is `course_lib.neural_ode.solve`. For yourself: compare with
# `backward()` through your own solver.

# %% [raw]
# # BEGIN SOLUTION

# %%
def adjoint_gradients(weight, bias, z0, target, price, n_steps):
    """∂L/∂z0 (D,), ∂L/∂W (D, D) and ∂L/∂b (D,) by solving the adjoint equations backwards."""
    # BEGIN SOLUTION
    def rk4(field, state, h):
        add = lambda k, c: [s + c * h * ks for s, ks in zip(state, k)]
        k1 = field(state)
        k2 = field(add(k1, 0.5))
        k3 = field(add(k2, 0.5))
        k4 = field(add(k3, 1.0))
        return [s + h / 6 * (a + 2 * b + 2 * c + d) for s, a, b, c, d in zip(state, k1, k2, k3, k4)]

    def augmented(state):
        z, a = state[:2]
        v = torch.tanh(weight @ z + bias)
        # one vector collects both ways to the loss: aᵀ∂v and λ vᵀ∂v
        pulled = (1 - v**2) * (a + price * v)
        return [v, -weight.T @ pulled, -torch.outer(pulled, z), -pulled]

    state = [z0]
    for _ in range(n_steps):
        state = rk4(lambda s: [torch.tanh(weight @ s[0] + bias)], state, 1 / n_steps)
    state = [state[0], state[0] - target, torch.zeros_like(weight), torch.zeros_like(bias)]
    for _ in range(n_steps):
        state = rk4(augmented, state, -1 / n_steps)
    return tuple(state[1:])
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: without a running cost
points: 3
""" # END TEST CONFIG
def test_free(adjoint_gradients):
    import torch
    from course_lib.answer_checks import bounded, compare
    W, b, z0, y, by_W, by_b = (torch.tensor(t, dtype=torch.float64)
                               for t in [*{{ODE}}, {{BY_WEIGHT}}, {{BY_BIAS}}])
    by_z0, still, jacobian, matrix, linear, against = torch.tensor({{BY_STATE}}, dtype=torch.float64)
    off = ["torch.autograd.grad", "torch.autograd.backward", "torch.Tensor.backward",
           "torch.autograd.forward_ad.make_dual", "course_lib.neural_ode.solve"]
    off += ["torch.func." + name for name in
            ("grad", "grad_and_value", "vjp", "jvp", "jacrev", "jacfwd", "hessian")]
    off += ["torch.autograd.functional." + name for name in
            ("vjp", "jvp", "jacobian", "hessian", "vhp", "hvp")]
    seen = bounded(adjoint_gradients, W, b, z0, y, 0.0, 25, without=off)
    assert isinstance(seen, (tuple, list)) and len(seen) == 3, "expected three tensors; not answered yet?"
    compare("∂L/∂z0", seen[0], by_z0, {
        "the sign is flipped: L rises along its gradient": -by_z0,
        "this is twice the expected value: mind the ½ in L": 2 * by_z0,
        "a does not move: it must be solved together with z": still,
        "the Jacobian must be transposed, and the transpose of a product turns it round": jacobian,
        "W is not transposed": matrix,
        "the derivative of tanh is missing": linear,
        "the adjoint has the wrong sign in time": against,
    }, rtol=1e-3, atol=1e-5)
    for name, gradient, right in zip(("∂L/∂W", "∂L/∂b"), seen[1:], (by_W, by_b)):
        compare(name, gradient, right, {
            "the sign is flipped: the integral runs from the later time to the earlier": -right,
            "transposed: entry (i, j) belongs to W[i, j]":
                right.T if right.dim() == 2 else float("nan") * right,
        }, rtol=1e-3, atol=1e-5)

# %%
""" # BEGIN TEST CONFIG
name: with a running cost
points: 1
""" # END TEST CONFIG
def test_cost(adjoint_gradients):
    import torch
    from course_lib.answer_checks import bounded, compare
    W, b, z0, y = (torch.tensor(t, dtype=torch.float64) for t in {{ODE}})
    values = [torch.tensor(t, dtype=torch.float64) for t in ({{COST_STATE}}, {{COST_WEIGHT}}, {{COST_BIAS}})]
    off = ["torch.autograd.grad", "torch.autograd.backward", "torch.Tensor.backward",
           "torch.autograd.forward_ad.make_dual", "course_lib.neural_ode.solve"]
    off += ["torch.func." + name for name in
            ("grad", "grad_and_value", "vjp", "jvp", "jacrev", "jacfwd", "hessian")]
    off += ["torch.autograd.functional." + name for name in
            ("vjp", "jvp", "jacobian", "hessian", "vhp", "hvp")]
    seen = bounded(adjoint_gradients, W, b, z0, y, {{PRICE}}, 25, without=off)
    assert isinstance(seen, (tuple, list)) and len(seen) == 3, "expected three tensors; not answered yet?"
    right, missing, minus, double, free = values[0]
    compare("∂L/∂z0", seen[0], right, {
        "the running cost is missing": missing,
        "the running cost has the wrong sign": minus,
        "the running cost is counted twice: mind the ½": double,
        "the running cost needs its price λ": free,
    }, rtol=1e-3, atol=1e-5)
    for name, gradient, (right, missing, indirect, direct) in zip(("∂L/∂W", "∂L/∂b"), seen[1:], values[1:]):
        compare(name, gradient, right, {
            "the running cost is missing": missing,
            "the running cost also depends on W and b directly: ∇θ c is missing": indirect,
            "the path changes with W and b, too: only ∇θ c is counted": direct,
        }, rtol=1e-3, atol=1e-5)

# %%
""" # BEGIN TEST CONFIG
name: with a running cost, other numbers
points: 6
hidden: true
""" # END TEST CONFIG
def test_price(adjoint_gradients):
    import torch
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 2)
    n = {{D_ODE}} + 1
    W = 1.2 * torch.randn(n, n, generator=noise).double()
    b, z0, y = torch.tensor([[0.4], [0.7], [2.0]]).double() * torch.randn(3, n, generator=noise).double()
    leaves = [t.clone().requires_grad_() for t in (z0, W, b)]
    def solve(z, W, b, free):
        """The end and the energy; where not free, the energy does not feel W and b directly."""
        def velocity(z):
            v = torch.tanh(W @ z[:-1] + b)
            w = v if free else torch.tanh(W.detach() @ z[:-1] + b.detach())
            return torch.cat([v, 0.5 * w.square().sum()[None]])
        z, h = torch.cat([z, z.new_zeros(1)]), 1 / 25
        for _ in range(25):
            k1 = velocity(z)
            k2 = velocity(z + h / 2 * k1)
            k3 = velocity(z + h / 2 * k2)
            z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + velocity(z + h * k3))
        return z[:-1], z[-1]
    end, energy = solve(*leaves, True)
    fit = torch.autograd.grad(0.5 * (end - y).square().sum(), leaves, retain_graph=True)
    way = torch.autograd.grad(energy, leaves)
    indirect = torch.autograd.grad(solve(*leaves, False)[1], leaves)
    price = {{PRICE}} + 1
    def wrong(jacobian, n=100, euler=False):
        """The adjoint at 0 with some product in place of Jᵀ(a + λv), by the midpoint rule."""
        def slopes(z, a):
            v = torch.tanh(W @ z + b)
            return v, -jacobian(1 - v**2, a + price * v)
        z = z0 if euler else end.detach()
        for _ in range(n if euler else 0):
            z = z + torch.tanh(W @ z + b) / n
        a = z - y
        for _ in range(n):
            dz, da = slopes(z, a)
            if not euler:
                dz, da = slopes(z - dz / (2 * n), a - da / (2 * n))
            z, a = z - dz / n, a - da / n
        return a
    off = ["torch.autograd.grad", "torch.autograd.backward", "torch.Tensor.backward",
           "torch.autograd.forward_ad.make_dual", "course_lib.neural_ode.solve"]
    off += ["torch.func." + name for name in
            ("grad", "grad_and_value", "vjp", "jvp", "jacrev", "jacfwd", "hessian")]
    off += ["torch.autograd.functional." + name for name in
            ("vjp", "jvp", "jacobian", "hessian", "vhp", "hvp")]
    seen = bounded(adjoint_gradients, W, b, z0, y, {{PRICE}} + 1, 25, without=off)
    assert isinstance(seen, (tuple, list)) and len(seen) == 3, "expected three tensors"
    truth = fit[0] + price * way[0]
    first = seen[0] if isinstance(seen[0], torch.Tensor) and seen[0].shape == z0.shape else float("nan") * z0
    def near(value, rtol=0.02):
        """The answer itself, if it is near this value; else nothing that could be equal to it."""
        close = torch.allclose(first.detach().to(value), value, rtol, rtol / 5 * float(truth.abs().max()))
        return first if close else float("nan") * value
    exact = torch.allclose(first.detach().to(z0), truth, 1e-3, 1e-5)
    by_name = {} if exact else {
        "this has the accuracy of Euler's method; take that of fourth order":
            near(wrong(lambda d, a: W.T @ (d * a), 25, euler=True), 1e-3),
        "the Jacobian must be transposed, and the transpose of a product turns it round":
            near(wrong(lambda d, a: d * (W @ a))),
        "W is not transposed": near(wrong(lambda d, a: W @ (d * a))),
        "the derivative of tanh is missing": near(wrong(lambda d, a: W.T @ a)),
        "the adjoint has the wrong sign in time: ȧ = −Jᵀa": near(wrong(lambda d, a: -W.T @ (d * a))),
    }
    for name, gradient, f, w, i in zip(("∂L/∂z0", "∂L/∂W", "∂L/∂b"), seen, fit, way, indirect):
        right = f + ({{PRICE}} + 1) * w
        compare(name, gradient, right, {
            "the running cost is missing": f,
            "the running cost has the wrong sign": f - ({{PRICE}} + 1) * w,
            "the running cost is counted twice: mind the ½": f + 2 * ({{PRICE}} + 1) * w,
            "the running cost needs its price λ": f + w,
            "the sign is flipped: the integral runs from the later time to the earlier": -right,
            "transposed: entry (i, j) belongs to W[i, j]":
                right.T if right.dim() == 2 else float("nan") * right,
            "the running cost also depends on W and b directly: ∇θ c is missing": f + ({{PRICE}} + 1) * i,
            "the path changes with W and b, too: only ∇θ c is counted": f + ({{PRICE}} + 1) * (w - i),
            **(by_name if name == "∂L/∂z0" else {}),
        }, rtol=1e-3, atol=1e-5, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: the sign of the parameter gradient
# earns: 0
# says: from the later time to the earlier
def adjoint_gradients(weight, bias, z0, target, price, n_steps):
    def step(field, state, h):
        move = lambda k, c: [s + c * h * ks for s, ks in zip(state, k)]
        k1 = field(state)
        k2 = field(move(k1, 0.5))
        k3 = field(move(k2, 0.5))
        k4 = field(move(k3, 1))
        return [s + h / 6 * (a + 2 * b + 2 * c + d) for s, a, b, c, d in zip(state, k1, k2, k3, k4)]

    def augmented(state):
        v = torch.tanh(weight @ state[0] + bias)
        pulled = (1 - v**2) * (state[1] + price * v)
        return [v, -weight.T @ pulled, torch.outer(pulled, state[0]), pulled]

    state = [z0]
    for _ in range(n_steps):
        state = step(lambda s: [torch.tanh(weight @ s[0] + bias)], state, 1 / n_steps)
    state = [state[0], state[0] - target, torch.zeros_like(weight), torch.zeros_like(bias)]
    for _ in range(n_steps):
        state = step(augmented, state, -1 / n_steps)
    return tuple(state[1:])

# %%
# wrong: the Jacobian is not transposed
# earns: 0
# says: the Jacobian must be transposed
def adjoint_gradients(weight, bias, z0, target, price, n_steps):
    def step(field, state, h):
        move = lambda k, c: [s + c * h * ks for s, ks in zip(state, k)]
        k1 = field(state)
        k2 = field(move(k1, 0.5))
        k3 = field(move(k2, 0.5))
        k4 = field(move(k3, 1))
        return [s + h / 6 * (a + 2 * b + 2 * c + d) for s, a, b, c, d in zip(state, k1, k2, k3, k4)]

    def augmented(state):
        v = torch.tanh(weight @ state[0] + bias)
        pulled = (1 - v**2) * (state[1] + price * v)
        return [v, -(1 - v**2) * (weight @ (state[1] + price * v)), -torch.outer(pulled, state[0]), -pulled]

    state = [z0]
    for _ in range(n_steps):
        state = step(lambda s: [torch.tanh(weight @ s[0] + bias)], state, 1 / n_steps)
    state = [state[0], state[0] - target, torch.zeros_like(weight), torch.zeros_like(bias)]
    for _ in range(n_steps):
        state = step(augmented, state, -1 / n_steps)
    return tuple(state[1:])

# %%
# wrong: forgets the running cost
# earns: 3
# says: running cost is missing
def adjoint_gradients(weight, bias, z0, target, price, n_steps):
    def step(field, state, h):
        move = lambda k, c: [s + c * h * ks for s, ks in zip(state, k)]
        k1 = field(state)
        k2 = field(move(k1, 0.5))
        k3 = field(move(k2, 0.5))
        k4 = field(move(k3, 1))
        return [s + h / 6 * (a + 2 * b + 2 * c + d) for s, a, b, c, d in zip(state, k1, k2, k3, k4)]

    def augmented(state):
        v = torch.tanh(weight @ state[0] + bias)
        pulled = (1 - v**2) * state[1]
        return [v, -weight.T @ pulled, -torch.outer(pulled, state[0]), -pulled]

    state = [z0]
    for _ in range(n_steps):
        state = step(lambda s: [torch.tanh(weight @ s[0] + bias)], state, 1 / n_steps)
    state = [state[0], state[0] - target, torch.zeros_like(weight), torch.zeros_like(bias)]
    for _ in range(n_steps):
        state = step(augmented, state, -1 / n_steps)
    return tuple(state[1:])

# %%
# wrong: the running cost reaches the adjoint, but not the parameters directly
# earns: 3
# says: ∇θ c is missing
def adjoint_gradients(weight, bias, z0, target, price, n_steps):
    def step(field, state, h):
        move = lambda k, c: [s + c * h * ks for s, ks in zip(state, k)]
        k1 = field(state)
        k2 = field(move(k1, 0.5))
        k3 = field(move(k2, 0.5))
        k4 = field(move(k3, 1))
        return [s + h / 6 * (a + 2 * b + 2 * c + d) for s, a, b, c, d in zip(state, k1, k2, k3, k4)]

    def augmented(state):
        v = torch.tanh(weight @ state[0] + bias)
        pulled = (1 - v**2) * state[1]
        return [v, -weight.T @ ((1 - v**2) * (state[1] + price * v)), -torch.outer(pulled, state[0]), -pulled]

    state = [z0]
    for _ in range(n_steps):
        state = step(lambda s: [torch.tanh(weight @ s[0] + bias)], state, 1 / n_steps)
    state = [state[0], state[0] - target, torch.zeros_like(weight), torch.zeros_like(bias)]
    for _ in range(n_steps):
        state = step(augmented, state, -1 / n_steps)
    return tuple(state[1:])

# %%
# wrong: the sign of the adjoint equation
# earns: 0
# says: wrong sign in time
def adjoint_gradients(weight, bias, z0, target, price, n_steps):
    def step(field, state, h):
        move = lambda k, c: [s + c * h * ks for s, ks in zip(state, k)]
        k1 = field(state)
        k2 = field(move(k1, 0.5))
        k3 = field(move(k2, 0.5))
        k4 = field(move(k3, 1))
        return [s + h / 6 * (a + 2 * b + 2 * c + d) for s, a, b, c, d in zip(state, k1, k2, k3, k4)]

    def augmented(state):
        v = torch.tanh(weight @ state[0] + bias)
        pulled = (1 - v**2) * (state[1] + price * v)
        return [v, weight.T @ pulled, -torch.outer(pulled, state[0]), -pulled]

    state = [z0]
    for _ in range(n_steps):
        state = step(lambda s: [torch.tanh(weight @ s[0] + bias)], state, 1 / n_steps)
    state = [state[0], state[0] - target, torch.zeros_like(weight), torch.zeros_like(bias)]
    for _ in range(n_steps):
        state = step(augmented, state, -1 / n_steps)
    return tuple(state[1:])

# %%
# wrong: the derivative of tanh is forgotten
# earns: 0
# says: the derivative of tanh is missing
def adjoint_gradients(weight, bias, z0, target, price, n_steps):
    def step(field, state, h):
        move = lambda k, c: [s + c * h * ks for s, ks in zip(state, k)]
        k1 = field(state)
        k2 = field(move(k1, 0.5))
        k3 = field(move(k2, 0.5))
        k4 = field(move(k3, 1))
        return [s + h / 6 * (a + 2 * b + 2 * c + d) for s, a, b, c, d in zip(state, k1, k2, k3, k4)]

    def augmented(state):
        v = torch.tanh(weight @ state[0] + bias)
        pulled = state[1] + price * v
        return [v, -weight.T @ pulled, -torch.outer(pulled, state[0]), -pulled]

    state = [z0]
    for _ in range(n_steps):
        state = step(lambda s: [torch.tanh(weight @ s[0] + bias)], state, 1 / n_steps)
    state = [state[0], state[0] - target, torch.zeros_like(weight), torch.zeros_like(bias)]
    for _ in range(n_steps):
        state = step(augmented, state, -1 / n_steps)
    return tuple(state[1:])

# %%
# wrong: Euler's method
# earns: 0
# says: accuracy of Euler's method
def adjoint_gradients(weight, bias, z0, target, price, n_steps):
    z = z0
    for _ in range(n_steps):
        z = z + torch.tanh(weight @ z + bias) / n_steps
    a, by_weight, by_bias = z - target, torch.zeros_like(weight), torch.zeros_like(bias)
    for _ in range(n_steps):
        v = torch.tanh(weight @ z + bias)
        pulled = (1 - v**2) * (a + price * v) / n_steps
        by_weight, by_bias = by_weight + torch.outer(pulled, z), by_bias + pulled
        a, z = a + weight.T @ pulled, z - v / n_steps
    return a, by_weight, by_bias

# %%
# wrong: back-propagates through the solver
# earns: 0
# says: switched off
def adjoint_gradients(weight, bias, z0, target, price, n_steps):
    leaves = [t.clone().requires_grad_() for t in (z0, weight, bias)]
    z, energy = leaves[0], 0
    for _ in range(20 * n_steps):
        v = torch.tanh(leaves[1] @ z + leaves[2])
        z, energy = z + v / n_steps / 20, energy + 0.5 * v.square().sum() / n_steps / 20
    loss = 0.5 * (z - target).square().sum() + price * energy
    return torch.autograd.grad(loss, leaves)

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: cnf_log_prob
# points: 12

# %% [markdown]
# ## 9. A density that is carried along (12 points)
#
# A velocity field `field(t, z)` takes a time, a scalar tensor, and a state of shape `(B, D)`, and returns
# the velocity, shape `(B, D)`, with autograd's graph to `z`. Each row's velocity depends on that row only.
# The data sit at $t=0$, the base $\mathcal N(\mathbf 0,\mathbf I)$ at $t=1$.
#
# Write `cnf_log_prob(field, x, n_steps, probes=None)`: $\log p(\mathbf x)$ in nats, shape `(B,)`. Solve for
# the state and the log-determinant *together*, by the classical Runge–Kutta method of fourth order in
# `n_steps` equal steps. With `probes=None` use the exact trace. With `probes` of shape `(K, B, D)` use
# Hutchinson's estimate, averaged over the $K$ probes, which stay the same during the whole solve.
# `torch.autograd` is allowed here; the result need not carry a graph. Not allowed:
# `course_lib.continuous_flow` and `course_lib.neural_ode`.

# %% [raw]
# # BEGIN SOLUTION

# %%
def cnf_log_prob(field, x, n_steps, probes=None):
    """log p(x) in nats, shape (B,): data at t = 0, standard normal at t = 1."""
    # BEGIN SOLUTION
    if probes is None:
        directions, weight = torch.eye(x.shape[1]).to(x)[:, None].expand(-1, *x.shape), 1.0
    else:
        directions, weight = probes, 1 / len(probes)

    def both(t, z):
        z = z.detach().requires_grad_()
        v = field(t, z)
        trace = z.new_zeros(len(z))
        for e in directions:
            (pulled,) = torch.autograd.grad(v, z, e, retain_graph=True)
            trace = trace + weight * (pulled * e).sum(1)
        return v.detach(), trace

    h, z, log_det = 1 / n_steps, x, x.new_zeros(len(x))
    for k in range(n_steps):
        t = torch.tensor(k * h).to(x)
        v1, d1 = both(t, z)
        v2, d2 = both(t + h / 2, z + h / 2 * v1)
        v3, d3 = both(t + h / 2, z + h / 2 * v2)
        v4, d4 = both(t + h, z + h * v3)
        z = z + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
        log_det = log_det + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi) + log_det
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: a linear field, exact trace
points: 2
""" # END TEST CONFIG
def test_linear(cnf_log_prob):
    import torch
    from course_lib.answer_checks import bounded, compare
    A, x = (torch.tensor(t, dtype=torch.float64) for t in ({{FIELD}}, {{FIELD_X}}))
    v = x.clone().requires_grad_()
    torch.autograd.grad(v, v, x)  # the first such call imports much: not on the student's time
    seen = bounded(cnf_log_prob, lambda t, z: z @ A.T, x, 10, without=[
        "course_lib.continuous_flow.exact_divergence", "course_lib.neural_ode.solve"])
    right, minus, base, trace, constant, at_x, backwards, entries = torch.tensor(
        {{FIELD_LOG_P}}, dtype=torch.float64)
    compare("log p(x)", seen, right, {
        "the trace has the wrong sign: from data to base the integral is added": minus,
        "the trace is missing": base,
        "the base density is missing": trace,
        "the constant −D/2 log 2π is missing": constant,
        "the base belongs at z(1), not at x": at_x,
        "this runs from t = 1 to 0; the data sit at t = 0": backwards,
        "this is the sum of all entries of the Jacobian; the trace is that of the diagonal": entries,
    })

# %%
""" # BEGIN TEST CONFIG
name: a linear field, Hutchinson
points: 2
""" # END TEST CONFIG
def test_hutchinson(cnf_log_prob):
    import torch
    from course_lib.answer_checks import bounded, compare
    A, x = (torch.tensor(t, dtype=torch.float64) for t in ({{FIELD}}, {{FIELD_X}}))
    v = x.clone().requires_grad_()
    torch.autograd.grad(v, v, x)  # the first such call imports much: not on the student's time
    probes = torch.tensor({{PROBES}}, dtype=torch.float64)
    seen = bounded(cnf_log_prob, lambda t, z: z @ A.T, x, 10, probes, without=[
        "course_lib.continuous_flow.hutchinson_divergence", "course_lib.neural_ode.solve"])
    right, minus, exact, total, first, mean_probe, product, by_d, batch = torch.tensor(
        {{PROBED_LOG_P}}, dtype=torch.float64)
    compare("log p(x) with probes", seen, right, {
        "the trace has the wrong sign: from data to base the integral is added": minus,
        "the probes are not used: this is the exact trace": exact,
        "summed over the probes; the mean is asked for": total,
        "only the first probe is used": first,
        "averaging the probes first is not the average of their estimates": mean_probe,
        "one product with the probe is missing": product,
        "divided by D: the mean is over the probes only": by_d,
        "averaged over the batch, too": batch,
    })

# %%
""" # BEGIN TEST CONFIG
name: a field that depends on time
points: 1
""" # END TEST CONFIG
def test_clock(cnf_log_prob):
    import torch
    from course_lib.answer_checks import bounded, compare
    A, x = (torch.tensor(t, dtype=torch.float64) for t in ({{FIELD}}, {{FIELD_X}}))
    v = x.clone().requires_grad_()
    torch.autograd.grad(v, v, x)  # the first such call imports much: not on the student's time
    seen = bounded(cnf_log_prob, lambda t, z: (0.2 + t) * (z @ A.T), x, 10, without=[
        "course_lib.continuous_flow.exact_divergence", "course_lib.neural_ode.solve"])
    right, stopped, coarse, start = torch.tensor({{CLOCK_LOG_P}}, dtype=torch.float64)
    compare("log p(x), where the field is (0.2 + t) Az", seen, right, {
        "the clock stands still: the field is always asked at t = 0": stopped,
        "within a step the clock stands still; the stages have times of their own": coarse,
        "the trace is taken at the start only; it changes along the way": start,
    })

# %%
""" # BEGIN TEST CONFIG
name: a field that bends and depends on time
points: 4
hidden: true
""" # END TEST CONFIG
def test_network(cnf_log_prob):
    import math
    import torch
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 3)
    A, B = 0.8 * torch.randn(2, {{D_CNF}}, {{D_CNF}}, generator=noise).double()
    c = torch.randn({{D_CNF}}, generator=noise).double()
    x = torch.randn(4, {{D_CNF}}, generator=noise).double()
    field = lambda t, z: torch.tanh(z @ A.T + 3 * t * c) @ B.T
    def end(z, n=20, clock=1.0):
        h = 1 / n
        for k in range(n):
            t = clock * k * h
            k1 = field(t, z)
            k2 = field(t + clock * h / 2, z + h / 2 * k1)
            k3 = field(t + clock * h / 2, z + h / 2 * k2)
            z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + field(t + clock * h, z + h * k3))
        return z
    log_normal = lambda z: -0.5 * z.square().sum(1) - {{D_CNF}} / 2 * math.log(2 * math.pi)
    def density(clock):
        start = x.clone().requires_grad_()
        z = end(start, clock=clock)
        rows = [torch.autograd.grad(z[:, i].sum(), start, retain_graph=True)[0] for i in range({{D_CNF}})]
        return log_normal(z.detach()), torch.linalg.slogdet(torch.stack(rows, 1))[1]
    base, log_det = density(1.0)
    stopped = sum(density(0.0))
    seen = bounded(cnf_log_prob, field, x, 20, without=[
        "course_lib.continuous_flow.exact_divergence", "course_lib.neural_ode.solve"])
    v = x.clone().requires_grad_()
    diagonal = [torch.autograd.grad(field(0.0, v)[:, i].sum(), v)[0][:, i] for i in range({{D_CNF}})]
    compare("log p(x)", seen, base + log_det, {
        "the trace has the wrong sign: from data to base the integral is added": base - log_det,
        "the clock stands still: the field is always asked at t = 0": stopped,
        "the trace is taken at the start only; it changes along the way": base + sum(diagonal),
    }, rtol=1e-3, atol=1e-3, show=False)

# %%
""" # BEGIN TEST CONFIG
name: a field that bends, Hutchinson
points: 3
hidden: true
""" # END TEST CONFIG
def test_network_probes(cnf_log_prob):
    import math
    import torch
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 4)
    A, B = 0.8 * torch.randn(2, {{D_CNF}}, {{D_CNF}}, generator=noise).double()
    x = torch.randn(4, {{D_CNF}}, generator=noise).double()
    probes = torch.randn({{N_PROBES}} + 1, 4, {{D_CNF}}, generator=noise).double()
    eye = torch.eye({{D_CNF}}).double()[:, None].expand(-1, 4, -1)
    def density(directions, weight, n=20):
        """The state beside each direction's eᵀJe, by the classical Runge–Kutta method."""
        def both(t, z):
            h = torch.tanh(z @ A.T + 2 * t)
            return h @ B.T, weight * ((directions @ B) * (1 - h**2) * (directions @ A.T)).sum((0, 2))
        z, log_det, step = x, 0, 1 / n
        for t in range(n):
            v1, d1 = both(t * step, z)
            v2, d2 = both((t + 0.5) * step, z + step / 2 * v1)
            v3, d3 = both((t + 0.5) * step, z + step / 2 * v2)
            v4, d4 = both((t + 1) * step, z + step * v3)
            z = z + step / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
            log_det = log_det + step / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
        return -0.5 * z.square().sum(1) - {{D_CNF}} / 2 * math.log(2 * math.pi) + log_det
    seen = bounded(cnf_log_prob, lambda t, z: torch.tanh(z @ A.T + 2 * t) @ B.T, x, 20, probes, without=[
        "course_lib.continuous_flow.hutchinson_divergence", "course_lib.neural_ode.solve"])
    compare("log p(x) with probes", seen, density(probes, 1 / len(probes)), {
        "the probes are not used: this is the exact trace": density(eye, 1.0),
        "summed over the probes; the mean is asked for": density(probes, 1.0),
        "only the first probe is used": density(probes[:1], 1.0),
        "averaging the probes first is not the average of their estimates":
            density(probes.mean(0, keepdim=True), 1.0),
    }, rtol=1e-3, atol=1e-3, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: subtracts the trace
# earns: 0
# says: wrong sign
def cnf_log_prob(field, x, n_steps, probes=None):
    es = torch.eye(x.shape[1]).to(x)[:, None].expand(-1, *x.shape) if probes is None else probes
    w = 1.0 if probes is None else 1 / len(probes)

    def both(t, z):
        z = z.detach().requires_grad_()
        v = field(t, z)
        pulled = [torch.autograd.grad(v, z, e, retain_graph=True)[0] for e in es]
        return v.detach(), w * sum((p * e).sum(1) for p, e in zip(pulled, es))

    h, z, log_det = 1 / n_steps, x, 0
    for k in range(n_steps):
        t = torch.tensor(k * h).to(x)
        v1, d1 = both(t, z)
        v2, d2 = both(t + h / 2, z + h / 2 * v1)
        v3, d3 = both(t + h / 2, z + h / 2 * v2)
        v4, d4 = both(t + h, z + h * v3)
        z = z + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
        log_det = log_det - h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi) + log_det

# %%
# wrong: sums all entries of the Jacobian
# earns: 5
# says: sum of all entries
def cnf_log_prob(field, x, n_steps, probes=None):
    def both(t, z):
        z = z.detach().requires_grad_()
        v = field(t, z)
        if probes is None:
            return v.detach(), torch.autograd.grad(v.sum(), z)[0].sum(1)
        es = probes
        forms = [(torch.autograd.grad(v, z, e, retain_graph=True)[0] * e).sum(1) for e in es]
        return v.detach(), sum(forms) / len(es)

    h, z, log_det = 1 / n_steps, x, 0
    for k in range(n_steps):
        t = torch.tensor(k * h).to(x)
        v1, d1 = both(t, z)
        v2, d2 = both(t + h / 2, z + h / 2 * v1)
        v3, d3 = both(t + h / 2, z + h / 2 * v2)
        v4, d4 = both(t + h, z + h * v3)
        z = z + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
        log_det = log_det + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi) + log_det

# %%
# wrong: averages the probes before it uses them
# earns: 7
# says: averaging the probes first
def cnf_log_prob(field, x, n_steps, probes=None):
    es = torch.eye(x.shape[1]).to(x)[:, None].expand(-1, *x.shape) if probes is None else [probes.mean(0)]

    def both(t, z):
        z = z.detach().requires_grad_()
        v = field(t, z)
        return v.detach(), sum((torch.autograd.grad(v, z, e, retain_graph=True)[0] * e).sum(1) for e in es)

    h, z, log_det = 1 / n_steps, x, 0
    for k in range(n_steps):
        t = torch.tensor(k * h).to(x)
        v1, d1 = both(t, z)
        v2, d2 = both(t + h / 2, z + h / 2 * v1)
        v3, d3 = both(t + h / 2, z + h / 2 * v2)
        v4, d4 = both(t + h, z + h * v3)
        z = z + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
        log_det = log_det + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi) + log_det

# %%
# wrong: never uses the probes
# earns: 7
# says: this is the exact trace
def cnf_log_prob(field, x, n_steps, probes=None):
    es = torch.eye(x.shape[1]).to(x)[:, None].expand(-1, *x.shape)

    def both(t, z):
        z = z.detach().requires_grad_()
        v = field(t, z)
        return v.detach(), sum((torch.autograd.grad(v, z, e, retain_graph=True)[0] * e).sum(1) for e in es)

    h, z, log_det = 1 / n_steps, x, 0
    for k in range(n_steps):
        t = torch.tensor(k * h).to(x)
        v1, d1 = both(t, z)
        v2, d2 = both(t + h / 2, z + h / 2 * v1)
        v3, d3 = both(t + h / 2, z + h / 2 * v2)
        v4, d4 = both(t + h, z + h * v3)
        z = z + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
        log_det = log_det + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi) + log_det

# %%
# wrong: the clock stands still
# earns: 4
# says: clock stands still
def cnf_log_prob(field, x, n_steps, probes=None):
    es = torch.eye(x.shape[1]).to(x)[:, None].expand(-1, *x.shape) if probes is None else probes
    w = 1.0 if probes is None else 1 / len(probes)

    def both(z):
        z = z.detach().requires_grad_()
        v = field(torch.tensor(0.0).to(x), z)
        pulled = [torch.autograd.grad(v, z, e, retain_graph=True)[0] for e in es]
        return v.detach(), w * sum((p * e).sum(1) for p, e in zip(pulled, es))

    h, z, log_det = 1 / n_steps, x, 0
    for _ in range(n_steps):
        v1, d1 = both(z)
        v2, d2 = both(z + h / 2 * v1)
        v3, d3 = both(z + h / 2 * v2)
        v4, d4 = both(z + h * v3)
        z = z + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
        log_det = log_det + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi) + log_det

# %%
# wrong: the clock stands still within a step
# earns: 4
# says: the stages have times of their own
def cnf_log_prob(field, x, n_steps, probes=None):
    es = torch.eye(x.shape[1]).to(x)[:, None].expand(-1, *x.shape) if probes is None else probes
    w = 1.0 if probes is None else 1 / len(probes)

    def both(t, z):
        z = z.detach().requires_grad_()
        v = field(t, z)
        pulled = [torch.autograd.grad(v, z, e, retain_graph=True)[0] for e in es]
        return v.detach(), w * sum((p * e).sum(1) for p, e in zip(pulled, es))

    h, z, log_det = 1 / n_steps, x, 0
    for k in range(n_steps):
        t = torch.tensor(k * h).to(x)
        v1, d1 = both(t, z)
        v2, d2 = both(t, z + h / 2 * v1)
        v3, d3 = both(t, z + h / 2 * v2)
        v4, d4 = both(t, z + h * v3)
        z = z + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
        log_det = log_det + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi) + log_det

# %%
# wrong: integrates from base to data
# earns: 0
# says: the data sit at t = 0
def cnf_log_prob(field, x, n_steps, probes=None):
    es = torch.eye(x.shape[1]).to(x)[:, None].expand(-1, *x.shape) if probes is None else probes
    w = 1.0 if probes is None else 1 / len(probes)

    def both(t, z):
        z = z.detach().requires_grad_()
        v = field(t, z)
        pulled = [torch.autograd.grad(v, z, e, retain_graph=True)[0] for e in es]
        return v.detach(), w * sum((p * e).sum(1) for p, e in zip(pulled, es))

    h, z, log_det = -1 / n_steps, x, 0
    for k in range(n_steps):
        t = torch.tensor(1 + k * h).to(x)
        v1, d1 = both(t, z)
        v2, d2 = both(t + h / 2, z + h / 2 * v1)
        v3, d3 = both(t + h / 2, z + h / 2 * v2)
        v4, d4 = both(t + h, z + h * v3)
        z = z + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
        log_det = log_det + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi) + log_det

# %%
# wrong: calls the library
# earns: 0
# says: switched off
def cnf_log_prob(field, x, n_steps, probes=None):
    from course_lib.continuous_flow import ContinuousFlow

    class Field(torch.nn.Module):
        def forward(self, t, z):
            return field(t, z)

    z, log_det = ContinuousFlow(Field()).forward_and_log_det(x)
    return -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi) + log_det

# %%
# wrong: returns the public test's numbers
# earns: 2
# says: expected the shape
def cnf_log_prob(field, x, n_steps, probes=None):
    return torch.tensor({{FIELD_LOG_P}}[0])

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION
