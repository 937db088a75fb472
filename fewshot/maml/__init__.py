"""MAML and its kin: learning where gradient steps on a support set should start, and how long they should be.

safe.py, head.py       adapting one head by gradient steps, how many by leave-one-out: `MAMLHead`
tasks.py               episodes as tensors, and what a learner is
closed.py              linear heads, exact second order in the span of the support set
functional.py          small networks, all episodes at once (torch.func)
modules.py, exact.py   any module, by learn2learn; what stands in the way of a second derivative
backbone.py            a tuned backbone (LoRA, last blocks) with a linear head as such a module
train.py               meta-training on episodes of base classes, with early stopping

Only head.py and safe.py do without torch; learn2learn is imported by modules.py when a learner is made.
"""
