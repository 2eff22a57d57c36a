"""Every optimizer that Optax has too, with equal arguments: 100 steps, and the same parameters."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import x64

import gradxform as gx

RATE = 0.05

ARGUMENTS: list[tuple[str, dict[str, Any]]] = [
    ("adamw", {}),
    ("nadam", {}),
    ("nadamw", {"weight_decay": 0.1}),
    ("adamax", {}),
    ("adamaxw", {"weight_decay": 0.1}),
    ("amsgrad", {}),
    ("amsgrad", {"bias_correction_mu": False, "bias_correction_nu": False}),
    ("radam", {}),
    ("radam", {"b2": 0.9, "nesterov": True, "threshold": 4.5}),
    ("adabelief", {}),
    ("adabelief", {"nesterov": True, "eps": 1e-8}),
    ("yogi", {}),
    ("adan", {"weight_decay": 0.01}),
    ("novograd", {"weight_decay": 0.01, "b2": 0.9}),
    ("optimistic_adam_v2", {"alpha": 0.5, "beta": 2.0}),
    ("contrib.ademamix", {"b3": 0.99}),
    ("contrib.simplified_ademamix", {"alpha": 0.5}),
    ("contrib.adopt", {}),
    ("contrib.adopt", {"nesterov": True, "use_clipping": False}),
    ("contrib.acprop", {"weight_decay": 0.01}),
    ("sign_sgd", {}),
    ("signum", {"beta": 0.8}),
    ("lion", {"weight_decay": 0.1}),
    ("rprop", {}),
    ("rprop", {"eta_minus": 0.7, "eta_plus": 1.1, "max_step_size": 0.06, "min_step_size": 0.04}),
    ("noisy_sgd", {"eta": 0.0, "key": 1}),
    ("optimistic_gradient_descent", {"alpha": 0.5, "beta": 0.7}),
    ("polyak_sgd", {"f_min": -3.0}),
    ("polyak_sgd", {"f_min": -0.5, "variant": "sps+", "eps": 0.1}),
    ("lars", {"weight_decay": 0.1, "trust_coefficient": 0.1, "nesterov": True}),
    ("lamb", {"weight_decay": 0.1}),
    ("fromage", {}),
    ("adafactor", {"min_dim_size_to_factor": 2}),
    (
        "adafactor",
        {"min_dim_size_to_factor": 3, "momentum": 0.9, "weight_decay_rate": 0.01, "decay_offset": -2},
    ),
    ("adafactor", {"factored": False, "clipping_threshold": None, "multiply_by_parameter_scale": False}),
    ("sm3", {"momentum": 0.5}),
    ("contrib.sophia", {"gamma": 1.0, "weight_decay": 0.01}),
    ("contrib.sophia", {"clip_threshold": None, "update_interval": 3, "gamma": 1.0, "eps": 0.1}),
    ("contrib.dog", {}),
    ("contrib.dog", {"init_step": ("distance", 0.1), "weight_decay": 0.01}),
    ("contrib.dog", {"init_step": ("learning_rate", 0.1), "eps": 1e-3}),
    ("contrib.dowg", {}),
    ("contrib.dowg", {"init_estim_sq_dist": 0.01}),
    ("contrib.prodigy", {"estim_lr0": 1e-2, "weight_decay": 0.01}),
    ("contrib.prodigy", {"safeguard_warmup": True, "estim_lr_coef": 0.5, "beta3": 0.9}),
    ("contrib.dadapt_adamw", {"estim_lr0": 1e-2, "weight_decay": 0.01}),
    ("contrib.cocob", {"weight_decay": 0.01}),
    ("contrib.momo", {"lower_bound": -3.0, "weight_decay": 0.01}),
    ("contrib.momo", {"lower_bound": -3.0, "adapt_lower_bound": True}),
    ("contrib.momo_adam", {"lower_bound": -3.0, "weight_decay": 0.01}),
    ("contrib.momo_adam", {"lower_bound": -30.0, "adapt_lower_bound": True}),
    ("contrib.schedule_free_sgd", {}),
    ("contrib.schedule_free_sgd", {"warmup_steps": 10, "weight_decay": 0.01, "b1": 0.8}),
    ("contrib.schedule_free_adamw", {"warmup_steps": 5, "weight_decay": 0.01}),
    ("contrib.madgrad", {"weight_decay": 0.01}),
]


def trajectory(make: Callable[[Any], Any], library: Any, dtype: str, steps: int = 100) -> np.ndarray:
    """The parameters after some steps on a quadratic loss whose gradients are disturbed."""
    rng = np.random.default_rng(0)

    def draw(*leading: int) -> dict[str, Any]:
        shapes = {"kernel": (4, 3), "bias": (3,), "scale": (1,)}
        # Numbers that float32 holds, so that both precisions have the same problem.
        drawn = {
            name: rng.normal(size=(*leading, *shape)).astype("float32") for name, shape in shapes.items()
        }
        return {name: jnp.asarray(array, dtype) for name, array in drawn.items()}

    params, curvature, disturbances = draw(), draw(), draw(steps)
    tx = make(library)

    def loss(params: Any, disturbance: Any) -> Any:
        def one(w: Any, c: Any, d: Any) -> Any:
            return jnp.sum((c * c + 0.1) * w * w / 2 + 0.3 * d * w)

        return sum(jax.tree.leaves(jax.tree.map(one, params, curvature, disturbance)))

    def step(carry: Any, disturbance: Any) -> Any:
        params, state = carry
        value_fn = partial(loss, disturbance=disturbance)
        value, grad = jax.value_and_grad(value_fn)(params)
        known = {"value": value, "grad": grad, "value_fn": value_fn, "obj_fn": value_fn}
        updates, state = library.with_extra_args_support(tx).update(grad, state, params, **known)
        return (library.apply_updates(params, updates), state), None

    (params, _), _ = jax.jit(partial(jax.lax.scan, step))((params, tx.init(params)), disturbances)
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])


def _maker(name: str, arguments: dict[str, Any], *rate: Any) -> Callable[[Any], Any]:
    *module, name = name.split(".")
    return lambda library: getattr(library.contrib if module else library, name)(*rate, **arguments)


@pytest.mark.parametrize(
    ("name", "arguments"), ARGUMENTS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(ARGUMENTS)]
)
def test_as_optax(name: str, arguments: dict[str, Any]) -> None:
    make = _maker(name, arguments, RATE)
    with x64():
        exact = trajectory(make, optax, "float64")
        # Optax takes the decay of Adafactor's moment, Madgrad's root of the count and the warm-up in float32.
        in_float32 = name in ("adafactor", "contrib.madgrad") or "warmup_steps" in arguments
        coarse = 1e-5 if in_float32 else 1e-9
        np.testing.assert_allclose(trajectory(make, gx, "float64"), exact, rtol=coarse, atol=0.1 * coarse)
    # Optax's own rounding (of 1 - b2, of 1 - b2**t) is what float32 is measured by where it is the coarser.
    errors = [np.linalg.norm(trajectory(make, library, "float32") - exact) for library in (gx, optax)]
    assert errors[0] <= max(1e-5 * np.linalg.norm(exact), errors[1]), errors


def test_mechanize_as_optax() -> None:
    def make(library: Any) -> Any:
        return library.contrib.mechanize(library.adam(RATE), s_init=1e-2, num_betas=5)

    with x64():
        exact = trajectory(make, optax, "float64")
        np.testing.assert_allclose(trajectory(make, gx, "float64"), exact, rtol=1e-9, atol=1e-10)
    assert np.linalg.norm(trajectory(make, gx, "float32") - exact) <= 1e-5 * np.linalg.norm(exact)


def test_schedule_free_averages_as_optax() -> None:
    params, grads = {"w": jnp.ones(3)}, {"w": jnp.asarray([0.1, -0.2, 0.3])}
    averages = []
    for library in (gx, optax):
        tx = library.contrib.schedule_free_sgd(0.5, warmup_steps=3)
        state, moved = tx.init(params), params
        for _ in range(10):
            updates, state = tx.update(grads, state, moved)
            moved = library.apply_updates(moved, updates)
        averages.append(library.contrib.schedule_free_eval_params(state, moved)["w"])
    np.testing.assert_allclose(*averages, rtol=1e-5)
    with pytest.raises(ValueError, match="no schedule_free"):
        gx.schedule_free_eval_params(gx.sgd(0.1).init(params), params)


def test_schedules_of_every_hyperparameter_as_optaxs_injected_ones() -> None:
    """The rates of Optax follow a schedule only inside `inject_hyperparams`; ours take one as they are."""
    decaying = {
        "b1": lambda count: 0.9 - 0.2 * jnp.sin(0.1 * count),
        "learning_rate": lambda count: 0.1 / (count + 1),
    }

    def make(library: Any) -> Any:
        return (optax.inject_hyperparams(optax.adamw) if library is optax else gx.adamw)(**decaying)

    with x64():
        np.testing.assert_allclose(
            trajectory(make, gx, "float64"), trajectory(make, optax, "float64"), rtol=1e-9
        )
