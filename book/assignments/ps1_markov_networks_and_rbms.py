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
# The pipeline provides rng.
import math

import torch
from torch.nn import functional as F

from course_lib import annealed_importance_sampling as ais
from course_lib.rbm import RBM

SEED = int(rng.integers(10_000))
LABELS = rng.permutation(7).tolist()
SHAPE = [[(0, 1), (0, 2), (2, 3), (2, 4, 5), (4, 5, 6)], [(0, 1), (1, 2, 3), (2, 3, 4), (4, 5), (4, 6)]][
    int(rng.integers(2))
]
CLIQUES = [tuple(sorted((LABELS[i] for i in clique), reverse=True)) for clique in SHAPE]
OBSERVED = {LABELS[1]: 1, LABELS[6]: 0}
ORDER = rng.permutation(7).tolist()
FIRST_TABLE = rng.integers(1, 10, (2, 3)).tolist()
SECOND_TABLE = rng.integers(1, 10, (3, 2)).tolist()
STATE = int(rng.integers(3))
COUPLING = float(rng.choice([0.8, 0.9, 1.0]))
PARITY = ["even", "odd"][int(rng.integers(2))]
TOP = int(rng.integers(3, 6))
N_VISIBLE = int(rng.integers(4, 7))
N_HIDDEN = int(rng.integers(3, 5))
N_STEPS = int(rng.integers(2, 5))
N_CHAINS = int(rng.integers(8, 12))
SPREAD = float(rng.choice([1.5, 1.6, 1.7]))
LEAVES = float(rng.choice([0.03, 0.04, 0.05]))


# What public tests compare with stands in them as numbers: their files reach the students, formulas do not.
def drawn(*shape):
    """Normal numbers with two decimals."""
    return torch.from_numpy(rng.normal(size=shape)).mul(100).round() / 100


def numbers(*tensors):
    """The right value first, then those of the mistakes."""
    return [torch.as_tensor(value).tolist() for value in tensors]


# log_probability: a chain of three.
a, b = torch.tensor(FIRST_TABLE).double(), torch.tensor(SECOND_TABLE).double()
weight, top = a.sum(0) * b.sum(1), a.amax(0) * b.amax(1)
right = (weight / weight.sum()).log()[STATE]
CHAIN_VALUES = numbers(
    right,
    weight.log()[STATE],
    -right,
    right.exp(),
    (a.sum(0) / a.sum()).log()[STATE],
    (b.sum(1) / b.sum()).log()[STATE],
    (top / top.max()).log()[STATE],
)

# gibbs_matrix: two bits.
log_p = drawn(2, 2)
p = log_p.exp() / log_p.exp().sum()
rows, columns = p / p.sum(1, keepdim=True), p / p.sum(0)
pairs = [(0, 0), (0, 1), (1, 0), (1, 1)]


def matrix_of(entry):
    return torch.tensor([[float(entry(*s, *t)) for t in pairs] for s in pairs], dtype=torch.float64)


first = matrix_of(lambda a, b, c, d: columns[c, b] * (d == b))
second = matrix_of(lambda a, b, c, d: rows[a, d] * (c == a))
TWO_BITS = log_p.tolist()
TWO_BITS_VALUES = numbers(
    first @ second,
    (first @ second).T,
    second @ first,
    (first + second) / 2,
    matrix_of(lambda a, b, c, d: columns[c, b] * rows[a, d]),
    (p.sum(1)[:, None] * p.sum(0)).flatten().expand(4, 4),
    p.flatten().expand(4, 4),
    (first @ second)[[0, 2, 1, 3]][:, [0, 2, 1, 3]],
)

# mixing_sweeps: two states, left with the probabilities LEAVES and 0.01.
transition = torch.tensor([[1 - LEAVES, LEAVES], [0.01, 0.99]], dtype=torch.float64)
stationary = torch.tensor([0.01, LEAVES], dtype=torch.float64) / (0.01 + LEAVES)


def sweeps_until(distance, epsilon):
    t = 1
    while distance((torch.linalg.matrix_power(transition, t) - stationary).abs().sum(1) / 2) > epsilon:
        t += 1
    return float(t)


TWO_STATES, STATIONARY = numbers(transition, stationary)
MIXING_VALUES = [
    sweeps_until(torch.max, 0.05),
    sweeps_until(torch.max, 0.025),
    sweeps_until(torch.mean, 0.05),
    sweeps_until(torch.min, 0.05),
]

# free_energy: without weights.
bias, level = -N_VISIBLE * (N_VISIBLE + 1) / 2, math.log(TOP + 1)
FREE_VALUES = [
    bias - N_HIDDEN * level,
    N_HIDDEN * level - bias,
    bias,
    bias - N_HIDDEN * math.log(2),
    bias - N_HIDDEN * TOP * math.log(2),
    bias - N_HIDDEN * math.log(TOP),
    bias - level,
]
c = drawn(N_HIDDEN)


def mean_of(levels):
    return (c[:, None] * levels).softmax(-1) @ levels


HIDDEN_BIAS = c.tolist()
MEAN_VALUES = numbers(
    mean_of(torch.arange(TOP + 1).double()),
    c.sigmoid(),
    TOP * c.sigmoid(),
    mean_of(torch.arange(1, TOP + 1).double()),
    mean_of(torch.arange(TOP).double()),
    TOP * (c > 0).double(),
)
w, a, b = drawn(N_VISIBLE, N_HIDDEN), drawn(N_VISIBLE), drawn(N_HIDDEN)
v = (drawn(3, N_VISIBLE) > 0).double()
MACHINE = numbers(w, a, b, v)


def energy_of(inputs, levels):
    return -v @ a - (inputs[..., None] * levels).logsumexp(-1).sum(-1)


levels = torch.arange(TOP + 1).double()
inputs = v @ w + b
variants = [inputs, b.expand_as(inputs), b - v @ w, v @ w]
MACHINE_ENERGIES = numbers(
    *(energy_of(x, levels) for x in variants),
    -v @ a - F.softplus(inputs).sum(-1),
    -v @ a - TOP * F.softplus(inputs).sum(-1),
    energy_of(inputs, levels[:-1]),
)
MACHINE_MEANS = numbers(
    *((x[..., None] * levels).softmax(-1) @ levels for x in variants),
    inputs.sigmoid(),
    TOP * inputs.sigmoid(),
)

# pcd_loss: chains that stand still, and chains that move.
w, b, c = drawn(N_VISIBLE, N_HIDDEN), drawn(N_VISIBLE), drawn(N_HIDDEN)
v, chains, starts = (drawn(6, N_VISIBLE) > 0).double(), (drawn(N_CHAINS, N_VISIBLE) > 0).double(), (
    drawn(N_CHAINS, N_VISIBLE).abs().clamp(max=1)
)
PCD_THETA, PCD_DATA, PCD_CHAINS, PCD_STARTS = numbers(w, b, c), v.tolist(), chains.tolist(), starts.tolist()


def phases(x):
    h = (x @ w + c).sigmoid()
    return torch.cat([(x.T @ h).flatten(), x.sum(0), h.sum(0)])


def moved(x, n):
    for _ in range(n):
        x = x.roll(1, -1) / 2 + (b + (c + x @ w).sigmoid() @ w.T).sigmoid() / 2
    return x


data, model = phases(v), phases(chains)
right = model / len(chains) - data / len(v)
PCD_VALUES = numbers(
    right,
    -right,
    -data / len(v),
    -model / len(chains) - data / len(v),
    model - data,
    (model - data) / len(v),
    right / N_VISIBLE,
)
MOVED_VALUES = numbers(
    moved(starts, N_STEPS), moved(chains, N_STEPS), moved(starts, 1), moved(starts, N_STEPS + 1)
)

# annealing: steps that are not random, and a bracket.
w, a, b = drawn(N_VISIBLE, N_HIDDEN), drawn(N_VISIBLE), drawn(N_HIDDEN)
v = (drawn(N_CHAINS, N_VISIBLE) > 0).double()
PATH = [0.0, 0.3, 0.55, 1.0]
AIS_THETA, AIS_STARTS = numbers(w, a, b), v.tolist()


def log_f(v, beta):
    return beta * (v @ a) + F.softplus(beta * (v @ w + b)).sum(-1)


def step(v, beta):
    return (beta * (v.roll(1, -1) @ w @ w.T + a) + v.roll(1, -1) + 0.3).sin()


def walk(before=None, after=None, path=PATH):
    """Weights with a step at the old (0) or the new (1) temperature, before or after each ratio."""
    x, total = v, torch.zeros(len(v), dtype=torch.float64)
    for pair in zip(path[:-1], path[1:], strict=True):
        x = x if before is None else step(x, pair[before])
        total = total + log_f(x, pair[1]) - log_f(x, pair[0])
        x = x if after is None else step(x, pair[after])
    return total


right = walk(after=1)
AIS_VALUES = numbers(right, walk(before=0), walk(before=1), walk(after=0), -right, right.exp(), walk())
BACK = PATH[::-1]
REVERSE_VALUES = numbers(
    walk(before=0, path=BACK),
    walk(after=1, path=BACK),
    walk(after=0, path=BACK),
    walk(before=1, path=BACK),
    -walk(before=0, path=BACK),
    right,
    walk(before=0, path=BACK).exp(),
    walk(path=BACK),
)
forward, reverse = 1200 + drawn(N_CHAINS), -1202 + drawn(N_CHAINS + 3)
FORWARD, REVERSE = numbers(forward, reverse)


def log_mean(x):
    return float(x.logsumexp(0)) - math.log(len(x))


low, high = 3.7 + log_mean(forward), 3.7 - log_mean(reverse)
BRACKETS = [
    [low, high],
    [3.7 + float(forward.mean()), 3.7 - float(reverse.mean())],
    [low - 3.7, high - 3.7],
    [3.7 + float(forward.logsumexp(0)), 3.7 - float(reverse.logsumexp(0))],
    [low, 3.7 + log_mean(reverse)],
    [high, low],
    [low, 3.7 + log_mean(-reverse)],
]

# annealing_loss: a power law, and two machines.
k = torch.tensor([4.0, 10.0, 32.0, 50.0], dtype=torch.float64)
losses = torch.stack([5 * k**-0.6, 2 * k**-1.7]) * (1 + 0.1 * drawn(2, 4).abs())


def line(x, y):
    return (y * (x - x.mean())).sum(-1) / (x - x.mean()).square().sum()


POWER_LAW = losses.tolist()
SLOPES = numbers(
    line(k.log(), losses.log()),
    line(k, losses),
    line(k.log(), losses),
    line(k, losses.log()),
    line(k.log10(), losses.log()),
    (losses[:, -1] / losses[:, 0]).log() / (k[-1] / k[0]).log(),
    -line(k.log(), losses.log()),
)


def measured(weight, visible_bias, hidden_bias, chains=2000):
    """log Z0, losses and their standard errors (of a difference of two runs), for 4 and 12 temperatures."""
    noise = torch.Generator().manual_seed(SEED)
    machine = RBM(*weight.shape).double().requires_grad_(False)
    machine.weight.copy_(weight)
    machine.visible_bias.copy_(visible_bias)
    machine.hidden_bias.copy_(hidden_bias)
    log_z0 = float(F.softplus(machine.visible_bias).sum()) + len(hidden_bias) * math.log(2)
    ratio, columns, errors = float(machine.log_partition()) - log_z0, [], []
    for n_temperatures in (4, 12):
        plan, start = ais.linear_schedule(n_temperatures), machine.sample_exact(chains, noise)
        ahead = ais.annealed_importance_sampling(machine, plan, chains, generator=noise).log_weights
        back = ais.reverse_annealed_importance_sampling(machine, start, plan, generator=noise).log_weights
        columns.append([ratio - float(ahead.mean()), -ratio - float(back.mean())])
        errors.append([float(log_w.std()) * math.sqrt(2 / chains) for log_w in (ahead, back)])
    return log_z0, torch.tensor(columns).T.tolist(), torch.tensor(errors).T.tolist()


rough = [2.5 * drawn(6, 5), drawn(6) - 1, torch.zeros(5)]
w = 1.5 + 0.5 * drawn(6, 5)
valleys = [w, -0.5 * w.sum(1) - 0.3, -0.5 * w.sum(0) - 0.3]
ROUGH, VALLEYS = numbers(*rough), numbers(*valleys)
ROUGH_BASE, ROUGH_LOSSES, ROUGH_ERRORS = measured(*rough)
VALLEYS_BASE, VALLEYS_LOSSES, VALLEYS_ERRORS = measured(*valleys)

# %% [markdown]
# # Problem set 1: Markov networks and restricted Boltzmann machines
#
# **Effort.** 8 to 10 hours: about 3 for the two derivations, 5 for the code, 1 for the experiment and its
# comment.
#
# **You need** chapter 1, *Markov networks* (factors, elimination, Hammersley–Clifford, Gibbs sampling) and
# chapter 2, *Restricted Boltzmann machines* (free energy, the two phases of the gradient, contrastive
# divergence, annealed importance sampling).
#
# **Data and machine.** No data set. All machines here are so small that the truth can be enumerated. The
# whole notebook runs in less than two minutes on one core of a laptop, and in a free Colab session.
#
# **Points.** There are 100. The cell below each code question runs its *public* tests; a failed test says
# what it saw. *Hidden* tests with other numbers run when you hand in. Every question is graded alone: a
# wrong answer to one costs nothing on the next. Derivations and the comment are read by a person: a correct
# result without its steps earns at most a third, so write down every step that you would have to defend at
# the blackboard.
#
# **Rules for the code.** Logarithms are natural, so log-probabilities, energies and $\log Z$ are in nats.
# Use `torch`, in float64. Where a question says so, the function of `course_lib` that would answer it is
# switched off while your answer is tested. One call of your function may take ten seconds. In shapes, $B$ is
# the number of examples in a batch, $D$ of visible units, $M$ of hidden units, $C$ of chains.
#
# **On your honour.** Talk with others about the ideas, and write your answers alone. If a program or a
# person wrote or changed a part of an answer, say which part and how you checked it. You must be able to
# explain every line that you hand in.

# %%
import torch
from torch.nn import functional as F

from course_lib.annealed_importance_sampling import (
    annealed_importance_sampling,
    linear_schedule,
    reverse_annealed_importance_sampling,
)
from course_lib.rbm import RBM

torch.manual_seed({{SEED}})
torch.set_default_dtype(torch.float64)

# %% [raw]
# # BEGIN QUESTION
# name: log_probability
# points: 14

# %% [markdown]
# ## Elimination that survives zeros (14 points)
#
# Chapter 1 sums variables out of a product of tables. With a hundred factors such a product overflows, and
# the evidence under $p=\frac1Z\prod_c\psi_c$ needs two sums instead of one:
#
# $$\log p(\mathbf x_E=\mathbf e)=\log Z(\mathbf e)-\log Z .$$
#
# $Z(\mathbf e)$ is the sum over all states that agree with the evidence, and $Z>0$. Write
# `log_probability(factors, evidence, order)`:
#
# - `factors` is a list of pairs `(scope, log_table)`. The scope is a tuple of variables, which are
#   integers, in **any** order. The table holds $\log\psi$ in float64 with one axis for each variable, in
#   the order of the scope. An entry may be $-\infty$: a factor that is zero.
# - `evidence` is a dictionary from some variables to their states.
# - `order` lists all variables. Eliminate those that are not observed in this order. Every variable occurs
#   in some factor.
#
# Return $\log p(\mathbf x_E=\mathbf e)$ in nats, a tensor of shape `()`. It is $-\infty$ if the evidence is
# impossible. Stay in log space: the tests have entries of a thousand nats. Never build a table over more
# variables than elimination needs: the tests have a network whose joint table fits into no computer.
# `course_lib`'s networks are switched off.

# %% [raw]
# # BEGIN SOLUTION


