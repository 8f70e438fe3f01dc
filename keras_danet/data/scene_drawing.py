"""One street scene: the objects in a street, and what a camera sees of them.

A scene is built in metres and seen by a pinhole camera: kerbs, facades, trees,
poles, cars and pedestrians are where a street has them and shrink with
distance. Colour says little about the class: greys, paints, greens and glass
are shared, and the light changes. Shape, place and neighbours reveal it.
"""

import operator
from colorsys import hsv_to_rgb
from functools import partial

import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFilter

from keras_danet.data.datasets import IGNORE_LABEL

# As `SCENES_CLASSES` has them.
SKY, BUILDING, ROAD, PAVEMENT, TREE, POLE, CAR, PEDESTRIAN = range(8)
SKYLINE = 60.0  # metres to the end of the street


def draw_street(rng, size):
    """Draws a scene.

    Args:
        rng: NumPy's random generator, which decides everything.
        size: (height, width) in pixels.

    Returns:
        `(image, label)`, as `draw_scene` returns them.
    """
    scene = _Scene(rng, size)
    _draw_sky(scene)
    _draw_ground(scene)
    _draw_buildings(scene)
    _draw_objects(scene)
    if rng.random() < 0.3:
        _draw_hood(scene)
    image, label = _develop(scene)
    if rng.random() < 0.5:  # a country that drives on the left
        image, label = image[:, ::-1].copy(), label[:, ::-1].copy()
    return image, label


class _Scene:
    """A street seen by a camera, painted back to front.

    The camera looks along z; x is metres to its right, y metres above ground.
    Shapes are rasterised once, as numbers; label and colour are both looked
    up by that number, so they cannot disagree.
    """

    def __init__(self, rng, size):
        height, width = size
        self.rng = rng
        self.focal = 0.85 * min(width, height * 4 / 3)
        self.horizon = height * rng.uniform(0.4, 0.56)
        self.centre = width * rng.uniform(0.35, 0.65)
        self.eye = rng.uniform(1.7, 2.6)
        # Half the distance at which the ground enters the image.
        self.near = 0.5 * self.focal * self.eye / (height - self.horizon)
        self.kerbs = -rng.uniform(2.8, 5.2), rng.uniform(1.6, 3.3)
        self.walls = (
            self.kerbs[0] - rng.uniform(3.4, 5.4),
            self.kerbs[1] + rng.uniform(3.4, 5.4),
        )
        self.crossing = rng.uniform(7.5, 12) if rng.random() < 0.35 else None
        self.light = str(rng.choice(("day", "overcast", "dusk")))
        self.sky = _sky_colours(rng, self.light)
        self.labels, self.colours, self.grains = [], [], []
        self.numbers = Image.new("I", (width, height))
        self.pen = ImageDraw.Draw(self.numbers)
        self.shadows = Image.new("1", (width, height))
        self.shadow_pen = ImageDraw.Draw(self.shadows)

    def project(self, x, y, z):
        scale = self.focal / z
        return self.centre + scale * x, self.horizon + scale * (self.eye - y)

    def paint(self, shape, pixels, label, colour, grain=5.0):
        shape(pixels, len(self.labels))
        self.labels.append(label)
        self.colours.append(colour)
        self.grains.append(grain)

    def polygon(self, points, *material):
        pixels = [self.project(*point) for point in points]
        self.paint(self.pen.polygon, pixels, *material)

    def upright(self, x0, x1, y0, y1, z, *material):
        corners = (x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)
        self.polygon(corners, *material)

    def side(self, x, y0, y1, z0, z1, *material):
        corners = (x, y0, z0), (x, y0, z1), (x, y1, z1), (x, y1, z0)
        self.polygon(corners, *material)

    def flat(self, x0, x1, y, z0, z1, *material):
        corners = (x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)
        self.polygon(corners, *material)

    def disc(self, x, y, z, radius_x, radius_y, *material):
        left, top = self.project(x - radius_x, y + radius_y, z)
        right, bottom = self.project(x + radius_x, y - radius_y, z)
        box = left, top, right, bottom
        self.paint(self.pen.ellipse, box, *material)

    def shadow(self, x0, x1, z0, z1):
        corners = (x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)
        self.shadow_pen.polygon([self.project(*p) for p in corners], 1)


def _grey(rng, low, high, tint=8):
    return rng.uniform(low, high) + rng.uniform(-tint, tint, 3)


