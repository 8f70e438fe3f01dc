import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT
from conftest import one_backend
from conftest import x64
from workers import environments

from keras_danet.cli import commands
from keras_danet.data.scenes import write_scenes
from keras_danet.distribution import engines as distribution
from keras_danet.distribution import keras_distributions
from keras_danet.distribution import keras_fixes
from keras_danet.distribution import tensorflow_strategies

LAUNCH = ROOT / "training" / "launch"
BACKEND = keras.backend.backend()
TWO = {"tensorflow": "mirrored", "jax": "data_parallel"}.get(BACKEND)
# Of the largest value of each tensor, after five steps in float64: sums are
# taken in another order, which was seen to give 2e-14 on TensorFlow, and 3e-6
# on JAX where Keras's batch norm rounded. Labelled pixels counted per replica,
# or its own batch norms, give 1e-2.
TOLERANCE = {"tensorflow": 1e-10}.get(BACKEND, 1e-5)

needs_engine = pytest.mark.skipif(
    TWO is None, reason="torch has no engine in Keras 3.15"
)
on_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="an engine of TensorFlow"
)
on_jax = pytest.mark.skipif(BACKEND != "jax", reason="an engine of JAX")


# ---- What several devices end with ------------------------------------------


def start(path, environment=None, **settings):
    """Starts a training; each process can split its CPU only once."""
    return subprocess.Popen(
        [
            sys.executable,
            ROOT / "tests" / "distributed_training.py",
            path,
            json.dumps(settings),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "JAX_ENABLE_X64": "1", **(environment or {})},
    )


def results(path, *processes):
    said = [process.communicate(timeout=300)[0] for process in processes]
    for process, text in zip(processes, said, strict=True):
        assert process.returncode == 0, text[-3000:]
    return dict(np.load(path))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The results of one device, by the optimizer's arguments."""
    found = {}

    def train(**optimizer):
        key = json.dumps(optimizer)
        if key not in found:
            path = tmp_path_factory.mktemp("alone") / "one.npz"
            found[key] = results(
                path, start(path, name="none", optimizer=optimizer)
            )
        return found[key]

    return train


def assert_equal(several, one):
    assert several.keys() == one.keys()
    for name, value in one.items():
        if "confusion" in name:
            assert value.sum() > 0
            np.testing.assert_array_equal(several[name], value, name)
        elif name.startswith(("log_", "val_")):
            np.testing.assert_allclose(several[name], value, 1e-6, 0, name)
        else:
            error = np.abs(several[name] - value).max()
            # The bias of the keys has no gradient but rounding.
            largest = max(np.abs(value).max(), 1e-6)
            assert error <= TOLERANCE * largest, (name, error / largest)


SEVERAL = {
    "tensorflow": {
        "mirrored 2": {"name": "mirrored", "num_devices": 2, "replicas": 2},
        "mirrored 4": {"name": "auto", "num_devices": 4, "replicas": 4},
    },
    "jax": {
        "data_parallel 2": {"name": "auto", "num_devices": 2, "replicas": 2},
        "data_parallel 4": {
            "name": "data_parallel",
            "num_devices": 4,
            "replicas": 4,
        },
        "model_parallel 2x2": {
            "name": "model_parallel",
            "num_devices": 4,
            "replicas": 2,
        },
    },
    "torch": {},
}[BACKEND]
SLOW = ("mirrored 4", "data_parallel 4", "model_parallel 2x2")


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(
            settings,
            id=name,
            marks=[pytest.mark.slow] if name in SLOW else [],
        )
        for name, settings in SEVERAL.items()
    ],
)
def test_several_devices_end_with_the_weights_of_one(tmp_path, alone, settings):
    path, model_path = tmp_path / "several.npz", tmp_path / "model.keras"
    several = results(path, start(path, save=str(model_path), **settings))
    assert_equal(several, alone())
    # A model trained under a strategy is a model like any other.
    with x64():
        loaded = keras.saving.load_model(model_path)
    config = loaded.get_layer("position_in_bn").get_config()
    assert "synchronized" not in config
    assert_same_model(loaded, several)


