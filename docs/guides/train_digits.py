"""Train a classifier of digits on all devices of all processes, however these were started."""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import gradxform as gx

BATCH = 64
TX = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(3e-3))


def join_the_others() -> None:
    """Find the other processes: Slurm, Open MPI and TPU pods say where they are, else three variables do."""
    processes = os.environ.get("NUM_PROCESSES")
    if processes == "1":
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        os.environ.get("COORDINATOR_ADDRESS"),
        int(processes) if processes else None,
        int(os.environ["PROCESS_ID"]) if processes else None,
        heartbeat_timeout_seconds=int(os.environ.get("HEARTBEAT_TIMEOUT", "100")),
    )


def digits() -> dict[str, np.ndarray]:
    """1,797 images of 64 pixels, the same in every process."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return {"images": (images / 16).astype(np.float32), "labels": labels.astype(np.int32)}


def network(width: int = 64) -> dict[str, np.ndarray]:
    """The parameters to start from."""
    random = np.random.default_rng(0)
    shapes = {"hidden": (64, width), "bias": (width,), "out": (width, 10)}
    return {
        name: random.normal(0, shape[0] ** -0.5, shape).astype(np.float32) for name, shape in shapes.items()
    }


def loss(params: dict[str, jax.Array], batch: dict[str, jax.Array]) -> jax.Array:
    """The mean cross-entropy of a batch."""
    hidden = jnp.tanh(batch["images"] @ params["hidden"] + params["bias"])
    return jnp.mean(gx.softmax_cross_entropy_with_integer_labels(hidden @ params["out"], batch["labels"]))


def own_part(data: dict[str, np.ndarray], steps: int) -> Iterator[dict[str, np.ndarray]]:
    """This process's share of every batch, as it may be read from files."""
    drawn, share = gx.batches(data, BATCH, drop_last=True), BATCH // jax.process_count()
    begin = share * jax.process_index()
    for step in range(steps):
        mine = np.asarray(drawn.at(jax.random.key(0), step))[begin : begin + share]
        yield {name: array[mine] for name, array in data.items()}


def main() -> None:
    """Train, or go on where the last checkpoint is; write down what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="where to write the parameters, a file of NumPy's")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--stream", action="store_true", help="read batches in parts, one for each process")
    parser.add_argument("--checkpoints", type=Path, help="a folder that all processes see")
    parser.add_argument("--checkpoint-every", type=int, default=50)
    args = parser.parse_args()

    join_the_others()
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    more = {"batch_size": BATCH, "steps": args.steps, "mesh": mesh}
    if args.checkpoints:
        more |= {
            "checkpoint_dir": args.checkpoints,
            "checkpoint_every": args.checkpoint_every,
            "resume": True,
        }
    data = digits()
    if args.stream:
        data, more["batch_size"] = own_part(data, args.steps), None
    result = gx.fit(loss, network(), data, TX, **more)
    if jax.process_index() == 0:
        np.savez(args.out, step=result.step, loss=result.history.loss, **result.params)
        print(f"{jax.process_count()} processes, {jax.device_count()} devices: {result}")


if __name__ == "__main__":
    main()
