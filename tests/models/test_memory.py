import re
import types

import keras
import pytest
from conftest import one_backend

from keras_danet import DANet
from keras_danet import DilatedResNet
from keras_danet import Predictor
from keras_danet import layers
from keras_danet.models import memory
from keras_danet.models.memory import available_memory
from keras_danet.models.memory import check_memory
from keras_danet.models.memory import count_multiplications
from keras_danet.models.memory import estimate_memory
from keras_danet.models.memory import host_memory

GIB = 2**30


@pytest.fixture
def available(monkeypatch):
    """Sets what is available of memory."""

    def set_to(value):
        monkeypatch.setattr(memory, "available_memory", lambda *_: value)

    return set_to


@pytest.mark.parametrize("training", [False, True])
def test_more_takes_more(model, training):
    requests = [(1, 1, 1), (1, 7, 120), (1, 64, 128), (2, 64, 128)]
    requests += [(2, 72, 128), (2, 72, 512), (9, 720, 512), (10**9, 720, 512)]
    estimates = [estimate_memory(model, *r, training) for r in requests]
    assert estimates == sorted(set(estimates))
    assert all(type(estimate) is int for estimate in estimates)


def test_a_deeper_network_takes_more_to_train(model):
    deeper = DANet(5, DilatedResNet(50, filters=8))
    one, other = (
        estimate_memory(m, 1, 256, 256, training=True) for m in (model, deeper)
    )
    assert other > one


def test_half_precision_takes_less():
    # Logits at full size stay float32.
    def estimate(dtype):
        backbone = DilatedResNet(18, filters=8, dtype=dtype)
        model = DANet(5, backbone, dtype=dtype)
        return estimate_memory(model, 100, 512, 512, training=True)

    assert estimate("mixed_bfloat16") < 0.8 * estimate("float32")


def test_the_graph_is_left_alone(model):
    model.inference_model.summary(print_fn=lambda _: None)
    config = model.inference_model.get_config()
    estimate_memory(model, 1, 64, 64)
    assert model.inference_model.get_config() == config


def test_any_backbone_can_be_estimated():
    # Operators of a graph, and a model inside the model.
    images = keras.Input((None, None, 3))
    inner = keras.Sequential(
        [keras.layers.Conv2D(32, 3, strides=8, padding="same")]
    )
    x = inner(images) * 2 + 1
    model = DANet(3, keras.Model(images, {"stage4": x}))
    assert estimate_memory(model, 1, 512, 512) > 4 * 512 * 512 * 3


@one_backend
def test_multiplications_are_counted():
    images = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(16, 3, strides=8, padding="same")(images)
    convolution = 8 * 4 * 3 * 3 * 3 * 16
    inner = keras.Model(images, x)
    assert count_multiplications(inner, 64, 32) == convolution
    x = layers.PositionAttention(name="attention")(inner(images))
    depth = inner.output.shape[-1] // 8
    projections = 8 * 4 * 16 * (depth + depth + 16)
    energies = (8 * 4) ** 2 * (depth + 16)
    found = count_multiplications(keras.Model(images, x), 64, 32)
    assert found == convolution + projections + energies
    x = layers.ChannelAttention(name="channels")(inner(images))
    found = count_multiplications(keras.Model(images, x), 64, 32)
    assert found == convolution + 8 * 4 * 2 * 16**2
    x = keras.layers.Dense(7)(inner(images))
    found = count_multiplications(keras.Model(images, x), 64, 32)
    assert found == convolution + 8 * 4 * 16 * 7


@pytest.mark.parametrize("room", [1.0, 0.9, 0.5, 0.1])
def test_the_largest_batch_that_fits_is_named(model, available, room):
    fixed = estimate_memory(model, 0, 96, 160, True)
    needed = estimate_memory(model, 40, 96, 160, True)
    available(fixed + room * (needed - fixed) + 1)
    if room == 1:
        check_memory(model, 40, 96, 160, training=True)
    with pytest.raises(ValueError, match=r"batch_size=\d+ fits") as error:
        check_memory(model, 1000, 96, 160, training=True)
    batch_size = int(re.search(r"batch_size=(\d+)", str(error.value))[1])
    assert batch_size == int(40 * room)
    check_memory(model, batch_size, 96, 160, training=True)
    with pytest.raises(ValueError):
        check_memory(model, batch_size + 1, 96, 160, training=True)


def test_the_largest_crop_that_fits_is_named(model, available):
    available(estimate_memory(model, 1, 96, 160, True))
    with pytest.raises(ValueError) as error:
        check_memory(model, 4, 960, 1600, training=True)
    assert "Training on 4 images of 960 x 1600 pixels" in str(error.value)
    assert "crop_size=(96, 160) with batch_size=1 fits" in str(error.value)
    check_memory(model, 1, 96, 160, training=True)