def assert_same_model(loaded, several):
    for variable in loaded.weights:
        if "seed" not in variable.path:
            np.testing.assert_allclose(
                keras.ops.convert_to_numpy(variable),
                several[f"weight/{variable.path}"],
                1e-6,
            )


@pytest.mark.slow
@needs_engine
def test_two_processes_end_with_the_weights_of_one(tmp_path, alone):
    path, model_path = tmp_path / "several.npz", tmp_path / "model.keras"
    settings = {"name": "auto", "replicas": 2, "save": str(model_path)}
    several = results(
        path,
        *(start(path, env, **settings) for env in environments(2)),
    )
    assert_equal(several, alone())
    with x64():
        loaded = keras.saving.load_model(model_path)
    assert_same_model(loaded, several)


RECIPE = """
from keras_danet import TrainConfig

config = TrainConfig(
    dataset="scenes",
    epochs=2,
    batch_size=4,
    model={"depth": 18, "filters": 8, "dropout": 0.0},
    augmentation={"crop_size": (32, 48)},
    loader=LOADER,
    jit_compile=JIT,
)
"""


@pytest.mark.slow
@needs_engine
def test_several_devices_leave_the_run_folder_of_one(tmp_path):
    root = tmp_path / "scenes"
    # Three validation images: of the last batch one process has none.
    write_scenes(root, splits={"train": 12, "val": 3}, size=(48, 64), seed=1)
    # Without TensorFlow on JAX, whose processes take any data set.
    loader = "tf.data" if BACKEND == "tensorflow" else "numpy"
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        RECIPE.replace("LOADER", repr(loader)).replace(
            "JIT", str(BACKEND == "jax")
        )
    )

    def train(run, environment, *options):
        command = [sys.executable, "-m", "keras_danet", "train", recipe]
        command += ["--data", root, "--output", run, "--resume", *options]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path), **environment},
        )

    histories = []
    for name, environment, options in (
        ("one", [{}], ()),
        ("devices", [{}], ("--distribute", TWO, "--devices", "2")),
        ("processes", environments(2), ()),
    ):
        run = tmp_path / name
        workers = [train(run, each, *options) for each in environment]
        for worker in workers:
            said = worker.communicate(timeout=300)[0]
            assert worker.returncode == 0, said[-3000:]
        assert sorted(path.name for path in run.iterdir()) == [
            "checkpoints",
            "config.json",
            "history.csv",
            "model.keras",
        ]
        with open(run / "history.csv") as file:
            histories.append(list(csv.DictReader(file)))
        written = json.loads((run / "config.json").read_text())
        (session,) = written["sessions"]
        assert session["devices"] == (1 if name == "one" else 2)
    one, *others = histories
    measured = {"images_per_second", "peak_memory_mib"}
    for several in others:
        for ours, theirs in zip(several, one, strict=True):
            # Several processes measure the loss of validation as well. In
            # float32 rounding decides pixels whose classes are almost tied.
            for key in theirs.keys() - measured:
                expected = pytest.approx(float(theirs[key]), 2e-3, 3e-3)
                assert float(ours[key]) == expected, key
    # What was finished is not begun again, by none of the processes.
    before = (tmp_path / "processes" / "model.keras").read_bytes()
    workers = [train(tmp_path / "processes", each) for each in environments(2)]
    for worker in workers:
        said = worker.communicate(timeout=300)[0]
        assert worker.returncode == 0, said[-3000:]
    assert (tmp_path / "processes" / "model.keras").read_bytes() == before
    # What the second process wrote is gone.
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"scenes", "recipe.py", "one", "devices", "processes"}


@pytest.mark.slow
@needs_engine
def test_averages_of_several_devices_are_those_of_one(tmp_path, alone):
    options = {"use_ema": True, "ema_momentum": 0.5}
    if BACKEND == "jax":  # which alone accumulates under an engine
        options["gradient_accumulation_steps"] = 2
    path = tmp_path / "several.npz"
    settings = {"name": TWO, "num_devices": 2, "replicas": 2}
    several = results(path, start(path, optimizer=options, **settings))
    # `fit` ends with the averages for weights.
    assert_equal(several, alone(**options))
    name = "weight/stage4_block0_conv1/kernel"
    assert np.abs(several[name] - alone()[name]).max() > 1e-6


