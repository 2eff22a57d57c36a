"""The checks that every transformation of the library has to pass, for a rule of your own.

`check_rule` runs them and raises at the first that fails. The library's own
tests run the same checks, one by one, on everything in its catalogue.
"""

import pickle
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import keystr, tree_leaves_with_path

from gradxform.chain import Chain, chain
from gradxform.rule import Lift, Rule, lift
from gradxform.transformation import GradientTransformation, Params, State, Updates
from gradxform.trees import PyTree

__all__ = ["CHECKS", "check_rule"]

STEPS = 3
"""How many steps a check takes."""


@dataclass(frozen=True)
class _Case:
    """What a check is made of.

    Attributes:
      tx: the transformation.
      params, grads: parameters, and gradients of every step.
      plain: whether the parameters are the checks' own, so that they may take others too.
      extra: keyword arguments of `update`.
      rests, wide: as in `check_rule`.
    """

    tx: GradientTransformation
    params: Params
    grads: list[Updates]
    plain: bool
    extra: Mapping[str, Any]
    rests: bool
    wide: bool

    def run(
        self,
        params: Params = None,
        grads: Sequence[Updates] = (),
        tx: GradientTransformation | None = None,
        told: bool = True,
    ) -> tuple[list[Updates], State]:
        """The updates of every step and the last state; the parameters stay where they are."""
        tx = tx or self.tx
        params = self.params if params is None else params
        state, updates = tx.init(params), []
        for grad in grads or self.grads:
            given = (params,) if told else ()
            update, state = tx.update(grad, state, *given, **self.extra)
            updates.append(update)
        return updates, state

    def scanned(self, params: Params, grads: Updates) -> tuple[Updates, State]:
        """The same in one loop; the gradients of all steps are stacked."""

        def step(state: State, grad: Updates) -> tuple[State, Updates]:
            update, state = self.tx.update(grad, state, params, **self.extra)
            return state, update

        state, updates = jax.lax.scan(step, self.tx.init(params), grads)
        return updates, state

    def rules(self) -> tuple[Rule, ...]:
        """The rules that it is a chain of; none if it has other parts."""
        return self.tx.rules if isinstance(self.tx, Lift) else ()


@dataclass(frozen=True)
class _Check:
    """A check, and what to do where it fails."""

    run: Callable[[_Case], None]
    remedy: str = field(repr=False)


_OF_TRACING = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.UnexpectedTracerError,
)
"""What JAX raises where a function cannot be traced, in whichever check that comes out."""

CHECKS: dict[str, _Check] = {}
"""The checks by name, in the order in which `check_rule` makes them."""


def _check(remedy: str) -> Callable[[Callable[[_Case], None]], Callable[[_Case], None]]:
    def register(run: Callable[[_Case], None]) -> Callable[[_Case], None]:
        CHECKS[run.__name__] = _Check(run, remedy)
        return run

    return register


