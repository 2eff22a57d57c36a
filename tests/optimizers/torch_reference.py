"""Writes torch_reference.json, where PyTorch's optimizers go: ``python tests/optimizers/torch_reference.py``.

They descend the disturbed quadratic of `gradient`, in double precision.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 100
START = [1.5, -0.7, 2.0, 0.4, -3.0]

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gradient descent": ("SGD", {"lr": 0.05}),
    "momentum": ("SGD", {"lr": 0.01, "momentum": 0.9}),
    "nesterov": ("SGD", {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    "adagrad": ("Adagrad", {"lr": 0.1}),
    "adagrad from 0.1": ("Adagrad", {"lr": 0.1, "initial_accumulator_value": 0.1}),
    "rmsprop": ("RMSprop", {"lr": 0.05, "alpha": 0.9}),
    "rmsprop, centered, momentum": (
        "RMSprop",
        {"lr": 0.01, "alpha": 0.95, "centered": True, "momentum": 0.8},
    ),
    "adadelta": ("Adadelta", {"lr": 1.0, "rho": 0.9, "eps": 1e-6}),
    "adam": ("Adam", {"lr": 0.05, "betas": (0.8, 0.99)}),
    "adamw": ("AdamW", {"lr": 0.05, "weight_decay": 0.1}),
    "adamax": ("Adamax", {"lr": 0.05}),
    "radam": ("RAdam", {"lr": 0.05, "betas": (0.9, 0.95)}),
    "rprop": ("Rprop", {"lr": 0.05}),
}


def gradient(w: Any, t: int) -> Any:
    """At step `t`, counted from 0; of NumPy arrays, or of anything that multiplies and adds with them."""
    at = np.arange(1, 6)
    return 1.0 / at * w + 0.5 * np.cos(t * at) - 0.3


def main() -> None:
    import torch

    ends = {}
    for name, (method, arguments) in CASES.items():
        weight = torch.nn.Parameter(torch.tensor(START, dtype=torch.float64))
        optimizer = getattr(torch.optim, method)([weight], **arguments)
        for t in range(STEPS):
            weight.grad = torch.from_numpy(gradient(weight.detach().numpy(), t))
            optimizer.step()
        ends[name] = weight.tolist()
    text = json.dumps({"torch": torch.__version__, "ends": ends}, indent=1)
    Path(__file__).with_suffix(".json").write_text(text + "\n")


if __name__ == "__main__":
    main()
