"""Checkpoints. Run as a script, ``python tests/test_checkpoints.py FOLDER``, this trains, to be killed."""

import dataclasses
import functools
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform.checkpoints import Checkpoints, CheckpointWarning
from gradxform.storage.store import store
from gradxform.training import FitResult, History, batches, fit
from gradxform.training.checkpointing import restore_checkpoint, save_checkpoint

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(23, 4)).astype(np.float32)
DATA = {"x": X, "y": np.sin(X).sum(1)}
START = {"dense": {"kernel": jnp.full((4, 3), 0.1), "bias": jnp.zeros(3)}, "out": jnp.ones(3)}
TX = gx.chain(gx.add_noise(0.01, 0.5, key=4), gx.adam(gx.linear_schedule(0.1, 0.0, 60)))


def loss(params, batch, key=None):
    hidden = jnp.tanh(batch["x"] @ params["dense"]["kernel"] + params["dense"]["bias"])
    kept = jax.random.bernoulli(key, 0.8, hidden.shape)
    value = jnp.mean(((hidden * kept) @ params["out"] - batch["y"]) ** 2)
    return value, {"kept": kept.mean()}


def squared(params):
    return {"squared": jnp.sum(params["out"] ** 2)}


train = functools.partial(fit, loss, START, DATA, TX, batch_size=5, key=3, evaluate=squared, evaluate_every=7)


def same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def same_run(left, right):
    """Equal in all but the times."""
    same((left.params, left.state), (right.params, right.state))
    same(jax.random.key_data(left.key), jax.random.key_data(right.key))
    assert left.step == right.step
    for name in ("loss", "metrics", "hyperparams", "steps"):
        same(getattr(left.history, name), getattr(right.history, name))
    for one, other in zip(left.history.evaluations, right.history.evaluations, strict=True):
        assert (one.step, one.values) == (other.step, other.values)