def _paint(rng, hue=(0.0, 1.0), saturation=(0.3, 0.9), value=(0.3, 0.95)):
    colour = (rng.uniform(*bounds) for bounds in (hue, saturation, value))
    return 255 * np.array(hsv_to_rgb(*colour))


def _sky_colours(rng, light):
    """Colours at the top of the sky and at the horizon."""
    if light == "overcast":
        return _grey(rng, 130, 220), _grey(rng, 170, 235)
    if light == "dusk":
        top = _paint(rng, (0.58, 0.8), (0.2, 0.5), (0.3, 0.75))
        return top, _paint(rng, (0.02, 0.12), (0.2, 0.6), (0.6, 0.95))
    top = _paint(rng, (0.53, 0.62), (0.3, 0.7), (0.6, 0.95))
    return top, _grey(rng, 190, 240)


def _wall_colour(scene):
    rng, kind = scene.rng, scene.rng.random()
    if kind < 0.2:
        return _grey(rng, 90, 215, 12)
    if kind < 0.92:  # brick and plaster
        return _paint(rng, (0.0, 0.14), (0.2, 0.65), (0.35, 0.9))
    if kind < 0.97:  # glass that mirrors the sky
        return scene.sky[rng.integers(2)] * rng.uniform(0.8, 1.05)
    return _paint(rng)


def _draw_sky(scene):
    rng, (top, bottom) = scene.rng, scene.sky
    width, height = scene.numbers.size
    for part in np.linspace(0, 1, 20, endpoint=False):
        box = 0, scene.horizon * part, width, height
        colour = top + (bottom - top) * part
        scene.paint(scene.pen.rectangle, box, SKY, colour, 2)
    for _ in range(rng.integers(0, 5)):
        x, y = rng.uniform(-60, 60), rng.uniform(15, 45)
        for _ in range(3):
            size, colour = rng.uniform(4, 14), bottom * rng.uniform(0.85, 1.1)
            at = x + rng.uniform(-9, 9), y + rng.uniform(-2, 2), SKYLINE
            scene.disc(*at, size, size / 3, SKY, colour, 3)
    x, kind = -SKYLINE, rng.choice((BUILDING, BUILDING, TREE, SKY))
    while x < SKYLINE and kind != SKY:
        size = rng.uniform(9, 22)
        if kind == BUILDING:
            material = BUILDING, _wall_colour(scene)
            tall = rng.uniform(4, 16)
            scene.upright(x, x + size, 0, tall, SKYLINE, *material)
        else:
            leaf = _paint(rng, (0.2, 0.4), (0.2, 0.6), (0.2, 0.5))
            tall = rng.uniform(2, 6)
            scene.disc(x, tall / 2, SKYLINE, size, tall, TREE, leaf, 14)
        x += size


def _draw_ground(scene):
    """Pavement everywhere, the road on it, and what is painted on both."""
    rng, (left, right), near = scene.rng, scene.kerbs, scene.near
    road = _grey(rng, 55, 125)
    kind = rng.random()
    if kind < 0.6:
        pavement = _grey(rng, 140, 200, 8)
    elif kind < 0.96:
        pavement = _paint(rng, (0.0, 0.12), (0.1, 0.45), (0.4, 0.75))
    else:
        pavement = road + rng.uniform(-12, 12)
    box = 0, scene.horizon, *scene.numbers.size
    scene.paint(scene.pen.rectangle, box, PAVEMENT, pavement, 7)
    joint = pavement * rng.uniform(0.7, 1.15)
    for z in np.arange(near, 14, rng.uniform(0.8, 2.0)):
        scene.flat(-30, 30, 0, z, z, PAVEMENT, joint)
    edge, stone = rng.uniform(0.15, 0.35), _grey(rng, 90, 220)
    scene.flat(left - edge, right + edge, 0, near, SKYLINE, PAVEMENT, stone)
    scene.flat(left, right, 0, near, SKYLINE, ROAD, road, 7)
    if scene.crossing:
        street = scene.crossing, scene.crossing + 7
        scene.flat(-SKYLINE, SKYLINE, 0, *street, ROAD, road, 7)
    for _ in range(rng.integers(0, 4)):  # patches, and puddles with sky in them
        puddle = rng.random() < 0.4
        colour = scene.sky[1] * 0.9 if puddle else road * rng.uniform(0.6, 1.2)
        x, z = rng.uniform(left, right - 2), rng.uniform(3, 15)
        span = x, x + rng.uniform(0.5, 2), 0, z, z + rng.uniform(0.4, 2)
        scene.flat(*span, ROAD, colour)
    mark = _grey(rng, 170, 250)
    for z in np.arange(near + rng.uniform(0, 4), 40, 4.5):
        scene.flat(-1.8, -1.6, 0, z, z + 2, ROAD, mark)
    if scene.crossing:
        z = scene.crossing - 3.5
        for x in np.arange(left + 0.2, right - 0.5, 1.0):
            scene.flat(x, x + 0.5, 0, z, z + 2.5, ROAD, mark)


