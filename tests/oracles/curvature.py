"""Dense derivatives, number by number, by nothing but torch.autograd.grad."""

import torch


def jacobian(r, x):
    """Return dr/dx (M, p) of a function of a flat point, one row at a time; r may also be a scalar, (1, p)."""
    x = x.detach().clone().requires_grad_()
    value = r(x).reshape(-1)
    return torch.stack([_row(component, x, graph=False) for component in value])


def hessian(f, x):
    """Return the second derivatives (p, p) of a scalar function, one row of the gradient's Jacobian at a time."""
    x = x.detach().clone().requires_grad_()
    slope = _row(f(x), x, graph=True)
    return torch.stack([_row(component, x, graph=False) for component in slope])


def _row(component, x, *, graph):
    if not component.requires_grad:
        return torch.zeros_like(x)
    (row,) = torch.autograd.grad(component, x, retain_graph=True, create_graph=graph, materialize_grads=True)
    return row


def flat(f, tensors):
    """Return a function of a dict as one of a vector, and the vector."""

    def function(vector):
        parts = vector.split([tensor.numel() for tensor in tensors.values()])
        return f({name: part.view_as(tensors[name]) for name, part in zip(tensors, parts, strict=True)})

    return function, torch.cat([tensor.reshape(-1) for tensor in tensors.values()])