# %%
def log_probability(factors, evidence, order):
    """log p(evidence) of a normalised product of factors, in nats: a tensor of shape ()."""
    # BEGIN SOLUTION
    def log_sum(pool):
        for variable in order:
            touching = [(scope, table) for scope, table in pool if variable in scope]
            pool = [(scope, table) for scope, table in pool if variable not in scope]
            if not touching:  # observed
                continue
            union = sorted({i for scope, _ in touching for i in scope})
            total = torch.zeros(())
            for scope, table in touching:
                places = sorted(range(len(scope)), key=lambda place: scope[place])
                sizes = dict(zip(scope, table.shape, strict=True))
                total = total + table.permute(places).reshape([sizes.get(i, 1) for i in union])
            pool.append((tuple(i for i in union if i != variable), total.logsumexp(union.index(variable))))
        return sum(table for _, table in pool)

    observed = []
    for scope, table in factors:
        rest = tuple(i for i in scope if i not in evidence)
        observed.append((rest, table[tuple(evidence.get(i, slice(None)) for i in scope)]))
    return log_sum(observed) - log_sum(list(factors))
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: a chain of three
points: 3
""" # END TEST CONFIG
def test_chain(log_probability):
    import torch
    from course_lib.answer_checks import bounded, compare
    off = ["course_lib.elimination.eliminate", "course_lib.factor.product"]
    a, b = torch.tensor({{FIRST_TABLE}}).double(), torch.tensor({{SECOND_TABLE}}).double()
    right, unnormalised, flipped, plain, one, other, largest = {{CHAIN_VALUES}}
    try:
        seen = bounded(log_probability, [((0, 1), a.log()), ((1, 2), b.log())], {1: {{STATE}}}, [0, 2, 1],
                       without=off)
    except AssertionError as error:
        if any(word in str(error) for word in ("size", "shape", "dimension", "Dimension")):
            raise AssertionError(
                f"{error}. The scopes (0, 1) and (1, 2) have tables of shapes (2, 3) and (3, 2): tables can "
                "be added once their axes stand for the same variables, in the same order") from None
        raise
    if isinstance(seen, torch.Tensor) and seen.numel() > 1:
        raise AssertionError(
            f"log p(x1) in a chain of three: one number is expected, and the answer has the shape "
            f"{tuple(seen.shape)}: take x1 = {{STATE}} out of the tables, and sum over all other variables")
    compare("log p(x1) in a chain of three", seen, torch.tensor(right, dtype=torch.float64), {
        "log Z is missing: a product of factors need not sum to 1": unnormalised,
        "the sign is flipped: a log-probability is at most 0": flipped,
        "this is the probability of no evidence at all, which is 1: was the evidence summed out, too?": 0.0,
        "this is p itself: the logarithm is asked for": plain,
        "one factor was taken for the marginal of its variables": one,
        "the other factor was taken for the marginal of its variables": other,
        "the largest term is not the sum": largest,
    })

# %%
""" # BEGIN TEST CONFIG
name: seven bits
points: 3
""" # END TEST CONFIG
def test_seven(log_probability):
    import torch
    from course_lib.answer_checks import bounded, compare
    from course_lib.factor import Factor
    from course_lib.markov_network import MarkovNetwork
    off = ["course_lib.elimination.eliminate", "course_lib.factor.product"]
    noise = torch.Generator().manual_seed({{SEED}})
    scopes = {{CLIQUES}}
    tables = [2 * torch.randn([2] * len(scope), generator=noise).double() for scope in scopes]
    def exact(arrange):
        network = MarkovNetwork([Factor({str(i): 2 for i in arrange(s)}, log_values=t)
                                 for s, t in zip(scopes, tables)])
        at = network.log_partition({str(i): x for i, x in {{OBSERVED}}.items()})
        return torch.as_tensor(at), torch.as_tensor(network.log_partition())
    (at, total), (at_sorted, total_sorted) = exact(tuple), exact(sorted)
    seen = bounded(log_probability, list(zip(scopes, tables)), {{OBSERVED}}, {{ORDER}}, without=off)
    compare("log p of two bits out of seven", seen, at - total, {
        "log Z is missing: a product of factors need not sum to 1": at,
        "axes were taken in sorted order, but they follow the scope": at_sorted - total_sorted,
        "this is the probability of no evidence at all, which is 1: was the evidence summed out, too?": 0.0,
    })

# %%
""" # BEGIN TEST CONFIG
name: zeros and a thousand nats
points: 4
hidden: true
""" # END TEST CONFIG
def test_zeros(log_probability):
    import torch
    from course_lib.answer_checks import bounded, compare
    off = ["course_lib.elimination.eliminate", "course_lib.factor.product"]
    noise = torch.Generator().manual_seed({{SEED}} + 1)
    inf = float("inf")
    a, b, c = (torch.randn(3, 3, generator=noise).double() for _ in range(3))
    a = a + 1000
    b = b - 1500
    a[:, 2] = -inf  # x1 = 2 is impossible
    b[0, 1] = -inf
    factors = [((0, 1), a), ((2, 1), b), ((2, 3), c)]
    joint = a[:, :, None, None] + b.T[None, :, :, None] + c[None, None]
    at = joint.logsumexp((0, 1))[1, 2]
    truth = at - joint.flatten().logsumexp(0)
    what = "log p with tables of e^1000, e^-1500 and 0 (stay in log space, where -inf is a value)"
    seen = bounded(log_probability, factors, {2: 1, 3: 2}, [0, 1, 2, 3], without=off)
    compare(what, seen, truth, {
        "log Z is missing: a product of factors need not sum to 1": at,
        "this is the probability of no evidence at all, which is 1: was the evidence summed out, too?": 0.0,
    }, show=False)
    seen = bounded(log_probability, factors, {1: 2}, [3, 2, 0, 1], without=off)
    never = torch.tensor(-inf, dtype=torch.float64)
    compare("log p of impossible evidence, which is minus infinity", seen, never, show=False)

# %%
""" # BEGIN TEST CONFIG
name: a long chain
points: 4
hidden: true
""" # END TEST CONFIG
def test_cost(log_probability):
    import torch
    from course_lib.answer_checks import bounded, compare
    off = ["course_lib.elimination.eliminate", "course_lib.factor.product"]
    noise = torch.Generator().manual_seed({{SEED}} + 2)
    n, k = 7, 400
    tables = [torch.randn(k, k, generator=noise).double() for _ in range(n - 1)]
    message = torch.zeros(k).double()
    for table in tables:
        message = (message[:, None] + table).logsumexp(0)
    try:
        seen = bounded(log_probability, [((i, i + 1), table) for i, table in enumerate(tables)],
                       {n - 1: 3}, list(range(n)), without=off)
    except AssertionError as error:
        if any(word in str(error) for word in ("alloc", "overflow", "dimension", "emory", "stopped")):
            raise AssertionError(
                "a table over many variables was built, which takes more memory or time than there is: "
                "sum a variable out as soon as all factors that contain it are multiplied") from None
        raise
    compare("log p in a chain of seven variables with 400 states each", seen, message.log_softmax(0)[3], {
        "log Z is missing: a product of factors need not sum to 1": message[3],
        "this is the probability of no evidence at all, which is 1: was the evidence summed out, too?": 0.0,
    }, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: takes factors for probabilities (no log Z)
# earns: 0
# says: log Z is missing
def log_probability(factors, evidence, order):
    pool = [(tuple(i for i in s if i not in evidence), t[tuple(evidence.get(i, slice(None)) for i in s)])
            for s, t in factors]
    for variable in order:
        touching = [f for f in pool if variable in f[0]]
        pool = [f for f in pool if variable not in f[0]]
        if touching:
            union = sorted({i for s, _ in touching for i in s})
            total = 0
            for s, t in touching:
                sizes = dict(zip(s, t.shape))
                total = total + t.permute(sorted(range(len(s)), key=lambda k: s[k])).reshape(
                    [sizes.get(i, 1) for i in union])
            pool.append((tuple(i for i in union if i != variable), total.logsumexp(union.index(variable))))
    return sum(t for _, t in pool)

# %%
# wrong: axes in sorted order instead of the scope's
# earns: 7
# says: axes were taken in sorted order
def log_probability(factors, evidence, order):
    factors = [(tuple(sorted(s)), t) for s, t in factors]
    def log_sum(pool):
        for variable in order:
            touching = [f for f in pool if variable in f[0]]
            pool = [f for f in pool if variable not in f[0]]
            if touching:
                union = sorted({i for s, _ in touching for i in s})
                total = 0
                for s, t in touching:
                    sizes = dict(zip(s, t.shape))
                    total = total + t.reshape([sizes.get(i, 1) for i in union])
                rest = tuple(i for i in union if i != variable)
                pool.append((rest, total.logsumexp(union.index(variable))))
        return sum(t for _, t in pool)
    reduced = [(tuple(i for i in s if i not in evidence), t[tuple(evidence.get(i, slice(None)) for i in s)])
               for s, t in factors]
    return log_sum(reduced) - log_sum(factors)

# %%
# wrong: leaves log space
# earns: 10
# says: stay in log space
def log_probability(factors, evidence, order):
    def total(pool):
        for variable in order:
            touching = [f for f in pool if variable in f[0]]
            pool = [f for f in pool if variable not in f[0]]
            if touching:
                union = sorted({i for s, _ in touching for i in s})
                product = 1
                for s, t in touching:
                    sizes = dict(zip(s, t.shape))
                    product = product * t.permute(sorted(range(len(s)), key=lambda k: s[k])).reshape(
                        [sizes.get(i, 1) for i in union])
                pool.append((tuple(i for i in union if i != variable), product.sum(union.index(variable))))
        answer = 1
        for _, t in pool:
            answer = answer * t
        return answer
    factors = [(s, t.exp()) for s, t in factors]
    reduced = [(tuple(i for i in s if i not in evidence), t[tuple(evidence.get(i, slice(None)) for i in s)])
               for s, t in factors]
    return (total(reduced) / total(factors)).log()

# %%
# wrong: a log-sum-exp of one's own that subtracts an infinite maximum
# earns: 10
# says: NaN or infinite
def log_probability(factors, evidence, order):
    def logsumexp(t, axis):
        top = t.amax(axis, keepdim=True)
        return (top + (t - top).exp().sum(axis, keepdim=True).log()).squeeze(axis)
    def log_sum(pool):
        for variable in order:
            touching = [f for f in pool if variable in f[0]]
            pool = [f for f in pool if variable not in f[0]]
            if touching:
                union = sorted({i for s, _ in touching for i in s})
                total = 0
                for s, t in touching:
                    sizes = dict(zip(s, t.shape))
                    total = total + t.permute(sorted(range(len(s)), key=lambda k: s[k])).reshape(
                        [sizes.get(i, 1) for i in union])
                rest = tuple(i for i in union if i != variable)
                pool.append((rest, logsumexp(total, union.index(variable))))
        return sum(t for _, t in pool)
    reduced = [(tuple(i for i in s if i not in evidence), t[tuple(evidence.get(i, slice(None)) for i in s)])
               for s, t in factors]
    return log_sum(reduced) - log_sum(factors)

# %%
# wrong: builds the joint table
# earns: 10
# says: a table over many variables was built
def log_probability(factors, evidence, order):
    variables = sorted(order)
    every = {i: k for s, t in factors for i, k in zip(s, t.shape)}
    joint = torch.zeros([every[i] for i in variables])
    for s, t in factors:
        sizes = dict(zip(s, t.shape))
        joint = joint + t.permute(sorted(range(len(s)), key=lambda k: s[k])).reshape(
            [sizes.get(i, 1) for i in variables])
    at = joint[tuple(evidence.get(i, slice(None)) for i in variables)]
    return at.flatten().logsumexp(0) - joint.flatten().logsumexp(0)

# %%
# wrong: the evidence left in the tables
# earns: 0
# says: one number is expected
def log_probability(factors, evidence, order):
    variables = sorted(order)
    joint = 0
    for s, t in factors:
        sizes = dict(zip(s, t.shape))
        joint = joint + t.permute(sorted(range(len(s)), key=lambda k: s[k])).reshape(
            [sizes.get(i, 1) for i in variables])
    rest = [k for k, i in enumerate(variables) if i not in evidence]
    return joint.logsumexp(rest) - joint.flatten().logsumexp(0)

# %%
# wrong: tables added without a look at their axes
# earns: 0
# says: once their axes stand for the same variables
def log_probability(factors, evidence, order):
    total = sum(table for _, table in factors)
    return total.flatten().logsumexp(0)

# %%
# wrong: returns the public test's number
# earns: 3
# says: not the right value
def log_probability(factors, evidence, order):
    return torch.tensor({{CHAIN_VALUES}}[0])

# %%
# wrong: sums the evidence out as well
# earns: 0
# says: was the evidence summed out, too
def log_probability(factors, evidence, order):
    def log_sum(pool):
        for variable in order:
            touching = [f for f in pool if variable in f[0]]
            pool = [f for f in pool if variable not in f[0]]
            if touching:
                union = sorted({i for s, _ in touching for i in s})
                total = 0
                for s, t in touching:
                    sizes = dict(zip(s, t.shape))
                    total = total + t.permute(sorted(range(len(s)), key=lambda k: s[k])).reshape(
                        [sizes.get(i, 1) for i in union])
                rest = tuple(i for i in union if i != variable)
                pool.append((rest, total.logsumexp(union.index(variable))))
        return sum(t for _, t in pool)
    return log_sum(factors) - log_sum(factors)

# %%
# wrong: calls the library
# earns: 0
# says: switched off
def log_probability(factors, evidence, order):
    from course_lib.factor import Factor
    from course_lib.markov_network import MarkovNetwork
    network = MarkovNetwork([Factor(dict(zip(map(str, s), t.shape)), log_values=t) for s, t in factors])
    return network.log_partition({str(i): x for i, x in evidence.items()}) - network.log_partition()

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: parity
# points: 12
# manual: true
# pool: zeros

# %% [markdown]
# ## What pairs cannot see (12 points)
#
# Let $p$ be uniform on the four states $(x_1,x_2,x_3)\in\{0,1\}^3$ whose sum is **{{PARITY}}**. The other
# four states have probability zero.
#
# **(a)** (3 points) Show that any two of the three bits are independent, and that they are not independent
# given the third. Which is the smallest graph over which $p$ factorises? (You may use (b).)
#
# **(b)** (3 points) Show that $p$ is not of the form
# $\frac1Z\,\psi_{12}(x_1,x_2)\,\psi_{23}(x_2,x_3)\,\psi_{13}(x_1,x_3)$, with non-negative factors that may
# be zero. The triangle has one maximal clique, $\{1,2,3\}$. So say in a sentence why this is no
# contradiction to the theorem of Hammersley and Clifford.
#
# **(c)** (4 points) Moussouris's ring in chapter 1 is at least a *limit* of networks with pair factors. The
# parity is not. Prove that every normalised product $q$ of factors of pairs, which may again be zero, has
# $\mathrm{KL}(p\,\|\,q)\ge\log2$ (it is infinite if $q$ is zero where $p$ is not), and name a $q$ with
# equality. Hint: which of its marginals does $p$ share with the uniform distribution on all eight states?
#
# **(d)** (2 points) A colleague draws an edge between two variables if their covariance in the data is not
# zero. Which graph does she draw here, and what does that graph claim that is false? Which question should
# she have asked of each pair?

# %% [raw]
# # BEGIN SOLUTION

# %% [markdown]
# **(a)** For each of the four values of two bits there is exactly one value of the third that makes the sum
# {{PARITY}}. So every pair of values has probability $\frac14=\frac12\cdot\frac12$, and each bit is a fair
# coin: any two are independent. Given the third bit, the sum of the two others is known to be even or known
# to be odd, so one determines the other, while each alone is still a fair coin: they are dependent. Let $p$
# factorise over a graph. If the edge $\{i,j\}$ were missing, the third bit would separate $i$ from $j$, and
# they would be independent given it, which they are not. So all three edges are there, the graph is the
# triangle, and $p$ factorises over it with the single factor $\psi_{123}=p$.
#
# **(b)** Every pair of values of two bits occurs in a state of positive probability, by (a). There all
# three factors are positive. Hence $\psi_{ij}(x_i,x_j)>0$ for all pairs and all values, and their product
# is positive in all eight states. But $p$ is zero in four. The theorem speaks of factors over *cliques*,
# and the triangle is a clique, so it promises a factor of three variables and no factors of pairs. (And it
# asks for a positive $p$, which this is not.)
#
# **(c)** Let $u$ be uniform on all eight states. By (a) all pair marginals of $p$ are uniform, like those
# of $u$. If $q$ is zero in a state of positive $p$ the divergence is infinite. Otherwise the factors are
# positive for all pairs, as in (b), and $\log q=-\log Z+\log\psi_{12}+\log\psi_{23}+\log\psi_{13}$ is a sum
# of functions of pairs. Its mean depends on the pair marginals only, so $\mathbb E_p[\log q]=\mathbb
# E_u[\log q]$. By Gibbs' inequality $\mathbb E_u[\log q]\le\mathbb E_u[\log u]=-3\log2$. Hence
#
# $$\mathrm{KL}(p\,\|\,q)=\mathbb E_p[\log p]-\mathbb E_p[\log q]\ge-2\log2+3\log2=\log2 .$$
#
# Equality holds in Gibbs' inequality exactly for $q=u$, with all factors constant.
#
# **(d)** All covariances are zero, by (a), so she draws no edge. That graph claims that the three bits are
# independent of each other, and every question about one given the two others gets a wrong answer: the
# third is in fact certain. An edge is missing if the two are independent *given all others*; that is what
# she should test. (For a positive $p$ these edges are enough to factorise. With zeros they need not be; here
# the test finds all three.)

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN RUBRIC

# %% [markdown]
# **(a) 3.** Pairwise independence, with the count 1; dependence given the third 1; triangle, because
# separation would imply independence, 1. **(b) 3.** All pair values occur 1; hence all factors are
# positive, contradiction, 1; the theorem is about cliques (or asks for positivity) 1. **(c) 4.** $\mathbb
# E_p\log q=\mathbb E_u\log q$ because $\log q$ is a sum of functions of pairs 2; Gibbs' inequality and the
# two entropies 1; equality for uniform $q$ 1. **(d) 2.** Empty graph and its claim 1; conditional on all
# others 1.
#
# Typical wrong answers:
#
# - (a) "Pairwise independent, so the graph is empty": 1 of 3, for the independence.
# - (a) checks one pair and one value only, without symmetry: 2 of 3.
# - (b) "A positive factor cannot give zero": the factors were allowed to be zero, 0 for the argument.
# - (b) "The theorem fails because $p$ has zeros", and nothing about cliques: full marks for that sentence;
#   positivity is a premise.
# - (c) computes KL to the uniform $q$ only, $\log2$: 1 of 4, it is the equality and not the bound.
# - (c) $\mathrm{KL}(q\,\|\,p)$ instead of $\mathrm{KL}(p\,\|\,q)$: 0 of 4; that one is infinite for every
#   positive $q$.
# - (c) "All pair marginals agree, so the best $q$ is uniform", without a reason: 2 of 4.
# - (d) "She needs more data": 0 of 2.

# %% [raw]
# # END RUBRIC

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: chord
# points: 12
# manual: true
# pool: zeros

# %% [markdown]
# ## A chord saves the theorem (12 points)
#
# Chapter 1 shows a ring of four bits that has the global Markov property and does not factorise, because
# $p$ has zeros. Now add the edge $\{2,4\}$ to the ring 1–2–3–4–1. Its maximal cliques are $\{1,2,4\}$ and
# $\{2,3,4\}$.
#
# **(a)** (4 points) Let $p$ be **any** distribution of four variables with finitely many states, zeros
# allowed, with $X_1\perp X_3\mid X_2,X_4$. Prove that $p$ factorises over this graph, and give the two
# factors as probabilities. Say what happens where you would divide by zero.
#
# **(b)** (3 points) Write these two factors for Moussouris's ring, which is uniform on the eight states
# $0000$, $1000$, $1100$, $1110$, $1111$, $0111$, $0011$, $0001$ of $(x_1,x_2,x_3,x_4)$. How many entries of
# each are zero?
#
# **(c)** (3 points) Let now $p>0$ factorise over the graph with the chord, and let also $X_2\perp X_4\mid
# X_1,X_3$. Show that $p$ factorises over the ring. Which step of your proof fails for Moussouris's ring?
#
# **(d)** (2 points) A student fits the ring, with free factors $\psi=e^{\theta}$, to a million samples of
# Moussouris's distribution, by gradient ascent on the likelihood. What does she see, and what does the
# chord change?

# %% [raw]
# # BEGIN SOLUTION

# %% [markdown]
# **(a)** Put $\psi_{124}=p(x_1,x_2,x_4)$ and $\psi_{234}=p(x_3\mid x_2,x_4)$, and $\psi_{234}=0$ where
# $p(x_2,x_4)=0$. Where $p(x_2,x_4)>0$, the independence says $p(x_1,x_3\mid x_2,x_4)=p(x_1\mid
# x_2,x_4)\,p(x_3\mid x_2,x_4)$; times $p(x_2,x_4)$ this is $p(\mathbf x)=\psi_{124}\,\psi_{234}$. Where
# $p(x_2,x_4)=0$, $p(\mathbf x)\le p(x_2,x_4)=0$ and the product is zero, too. So $p=\psi_{124}\psi_{234}$
# everywhere, with $Z=1$.
#
# **(b)** $(x_2,x_4)$ takes each of its four values in two of the eight states. From the table of the
# chapter: $\psi_{124}(x_1,x_2,x_4)$ is $\frac14$ for $(x_2,x_4)=(1,0)$ with $x_1=1$ and for $(0,1)$ with
# $x_1=0$, it is $\frac18$ for $(0,0)$ and for $(1,1)$ with either $x_1$, and 0 for the other two.
# $\psi_{234}=p(x_3\mid x_2,x_4)$ is 1 for $(0,0)$ with $x_3=0$ and for $(1,1)$ with $x_3=1$, $\frac12$ for
# $(1,0)$ and for $(0,1)$ with either $x_3$, and 0 for the other two. Each has two zeros among its eight
# entries, and each zero forbids two of the sixteen states; together eight.
#
# **(c)** By hypothesis $\log p=f(x_1,x_2,x_4)+g(x_2,x_3,x_4)$, and by the criterion of chapter 1 $\log
# p=a(x_1,x_2,x_3)+b(x_1,x_3,x_4)$: all are finite because $p>0$. Fix a state $0$ of each variable. In the
# first form take the mixed difference in $x_2$ and $x_4$: $\Delta(x_1,x_3)=\log p(x_2,x_4)-\log
# p(0,x_4)-\log p(x_2,0)+\log p(0,0)$, with the other two held. From the second form it is zero for all
# $x_1,x_3$. So $\log p$ is the sum $\log p(x_1,x_2,x_3,0)+\log p(x_1,0,x_3,x_4)-\log p(x_1,0,x_3,0)$. By
# the first form the terms split further: $\log p(x_1,x_2,x_3,0)=f(x_1,x_2,0)+g(x_2,x_3,0)$, a function of
# $\{1,2\}$ and one of $\{2,3\}$, and $\log p(x_1,0,x_3,x_4)=f(x_1,0,x_4)+g(0,x_3,x_4)$, of $\{1,4\}$ and of
# $\{3,4\}$. The last one is $f(x_1,0,0)+g(0,x_3,0)$, of single nodes. So $\log p$ is a sum over edges of
# the ring. With zeros the difference is $\infty-\infty$ or infinite: given $(x_1,x_3)$, two of the four
# states of $(x_2,x_4)$ are impossible.
#
# **(d)** The divergence falls towards zero, like $\log(1+e^{-2\beta})$ along the path of the chapter, and
# never reaches it; the parameters grow without bound, and there is no maximiser. With the chord and factors
# that may be zero there is one: the tables of (b). (With factors $e^\theta$ there is still none, since they
# cannot be zero; the likelihood of forbidden states goes to zero and $\theta$ to $-\infty$.)

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN RUBRIC

# %% [markdown]
# **(a) 4.** Factors 1; product where $p(x_2,x_4)>0$ 2; the zero case 1. **(b) 3.** Each table 1; the two
# zeros in each 1. **(c) 3.** Mixed difference zero (or a Möbius term for a set with 2 and 4) 1; splitting
# into edges 1; logarithm of zero named 1. **(d) 2.** No maximiser, growing weights 1; the chord and what
# zeros still need 1.
#
# Typical wrong answers:
#
# - (a) divides by $p(x_2,x_4)$ without a word about zeros: 3 of 4.
# - (a) "By Hammersley and Clifford": 0 of 4, the theorem needs $p>0$.
# - (b) gives $p(x_1,x_2,x_4)\,p(x_2,x_3,x_4)$ and counts $p(x_2,x_4)$ twice: 1 of 3.
# - (c) "Both independences hold, so by Hammersley and Clifford": 1 of 3 if positivity is named as the
#   premise that Moussouris's ring violates; the proof was asked for.
# - (c) takes $\log0=0$: 0 for the last point.
# - (d) "It converges to the truth": 0 of 2.

# %% [raw]
# # END RUBRIC

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: gibbs_matrix
# points: 12
# pool: sampling

# %% [markdown]
# ## A Gibbs sampler as a matrix (12 points)
#
# A Gibbs sampler of $n$ bits is a Markov chain with $2^n$ states. For small $n$ you can write its
# transition matrix, and then *compute* how long it takes to forget its start.
#
# `gibbs_matrix(log_p)` takes unnormalised log-probabilities of shape `(2,) * n`, all finite. It returns the
# matrix of **one sweep**, which redraws $x_0$ given all others, then $x_1$, …, then $x_{n-1}$. The shape is
# `(2**n, 2**n)`; entry `[s, t]` is the probability to be in state `t` after the sweep if it began in state
# `s`. States are numbered as in `log_p.flatten()`: the last bit changes fastest.
#
# `mixing_sweeps(transition, p, epsilon)` takes the matrix of a chain with any number $S$ of states, shape
# `(S, S)`, the stationary probabilities, shape `(S,)`, and a number $\varepsilon$. It returns the smallest
# whole number $t\ge1$ for which, from **every** start $s$,
#
# $$\mathrm{TV}\bigl(T^t(s,\cdot),\,p\bigr)=\tfrac12\sum_{u}\bigl|T^t(s,u)-p(u)\bigr|\le\varepsilon .$$

# %% [raw]
# # BEGIN SOLUTION


# %%
def gibbs_matrix(log_p):
    """The transition matrix of one sweep, shape (2^n, 2^n); rows are where it comes from."""
    # BEGIN SOLUTION
    n = log_p.ndim
    states = torch.cartesian_prod(*[torch.arange(2)] * n).reshape(-1, n)
    differ = states[:, None] != states  # (from, to, bit)
    sweep = torch.eye(2**n)
    for i in range(n):
        others_stay = differ.sum(-1) == differ[:, :, i]
        sweep = sweep @ (others_stay * log_p.softmax(i).flatten())
    return sweep
    # END SOLUTION


def mixing_sweeps(transition, p, epsilon):
    """After how many sweeps every start is within epsilon of p, in total variation."""
    # BEGIN SOLUTION
    sweeps, law = 1, transition
    while (law - p).abs().sum(1).max() / 2 > epsilon:
        sweeps, law = sweeps + 1, law @ transition
    return sweeps
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: two bits
points: 3
""" # END TEST CONFIG
def test_two(gibbs_matrix):
    import torch
    from course_lib.answer_checks import bounded, compare
    log_p = torch.tensor({{TWO_BITS}}, dtype=torch.float64)
    right, turned, last, random, at_once, marginal, limit, numbering = torch.tensor(
        {{TWO_BITS_VALUES}}, dtype=torch.float64)
    seen = bounded(gibbs_matrix, log_p)
    compare("the matrix of one sweep over two bits", seen, right, {
        "rows and columns are exchanged: [s, t] is the way from s to t": turned,
        "the last bit is redrawn first": last,
        "one bit chosen at random is redrawn: a sweep redraws all, one after the other": random,
        "all bits are redrawn at once, from the old values of the others": at_once,
        "each bit is drawn from its marginal: condition on the others": marginal,
        "every row is p itself: that is where the chain ends, not a step of it": limit,
        "states are numbered with the first bit changing fastest; it must be the last": numbering,
    })