@pytest.mark.slow
@needs_engine
def test_gradients_are_clipped_once_they_are_summed(tmp_path, alone):
    clip = {"global_clipnorm": 0.01}
    path = tmp_path / "several.npz"
    settings = {"name": TWO, "num_devices": 2, "replicas": 2}
    several = results(path, start(path, optimizer=clip, **settings))
    assert_equal(several, alone(**clip))
    name = "weight/stage4_block0_conv1/kernel"
    others = [alone()[name]]  # it was a clipping
    if BACKEND == "tensorflow":
        # Once this is equal, the fix can go.
        settings["fixed"] = False
        unmended = results(path, start(path, optimizer=clip, **settings))
        others.append(unmended[name])
    for other in others:
        assert np.abs(several[name] - other).max() > 1e-6


@pytest.mark.slow
@on_tensorflow
def test_keras_needs_the_mend_for_several_workers(tmp_path):
    """Once it does not, the fix can go."""
    workers = [
        start(tmp_path / "out.npz", env, name="auto", replicas=2, fixed=False)
        for env in environments(2)
    ]
    said = [worker.communicate(timeout=300)[0] for worker in workers]
    for worker, text in zip(workers, said, strict=True):
        assert worker.returncode != 0
        assert "used as it is" in text
        assert "PerReplica" in text or "axis" in text, text[-2000:]


@on_tensorflow
def test_mends_are_gone_afterwards():
    import tensorflow as tf

    def patched():
        return {
            name: getattr(keras.optimizers.Optimizer, name)
            for name in ("_clip_gradients", "_all_reduce_sum_gradients")
        }

    before, own = patched(), dict(vars(keras.optimizers.Optimizer))
    with keras_fixes.fixed_keras(tf.distribute.get_strategy()):
        assert patched() != before
    assert patched() == before
    assert dict(vars(keras.optimizers.Optimizer)) == own


@on_tensorflow
def test_an_endless_data_set_begins_with_its_first_batch():
    """Unmended, Keras begins with the fifth."""

    class Counting(keras.utils.PyDataset):
        num_batches = None

        def __getitem__(self, index):
            return np.full((2, 1), index, "float32"), np.zeros((2, 1))

    with distribution.scope("mirrored", 1):
        model = keras.Sequential(
            [
                keras.Input((1,)),
                keras.layers.Dense(1, kernel_initializer="ones"),
            ]
        )
        model.compile(
            keras.optimizers.SGD(0.0), "mse", metrics=["mse"], jit_compile=False
        )
        history = model.fit(
            Counting(workers=2), steps_per_epoch=3, shuffle=False, verbose=0
        )
    assert history.history["loss"] == [pytest.approx((0 + 1 + 4) / 3)]


@on_tensorflow
def test_another_keras_is_used_as_it_is(monkeypatch):
    monkeypatch.setattr(keras_fixes, "VERSIONS", ("3.14.0",))
    clip = keras.optimizers.Optimizer._clip_gradients
    with (
        pytest.warns(UserWarning, match=r"for Keras 3\.14\.0; this is"),
        keras_fixes.fixed_keras(None),
    ):
        assert keras.optimizers.Optimizer._clip_gradients is clip


# ---- What is refused --------------------------------------------------------


def test_other_engines_are_refused():
    with pytest.raises(ValueError, match="must be one of auto, none"):
        with distribution.scope("horovod"):
            pass
    for name, backends in distribution.ENGINES.items():
        if BACKEND not in backends:
            with pytest.raises(ValueError, match="Set KERAS_BACKEND="):
                with distribution.scope(name, 2):
                    pass


