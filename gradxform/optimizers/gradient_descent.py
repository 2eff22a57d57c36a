"""Gradient descent, with and without momentum."""

from typing import Any

import jax

from gradxform.chain import chain, identity
from gradxform.hyperparams import Hyperparam, Scalar
from gradxform.optimizers.recipe import descend
from gradxform.primitives.momentum import scale_by_optimistic_gradient, trace
from gradxform.primitives.noise import add_noise
from gradxform.primitives.privacy import differentially_private_aggregate
from gradxform.primitives.scaling import scale_by_learning_rate, scale_by_polyak
from gradxform.transformation import GradientTransformation

__all__ = ["dpsgd", "noisy_sgd", "optimistic_gradient_descent", "polyak_sgd", "sgd"]


def sgd(
    learning_rate: Hyperparam,
    momentum: Hyperparam | None = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
) -> GradientTransformation:
    r"""Gradient descent: :math:`w \leftarrow w - \alpha g`.

    How the gradient is drawn makes it one of three algorithms: of the mean
    loss over the whole data set (gradient descent), of one random example
    (stochastic gradient descent), or of a random batch (mini-batch gradient
    descent); `gradxform.fit` draws all three.

    Args:
      learning_rate: :math:`\alpha`.
      momentum: the decay :math:`\mu` of the heavy ball
        :math:`v \leftarrow g + \mu v`, which then takes the gradient's place.
      nesterov: whether the ball looks ahead.
      accumulator_dtype: the dtype to keep :math:`v` in.

    Returns:
      A `GradientTransformation`, without slots if there is no momentum.

    Raises:
      ValueError: `momentum` is not in [0, 1].

    References:
      Robbins and Monro, `A stochastic approximation method
      <https://doi.org/10.1214/aoms/1177729586>`_, 1951.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.sgd(0.1)
      >>> updates, _ = tx.update({"w": 2.0}, tx.init({"w": 1.0}))
      >>> round(updates["w"].item(), 6)
      -0.2
    """
    return chain(
        identity() if momentum is None else trace(momentum, nesterov, accumulator_dtype),
        scale_by_learning_rate(learning_rate),
    )


def dpsgd(
    learning_rate: Hyperparam,
    l2_norm_clip: Scalar,
    noise_multiplier: Scalar,
    seed: int | jax.Array,
    momentum: Hyperparam | None = None,
    nesterov: bool = False,
) -> GradientTransformation:
    r"""Differentially private gradient descent: what is learned tells little of any one example.

    .. math::
      w \leftarrow w - \frac{\alpha}{B} \Bigl(\sum_{b=1}^B g_b \min\bigl(1, C / \lVert g_b \rVert\bigr)
        + \mathcal{N}(0, \sigma^2 C^2)\Bigr)

    The gradients come with the examples along their first axis:
    ``jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, batch)``. What
    gathers gradients, such as `MultiSteps`, cannot stand around it. How much
    privacy a run has spent is to be counted elsewhere.

    Args:
      learning_rate: :math:`\alpha`.
      l2_norm_clip: :math:`C`, the largest norm of an example's gradient, above 0.
      noise_multiplier: :math:`\sigma`, at least 0.
      seed: a number to make a random key from, or a random key. The privacy
        rests on its being unknown.
      momentum: the decay of the heavy ball that then takes the gradient's
        place, as in `sgd`.
      nesterov: whether the ball looks ahead.

    Returns:
      A `GradientTransformation`; its updates have the parameters' shapes.

    Raises:
      ValueError: a hyperparameter is out of its bounds; in `update`, a
        gradient has no axis of examples, or one of another length than the others'.
      TypeError: `seed` is neither an integer nor a random key.

    References:
      Abadi et al., `Deep learning with differential privacy
      <https://arxiv.org/abs/1607.00133>`_, 2016.

    Example:
      >>> import gradxform as gx
      >>> import jax
      >>> import jax.numpy as jnp
      >>> def loss(w, x):
      ...     return (w - x) ** 2
      >>> tx = gx.dpsgd(0.1, l2_norm_clip=1.0, noise_multiplier=0.0, seed=0)
      >>> grads = jax.vmap(jax.grad(loss), in_axes=(None, 0))(0.0, jnp.asarray([0.25, 5.0]))
      >>> round(tx.update(grads, tx.init(0.0))[0].item(), 6)
      0.075
    """
    return chain(
        differentially_private_aggregate(l2_norm_clip, noise_multiplier, seed),
        identity() if momentum is None else trace(momentum, nesterov),
        scale_by_learning_rate(learning_rate),
    )