# %%
""" # BEGIN TEST CONFIG
name: four bits
points: 4
hidden: true
""" # END TEST CONFIG
def test_four(gibbs_matrix):
    import torch
    from course_lib.answer_checks import bounded, compare
    n = 4
    log_p = 1.5 * torch.randn([2] * n, generator=torch.Generator().manual_seed({{SEED}} + 1)).double()
    states = torch.cartesian_prod(*[torch.arange(2)] * n)
    def kernel(i):
        same = torch.ones(2**n, 2**n).double()
        for j in range(n):
            if j != i:
                same = same * (states[:, None, j] == states[:, j])
        return same * log_p.log_softmax(i).exp().flatten()
    kernels = [kernel(i) for i in range(n)]
    truth = torch.linalg.multi_dot(kernels)
    chances = [(k * (states[:, None, i] == states[:, i])).diagonal() for i, k in enumerate(kernels)]
    at_once = torch.ones(2**n, 2**n).double()
    for i, stay in enumerate(chances):
        at_once = at_once * torch.where(states[:, None, i] == states[:, i], stay[:, None], 1 - stay[:, None])
    other = torch.arange(2**n).reshape([2] * n).permute(3, 2, 1, 0).flatten()
    seen = bounded(gibbs_matrix, log_p)
    compare("the matrix of one sweep over four bits", seen, truth, {
        "states are numbered with the first bit changing fastest; it must be the last":
            truth[other][:, other],
        "rows and columns are exchanged: [s, t] is the way from s to t": truth.T,
        "the last bit is redrawn first": torch.linalg.multi_dot(kernels[::-1]),
        "one bit chosen at random is redrawn: a sweep redraws all, one after the other": sum(kernels) / n,
        "all bits are redrawn at once, from the old values of the others": at_once,
    }, show=False)

# %%
""" # BEGIN TEST CONFIG
name: mixing of two states
points: 2
""" # END TEST CONFIG
def test_mixing_public(mixing_sweeps):
    import torch
    from course_lib.answer_checks import bounded, compare
    transition = torch.tensor({{TWO_STATES}}, dtype=torch.float64)
    p = torch.tensor({{STATIONARY}}, dtype=torch.float64)
    right, no_half, mean, best = {{MIXING_VALUES}}
    seen = bounded(mixing_sweeps, transition, p, 0.05)
    compare("sweeps until a chain of two states has mixed", seen, torch.tensor(right), {
        "the factor 1/2 of the total variation is missing": no_half,
        "one too many: the first power counts as one sweep": right + 1,
        "one too few: the first power counts as one sweep": right - 1,
        "the mean over starts is not the worst start": mean,
        "the best start is not the worst": best,
    })

