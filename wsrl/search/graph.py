"""Candidates by SymphonyQG (Gou et al. 2025), a graph of vectors whose edges carry quantized codes (extra `graph`).

A walk over the graph looks at few vectors however many there are, where their intrinsic dimension is low: where those
that are near to one are near to one another, as relatives are.
"""

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from wsrl.errors import InputError
from wsrl.extras import require
from wsrl.search.components import Vectors, principal_axes, project
from wsrl.search.fixed_point import single
from wsrl.search.local_dimension import NEIGHBORS, local_dimension, sampled_rows

COMPONENTS = 256  # that the graph is made of, at most
MULTIPLE = 64  # that rabitqlib needs their number to be of; shorter vectors are filled up with zeros
DEGREE = 32  # edges of a vector
BITS = 8  # of a component that is stored with a vector
CANDIDATES_BUILD = 100  # vectors that edges are chosen from
# Of a million vectors in families, with a list of 800, the first 100 hold .9865 of the 10 nearest, 200 .989, 400 .9925:
# some large families lie so close that their components do not tell which members are nearest.
CANDIDATES_FACTOR, CANDIDATES_POWER = 6.4, 0.3  # candidates, by the number of vectors
LEAST = 150  # candidates, at least
VISITED_A_CANDIDATE = 2  # length of the list that a walk keeps. Where the dimension is high it is longer, and the more
# so the more vectors there are: of resampled ones, all far from one another, a hundred thousand need 400 for .99 of the
# 10 nearest, a million 3,200. Their components have a dimension of 19, those of families one of 7.
FEW, MANY_POWER = 100_000, 0.6
LOW, HIGH = 8.0, 18.0  # dimensions between which that power grows from 0


class Graph:
    """A graph of the principal components of vectors. Get one by `build` or `load`.

    Attributes:
      graph: rabitqlib's.
      axes: of the components.
      vectors: that it was made of.
    """

    name = "graph"

    def __init__(self, graph: Any, axes: Float32[np.ndarray, "dim components"], vectors: Vectors):
        self._graph, self._axes, self._vectors = graph, axes, vectors

    @classmethod
    def build(cls, vectors: Vectors) -> "Graph":
        """Makes the graph of vectors, which are read once. It takes minutes for a million."""
        axes = principal_axes(vectors, COMPONENTS)
        axes = np.pad(axes, ((0, 0), (0, -axes.shape[1] % MULTIPLE)))
        graph = require("rabitqlib", "graph").SymqgIndex(axes.shape[1], DEGREE, "l2", BITS)
        graph.build(project(vectors, axes), CANDIDATES_BUILD, os.cpu_count() or 1)
        return cls(graph, axes, vectors)

    @property
    def least(self) -> int:
        """How many candidates hold the nearest few."""
        return max(LEAST, round(CANDIDATES_FACTOR * self._graph.num_points**CANDIDATES_POWER))

    @cached_property
    def _visited(self) -> float:
        """Length of the list that a walk keeps, for each candidate."""
        own = single(self._vectors[sampled_rows(self._graph.num_points)]) @ self._axes
        count = min(NEIGHBORS + 1, self._graph.num_points)
        _, squared = self._graph.search_batch(own, count, 4 * count, 1)
        dimension = local_dimension(np.asarray(squared).reshape(len(own), count)[:, 1:])
        power = MANY_POWER * min(max((dimension - LOW) / (HIGH - LOW), 0), 1)
        return VISITED_A_CANDIDATE * max(1.0, (self._graph.num_points / FEW) ** power)

    def find(
        self, queries: Float32[np.ndarray, "q dim"], count: int
    ) -> tuple[Int64[np.ndarray, "q count"], Float32[np.ndarray, "q count"]]:
        """Returns rows that may be nearest to each query, and the squared distances of their components, ascending."""
        count = min(count, self._graph.num_points)
        length = round(self._visited * count)
        threads = min(os.cpu_count() or 1, len(queries))
        rows, squared = self._graph.search_batch(queries @ self._axes, count, length, threads)
        rows = np.asarray(rows, np.int64).reshape(len(queries), count)
        rows = np.where((rows >= 0) & (rows < self._graph.num_points), rows, -1)
        return rows, np.asarray(squared, np.float32).reshape(len(queries), count)

    def save(self, paths: tuple[Path, Path]) -> None:
        """Writes the graph and the axes."""
        self._graph.save(str(paths[0]))
        with open(paths[1], "wb") as file:
            np.save(file, self._axes, allow_pickle=False)

    @classmethod
    def load(cls, paths: tuple[Path, Path], vectors: Vectors) -> "Graph":
        """Reads what `save` wrote; the caller has compared the files with their digests.

        Raises:
          InputError: rabitqlib is not installed or refuses the file.
        """
        library = require("rabitqlib", "graph").SymqgIndex
        try:
            return cls(library.load(str(paths[0])), np.load(paths[1], allow_pickle=False), vectors)
        except (RuntimeError, ValueError, OSError) as error:
            raise InputError(paths[0], f"cannot be read ({error})", "build the index again") from error
