"""Writes docs/optimizers.md, how far every optimizer comes: ``python tests/benchmarks/convergence.py``.

Names of optimizers as arguments print their rows and write nothing.
"""

import datetime
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradxform as gx
from gradxform.comparison.contestants import half_decades
from gradxform.comparison.tasks import digits

PAGE = Path(__file__).resolve().parents[2] / "docs" / "optimizers.md"

INTRODUCTION = """\
# Every optimizer, and how far it comes

`python tests/benchmarks/convergence.py` writes this page in some minutes. Every optimizer has its defaults
but for what its line says, and on each problem the one constant rate of the half decades 0.0001, 0.0003, ...,
10 that ends best (a dash: it has no rate to set). So these are their best, and tell what each can do there;
which one to take for a problem of your own, `gradxform compare` measures with a rate picked on other data.

- *quadratic*: ten parameters, condition 100, the axes rotated; loss after 300 steps. No noise.
- *Rosenbrock*: from (-1.2, 1), where the loss is 24; loss after 2,000 steps. No noise.
- *digits*: a network of 64, 64 and 10 units on scikit-learn's 1,797 images, batches of 32, 5 epochs; mean
  loss and accuracy on 359 images that it was not trained on, of three seeds.

What it shows: without noise and in few dimensions `lbfgs` reaches both minima exactly. `muon` and `galore`
are for matrices; of these two problems' vectors they leave all to `nadam` and `adam`. With the noise of
batches the methods that see a matrix as one (`soap`, `shampoo`) come furthest in as many steps, at a higher
cost of each. `rprop` compares the signs of two gradients, which noise turns. Methods without a rate are
behind the best of those whose rate was picked, but for `lbfgs` where there is no noise.

"""

RATES = half_decades(1e-4, 10.0)
NO_RATE = (1.0,)

Make = Callable[[Any], gx.GradientTransformation]


class Setting(NamedTuple):
    """How an optimizer takes part.

    Attributes:
      make: from a rate to the optimizer.
      rates: those to try.
      note: what differs from its defaults.
      evaluate: the parameters to measure at, from the state and those stepped from.
    """

    make: Make
    rates: tuple[float, ...] = RATES
    note: str = ""
    evaluate: Callable[[Any, Any], Any] = lambda state, params: params


def _without_decay(optimizer: Callable[..., Any], **arguments: Any) -> Setting:
    note = ", ".join(f"{name}={value!r}" for name, value in {**arguments, "weight_decay": 0.0}.items())
    return Setting(partial(optimizer, weight_decay=0.0, **arguments), note=f"`{note}`")


def _rateless(optimizer: Callable[..., Any], note: str = "", **arguments: Any) -> Setting:
    return Setting(lambda rate: optimizer(**arguments), NO_RATE, note)


SETTINGS: dict[str, Setting] = {
    "sgd": Setting(gx.sgd),
    "sgd, momentum": Setting(partial(gx.sgd, momentum=0.9), note="`momentum=0.9`"),
    "sgd, Nesterov": Setting(
        partial(gx.sgd, momentum=0.9, nesterov=True), note="`momentum=0.9, nesterov=True`"
    ),
    "noisy_sgd": Setting(partial(gx.noisy_sgd, key=0)),
    "optimistic_gradient_descent": Setting(gx.optimistic_gradient_descent),
    "polyak_sgd": _rateless(gx.polyak_sgd, "`max_learning_rate=1.0`"),
    "sign_sgd": Setting(gx.sign_sgd),
    "signum": Setting(gx.signum),
    "rprop": Setting(gx.rprop),
    "lion": _without_decay(gx.lion),
    "adagrad": Setting(gx.adagrad),
    "rmsprop": Setting(gx.rmsprop),
    "adadelta": Setting(gx.adadelta),
    "adam": Setting(gx.adam),
    "adamw": _without_decay(gx.adamw),
    "nadam": Setting(gx.nadam),
    "nadamw": _without_decay(gx.nadamw),
    "adamax": Setting(gx.adamax),
    "adamaxw": _without_decay(gx.adamaxw),
    "amsgrad": Setting(gx.amsgrad),
    "radam": Setting(gx.radam),
    "adabelief": Setting(gx.adabelief),
    "yogi": Setting(gx.yogi),
    "adan": Setting(gx.adan),
    "novograd": Setting(gx.novograd),
    "optimistic_adam_v2": Setting(gx.optimistic_adam_v2),
    "ademamix": Setting(gx.ademamix),
    "simplified_ademamix": Setting(partial(gx.simplified_ademamix, b1=0.9), note="`b1=0.9`"),
    "adopt": Setting(gx.adopt),
    "acprop": Setting(partial(gx.acprop, eps=1e-3), note="`eps=1e-3`"),
    "lars": Setting(partial(gx.lars, trust_coefficient=0.1), note="`trust_coefficient=0.1`"),
    "lamb": Setting(gx.lamb),
    "fromage": Setting(gx.fromage),
    "adafactor": Setting(
        partial(gx.adafactor, multiply_by_parameter_scale=False), note="`multiply_by_parameter_scale=False`"
    ),
    "sm3": Setting(gx.sm3),
    "muon": Setting(gx.muon),
    "shampoo": Setting(gx.shampoo),
    "soap": _without_decay(gx.soap),
    "galore": Setting(partial(gx.galore, rank=8), note="`rank=8`"),
    "kron": Setting(gx.kron),
    "dog": _rateless(gx.dog),
    "dowg": _rateless(gx.dowg),
    "prodigy": _rateless(gx.prodigy),
    "dadapt_adamw": _rateless(gx.dadapt_adamw),
    "cocob": _rateless(gx.cocob),
    "mechanize": Setting(lambda rate: gx.mechanize(gx.adam(1.0)), NO_RATE, "of `adam(1.0)`"),
    "momo": Setting(gx.momo),
    "momo_adam": Setting(gx.momo_adam),
    "schedule_free_sgd": Setting(gx.schedule_free_sgd, evaluate=gx.schedule_free_eval_params),
    "schedule_free_adamw": Setting(gx.schedule_free_adamw, evaluate=gx.schedule_free_eval_params),
    "madgrad": Setting(gx.madgrad),
    "sophia": _without_decay(gx.sophia),
    "sam": Setting(
        lambda rate: gx.sam(
            gx.adam(rate), gx.chain(gx.normalize(), gx.sgd(0.01)), opaque_mode=True, reset_state=False
        ),
        note="of `adam`, radius 0.01",
    ),
    "lbfgs": _rateless(gx.lbfgs),
}
"""Every optimizer."""