def test_the_largest_image_that_fits_is_named(model, available):
    available(estimate_memory(model, 1, 512, 1024))
    check_memory(model, 1, 512, 1024)
    with pytest.raises(ValueError) as error:
        Predictor(model).check_size(5120, 10240)
    assert "Predicting 1 image of 5120 x 10240 pixels" in str(error.value)
    assert "Images of 512 x 1024 pixels fit: " in str(error.value)
    # The remedy is one, whichever side is the longer.
    assert "`size=1024` (--size 1024 on the command line" in str(error.value)
    Predictor(model, size=1024).check_size(5120, 10240)
    with pytest.raises(ValueError, match="`size=1024` "):
        Predictor(model).check_size(10240, 5120)
    Predictor(model, size=1024).check_size(10240, 5120)
    needed = estimate_memory(model, 1, 5120, 10240) / GIB
    assert f"takes about {needed:.1f} GiB of memory, and" in str(error.value)


def test_nothing_fits(model, available):
    available(1)
    for training in (False, True):
        with pytest.raises(ValueError, match="No size fits"):
            check_memory(model, 2, 64, 64, training)
    with pytest.raises(ValueError, match=r"available\. Use another window"):
        check_memory(model, 1, 64, 64, remedy="Use another window.")


def test_devices_share_a_batch(model, available):
    available(estimate_memory(model, 3, 64, 64, True))
    check_memory(model, 6, 64, 64, training=True, num_devices=2)
    with pytest.raises(ValueError, match="batch_size=6 fits") as error:
        check_memory(model, 8, 64, 64, training=True, num_devices=2)
    assert "on each device" in str(error.value)
    available(estimate_memory(model, 1, 64, 64, True))
    with pytest.raises(ValueError, match="64\\) with batch_size=2 fits"):
        check_memory(model, 8, 640, 640, training=True, num_devices=2)


def test_unknown_memory_refuses_nothing(model, available):
    available(None)
    check_memory(model, 10**6, 10**4, 10**4, training=True)


def test_memory_of_this_machine():
    free = available_memory()
    if free is None:
        pytest.skip("this machine does not tell")
    assert 2**20 < free < 2**50
    if available_memory(2) < free // 2 + GIB:
        # Of a CPU; nothing else was freed meanwhile.
        assert available_memory(1000) < free // 100


def write(root, files):
    for path, text in files.items():
        path = root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


FREE = 4 * GIB + 2**20


@one_backend
@pytest.mark.parametrize(
    "files, expected",
    [
        ({}, FREE),
        # Version 2: a limit of its own, and one of the group above.
        (
            {
                "proc/self/cgroup": "0::/jobs/mine\n",
                "sys/fs/cgroup/jobs/mine/memory.max": "max\n",
                "sys/fs/cgroup/jobs/mine/memory.current": "3000\n",
                "sys/fs/cgroup/jobs/memory.max": "5000\n",
                "sys/fs/cgroup/jobs/memory.current": "3000\n",
                "sys/fs/cgroup/jobs/memory.stat": (
                    "anon 2300\nactive_file 300\ninactive_file 400\n"
                ),
            },
            2700,
        ),
        # A container that sees its own group at the top.
        (
            {
                "proc/self/cgroup": "0::/the/host's/path\n",
                "sys/fs/cgroup/memory.max": "5000\n",
                "sys/fs/cgroup/memory.current": "5100\n",
                "sys/fs/cgroup/memory.stat": "anon 2300\n",
            },
            0,
        ),
        # Version 1, whose other controllers do not matter.
        (
            {
                "proc/self/cgroup": "4:memory:/mine\n3:cpu:/\n0::/\n",
                "sys/fs/cgroup/memory/mine/memory.limit_in_bytes": "5000",
                "sys/fs/cgroup/memory/mine/memory.usage_in_bytes": "3000",
                "sys/fs/cgroup/memory/mine/memory.stat": (
                    "inactive_file 1\ntotal_inactive_file 50\n"
                ),
                "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**63),
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "9000",
                "sys/fs/cgroup/memory/memory.stat": "",
            },
            2050,
        ),
    ],
)
def test_what_the_system_says(tmp_path, monkeypatch, files, expected):
    memory = types.SimpleNamespace(available=4 * GIB)
    swap = types.SimpleNamespace(free=2**20)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    monkeypatch.setattr("psutil.swap_memory", lambda: swap)
    write(tmp_path, files)
    assert host_memory(tmp_path) == expected