def _draw_buildings(scene):
    rng, street = scene.rng, scene.crossing
    for wall in scene.walls:
        z, lots = scene.near, []
        while z < SKYLINE - 15:
            end = z + rng.uniform(5, 13)
            if street and z < street + 7.5 and end > street - 0.5:
                end = street + 7.5
            elif rng.random() > 0.12:
                lots.append((z, end))
            z = end
        for z0, z1 in reversed(lots):
            recess = rng.choice((0, rng.uniform(0, 2)))
            _draw_building(scene, wall + np.sign(wall) * recess, z0, z1)


def _draw_building(scene, x, z0, z1):
    rng, colour, out = scene.rng, _wall_colour(scene), np.sign(x)
    height, grain = rng.uniform(3.5, 13), rng.uniform(2, 12)
    front, side = (colour * rng.uniform(0.7, 1.1) for _ in range(2))
    scene.upright(x, x + 12 * out, 0, height, z0, BUILDING, front, grain)
    scene.side(x, 0, height, z0, z1, BUILDING, side, grain)
    if rng.random() < 0.5:
        roof = _wall_colour(scene)
        scene.upright(x, x + 12 * out, height - 0.5, height, z0, BUILDING, roof)
        scene.side(x, height - 0.5, height, z0, z1, BUILDING, roof)
    if rng.random() < 0.5:
        scene.side(x, 0, 2.6, z0, z1, BUILDING, _paint(rng))
    kind = rng.random()
    if kind < 0.5:
        glass = _grey(rng, 20, 80)
    elif kind < 0.8:
        glass = scene.sky[1] * 0.85
    else:
        glass = rng.uniform(0.6, 1) * np.array((240, 200, 110))
    step, storey = rng.uniform(1.5, 3.0), rng.uniform(2.6, 3.4)
    wide = step * rng.uniform(0.35, 0.75)
    for low in np.arange(0.9, height - 1.8, storey):
        for z in np.arange(z0 + 0.4, min(z1 - wide, 25), step):
            scene.side(x, low, low + 1.5, z, z + wide, BUILDING, glass)
        for u in np.arange(0.5, 6 if z0 < 25 else 0, step):
            span = x + out * u, x + out * (u + wide), low, low + 1.5
            scene.upright(*span, z0, BUILDING, glass)


def _draw_tree(scene, x, z):
    rng = scene.rng
    trunk, radius = rng.uniform(1.6, 2.6), rng.uniform(1.3, 2.1)
    half = max(rng.uniform(0.2, 0.3), 1.8 * z / scene.focal)
    bark = _paint(rng, (0.04, 0.12), (0.1, 0.5), (0.2, 0.5))
    scene.shadow(x - 1.0, x + 1.6, z - 0.8, z + 0.8)
    scene.upright(x - half, x + half, 0, trunk + 1, z, TREE, bark)
    season = (0.22, 0.38) if rng.random() < 0.95 else (0.03, 0.16)
    leaf = _paint(rng, season, (0.45, 0.85), (0.3, 0.65))
    for _ in range(rng.integers(6, 12)):
        size = radius * rng.uniform(0.4, 0.75)
        u, v = radius * rng.uniform(-0.6, 0.6), radius * rng.uniform(0.3, 1.8)
        colour = leaf * rng.uniform(0.6, 1.3)
        scene.disc(x + u, trunk + v, z, size, size, TREE, colour, 16)