def check_rule(
    rule: Rule | GradientTransformation,
    params: Params | None = None,
    *,
    only: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    extra: Mapping[str, Any] | None = None,
    rests: bool = True,
    wide: bool = True,
) -> None:
    """Check that a rule, or any transformation, does what the library promises for its own.

    ===========================  =================================================================
    check                        what it finds
    ===========================  =================================================================
    ``state_keeps_its_type``     a state whose structure, shapes or dtypes change from step to step,
                                 or that has one buffer in two places
    ``pure``                     memory outside the state: counters, lists, global random numbers
    ``runs_alike``               what is not the same under `jit`, `scan`, `vmap`, `pmap` and, where
                                 there are several devices, with parameters spread over them
    ``init_of_shapes``           an `init` that needs the parameters' values
    ``zero_gradients``           NaN, or a step, where every gradient is 0
    ``odd_leaves``               scalars, empty arrays, NumPy arrays and ``None``
    ``half_precision``           results in bfloat16 and float16 that are not those of float32,
                                 rounded once
    ``width``                    with ``jax_enable_x64``: numbers that change their precision
    ``complex_numbers``          squares where squared magnitudes belong
    ``element_scope``            a rule called elementwise that looks at other elements
    ``says_if_it_needs_params``  a rule that reads the parameters and does not say so
    ``in_a_chain``               what changes when other parts, foreign ones too, stand beside it
    ``bad_input``                integers, and trees that do not fit, that are not refused by name
    ``pickles``                  a state that cannot be saved
    ===========================  =================================================================

    Sharding is checked on as many devices as there are; start the tests with
    ``XLA_FLAGS=--xla_force_host_platform_device_count=8`` to have eight.

    Args:
      rule: a `Rule`, or any transformation.
      params: a pytree of float32 arrays, for those that do not take every shape;
        by default a vector and a matrix.
      only: the names of the checks to make; by default all.
      skip: the names of those not to make.
      extra: keyword arguments that its `update` needs (the loss's ``value``, say).
      rests: whether it gives no update where all gradients are 0, as it should
        unless it decays weights or adds noise.
      wide: whether it computes in float32, and keeps its state in it, where the
        parameters are narrower; `lift` sees to that for rules.

    Raises:
      AssertionError: a check has failed. The message names the rule, the check,
        the leaf and the remedy.
      ValueError: there is no check of that name.

    Returns:
      Nothing.

    Example:
      >>> import gradxform as gx
      >>> from gradxform.testing import check_rule
      >>> check_rule(gx.trace(0.9))
      >>> sign = gx.Rule("sign", lambda grad, slots, param, step: (grad / abs(grad), slots))
      >>> try:
      ...     check_rule(sign)
      ... except AssertionError as error:
      ...     print(str(error).split(". ")[0])
      check_rule: sign fails 'zero_gradients': step 1, updates['w'] is not finite
    """
    tx: GradientTransformation = lift(rule) if isinstance(rule, Rule) else rule
    names = list(CHECKS) if only is None else list(only)
    for name in [*names, *(skip := tuple(skip))]:
        if name not in CHECKS:
            raise ValueError(f"check_rule: there is no check {name!r}; there are {', '.join(CHECKS)}")
    case = _Case(
        tx,
        _example_params() if params is None else jax.tree.map(jnp.asarray, params),
        [],
        params is None,
        extra or {},
        rests,
        wide,
    )
    case.grads.extend(_random_trees(case.params, STEPS, seed=0))
    who = " + ".join(rule.name for rule in case.rules()) or repr(tx)
    for name in names:
        if name in skip:
            continue
        check = CHECKS[name]
        try:
            check.run(case)
        except Exception as error:
            if isinstance(error, _OF_TRACING):
                name, check = "runs_alike", CHECKS["runs_alike"]
            said = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            notes = "".join(
                f" ({note})" for note in getattr(error, "__notes__", ()) if note.startswith("while ")
            )
            raise AssertionError(
                f"check_rule: {who} fails {name!r}: {said}{notes}. {check.remedy}"
            ) from error


@_check(
    "A state is carried through loops, so it stays of one type: make slots with gx.slot_like, and give "
    "back the same NamedTuple of arrays of the same shapes and dtypes."
)
def state_keeps_its_type(case: _Case) -> None:
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), case.params)
    for params in ({"a": 0.5, "b": jnp.ones(2)} if case.plain else case.params, narrow):
        state = case.tx.init(params)
        before = _types(state)
        places: dict[int, str] = {}
        for path, leaf in tree_leaves_with_path({"params": params, "state": state}):
            if isinstance(leaf, jax.Array) and leaf.size:
                pointer, place = leaf.unsafe_buffer_pointer(), f"{path[0].key}{keystr(path[1:])}"
                _require(
                    pointer not in places,
                    f"{place} is the same buffer as {places.get(pointer)}, so the state cannot be donated",
                )
                places[pointer] = place
        for step in range(2):
            _, state = case.tx.update(params, state, params, **case.extra)
            for (place, kind), (_, now) in zip(before, _types(state), strict=False):
                _require(kind == now, f"state{place} is {kind} at first and {now} after step {step + 1}")
            _require(len(before) == len(_types(state)), "the state has other leaves after a step")
        _require(
            _structure(state) == _structure(case.tx.init(params)),
            "the state has another structure after a step",
        )


@_check(
    "An update has to be a pure function of its arguments: what it remembers belongs into its slots, "
    "and random numbers come from step.key."
)
def pure(case: _Case) -> None:
    def trace(tx: GradientTransformation) -> tuple[str, list[Any]]:
        def update(grads: Updates, state: State, params: Params) -> Any:
            return tx.update(grads, state, params, **case.extra)

        program = jax.make_jaxpr(update)(case.grads[0], case.tx.init(case.params), case.params)
        return re.sub("0x[0-9a-f]+", "", str(program)), list(program.consts)

    # Without what is compiled already: a compiled function repeats what it did when it was traced.
    (first, numbers), (second, others) = trace(case.tx), trace(_made_again(case.tx))
    same = first == second and len(numbers) == len(others)
    _require(
        same and all(map(np.array_equal, map(_wide, numbers), map(_wide, others))),
        "traced twice, it is two different programs",
    )


