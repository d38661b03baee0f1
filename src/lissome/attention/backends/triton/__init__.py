"""Kernels in Triton: the special ways on a GPU, each a pair of functions `forward` and `backward` on tensors.

Where torch sees a GPU they are added to the operators of these ways; elsewhere Triton is not loaded.
"""

from importlib.util import find_spec

import torch

if torch.cuda.is_available() and find_spec("triton"):
    from lissome.attention.backends.triton import registered

    registered.add()
