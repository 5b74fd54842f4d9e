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
N_VISIBLE = int(rng.integers(4, 7))  # noqa: F821  (the pipeline provides rng)
N_HIDDEN = int(rng.integers(3, 6))  # noqa: F821
SEED = int(rng.integers(1000))  # noqa: F821

# %% [raw]
# # ASSIGNMENT CONFIG
# name: ps1
# init_cell: true
# check_all_cell: false
# export_cell: false
# runs_on: default
# tests:
#   files: true
#   ok_format: false
# generate:
#   show_hidden: false
#   plugins: []

# %% [markdown]
# # Problem set 1: Markov networks and RBMs

# %%
import torch
from torch.nn import functional as F

from course_lib.rbm import RBM

torch.manual_seed({{SEED}})
rbm = RBM({{N_VISIBLE}}, {{N_HIDDEN}}).double()

# %% [raw]
# # BEGIN QUESTION
# name: free_energy
# points: 12

# %% [markdown]
# **Question.** Write the free energy of a batch of visible vectors with weights of shape ({{N_VISIBLE}}, {{N_HIDDEN}}).

# %% [raw]
# # BEGIN SOLUTION


# %%
def free_energy(v, weight, visible_bias, hidden_bias):
    """F(v) with p(v) = exp(−F(v)) / Z: v of shape (B, D); shape (B,)."""
    # BEGIN SOLUTION
    return -v @ visible_bias - F.softplus(v @ weight + hidden_bias).sum(-1)
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: visible bias only
points: 4
""" # END TEST CONFIG
def test_visible(free_energy):
    import torch
    from course_lib.answer_checks import bounded, compare
    v = torch.ones(2, {{N_VISIBLE}}).double()
    zero = torch.zeros({{N_VISIBLE}}, {{N_HIDDEN}}).double()
    a = torch.arange({{N_VISIBLE}}).double()
    b = torch.zeros({{N_HIDDEN}}).double()
    truth = -a.sum() - {{N_HIDDEN}} * torch.tensor(2.0).log()
    seen = bounded(free_energy, v, zero, a, b, without=["course_lib.rbm.RBM.free_energy"])
    compare("F(v) without weights", seen, truth.expand(2), {
        "the sign is flipped: probability is exp(−F)": -truth.expand(2),
        "Σ log(1 + e^0) = H log 2 is missing": -a.sum().expand(2),
    })

# %%
""" # BEGIN TEST CONFIG
name: against enumeration
points: 8
hidden: true
""" # END TEST CONFIG
def test_enumeration(free_energy):
    import torch
    from course_lib.answer_checks import bounded, compare
    from course_lib.distributions import all_states
    noise = torch.Generator().manual_seed({{SEED}} + 1)
    w, a, b = (torch.randn(s, generator=noise).double() for s in [({{N_VISIBLE}}, {{N_HIDDEN}}), ({{N_VISIBLE}},), ({{N_HIDDEN}},)])
    v = torch.randint(2, (5, {{N_VISIBLE}}), generator=noise).double()
    h = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * {{N_HIDDEN}}).double()
    energy = -(v @ a)[:, None] - h @ b - v @ w @ h.T
    truth = -torch.logsumexp(-energy, 1)
    seen = bounded(free_energy, v, w, a, b, without=["course_lib.rbm.RBM.free_energy"])
    compare("F(v)", seen, truth, {"the sign is flipped: probability is exp(−F)": -truth}, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: flipped sign
# earns: 0
# says: sign is flipped
def free_energy(v, weight, visible_bias, hidden_bias):
    return v @ visible_bias + F.softplus(v @ weight + hidden_bias).sum(-1)

# %%
# wrong: calls the library
# earns: 0
# says: switched off
def free_energy(v, weight, visible_bias, hidden_bias):
    machine = RBM(*weight.shape).double()
    return machine.free_energy(v)

# %%
# wrong: loops for ever
# earns: 0
# says: loop for ever
def free_energy(v, weight, visible_bias, hidden_bias):
    while True:
        pass

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION
