"""Bases of B A and the nearest Kronecker product by their definitions: slow and obvious, in float64."""

import numpy as np


def singular_terms(B, A):
    """Return the terms u s v^T of numpy's SVD of B A, largest first: (min(out, in), out, in)."""
    U, s, Vh = np.linalg.svd(B.double().numpy() @ A.double().numpy(), full_matrices=False)
    return np.stack([size * np.outer(u, v) for u, size, v in zip(U.T, s, Vh, strict=True)])


def terms(B, A):
    """Return the terms b a^T: (r, out, in)."""
    return np.stack([np.outer(b, a) for b, a in zip(B.double().numpy().T, A.double().numpy(), strict=True)])


def kronecker(K, M):
    """Return K x M entry by entry, G[a, b, c, d] = K[a, c] M[b, d]."""
    r = len(K)
    G = np.zeros((r, r, r, r))
    for a in range(r):
        for b in range(r):
            for c in range(r):
                for d in range(r):
                    G[a, b, c, d] = float(K[a, c]) * float(M[b, d])
    return G


def distance(G, K, M):
    """Return |G - K x M|."""
    return float(np.linalg.norm((G.double().numpy() - kronecker(K, M)).reshape(-1)))


def alternating(G, rounds=300):
    """Return |G - K x M| after least squares in K and in M by turns."""
    G = G.double().numpy()
    K = np.einsum("abcb->ac", G)
    for _ in range(rounds):
        M = np.einsum("abcd,ac->bd", G, K) / (K * K).sum()
        K = np.einsum("abcd,bd->ac", G, M) / (M * M).sum()
    return float(np.linalg.norm((G - np.einsum("ac,bd->abcd", K, M)).reshape(-1)))
