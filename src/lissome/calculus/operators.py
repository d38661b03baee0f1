"""A matrix known by its products, and how one product becomes many.

Many columns go through `vmap` in chunks. The size of a chunk is chosen by a trial that wastes nothing: the columns
themselves are done in chunks of 8, 32 and 128 while a column gets faster, and then one at a time where even 8 are no
gain. Small functions are bound by the calls, and 32 columns cost what 3 do; large ones by memory, and one column at a
time keeps its arrays in the cache (per column of a Hessian, one thread, float64: 105 parameters and 30 points 0.34 ms
alone and 0.02 of 64; 2,241 parameters and 1,000 points 2.3 ms alone and 2.7 of 64).
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vmap

from lissome._errors import RunError, UsageError

Product = Callable[[Tensor], Tensor]

SIZES = (8, 32, 128)  # columns of a chunk, as they are tried
WORTH = 0.9  # a size is taken that needs at most this part of the seconds of the one before
CHUNK_NUMBERS = 2**26  # numbers that columns done at once may hold: half a gigabyte in float64
DENSE_NUMBERS = 25_000_000  # numbers of a matrix that dense() makes without being asked twice: 5,000 x 5,000
KERNEL = re.compile(r"derivative for '?(?:aten::)?(\w+)'? is not implemented|forward AD with (\w+) that")


class Columns:
    """One product, applied to many columns.

    Args:
        one: (n,) -> (m,), without graph.
        size: m and n.
        spare: a second way to the same product, taken for good where the first one cannot be gone.
        chunk: columns done at once; None finds the size by the trial above.
        load: numbers that one product holds on its way, which bound the trial.
    """

    def __init__(
        self,
        one: Product,
        size: tuple[int, int],
        *,
        spare: Product | None = None,
        chunk: int | None = None,
        load: int = 0,
    ):
        if chunk is not None and chunk < 1:
            raise UsageError(f"chunk is {chunk}; legal is None, or a whole number of at least 1")
        self.one, self.spare, self.size = one, spare, size
        self.products = 0
        self.chunk = chunk  # what the trial has settled on so far
        self._best = float("inf")  # seconds for each column, at that size
        most = max(1, CHUNK_NUMBERS // max(*size, load))
        # each twice: on a busy machine one slow chunk says nothing yet
        tried = [each for each in SIZES for _ in range(2) if each <= most] or [1]
        self._open = [] if chunk is not None else tried
        self._vmaps = True

    def __call__(self, V: Tensor) -> Tensor:
        """Apply to a vector (n,) or to the columns of (n, k), and count them."""
        if V.ndim == 1:
            self.products += 1
            return self._loop(V[None])[0]
        parts, rows = [], V.mT.contiguous()  # (k, n)
        while len(rows):
            trial = len(rows) >= self._next() and bool(self._open)
            size = min(self._next(), len(rows))
            start = time.perf_counter()
            try:
                parts.append(self._block(rows[:size]))
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                self.chunk, self._open = size // 2, []
                continue
            if trial:
                _wait(V)
                self._judge(size, (time.perf_counter() - start) / size)
            rows = rows[size:]
        self.products += V.shape[1]
        return torch.cat(parts).mT if parts else V.new_zeros(self.size[0], 0)

    def _next(self) -> int:
        return self._open[0] if self._open else self.chunk or 1

    def _judge(self, size: int, seconds: float) -> None:
        self._open.remove(size)
        if seconds < WORTH * self._best:
            self.chunk, self._best = size, seconds
            self._open = [each for each in self._open if each != size]
        elif size not in self._open:
            self._open.clear()
        if not self._open and self.chunk == SIZES[0] and size != 1:
            self._open = [1]

    def _block(self, rows: Tensor) -> Tensor:
        """Return the products of (c, n), (c, m)."""
        if not self._vmaps or len(rows) == 1:
            return self._loop(rows)
        try:
            with warnings.catch_warnings():
                # where one operation has no rule for columns, torch loops over it alone
                warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
                return vmap(self.one, randomness="same")(rows)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            out = self._loop(rows)  # says what is wrong, if it is not vmap
            self._vmaps = False
            return out

    def _loop(self, rows: Tensor) -> Tensor:
        try:
            return torch.stack([self.one(row) for row in rows])
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if self.spare is None:
                raise told(error) from error
            first = error
        try:
            out = torch.stack([self.spare(row) for row in rows])
        except RuntimeError:
            raise told(first) from first
        self.one, self.spare, self._vmaps = self.spare, None, True
        return out


class Operator:
    """A real matrix (m, n) known by its products.

    It answers `A @ v` for a vector (n,), `A @ V` for the columns of (n, k), `A.T` and `A.dense()`, always without
    graph. `A.products` counts the columns it has answered (those of another operator, by which `dense` may be cheaper,
    not), and `A.chunk` is the number of them done at once: None until
    the trial has begun. Sizes of chunks differ in rounding, so what must repeat bit by bit fixes `chunk`.

    Args:
        forth: the product.
        back: the product of the transpose; None for a symmetric matrix.
        like: a tensor of the dtype and device of all vectors.
        whole: another way to the matrix itself, where there is a cheaper one than column by column.
    """

    def __init__(
        self, forth: Columns, back: Columns | None, like: Tensor, *, whole: Callable[[], Tensor] | None = None
    ):
        self._forth, self._back, self._whole = forth, back, whole
        self.shape = forth.size
        self.dtype, self.device = like.dtype, like.device

    def __repr__(self) -> str:
        return f"Operator(shape={self.shape}, dtype={self.dtype}, products={self.products})"

    @property
    def products(self) -> int:
        """Columns answered so far."""
        return self._forth.products

    @property
    def chunk(self) -> int | None:
        """Columns done at once, as far as the trial has come."""
        return self._forth.chunk

    @property
    def T(self) -> Operator:  # noqa: N802
        """The transpose; the operator itself where that is symmetric."""
        if self._back is None:
            return self
        whole = self._whole
        like = torch.zeros(0, dtype=self.dtype, device=self.device)
        return Operator(self._back, self._forth, like, whole=None if whole is None else lambda: whole().mT)

    def __matmul__(self, other: Tensor) -> Tensor:
        """Apply to a vector (n,) or to the columns of (n, k).

        Raises:
            UsageError: another shape, dtype or device, or a kernel without the derivative that is needed.
            RunError: the product is not finite.
        """
        n = self.shape[1]
        if not isinstance(other, Tensor):
            raise UsageError(
                f"the operator is applied to a {type(other).__name__}; legal is a tensor ({n},) or ({n}, k)"
            )
        if other.ndim not in (1, 2) or len(other) != n:
            raise UsageError(
                f"the operator {self.shape[0]} x {n} is applied to a tensor of shape {tuple(other.shape)}; "
                f"legal is a vector ({n},) or columns ({n}, k)"
            )
        if other.dtype != self.dtype or other.device != self.device:
            raise UsageError(
                f"the operator is {self.dtype} on {self.device} and is applied to {other.dtype} on {other.device}; "
                "legal is the same: call to(operator.device, operator.dtype)"
            )
        out = self._forth(other.detach())
        if not bool(out.isfinite().all()):
            raise RunError(
                "a product with the operator is not finite: look for a root, a logarithm or a quotient at 0 in the "
                "function, or numbers that are not finite in what it was applied to"
            )
        return out

    def dense(self, *, limit: int = DENSE_NUMBERS) -> Tensor:
        """Return the matrix itself, (m, n), by as many products as its smaller side has numbers.

        Args:
            limit: numbers of the matrix above which it is refused.

        Raises:
            UsageError: the matrix is larger.
        """
        m, n = self.shape
        if m * n > limit:
            raise UsageError(
                f"the dense matrix has {m} x {n} numbers, more than limit={limit}: use products, operator @ v, or a "
                "Krylov method on them such as lissome.calculus.lanczos, or raise limit"
            )
        if self._whole is not None:
            return self._whole()
        if self._back is None or n <= m:
            return self @ torch.eye(n, dtype=self.dtype, device=self.device)
        return (self.T @ torch.eye(m, dtype=self.dtype, device=self.device)).mT


def told(error: RuntimeError) -> Exception:
    """Return what torch says of a missing derivative as a sentence with the cure, or the error itself."""
    if "once_differentiable" in str(error):
        return UsageError(
            "the function holds a torch.autograd.Function marked once_differentiable, which has no second derivative: "
            "write its backward pass from differentiable operations and take the mark away"
        )
    if "not have been used in the graph" in str(error):
        return UsageError(
            "the function calls torch.autograd.grad itself, which forward mode cannot see through: take "
            "mode='double-backward', or torch.func.grad inside the function"
        )
    found = KERNEL.search(str(error))
    if found is None:
        return error
    kernel = found[1] or found[2]
    cure = "write it from operations that have one"
    if "attention" in kernel:
        cure = (
            'give a transformers model attn_implementation="eager", or evaluate the function under '
            "torch.nn.attention.sdpa_kernel(SDPBackend.MATH)"
        )
    elif "rnn" in kernel:
        cure = "evaluate the function under torch.backends.cudnn.flags(enabled=False)"
    order = "second" if found[1] else "forward-mode"
    return UsageError(f"the kernel '{kernel}' in the function has no {order} derivative: {cure}")


def _wait(like: Tensor) -> None:
    """Let an accelerator finish what it was given, so that the clock tells the truth."""
    if like.is_cuda:
        torch.cuda.synchronize(like.device)