def _draw_pole(scene, x, z):
    """A lamp post, a traffic light or a sign; the plate is part of the pole."""
    rng, kind = scene.rng, scene.rng.integers(3)
    half = max(rng.uniform(0.26, 0.36), 2.8 * z / scene.focal)
    metal = _grey(rng, 20, 80) if rng.random() < 0.9 else _paint(rng)
    top = rng.uniform(4, 6.5) if kind == 0 else rng.uniform(2.6, 3.8)
    scene.shadow(x - half, x + 2, z - 0.2, z + 0.2)
    scene.upright(x - half, x + half, 0, top, z, POLE, metal)
    if kind == 0:
        reach = x - np.sign(x) * rng.uniform(0.6, 1.5)
        scene.upright(x, reach, top - 0.6, top, z, POLE, metal)
    elif kind == 1:
        box = x - 0.65, x + 0.65, top - 1.5, top
        scene.upright(*box, z, POLE, _grey(rng, 20, 70))
        lamps = (220, 40, 30), (240, 180, 40), (40, 200, 90)
        for row, lamp in enumerate(lamps):
            y = top - 0.28 - 0.42 * row
            scene.disc(x, y, z, 0.18, 0.18, POLE, np.array(lamp))
    elif rng.random() < 0.5:
        scene.disc(x, top, z, 0.8, 0.8, POLE, _paint(rng))
    else:
        plate = x - 0.8, x + 0.8, top - 1.2, top
        scene.upright(*plate, z, POLE, _paint(rng))


def _draw_box(scene, x0, x1, y0, y1, z0, z1, colour):
    """The faces of a part of a car that the camera can see."""
    if y1 < scene.eye:
        scene.flat(x0, x1, y1, z0, z1, CAR, colour * 1.1)
    if x0 > 0 or x1 < 0:
        scene.side(x0 if x0 > 0 else x1, y0, y1, z0, z1, CAR, colour * 0.85)
    scene.upright(x0, x1, y0, y1, z0, CAR, colour)


def _draw_car(scene, x, z, across=False):
    rng = scene.rng
    colour = _grey(rng, 15, 240) if rng.random() < 0.45 else _paint(rng)
    glass = _grey(rng, 25, 90) if rng.random() < 0.6 else scene.sky[1] * 0.8
    tyre = _grey(rng, 15, 45)
    top = rng.uniform(1.4, 1.6) if rng.random() < 0.75 else 2.1
    half, long, slope, back = (
        (2.1, 1.8, 0.7, z + 0.1) if across else (0.9, 4.2, 0.12, z + 0.5)
    )
    x0, x1, z1 = x - half, x + half, z + long
    scene.shadow(x0 - 0.3, x1 + 0.3, z - 0.3, z1 + 0.3)
    _draw_box(scene, x0 + 0.1, x1 - 0.1, 0, 0.4, z + 0.1, z1, tyre)
    _draw_box(scene, x0, x1, 0.3, 0.9, z, z1, colour)
    cabin = x0 + slope, x1 - slope, 0.9, top, back, z1 - 0.8
    _draw_box(scene, *cabin, colour)
    pane = cabin[0] + 0.12, cabin[1] - 0.12, 0.95, top - 0.1
    scene.upright(*pane, back, CAR, glass)
    if across:
        for axle in (x0 + 0.8, x1 - 0.8):
            scene.disc(axle, 0.33, z, 0.36, 0.36, CAR, tyre)
        return
    lamp = rng.choice(((200, 30, 30), (240, 235, 200)))
    for corner in (x0 + 0.22, x1 - 0.22):
        scene.disc(corner, 0.65, z, 0.16, 0.1, CAR, lamp)
        scene.upright(corner - 0.12, corner + 0.12, 0, 0.35, z, CAR, tyre)
    if x0 > 0 or x1 < 0:
        edge = cabin[0] if x0 > 0 else cabin[1]
        scene.side(edge, 0.95, top - 0.1, back + 0.3, z1 - 1.0, CAR, glass)


def _draw_pedestrian(scene, x, z):
    rng = scene.rng
    tall, stride = rng.uniform(2.0, 2.5), rng.uniform(0.18, 0.36)
    trousers, coat = (
        _paint(rng, saturation=(0.6, 0.95))
        if rng.random() < chance
        else _grey(rng, 20, 200)
        for chance in (0.7, 0.97)
    )
    hip = 0.48 * tall
    scene.shadow(x - 0.2, x + 1.0, z - 0.2, z + 0.2)
    for way in (-1, 1):
        foot, top = x + way * stride, x + way * 0.14
        legs = (foot - 0.18, 0), (foot + 0.18, 0), (top + 0.22, hip)
        leg = [(u, y, z) for u, y in (*legs, (top - 0.22, hip))]
        scene.polygon(leg, PEDESTRIAN, trousers)
    body = x - 0.55, x + 0.55, hip - 0.05, 0.84 * tall
    scene.upright(*body, z, PEDESTRIAN, coat)
    skin = _paint(rng, (0.04, 0.09), (0.25, 0.6), (0.3, 0.95))
    scene.disc(x, 0.91 * tall, z, 0.26, 0.26, PEDESTRIAN, skin)