@pytest.mark.skipif(BACKEND != "torch", reason="of torch")
def test_torch_says_which_keras_it_needs(monkeypatch):
    with pytest.raises(ValueError, match=r"a release after 3\.15\.1"):
        with distribution.scope("data_parallel"):
            pass
    with distribution.scope("auto") as placement:
        assert placement == distribution.Placement()


@needs_engine
def test_too_many_devices_are_refused():
    keras.ops.zeros(1)  # the devices are in use: too late to split
    with pytest.raises(ValueError, match="64 devices were asked for"):
        with distribution.scope(TWO, 64):
            pass


def test_none_is_one_device():
    for name in ("none", "auto"):
        with distribution.scope(name) as placement:
            assert placement == distribution.Placement()
            assert placement.is_chief
    with pytest.raises(ValueError, match="2 devices need --distribute"):
        with distribution.scope("none", 2):
            pass
    for arguments in ({"num_devices": 0}, {"model_devices": 0}):
        with pytest.raises(ValueError, match=r"at least 1. Received: \w+=0"):
            with distribution.scope("none", **arguments):
                pass


def test_batches_that_do_not_divide_are_refused():
    placement = distribution.Placement("mirrored", 4, 4)
    placement.check_batch_size(8)
    with pytest.raises(ValueError, match="among the 4 .* Use 8 or 12"):
        placement.check_batch_size(10)
    with pytest.raises(ValueError, match="batch_size=3. Use 4 or 4"):
        placement.check_batch_size(3)


@on_tensorflow
def test_missing_clusters_and_tpus_are_explained(monkeypatch):
    for name in ("TF_CONFIG", "TPU_NAME", "TPU_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="needs TF_CONFIG.*training/launch"):
        with distribution.scope("multiworker"):
            pass
    with pytest.raises(ValueError, match="found no TPU.*TPU_NAME=None"):
        with distribution.scope("tpu"):
            pass
    with pytest.raises(ValueError, match="uses all cores.*num_devices=2"):
        with distribution.scope("tpu", 2):
            pass
    monkeypatch.setenv("TF_CONFIG", tf_config(2, 1))
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES"):
        with distribution.scope("multiworker", 2):
            pass
    assert tensorflow_strategies.choose(None) == "multiworker"
    monkeypatch.setenv("TF_CONFIG", tf_config(1, 0))
    assert tensorflow_strategies.choose(None) == "none"
    assert tensorflow_strategies.choose(2) == "mirrored"
    monkeypatch.setenv("TPU_NAME", "local")
    assert tensorflow_strategies.choose(None) == "tpu"


def tf_config(workers, index, kind="worker", **jobs):
    hosts = [f"host{number}:2222" for number in range(workers)]
    return json.dumps(
        {
            "cluster": {"worker": hosts, **jobs},
            "task": {"type": kind, "index": index},
        }
    )


@one_backend
def test_a_cluster_is_read_from_tf_config(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert tensorflow_strategies.read_cluster() is None
    monkeypatch.setenv("TF_CONFIG", tf_config(3, 2))
    assert tensorflow_strategies.read_cluster() == (2, 3)
    chief = {"chief": ["head:2222"]}
    monkeypatch.setenv("TF_CONFIG", tf_config(2, 1, **chief))
    assert tensorflow_strategies.read_cluster() == (2, 3)
    monkeypatch.setenv("TF_CONFIG", tf_config(2, 0, "chief", **chief))
    assert tensorflow_strategies.read_cluster() == (0, 3)


@one_backend
@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"cluster": {}}', "cannot be read"),
        (
            '{"cluster": {}, "task": {"type": "worker", "index": 0}}',
            "one worker",
        ),
        ('{"cluster": 3, "task": {"type": "worker", "index": 0}}', "be read"),
        (tf_config(2, 2), "`task` must be one of"),
        (tf_config(2, -1), "`task` must be one of"),
        (tf_config(2, 0, "chief"), "`task` must be one of"),
        (tf_config(2, 0, ["worker"]), "`task` must be one of"),
        (tf_config(2, 0, ps=["host:1"]), "only a chief"),
        (tf_config(2, 0, chief=["host:1", "host:2"]), "only one chief"),
        (tf_config(2, 0, chief=["host"]), "'host:port'"),
        (tf_config(2, 0, worker="host:1"), "'host:port'"),
    ],
)
def test_a_malformed_tf_config_is_explained(monkeypatch, text, message):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="Expected something like") as error:
        tensorflow_strategies.read_cluster()
    assert message in str(error.value)
    assert text in str(error.value)


