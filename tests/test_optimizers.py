import keras
import numpy as np
import pytest

from keras_danet import SGD
from keras_danet import PolySchedule


def test_steps_equal_the_coupled_formula():
    rng = np.random.default_rng(0)
    start = rng.standard_normal((3, 4)).astype("float32")
    gradients = rng.standard_normal((6, 3, 4)).astype("float32")
    rates = keras.optimizers.schedules.PolynomialDecay(
        0.3, 6, end_learning_rate=0.0, power=0.9
    )
    weight = keras.Variable(start)
    optimizer = SGD(rates, momentum=0.9, weight_decay=0.05)
    expected, velocity = start.astype("float64"), 0.0
    for step, gradient in enumerate(gradients):
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [weight])
        rate = 0.3 * (1 - step / 6) ** 0.9
        velocity = 0.9 * velocity + gradient + 0.05 * expected
        expected = expected - rate * velocity
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(weight), expected, rtol=1e-5, atol=1e-6
        )


def test_weight_decay_is_coupled():
    # Without gradients, 20 steps of PyTorch's SGD with lr 0.1, momentum 0.9
    # and decay 0.1 leave 0.118 of a weight; Keras's own leaves 0.818.
    weight = keras.Variable(np.ones(1, "float32"))
    optimizer = SGD(0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(20):
        optimizer.apply([keras.ops.zeros(1)], [weight])
    left, velocity = 1.0, 0.0
    for _ in range(20):
        velocity = 0.9 * velocity + 0.1 * left
        left -= 0.1 * velocity
    got = keras.ops.convert_to_numpy(weight)[0]
    np.testing.assert_allclose(got, left, rtol=1e-5)


def test_config_goes_round():
    optimizer = SGD(0.2, 0.8, 0.01, multipliers={"head": 10.0}, clipnorm=1.0)
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(optimizer)
    )
    assert copy.get_config() == optimizer.get_config()
    assert copy.weight_decay == 0.01


@pytest.mark.parametrize("warmup, ratio", [(0, 0.1), (4, 0.1), (3, 0.5)])
@pytest.mark.parametrize("floor", [0.0, 1e-4])
def test_the_poly_schedule_is_that_of_mmcv(floor, warmup, ratio):
    schedule = PolySchedule(0.02, 10, 0.8, floor, warmup, ratio)
    for step in range(14):
        at = min(step, 10)
        expected = (0.02 - floor) * (1 - at / 10) ** 0.8 + floor
        if step < warmup:
            # mmcv's words: regular * (1 - (1 - step / warmup) * (1 - ratio)).
            expected *= 1 - (1 - step / warmup) * (1 - ratio)
        np.testing.assert_allclose(
            float(schedule(step)), expected, rtol=1e-6, atol=1e-9
        )


def test_the_last_of_many_steps_has_a_rate():
    # (1 - t / T) in float32 would be off by 2 % of the last step.
    schedule = PolySchedule(1.0, 160_001, 1.0)
    np.testing.assert_allclose(float(schedule(160_000)), 1 / 160_001, rtol=1e-6)


def test_the_schedule_goes_round():
    schedule = PolySchedule(0.02, 10, 0.8, 1e-4, 3, 0.2)
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(schedule)
    )
    assert copy.get_config() == schedule.get_config()
    assert float(copy(5)) == float(schedule(5))


@pytest.mark.parametrize(
    "arguments",
    [(-1.0, 10), (0.1, 0), (0.1, 10, 0.9, 0.0, 11), (0.1, 9, float("nan"))],
)
def test_a_schedule_out_of_range_is_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        PolySchedule(*arguments)


def variables(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"backbone/kernel": (3, 4), "head/kernel": (4, 2), "head/b": (2,)}
    made = []
    for path, shape in shapes.items():
        start = rng.standard_normal(shape).astype("float32")
        scope, name = path.split("/")
        with keras.name_scope(scope):
            made.append(keras.Variable(start, name=name))
    assert [v.path for v in made] == list(shapes)
    return made


def gradients_of(steps, made, seed=1):
    rng = np.random.default_rng(seed)
    return [
        [5 * rng.standard_normal(v.shape).astype("float32") for v in made]
        for _ in range(steps)
    ]


def to_numpy(values):
    return [keras.ops.convert_to_numpy(value) for value in values]