def copy(tmp_path, folder):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture(scope="module")
def whole():
    return train(steps=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints of the steps 20, 25 and 30 of that run."""
    path = tmp_path_factory.mktemp("checkpoints")
    train(steps=30, checkpoint_dir=path, checkpoint_every=5)
    return path


# Going on


def test_the_last_checkpoints_are_kept(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["20", "25", "30"]


def test_a_resumed_run_equals_one_that_was_never_interrupted(whole, folder, tmp_path):
    copied = copy(tmp_path, folder)
    shutil.rmtree(copied / "30")  # its last evaluation is out of the rhythm
    resumed = train(steps=40, checkpoint_dir=copied, checkpoint_every=6, keep=2, resume=True)
    same_run(resumed, whole)
    assert np.all(np.diff(resumed.history.seconds) > 0)
    assert Checkpoints(copied).steps() == [36, 40]
    # At its end it is returned, and trained on when more is asked for.
    same_run(train(steps=40, checkpoint_dir=copied, resume=True), whole)
    assert train(steps=41, checkpoint_dir=copied, resume=True).step == 41


def test_a_result_is_read_back_and_gone_on_from(whole, folder):
    result = restore_checkpoint(folder, START, TX, step=25)
    assert (result.step, len(result.history), result.stopped) == (25, 25, False)
    assert result.history.seconds.dtype == np.float64
    on = fit(loss, result, DATA, TX, batch_size=5, steps=15)
    same((on.params, on.state), (whole.params, whole.state))
    same(on.history.loss, whole.history.loss)


def test_nothing_to_resume_from_is_a_beginning(tmp_path):
    first = train(steps=3, checkpoint_dir=tmp_path / "new", resume=True)
    same_run(first, train(steps=3))
    assert Checkpoints(tmp_path / "new").steps() == [3]


class Loader:
    def __init__(self, drawn):
        self.drawn = drawn

    def __iter__(self):
        return iter(self.drawn)


@pytest.mark.parametrize("kind", ["iterator", "iterable"])
def test_a_stream_is_gone_on_with_where_it_was_left(kind, tmp_path):
    plan = batches(DATA, 5)
    key = jax.random.key(0)
    indices = [np.asarray(plan.at(key, step)) for step in range(12)]
    drawn = [{"x": X[index], "y": DATA["y"][index]} for index in indices]
    how = {"epochs": 2} if kind == "iterable" else {}

    def stream():
        return Loader(drawn) if kind == "iterable" else iter(drawn)

    run = functools.partial(fit, loss, START, tx=TX, key=3)
    uninterrupted = run(stream(), **how)
    run(stream(), steps=7, checkpoint_dir=tmp_path)
    for _ in range(2):  # the second time there is nothing left to do
        resumed = run(stream(), **how, checkpoint_dir=tmp_path, resume=True)
        same_run(resumed, uninterrupted)


def test_a_run_that_its_callback_ended_stays_ended(tmp_path):
    def stop(snapshot):
        return snapshot.step >= 14

    ended = train(steps=40, callbacks=[stop], checkpoint_dir=tmp_path)
    again = train(steps=40, callbacks=[stop], checkpoint_dir=tmp_path, resume=True)
    assert ended.stopped
    assert again.stopped
    same_run(again, ended)


def test_an_interrupted_run_is_saved_and_goes_on(whole, tmp_path):
    def interrupt(snapshot):
        if snapshot.step == 14:
            raise KeyboardInterrupt

    train(steps=40, callbacks=[interrupt], checkpoint_dir=tmp_path)
    assert restore_checkpoint(tmp_path, START, TX).interrupted
    same_run(train(steps=40, checkpoint_dir=tmp_path, resume=True), whole)


def test_without_a_number_of_steps_the_clock_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.import_module("gradxform.training.checkpointing"), "_SECONDS_BETWEEN", 0.0)
    train(steps=21, checkpoint_dir=tmp_path)
    assert Checkpoints(tmp_path).steps() == [7, 14, 21]


# What is refused


def test_fit_never_overwrites(folder):
    with pytest.raises(
        ValueError, match=r"has checkpoints of steps \[20, 25, 30\] already; pass resume=True"
    ):
        train(steps=40, checkpoint_dir=folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 6}, r"'batch_size': 5.*'batch_size': 6"),
        ({"key": 4}, "made from another key"),
        ({"start": 31}, r"30 is from before step 31"),
        ({"keep": 0}, "keep must be an integer of at least 1"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1"),
        ({"checkpoint_dir": None}, "pass checkpoint_dir"),
    ],
)
def test_arguments_that_do_not_go_together(changes, message, folder):
    with pytest.raises(ValueError, match=message):
        train(**{"steps": 40, "checkpoint_dir": folder, "resume": True, **changes})


def test_another_chain_is_refused_and_both_are_shown(folder):
    other = gx.chain(gx.add_noise(0.01, 0.5, key=4), gx.sgd(0.1, momentum=0.9))
    with pytest.raises(ValueError, match=r"30 is of another optimizer .*; part 2 differs") as caught:
        restore_checkpoint(folder, START, other)
    lines = str(caught.value).splitlines()
    assert f"written by gradxform {gx.__version__}" in lines[1]
    assert [line for line in lines if line.startswith("→")] == [
        "→ scale_by_adam(b1=0.9, b2=0.999, eps=1e-08, eps_root=0)",
        "→ trace(decay=0.9)",
    ]
    assert "  scale_by_learning_rate(linear_schedule(0.1, 0, 60))" in lines
    assert "  scale_by_learning_rate(0.1)" in lines
    with pytest.raises(ValueError, match=r"(?s)part 3 differs.*→ \(nothing\)"):
        restore_checkpoint(folder, START, gx.chain(gx.add_noise(0.01, 0.5, key=4), gx.scale_by_adam()))


@pytest.mark.parametrize(
    ("rate", "told"),
    [(0.5, r"linear_schedule\(0.1, 0, 60\)\) → .*0.5\)"), (gx.linear_schedule(0.2, 0.0, 60), "0.2, 0, 60")],
)
def test_a_changed_learning_rate_is_the_codes_and_told(rate, told, folder):
    other = gx.chain(gx.add_noise(0.01, 0.5, key=4), gx.adam(rate))
    with pytest.warns(CheckpointWarning, match=told):
        result = restore_checkpoint(folder, START, other)
    kept = restore_checkpoint(folder, START, TX)
    same((result.params, result.state.slots), (kept.params, kept.state.slots))
    # The step is longer as the rate is higher.
    updates, slow = (tx.update(START, run.state, START)[0] for tx, run in ((other, result), (TX, kept)))
    higher = 10 if rate == 0.5 else 2
    jax.tree.map(lambda up, down: np.testing.assert_allclose(up, higher * down, rtol=1e-5), updates, slow)


def test_constants_that_print_alike_are_told_apart(tmp_path):
    save_checkpoint(tmp_path, run_of(gx.sgd(0.1)), gx.sgd(0.1))
    with pytest.warns(CheckpointWarning, match=r"learning_rate: 0\.1 → 0\.1000000001"):
        restore_checkpoint(tmp_path, START, gx.sgd(0.1000000001))


def test_tunables_are_restored(tmp_path):
    tx = gx.sgd(gx.tunable(0.1))
    state = gx.set_hyperparams(tx.init(START), learning_rate=0.025)
    save_checkpoint(tmp_path, dataclasses.replace(run_of(tx), state=state), tx)
    kept = restore_checkpoint(tmp_path, START, tx)
    assert gx.get_hyperparams(kept.state)["learning_rate"] == np.float32(0.025)
    # Its start in the code has no say any more, which is told; that it is a constant now has.
    with pytest.warns(CheckpointWarning, match=r"tunables keep their values"):
        kept = restore_checkpoint(tmp_path, START, gx.sgd(gx.tunable(0.5)))
    assert gx.get_hyperparams(kept.state)["learning_rate"] == np.float32(0.025)
    with pytest.warns(CheckpointWarning, match=r"tunable\(0.1\)\) → .*\(0.5\)"):
        assert gx.get_hyperparams(restore_checkpoint(tmp_path, START, gx.sgd(0.5)).state) == {}


def test_a_constant_that_became_tunable_starts_from_the_code(tmp_path):
    save_checkpoint(tmp_path, run_of(gx.sgd(0.1)), gx.sgd(0.1))
    with pytest.warns(CheckpointWarning, match=r"\(0.1\) → .*tunable\(0.3\)"):
        result = restore_checkpoint(tmp_path, START, gx.sgd(gx.tunable(0.3)))
    assert gx.get_hyperparams(result.state)["learning_rate"] == np.float32(0.3)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {**START, "out": jnp.ones(4)},
            r"params\['out'\] is float32\[3\] in .*30, and float32\[4\] in the code",
        ),
        ({**START, "out": jnp.ones(3, jnp.bfloat16)}, r"params\['out'\] is float32\[3\].*and bfloat16\[3\]"),
        ({**START, "more": jnp.ones(3)}, r"state\.slots\[1\]\.mu\['more'\] is not in the checkpoint"),
        ({"out": START["out"]}, r"params\['dense'\]\['bias'\] is in the checkpoint alone"),
    ],
)
def test_other_leaves_are_named(params, message, folder):
    with pytest.raises(ValueError, match=message):
        restore_checkpoint(folder, params, TX)


def test_a_missing_library_is_told(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r"pip install 'gradxform\[checkpoint\]'"):
        train(steps=3, checkpoint_dir=tmp_path)


def test_there_is_no_checkpoint(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="there are no checkpoints in"):
        restore_checkpoint(tmp_path, START, TX)
    with pytest.raises(FileNotFoundError, match=r"29; there are those of steps \[20, 25, 30\]"):
        restore_checkpoint(folder, START, TX, step=29)


# Damage


def flip(path, rng):
    contents = bytearray(path.read_bytes())
    contents[rng.randrange(len(contents))] ^= 1 << rng.randrange(8)
    path.write_bytes(contents)


def truncate(path, rng):
    os.truncate(path, rng.randrange(path.stat().st_size))


def remove(path, rng):
    path.unlink()


def files(path):
    return sorted(file for file in path.rglob("*") if file.is_file())


def test_a_flipped_bit_in_any_file_is_noticed(folder, tmp_path):
    copied = copy(tmp_path, folder)
    rng = random.Random(0)
    seen = 0
    for file in files(copied / "30"):
        contents = file.read_bytes()
        for damage in (flip, truncate, remove):
            damage(file, rng)
            if file.parent.name == "30" and file.name in {"_CHECKPOINT_METADATA", "commit_success.txt"}:
                Checkpoints(copied).at(30)  # Orbax's times, which nothing depends on
            else:
                with pytest.raises(ValueError, match=r"copy/30 is damaged: .*"):
                    Checkpoints(copied).at(30)
                seen += 1
            file.write_bytes(contents)
    assert seen > 30
    (copied / "30" / "arrays" / "more").write_text("")
    with pytest.raises(ValueError, match=r"damaged: arrays/more has not"):
        Checkpoints(copied).at(30)


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_used(whole, folder, tmp_path):
    copied = copy(tmp_path, folder)
    flip(max(files(copied / "30"), key=lambda path: path.stat().st_size), random.Random(1))
    with pytest.warns(CheckpointWarning, match=r"copy/30 is damaged: .*; that of step 25 is used"):
        assert restore_checkpoint(copied, START, TX).step == 25
    with pytest.warns(CheckpointWarning, match="damaged"):
        resumed = train(steps=40, checkpoint_dir=copied, checkpoint_every=5, resume=True)
    same_run(resumed, whole)
    assert sorted(path.name for path in copied.iterdir()) == ["30", "30.refused", "35", "40"]
    for step in (30, 35, 40):
        shutil.rmtree(copied / str(step) / "metadata")
    with pytest.raises(ValueError, match=r"(?s)no checkpoint is intact.*/40 is damaged.*/30 is damaged"):
        train(steps=50, checkpoint_dir=copied, resume=True)


def test_an_unfinished_checkpoint_is_none(folder, tmp_path):
    copied = copy(tmp_path, folder)
    (copied / "30").rename(copied / "30.orbax-checkpoint-tmp")
    (copied / "deleted").mkdir()
    (copied / "20").rename(copied / "deleted" / "20")
    assert Checkpoints(copied).steps() == [25]
    train(steps=40, checkpoint_dir=copied, resume=True)
    assert sorted(path.name for path in copied.iterdir()) == ["25", "40"]


# Trees of any kind


class Pair(NamedTuple):
    left: jax.Array
    right: jax.Array | None


def test_leaves_of_every_kind_come_back_bit_by_bit(tmp_path):
    bits = np.arange(1, 7, dtype=np.uint8)
    dtypes = [
        "bfloat16",
        "float16",
        "float32",
        "int32",
        "uint8",
        "bool",
        "complex64",
        "float8_e4m3fn",
        "int4",
    ]
    tree = {
        "arrays": {dtype: jnp.asarray(bits).astype(dtype).reshape(2, 3) for dtype in dtypes},
        "odd": [Pair(jnp.zeros((0, 4), jnp.float16), None), np.float32(2.5), 1.5],
        "keys": {"new": jax.random.split(jax.random.key(1), 3), "rbg": jax.random.key(2, impl="rbg")},
        "old/~/key": jax.random.PRNGKey(3),
        "numpy": {
            "float64": np.array([1.0, np.nan, np.inf, 1e-300]),
            "number": np.float64(0.1) * np.ones(()),
        },
    }
    notes = {"text": "ü", "list": [1, 2.5, None, float("inf")]}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, tree, notes=notes)
        checkpoints.wait()
        checkpoint = checkpoints.latest()
        back = checkpoint.restore(tree)
        some = checkpoint.restore({"keys": tree["keys"]})
    assert checkpoint.notes == notes
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for before, after in zip(jax.tree.leaves(tree), jax.tree.leaves(back), strict=True):
        assert jnp.result_type(before) == after.dtype or isinstance(before, np.ndarray)
        if jnp.issubdtype(after.dtype, jax.dtypes.prng_key):
            before, after = jax.random.key_data(before), jax.random.key_data(after)
        assert np.asarray(before, np.asarray(after).dtype).tobytes() == np.asarray(after).tobytes()
    assert back["numpy"]["float64"].dtype == np.float64
    assert jax.random.bits(some["keys"]["rbg"]) == jax.random.bits(tree["keys"]["rbg"])


def test_what_is_no_array_is_named(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(TypeError, match=r"params\['f'\] must be an array of numbers, got 'text'"):
            checkpoints.save(0, {"params": {"f": "text"}})
        assert checkpoints.steps() == []


def test_a_checkpoint_is_always_the_newest(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, {"w": jnp.ones(3)})
        for step in (4, 2):
            with pytest.raises(ValueError, match=rf"4 is in the way of one of step {step}"):
                checkpoints.save(step, {"w": jnp.ones(3)})


def test_what_is_saved_may_be_donated_at_once(tmp_path):
    advance = jax.jit(lambda x: x + 1, donate_argnums=0)
    x, mutable = jnp.zeros(2_000_000), np.zeros(2_000_000, np.float32)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, {"x": x, "mutable": mutable})
        mutable += 1
        for _ in range(5):
            x = advance(x)
        x.block_until_ready()
        checkpoints.wait()
        back = checkpoints.latest().restore({"x": x, "mutable": mutable})
    assert not np.any(back["x"])
    assert not np.any(back["mutable"])


def run_of(tx):
    return FitResult(START, tx.init(START), History(), 7, jax.random.key(1))


@pytest.mark.parametrize(
    "tx",
    [
        gx.named_chain(("clip", gx.clip_by_global_norm(1.0)), ("adam", gx.adam(0.1))),
        gx.apply_if_finite(gx.adafactor(0.1, min_dim_size_to_factor=2), 3),
        gx.partition(
            {"a": gx.adam(0.1), "b": gx.sgd(0.1, momentum=0.9)}, lambda p: {"dense": "a", "out": "b"}
        ),
        gx.schedule_free_adamw(0.1),
        gx.chain(store(gx.scale_by_adam(), min_size=8), gx.scale(-0.1)),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(0.1, 10))),
    ],
    ids=["named", "wrapped", "partition", "schedule-free", "stored", "optax"],
)
def test_any_state_comes_back(tx, tmp_path):
    rng = np.random.default_rng(0)
    state = jax.tree.map(
        lambda leaf: jnp.asarray(rng.integers(0, 100, leaf.shape)).astype(leaf.dtype), tx.init(START)
    )
    run = dataclasses.replace(run_of(tx), state=state)
    save_checkpoint(tmp_path, run, tx)
    same_run(restore_checkpoint(tmp_path, START, tx), run)


def test_the_metadata_is_plain_json(folder):
    written = json.loads((folder / "30" / "metadata" / "metadata").read_text())
    assert written["format"] == 1
    assert written["optimizer"]["constants"]["b1"] == 0.9


def test_what_is_no_training_run_is_told(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, {"params": START})
    with pytest.raises(ValueError, match="3 is not the checkpoint of a training run"):
        train(steps=5, checkpoint_dir=tmp_path, resume=True)
    with pytest.raises(ValueError, match="saved without a transformation to compare with"):
        checkpoints.latest().restore({"params": START}, TX)


def test_a_later_format_is_refused(folder, monkeypatch):
    monkeypatch.setattr("gradxform.checkpoints._FORMAT", 0)
    with pytest.raises(ValueError, match=r"has format 1, .* it reads format 0"):
        restore_checkpoint(folder, START, TX)


# Many devices


def test_a_run_on_eight_devices_goes_on_on_four_and_on_one(tmp_path):
    params = {"w": jnp.arange(32.0).reshape(8, 4), "b": jnp.arange(4.0)}
    grads = jax.tree.map(jnp.cos, params)
    tx = gx.adam(0.1)

    def layout(count):
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:count]), ("data",))
        spec = jax.sharding.PartitionSpec
        return {
            "w": jax.sharding.NamedSharding(mesh, spec("data")),
            "b": jax.sharding.NamedSharding(mesh, spec()),
        }

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return gx.apply_updates(params, updates), state

    sharded, beside = (jax.device_put(tree, layout(8)) for tree in (params, grads))
    sharded, state = jax.jit(step)(sharded, jax.jit(tx.init)(sharded), beside)
    save_checkpoint(tmp_path, FitResult(sharded, state, History(), 1, jax.random.key(0)), tx)
    expected = jax.jit(step)(*jax.jit(step)(params, tx.init(params), grads), grads)[0]
    for count in (8, 4, 2, 1):
        like = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            params,
            layout(count),
        )
        result = restore_checkpoint(tmp_path, like, tx)
        for tree in (result.params, result.state.slots[0].mu, result.state.slots[0].nu):
            assert tree["w"].sharding == layout(count)["w"]
            assert tree["w"].addressable_shards[0].data.shape == (8 // count, 4)
        after, _ = jax.jit(step)(result.params, result.state, jax.device_put(grads, layout(count)))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), after, expected)
    whole = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    assert not restore_checkpoint(tmp_path, like, tx, state=whole).state.slots[0].mu["w"].committed
    alone = restore_checkpoint(tmp_path, params, tx)
    assert len(alone.params["w"].devices()) == 1
    same(alone.params, sharded)


def test_a_training_on_four_devices_goes_on_on_two(tmp_path):
    def run(devices, **how):
        mesh = {"mesh": jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))} if devices else {}
        return fit(loss, START, DATA, TX, batch_size=8, drop_last=True, **mesh, **how)

    run(4, steps=5, checkpoint_dir=tmp_path)
    resumed, alone = run(2, steps=9, checkpoint_dir=tmp_path, resume=True), run(None, steps=9)
    assert len(resumed.params["out"].devices()) == 2
    np.testing.assert_allclose(resumed.history.loss, alone.history.loss, rtol=1e-4)
    np.testing.assert_allclose(resumed.params["out"], alone.params["out"], rtol=1e-4)


# Killed at any moment

KILLS = int(os.environ.get("KILLS", "3"))
SECONDS = 0.3  # after its first step, at the latest, a run is killed
STEPS = 20 * KILLS + 20


def to_be_killed(folder):
    """A run that takes its time; what it comes to is written at the end."""

    def take_time(snapshot):
        print(snapshot.step, flush=True)
        time.sleep(SECONDS / 20)

    result = fit(
        loss,
        START,
        DATA,
        TX,
        batch_size=5,
        steps=STEPS,
        key=3,
        callbacks=[take_time],
        evaluate_every=1,
        checkpoint_dir=folder / "checkpoints",
        checkpoint_every=3,
        resume=True,
    )
    leaves = jax.tree.leaves((result.params, result.state, result.history.loss))
    np.savez(folder / "result.npz", *leaves)


def test_killed_at_any_moment_it_ends_where_it_would_have(tmp_path):
    environment = {
        **os.environ,
        "XLA_FLAGS": "",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def run(folder, kill_after=None):
        folder.mkdir(exist_ok=True)
        command = [sys.executable, __file__, str(folder)]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as child:
            if kill_after is not None:
                child.stdout.readline()
                time.sleep(kill_after)
                child.kill()
            child.communicate()
        assert child.returncode == (0 if kill_after is None else -signal.SIGKILL)

    killed, uninterrupted = tmp_path / "killed", tmp_path / "uninterrupted"
    run(uninterrupted)
    rng = random.Random(0)
    checkpoints = Checkpoints(killed / "checkpoints")
    reached, halfway = [], 0
    for _ in range(KILLS):
        run(killed, rng.uniform(0, SECONDS))
        for step in checkpoints.steps():
            checkpoints.at(step)  # none is half written
        reached.append(max(checkpoints.steps(), default=0))
        halfway += any("tmp" in path.name for path in checkpoints.directory.iterdir())
    run(killed)
    print(f"{halfway} of {KILLS} kills left an unfinished checkpoint; the newest whole ones: {reached}")
    assert reached == sorted(reached)
    assert reached[-1] < STEPS
    with np.load(killed / "result.npz") as one, np.load(uninterrupted / "result.npz") as other:
        same(dict(one), dict(other))


if __name__ == "__main__":
    to_be_killed(Path(sys.argv[1]))
