"""Averages of the parameters over the steps, to evaluate with."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradxform.arguments import whole
from gradxform.arithmetic import copy_of, debias
from gradxform.hyperparams import Hyperparam, fraction
from gradxform.rule import Lift, Rule, Step, lift
from gradxform.slots import Exact, decode_stored
from gradxform.transformation import Params, State
from gradxform.trees import flatten, flatten_like

__all__ = ["AverageSlots", "average_params", "evaluation_params"]


class AverageSlots(NamedTuple):
    """The slot of `average_params`.

    Attributes:
      average: the average of the parameters, in float32 or wider.
    """

    average: Exact


def average_params(decay: Hyperparam | None = None, *, start: int = 0, every: int = 1) -> Lift:
    r"""Remember an average of the parameters: :math:`\bar w \leftarrow \bar w + c_n (w + g - \bar w), u = g`.

    It stands last in a chain, where the updates are final, and leaves them as
    they are. `evaluation_params` reads the average.

    ====================================  ===================  =====================================
    name                                  arguments            weight of the n-th average
    ====================================  ===================  =====================================
    Polyak-Ruppert averaging              none                 :math:`c_n = 1 / n`
    stochastic weight averaging           ``start, every``     :math:`c_n = 1 / n`
    exponential moving average, unbiased  ``decay``            :math:`c_n = (1-\beta)/(1-\beta^n)`
    ====================================  ===================  =====================================

    Args:
      decay: :math:`\beta`, in [0, 1); by default all averaged parameters count alike.
      start: the step after which to average; up to there the average is the
        parameters themselves.
      every: the number of steps between two that are averaged, such as the
        length of a learning-rate cycle.

    Returns:
      A `GradientTransformation` with a slot the size of the parameters; its
      update needs the parameters.

    Raises:
      TypeError, ValueError: an argument is out of its bounds.

    References:
      Polyak and Juditsky, `Acceleration of stochastic approximation by
      averaging <https://doi.org/10.1137/0330046>`_, 1992; Izmailov et al.,
      `Averaging weights leads to wider optima and better generalization
      <https://arxiv.org/abs/1803.05407>`_, 2018.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.chain(gx.sgd(1.0), gx.average_params())
      >>> params, state = [4.0], tx.init([4.0])
      >>> for _ in range(3):
      ...     updates, state = tx.update([1.0], state, params)
      ...     params = gx.apply_updates(params, updates)
      >>> params[0].item(), gx.evaluation_params(state, params)[0].item()
      (1.0, 2.0)
    """
    whole("average_params", least=0, start=start)
    whole("average_params", every=every)

    def init(param: Any) -> AverageSlots:
        return AverageSlots(copy_of(param))

    def update(grad: Any, slots: AverageSlots, param: Any, step: Step) -> tuple[Any, AverageSlots]:
        past = step.count + 1 - start
        n = jnp.maximum(past // every, 1).astype(step.t.dtype)
        weight = 1 / n if decay is None else debias(1 - step.decay, step.decay, n)
        due = (past <= 0) | (past % every == 0)
        weight = jnp.where(due, jnp.where(past <= 0, 1, weight), 0)
        return grad, AverageSlots(slots.average + weight * (param + grad - slots.average))

    hyperparams = {} if decay is None else {"decay": fraction(decay)}
    return lift(
        Rule(
            "average_params",
            update,
            init,
            hyperparams,
            equation="average ← avg (w + g), u = g",
            needs_params=True,
            counts=True,
        )
    )


def evaluation_params(state: State, params: Params) -> Params:
    """The parameters to evaluate with: the average that `average_params` keeps in the state.

    Args:
      state: the state of a transformation with one `average_params` in it.
      params: the parameters that are trained.

    Returns:
      The averages in the parameters' dtypes; leaves that have none (masked
      off, say) as they are.

    Raises:
      ValueError: the state holds no average, or more than one.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.chain(gx.sgd(1.0), gx.average_params(0.9))
      >>> gx.evaluation_params(tx.init([4.0]), [4.0])[0].item()
      4.0
    """

    def keeps(node: Any) -> bool:
        return isinstance(node, AverageSlots)

    found = [node for node in jax.tree.leaves(state, is_leaf=keeps) if keeps(node)]
    if len(found) != 1:
        raise ValueError(
            f"evaluation_params: the state holds {len(found) or 'no'} averages of the parameters; "
            "put one average_params() at the end of the chain"
        )
    leaves, treedef = flatten(params)
    averages = flatten_like(
        treedef,
        params,
        decode_stored(found[0].average),
        root="the average",
        like="params",
        who="evaluation_params",
    )
    return treedef.unflatten(
        param if average is None else jnp.asarray(average, jnp.result_type(param))
        for param, average in zip(leaves, averages, strict=True)
    )