def _place_on_pavements(scene):
    """Yields (z, x, draw) of what is beside both kerbs."""
    rng = scene.rng
    for kerb, wall in zip(scene.kerbs, scene.walls, strict=True):
        for z in np.arange(rng.uniform(6, 9), 14, rng.uniform(5, 7.5)):
            yield z, kerb + np.sign(kerb) * 0.45, _draw_pole
        if rng.random() < 0.75:
            for z in np.arange(rng.uniform(6.5, 10), 14, rng.uniform(5, 9)):
                x = kerb + np.sign(kerb) * rng.uniform(0.9, 2.2)
                yield z, x, _draw_tree
        for _ in range(rng.integers(1, 5)):
            x = kerb + (wall - kerb) * rng.uniform(0.2, 0.7)
            yield rng.uniform(6.5, 9), x, _draw_pedestrian


def _place_on_road(scene):
    """Yields (z, x, draw) of traffic, parked cars and crossing pedestrians."""
    rng, (left, right), street = scene.rng, scene.kerbs, scene.crossing
    lanes = [(0.0, 6, 0.75), (max(left + 1.2, -3.2), 4.5, 0.8)]
    lanes += [(right - 1.1, 5, 0.8)] if right > 2.6 else []
    lanes += [(left + 1.1, 5, 0.8)] if left < -5.0 else []
    for x, first, chance in lanes:
        z = first + rng.uniform(0, 6)
        while z < 20:
            clear = not street or not street - 8.5 < z < street + 7.5
            if clear and rng.random() < chance:
                yield z, x + rng.uniform(-0.2, 0.2), _draw_car
            z += rng.uniform(5.5, 11)
    if street:
        for _ in range(rng.integers(0, 4)):
            x, z = rng.uniform(left, right), street - rng.uniform(1.2, 3.2)
            yield z, x, _draw_pedestrian
        if rng.random() < 0.7:
            car = partial(_draw_car, across=True)
            yield street + 2, rng.uniform(-9, 9), car


def _draw_objects(scene):
    street = scene.crossing
    placed = [
        item
        for item in _place_on_pavements(scene)
        if not street or not street - 0.5 < item[0] < street + 7.5
    ]
    placed += _place_on_road(scene)
    for z, x, draw in sorted(placed, key=operator.itemgetter(0), reverse=True):
        draw(scene, x, z)


def _draw_hood(scene):
    """The camera's own car, which has no class."""
    width, height = scene.numbers.size
    top = height * scene.rng.uniform(0.9, 0.96)
    box = -0.1 * width, top, 1.1 * width, 1.3 * height
    colour = _grey(scene.rng, 20, 200)
    scene.paint(scene.pen.ellipse, box, IGNORE_LABEL, colour)


def _develop(scene):
    """Looks up labels and colours; adds grain, shadow, light, blur, noise."""
    rng, numbers = scene.rng, np.asarray(scene.numbers)
    height, width = numbers.shape
    label = np.array(scene.labels, "uint8")[numbers]
    coarse = rng.normal(0, 0.7, (height // 4 + 1, width // 4 + 1))
    coarse = coarse.repeat(4, 0).repeat(4, 1)[:height, :width]
    grain = coarse + rng.standard_normal((height, width), "float32")
    grain *= np.array(scene.grains)[numbers]
    image = np.array(scene.colours)[numbers] + grain[..., None]
    ground = (label == ROAD) | (label == PAVEMENT)
    image[ground & np.asarray(scene.shadows)] *= rng.uniform(0.5, 0.8)
    if scene.light == "overcast":
        mean = image.mean(-1, keepdims=True)
        image = mean + rng.uniform(0.6, 0.9) * (image - mean)
    gain = rng.uniform(0.85, 1.1)
    if scene.light == "dusk":
        gain *= rng.uniform(0.8, 0.95)
    rows = 1 + rng.uniform(-0.15, 0.15) * np.linspace(-1, 1, height)
    columns = gain + rng.uniform(-0.2, 0.2) * np.linspace(-1, 1, width)
    image *= np.multiply.outer(rows, columns)[..., None]
    image *= rng.uniform(0.97, 1.03, 3)
    image = Image.fromarray(image.clip(0, 255).astype("uint8"))
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.5)))
    noise = rng.standard_normal((height, width, 3), "float32")
    image = image + noise * np.float32(rng.uniform(1, 3))
    return image.clip(0, 255).astype("uint8"), label