@one_backend
def test_the_processes_of_jax_are_read_from_the_environment(monkeypatch):
    for name in (*keras_distributions.PROCESS_VARIABLES, "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    address, count, index = keras_distributions.PROCESS_VARIABLES
    assert keras_distributions.read_processes() is None
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert keras_distributions.read_processes() is None
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert keras_distributions.read_processes() == (None, None, None)
    monkeypatch.setenv(address, "head:1234")
    for wrong in ({}, {count: "2"}, {count: "2", index: "2"}, {count: "two"}):
        for name, value in wrong.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ValueError, match="Set all three"):
            keras_distributions.read_processes()
    monkeypatch.setenv(count, "3")
    assert keras_distributions.read_processes() == ("head:1234", 3, 2)
    monkeypatch.setenv(address, "head")
    with pytest.raises(ValueError, match="'host:port'.*'head'"):
        keras_distributions.read_processes()


@on_jax
def test_a_mesh_that_cannot_be_arranged_is_refused():
    with pytest.raises(ValueError, match=r"groups of model_devices=3\. Exp"):
        with distribution.scope("model_parallel", 1, 3):
            pass


@one_backend
def test_wide_kernels_are_most_of_the_weights():
    from keras_danet import DANet

    model = DANet(19, "resnet50")
    wide = [
        variable
        for variable in model.trainable_variables
        if any(
            re.fullmatch(pattern, variable.path)
            for pattern in keras_distributions.WIDE_KERNELS
        )
    ]
    sizes = [np.prod(variable.shape) for variable in wide]
    assert all(variable.shape[-1] % 256 == 0 for variable in wide)
    assert sum(sizes) > 0.95 * model.count_params()


# ---- Data -------------------------------------------------------------------


@on_tensorflow
def test_workers_of_tensorflow_share_batches_by_replicas():
    import tensorflow as tf

    share = tf.data.Dataset.from_tensor_slices([[2, 3], [6, 7]])
    share = share.map(lambda x: (x, -x))
    split = tensorflow_strategies.split_batches(share, 2)
    assert [x.tolist() for x, _ in split.as_numpy_iterator()] == [
        [2],
        [3],
        [6],
        [7],
    ]
    placement = distribution.Placement(
        "multiworker", 2, 2, (0, 2), tf.distribute.get_strategy()
    )
    with pytest.raises(ValueError, match="loader='tf.data'"):
        placement.distribute(keras.utils.PyDataset())


# ---- training/launch/ -------------------------------------------------------

SHELL = sorted(LAUNCH.glob("*.sh")) + sorted(LAUNCH.glob("*.sbatch"))
YAML = sorted(LAUNCH.glob("*.yaml"))


def shell_of(path):
    """The shell that a launch file runs, and its environment."""
    if path.suffix != ".yaml":
        return path.read_text(), {}
    yaml = pytest.importorskip("yaml")
    service, job = yaml.safe_load_all(path.read_text())
    assert service["kind"] == "Service"
    assert job["kind"] == "Job"
    pods = job["spec"]["template"]["spec"]
    [container] = pods["containers"]
    assert pods["subdomain"] == service["metadata"]["name"]
    assert job["spec"]["completionMode"] == "Indexed"
    # Evictions and SIGTERM do not count towards the limit.
    evicted, stopped = job["spec"]["podFailurePolicy"]["rules"]
    assert evicted["onPodConditions"] == [{"type": "DisruptionTarget"}]
    assert stopped["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [143],
    }
    assert evicted["action"] == stopped["action"] == "Ignore"
    assert pods["restartPolicy"] == "Never"
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert environment["NUM_WORKERS"] == str(job["spec"]["completions"])
    assert job["spec"]["completions"] == job["spec"]["parallelism"]
    return container["args"][0], environment