def test_every_step_is_that_of_torch():
    """Groups, momentum, coupled decay, poly schedule, clipping: 15 steps."""
    torch = pytest.importorskip("torch")
    steps = 15
    ours = variables()
    optimizer = SGD(
        PolySchedule(0.05, steps, 0.9, 1e-3, 3),
        momentum=0.9,
        weight_decay=0.02,
        multipliers={"^head/": 10.0},
        global_clipnorm=6.0,
    )
    theirs = [torch.nn.Parameter(torch.tensor(v)) for v in to_numpy(ours)]
    reference = torch.optim.SGD(
        [{"params": theirs[:1]}, {"params": theirs[1:], "lr": 0.5}],
        lr=0.05,
        momentum=0.9,
        weight_decay=0.02,
    )
    for step, gradients in enumerate(gradients_of(steps, ours)):
        if step % 3 == 2:  # Some are short enough not to be clipped.
            gradients = [gradient / 20 for gradient in gradients]
        rate = (0.05 - 1e-3) * (1 - step / steps) ** 0.9 + 1e-3
        if step < 3:
            rate *= 1 - (1 - step / 3) * 0.9
        for group, factor in zip(reference.param_groups, (1, 10), strict=True):
            group["lr"] = rate * factor
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = torch.tensor(gradient)
        norm = torch.nn.utils.clip_grad_norm_(theirs, 6.0)
        assert (norm > 6) == (step % 3 != 2)
        reference.step()
        optimizer.apply(
            [keras.ops.convert_to_tensor(g) for g in gradients], ours
        )
        for got, expected in zip(to_numpy(ours), theirs, strict=True):
            np.testing.assert_allclose(
                got, expected.detach().numpy(), rtol=2e-6, atol=2e-6
            )


@pytest.mark.parametrize("clipping", [{"clipnorm": 2.0}, {"clipvalue": 0.5}])
def test_clipping_comes_before_the_decay(clipping):
    (weight,) = variables()[:1]
    start = to_numpy([weight])[0].astype("float64")
    (gradient,) = gradients_of(1, [weight])[0]
    SGD(0.1, weight_decay=3.0, **clipping).apply(
        [keras.ops.convert_to_tensor(gradient)], [weight]
    )
    if "clipnorm" in clipping:
        clipped = gradient * (2 / np.linalg.norm(gradient))
    else:
        clipped = np.clip(gradient, -0.5, 0.5)
    expected = start - 0.1 * (clipped + 3 * start)
    np.testing.assert_allclose(to_numpy([weight])[0], expected, rtol=1e-5)


def run(optimizer, batches, made):
    """Applies the gradients of batches, as `fit` does: without state on JAX."""
    if not optimizer.built:
        optimizer.build(made)
    for gradients in batches:
        gradients = [keras.ops.convert_to_tensor(g) for g in gradients]
        if keras.backend.backend() == "jax":
            weights, state = optimizer.stateless_apply(
                [v.value for v in optimizer.variables],
                gradients,
                [v.value for v in made],
            )
            for variable, value in zip(
                [*made, *optimizer.variables], [*weights, *state], strict=True
            ):
                variable.assign(value)
        else:
            optimizer.apply(gradients, made)


