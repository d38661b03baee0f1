"""Estimators for scikit-learn: a table by a KAN, a Slim KAN or an MLP, where pipelines and searches expect one.

They train by the one loop in memory, on all rows that `fit` is given; `lissome.recipes.fit_table` holds rows out, keeps
a run directory and draws a page. scikit-learn is imported here and not in `lissome.bridges`, since an estimator needs
`models` and `optim`, which bridges may not import.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np

from lissome._errors import Interrupted, UsageError
from lissome.optim import checkpoint
from lissome.recipes.settings import validate
from lissome.recipes.table.model import kept, new_model, rebuilt
from lissome.recipes.table.roles import Roles
from lissome.recipes.table.scale import scale_of
from lissome.recipes.table.settings import TableSettings
from lissome.recipes.table.training import objective_of, train
from lissome.recipes.training import device_of

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_random_state, column_or_1d
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise UsageError(
        "lissome.recipes.estimator needs scikit-learn; install it with: pip install 'lissome[sklearn]'"
    ) from error

SEEDS = 2**31 - 1
FITTED = ("n_features_in_", "n_iter_", "loss_", "feature_names_in_", "classes_", "_single")  # attributes that are saved


class _TableEstimator(BaseEstimator):
    """What the two estimators share: parameters, training, saving."""

    def __init__(
        self,
        network="kan",
        *,
        width=None,
        depth=None,
        basis="bspline",
        intervals=5,
        order=3,
        ranks=(8, 4, 8),
        activation="gelu",
        steps=500,
        optimizer="adam",
        rate=None,
        options=None,
        batch="auto",
        dtype="float64",
        device="auto",
        random_state=None,
    ):
        self.network = network
        self.width = width
        self.depth = depth
        self.basis = basis
        self.intervals = intervals
        self.order = order
        self.ranks = ranks
        self.activation = activation
        self.steps = steps
        self.optimizer = optimizer
        self.rate = rate
        self.options = options
        self.batch = batch
        self.dtype = dtype
        self.device = device
        self.random_state = random_state

    def save(self, path: str | Path) -> Path:
        """Write the fitted estimator as a directory of safetensors and JSON, whole or not at all; return its path.

        A seed that is no number is not kept; the numbers that came of it are.

        Raises:
            UsageError: the path holds something that `save` has not written.
            RunError: it cannot be written.
        """
        check_is_fitted(self)
        path = Path(path)
        if path.exists() and not (path / checkpoint.STATE).is_file():
            raise UsageError(f"'{path}' exists and is no saved estimator; name another directory")
        parameters = {name: _plain(value) for name, value in self.get_params(deep=False).items()}
        if not isinstance(parameters["random_state"], int | None):
            parameters["random_state"] = None
        attributes = {name: getattr(self, name) for name in FITTED if name in vars(self)}
        state = {
            "estimator": type(self).__name__,
            "parameters": parameters,
            "attributes": {name: _kept(value) for name, value in attributes.items()},
            "model": self._known,
        }
        checkpoint.write(path, self.model_.network.state_dict(), state)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return an estimator that `save` wrote, on the CPU; it predicts as it did, to the last bit.

        Raises:
            UsageError: there is none, a file of it is damaged, or it is one of another class.
        """
        if not checkpoint.exists(Path(path)):
            raise UsageError(f"'{path}' holds no saved estimator")
        found = checkpoint.read(Path(path))
        name = found.state.get("estimator")
        if name != cls.__name__:
            raise UsageError(f"'{path}' holds {name or 'no estimator'}; {cls.__name__}.load reads a {cls.__name__}")
        estimator = cls(**found.state["parameters"])
        for key, value in found.state["attributes"].items():
            setattr(estimator, key, _from_kept(value))
        estimator._known = found.state["model"]
        estimator.model_ = rebuilt(estimator._known)
        checkpoint.load_weights(estimator.model_.network, found.model, str(path))
        return estimator

    def _learn(self, X: np.ndarray, y: np.ndarray, classes: tuple[str, ...] = ()) -> None:
        """Train on rows (N, d) and targets (N, k) or places of classes (N,)."""
        settings = self._settings()
        task = "classification" if classes else "regression"
        targets = 1 if classes else y.shape[1]
        inputs, names = (tuple(map(str, range(1, size + 1))) for size in (X.shape[1], targets))
        known = Roles(inputs, names, task, "as asked for", classes)
        model = new_model(known, scale_of(X, None if classes else y), settings.network, settings.dtype, settings.seed)
        model.network.to(device_of(settings.device))
        try:
            result = train(model, objective_of(model, X, y), settings)
        except Interrupted as error:  # a search over estimators would take it for a failed fit and go on
            raise KeyboardInterrupt(str(error)) from error
        model.network.eval()
        self.model_, self.n_iter_, self.loss_ = model, result.steps, result.loss
        self._known = kept(model, settings.network, settings.dtype)

    def _settings(self) -> TableSettings:
        own = {name: _plain(value) for name, value in self.get_params(deep=False).items()}
        sizes = {name: own[name] for name in ("width", "depth", "basis", "intervals", "order", "ranks", "activation")}
        course = {name: own[name] for name in ("optimizer", "rate", "steps")} | {"options": own["options"] or {}}
        seed = check_random_state(self.random_state).randint(SEEDS)
        return validate(
            TableSettings,
            {
                "data": "rows in memory",
                "network": {"kind": own["network"]} | sizes,
                "training": course | {"evaluate": own["steps"], "compile": False},
                "batch": own["batch"],
                "dtype": own["dtype"],
                "device": own["device"],
                "seed": int(seed),
            },
        )


