"""Writes torch_muon.json, where PyTorch's Muon goes: ``python tests/optimizers/torch_muon.py``.

PyTorch orthogonalizes in bfloat16. Here its own code runs in double precision, so that more than two digits
can be compared.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 10
CASES: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
    "original": ((3, 5), {"weight_decay": 0.1}),
    "match_rms_adamw": ((5, 3), {"weight_decay": 0.0}),
}


def main() -> None:
    import torch

    torch.Tensor.bfloat16 = lambda self: self.double().clone()
    table = []
    for name, (shape, arguments) in CASES.items():
        rng = np.random.default_rng(0)
        start = rng.normal(size=shape).round(2)
        gradients = rng.normal(size=(STEPS, *shape)).round(2)
        weight = torch.nn.Parameter(torch.from_numpy(start.copy()))
        optimizer = torch.optim.Muon([weight], lr=0.05, adjust_lr_fn=name, **arguments)
        for gradient in gradients:
            weight.grad = torch.from_numpy(gradient)
            optimizer.step()
        table.append(
            {
                "adjust_lr_fn": name,
                "start": start.tolist(),
                "gradients": gradients.tolist(),
                "end": weight.detach().numpy().tolist(),
                **arguments,
            }
        )
    text = json.dumps({"torch": torch.__version__, "lr": 0.05, "cases": table})
    Path(__file__).with_suffix(".json").write_text(text + "\n")


if __name__ == "__main__":
    main()
