"""Vectors in a file for other programs: NumPy's .npz, or Parquet."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int

from wsrl.embedded import Embedded
from wsrl.errors import InputError
from wsrl.extras import require
from wsrl.files import writing_atomically
from wsrl.search.catalog import Model
from wsrl.search.file_identity import located, printable_id
from wsrl.search.store import Store

ROWS = 4096  # of a row group of Parquet


def vector_arrays(
    ids: Sequence[str],
    about: Sequence[Embedded | Model],
    weights: Float32[np.ndarray, "n dim"],
    functions: Float32[np.ndarray, "m other"],
    has_function: Int[np.ndarray, " m"],
    encoder: str,
) -> dict[str, np.ndarray]:
    """Returns the arrays of an .npz file: what is known of each model in a row.

    Args:
      ids: of the models.
      about: what is known of them, in the same order.
      weights: their weights vectors.
      functions: the function vectors that there are.
      has_function: whose these are, places among `ids`.
      encoder: its hash.
    """
    arrays = {
        "ids": np.array(ids),
        "embeddings": weights,
        "architecture": np.array([row.architecture for row in about]),
        "parameters": np.array([row.parameters for row in about], np.int64),
        "assumed": np.array(["; ".join(row.assumed) for row in about]),
        "encoder": np.array(encoder),
    }
    if functions.shape[1]:
        arrays["function"] = np.full((len(ids), functions.shape[1]), np.nan, np.float32)
        arrays["function"][has_function] = functions
        arrays["accuracy"] = np.array([np.nan if row.accuracy is None else row.accuracy for row in about], np.float32)
    return arrays


def export_models(store: Store, file: Path) -> None:
    """Writes all models of an index, vectors and what is known of them.

    Args:
      store: the index.
      file: `.npz` has the arrays of `vector_arrays` and `path`, `content_digest`, `weights_digest` and `metadata` as
        JSON; `.parquet` the same as columns, `weights` and `function` as lists of float32.

    Raises:
      InputError: the name ends otherwise, or Parquet is asked for without the extra.
    """
    if file.suffix not in (".npz", ".parquet"):
        raise InputError(file, "ends neither in .npz nor in .parquet", "name a file that does")
    if file.suffix == ".parquet":
        require("pyarrow", "parquet")  # before any work is done
    models = store.catalog.models()
    vectors = store.weights, store.functions, store.has_function
    arrays = vector_arrays(store.ids, models, *vectors, store.manifest.encoder)
    known = [{**model.metadata, **store.catalog.annotations(model.id)} for model in models]
    arrays["path"] = np.array([printable_id(located(store.directory, model.path)) for model in models])
    for name in ("content_digest", "weights_digest"):
        arrays[name] = np.array([getattr(model, name) for model in models])
    arrays["metadata"] = np.array([json.dumps(own) for own in known])
    with writing_atomically(file) as content:
        if file.suffix == ".npz":
            np.savez(content, allow_pickle=False, **arrays)  # pyright: ignore[reportArgumentType]
        else:
            _write_parquet(arrays, content)


def _write_parquet(arrays: dict[str, np.ndarray], file: object) -> None:
    pyarrow, parquet = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
    encoder = str(arrays.pop("encoder"))
    names = {"ids": "id", "embeddings": "weights"}
    columns = {}
    for name, array in arrays.items():
        values = pyarrow.array(array.reshape(-1), from_pandas=name == "accuracy")  # NaN: there is none
        if array.ndim == 2:
            nothing = pyarrow.array(np.isnan(array[:, 0]))
            fixed = pyarrow.FixedSizeListArray.from_arrays(values, array.shape[1], mask=nothing)
            values = fixed.cast(pyarrow.list_(pyarrow.float32()))  # pyarrow 25 reads none of fixed length with nulls
        columns[names.get(name, name)] = values
    table = pyarrow.table(columns).replace_schema_metadata({"encoder": encoder})
    parquet.write_table(table, file, row_group_size=ROWS)
