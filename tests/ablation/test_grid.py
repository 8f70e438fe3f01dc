"""Which trainings an ablation has, and what is refused before the first."""

import json

import pytest
from conftest import one_backend

from keras_danet.ablation import grid as grids
from keras_danet.ablation import grid_file
from keras_danet.recipe.settings import split_values

pytestmark = one_backend

RECIPE = """
from keras_danet import TrainConfig

config = TrainConfig(
    dataset="scenes",
    epochs=2,
    batch_size=4,
    model={"depth": 18, "filters": 8},
    augmentation={"crop_size": (48, 64)},
)
"""


@pytest.fixture
def make(tmp_path):
    (tmp_path / "tiny.py").write_text(RECIPE)

    def make(*vary, seeds="0,1", folder="grid", **settings):
        return grids.make_grid(
            tmp_path / folder, str(tmp_path / "tiny.py"), settings, vary, seeds
        )

    return make


@pytest.mark.parametrize(
    "text, values",
    [
        ("none,position", ["none", "position"]),
        ("None,(4,8,16)", ["None", "(4,8,16)"]),
        ("(1, [2, 3]), 4", ["(1, [2, 3])", "4"]),
        ("'a,b',\"c,'d\"", ["'a,b'", '"c,\'d"']),
        ("{'depth': 18, 'filters': 8},2", ["{'depth': 18, 'filters': 8}", "2"]),
        ("", [""]),
    ],
)
def test_commas_in_brackets_and_quotes_belong_to_a_value(text, values):
    assert split_values(text) == values


@pytest.mark.parametrize("text", ["(4,8", "4)8", "'a,b"])
def test_what_is_not_closed_is_refused(text):
    with pytest.raises(ValueError, match="every bracket and quote closed"):
        split_values(text)


def test_a_grid_is_the_product_seed_by_seed(make, tmp_path):
    grid = make("attention=none,both", "optimization.learning_rate=0.01,0.02")
    cells = [
        (
            config.seed,
            config.model.attention,
            config.optimization.learning_rate,
        )
        for config in (grid.config_of(*cell) for cell in grid.cells)
    ]
    both = ("position", "channel")
    assert cells == [
        (seed, attention, rate)
        for seed in (0, 1)
        for attention in ((), both)
        for rate in (0.01, 0.02)
    ]
    folders = [grid.run(*cell) for cell in grid.cells]
    assert len(set(folders)) == 8
    assert all(f.parents[1] == tmp_path / "grid" for f in folders)
    assert grid.run(*make("attention=none,both").cells[3]) == (
        tmp_path / "grid" / "attention=both" / "seed-1"
    )


def test_folders_have_plain_names_that_differ(make):
    grid = make("model={'depth':18},{'depth':34},{'filters':16}")
    names = [variant.folder for variant in grid.variants]
    assert len(set(names)) == 3
    assert all(set(name) <= set(PLAIN) for name in names)


PLAIN = "abcdefghijklmnopqrstuvwxyz0123456789=-_."


@pytest.mark.parametrize(
    "vary, options, message",
    [
        (["attenton=none,both"], {}, "Did you mean 'model.attention'"),
        (["attention=none,bath"], {}, "The variant attention=bath .*attention"),
        (["attention=none"], {}, "at least two values. Received one"),
        (["attention"], {}, "expects KEY=VALUE,VALUE"),
        (["attention=none,"], {}, "expects KEY=VALUE,VALUE"),
        ([], {}, "Nothing is varied"),
        (["attention=none,()"], {}, "are the same training"),
        (["attention=none,none"], {}, "are the same training"),
        (["depth=18,34", "model.depth=50,101"], {}, "`model.depth` is given"),
        (["depth=18,34"], {"model.depth": 50}, "`depth` is given twice"),
        (["depth=18,34"], {"seed": 1}, "give --seeds"),
        (["seed=0,1"], {}, "`seed` is not varied here: give --seeds"),
        (["dataset=scenes,camvid"], {}, "could not be compared"),
        (["depth=18,34"], {"seeds": "0,1,0"}, "different integers"),
        (["depth=18,34"], {"seeds": "-1"}, "different integers"),
        (["depth=18,34"], {"seeds": "a"}, "different integers"),
        (["depth=18,34"], {"seeds": "0,4294967296"}, "below 4294967296"),
        (
            ["attention=both,('channel','position')"],
            {},
            "are the same training",
        ),
        (["attention=position,('position',)"], {}, "are the same training"),
        (["backbone=None,resnet18"], {}, "are the same training"),
        (["depth=18,34", "depth=50,101"], {}, "`depth` is given twice"),
    ],
)
def test_what_cannot_be_varied_is_refused(make, vary, options, message):
    with pytest.raises(ValueError, match=message):
        make(*vary, **options)


def begin(grid, *cells):
    """Makes run folders, as the first step of a training does."""
    for cell in cells or grid.cells:
        grid.run(*cell).mkdir(parents=True)


