"""Writes interop_torch.json, what PyTorch's optimizers remember: ``python tests/interop_torch.py``.

They descend a disturbed quadratic in double precision, with two parameters of which the second is a matrix.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 100
START = {"bias": [1.5, -0.7, 2.0], "kernel": [[0.4, -3.0, 0.1], [-1.0, 0.2, 1.1]]}
ORDER = ["kernel", "bias"]  # as PyTorch is given them; JAX sorts dictionaries by name

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gradient descent": ("SGD", {"lr": 0.05}),
    "momentum": ("SGD", {"lr": 0.01, "momentum": 0.9}),
    "nesterov": ("SGD", {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    "adam": ("Adam", {"lr": 0.05, "betas": (0.8, 0.99)}),
    "adamw": ("AdamW", {"lr": 0.05, "weight_decay": 0.1}),
    "adagrad": ("Adagrad", {"lr": 0.1, "initial_accumulator_value": 0.1}),
    "rmsprop": ("RMSprop", {"lr": 0.05, "alpha": 0.9}),
    "rmsprop, centered, momentum": (
        "RMSprop",
        {"lr": 0.01, "alpha": 0.95, "centered": True, "momentum": 0.8},
    ),
    "adadelta": ("Adadelta", {"lr": 1.0, "rho": 0.9, "eps": 1e-6}),
}


AT = np.arange(1.0, 4.0)


def pull(t: int) -> np.ndarray:
    """What disturbs the gradient at step `t`, counted from 0."""
    return 0.5 * np.cos(t * AT) - 0.3


def gradient(w: Any, disturbance: Any) -> Any:
    """Of arrays, or of anything that multiplies and adds with them."""
    return 1.0 / AT * w + disturbance


def main() -> None:
    import torch

    def listed(value: Any) -> Any:
        return value.tolist() if isinstance(value, torch.Tensor) else value

    ways = {}
    for name, (method, arguments) in CASES.items():
        weights = {leaf: torch.nn.Parameter(torch.tensor(START[leaf], dtype=torch.float64)) for leaf in ORDER}
        optimizer = getattr(torch.optim, method)(list(weights.values()), **arguments)
        stops = []
        for t in range(2 * STEPS):
            for weight in weights.values():
                weight.grad = torch.from_numpy(gradient(weight.detach().numpy(), pull(t)))
            optimizer.step()
            if t + 1 in (STEPS, 2 * STEPS):
                saved = optimizer.state_dict()
                state = {
                    number: {field: listed(value) for field, value in of_weight.items()}
                    for number, of_weight in saved["state"].items()
                }
                params = {leaf: weight.tolist() for leaf, weight in weights.items()}
                stops.append({"params": params, "state": state, "param_groups": saved["param_groups"]})
        ways[name] = stops
    text = json.dumps({"torch": torch.__version__, "ways": ways})
    Path(__file__).with_suffix(".json").write_text(text + "\n")


if __name__ == "__main__":
    main()