# %%
""" # BEGIN TEST CONFIG
name: mixing of a ring
points: 3
hidden: true
""" # END TEST CONFIG
def test_mixing_ring(mixing_sweeps):
    import torch
    from course_lib.answer_checks import bounded, compare
    n, coupling = 4, {{COUPLING}}
    states = torch.cartesian_prod(*[torch.arange(2)] * n)
    spins = 2.0 * states.double() - 1
    field = torch.tensor([0.3, 0.0, 0.1, 0.0]).double()
    log_p = coupling * (spins * spins.roll(1, -1)).sum(-1) + spins @ field
    p, transition = log_p.softmax(0), torch.eye(2**n).double()
    for i in range(n):
        moved = states[:, None] != states
        stay = moved.sum(-1) == moved[:, :, i]
        transition = transition @ (stay * log_p.reshape([2] * n).softmax(i).flatten())
    def first(distance, epsilon):
        t, law = 1, transition
        while distance(law - p) > epsilon:
            t, law = t + 1, law @ transition
        return float(t)
    def half(d): return d.abs().sum(1).max() / 2
    seen = bounded(mixing_sweeps, transition, p, 0.02)
    truth = first(half, 0.02)
    compare("sweeps until a ring of four has mixed", seen, truth, {
        "the factor 1/2 of the total variation is missing": first(half, 0.01),
        "one too many: the first power counts as one sweep": truth + 1,
        "one too few: the first power counts as one sweep": truth - 1,
        "the mean over starts is not the worst start": first(lambda d: d.abs().sum(1).mean() / 2, 0.02),
        "the mean over starts, weighted by p, is not the worst start":
            first(lambda d: p @ d.abs().sum(1) / 2, 0.02),
    }, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: rows and columns exchanged
# earns: 5
# says: rows and columns are exchanged
def gibbs_matrix(log_p):
    n = log_p.ndim
    states = torch.cartesian_prod(*[torch.arange(2)] * n).reshape(-1, n)
    differ = states[:, None] != states
    sweep = torch.eye(2**n)
    for i in range(n):
        sweep = sweep @ ((differ.sum(-1) == differ[:, :, i]) * log_p.softmax(i).flatten())
    return sweep.T

def mixing_sweeps(transition, p, epsilon):
    sweeps, law = 1, transition
    while (law - p).abs().sum(1).max() / 2 > epsilon:
        sweeps, law = sweeps + 1, law @ transition
    return sweeps

# %%
# wrong: all bits redrawn at once
# earns: 5
# says: all bits are redrawn at once
def gibbs_matrix(log_p):
    n = log_p.ndim
    states = torch.cartesian_prod(*[torch.arange(2)] * n).reshape(-1, n)
    answer = torch.ones(2**n, 2**n)
    for i in range(n):
        one = log_p.softmax(i).select(i, 1).unsqueeze(i).expand_as(log_p).flatten()
        answer = answer * torch.where(states[:, i] == 1, one[:, None], 1 - one[:, None])
    return answer

def mixing_sweeps(transition, p, epsilon):
    sweeps, law = 1, transition
    while (law - p).abs().sum(1).max() / 2 > epsilon:
        sweeps, law = sweeps + 1, law @ transition
    return sweeps

# %%
# wrong: one bit at random
# earns: 5
# says: one bit chosen at random
def gibbs_matrix(log_p):
    n = log_p.ndim
    states = torch.cartesian_prod(*[torch.arange(2)] * n).reshape(-1, n)
    differ = states[:, None] != states
    return sum((differ.sum(-1) == differ[:, :, i]) * log_p.softmax(i).flatten() for i in range(n)) / n

def mixing_sweeps(transition, p, epsilon):
    sweeps, law = 1, transition
    while (law - p).abs().sum(1).max() / 2 > epsilon:
        sweeps, law = sweeps + 1, law @ transition
    return sweeps

# %%
# wrong: kernels multiplied in the wrong order
# earns: 5
# says: the last bit is redrawn first
def gibbs_matrix(log_p):
    n = log_p.ndim
    states = torch.cartesian_prod(*[torch.arange(2)] * n).reshape(-1, n)
    differ = states[:, None] != states
    sweep = torch.eye(2**n)
    for i in range(n):
        sweep = ((differ.sum(-1) == differ[:, :, i]) * log_p.softmax(i).flatten()) @ sweep
    return sweep

def mixing_sweeps(transition, p, epsilon):
    sweeps, law = 1, transition
    while (law - p).abs().sum(1).max() / 2 > epsilon:
        sweeps, law = sweeps + 1, law @ transition
    return sweeps

# %%
# wrong: states numbered with the first bit fastest
# earns: 5
# says: the first bit changing fastest
def gibbs_matrix(log_p):
    n = log_p.ndim
    sweep = torch.eye(2**n)
    for i in range(n):
        p, kernel = log_p.softmax(i), torch.zeros(2**n, 2**n)
        for s in range(2**n):
            for bit in range(2):
                t = s & ~(1 << i) | bit << i
                kernel[s, t] = p[tuple(t >> j & 1 for j in range(n))]
        sweep = sweep @ kernel
    return sweep

def mixing_sweeps(transition, p, epsilon):
    sweeps, law = 1, transition
    while (law - p).abs().sum(1).max() / 2 > epsilon:
        sweeps, law = sweeps + 1, law @ transition
    return sweeps

# %%
# wrong: total variation without 1/2
# earns: 7
# says: factor 1/2 of the total variation
def gibbs_matrix(log_p):
    n = log_p.ndim
    states = torch.cartesian_prod(*[torch.arange(2)] * n).reshape(-1, n)
    differ = states[:, None] != states
    sweep = torch.eye(2**n)
    for i in range(n):
        sweep = sweep @ ((differ.sum(-1) == differ[:, :, i]) * log_p.softmax(i).flatten())
    return sweep

def mixing_sweeps(transition, p, epsilon):
    sweeps, law = 1, transition
    while (law - p).abs().sum(1).max() > epsilon:
        sweeps, law = sweeps + 1, law @ transition
    return sweeps

# %%
# wrong: the mean over starts
# earns: 7
# says: mean over starts
def gibbs_matrix(log_p):
    n = log_p.ndim
    states = torch.cartesian_prod(*[torch.arange(2)] * n).reshape(-1, n)
    differ = states[:, None] != states
    sweep = torch.eye(2**n)
    for i in range(n):
        sweep = sweep @ ((differ.sum(-1) == differ[:, :, i]) * log_p.softmax(i).flatten())
    return sweep

def mixing_sweeps(transition, p, epsilon):
    sweeps, law = 1, transition
    while (law - p).abs().sum(1).mean() / 2 > epsilon:
        sweeps, law = sweeps + 1, law @ transition
    return sweeps

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: read_graph
# points: 12
# pool: sampling

# %% [markdown]
# ## The graph of a distribution (12 points)
#
# Chapter 1 goes from a graph to independences. Go the other way. The **pairwise graph** of a positive
# distribution has an edge between $i$ and $j$ unless $X_i\perp X_j$ given **all** other variables. By the
# theorem of Hammersley and Clifford it is the smallest graph over which $p$ factorises.
#
# Write `read_graph(log_p, tolerance)`. `log_p` holds unnormalised log-probabilities, all finite, with one
# axis for each of $n$ variables; a variable may have more than two states. Return the adjacency matrix, a
# boolean tensor of shape `(n, n)`, symmetric, with `False` on the diagonal. Whether $i$ and $j$ are
# independent given the others can be seen from differences of `log_p`: find out how. Take a difference for
# zero if its size is at most `tolerance`, in nats.

# %% [raw]
# # BEGIN SOLUTION


# %%
def read_graph(log_p, tolerance=1e-9):
    """The adjacency matrix of the pairwise graph, boolean, shape (n, n)."""
    # BEGIN SOLUTION
    n = log_p.ndim
    adjacency = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        in_i = log_p - log_p.narrow(i, 0, 1)
        for j in range(n):
            if j != i:
                adjacency[i, j] = (in_i - in_i.narrow(j, 0, 1)).abs().max() > tolerance
    return adjacency
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: a chain of four
points: 4
""" # END TEST CONFIG
def test_chain_graph(read_graph):
    import torch
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}})
    a, b, c = (torch.randn(2, 2, generator=noise).double().add(2 * torch.eye(2)) for _ in range(3))
    log_p = a[:, :, None, None] + b[None, :, :, None] + c[None, None]
    chain = torch.zeros(4, 4)
    for i in range(3):
        chain[i, i + 1] = chain[i + 1, i] = 1
    seen = bounded(read_graph, log_p, 1e-9)
    compare("the graph of a chain of four bits", seen, chain.double(), {
        "every pair has an edge: independence was asked for without knowing the other variables":
            1 - torch.eye(4),
        "the diagonal must be False: nobody is a neighbour of himself": chain + torch.eye(4),
        "edges and non-edges are exchanged": 1 - chain - torch.eye(4),
        "edges and non-edges are exchanged, and the diagonal must be False": 1 - chain,
        "only one half of the matrix is filled: adjacency is symmetric": chain.triu(),
    })

# %%
""" # BEGIN TEST CONFIG
name: a hidden triple, three states
points: 8
hidden: true
""" # END TEST CONFIG
def test_triple_graph(read_graph):
    import torch
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 3)
    order = torch.randperm(5, generator=noise).tolist()
    triple = torch.zeros(2, 2, 2).double()
    triple[1, 1, 1] = 1.3  # seen only if all three are 1
    pair = torch.zeros(2, 3).double()
    pair[1, 2] = -0.9  # seen only in the last state
    other = torch.randn(2, 3, generator=noise).double()
    log_p = triple[:, :, :, None, None] + pair[None, None, :, :, None] + other[:, None, None, None, :]
    truth, at_zero, two_states = (torch.zeros(5, 5) for _ in range(3))
    for graph, edges in ((truth, [(0, 1), (0, 2), (1, 2), (2, 3), (0, 4)]), (at_zero, [(2, 3), (0, 4)]),
                         (two_states, [(0, 1), (0, 2), (1, 2), (0, 4)])):
        for i, j in edges:
            graph[i, j] = graph[j, i] = 1
    p = log_p.exp() / log_p.exp().sum()
    marginal = torch.zeros(5, 5)
    for i in range(5):
        for j in range(5):
            if i != j:
                both = p.sum([k for k in range(5) if k not in (i, j)])
                alone = both.sum(0, keepdim=True) * both.sum(1, keepdim=True)
                marginal[i, j] = (both - alone).abs().max() > 1e-9
    log_p = log_p.permute(order)
    place = torch.tensor(order)
    def moved(graph): return graph[place][:, place]
    seen = bounded(read_graph, log_p + 3, 1e-9)
    compare("the graph of five variables", seen, moved(truth).double(), {
        "edges are missing: the others were held in their first state only": moved(at_zero),
        "edges are missing: only two states of each variable were compared": moved(two_states),
        "too many edges: independence was asked for without knowing the other variables": moved(marginal),
        "the diagonal must be False: nobody is a neighbour of himself": moved(truth) + torch.eye(5),
        "edges and non-edges are exchanged": 1 - moved(truth) - torch.eye(5),
        "edges and non-edges are exchanged, and the diagonal must be False": 1 - moved(truth),
        "only one half of the matrix is filled: adjacency is symmetric": moved(truth).triu(),
    }, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: dependence without conditioning
# earns: 0
# says: without knowing the other variables
def read_graph(log_p, tolerance=1e-9):
    p = log_p.flatten().softmax(0).reshape(log_p.shape)
    n = log_p.ndim
    graph = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        for j in range(i + 1, n):
            both = p.sum([k for k in range(n) if k not in (i, j)])
            apart = both - both.sum(0) * both.sum(1, keepdim=True)
            graph[i, j] = graph[j, i] = apart.abs().max() > tolerance
    return graph

# %%
# wrong: the others held at zero
# earns: 4
# says: held in their first state only
def read_graph(log_p, tolerance=1e-9):
    n = log_p.ndim
    graph = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        for j in range(n):
            if i != j:
                table = log_p[tuple(slice(None) if k in (i, j) else 0 for k in range(n))]
                mixed = table - table[:1] - table[:, :1] + table[:1, :1]
                graph[i, j] = mixed.abs().max() > tolerance
    return graph

# %%
# wrong: only two states of each variable
# earns: 4
# says: only two states of each variable
def read_graph(log_p, tolerance=1e-9):
    for axis in range(log_p.ndim):
        log_p = log_p.narrow(axis, 0, 2)
    n = log_p.ndim
    graph = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        for j in range(n):
            if i != j:
                graph[i, j] = log_p.diff(dim=i).diff(dim=j).abs().max() > tolerance
    return graph

# %%
# wrong: loops on the diagonal
# earns: 0
# says: the diagonal must be False
def read_graph(log_p, tolerance=1e-9):
    n = log_p.ndim
    graph = torch.eye(n, dtype=torch.bool)
    for i in range(n):
        for j in range(n):
            if i != j:
                graph[i, j] = log_p.diff(dim=i).diff(dim=j).abs().max() > tolerance
    return graph

# %%
# wrong: independences instead of edges
# earns: 0
# says: edges and non-edges are exchanged
def read_graph(log_p, tolerance=1e-9):
    n = log_p.ndim
    graph = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        for j in range(n):
            if i != j:
                graph[i, j] = log_p.diff(dim=i).diff(dim=j).abs().max() <= tolerance
    return graph

# %%
# wrong: one half of the matrix
# earns: 0
# says: adjacency is symmetric
def read_graph(log_p, tolerance=1e-9):
    n = log_p.ndim
    graph = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        for j in range(i + 1, n):
            graph[i, j] = log_p.diff(dim=i).diff(dim=j).abs().max() > tolerance
    return graph

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: free_energy
# points: 12

# %% [markdown]
# ## Hidden units that count (12 points)
#
# Let the visible units be bits and let each hidden unit count: $h_j\in\{0,1,\dots,L\}$. The energy is the
# old one,
#
# $$E(\mathbf v,\mathbf h)=-\mathbf v^\top\mathbf W\mathbf h-\mathbf b^\top\mathbf v-\mathbf c^\top\mathbf h
# .$$
#
# With $L=1$ this is the machine of chapter 2. Derive $p(h_j\mid\mathbf v)$ and the free energy $F(\mathbf
# v)=-\log\sum_{\mathbf h}e^{-E(\mathbf v,\mathbf h)}$ for yourself; you do not hand that in. Then write
#
# - `free_energy(v, weight, visible_bias, hidden_bias, top)`: $F$ in nats, shape `(B,)`;
# - `hidden_mean(v, weight, hidden_bias, top)`: $\mathbb E[\mathbf h\mid\mathbf v]$, shape `(B, M)`.
#
# `v` has the shape `(B, D)`, `weight` is $\mathbf W$ of shape `(D, M)`, the biases have the shapes `(D,)`
# and `(M,)`, and `top` is $L$. Inputs to a hidden unit of a thousand nats must do no harm. You may not
# enumerate the joint states of the hidden units: there are $(L+1)^M$. `course_lib`'s free energy is
# switched off.

# %% [raw]
# # BEGIN SOLUTION


# %%
def free_energy(v, weight, visible_bias, hidden_bias, top):
    """F(v) of a machine whose hidden units take the values 0, …, top: shape (B,), in nats."""
    # BEGIN SOLUTION
    levels = torch.arange(top + 1, dtype=v.dtype)
    inputs = v @ weight + hidden_bias
    return -v @ visible_bias - (inputs[..., None] * levels).logsumexp(-1).sum(-1)
    # END SOLUTION


def hidden_mean(v, weight, hidden_bias, top):
    """The mean of each hidden unit given v: shape (B, M)."""
    # BEGIN SOLUTION
    levels = torch.arange(top + 1, dtype=v.dtype)
    inputs = v @ weight + hidden_bias
    return (inputs[..., None] * levels).softmax(-1) @ levels
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: a machine without weights
points: 1
""" # END TEST CONFIG
def test_no_weights(free_energy):
    import torch
    from course_lib.answer_checks import bounded, compare
    d, m = {{N_VISIBLE}}, {{N_HIDDEN}}
    v, a = torch.ones(2, d).double(), torch.arange(1, d + 1).double()
    right, flipped, none, softplus, copies, fewer, mean = (
        torch.tensor({{FREE_VALUES}}, dtype=torch.float64)[:, None].expand(-1, 2))
    seen = bounded(free_energy, v, torch.zeros(d, m).double(), a, torch.zeros(m).double(), {{TOP}},
                   without=["course_lib.rbm.RBM.free_energy"])
    compare("F(v) without weights and hidden biases", seen, right, {
        "the sign is flipped: p(v) is proportional to exp(-F)": flipped,
        "the hidden units are missing: without weights each has L + 1 equally probable values": none,
        "softplus knows the values 0 and 1 only, but here there are more": softplus,
        "that is L bits with shared weights: they have L over k ways to count to k, here there is one":
            copies,
        "one value is missing: from 0 to L there are L + 1": fewer,
        "a mean over hidden units instead of a sum": mean,
    })

# %%
""" # BEGIN TEST CONFIG
name: means without weights
points: 1
""" # END TEST CONFIG
def test_mean_public(hidden_mean):
    import torch
    from course_lib.answer_checks import bounded, compare
    d, m = {{N_VISIBLE}}, {{N_HIDDEN}}
    v, c = torch.zeros(1, d).double(), torch.tensor({{HIDDEN_BIAS}}, dtype=torch.float64)
    right, one, copies, no_zero, no_top, mode = torch.tensor({{MEAN_VALUES}}, dtype=torch.float64)[:, None]
    seen = bounded(hidden_mean, v, torch.zeros(d, m).double(), c, {{TOP}})
    compare("E[h | v] without weights", seen, right, {
        "the sigmoid is the mean of a bit, which has the values 0 and 1 only": one,
        "L sigmoids are the mean of L bits with shared weights, which have more ways to count": copies,
        "the value 0 is missing": no_zero,
        "the value L is missing": no_top,
        "the most probable value is not the mean": mode,
    })

# %%
""" # BEGIN TEST CONFIG
name: a machine with weights
points: 2
""" # END TEST CONFIG
def test_weights(free_energy, hidden_mean):
    import torch
    from course_lib.answer_checks import bounded, compare
    w, a, b, v = (torch.tensor(t, dtype=torch.float64) for t in {{MACHINE}})
    right, no_weights, minus, no_bias, softplus, copies, fewer = torch.tensor(
        {{MACHINE_ENERGIES}}, dtype=torch.float64)
    seen = bounded(free_energy, v, w, a, b, {{TOP}}, without=["course_lib.rbm.RBM.free_energy"])
    compare("F(v)", seen, right, {
        "the weights have no effect": no_weights,
        "the sign of the weights is flipped: there is a minus before each term of the energy": minus,
        "the hidden biases have no effect": no_bias,
        "softplus knows the values 0 and 1 only, but here there are more": softplus,
        "that is L bits with shared weights": copies,
        "one value is missing: from 0 to L there are L + 1": fewer,
        "the sign is flipped: p(v) is proportional to exp(-F)": -right,
    })
    right, no_weights, minus, no_bias, bits, copies = torch.tensor({{MACHINE_MEANS}}, dtype=torch.float64)
    seen = bounded(hidden_mean, v, w, b, {{TOP}})
    compare("E[h | v]", seen, right, {
        "the weights have no effect": no_weights,
        "the sign of the weights is flipped: there is a minus before each term of the energy": minus,
        "the hidden biases have no effect": no_bias,
        "the sigmoid is the mean of a bit, which has the values 0 and 1 only": bits,
        "L sigmoids are the mean of L bits with shared weights": copies,
    })

# %%
""" # BEGIN TEST CONFIG
name: against enumeration
points: 5
hidden: true
""" # END TEST CONFIG
def test_enumeration(free_energy, hidden_mean):
    import torch
    from torch.nn import functional as F
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 4)
    d, m, top = {{N_VISIBLE}} + 1, 3, {{TOP}} + 1
    w, a, b = (torch.randn(s, generator=noise).double() for s in [(d, m), (d,), (m,)])
    v = torch.randint(2, (5, d), generator=noise).double()
    h = torch.cartesian_prod(*[torch.arange(top + 1).double()] * m)
    minus_energy = (v @ a)[:, None] + h @ b + v @ w @ h.T
    truth = -torch.logsumexp(minus_energy, 1)
    bias, inputs = v @ a, v @ w + b
    def free(levels): return -bias - (inputs[..., None] * levels).logsumexp(-1).sum(-1)
    seen = bounded(free_energy, v, w, a, b, top, without=["course_lib.rbm.RBM.free_energy"])
    compare("F(v)", seen, truth, {
        "the sign is flipped: p(v) is proportional to exp(-F)": -truth,
        "the sign of the visible bias is flipped": truth + 2 * bias,
        "softplus knows the values 0 and 1 only, but here there are more": -bias - F.softplus(inputs).sum(-1),
        "that is L bits with shared weights: they have L over k ways to count to k, here there is one":
            -bias - top * F.softplus(inputs).sum(-1),
        "one value is missing: from 0 to L there are L + 1": free(torch.arange(top).double()),
        "the value 0 is missing": free(torch.arange(1, top + 1).double()),
        "a mean over hidden units instead of a sum": -bias + (truth + bias) / m,
    }, show=False)
    mean = minus_energy.softmax(1) @ h
    seen = bounded(hidden_mean, v, w, b, top)
    compare("E[h | v]", seen, mean, {
        "the sigmoid is the mean of a bit, which has the values 0 and 1 only": inputs.sigmoid(),
        "L sigmoids are the mean of L bits with shared weights, which have more ways to count":
            top * inputs.sigmoid(),
    }, show=False)