def test_a_grid_may_grow_but_not_change(make, tmp_path):
    first = make("attention=none,both", epochs=3)
    grid_file.save_grid(first)
    begin(first)
    more = make("attention=channel,both", seeds="2", epochs=3)
    merged = grid_file.merge(more)
    assert merged.vary == {"attention": ["none", "both", "channel"]}
    assert merged.seeds == (0, 1, 2)
    grid_file.save_grid(merged)
    assert grid_file.open_grid(tmp_path / "grid") == merged
    for other, message in (
        (make("attention=none,both"), "epochs was 3 and is 2"),
        (make("depth=18,34", epochs=3), "attention was varied, and now depth"),
        (
            make("attention=(),both", epochs=3),
            r"attention=none and attention=\(\) are the same",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            grid_file.merge(other)


def test_what_was_mistyped_is_forgotten_unless_a_run_was_begun(make):
    grid = make("attention=none,position,channel", seeds="0,1,22")
    grid_file.save_grid(grid)
    # Nothing was begun: even other keys.
    assert grid_file.merge(make("depth=18,34")).vary == {"depth": ["18", "34"]}
    none, position, _ = grid.variants
    begin(grid, (none, 0), (position, 1))
    merged = grid_file.merge(make("attention=none,both", seeds="2"))
    assert merged.vary == {"attention": ["none", "position", "both"]}
    assert merged.seeds == (0, 1, 2)


def test_weights_may_lie_elsewhere(make):
    options = {"backbone_weights": "/here/w.h5"}
    grid = make("attention=none,both", **options)
    grid_file.save_grid(grid)
    begin(grid)
    moved = make("attention=none,both", backbone_weights="/there/w.h5")
    assert grid_file.merge(moved) == moved
    other = make("attention=none,both", backbone_weights="/here/v.h5")
    with pytest.raises(ValueError, match="backbone_weights was 'w.h5' and is"):
        grid_file.merge(other)


def test_a_grid_is_opened_as_it_was_saved(make, tmp_path):
    grid = make("attention=none,both", data_root="/there", epochs=3)
    grid_file.save_grid(grid)
    opened = grid_file.open_grid(tmp_path / "grid")
    assert grids.meaning(opened.config) == grids.meaning(grid.config)
    assert (opened.settings, opened.vary) == (grid.settings, grid.vary)


def changed(**changes):
    return lambda content: {**content, **changes}


@pytest.mark.parametrize(
    "change, message",
    [
        (changed(seeds=[0, 0]), "different seeds"),
        (changed(seeds=[]), "different seeds"),
        (changed(seeds=[0.5]), "not all integers"),
        (changed(seeds=[True]), "not all integers"),
        (changed(seeds="01"), "'seeds' is not a list"),
        (changed(seeds=[2**32]), "below 4294967296"),
        (changed(seeds=[-1]), "`seed` must be at least 0"),
        (changed(seeds=list(range(501))), "has 1,002 trainings"),
        (changed(vary={}), "Nothing is varied"),
        (changed(vary=[]), "does not describe a grid"),
        (changed(vary={"attention": []}), "less than two values"),
        (changed(vary={"attention": ["none"]}), "less than two values"),
        (changed(vary={"attention": "none,both"}), "is not a list"),
        (changed(vary={"attention": ["none", 1]}), "not all strings"),
        (changed(vary={"attention": ["none", "none"]}), "the same training"),
        (changed(vary={"attention": ["none", "bath"]}), "attention=bath"),
        (changed(vary={"dataset": ["camvid", "scenes"]}), "not varied"),
        (changed(vary={"seed": ["0", "1"]}), "not varied"),
        (changed(settings=["depth=18"], vary={"depth": ["18", "34"]}), "twice"),
        (changed(settings=["depth=50"]), "not what its settings say"),
        (changed(settings=[1]), "not all strings"),
        (changed(config={}), "Missing: dataset"),
        (changed(config=[]), "does not describe a grid"),
        (lambda content: [content], "does not describe a grid"),
        (lambda content: {}, "does not describe a grid"),
        # A million million trainings are counted before they are listed.
        (
            changed(
                vary={
                    key: [str(value / 10**4) for value in range(1, 10**3)]
                    for key in ("learning_rate", "momentum", "dropout", "hue")
                }
            ),
            "has 1,992,011,992,002 trainings",
        ),
    ],
)
def test_a_grid_file_is_checked_as_what_is_typed(
    make, tmp_path, change, message
):
    grid_file.save_grid(make("attention=none,both"))
    path = tmp_path / "grid" / "grid.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=message) as caught:
        grid_file.open_grid(tmp_path / "grid")
    assert str(path) in str(caught.value)


def test_a_folder_of_something_else_is_refused(make, tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(FileNotFoundError, match=r"has no grid.json"):
        grid_file.open_grid(tmp_path / "other")
    grid = make("depth=18,34", folder="other")
    assert grid_file.merge(grid) == grid
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="not empty, and no ablation's"):
        grid_file.merge(grid)
    (tmp_path / "other" / "grid.json").write_text("{}")
    with pytest.raises(ValueError, match="does not describe a grid"):
        grid_file.merge(grid)
