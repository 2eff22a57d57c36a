"""Sophia: steps divided by an estimate of the Hessian's diagonal."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gradxform.arguments import check_number, whole
from gradxform.arithmetic import debias, ema_of
from gradxform.hyperparams import (
    Hyperparam,
    Scalar,
    debiased,
    get_hyperparams,
    nonnegative,
    positive,
    unit,
)
from gradxform.optimizers.recipe import descend
from gradxform.primitives.moments import AdamSlots, adam_slots
from gradxform.rule import LiftState, Mask, Rule, Step, lift
from gradxform.slots import EXACT
from gradxform.transformation import GradientTransformation, Params, State, Updates, accepted_keywords
from gradxform.tree import random_like
from gradxform.wrappers.wrapper import Wrapper, conform

__all__ = [
    "HutchinsonState",
    "SophiaState",
    "hutchinson_estimator_diag_hessian",
    "scale_by_sophia",
    "sophia",
]


class HutchinsonState(NamedTuple):
    """The state of `hutchinson_estimator_diag_hessian`: the random key of the next estimate."""

    key: jax.Array


class SophiaState(NamedTuple):
    """The state of `scale_by_sophia`.

    Attributes:
      inner_state: the moments of gradient and Hessian.
      hessian_fn_state: the estimator's state.
    """

    inner_state: Annotated[LiftState, EXACT]
    hessian_fn_state: State


def hutchinson_estimator_diag_hessian(random_seed: jax.Array | None = None) -> GradientTransformation:
    r"""Estimate the Hessian's diagonal: :math:`u = z \odot H z`, where :math:`z` has random signs.

    Its expectation is the diagonal; one estimate costs about two gradients.

    Args:
      random_seed: a random key; by default ``jax.random.PRNGKey(0)``.

    Returns:
      A `GradientTransformation`; its update takes no notice of the gradients,
      and needs the loss as a function, ``update(grads, state, params, obj_fn=loss)``.

    Raises:
      TypeError, ValueError: in `update`, `obj_fn` or the parameters are missing.

    References:
      Hutchinson, `A stochastic estimator of the trace of the influence matrix
      <https://doi.org/10.1080/03610918908812806>`_, 1989.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.hutchinson_estimator_diag_hessian()
      >>> tx.update(0.0, tx.init(2.0), 2.0, obj_fn=lambda w: 1.5 * w**2)[0].item()
      3.0
    """

    def init(params: Params) -> HutchinsonState:
        return HutchinsonState(jax.random.PRNGKey(0) if random_seed is None else jnp.array(random_seed))

    def update(
        grads: Updates, state: HutchinsonState, params: Params | None = None, obj_fn: Any = None, **extra: Any
    ) -> tuple[Updates, HutchinsonState]:
        if params is None or obj_fn is None:
            raise TypeError(
                "hutchinson_estimator_diag_hessian needs the parameters and the loss of them: "
                "call update(grads, state, params, obj_fn=loss)"
            )
        key, draw = jax.random.split(state.key)
        signs = conform(random_like(draw, params, jax.random.rademacher, dtype=jnp.float32), params)
        products = jax.jvp(jax.grad(obj_fn), (params,), (signs,))[1]
        return jax.tree.map(lambda product, sign: product * sign, products, signs), HutchinsonState(key)

    return GradientTransformation(init, update)


def scale_by_sophia(
    b1: Hyperparam = 0.965,
    b2: Scalar = 0.99,
    eps: Hyperparam = 1e-8,
    gamma: Hyperparam = 0.01,
    clip_threshold: Hyperparam | None = 1.0,
    update_interval: int = 10,
    hessian_diagonal_fn: GradientTransformation | None = None,
    mu_dtype: Any = None,
    verbose: bool = False,
    print_win_rate_every_n_steps: int = 0,
) -> Wrapper:
    r"""Divide the first moment by a moving average of the Hessian's diagonal, and clip.

    .. math::
      u = \operatorname{clip}\Bigl(\frac{\hat m}{\max(\gamma h, \epsilon)}, \rho\Bigr), \quad
      h \leftarrow \beta_2 h + (1 - \beta_2) \operatorname{diag} H \text{ every } k \text{ steps}

    Args:
      b1: the decay of the first moment, in [0, 1).
      b2: :math:`\beta_2`, a number in [0, 1].
      eps: :math:`\epsilon`, above 0.
      gamma: :math:`\gamma`, at least 0.
      clip_threshold: :math:`\rho`, above 0; ``None`` for no clipping.
      update_interval: :math:`k`, at least 1.
      hessian_diagonal_fn: what estimates the diagonal; by default `hutchinson_estimator_diag_hessian`.
      mu_dtype: the dtype to keep the first moment in.
      verbose: whether to print the share of numbers that are not clipped.
      print_win_rate_every_n_steps: how often to print it, at least 1 then.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters; its update
      needs what the estimator does, ``update(grads, state, params, obj_fn=loss)``.

    Raises:
      TypeError, ValueError: an argument is out of its bounds.

    References:
      Liu et al., `Sophia: a scalable stochastic second-order optimizer for language model pre-training
      <https://arxiv.org/abs/2305.14342>`_, 2024.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_sophia()
      >>> tx.update(3.0, tx.init(2.0), 2.0, obj_fn=lambda w: 1.5 * w**2)[0].item()
      1.0
    """
    check_number("scale_by_sophia", "b2", unit(b2))
    whole("scale_by_sophia", update_interval=update_interval)
    if verbose:
        whole("scale_by_sophia", print_win_rate_every_n_steps=print_win_rate_every_n_steps)
    estimator = hessian_diagonal_fn or hutchinson_estimator_diag_hessian()
    accepted = accepted_keywords(estimator.update)

    def moments(param: Any) -> AdamSlots:
        return adam_slots(param, mu_dtype)

    def direction(grad: Any, slots: AdamSlots, param: Any, step: Step) -> tuple[Any, AdamSlots]:
        mu = ema_of(slots.mu, grad, step.b1)
        update = debias(mu, step.b1, step.t) / jnp.maximum(step.gamma * slots.nu, step.eps)
        if clip_threshold is not None:
            update = jnp.clip(update, -step.clip_threshold, step.clip_threshold)
        return update, slots._replace(mu=mu)

    hyperparams: dict[str, Any] = {"b1": debiased(b1), "eps": positive(eps), "gamma": nonnegative(gamma)}
    if clip_threshold is not None:
        hyperparams["clip_threshold"] = positive(clip_threshold)
    equation = "u = clip(m̂ / max(gamma · h, eps)), h ← avg diag H"
    inner = lift(Rule("scale_by_sophia", direction, moments, hyperparams, equation, counts=True))

    def init(params: Params) -> SophiaState:
        return SophiaState(inner.init(params), estimator.init(params))

    def update(
        grads: Updates, state: SophiaState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, SophiaState]:
        count = state.inner_state.count
        assert count is not None  # its rule counts
        updates, inner_state = inner.update(grads, state.inner_state, params)
        (slots,) = inner_state.slots
        if not slots:  # there are no parameters
            return updates, SophiaState(inner_state, state.hessian_fn_state)

        def estimate() -> tuple[Updates, State]:
            diagonal, new = estimator.update(grads, state.hessian_fn_state, params, **accepted(extra))
            nu = jax.tree.map(lambda h, old: _average(h, old, b2), diagonal, slots.nu)
            return nu, conform(new, state.hessian_fn_state)

        due = count % update_interval == 0
        nu, hessian_fn_state = lax.cond(due, estimate, lambda: (slots.nu, state.hessian_fn_state))
        if verbose and clip_threshold is not None:
            threshold = get_hyperparams(inner_state, inner)["clip_threshold"]
            _print_win_rate(updates, threshold, (count + 1) % print_win_rate_every_n_steps == 0)
        inner_state = inner_state._replace(slots=(slots._replace(nu=nu),))
        return updates, SophiaState(inner_state, hessian_fn_state)

    return Wrapper("hessian diagonal", inner, init, update)


def sophia(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.965,
    b2: Scalar = 0.99,
    eps: Hyperparam = 1e-8,
    weight_decay: Hyperparam = 1e-4,
    weight_decay_mask: Mask | None = None,
    gamma: Hyperparam = 0.01,
    clip_threshold: Hyperparam | None = 1.0,
    update_interval: int = 10,
    hessian_diagonal_fn: GradientTransformation | None = None,
    mu_dtype: Any = None,
    verbose: bool = False,
    print_win_rate_every_n_steps: int = 0,
) -> GradientTransformation:
    r"""Sophia: Newton's steps along the axes, from a cheap estimate of curvature, and no longer than allowed.

    Args:
      learning_rate: :math:`\alpha`.
      b1, b2, eps, gamma, clip_threshold, update_interval: as in `scale_by_sophia`.
      weight_decay, weight_decay_mask: as in `add_decayed_weights`.
      hessian_diagonal_fn, mu_dtype, verbose, print_win_rate_every_n_steps: as in `scale_by_sophia`.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters; its
      update needs the loss as a function, ``update(grads, state, params, obj_fn=loss)``.

    Raises:
      TypeError, ValueError: an argument is out of its bounds.

    References:
      Liu et al., `Sophia: a scalable stochastic second-order optimizer for language model pre-training
      <https://arxiv.org/abs/2305.14342>`_, 2024.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.sophia(0.5, weight_decay=0.0)
      >>> tx.update(3.0, tx.init(2.0), 2.0, obj_fn=lambda w: 1.5 * w**2)[0].item()
      -0.5
    """
    direction = scale_by_sophia(
        b1,
        b2,
        eps,
        gamma,
        clip_threshold,
        update_interval,
        hessian_diagonal_fn,
        mu_dtype,
        verbose,
        print_win_rate_every_n_steps,
    )
    return descend(direction, learning_rate, weight_decay, weight_decay_mask)


@jax.jit
def _average(value: Any, average: Any, decay: Any) -> Any:
    return ema_of(average, value, decay).astype(average.dtype)


def _print_win_rate(updates: Updates, threshold: Any, now: Any) -> None:
    leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(updates)]
    free = sum(jnp.sum(jnp.abs(leaf) < threshold) for leaf in leaves)
    rate = free / sum(leaf.size for leaf in leaves)
    lax.cond(now, lambda: jax.debug.print("Sophia: {} of the numbers are not clipped", rate), lambda: None)