# %%
""" # BEGIN TEST CONFIG
name: large inputs
points: 3
hidden: true
""" # END TEST CONFIG
def test_large(free_energy, hidden_mean):
    import torch
    from course_lib.answer_checks import bounded, compare
    d, m, top = {{N_VISIBLE}}, 2, {{TOP}}
    w = torch.tensor([1000.0, -1000.0]).double().expand(d, m)
    a, b = torch.zeros(d).double(), torch.zeros(m).double()
    v = torch.ones(1, d).double()
    seen = bounded(free_energy, v, w, a, b, top, without=["course_lib.rbm.RBM.free_energy"])
    compare("F(v) with large inputs (e^1000 overflows: use logsumexp)", seen,
            torch.tensor([-1000.0 * d * top]).double(), {
        "softplus knows the values 0 and 1 only, but here there are more": torch.tensor([-1000.0 * d]),
        "one value is missing: from 0 to L there are L + 1": torch.tensor([-1000.0 * d * (top - 1)]),
    }, show=False)
    seen = bounded(hidden_mean, v, w, b, top)
    ends = torch.tensor([[float(top), 0.0]]).double()
    compare("E[h | v] with large inputs (use softmax)", seen, ends, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: softplus and sigmoid, as for bits
# earns: 0
# says: softplus knows the values 0 and 1 only
def free_energy(v, weight, visible_bias, hidden_bias, top):
    return -v @ visible_bias - F.softplus(v @ weight + hidden_bias).sum(-1)

def hidden_mean(v, weight, hidden_bias, top):
    return (v @ weight + hidden_bias).sigmoid()

# %%
# wrong: L bits with shared weights
# earns: 3
# says: L over k ways
def free_energy(v, weight, visible_bias, hidden_bias, top):
    return -v @ visible_bias - top * F.softplus(v @ weight + hidden_bias).sum(-1)

def hidden_mean(v, weight, hidden_bias, top):
    return top * (v @ weight + hidden_bias).sigmoid()

# %%
# wrong: flipped sign
# earns: 1
# says: the sign is flipped
def free_energy(v, weight, visible_bias, hidden_bias, top):
    inputs = v @ weight + hidden_bias
    return v @ visible_bias + (inputs[..., None] * torch.arange(top + 1)).logsumexp(-1).sum(-1)

def hidden_mean(v, weight, hidden_bias, top):
    levels = torch.arange(top + 1).double()
    return ((v @ weight + hidden_bias)[..., None] * levels).softmax(-1) @ levels

# %%
# wrong: the weights with the wrong sign
# earns: 2
# says: the sign of the weights is flipped
def free_energy(v, weight, visible_bias, hidden_bias, top):
    inputs = hidden_bias - v @ weight
    return -v @ visible_bias - (inputs[..., None] * torch.arange(top + 1)).logsumexp(-1).sum(-1)

def hidden_mean(v, weight, hidden_bias, top):
    levels = torch.arange(top + 1).double()
    return ((hidden_bias - v @ weight)[..., None] * levels).softmax(-1) @ levels

# %%
# wrong: L values instead of L + 1
# earns: 0
# says: one value is missing
def free_energy(v, weight, visible_bias, hidden_bias, top):
    inputs = v @ weight + hidden_bias
    return -v @ visible_bias - (inputs[..., None] * torch.arange(top)).logsumexp(-1).sum(-1)

def hidden_mean(v, weight, hidden_bias, top):
    levels = torch.arange(top).double()
    return ((v @ weight + hidden_bias)[..., None] * levels).softmax(-1) @ levels

# %%
# wrong: a mean over hidden units
# earns: 1
# says: mean over hidden units
def free_energy(v, weight, visible_bias, hidden_bias, top):
    inputs = v @ weight + hidden_bias
    return -v @ visible_bias - (inputs[..., None] * torch.arange(top + 1)).logsumexp(-1).mean(-1)

def hidden_mean(v, weight, hidden_bias, top):
    levels = torch.arange(top + 1).double()
    return ((v @ weight + hidden_bias)[..., None] * levels).softmax(-1) @ levels

# %%
# wrong: exponentials that overflow
# earns: 9
# says: use logsumexp
def free_energy(v, weight, visible_bias, hidden_bias, top):
    inputs = v @ weight + hidden_bias
    return -v @ visible_bias - (inputs[..., None] * torch.arange(top + 1)).exp().sum(-1).log().sum(-1)

def hidden_mean(v, weight, hidden_bias, top):
    levels = torch.arange(top + 1).double()
    odds = ((v @ weight + hidden_bias)[..., None] * levels).exp()
    return (odds @ levels) / odds.sum(-1)

# %%
# wrong: calls the library
# earns: 1
# says: switched off
def free_energy(v, weight, visible_bias, hidden_bias, top):
    machine = RBM(weight.shape[0], weight.shape[1])
    return machine.free_energy(v)

def hidden_mean(v, weight, hidden_bias, top):
    levels = torch.arange(top + 1).double()
    return ((v @ weight + hidden_bias)[..., None] * levels).softmax(-1) @ levels

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: missing_pixels
# points: 12
# manual: true

# %% [markdown]
# ## Learning from damaged images (12 points)
#
# Some pixels of a training image are missing. Let $O$ be the pixels that were seen and $U$ the others, so
# $\mathbf v=(\mathbf v_O,\mathbf v_U)$; they may differ from image to image. You maximise $\log
# p_\theta(\mathbf v_O)$ of an RBM of bits. Which pixels are missing does not depend on any pixel's value.
#
# **(a)** (4 points) Write $s(\mathbf v,\mathbf h)=-\nabla_\theta E(\mathbf v,\mathbf h)$. Derive
#
# $$\nabla_\theta\log p_\theta(\mathbf v_O)=\mathbb E_{p_\theta(\mathbf v_U,\mathbf h\mid\mathbf
# v_O)}[s]-\mathbb E_{p_\theta(\mathbf v,\mathbf h)}[s] .$$
#
# Start with the sums, and say where each of the two terms comes from.
#
# **(b)** (4 points) Write out the derivative with respect to $W_{ij}$, for $i\in O$ and for $i\in U$. With
# no pixel missing the positive phase is a formula. Why not in general? Give a Gibbs sampler for it: what is
# drawn, given what, and what is never redrawn? What is the derivative with respect to $b_i$ if pixel $i$ is
# missing from *every* image and all its weights $W_{ij}$ are zero?
#
# **(c)** (4 points) Back to complete images. Contrastive divergence uses the surrogate
# $\ell(\theta)=\frac1B\sum_n\bigl[F_\theta(\mathbf v_n)-F_\theta(\tilde{\mathbf v}_n)\bigr]$ with
# $\tilde{\mathbf v}_n$ held constant. Suppose instead that the samples are smooth functions $\tilde{\mathbf
# v}_n(\theta)$, as relaxed bits are, and that you forget to detach them. Write the gradient that automatic
# differentiation then returns. Say in which direction the additional term moves the samples' free energy
# when you *minimise* $\ell$, and why the gradient of the likelihood has no such term although $p_\theta$
# depends on $\theta$, too.

# %% [raw]
# # BEGIN SOLUTION

# %% [markdown]
# **(a)** $\log p_\theta(\mathbf v_O)=\log\sum_{\mathbf v_U,\mathbf h}e^{-E(\mathbf v,\mathbf
# h)}-\log\sum_{\mathbf v,\mathbf h}e^{-E(\mathbf v,\mathbf h)}$. For any finite set $A$ of states,
# $\nabla\log\sum_Ae^{-E}=\sum_A\frac{e^{-E}}{\sum_Ae^{-E}}(-\nabla E)$: a mean of $s$ under the
# distribution proportional to $e^{-E}$ on $A$. In the first term $A$ holds the states that agree with
# $\mathbf v_O$, and that distribution is $p_\theta(\mathbf v_U,\mathbf h\mid\mathbf v_O)$: the positive
# phase. In the second, which is $\log Z$, $A$ holds all states, and it is $p_\theta(\mathbf v,\mathbf h)$:
# the negative phase.
#
# **(b)** $-\partial E/\partial W_{ij}=v_ih_j$. For $i\in O$ the pixel is a constant in the positive phase:
# $v_i\,\mathbb E[h_j\mid\mathbf v_O]-\mathbb E[v_ih_j]$. For $i\in U$: $\mathbb E[v_ih_j\mid\mathbf
# v_O]-\mathbb E[v_ih_j]$. With all pixels seen, $\mathbb E[h_j\mid\mathbf v]=\sigma(c_j+\sum_iv_iW_{ij})$
# because the hidden units are independent. Given $\mathbf v_O$ only, the paths $h_j$–$v_i$–$h_k$ through
# missing pixels are open, the hidden units are dependent, and the mean is a sum over $2^{\min(|U|,M)}$
# states. Gibbs: start $\mathbf v_U$ anywhere; repeat: draw all $h_j$ from $p(h_j\mid\mathbf v)$, then all
# $v_i$ with $i\in U$ from $p(v_i\mid\mathbf h)$. The pixels of $O$ stay clamped. It has $p(\mathbf
# v_U,\mathbf h\mid\mathbf v_O)$ as its stationary distribution, for it redraws variables from their
# conditionals given everything else. If $W_{ij}=0$ for all $j$, pixel $i$ is independent of all others, so
# $\mathbb E[v_i\mid\mathbf v_O]=\mathbb E[v_i]=\sigma(b_i)$ and the derivative is 0: data that never show a
# pixel say nothing about it.
#
# **(c)** By the chain rule
#
# $$\nabla\ell=\frac1B\sum_n\bigl[\nabla_\theta F_\theta(\mathbf v_n)-\nabla_\theta F_\theta(\mathbf
# u)\big|_{\mathbf u=\tilde{\mathbf v}_n}\bigr]-\frac1B\sum_n\Bigl(\frac{\partial\tilde{\mathbf
# v}_n}{\partial\theta}\Bigr)^{\!\top}\nabla_{\mathbf v}F_\theta(\tilde{\mathbf v}_n) .$$
#
# The last term is the additional one. A step against it changes $\tilde{\mathbf v}_n$ so that
# $F_\theta(\tilde{\mathbf v}_n)$ grows: the parameters are moved to make the chain end in *improbable*
# places, which spoils the sampler and teaches the model nothing about the data. The likelihood has $\log
# Z=\log\sum_{\mathbf v}e^{-F_\theta(\mathbf v)}$, a sum over **all** $\mathbf v$: its terms depend on
# $\theta$ through $F_\theta$, but the places $\mathbf v$ at which it is summed do not. Samples only
# estimate the sum $\sum_{\mathbf v}p_\theta(\mathbf v)\,\nabla F_\theta(\mathbf v)$, which *is* the
# derivative already.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN RUBRIC

# %% [markdown]
# **(a) 4.** Log of a ratio of two sums 1; derivative of a log-sum as a mean 1; the conditional recognised
# 1; negative phase from $\log Z$ 1. **(b) 4.** Both cases 1; hidden units dependent given $\mathbf v_O$ 1;
# sampler with clamped pixels 1; derivative of $b_i$ zero, with the reason, 1. **(c) 4.** Chain rule with
# the additional term, sign included, 2; it raises $F$ of the samples 1; why the likelihood has none 1.
#
# Typical wrong answers:
#
# - (a) "As in the chapter, with $\mathbf v_O$ for $\mathbf v$", without sums: 1 of 4.
# - (a) forgets that $\log Z$ depends on $\theta$: at most 2 of 4.
# - (b) fills missing pixels with 0 (or with the mean image) and uses the sigmoid: 1 of 4; this is the
#   gradient of another likelihood.
# - (b) conditions on the missing pixels in the negative phase, too: loses the first point.
# - (b) redraws all pixels in the sampler: loses its point; that is the negative phase.
# - (b) $b_i$ moves towards 0 (or the derivative is $-\sigma(b_i)$): 0 for the last point.
# - (c) "The gradient is noisier": 0 of 4; the term is a bias, not a variance.
# - (c) right term, wrong direction: 3 of 4 at most, with the reason for the likelihood.

# %% [raw]
# # END RUBRIC

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: pcd_loss
# points: 12

# %% [markdown]
# ## Persistent contrastive divergence, with any sampler (12 points)
#
# Chapter 2's loss draws its own Gibbs samples. Here the chains are moved by a function that you are given.
# It may be smooth: then gradients would flow through it, if you let them.
#
# Write `pcd_loss(v, chains, gibbs_step, n_steps, weight, visible_bias, hidden_bias)` for an RBM of bits.
#
# - `v`, shape `(B, D)`: a batch of data. `chains`, shape `(C, D)`: where the persistent chains stand. $C$
#   may differ from $B$.
# - `gibbs_step(chains, weight, visible_bias, hidden_bias)` returns the chains one step later.
# - `weight` is $\mathbf W$, shape `(D, M)`; the biases have the shapes `(D,)` and `(M,)`. All three require
#   gradients.
#
# Return a pair: a scalar loss to **minimise**, and the chains after `n_steps` steps, which the caller hands
# back to you for the next batch. The gradient of the loss must be *minus (positive phase minus negative
# phase)*, that is, minus the estimate of the gradient of the mean log-likelihood. The value of the loss is
# not tested. `course_lib`'s free energy and its contrastive divergence are switched off.

# %% [raw]
# # BEGIN SOLUTION


# %%
def pcd_loss(v, chains, gibbs_step, n_steps, weight, visible_bias, hidden_bias):
    """The surrogate loss of persistent contrastive divergence, and the moved chains."""
    # BEGIN SOLUTION
    with torch.no_grad():
        for _ in range(n_steps):
            chains = gibbs_step(chains, weight, visible_bias, hidden_bias)

    def free(x):
        return -x @ visible_bias - F.softplus(x @ weight + hidden_bias).sum(-1)

    return free(v).mean() - free(chains).mean(), chains
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: chains that stand still
points: 2
""" # END TEST CONFIG
def test_still(pcd_loss):
    import torch
    from course_lib.answer_checks import bounded, compare
    off = ["course_lib.rbm.RBM.free_energy",
           "course_lib.contrastive_divergence.ContrastiveDivergence.likelihood_gradient"]
    theta = [torch.tensor(t, dtype=torch.float64).requires_grad_() for t in {{PCD_THETA}}]
    v = torch.tensor({{PCD_DATA}}, dtype=torch.float64)
    chains = torch.tensor({{PCD_CHAINS}}, dtype=torch.float64)
    def still(chains, weight, visible_bias, hidden_bias): return chains
    seen = bounded(pcd_loss, v, chains, still, 1, *theta, without=off)
    assert isinstance(seen, tuple | list) and len(seen) == 2, "expected a pair: the loss and the chains"
    on_graph = isinstance(seen[0], torch.Tensor) and seen[0].requires_grad
    assert on_graph, "the loss does not depend on the parameters"
    assert seen[0].shape == (), f"the loss must be a scalar, got the shape {tuple(seen[0].shape)}"
    slopes = torch.autograd.grad(seen[0], theta, allow_unused=True, materialize_grads=True)
    right, flipped, positive, same, sums, by_batch, by_d = torch.tensor({{PCD_VALUES}}, dtype=torch.float64)
    compare("gradient of the loss (W, then b, then c), chains that stand still",
            torch.cat([s.flatten() for s in slopes]), right, {
        "the sign is flipped: this loss would be maximised, and minimising it unlearns the data": flipped,
        "the negative phase is missing": positive,
        "both phases have the same sign": same,
        "sums over the batch and over the chains are not comparable: take means": sums,
        "the negative phase is divided by the size of the batch, but there are C chains": by_batch,
        "everything was divided by D as well": by_d,
        "both phases are the same: that is what chains that began at the data would give": 0 * right,
    })

# %%
""" # BEGIN TEST CONFIG
name: where the chains go
points: 3
""" # END TEST CONFIG
def test_chains(pcd_loss):
    import torch
    from course_lib.answer_checks import bounded, compare
    off = ["course_lib.rbm.RBM.free_energy",
           "course_lib.contrastive_divergence.ContrastiveDivergence.likelihood_gradient"]
    theta = [torch.tensor(t, dtype=torch.float64).requires_grad_() for t in {{PCD_THETA}}]
    v = torch.tensor({{PCD_CHAINS}}, dtype=torch.float64)
    chains = torch.tensor({{PCD_STARTS}}, dtype=torch.float64)
    def step(chains, weight, visible_bias, hidden_bias):
        field = visible_bias + (hidden_bias + chains @ weight).sigmoid() @ weight.T
        return chains.roll(1, -1) / 2 + field.sigmoid() / 2
    right, from_data, one, more = torch.tensor({{MOVED_VALUES}}, dtype=torch.float64)
    seen = bounded(pcd_loss, v, chains, step, {{N_STEPS}}, *theta, without=off)
    assert isinstance(seen, tuple | list) and len(seen) == 2, "expected a pair: the loss and the chains"
    compare("the chains after the steps", seen[1], right, {
        "these are the old chains: nothing would persist": chains,
        "the chains began at the data: that is CD, not persistent CD": from_data,
        "one step was made instead of n_steps": one,
        "one step too many": more,
    })
    assert not getattr(seen[1], "requires_grad", False), (
        "the chains still hang on the graph of this batch: handed back, they keep every batch in memory; "
        "detach them")

# %%
""" # BEGIN TEST CONFIG
name: a smooth sampler
points: 7
hidden: true
""" # END TEST CONFIG
def test_smooth(pcd_loss):
    import torch
    from torch.nn import functional as F
    from course_lib.answer_checks import bounded, compare
    off = ["course_lib.rbm.RBM.free_energy",
           "course_lib.contrastive_divergence.ContrastiveDivergence.likelihood_gradient"]
    noise = torch.Generator().manual_seed({{SEED}} + 7)
    d, m, n_steps = {{N_VISIBLE}} + 1, {{N_HIDDEN}} + 1, {{N_STEPS}}
    theta = [torch.randn(s, generator=noise).double().requires_grad_() for s in [(d, m), (d,), (m,)]]
    v = torch.randint(2, (7, d), generator=noise).double()
    chains = torch.rand(({{N_CHAINS}}, d), generator=noise).double()
    def step(chains, weight, visible_bias, hidden_bias):
        field = visible_bias + 2 * (hidden_bias + chains @ weight).sigmoid() @ weight.T
        return chains.roll(1, -1) / 2 + field.sigmoid() / 2
    def free(x): return -x @ theta[1] - F.softplus(x @ theta[0] + theta[2]).sum(-1)
    def slope(loss):
        return torch.cat([s.flatten() for s in torch.autograd.grad(loss, theta)])
    def after(x, n, fixed=True):
        for _ in range(n):
            x = step(x, *theta)
            x = x.detach() if fixed else x
        return x
    seen = bounded(pcd_loss, v, chains, step, n_steps, *theta, without=off)
    assert isinstance(seen, tuple | list) and len(seen) == 2, "expected a pair: the loss and the chains"
    on_graph = isinstance(seen[0], torch.Tensor) and seen[0].requires_grad
    assert on_graph, "the loss does not depend on the parameters"
    assert seen[0].shape == (), f"the loss must be a scalar, got the shape {tuple(seen[0].shape)}"
    slopes = torch.autograd.grad(seen[0], theta, allow_unused=True, materialize_grads=True)
    x, last = after(chains, n_steps), after(chains, n_steps - 1)
    truth = slope(free(v).mean() - free(x).mean())
    compare("gradient of the loss, with a smooth sampler", torch.cat([s.flatten() for s in slopes]), truth, {
        "gradients flow through the samples: hold them constant":
            slope(free(v).mean() - free(after(chains, n_steps, False)).mean()),
        "gradients flow through the last step of the chain: hold the samples constant":
            slope(free(v).mean() - free(step(last, *theta)).mean()),
        "the sign is flipped: this loss would be maximised, and minimising it unlearns the data": -truth,
        "the chains began at the data: that is CD, not persistent CD":
            slope(free(v).mean() - free(after(v, n_steps)).mean()),
        "one step was made instead of n_steps": slope(free(v).mean() - free(after(chains, 1)).mean()),
        "the negative phase was taken at the old chains": slope(free(v).mean() - free(chains).mean()),
        "the negative phase is missing": slope(free(v).mean()),
        "sums over the batch and over the chains are not comparable: take means":
            slope(free(v).sum() - free(x).sum()),
    }, show=False)
    compare("the chains after the steps of a smooth sampler", seen[1], x.detach(), show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: gradients flow through the samples
# earns: 5
# says: gradients flow through the samples
def pcd_loss(v, chains, gibbs_step, n_steps, weight, visible_bias, hidden_bias):
    for _ in range(n_steps):
        chains = gibbs_step(chains, weight, visible_bias, hidden_bias)
    def free(x): return -x @ visible_bias - F.softplus(x @ weight + hidden_bias).sum(-1)
    return free(v).mean() - free(chains).mean(), chains.detach()

# %%
# wrong: the chains it returns hang on the graph
# earns: 9
# says: keep every batch in memory
def pcd_loss(v, chains, gibbs_step, n_steps, weight, visible_bias, hidden_bias):
    for _ in range(n_steps):
        chains = gibbs_step(chains, weight, visible_bias, hidden_bias)
    fixed = chains.detach()
    def free(x): return -x @ visible_bias - F.softplus(x @ weight + hidden_bias).sum(-1)
    return free(v).mean() - free(fixed).mean(), chains

# %%
# wrong: flipped sign
# earns: 3
# says: the sign is flipped
def pcd_loss(v, chains, gibbs_step, n_steps, weight, visible_bias, hidden_bias):
    with torch.no_grad():
        for _ in range(n_steps):
            chains = gibbs_step(chains, weight, visible_bias, hidden_bias)
    def free(x): return -x @ visible_bias - F.softplus(x @ weight + hidden_bias).sum(-1)
    return free(chains).mean() - free(v).mean(), chains

# %%
# wrong: starts at the data
# earns: 0
# says: began at the data
def pcd_loss(v, chains, gibbs_step, n_steps, weight, visible_bias, hidden_bias):
    chains = v
    with torch.no_grad():
        for _ in range(n_steps):
            chains = gibbs_step(chains, weight, visible_bias, hidden_bias)
    def free(x): return -x @ visible_bias - F.softplus(x @ weight + hidden_bias).sum(-1)
    return free(v).mean() - free(chains).mean(), chains

# %%
# wrong: sums instead of means
# earns: 3
# says: take means
def pcd_loss(v, chains, gibbs_step, n_steps, weight, visible_bias, hidden_bias):
    with torch.no_grad():
        for _ in range(n_steps):
            chains = gibbs_step(chains, weight, visible_bias, hidden_bias)
    def free(x): return -x @ visible_bias - F.softplus(x @ weight + hidden_bias).sum(-1)
    return free(v).sum() - free(chains).sum(), chains

# %%
# wrong: one step only
# earns: 2
# says: one step was made instead of n_steps
def pcd_loss(v, chains, gibbs_step, n_steps, weight, visible_bias, hidden_bias):
    chains = gibbs_step(chains, weight, visible_bias, hidden_bias).detach()
    def free(x): return -x @ visible_bias - F.softplus(x @ weight + hidden_bias).sum(-1)
    return free(v).mean() - free(chains).mean(), chains

# %%
# wrong: calls the library
# earns: 0
# says: switched off
def pcd_loss(v, chains, gibbs_step, n_steps, weight, visible_bias, hidden_bias):
    from course_lib.contrastive_divergence import ContrastiveDivergence
    machine = RBM(*weight.shape)
    return ContrastiveDivergence(machine, n_steps, persistent=True)(v), chains

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: annealing
# points: 12

# %% [markdown]
# ## Annealed importance sampling, there and back (12 points)
#
# Annealing needs no RBM: it needs unnormalised densities $f_\beta$ on a path and a step of a Markov chain
# for each. Let $Z_\beta=\sum_{\mathbf v}f_\beta(\mathbf v)$, $p_\beta=f_\beta/Z_\beta$ and $Z=Z_1$. Write
#
# - `forward_log_weights(v, betas, log_f, step)`: `v`, shape `(C, D)`, are samples at the beginning of the
#   path. Return $\log w$, shape `(C,)`, with $\mathbb E[w]=Z/Z_0$;
# - `reverse_log_weights(v, betas, log_f, step)`: `v` are exact samples at the **end** of the path. Return
#   $\log w'$, shape `(C,)`, with $\mathbb E[w']=Z_0/Z$;
# - `log_z_bracket(forward, reverse, log_z0)`: from the two results and $\log Z_0$ a pair of numbers in
#   nats, the estimate of $\log Z$ whose mean is a lower bound and the one whose mean is an upper bound.
#
# `betas`, shape `(K + 1,)`, increases from 0 to 1 **in both directions**: `betas[0]` is the easy end.
# `log_f(v, beta)` returns $\log f_\beta(\mathbf v)$, shape `(C,)`. `step(v, beta)` returns `v` after one
# step of a reversible chain that leaves $p_\beta$ invariant. Both take `beta` as an element of `betas` or as
# a float. Make one step for each ratio. Steps and ratios may stand in any order for which the two
# expectations are exact; a last step that influences no weight may be left out. The steps in the tests are
# not random and do not return bits, so that each order gives other numbers. `course_lib`'s annealing is
# switched off.

# %% [raw]
# # BEGIN SOLUTION


# %%
def forward_log_weights(v, betas, log_f, step):
    """log w of each chain from the easy end to the machine, shape (C,)."""
    # BEGIN SOLUTION
    log_w = torch.zeros(len(v))
    for old, new in zip(betas[:-1], betas[1:], strict=True):
        log_w = log_w + log_f(v, new) - log_f(v, old)
        v = step(v, new)
    return log_w
    # END SOLUTION


def reverse_log_weights(v, betas, log_f, step):
    """log w' of each chain from the machine to the easy end, shape (C,)."""
    # BEGIN SOLUTION
    log_w = torch.zeros(len(v))
    for k in range(len(betas) - 1, 0, -1):
        v = step(v, betas[k])
        log_w = log_w + log_f(v, betas[k - 1]) - log_f(v, betas[k])
    return log_w
    # END SOLUTION


def log_z_bracket(forward, reverse, log_z0):
    """A lower and an upper estimate of log Z, in nats."""
    # BEGIN SOLUTION
    def log_mean(log_w):
        return log_w.logsumexp(0) - torch.tensor(float(len(log_w))).log()

    return log_z0 + log_mean(forward), log_z0 - log_mean(reverse)
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: forward, with steps that are not random
points: 2
""" # END TEST CONFIG
def test_forward(forward_log_weights):
    import torch
    from torch.nn import functional as F
    from course_lib.answer_checks import bounded, compare
    off = ["course_lib.annealed_importance_sampling._anneal"]
    w, a, b = (torch.tensor(t, dtype=torch.float64) for t in {{AIS_THETA}})
    v = torch.tensor({{AIS_STARTS}}, dtype=torch.float64)
    betas = torch.tensor({{PATH}}, dtype=torch.float64)
    def log_f(v, beta): return beta * (v @ a) + F.softplus(beta * (v @ w + b)).sum(-1)
    def step(v, beta): return (beta * (v.roll(1, -1) @ w @ w.T + a) + v.roll(1, -1) + 0.3).sin()
    right, also_right, early, old, inverse, plain, still = torch.tensor({{AIS_VALUES}}, dtype=torch.float64)
    seen = bounded(forward_log_weights, v, betas, log_f, step, without=off)
    comparable = isinstance(seen, torch.Tensor) and seen.shape == right.shape
    if comparable and torch.allclose(seen.detach().double(), also_right):
        return
    compare("forward log-weights", seen, right, {
        "moved with p_k before the ratio f_k / f_(k-1) was taken: that ratio needs a sample of p_(k-1)":
            early,
        "the steps were made at the old temperature: "
        "after the ratio f_k / f_(k-1) the chain moves with p_k": old,
        "the ratios are upside down: new over old": inverse,
        "this is w: the logarithm is asked for": plain,
        "the chains never moved: that is plain importance sampling": still,
    })

# %%
""" # BEGIN TEST CONFIG
name: reverse, with steps that are not random
points: 1
""" # END TEST CONFIG
def test_reverse(reverse_log_weights):
    import torch
    from torch.nn import functional as F
    from course_lib.answer_checks import bounded, compare
    off = ["course_lib.annealed_importance_sampling._anneal"]
    w, a, b = (torch.tensor(t, dtype=torch.float64) for t in {{AIS_THETA}})
    v = torch.tensor({{AIS_STARTS}}, dtype=torch.float64)
    betas = torch.tensor({{PATH}}, dtype=torch.float64)
    def log_f(v, beta): return beta * (v @ a) + F.softplus(beta * (v @ w + b)).sum(-1)
    def step(v, beta): return (beta * (v.roll(1, -1) @ w @ w.T + a) + v.roll(1, -1) + 0.3).sin()
    right, also_right, late, early, inverse, ahead, plain, still = torch.tensor(
        {{REVERSE_VALUES}}, dtype=torch.float64)
    seen = bounded(reverse_log_weights, v, betas, log_f, step, without=off)
    comparable = isinstance(seen, torch.Tensor) and seen.shape == right.shape
    if comparable and torch.allclose(seen.detach().double(), also_right):
        return
    compare("reverse log-weights", seen, right, {
        "moved with p_k after the ratio f_(k-1) / f_k, "
        "which leaves the next ratio without a sample of p_(k-1)": late,
        "the step before the ratio f_(k-1) / f_k must be one of p_k, not of p_(k-1)": early,
        "the ratios are upside down: the easier over the harder": inverse,
        "walked from the easy end, but exact samples belong to beta = 1": ahead,
        "this is w': the logarithm is asked for": plain,
        "the chains never moved: that is plain importance sampling": still,
    })

# %%
""" # BEGIN TEST CONFIG
name: forward, another path
points: 2
hidden: true
""" # END TEST CONFIG
def test_forward_hidden(forward_log_weights):
    import torch
    from torch.nn import functional as F
    from course_lib.answer_checks import bounded, compare
    off = ["course_lib.annealed_importance_sampling._anneal"]
    noise = torch.Generator().manual_seed({{SEED}} + 8)
    d, m = {{N_VISIBLE}} + 1, {{N_HIDDEN}}
    w, a, b = (torch.randn(s, generator=noise).double() for s in [(d, m), (d,), (m,)])
    v = torch.randint(2, ({{N_CHAINS}} + 1, d), generator=noise).double()
    betas = torch.tensor([0.0, 0.15, 0.35, 0.7, 1.0]).double()
    def log_f(v, beta): return beta * (v @ a) + F.softplus(beta * (v @ w + b)).sum(-1)
    def step(v, beta): return (beta * (v.roll(1, -1) @ w @ w.T + a) + v.roll(1, -1) + 0.3).sin()
    def walk(before=None, after=None):
        x, total = v, torch.zeros(len(v)).double()
        for pair in zip(betas[:-1], betas[1:]):
            x = x if before is None else step(x, pair[before])
            total = total + log_f(x, pair[1]) - log_f(x, pair[0])
            x = x if after is None else step(x, pair[after])
        return total
    truth, also_right = walk(after=1), walk(before=0)
    seen = bounded(forward_log_weights, v, betas, log_f, step, without=off)
    comparable = isinstance(seen, torch.Tensor) and seen.shape == truth.shape
    if comparable and torch.allclose(seen.detach().double(), also_right):
        return
    compare("forward log-weights on another path", seen, truth, {
        "moved with p_k before the ratio f_k / f_(k-1) was taken": walk(before=1),
        "the steps were made at the old temperature": walk(after=0),
        "the ratios are upside down: new over old": -truth,
    }, show=False)

# %%
""" # BEGIN TEST CONFIG
name: reverse, another path
points: 4
hidden: true
""" # END TEST CONFIG
def test_reverse_hidden(reverse_log_weights):
    import torch
    from torch.nn import functional as F
    from course_lib.answer_checks import bounded, compare
    off = ["course_lib.annealed_importance_sampling._anneal"]
    noise = torch.Generator().manual_seed({{SEED}} + 9)
    d, m = {{N_VISIBLE}} + 1, {{N_HIDDEN}}
    w, a, b = (torch.randn(s, generator=noise).double() for s in [(d, m), (d,), (m,)])
    v = torch.randint(2, ({{N_CHAINS}}, d), generator=noise).double()
    betas = torch.tensor([0.0, 0.1, 0.4, 0.8, 1.0]).double()
    def log_f(v, beta): return beta * (v @ a) + F.softplus(beta * (v @ w + b)).sum(-1)
    def step(v, beta): return (beta * (v.roll(1, -1) @ w @ w.T + a) + v.roll(1, -1) + 0.3).sin()
    def walk(before=None, after=None, path=betas.flip(0)):
        x, total = v, torch.zeros(len(v)).double()
        for pair in zip(path[:-1], path[1:]):
            x = x if before is None else step(x, pair[before])
            total = total + log_f(x, pair[1]) - log_f(x, pair[0])
            x = x if after is None else step(x, pair[after])
        return total
    truth, also_right = walk(before=0), walk(after=1)
    seen = bounded(reverse_log_weights, v, betas, log_f, step, without=off)
    comparable = isinstance(seen, torch.Tensor) and seen.shape == truth.shape
    if comparable and torch.allclose(seen.detach().double(), also_right):
        return
    compare("reverse log-weights", seen, truth, {
        "moved with p_k after the ratio f_(k-1) / f_k, "
        "which leaves the next ratio without a sample of p_(k-1)":
            walk(after=0),
        "the step before the ratio f_(k-1) / f_k must be one of p_k, not of p_(k-1)": walk(before=1),
        "the ratios are upside down: the easier over the harder": -truth,
        "walked from the easy end, but exact samples belong to beta = 1": walk(after=1, path=betas),
        "this is w': the logarithm is asked for": truth.exp(),
        "the chains never moved: that is plain importance sampling": walk(),
    }, show=False)

# %%
""" # BEGIN TEST CONFIG
name: the bracket
points: 2
""" # END TEST CONFIG
def test_bracket(log_z_bracket):
    import torch
    from course_lib.answer_checks import bounded, compare
    forward = torch.tensor({{FORWARD}}, dtype=torch.float64)
    reverse = torch.tensor({{REVERSE}}, dtype=torch.float64)
    right, mean, ratio, sums, sign, exchanged, inverted = torch.tensor({{BRACKETS}}, dtype=torch.float64)
    seen = bounded(log_z_bracket, forward, reverse, 3.7)
    if isinstance(seen, tuple | list):
        assert len(seen) == 2, "expected a pair: the lower and the upper estimate"
        seen = torch.stack([torch.as_tensor(x).double() for x in seen])
    compare("lower and upper estimate of log Z (weights of e^1200: stay in log space)", seen, right, {
        "the mean of the logs is not the log of the mean": mean,
        "log Z0 is missing: the weights estimate a ratio": ratio,
        "a sum instead of a mean over chains": sums,
        "the sign of the reverse estimate is wrong: its weights estimate Z0 / Z": sign,
        "lower and upper are exchanged": exchanged,
        "the reverse weights were inverted before their mean was taken: that mean estimates nothing":
            inverted,
    }, rtol=1e-7)

# %%
""" # BEGIN TEST CONFIG
name: the bracket, other numbers
points: 1
hidden: true
""" # END TEST CONFIG
def test_bracket_hidden(log_z_bracket):
    import math
    import torch
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 10)
    forward = torch.randn({{N_CHAINS}} + 2, generator=noise).double() - 900
    reverse = torch.randn({{N_CHAINS}}, generator=noise).double() + 903
    seen = bounded(log_z_bracket, forward, reverse, 5.1)
    if isinstance(seen, tuple | list):
        assert len(seen) == 2, "expected a pair: the lower and the upper estimate"
        seen = torch.stack([torch.as_tensor(x).double() for x in seen])
    low = 5.1 + forward.logsumexp(0) - math.log(len(forward))
    high = 5.1 - reverse.logsumexp(0) + math.log(len(reverse))
    compare("lower and upper estimate of log Z, from other weights", seen, torch.stack([low, high]), {
        "the mean of the logs is not the log of the mean":
            torch.stack([5.1 + forward.mean(), 5.1 - reverse.mean()]),
        "log Z0 is missing: the weights estimate a ratio": torch.stack([low, high]) - 5.1,
    }, rtol=1e-7, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: moves before it weighs
# earns: 8
# says: moved with p_k before the ratio
def forward_log_weights(v, betas, log_f, step):
    log_w = torch.zeros(len(v))
    for old, new in zip(betas[:-1], betas[1:], strict=True):
        v = step(v, new)
        log_w = log_w + log_f(v, new) - log_f(v, old)
    return log_w

def reverse_log_weights(v, betas, log_f, step):
    log_w = torch.zeros(len(v))
    for k in range(len(betas) - 1, 0, -1):
        v = step(v, betas[k])
        log_w = log_w + log_f(v, betas[k - 1]) - log_f(v, betas[k])
    return log_w

def log_z_bracket(forward, reverse, log_z0):
    n, m = torch.tensor([float(len(forward)), float(len(reverse))]).log()
    return log_z0 + forward.logsumexp(0) - n, log_z0 - reverse.logsumexp(0) + m

# %%
# wrong: in reverse, weighs before it moves, at the temperature it leaves
# earns: 7
# says: moved with p_k after the ratio
def forward_log_weights(v, betas, log_f, step):
    log_w = torch.zeros(len(v))
    for old, new in zip(betas[:-1], betas[1:], strict=True):
        log_w = log_w + log_f(v, new) - log_f(v, old)
        v = step(v, new)
    return log_w

def reverse_log_weights(v, betas, log_f, step):
    log_w = torch.zeros(len(v))
    for k in range(len(betas) - 1, 0, -1):
        log_w = log_w + log_f(v, betas[k - 1]) - log_f(v, betas[k])
        v = step(v, betas[k])
    return log_w

def log_z_bracket(forward, reverse, log_z0):
    n, m = torch.tensor([float(len(forward)), float(len(reverse))]).log()
    return log_z0 + forward.logsumexp(0) - n, log_z0 - reverse.logsumexp(0) + m

# %%
# wrong: steps at the old temperature
# earns: 8
# says: at the old temperature
def forward_log_weights(v, betas, log_f, step):
    log_w = torch.zeros(len(v))
    for old, new in zip(betas[:-1], betas[1:], strict=True):
        log_w = log_w + log_f(v, new) - log_f(v, old)
        v = step(v, old)
    return log_w

def reverse_log_weights(v, betas, log_f, step):
    log_w = torch.zeros(len(v))
    for k in range(len(betas) - 1, 0, -1):
        v = step(v, betas[k])
        log_w = log_w + log_f(v, betas[k - 1]) - log_f(v, betas[k])
    return log_w

def log_z_bracket(forward, reverse, log_z0):
    n, m = torch.tensor([float(len(forward)), float(len(reverse))]).log()
    return log_z0 + forward.logsumexp(0) - n, log_z0 - reverse.logsumexp(0) + m

# %%
# wrong: mean of logs
# earns: 9
# says: mean of the logs
def forward_log_weights(v, betas, log_f, step):
    log_w = torch.zeros(len(v))
    for old, new in zip(betas[:-1], betas[1:], strict=True):
        log_w = log_w + log_f(v, new) - log_f(v, old)
        v = step(v, new)
    return log_w

def reverse_log_weights(v, betas, log_f, step):
    log_w = torch.zeros(len(v))
    for k in range(len(betas) - 1, 0, -1):
        v = step(v, betas[k])
        log_w = log_w + log_f(v, betas[k - 1]) - log_f(v, betas[k])
    return log_w

def log_z_bracket(forward, reverse, log_z0):
    return log_z0 + forward.mean(), log_z0 - reverse.mean()

# %%
# wrong: reverse ratios upside down
# earns: 7
# says: the ratios are upside down
def forward_log_weights(v, betas, log_f, step):
    log_w = torch.zeros(len(v))
    for old, new in zip(betas[:-1], betas[1:], strict=True):
        log_w = log_w + log_f(v, new) - log_f(v, old)
        v = step(v, new)
    return log_w

def reverse_log_weights(v, betas, log_f, step):
    log_w = torch.zeros(len(v))
    for k in range(len(betas) - 1, 0, -1):
        v = step(v, betas[k])
        log_w = log_w + log_f(v, betas[k]) - log_f(v, betas[k - 1])
    return log_w

def log_z_bracket(forward, reverse, log_z0):
    n, m = torch.tensor([float(len(forward)), float(len(reverse))]).log()
    return log_z0 + forward.logsumexp(0) - n, log_z0 - reverse.logsumexp(0) + m

# %%
# wrong: log Z0 forgotten
# earns: 9
# says: log Z0 is missing
def forward_log_weights(v, betas, log_f, step):
    log_w = torch.zeros(len(v))
    for old, new in zip(betas[:-1], betas[1:], strict=True):
        log_w = log_w + log_f(v, new) - log_f(v, old)
        v = step(v, new)
    return log_w

def reverse_log_weights(v, betas, log_f, step):
    log_w = torch.zeros(len(v))
    for k in range(len(betas) - 1, 0, -1):
        v = step(v, betas[k])
        log_w = log_w + log_f(v, betas[k - 1]) - log_f(v, betas[k])
    return log_w

def log_z_bracket(forward, reverse, log_z0):
    n, m = torch.tensor([float(len(forward)), float(len(reverse))]).log()
    return forward.logsumexp(0) - n, m - reverse.logsumexp(0)

# %%
# wrong: calls the library
# earns: 3
# says: switched off
def forward_log_weights(v, betas, log_f, step):
    return annealed_importance_sampling(RBM(v.shape[1], 3), betas, len(v)).log_weights

def reverse_log_weights(v, betas, log_f, step):
    bits = (v > 0.5).double()
    return reverse_annealed_importance_sampling(RBM(v.shape[1], 3), bits, betas).log_weights

def log_z_bracket(forward, reverse, log_z0):
    n, m = torch.tensor([float(len(forward)), float(len(reverse))]).log()
    return log_z0 + forward.logsumexp(0) - n, log_z0 - reverse.logsumexp(0) + m

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: annealing_loss
# points: 10

# %% [markdown]
# ## Experiment: what a longer schedule buys (10 points)
#
# By chapter 2 a single path loses, on average and in nats,
#
# $$\ell_\to=\log\frac Z{Z_0}-\mathbb E[\log w]=\mathrm{KL}(q\,\|\,r),\qquad
# \ell_\gets=\log\frac{Z_0}Z-\mathbb E[\log w']=\mathrm{KL}(r\,\|\,q),$$
#
# forward and in reverse; $q$ and $r$ are the laws of the two paths. How do the losses fall with the number
# $K$ of steps ($K+1$ temperatures)? Measure it. Write
#
# - `annealing_loss(rbm, temperatures, n_chains, generator)`: for each whole number $K$ in the list
#   `temperatures`, run `n_chains` chains in each direction with equal steps, and return the estimates of
#   $\ell_\to$ (row 0) and $\ell_\gets$ (row 1), shape `(2, len(temperatures))`. `rbm` is a
#   `course_lib.rbm.RBM` so small that you can compute $\log Z$ exactly. Hand `generator` to everything that
#   draws.
# - `slopes(temperatures, losses)`: for each row the slope of the least-squares line through $\log\ell$
#   against $\log K$, shape `(2,)`. (An estimate that noise has made negative has no logarithm: the slope is
#   then NaN, and more chains help.)
#
# Here you **may** use the whole of `course_lib`. Look at what `AnnealedEstimate` holds, and find $\log Z_0$
# in the first lines of its module. Take the visible bias of the machine for the base, as the library does
# by default. In the tests your losses must lie within 5 standard errors of ours.

# %% [raw]
# # BEGIN SOLUTION


# %%
def annealing_loss(rbm, temperatures, n_chains, generator):
    """The mean loss of a path, forward and in reverse, for each number of steps: shape (2, n)."""
    # BEGIN SOLUTION
    log_z0 = F.softplus(rbm.visible_bias).sum() + rbm.n_hidden * torch.tensor(2.0).log()
    log_ratio = (rbm.log_partition() - log_z0).detach()
    columns = []
    for n_temperatures in temperatures:
        schedule = linear_schedule(n_temperatures)
        ahead = annealed_importance_sampling(rbm, schedule, n_chains, generator=generator)
        start = rbm.sample_exact(n_chains, generator)
        back = reverse_annealed_importance_sampling(rbm, start, schedule, generator=generator)
        forward = log_ratio - ahead.log_weights.mean()
        reverse = -log_ratio - back.log_weights.mean()
        columns.append(torch.stack([forward, reverse]))
    return torch.stack(columns, 1)
    # END SOLUTION


def slopes(temperatures, losses):
    """The slope of log loss against log K, by least squares, for each row: shape (2,)."""
    # BEGIN SOLUTION
    x = torch.tensor(temperatures, dtype=torch.float64).log()
    x = x - x.mean()
    return (losses.log() * x).sum(-1) / x.square().sum()
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: slopes of a power law
points: 2
""" # END TEST CONFIG
def test_slopes(slopes):
    import torch
    from course_lib.answer_checks import bounded, compare
    losses = torch.tensor({{POWER_LAW}}, dtype=torch.float64)
    right, plain, half, other_half, bases, ends, flipped = torch.tensor({{SLOPES}}, dtype=torch.float64)
    seen = bounded(slopes, [4, 10, 32, 50], losses)
    compare("the slopes", seen, right, {
        "the line goes through the losses themselves: take logarithms of both": plain,
        "the logarithm of the losses is missing": half,
        "the logarithm of K is missing": other_half,
        "the two logarithms have different bases": bases,
        "that is the slope between the first and the last point: fit a line through all": ends,
        "the sign is flipped: losses fall": flipped,
    })

# %%
""" # BEGIN TEST CONFIG
name: losses of two small machines
points: 2
""" # END TEST CONFIG
def test_losses(annealing_loss):
    import torch
    from course_lib.answer_checks import bounded, compare
    from course_lib.rbm import RBM
    noise = torch.Generator().manual_seed({{SEED}} + 13)
    def losses_of(parameters):
        machine = RBM(6, 5).double().requires_grad_(False)
        for own, given in zip((machine.weight, machine.visible_bias, machine.hidden_bias), parameters):
            own.copy_(torch.tensor(given, dtype=torch.float64))
        seen = bounded(annealing_loss, machine, [4, 12], 2000, noise)
        compare("shape of the losses", seen, torch.zeros(2, 2).double(), atol=1e9)
        return torch.as_tensor(seen).detach().double()
    def compare_in_errors(seen, right, error, log_z0):
        signs = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
        compare("losses, in standard errors", seen / error, right / error, {
            "log Z0 is missing: the weights estimate a ratio": (right + log_z0 * signs) / error,
            "the sign is flipped: a loss is positive": -right / error,
            "the sign of the reverse loss is flipped": right * signs / error,
            "rows are exchanged: forward is row 0": right.flip(0) / error,
        }, rtol=0, atol=5, show=False)
    seen = losses_of({{VALLEYS}})
    right, error = torch.tensor([{{VALLEYS_LOSSES}}, {{VALLEYS_ERRORS}}], dtype=torch.float64)
    apart = (seen - right) / error
    assert not ((apart[0].abs() < 5).all() and (apart[1] > 5).all()), (
        "the reverse losses are too large where a machine has two valleys of unequal depth: "
        "the reverse chains did not start at exact samples of the machine")
    seen = losses_of({{ROUGH}})
    right, error = torch.tensor([{{ROUGH_LOSSES}}, {{ROUGH_ERRORS}}], dtype=torch.float64)
    assert not (seen.abs() < 0.5 * right).all(), (
        "the losses are much too small: was the log of the mean weight taken? "
        "A path loses the mean of the logs")
    compare_in_errors(seen, right, error, {{ROUGH_BASE}})

# %%
""" # BEGIN TEST CONFIG
name: slopes of another power law
points: 1
hidden: true
""" # END TEST CONFIG
def test_slopes_hidden(slopes):
    import torch
    from course_lib.answer_checks import bounded, compare
    noise = torch.Generator().manual_seed({{SEED}} + 12)
    counts = [3, 7, 20, 41, 90]
    k = torch.tensor(counts).double()
    losses = torch.stack([4 * k**-0.8, 3 * k**-1.3]) * (1 + 0.2 * torch.rand(2, 5, generator=noise))
    def line(x, y): return (y * (x - x.mean())).sum(-1) / (x - x.mean()).square().sum()
    seen = bounded(slopes, counts, losses)
    compare("the slopes of other losses", seen, line(k.log(), losses.log()), {
        "the line goes through the losses themselves: take logarithms of both": line(k, losses),
        "that is the slope between the first and the last point: fit a line through all":
            (losses[:, -1] / losses[:, 0]).log() / (k[-1] / k[0]).log(),
    }, show=False)

# %%
""" # BEGIN TEST CONFIG
name: the slope of the losses
points: 5
hidden: true
""" # END TEST CONFIG
def test_shape(annealing_loss):
    import torch
    from torch.nn import functional as F
    from course_lib.answer_checks import bounded, compare
    from course_lib import annealed_importance_sampling as ais
    from course_lib.rbm import RBM
    noise = torch.Generator().manual_seed({{SEED}} + 14)
    machine = RBM(8, 6).double().requires_grad_(False)
    machine.weight.copy_({{SPREAD}} * torch.randn(8, 6, generator=noise).double())
    machine.visible_bias.copy_(torch.randn(8, generator=noise).double() - 1)
    temperatures = [8, 16, 32]
    seen = bounded(annealing_loss, machine, temperatures, 1000, torch.Generator().manual_seed({{SEED}} + 15))
    compare("shape of the losses", seen, torch.zeros(2, 3).double(), atol=1e9)
    seen = torch.as_tensor(seen).detach().double()
    assert (seen > 0).all(), (
        "some losses are not positive, but a divergence is: signs, log Z0, the mean of the logs "
        "and exact samples are the usual causes")
    assert (seen[:, -1] < seen[:, 0]).all(), "a loss grows with the number of steps"
    x = torch.tensor(temperatures).double().log()
    x = x - x.mean()
    slope = (seen.log() * x).sum(1) / x.square().sum()
    for direction, value in zip(("forward", "reverse"), slope.tolist()):
        assert -1.5 < value < -0.5, (
            f"the {direction} losses fall with the slope {value:.2f}, which no path of this machine has: "
            "are they means of logs, relative to the exact ratio of normalisers, and from the right starts?")
    d, m, n = 7, 4, 2000
    machine = RBM(d, m).double().requires_grad_(False)
    machine.weight.copy_(1.5 + 0.5 * torch.randn(d, m, generator=noise).double())
    machine.visible_bias.copy_(-0.5 * machine.weight.sum(1) - 0.3)
    machine.hidden_bias.copy_(-0.5 * machine.weight.sum(0) - 0.3)
    base = float(F.softplus(machine.visible_bias).sum()) + m * float(torch.tensor(2.0).double().log())
    seen = bounded(annealing_loss, machine, [6], n, torch.Generator().manual_seed({{SEED}} + 16))
    plan = ais.linear_schedule(6)
    start = machine.sample_exact(n, noise)
    log_w = ais.reverse_annealed_importance_sampling(machine, start, plan, generator=noise).log_weights
    scale = log_w.std() * (2 / n) ** 0.5
    truth = base - float(machine.log_partition()) - log_w.mean()
    compare("shape of the losses", seen, torch.zeros(2, 1).double(), atol=1e9)
    value = torch.as_tensor(seen).detach().double()[1, 0]
    assert value - truth < 5 * scale, (
        "the reverse losses are too large where a machine has two valleys of unequal depth: "
        "the reverse chains did not start at exact samples of the machine")
    compare("reverse loss of a machine with two valleys, in standard errors", value / scale, truth / scale,
            rtol=0, atol=5, show=False)
    machine.weight.copy_(2.5 * torch.randn(d, m, generator=noise).double())
    machine.visible_bias.copy_(torch.randn(d, generator=noise).double() - 1)
    machine.hidden_bias.zero_()
    base = float(F.softplus(machine.visible_bias).sum()) + m * float(torch.tensor(2.0).double().log())
    seen = bounded(annealing_loss, machine, [6], n, torch.Generator().manual_seed({{SEED}} + 17))
    compare("shape of the losses", seen, torch.zeros(2, 1).double(), atol=1e9)
    log_w = torch.stack([
        ais.annealed_importance_sampling(machine, plan, n, generator=noise).log_weights,
        ais.reverse_annealed_importance_sampling(machine, machine.sample_exact(n, noise), plan,
                                                 generator=noise).log_weights])
    ratio = (float(machine.log_partition()) - base) * torch.tensor([1.0, -1.0]).double()
    scale = log_w.std(1) * (2 / n) ** 0.5
    compare("losses of a machine with large weights, in standard errors",
            torch.as_tensor(seen).detach()[:, 0] / scale, (ratio - log_w.mean(1)) / scale,
            rtol=0, atol=5, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: the log of the mean weight
# earns: 3
# says: was the log of the mean weight taken
def annealing_loss(rbm, temperatures, n_chains, generator):
    columns = []
    for k in temperatures:
        ahead = annealed_importance_sampling(rbm, linear_schedule(k), n_chains, generator=generator)
        start = rbm.sample_exact(n_chains, generator)
        back = reverse_annealed_importance_sampling(rbm, start, linear_schedule(k), generator=generator)
        log_z = float(rbm.log_partition())
        columns.append(torch.tensor([log_z - ahead.log_partition, back.log_partition - log_z]))
    return torch.stack(columns, 1)

def slopes(temperatures, losses):
    x = torch.tensor(temperatures, dtype=torch.float64).log()
    x = x - x.mean()
    return (losses.log() * x).sum(-1) / x.square().sum()

# %%
# wrong: log Z0 forgotten
# earns: 3
# says: log Z0 is missing
def annealing_loss(rbm, temperatures, n_chains, generator):
    columns = []
    for k in temperatures:
        ahead = annealed_importance_sampling(rbm, linear_schedule(k), n_chains, generator=generator)
        start = rbm.sample_exact(n_chains, generator)
        back = reverse_annealed_importance_sampling(rbm, start, linear_schedule(k), generator=generator)
        log_z = rbm.log_partition().detach()
        columns.append(torch.stack([log_z - ahead.log_weights.mean(), -log_z - back.log_weights.mean()]))
    return torch.stack(columns, 1)

def slopes(temperatures, losses):
    x = torch.tensor(temperatures, dtype=torch.float64).log()
    x = x - x.mean()
    return (losses.log() * x).sum(-1) / x.square().sum()

# %%
# wrong: reverse chains start at noise
# earns: 3
# says: did not start at exact samples
def annealing_loss(rbm, temperatures, n_chains, generator):
    log_z0 = F.softplus(rbm.visible_bias).sum() + rbm.n_hidden * torch.tensor(2.0).log()
    ratio = (rbm.log_partition() - log_z0).detach()
    columns = []
    for k in temperatures:
        ahead = annealed_importance_sampling(rbm, linear_schedule(k), n_chains, generator=generator)
        start = torch.randint(2, (n_chains, rbm.n_visible), generator=generator).double()
        back = reverse_annealed_importance_sampling(rbm, start, linear_schedule(k), generator=generator)
        columns.append(torch.stack([ratio - ahead.log_weights.mean(), -ratio - back.log_weights.mean()]))
    return torch.stack(columns, 1)

def slopes(temperatures, losses):
    x = torch.tensor(temperatures, dtype=torch.float64).log()
    x = x - x.mean()
    return (losses.log() * x).sum(-1) / x.square().sum()

# %%
# wrong: the sign of the reverse loss
# earns: 3
# says: the sign of the reverse loss is flipped
def annealing_loss(rbm, temperatures, n_chains, generator):
    log_z0 = F.softplus(rbm.visible_bias).sum() + rbm.n_hidden * torch.tensor(2.0).log()
    ratio = (rbm.log_partition() - log_z0).detach()
    columns = []
    for k in temperatures:
        ahead = annealed_importance_sampling(rbm, linear_schedule(k), n_chains, generator=generator)
        start = rbm.sample_exact(n_chains, generator)
        back = reverse_annealed_importance_sampling(rbm, start, linear_schedule(k), generator=generator)
        columns.append(torch.stack([ratio - ahead.log_weights.mean(), ratio + back.log_weights.mean()]))
    return torch.stack(columns, 1)

def slopes(temperatures, losses):
    x = torch.tensor(temperatures, dtype=torch.float64).log()
    x = x - x.mean()
    return (losses.log() * x).sum(-1) / x.square().sum()

# %%
# wrong: a line through the losses instead of their logarithms
# earns: 7
# says: take logarithms of both
def annealing_loss(rbm, temperatures, n_chains, generator):
    log_z0 = F.softplus(rbm.visible_bias).sum() + rbm.n_hidden * torch.tensor(2.0).log()
    ratio = (rbm.log_partition() - log_z0).detach()
    columns = []
    for k in temperatures:
        ahead = annealed_importance_sampling(rbm, linear_schedule(k), n_chains, generator=generator)
        start = rbm.sample_exact(n_chains, generator)
        back = reverse_annealed_importance_sampling(rbm, start, linear_schedule(k), generator=generator)
        columns.append(torch.stack([ratio - ahead.log_weights.mean(), -ratio - back.log_weights.mean()]))
    return torch.stack(columns, 1)

def slopes(temperatures, losses):
    x = torch.tensor(temperatures, dtype=torch.float64)
    x = x - x.mean()
    return (losses * x).sum(-1) / x.square().sum()

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: annealing_comment
# points: 4
# manual: true

# %% [markdown]
# ## What the experiment says (4 points)
#
# Measure with your functions of the last question, in a cell of your own:
#
# ```python
# torch.manual_seed({{SEED}})
# machine = RBM(8, 6)
# torch.nn.init.normal_(machine.weight, std={{SPREAD}})
# temperatures = [8, 16, 32, 64, 128]
# losses = annealing_loss(machine, temperatures, 1000, torch.Generator().manual_seed({{SEED}}))
# print(losses, slopes(temperatures, losses))
# path, start = linear_schedule(32), machine.sample_exact(1000)
# print("bracket", annealed_importance_sampling(machine, path, 1000).log_partition,
#       reverse_annealed_importance_sampling(machine, start, path).log_partition)
# ```
#
# Then answer in 80 to 200 words, with the numbers of your run:
#
# **(a)** (2 points) Which slopes did you measure, and why should they be near $-1$? (The exercise *Where to
# put the temperatures* of chapter 2 has what you need for the forward loss. Say what changes in reverse.)
# Name one reason why yours is not exactly $-1$.
#
# **(b)** (2 points) The last line prints the bracket of 1000 chains with 32 steps. It is much narrower than
# $\ell_\to+\ell_\gets$ at $K=32$, and may even come out crossed, by noise. Why so narrow? And what is left
# of the bracket if the reverse chains start at test images instead of exact samples?

# %% [raw]
# # BEGIN SOLUTION

# %% [markdown]
# **(a)** With 8 to 128 steps both slopes come out between about $-0.8$ and $-1.2$ (with some machines a
# little outside). If the chains keep up, a path loses $\sum_k\mathrm{KL}(p_{k-1}\,\|\,p_k)$, and in reverse
# $\sum_k\mathrm{KL}(p_k\,\|\,p_{k-1})$, which is the same to second order. For small steps each term is about
# $\frac12\Delta^2\operatorname{Var}_\beta(\partial_\beta\log f_\beta)$; there are $K$ of them with
# $\Delta=1/K$, so the sum is proportional to $1/K$. Deviations: the chains lag behind by a step, the
# expansion holds for small steps only (at $K=8$ they are not small), and the means of 1000 chains are
# noisy.
#
# **(b)** The bracket uses the log of the mean weight, and the loss the mean of the logs. By Jensen's
# inequality the former is closer to $\log Z$. For $n$ weights with relative variance $\rho$ its mean loss
# is about $\rho/(2n)$, while a single path loses about $\rho/2$ if $\rho$ is small. With 1000 chains this
# is less than the noise of either estimate, about $\sqrt{\rho/n}$: so the two may be crossed. Their means
# are bounds, a pair of estimates need not be. Started at test images, the reverse weights do not have
# the mean $Z_0/Z$. The result is above or below $\log Z$, as it happens, and bounds nothing: only the
# forward estimate is left.

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN RUBRIC

# %% [markdown]
# **(a) 2.** Own numbers (slopes from about $-0.7$ to $-1.3$ are honest), and $K$ terms of order $1/K^2$ in
# both directions, 1; a reason for the deviation 1. **(b) 2.** Log of the mean against mean of logs 1; exact
# samples are needed, without them no bound, 1. A bracket that came out crossed costs nothing. Shorter than
# 80 words: at most 3.
#
# Typical wrong answers:
#
# - (a) "Monte Carlo error falls like $1/K$": 0 for the reason; $K$ is not the number of samples.
# - (a) slopes quoted from a neighbour or without a run: 0 of 2.
# - (b) "More chains, less noise": 0 for the reason; the loss is a bias and does not shrink when logs are
#   averaged.
# - (b) "Crossed, so something is wrong": 0 for the reason; only the means of the two are ordered.
# - (b) "From test images the upper bound becomes looser": 0; it is no bound at all.

# %% [raw]
# # END RUBRIC

# %% [raw]
# # END QUESTION