class KANRegressor(RegressorMixin, _TableEstimator):
    """One number or several from the columns of a table.

    Args:
        network: kan, slim-kan or mlp.
        width: neurons of each hidden layer; None is 16 of a KAN, 64 of others.
        depth: hidden layers; None is 1 of KANs, 2 of an MLP.
        basis: of a KAN: bspline, chebyshev, fourier or rbf.
        intervals: of its grid.
        order: of B-splines.
        ranks: of a Slim KAN: outputs, basis, inputs.
        activation: of an MLP.
        steps: of the optimizer.
        optimizer: such as adam, gauss-newton, or adam:300+lbfgs:50.
        rate: of learning; None is what is usual for the optimizer.
        options: of the optimizer, such as {"weight_decay": 10.0} of adamw against noise in a small table; or None.
        batch: rows of a step; auto is 256 for first-order optimizers and all rows for others.
        dtype: float32 or float64.
        device: auto, cpu, cuda, cuda:1 or mps.
        random_state: seed of the start and of the batches, as scikit-learn reads it.

    Example:
        >>> X = np.linspace(-1, 1, 60)[:, None]
        >>> KANRegressor(steps=200, random_state=0).fit(X, X[:, 0] ** 2).score(X, X[:, 0] ** 2) > 0.99
        True
    """

    def fit(self, X, y) -> Self:
        """Learn from rows X (N, d) and targets y (N,) or (N, k).

        Raises:
            UsageError: a parameter that is not legal; a `ValueError` too.
        """
        data: Any = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True, ensure_min_samples=2)
        X, y = data
        self._single = y.ndim == 1
        self._learn(X, np.array(y, dtype=np.float64).reshape(len(X), -1))
        return self

    def predict(self, X) -> np.ndarray:
        """Return the targets (N,) or (N, k), as they were given to `fit`."""
        check_is_fitted(self)
        rows: Any = validate_data(self, X, dtype=np.float64, reset=False)
        found = self.model_(rows).numpy()
        return found[:, 0] if self._single else found

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class KANClassifier(ClassifierMixin, _TableEstimator):
    """One of two or more classes from the columns of a table.

    Args:
        network: kan, slim-kan or mlp.
        width: neurons of each hidden layer; None is 16 of a KAN, 64 of others.
        depth: hidden layers; None is 1 of KANs, 2 of an MLP.
        basis: of a KAN: bspline, chebyshev, fourier or rbf.
        intervals: of its grid.
        order: of B-splines.
        ranks: of a Slim KAN: outputs, basis, inputs.
        activation: of an MLP.
        steps: of the optimizer.
        optimizer: such as adam, gauss-newton, or adam:300+lbfgs:50.
        rate: of learning; None is what is usual for the optimizer.
        options: of the optimizer, such as {"weight_decay": 10.0} of adamw against noise in a small table; or None.
        batch: rows of a step; auto is 256 for first-order optimizers and all rows for others.
        dtype: float32 or float64.
        device: auto, cpu, cuda, cuda:1 or mps.
        random_state: seed of the start and of the batches, as scikit-learn reads it.

    Example:
        >>> X = np.linspace(-1, 1, 60)[:, None]
        >>> KANClassifier(steps=100, random_state=0).fit(X, np.abs(X[:, 0]) < 0.5).predict([[0.9], [0.1]])
        array([False,  True])
    """

    def fit(self, X, y) -> Self:
        """Learn from rows X (N, d) and labels y (N,), of any type that can be sorted.

        Raises:
            UsageError: a parameter that is not legal, or labels of one class alone; a `ValueError` too.
        """
        data: Any = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        X, y = data
        check_classification_targets(y)
        self.classes_, places = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        if len(self.classes_) < 2:
            raise UsageError(f"y has one class alone, {self.classes_[0]!r}; legal are two and more")
        self._learn(X, places.astype(np.int64), tuple(map(str, self.classes_)))
        return self

    def predict_proba(self, X) -> np.ndarray:
        """Return the probabilities (N, C) of the classes, in the order of `classes_`."""
        check_is_fitted(self)
        rows: Any = validate_data(self, X, dtype=np.float64, reset=False)
        return self.model_(rows).numpy()

    def predict(self, X) -> np.ndarray:
        """Return the most probable class of each row (N,)."""
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(1)]


def _plain(value: Any) -> Any:
    """Return numpy's numbers and arrays as Python's."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _kept(value: Any) -> Any:
    """Return an attribute as a checkpoint holds it; an array keeps its type."""
    return {"values": value.tolist(), "type": str(value.dtype)} if isinstance(value, np.ndarray) else _plain(value)


def _from_kept(value: Any) -> Any:
    """Undo `_kept`."""
    return np.array(value["values"], dtype=value["type"]) if isinstance(value, dict) else value