@_check(
    "What an array holds is not known while JAX traces the rule: use jnp.where or jax.lax.cond for a "
    "Python if, jnp for np, and no float(x); and the slots alone may carry anything from step to step."
)
def runs_alike(case: _Case) -> None:
    expected = _stacked(case.run())
    params, grads = case.params, _stack(case.grads)
    _same(jax.jit(case.scanned)(params, grads), expected, "jit and scan")

    # Replicas, of which one has parameters and gradients of its own.
    devices = jax.devices()
    lanes, odd = max(len(devices), 2), 1
    other_params = jax.tree.map(lambda leaf: 2 * leaf, params)
    other_grads = _random_trees(params, STEPS, seed=7)
    other = _stacked(case.run(other_params, other_grads))
    batch = [
        _stack([theirs if lane == odd else ours for lane in range(lanes)])
        for ours, theirs in ((params, other_params), (grads, _stack(other_grads)))
    ]
    ways: dict[str, Callable[..., Any]] = {"vmap": jax.jit(jax.vmap(case.scanned))}
    if len(devices) > 1:
        ways["pmap"] = jax.pmap(case.scanned)
    for way, mapped in ways.items():
        result = mapped(*batch)
        _same(jax.tree.map(lambda leaf: leaf[odd], result), other, way)
        _same(jax.tree.map(lambda leaf: leaf[-1 if lanes > 2 else 0], result), expected, way)

    if len(devices) > 1:
        mesh = Mesh(np.array(devices), ("devices",))

        def spread(leaf: Any, axis: int) -> Any:
            fits = leaf.ndim > axis and leaf.shape[axis] and leaf.shape[axis] % len(devices) == 0
            split = [*[None] * axis, "devices"] if fits else []
            return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*split)))

        spread_params = jax.tree.map(lambda leaf: spread(leaf, 0), params)
        spread_grads = jax.tree.map(lambda leaf: spread(leaf, 1), grads)
        _same(jax.jit(case.scanned)(spread_params, spread_grads), expected, "parameters spread over devices")


@_check(
    "init may ask a parameter for its shape and dtype alone, and gives what gx.slot_like makes: a layout "
    "over devices is planned before there are parameters."
)
def init_of_shapes(case: _Case) -> None:
    abstract = jax.eval_shape(lambda: case.params)
    state = case.tx.init(case.params)
    shapes = jax.eval_shape(case.tx.init, abstract)
    _same(shapes, state, "the state of abstract parameters", values=False)
    if case.wide:  # what is not made of rules may compute with them, and needs the line above
        _same(case.tx.init(abstract), state, "the state of parameters' shapes", values=False)

    devices = jax.devices()
    mesh = Mesh(np.array(devices), ("devices",))

    def layout(leaf: Any) -> NamedSharding:
        fits = leaf.ndim and leaf.shape[0] and leaf.shape[0] % len(devices) == 0
        return NamedSharding(mesh, PartitionSpec("devices") if fits else PartitionSpec())

    shardings = jax.tree.map(layout, shapes)
    laid_out = jax.jit(case.tx.init, out_shardings=shardings)(case.params)
    for (path, leaf), sharding in zip(
        tree_leaves_with_path(laid_out), jax.tree.leaves(shardings), strict=True
    ):
        _require(
            leaf.sharding.is_equivalent_to(sharding, leaf.ndim),
            f"state{keystr(path)} is not laid out as it was asked to be",
        )
    _same(laid_out, state, "a state laid out over devices")


@_check(
    "Divide with gx.safe_divide and take roots with gx.safe_sqrt. If it moves parameters without a "
    "gradient on purpose, as weight decay does, pass rests=False."
)
def zero_gradients(case: _Case) -> None:
    params = {"w": jnp.asarray([1.0, -2.0])} if case.plain else case.params
    updates, _ = case.run(params, [jax.tree.map(jnp.zeros_like, params)] * STEPS)
    for step, update in enumerate(updates, 1):
        for path, leaf in tree_leaves_with_path(update):
            place = f"step {step}, updates{keystr(path)}"
            _require(bool(np.isfinite(_wide(leaf)).all()), f"{place} is not finite")
            _require(not case.rests or not np.any(_wide(leaf)), f"{place} is not 0")