def noisy_sgd(
    learning_rate: Hyperparam,
    eta: Hyperparam = 0.01,
    gamma: Hyperparam = 0.55,
    key: jax.Array | int | None = None,
    *,
    seed: int | None = None,
) -> GradientTransformation:
    r"""Gradient descent with noise that fades.

    .. math::
      w \leftarrow w - \alpha (g + \mathcal{N}(0, \eta / t^\gamma))

    Args:
      learning_rate: :math:`\alpha`.
      eta, gamma, key, seed: as in `add_noise`.

    Returns:
      A `GradientTransformation` without slots.

    Raises:
      ValueError: a hyperparameter is out of its bounds, or there is no key, or two.
      TypeError: the key is neither a random key nor an integer.

    References:
      Neelakantan et al., `Adding gradient noise improves learning for very deep networks
      <https://arxiv.org/abs/1511.06807>`_, 2015.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.noisy_sgd(0.5, eta=0.0, key=0)
      >>> tx.update({"w": 2.0}, tx.init({"w": 1.0}))[0]["w"].item()
      -1.0
    """
    return descend(add_noise(eta, gamma, key, seed=seed), learning_rate)


def optimistic_gradient_descent(
    learning_rate: Hyperparam, alpha: Hyperparam = 1.0, beta: Hyperparam = 1.0
) -> GradientTransformation:
    r"""Gradient descent for games: it expects the next gradient to change as this one did.

    .. math::
      w \leftarrow w - \lambda (\alpha g + \beta (g - g_{\text{last}}))

    Where plain descent circles around a saddle that two players look for, it arrives.

    Args:
      learning_rate: :math:`\lambda`.
      alpha, beta: as in `scale_by_optimistic_gradient`.

    Returns:
      A `GradientTransformation` with one slot the size of the parameters.

    References:
      Mokhtari, Ozdaglar and Pattathil, `A unified analysis of extra-gradient and optimistic
      gradient methods <https://arxiv.org/abs/1901.08511>`_, 2020.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.optimistic_gradient_descent(0.5)
      >>> tx.update({"w": 2.0}, tx.init({"w": 1.0}))[0]["w"].item()
      -1.0
    """
    return descend(scale_by_optimistic_gradient(alpha, beta), learning_rate)


def polyak_sgd(
    max_learning_rate: Hyperparam = 1.0,
    scaling: Hyperparam = 1.0,
    f_min: Hyperparam = 0.0,
    eps: Hyperparam = 0.0,
    variant: str = "sps",
) -> GradientTransformation:
    r"""Gradient descent with Polyak's step: as long as the loss is above its least value.

    .. math::
      w \leftarrow w - \min\Bigl(\frac{f - f_{\min}}{\lVert g \rVert^2 + \epsilon}, \alpha_{\max}\Bigr) g

    Args:
      max_learning_rate, f_min, eps, variant: as in `scale_by_polyak`.
      scaling: a factor on the gradient before its norm is taken.

    Returns:
      A `GradientTransformation` without slots; its update needs the loss,
      ``update(grads, state, params, value=loss)``.

    Raises:
      ValueError: a hyperparameter is out of its bounds, or the variant unknown.
      TypeError: in `update`, there is no `value`.

    References:
      Loizou et al., `Stochastic Polyak step-size for SGD
      <https://arxiv.org/abs/2002.10542>`_, 2021.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.polyak_sgd()
      >>> tx.update({"w": 4.0}, tx.init({"w": 2.0}), value=4.0)[0]["w"].item()
      -1.0
    """
    return chain(sgd(scaling), scale_by_polyak(f_min, max_learning_rate, eps, variant))