@pytest.mark.parametrize("ema", [False, True])
def test_batches_accumulated_are_one_large_batch(ema):
    options = {
        "weight_decay": 0.02,
        "multipliers": {"head": 10.0},
        "global_clipnorm": 3.0,
        "use_ema": ema,
        "ema_momentum": 0.8,
    }
    parts, whole = variables(), variables()
    batches = gradients_of(12, parts)
    means = [
        [np.mean(g, axis=0) for g in zip(*batches[i : i + 3], strict=True)]
        for i in range(0, 12, 3)
    ]
    optimizers = []
    for made, steps, given in ((parts, 3, batches), (whole, None, means)):
        optimizer = SGD(
            PolySchedule(0.05, 4), gradient_accumulation_steps=steps, **options
        )
        run(optimizer, given, made)
        optimizers.append(optimizer)
        assert int(optimizer.iterations) == 4
    for a, b in zip(to_numpy(parts), to_numpy(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    if ema:
        accumulated, plain = (
            to_numpy(o._model_variables_moving_average) for o in optimizers
        )
        for a, b in zip(accumulated, plain, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_moving_average_is_the_formula():
    made = variables()
    optimizer = SGD(0.1, use_ema=True, ema_momentum=0.7)
    average = None
    for gradients in gradients_of(5, made):
        run(optimizer, [gradients], made)
        now = to_numpy(made)[0].astype("float64")
        average = now if average is None else 0.7 * average + 0.3 * now
    got = to_numpy(optimizer._model_variables_moving_average)[0]
    np.testing.assert_allclose(got, average, rtol=1e-5)


def test_loss_scaling_passes_over_infinite_gradients():
    made = variables()
    optimizer = keras.optimizers.LossScaleOptimizer(
        SGD(PolySchedule(0.05, 4), weight_decay=0.02), initial_scale=8.0
    )
    first, second = gradients_of(2, made)
    run(optimizer, [[8 * g for g in first]], made)
    before = to_numpy([*made, *optimizer.inner_optimizer.variables])
    infinite = [g.copy() for g in second]
    infinite[1][0, 0] = np.inf
    run(optimizer, [infinite], made)
    after = to_numpy([*made, *optimizer.inner_optimizer.variables])
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    assert float(optimizer.dynamic_scale) == 4
    run(optimizer, [[4 * g for g in second]], made)
    expected = variables()
    plain = SGD(PolySchedule(0.05, 4), weight_decay=0.02)
    run(plain, [first, second], expected)
    for a, b in zip(to_numpy(made), to_numpy(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "multipliers", [{"(": 1.0}, {"head": -1.0}, {"head": "ten"}, {3: 1.0}]
)
def test_multipliers_that_are_none_are_refused(multipliers):
    with pytest.raises(ValueError, match="dict of regular expression"):
        SGD(multipliers=multipliers)


def test_a_variable_has_one_multiplier():
    optimizer = SGD(multipliers={"head": 10.0, "kernel": 2.0})
    with pytest.raises(ValueError, match="all match 'head/kernel'"):
        optimizer.build(variables())


def test_a_multiplier_of_nothing_is_told():
    with pytest.warns(UserWarning, match="'heads' matches"):
        SGD(multipliers={"heads": 10.0}).build(variables())


def steps_of(optimizer, gradients=(1.0, 0.5, 2.0)):
    """A weight, from 1, after each gradient."""
    weight, seen = keras.Variable([1.0]), []
    for gradient in gradients:
        optimizer.apply([keras.ops.array([gradient])], [weight])
        seen.append(float(keras.ops.convert_to_numpy(weight)[0]))
    return seen


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_nesterov_steps_as_in_pytorch(weight_decay):
    optimizer = SGD(0.1, 0.9, weight_decay, nesterov=True)
    weight, velocity, expected = 1.0, 0.0, []
    for gradient in (1.0, 0.5, 2.0):
        update = gradient + weight_decay * weight
        velocity = 0.9 * velocity + update
        weight -= 0.1 * (update + 0.9 * velocity)
        expected.append(weight)
    np.testing.assert_allclose(steps_of(optimizer), expected, rtol=1e-6)
    if not weight_decay:
        np.testing.assert_allclose(expected[-1], 0.1406, atol=1e-7)
    copy = SGD.from_config(optimizer.get_config())
    np.testing.assert_allclose(steps_of(copy), expected, rtol=1e-6)


def test_what_does_not_go_with_an_option_is_refused():
    with pytest.raises(ValueError, match="along the momentum, which is 0"):
        SGD(0.1, momentum=0.0, nesterov=True)
    with pytest.raises(ValueError, match="`nesterov` must be a boolean"):
        SGD(0.1, nesterov="yes")
    with pytest.raises(ValueError, match="cannot be used with"):
        SGD(
            gradient_accumulation_steps=2,
            use_ema=True,
            ema_overwrite_frequency=3,
        )
    # Letter by letter, "bias" would be found in "beta".
    with pytest.raises(ValueError, match="`var_names` must be a list"):
        SGD().exclude_from_weight_decay(var_names="bias")
    with pytest.raises(ValueError, match="multipliers='ab'"):
        SGD(multipliers="ab")
    with pytest.raises(ValueError, match="weight_decay=-1"):
        SGD(weight_decay=-1)


def test_what_is_excluded_does_not_decay(tmp_path):
    def build(exclude=True):
        dense = keras.layers.Dense(2, name="dense")
        other = keras.layers.Dense(2, name="other")
        model = keras.Sequential([keras.Input((2,)), dense, other])
        for variable in model.weights:
            variable.assign(np.ones(variable.shape))
        optimizer = SGD(0.1, momentum=0.0, weight_decay=0.5)
        if exclude:
            optimizer.exclude_from_weight_decay([dense.kernel], ["bias"])
        model.compile(optimizer, "mse")
        return model

    def decay(model):
        weights = model.trainable_variables
        zeros = [keras.ops.zeros(weight.shape) for weight in weights]
        model.optimizer.apply(zeros, weights)
        return [keras.ops.convert_to_numpy(w).mean() for w in weights]

    # Kernels and biases in turn; 1 - 0.1 * 0.5 * 1 is a decayed one.
    np.testing.assert_allclose(decay(build(False)), [0.95] * 4, rtol=1e-6)
    model = build()
    np.testing.assert_allclose(decay(model), [1, 1, 0.95, 1], rtol=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(decay(loaded), [1, 1, 0.95**2, 1], rtol=1e-6)
    with pytest.raises(ValueError, match="before the optimizer is built"):
        model.optimizer.exclude_from_weight_decay(var_names=["kernel"])


def test_the_decay_can_be_read_and_set():
    optimizer = SGD(0.1, momentum=0.0, weight_decay=0.5)
    assert optimizer.weight_decay == 0.5
    optimizer.weight_decay = 2.0
    # Coupled, and once: 1 - 0.1 * (0 + 2 * 1).
    np.testing.assert_allclose(steps_of(optimizer, [0.0]), [0.8], rtol=1e-6)
