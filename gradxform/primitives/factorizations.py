"""Factorizations of matrices, called so that on a CPU none waits for another."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap

__all__ = ["eigenvalues", "eigenvectors", "orthogonal_factor", "singular_vectors", "solve_transposed"]


def _one_by_one(factorize: Callable[..., Any]) -> Callable[..., Any]:
    """The function of matrices, which on a CPU takes those of a batch one after the other.

    There jaxlib's factorization of a batch waits for threads of the pool that it runs in itself: as many
    of these at once as there are threads, and all wait for ever. A lone matrix waits for no one. Elsewhere,
    and in derivatives, a batch is factorized as it is.

    Args:
      factorize: a function of matrices, whose leading axes are batches.

    Returns:
      A function that does the same.
    """
    alone = sequential_vmap(factorize)

    @jax.custom_jvp
    def on_platform(*matrices: jax.Array) -> Any:
        return lax.platform_dependent(*matrices, cpu=alone, default=factorize)

    @on_platform.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        return jax.jvp(factorize, primals, tangents)

    def call(*matrices: jax.Array) -> Any:
        each = on_platform
        for _ in range(matrices[0].ndim - 2):
            each = jax.vmap(each)
        return each(*matrices)

    return call


@_one_by_one
def eigenvectors(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues of a Hermitian matrix, which ascend, and its eigenvectors, the columns."""
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors


@_one_by_one
def eigenvalues(matrix: jax.Array) -> jax.Array:
    """Eigenvalues of a Hermitian matrix, which ascend."""
    values: jax.Array = jnp.linalg.eigvalsh(matrix)
    return values


@_one_by_one
def singular_vectors(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Left singular vectors, the columns, and conjugated right ones, the rows, the largest first."""
    u, _, vh = jnp.linalg.svd(matrix, full_matrices=False)
    return u, vh


@_one_by_one
def orthogonal_factor(matrix: jax.Array) -> jax.Array:
    """Columns that are orthogonal and span what the matrix's first columns span, one after the other."""
    factor: jax.Array = jnp.linalg.qr(matrix)[0]
    return factor


@_one_by_one
def solve_transposed(factor: jax.Array, x: jax.Array) -> jax.Array:
    r""":math:`R^{-\top} x` for an upper triangular factor."""
    solution: jax.Array = lax.linalg.triangular_solve(factor, x, left_side=True, transpose_a=True)
    return solution