@_check("Write it for arrays of any shape: x.sum() rather than x[0], and nothing that needs a first element.")
def odd_leaves(case: _Case) -> None:
    if not case.plain:
        odd: Any = {"given": case.params, "none": None}
        grads = [{"given": grad, "none": None} for grad in case.grads]
        updates, _ = case.run(odd, grads)
        if not any(rule.random for rule in case.rules()):
            _same([update["given"] for update in updates], case.run()[0], "beside a leaf that is None")
        return
    odd = {"empty": jnp.zeros((0, 3)), "float": 0.5, "none": None, "numpy": np.ones(2, np.float32)}
    updates, _ = case.run(odd, [odd, odd])
    for path, leaf in tree_leaves_with_path(odd):
        given = dict(tree_leaves_with_path(updates[-1]))
        _require(path in given, f"updates{keystr(path)} is missing")
        _require(np.shape(given[path]) == np.shape(leaf), f"updates{keystr(path)} has another shape")
    # The odd ones leave the others alone; but random draws go by the place in the tree.
    if not any(rule.random for rule in case.rules()):
        alone = {"float": jnp.asarray(0.5), "numpy": jnp.ones(2)}
        expected, _ = case.run(alone, [alone, alone])
        _same({name: updates[-1][name] for name in alone}, expected[-1], "beside odd leaves", rtol=1e-6)
    for nothing in ({}, (), {"a": None}):
        updates, state = case.run(nothing, [nothing, nothing])
        _require(updates[-1] == nothing, f"the update of the tree {nothing} is {updates[-1]}")
        _require(
            _structure(state) == _structure(case.tx.init(nothing)),
            f"the state of the tree {nothing} has another structure after a step",
        )


@_check(
    "lift gives a rule its arrays in float32, and rounds what it returns: cast nothing within it. If it "
    "computes in the parameters' own dtype on purpose, pass wide=False."
)
def half_precision(case: _Case) -> None:
    exact = bool(case.rules()) and case.rules()[-1].exact
    for dtype in (jnp.bfloat16, jnp.float16):
        params, *grads = _cast([case.params, *case.grads], dtype)
        updates, state = case.run(params, grads)
        if exact:  # it decides by itself how the parameter is rounded
            continue
        for path, leaf in tree_leaves_with_path(updates):
            _require(
                leaf.dtype == dtype, f"updates{keystr(path[1:])} has dtype {leaf.dtype}, not {dtype.__name__}"
            )
        if case.wide:
            wide_params, *wide_grads = _cast([params, *grads], jnp.float32)
            expected, wide_state = case.run(wide_params, wide_grads)
            # One unit in the last place, for the compiler may round float32 differently.
            narrow = _cast(expected, dtype)
            _same(updates, narrow, f"{dtype.__name__} and float32", rtol=float(jnp.finfo(dtype).eps))
            _same(state, wide_state, f"the states of {dtype.__name__} and float32")


@_check(
    "Let no array of a fixed dtype meet the gradient: Python numbers take the precision of what they meet."
)
def width(case: _Case) -> None:
    if jnp.result_type(float) != jnp.float64:  # 64-bit numbers are off
        return
    own = {leaf.dtype.type for leaf in jax.tree.leaves(case.params)}
    for dtype in (jnp.float32, jnp.float64) if case.plain else own:
        params = _cast(case.params, dtype)
        state = case.tx.init(params)

        def update(params: Params, state: State) -> Any:
            return case.tx.update(params, state, params, **case.extra)

        found = _dtypes(jax.make_jaxpr(update)(params, state).jaxpr)
        _require(
            found <= {dtype.__name__}, f"with {dtype.__name__} it has arrays of {', '.join(sorted(found))}"
        )
        for path, leaf in tree_leaves_with_path(state):
            _require(
                not leaf.ndim or leaf.dtype == dtype,
                f"with {dtype.__name__} state{keystr(path)} is {leaf.dtype}",
            )


@_check(
    "Square with gx.abs_squared, which is |g|², and keep squares in gx.slot_like(param, real=True). If "
    "complex parameters make no sense to it, skip=('complex_numbers',)."
)
def complex_numbers(case: _Case) -> None:
    """Turning parameters and gradients by 90 degrees turns the updates."""
    turned = _random_trees(case.params, STEPS + 1, seed=2)
    params, *grads = [
        jax.tree.map(lambda real, imaginary: real + 1j * imaginary, tree, other)
        for tree, other in zip([case.params, *case.grads], turned, strict=True)
    ]
    try:
        updates, _ = case.run(params, grads)
    except (TypeError, ValueError) as refusal:  # of one that cannot have them, and says so
        if "complex" not in str(refusal).lower():
            raise
        return
    for path, leaf in tree_leaves_with_path(updates):
        _require(
            leaf.dtype == jnp.complex64, f"updates{keystr(path[1:])} has dtype {leaf.dtype}, not complex64"
        )

    def turn(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: 1j * leaf, tree)

    _same(case.run(turn(params), turn(grads))[0], turn(updates), "gradients times i")


