"""Names of all scripts in pictures: their letters, or what they are instead."""

import base64
import warnings
import zlib

import numpy as np
import pytest
from conftest import one_backend
from PIL import ImageFont

from keras_danet.inference import fonts
from keras_danet.inference import visualization
from keras_danet.inference.visualization import add_legend
from keras_danet.inference.visualization import gallery

pytestmark = one_backend

# A font that has a high box for U+9053, a low one for U+8DEF and, for what it
# lacks, a wide one.
TWO_LETTERS = zlib.decompress(
    base64.b85decode(
        "c-oDUJxc>Y5Qg8~y?hujDq4uu2@ymBA$|)18_R$aQ&_1-E+)mr3o*fHWg#L2Az0e"
        "@2gF~HA0VQQ2zFLN(%ERK=X;k#qF6XEyYtNK&dkjo1b`5ZprEg=$EF|dpDzJ1N$+"
        ";1U=+`9YfW;UoXA-RJHDy6B>9oNmd_eyd@~iMeMOzm(-8=%6WTA-NWM_6YDwJi{3"
        "$tT*%<?4m?Pi0TrjFd_~0i8$@;EQ$TmkOE&v%Jr;GMp+5hxZB3H>VxV=&jYYVem1"
        "BrJC)uIQ@cwp&!Hvx4l8$<<(w(yS9okgxK#!YqXW$G2-c@(rxMB=w7)#4O<Jn;_+"
        "_Snl5;Ow=&u5>Sv?oQ-~=-tlT?!DTII>J?Wy9W0?{9bp`&Ez=kjE++pwy%4>rl0e"
        "jBzLF4JTpV%L#EPY<6{Nwh^Y5OM6?qTZz9S&8*W4}LavLbh<>_ntzo`XMR>h+rxY"
        "NuORbL{KmVh)EfL0Gdf!fEa}~=dA&q_5NFj?HDzIRn^v8sM&6`D}P|7rHX;ttAv6"
        "EkX"
    )
)
ROAD = "\u9053\u8def"
WHITE = np.full((10, 300, 3), 255, "uint8")


@pytest.fixture
def no_fonts(monkeypatch, tmp_path):
    """A machine without a font, but for what is put into a folder."""
    folder = tmp_path / "fonts"
    folder.mkdir()
    monkeypatch.delenv(fonts.VARIABLE, raising=False)
    monkeypatch.setattr(fonts, "_folders", lambda: [folder])
    monkeypatch.setattr(visualization, "_named_stand_ins", set())
    caches = (fonts._find_font, fonts._paths, fonts._open)
    for cache in caches:
        cache.cache_clear()
    yield folder
    for cache in caches:
        cache.cache_clear()


def legend(*names):
    palette = [(9, 9, 9)] * len(names)
    return add_legend(WHITE, names, palette)


def test_ascii_needs_no_other_font(no_fonts):
    assert fonts.font_for("traffic light 1~", 15).getname()[0] == "Aileron"
    assert fonts.drawable("road", "class 0") == "road"


def test_a_font_of_the_system_is_found(no_fonts):
    inside = no_fonts / "truetype" / "two"
    inside.mkdir(parents=True)
    (no_fonts / "broken.ttf").write_bytes(b"no font")
    (inside / "Two.TTF").write_bytes(TWO_LETTERS)
    assert fonts.font_for(ROAD, 15).getname()[0] == "Two"
    assert fonts.drawable(f" {ROAD} ", "class 0") == ROAD
    # It has nothing else.
    assert fonts.font_for(ROAD + "a", 15) is None
    assert fonts.font_for("\u9054", 15) is None
    # Letters are drawn, not the box of what is missing.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        strip = legend(ROAD)[10:, 40:]
    ink = (strip < 128).all(-1)
    size = 14
    # Boxes of 0.3 and 0.7, 0.4 and 0.3 ems.
    expected = size**2 * (0.3 * 0.7 + 0.4 * 0.3)
    assert 0.7 * expected < ink.sum() < 1.3 * expected


def test_a_font_can_be_named(no_fonts, monkeypatch, tmp_path):
    path = tmp_path / "elsewhere.ttf"
    path.write_bytes(TWO_LETTERS)
    monkeypatch.setenv(fonts.VARIABLE, str(path))
    assert fonts.font_for(ROAD, 15).getname()[0] == "Two"


def test_without_a_font_a_name_is_its_number_and_said_once(no_fonts):
    names = ["road", ROAD, "\u0926\u0947\u0936", "Bäume"]
    with pytest.warns(UserWarning) as caught:
        strip = legend(*names)
        again = legend(*names)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert (
        f"glyphs for 3 class names; pictures show: class 1 = {ROAD}, "
        in message
    )
    assert "Baume = Bäume" in message and "KERAS_DANET_FONT" in message
    assert "road =" not in message
    np.testing.assert_array_equal(strip, again)
    instead = legend("road", "class 1", "class 2", "Baume")
    np.testing.assert_array_equal(strip, instead)
    # Another data set's names are said as well.
    with pytest.warns(
        UserWarning, match="1 class name; pictures show: class 0 = \u8def"
    ):
        legend("\u8def")


def test_titles_without_a_font_are_numbers(no_fonts):
    label = np.zeros((320, 320), int)
    image = np.full((320, 320, 3), 200, "uint8")
    strange, plain = (
        gallery([(title, image, label)], [(9, 9, 9)], ["a"])
        for title in (ROAD, "sample 1")
    )
    np.testing.assert_array_equal(strange, plain)


def test_boxes_for_everything_are_no_font(no_fonts, monkeypatch):
    (no_fonts / "LastResort.ttf").write_bytes(TWO_LETTERS)
    assert fonts.font_for(ROAD, 15)
    fonts._open.cache_clear()
    fonts._find_font.cache_clear()
    monkeypatch.setattr(
        ImageFont.FreeTypeFont, "getname", lambda _: ("Last Resort", "Regular")
    )
    assert fonts.font_for(ROAD, 15) is None


def test_what_has_to_be_joined_or_turned_is_not_drawn_without_raqm(
    no_fonts, monkeypatch
):
    found = []
    monkeypatch.setattr(fonts, "_paths", lambda: ["all.ttf"])
    monkeypatch.setattr(fonts, "_has", lambda *_: found.append(1) or True)
    for has_raqm, expected in ((True, "all.ttf"), (False, None)):
        fonts._find_font.cache_clear()
        monkeypatch.setattr(fonts.features, "check", lambda _, x=has_raqm: x)
        for text in ("\u0637\u0631\u064a\u0642", "\u0939\u093f", "o\u0308"):
            letters = "".join(fonts._letters(text))
            layout = fonts._needs_layout(text)
            assert layout and fonts._find_font(letters, layout) == expected
    assert not fonts._needs_layout(f"\u0434{ROAD}a")


def test_names_are_harmless_in_pictures(no_fonts):
    np.testing.assert_array_equal(legend("a\x1bb"), legend("a\\x1bb"))
    np.testing.assert_array_equal(legend("a\u202eb"), legend("a\\u202eb"))
    np.testing.assert_array_equal(legend("a\n b"), legend("a b"))
