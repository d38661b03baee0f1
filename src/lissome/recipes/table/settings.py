"""What `lissome fit` asks; loads neither torch nor anything heavy."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from lissome.recipes.course import double
from lissome.recipes.settings import OPTIMIZER, Network, NetworkSettings, Strict, TrainingSettings

Task = Literal["auto", "regression", "classification"]
TASKS = get_args(Task)
FIRST = "adam"  # moves the numbers where nothing else is said: a table has many rows
USUAL_SIZES = {"kan": (16, 1), "slim-kan": (64, 1), "mlp": (64, 2)}  # width, depth
QUICK = {"training.steps": 100, "training.evaluate": 20, "training.checkpoint": 50, "training.compile": False}


class TableNetworkSettings(NetworkSettings):
    """The network of a table: a KAN, and as wide and deep as is usual for its kind."""

    kind: Network = "kan"

    @model_validator(mode="before")
    @classmethod
    def _sized(cls, data: Any) -> Any:
        """Fill in width and depth."""
        if not isinstance(data, dict):
            return data
        usual = USUAL_SIZES.get(str(data.get("kind") or "kan"), USUAL_SIZES["kan"])
        filled = dict(zip(("width", "depth"), usual, strict=True))
        return data | {key: value for key, value in filled.items() if data.get(key) is None}


class TableSettings(Strict):
    """`lissome fit`: a function or a table of data by a network."""

    data: str = Field(description="a .csv, .tsv, .npy or .npz file, images in idx form or their folder, or digits")
    target: str | None = Field(
        default=None, description="column to be told from the others, or several with commas; null is the last one"
    )
    task: Task = Field(default="auto", description="auto: a target of text or of few whole numbers is classified")
    leave: list[str] = Field(default=[], description="columns that are not read, such as an index")
    rows: int | None = Field(default=None, ge=3, description="so many rows at most, drawn by the seed; null is all")
    test: float = Field(default=0.2, ge=0, lt=1, description="part of the rows that is held out")
    batch: int | Literal["auto"] = Field(
        default="auto", description="rows of a step; auto is 256 for first-order optimizers and all rows for others"
    )
    network: TableNetworkSettings = Field(default_factory=lambda: TableNetworkSettings.model_validate({}))
    training: TrainingSettings = Field(default_factory=lambda: TrainingSettings(optimizer=FIRST))
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: str = "auto"
    dtype: Literal["float32", "float64"] = Field(
        default="float32", description="float64 is the default where an optimizer of second order is asked for"
    )

    @model_validator(mode="before")
    @classmethod
    def _usual(cls, data: Any) -> Any:
        """Take adam where no optimizer is named, and float64 where one is that needs it, unless told otherwise."""
        if not isinstance(data, dict):
            return data
        training = data.get("training", {})
        if isinstance(training, dict) and training.get("optimizer") is None:
            training = training | {"optimizer": FIRST}
            data = data | {"training": training}
        if data.get("dtype") is not None:
            return data
        kept = {key: value for key, value in data.items() if key != "dtype"}
        return kept | ({"dtype": "float64"} if isinstance(training, dict) and double(training, OPTIMIZER) else {})

    @field_validator("batch")
    @classmethod
    def _batched(cls, batch: int | str) -> int | str:
        if isinstance(batch, int) and batch < 1:
            raise ValueError(f"batch is {batch}; legal are 1 and more rows, and auto")
        return batch