@_check("Rule(..., scope='array') says that it needs the whole array; row-sparse gradients are then refused.")
def element_scope(case: _Case) -> None:
    rules = case.rules()
    if not rules or any(rule.scope == "array" or rule.total or rule.advance for rule in rules):
        return

    def change(leaf: jax.Array) -> jax.Array:
        flat = leaf.ravel()
        return flat.at[0].add(3.0).reshape(leaf.shape)

    changed = jax.tree.map(change, case.grads)
    ours, theirs = case.run()[0], case.run(grads=changed)[0]
    _same(
        jax.tree.map(lambda leaf: leaf.ravel()[1:], theirs),
        jax.tree.map(lambda leaf: leaf.ravel()[1:], ours),
        "after a change of another element of the gradient",
    )


@_check("Rule(..., needs_params=True) says that update reads param; where there is none, lift then says so.")
def says_if_it_needs_params(case: _Case) -> None:
    rules = case.rules()
    if rules and not any(rule.needs_params for rule in rules):
        _same(case.run(told=False), case.run(), "without the parameters")


@_check("What it returns may depend on what it is given alone, not on the parts that stand beside it.")
def in_a_chain(case: _Case) -> None:
    parts: list[GradientTransformation] = [
        GradientTransformation(_foreign_init, _foreign_update),
        lift(_TWICE),
        case.tx,
    ]
    if not (case.rules() and case.rules()[-1].exact):  # nothing may come after an exact rule
        parts.append(lift(_HALF))
    _same(case.run(tx=chain(*parts))[0], _one_by_one(case, parts), "between other parts")


@_check("Make it with gx.lift, which looks at every leaf; or skip=('bad_input',).")
def bad_input(case: _Case) -> None:
    _, structure = jax.tree.flatten(case.params)
    path, leaf = tree_leaves_with_path(case.params)[0]

    def with_first(tree: PyTree, first: Any) -> PyTree:
        return jax.tree.unflatten(structure, [first, *jax.tree.leaves(tree)[1:]])

    integers = with_first(case.params, jnp.zeros(leaf.shape, jnp.int32))
    state = case.tx.init(case.params)
    longer = with_first(case.grads[0], jnp.concatenate([leaf.ravel()] * 2))
    for what, error, call in (
        ("parameters of integers", TypeError, lambda: case.tx.init(integers)),
        (
            "gradients of integers",
            TypeError,
            lambda: case.tx.update(integers, state, case.params, **case.extra),
        ),
        (
            "a gradient of another shape",
            ValueError,
            lambda: case.tx.update(longer, state, case.params, **case.extra),
        ),
    ):
        try:
            call()
        except error as refusal:
            said = "\n".join([str(refusal), *getattr(refusal, "__notes__", ())])
            _require(keystr(path) in said, f"{what}: the message does not name {keystr(path)}: {refusal}")
        else:
            raise AssertionError(f"{what} at {keystr(path)} are not refused")


@_check("Slots are a NamedTuple that is defined at the top of a module, with arrays in it.")
def pickles(case: _Case) -> None:
    state = case.tx.init(case.params)
    restored = pickle.loads(pickle.dumps(state))
    _require(_structure(restored) == _structure(state), "a pickled state has another structure")
    grad = case.grads[0]
    _same(
        case.tx.update(grad, restored, case.params, **case.extra),
        case.tx.update(grad, state, case.params, **case.extra),
        "with a pickled state",
    )


def _structure(tree: PyTree) -> Any:
    return jax.tree.structure(tree)


def _require(true: bool, otherwise: str) -> None:
    """Raise what `assert` would, where Python is told to leave that out too."""
    if not true:
        raise AssertionError(otherwise)


def _example_params() -> Params:
    rows = len(jax.devices())
    numbers = np.random.default_rng(1).normal(size=(3 + 2 * 8 * rows,)).astype(np.float32)
    matrix = numbers[3 : 3 + 2 * (8 if 8 % rows == 0 else rows)].reshape(-1, 2)
    return {"layers": [jnp.asarray(numbers[:3])], "matrix": jnp.asarray(matrix)}