def _descend(setting: Setting, rate: Any, params: Any, loss: Callable[[Any, Any], Any], batches: Any) -> Any:
    """Where the parameters are after a step on every batch."""
    tx = gx.with_extra_args_support(setting.make(rate))

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry

        def value_fn(params: Any, *_: Any, **__: Any) -> Any:
            return loss(params, batch)

        def grad_fn(params: Any, *_: Any) -> Any:
            return jax.grad(value_fn)(params)

        value, grad = jax.value_and_grad(value_fn)(params)
        known = {"value": value, "grad": grad, "value_fn": value_fn, "obj_fn": value_fn, "grad_fn": grad_fn}
        updates, state = tx.update(grad, state, params, **known)
        return (gx.apply_updates(params, updates), state), None

    (params, state), _ = jax.lax.scan(step, (params, tx.init(params)), batches)
    return setting.evaluate(state, params)


def _quadratic() -> tuple[Any, Callable[[Any, Any], Any]]:
    rng = np.random.default_rng(0)
    vectors = np.linalg.qr(rng.normal(size=(10, 10)))[0]
    hessian = jnp.asarray(vectors * np.geomspace(1, 100, 10) @ vectors.T, jnp.float32)
    target = jnp.asarray(rng.normal(size=10), jnp.float32)
    return jnp.zeros(10), lambda w, _: (w - target) @ hessian @ (w - target) / 2


def _rosenbrock() -> tuple[Any, Callable[[Any, Any], Any]]:
    return jnp.asarray([-1.2, 1.0]), lambda w, _: (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2


SURFACES = {"quadratic": (_quadratic, 300), "Rosenbrock": (_rosenbrock, 2000)}


def surface(setting: Setting, name: str) -> tuple[float, float]:
    """The best loss over the rates, and its rate."""
    problem, steps = SURFACES[name]
    start, loss = problem()

    def end(rate: Any) -> Any:
        return loss(_descend(setting, rate, start, loss, jnp.arange(steps)), None)

    losses = np.asarray(jax.jit(jax.vmap(end))(jnp.asarray(setting.rates)))
    best = np.nanargmin(np.where(np.isfinite(losses), losses, np.inf))
    return float(losses[best]), setting.rates[best]


def network(setting: Setting) -> tuple[float, float, float]:
    """The best loss over the rates, its accuracy, and its rate."""
    task = digits()
    examples = len(task.train["labels"])
    rng, count = np.random.default_rng(0), examples // 32
    order = np.stack([rng.permutation(examples)[: 32 * count].reshape(count, 32) for _ in range(5)])
    rows = jnp.asarray(order.reshape(-1, 32))

    def loss(params: Any, rows: Any) -> Any:
        return task.loss(params, jax.tree.map(lambda column: column[rows], task.train))[0]

    def end(rate: Any, key: Any) -> Any:
        params = _descend(setting, rate, task.init(key), loss, rows)
        value, metrics = task.loss(params, task.test)
        return value, metrics["accuracy"]

    keys = jax.random.split(jax.random.key(0), 3)
    over_seeds = jax.vmap(end, (None, 0))
    losses, accuracies = jax.jit(jax.vmap(over_seeds, (0, None)))(jnp.asarray(setting.rates), keys)
    means = np.asarray(losses.mean(1))
    best = int(np.argmin(np.where(np.isfinite(means), means, np.inf)))
    return float(means[best]), float(accuracies[best].mean()), setting.rates[best]


def row(name: str) -> str:
    """The optimizer's line of the table."""
    setting = SETTINGS[name]

    def rate(value: float) -> str:
        return "–" if setting.rates is NO_RATE else f"{value:g}"

    cells = [f"`{name}`" if "," not in name else name, setting.note]
    for problem in SURFACES:
        end, best = surface(setting, problem)
        cells += [f"{end:.2g}", rate(best)]
    end, accuracy, best = network(setting)
    cells += [f"{end:.3f}", f"{100 * accuracy:.1f} %", rate(best)]
    line = f"| {' | '.join(cells)} |"
    print(line, flush=True)
    return line


HEAD = ("optimizer", "setting", "quadratic", "rate", "Rosenbrock", "rate", "digits", "accuracy", "rate")


def main(names: list[str]) -> None:
    rows = [row(name) for name in names or SETTINGS]
    if not names:
        head = f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}"
        about = f"{datetime.date.today():%Y-%m-%d}, gradxform {gx.__version__}, jax {jax.__version__}, CPU."
        PAGE.write_text("\n".join([INTRODUCTION + about + "\n", head, *rows]) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
