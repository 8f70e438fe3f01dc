"""Which trainings an ablation has, and what is refused before the first."""

import pytest
from conftest import one_backend

from keras_danet.ablation import grid as grids
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
    ],
)
def test_what_cannot_be_varied_is_refused(make, vary, options, message):
    with pytest.raises(ValueError, match=message):
        make(*vary, **options)


def test_a_grid_may_grow_but_not_change(make, tmp_path):
    make("attention=none,both", epochs=3).save()
    more = make("attention=channel,both", seeds="2", epochs=3)
    merged = grids.merge(more)
    assert merged.vary == {"attention": ["none", "both", "channel"]}
    assert merged.seeds == (0, 1, 2)
    merged.save()
    assert grids.open_grid(tmp_path / "grid") == merged
    for other, message in (
        (make("attention=none,both"), "epochs was 3 and is 2"),
        (make("depth=18,34", epochs=3), "attention was varied, and now depth"),
        (
            make("attention=(),both", epochs=3),
            r"attention=none and attention=\(\) are the same",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            grids.merge(other)


def test_a_folder_of_something_else_is_refused(make, tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(FileNotFoundError, match=r"has no grid.json"):
        grids.open_grid(tmp_path / "other")
    grid = make("depth=18,34", folder="other")
    assert grids.merge(grid) == grid
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="not empty, and no ablation's"):
        grids.merge(grid)
    (tmp_path / "other" / "grid.json").write_text("{}")
    with pytest.raises(ValueError, match="does not describe a grid"):
        grids.merge(grid)