def _random_trees(like: PyTree, count: int, seed: int) -> list[PyTree]:
    rng = np.random.default_rng(seed)
    return [
        jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), like)
        for _ in range(count)
    ]


def _cast(tree: PyTree, dtype: Any) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def _stack(trees: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)  # NumPy compiles nothing


def _stacked(run: tuple[list[Updates], State]) -> tuple[Updates, State]:
    return _stack(run[0]), run[1]


def _made_again(tx: GradientTransformation) -> GradientTransformation:
    """The same transformation without what it has compiled."""
    if isinstance(tx, Lift):
        return lift(*tx.rules)
    return chain(*map(_made_again, tx.parts)) if isinstance(tx, Chain) else tx


_Type: TypeAlias = tuple[tuple[int, ...], str, bool | None]


def _types(tree: PyTree) -> list[tuple[str, _Type]]:
    """Shape, dtype and weakness of every leaf."""

    def kind(leaf: Any) -> _Type:
        weak = jax.typeof(leaf).weak_type if hasattr(jax, "typeof") else None
        return np.shape(leaf), str(jnp.result_type(leaf)), weak

    return [(keystr(path), kind(leaf)) for path, leaf in tree_leaves_with_path(tree)]


def _ulp(dtype: Any) -> float:
    return float(jnp.finfo(dtype).eps) if jnp.issubdtype(dtype, jnp.inexact) else 0.0


def _dtype(leaf: Any) -> Any:
    return getattr(leaf, "dtype", None) or jnp.result_type(leaf)


def _wide(leaf: Any) -> np.ndarray:
    """The numbers of a leaf, those of a random key too, in double precision."""
    if jnp.issubdtype(_dtype(leaf), jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def _same(
    actual: PyTree,
    expected: PyTree,
    what: str,
    *,
    values: bool = True,
    rtol: float = 1e-5,
    atol: float = 1e-6,
) -> None:
    """Raise unless structures, shapes, dtypes and, nearly, numbers are the same."""
    _require(
        _structure(actual) == _structure(expected),
        f"{what}: the result has another structure, {_structure(actual)}, not {_structure(expected)}",
    )
    for (path, mine), (_, theirs) in zip(
        tree_leaves_with_path(actual), tree_leaves_with_path(expected), strict=True
    ):
        place = f"{what}: the result{keystr(path)}"
        _require(
            np.shape(mine) == np.shape(theirs), f"{place} has shape {np.shape(mine)}, not {np.shape(theirs)}"
        )
        _require(_dtype(mine) == _dtype(theirs), f"{place} has dtype {_dtype(mine)}, not {_dtype(theirs)}")
        if values:
            left, right = _wide(mine), _wide(theirs)
            near = max(rtol, _ulp(_dtype(theirs)))
            _require(np.allclose(left, right, near, atol, equal_nan=True), f"{place} is {left}, not {right}")


def _dtypes(jaxpr: Any) -> set[str]:
    """The floating dtypes of all arrays but scalars within a program."""
    found = set()
    for equation in jaxpr.eqns:
        for variable in [*equation.invars, *equation.outvars]:
            if variable.aval.shape and jnp.issubdtype(variable.aval.dtype, jnp.inexact):
                found.add(str(variable.aval.dtype))
        for inner in jax.tree.leaves(
            equation.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                found |= _dtypes(inner)
    return found


_TWICE = Rule("twice", lambda grad, slots, param, step: (2 * grad, slots))
_HALF = Rule("half", lambda grad, slots, param, step: (0.5 * grad, slots))


def _foreign_init(params: Params) -> State:
    return {"steps": jnp.zeros((), jnp.int32)}


def _foreign_update(grads: Updates, state: State, params: Params | None = None) -> tuple[Updates, State]:
    """As other libraries write them: without further keyword arguments, and with a state of their own."""
    steps = state["steps"] + 1
    return jax.tree.map(lambda grad: grad * steps, grads), {"steps": steps}


def _one_by_one(case: _Case, parts: Sequence[GradientTransformation]) -> list[Updates]:
    """The updates of the parts called one after the other."""
    grads = case.grads
    for part in parts:
        extra = case.extra if part is case.tx else {}
        state, updates = part.init(case.params), []
        for grad in grads:
            update, state = part.update(grad, state, case.params, **extra)
            updates.append(update)
        grads = updates
    return grads