@one_backend
def test_launch_files_are_all_tested():
    assert {path.name for path in SHELL + YAML} | {"README.md"} == {
        path.name for path in LAUNCH.iterdir()
    }
    assert len(SHELL) == 3
    assert len(YAML) == 2


@one_backend
@pytest.mark.parametrize("path", SHELL + YAML, ids=lambda path: path.name)
def test_launch_files_start_a_training(path, tmp_path):
    """They run, with stand-ins for the cluster and for keras-danet."""
    script, environment = shell_of(path)
    for checker in (["bash", "-n"], ["shellcheck", "-s", "bash", "-"]):
        if shutil.which(checker[0]):
            done = subprocess.run(
                checker, input=script, text=True, capture_output=True
            )
            assert done.returncode == 0, done.stdout + done.stderr
    stand_ins = {
        "keras-danet": 'printf "%q " "$@" > arguments; env -0 > environment',
        "scontrol": "echo host0; echo host1",
        "srun": 'while [[ $1 == --* ]]; do shift; done; SLURM_PROCID=1 "$@"',
    }
    for name, text in stand_ins.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "script").write_text(script)
    # With the arguments that the file itself gives as an example.
    example = re.search(rf"^# .*{re.escape(path.name)} (.*)", script, re.M)
    extra = shlex.split(example[1]) if example else []
    assert extra or path.name != "one_machine.sh"
    subprocess.run(
        ["bash", "-eu", "script", *extra],
        check=True,
        cwd=tmp_path,
        env={
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "host[0-1]",
            "JOB_COMPLETION_INDEX": "1",
            **environment,
        },
    )
    given = shlex.split((tmp_path / "arguments").read_text())
    arguments = commands._parser().parse_args(given)
    assert arguments.distribute in distribution.DISTRIBUTIONS
    # Both are refused.
    assert arguments.resume and not arguments.overwrite
    entries = (tmp_path / "environment").read_text().split("\0")
    seen = dict(entry.split("=", 1) for entry in entries if entry)
    backend = seen["KERAS_BACKEND"]
    assert arguments.distribute == "auto" or (
        backend in distribution.ENGINES[arguments.distribute]
    )
    check_processes(path, backend, seen)


def check_processes(path, backend, seen):
    """The environment names two processes, of which this is the second."""
    if path.name == "one_machine.sh":
        return
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TF_CONFIG", *keras_distributions.PROCESS_VARIABLES):
            patch.delenv(name, raising=False)
            if name in seen:
                patch.setenv(name, seen[name])
        if backend == "tensorflow":
            assert tensorflow_strategies.read_cluster() == (1, 2)
        elif path.suffix == ".yaml":
            found = keras_distributions.read_processes()
            assert found == ("danet-0.danet:22222", 2, 1)
        else:
            assert not any(map(seen.get, keras_distributions.PROCESS_VARIABLES))


# ---- docs/scaling.md --------------------------------------------------------


@one_backend
def test_the_page_says_what_the_arithmetic_gives():
    command = [sys.executable, ROOT / "benchmarks" / "scaling.py", "arithmetic"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = {row for row in done.stdout.splitlines() if row.startswith("|")}
    assert len(rows) > 15
    assert rows <= set((ROOT / "docs" / "scaling.md").read_text().splitlines())


@one_backend
def test_a_ring_is_as_fast_as_its_links_allow(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import scaling

    monkeypatch.setattr(scaling, "LATENCY", 0.0)
    # Two devices: each sends half and half again, the whole once.
    assert scaling.ring(100, 2, 50.0) == pytest.approx(2.0)
    # And never more than twice the whole.
    assert scaling.ring(100, 1000, 50.0) == pytest.approx(4.0, rel=2e-3)
    monkeypatch.setattr(scaling, "LATENCY", 1.0)
    assert scaling.ring(0, 8, 50.0) == 14
    assert [scaling.tree(n) for n in (2, 8, 9, 512)] == [2, 6, 8, 18]
