"""Bytes read from a program's text, against lines written by hand and against closed forms."""

import json
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from gradxform.parallel.communication import Collective, communication

LINES = [
    (
        "%a.1 = f32[8,16]{1,0} all-reduce(%x), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}",
        ("all-reduce", 512, 4, 2 * 512 * 3 / 4),
    ),
    (
        "ROOT %a = (f32[2]{0}, bf16[3]{0}, /*index=5*/pred[4]{0}) all-reduce(%x), replica_groups=[2,4]<=[8]",
        ("all-reduce", 8 + 6 + 4, 4, 2 * 18 * 3 / 4),
    ),
    (
        "%a = c64[3]{0} all-reduce-start(%x), replica_groups={}, to_apply=%add",
        ("all-reduce", 24, 8, 2 * 24 * 7 / 8),
    ),
    (
        "%s = f32[2,16]{1,0} reduce-scatter(%x), replica_groups={{0,1,2,3}}, dimensions={0}, to_apply=%f",
        ("reduce-scatter", 512, 4, 512 * 3 / 4),
    ),
    (
        "%g = (f32[2]{0}, f32[16]{0}) all-gather-start(%x), replica_groups=mesh['x'=8,'y'=2] {'x'}",
        ("all-gather", 64, 8, 64 * 7 / 8),
    ),
    (
        "%g = s8[16]{0} all-gather(%x), replica_groups=mesh['x'=8], device_ids=([8]) {'x':(2)4}",
        ("all-gather", 16, 4, 16 * 3 / 4),
    ),
    (
        "%t = (f8e4m3fn[4,2]{1,0}, f8e4m3fn[4,2]{1,0}) all-to-all(%x, %y), replica_groups={{0,1}}",
        ("all-to-all", 16, 2, 8),
    ),
    (
        "%p = (f32[4]{0}, f32[4]{0}) collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}",
        ("collective-permute", 16, 1, 16),
    ),
]


@pytest.mark.parametrize(("line", "expected"), LINES, ids=[line[:12] for line, _ in LINES])
def test_a_line_of_each_kind(line: str, expected: Any) -> None:
    text = f'HloModule jit_f, num_partitions=8\n  {line}, metadata={{op_name="jit(f)/add"}}\n'
    kind, size, devices, sent = expected
    (found,) = communication(text).collectives
    assert found == Collective(kind, size, devices, "jit(f)/add")
    assert found.sent == sent


def test_a_sum_and_a_cut_in_one_as_tpus_have_it() -> None:
    line = "  %a = f32[8,16]{1,0} all-reduce(%x), replica_groups={{0,1,2,3}}\n"
    fused = f"%all-reduce-scatter.1 (input: f32[8,16]) -> f32[2,16] {{\n{line}}}\n"
    found = communication(f"{line}{fused}{line}").collectives
    assert [each.kind for each in found] == ["all-reduce", "reduce-scatter", "all-reduce"]
    assert found[1].bytes == 512
    assert found[1].sent == 512 * 3 / 4


def test_what_only_speaks_of_a_collective_is_none() -> None:
    text = """
    %all-reduce.1 = f32[8]{0} fusion(%all-reduce.2), calls=%computation
    %d = f32[8]{0} all-gather-done(%all-gather-start.1)
    %g = f32[8]{0} get-tuple-element(%all-to-all.3), index=0
    """
    assert communication(text).collectives == ()
    assert communication(text).bytes() == communication(text).sent() == 0


def test_a_line_that_cannot_be_read() -> None:
    with pytest.raises(ValueError, match=r"cannot read which devices take part in .*x=y"):
        communication("%a = f32[8]{0} all-reduce(%x), x=y\n")


def test_the_table() -> None:
    (reduced, _), (scattered, _) = LINES[0], LINES[3]
    text = str(communication(f"{reduced}\n{scattered}\n{reduced}\n"))
    assert text.splitlines() == [
        "collective      bytes  sent by each device",
        "all-reduce      1,024                1,536",
        "reduce-scatter    512                  384",
    ]


def test_a_compiled_program() -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    shape = jax.ShapeDtypeStruct((64, 3), jnp.float32, sharding=rows)
    sum_of_rows = jax.jit(lambda x: x.sum(0), out_shardings=whole).lower(shape).compile()
    (found,) = communication(sum_of_rows).collectives
    assert found[:3] == ("all-reduce", 12, 8)
    assert "reduce_sum" in found.operation
    gathered = communication(jax.jit(lambda x: 2 * x, out_shardings=whole).lower(shape).compile())
    assert gathered.bytes() == gathered.bytes("all-gather") == 64 * 3 * 4


PROGRAM = """
import json, jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
import gradxform as gx
from gradxform.parallel.communication import communication
from gradxform.parallel.gradients import scatter_gradients
from gradxform.parallel.sharding import state_sharding
from gradxform.parallel.zero import shard_state

def loss(params, batch):
    return jnp.mean((jnp.tanh(batch @ params["in"]) @ params["out"]) ** 2)

shapes = {"in": (512, 1024), "out": (1024, 512)}
found = {}
for devices in (2, 8, 64, 512):
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",), axis_types=(AxisType.Auto,))
    rows, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    plain = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-3))
    for name, tx, gradient in [
        ("all-reduce", plain, jax.value_and_grad(loss)),
        ("reduce-scatter", shard_state(plain, mesh, "data"), scatter_gradients(loss, mesh, "data")),
    ]:
        params = {n: jax.ShapeDtypeStruct(s, jnp.float32, sharding=whole) for n, s in shapes.items()}
        state = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            jax.eval_shape(tx.init, params), state_sharding(tx, params),
        )
        def step(params, state, batch):
            value, grads = gradient(params, batch)
            updates, state = tx.update(grads, state, params)
            return gx.apply_updates(params, updates), state, value
        batch = jax.ShapeDtypeStruct((2 * devices, 512), jnp.float32, sharding=rows)
        sent = communication(jax.jit(step, donate_argnums=(0, 1)).lower(params, state, batch).compile())
        kinds = dict.fromkeys(each.kind for each in sent.collectives)
        found[f"{name} {devices}"] = {kind: [sent.bytes(kind), sent.sent(kind)] for kind in kinds}
print(json.dumps(found))
"""


def test_up_to_512_devices_no_more_than_a_ring_needs_is_sent_and_no_state() -> None:
    """Compiled for devices that are not there; 2 (N - 1) / N of the gradient's bytes is what a ring sends."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=512"
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    size, scalars = 2 * 4 * 512 * 1024, 4 * 8
    for case, kinds in json.loads(run.stdout.splitlines()[-1]).items():
        name, devices = case.split()
        ring = 2 * size * (int(devices) - 1) / int(devices)
        assert ring <= sum(sent for _, sent in kinds.values()) <= 1.05 * ring, case
        whole = {kind: total for kind, (total, _) in kinds.items()}
        if name == "all-reduce":
            assert set(whole) == {"all-reduce"}
            assert size <= whole["all-reduce"] <= size + scalars
        else:
            assert whole["reduce-scatter"] == whole["all-gather"] == size
            assert whole["all-reduce"] <= scalars
