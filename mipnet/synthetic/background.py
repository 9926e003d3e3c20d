"""Backgrounds: rooms, parks, streets, beaches and studios, with clutter that resembles limbs.

Images are (HEIGHT, WIDTH, 3) uint8 RGB.
"""

from __future__ import annotations

from random import Random

import cv2
import numpy as np

from mipnet.synthetic.canvas import ball, disc, gradient, line, mix, noise_bank, rect, rod, window
from mipnet.synthetic.looks import CLOTHES, RGB, SKINS, hsv, shade
from mipnet.synthetic.raster import HEIGHT, WIDTH


def _perspective_floor(image: np.ndarray, r: Random, floor: int, horizon: float, colour: RGB) -> None:
    """Boards or tiles that run toward the horizon's vanishing point."""
    vanish = r.uniform(0.2, 0.8) * WIDTH
    dark = shade(colour, r.uniform(0.84, 0.93))
    gap = r.uniform(20, 42)
    depth = max(HEIGHT - horizon, 20.0)
    near = (floor - horizon) / depth
    for i in range(-7, 8):
        x = vanish + (i + 0.5) * gap * 1.6
        line(image, vanish + (x - vanish) * near, floor, x, HEIGHT, dark, width=1)
    if r.random() < 0.5:
        for k in (1.0, 0.72, 0.52, 0.38, 0.28, 0.2):
            y = horizon + depth * k * r.uniform(0.97, 1.0)
            if y > floor + 2:
                line(image, 0, y, WIDTH, y, dark, width=1)


# --- settings -------------------------------------------------------------------------------------------


def _room(image: np.ndarray, r: Random, floor: int, horizon: float) -> None:
    hue = r.choice((r.random(), r.uniform(0.05, 0.15), r.uniform(0.5, 0.65)))
    wall = hsv(hue, r.uniform(0.03, 0.3), r.uniform(0.5, 0.95))
    gradient(image, 0, floor, shade(wall, r.uniform(0.86, 1.0)), shade(wall, r.uniform(0.92, 1.08)))
    kind = r.random()
    if kind < 0.25:
        step, tint = r.uniform(7, 20), shade(wall, r.choice((0.93, 1.06)))
        for i in range(int(WIDTH / step) + 1):
            rect(image, i * step, 0, i * step + 0.4 * step, floor, tint)
    elif kind < 0.4:
        y = floor - r.uniform(20, 40)
        rect(image, 0, y, WIDTH, floor, shade(wall, 0.8))
        line(image, 0, y, WIDTH, y, shade(wall, 1.12), width=2)
    wood = hsv(r.uniform(0.05, 0.12), r.uniform(0.15, 0.55), r.uniform(0.35, 0.78))
    gradient(image, floor, HEIGHT, shade(wood, 0.82), shade(wood, 1.1))
    _perspective_floor(image, r, floor, horizon, wood)
    rect(image, 0, floor - 3, WIDTH, floor - 1, shade(wall, 1.2 if wall[0] < 200 else 0.75))
    for _ in range(r.randrange(0, 4)):
        x, w = r.uniform(-10, WIDTH - 10), r.uniform(16, 44)
        what = r.random()
        if what < 0.3:  # picture
            y, h = r.uniform(4, max(floor - 55, 6)), r.uniform(14, 34)
            frame = hsv(r.uniform(0.05, 0.12), r.uniform(0.1, 0.6), r.uniform(0.15, 0.85))
            rect(image, x, y, x + w, y + h, frame)
            ground = hsv(r.random(), r.uniform(0.1, 0.5), r.uniform(0.4, 0.95))
            rect(image, x + 2, y + 2, x + w - 2, y + h - 2, ground)
            centre = x + w * r.uniform(0.3, 0.7)
            disc(image, centre, y + h * 0.55, w * 0.18, h * 0.22, hsv(r.random(), 0.45, 0.7))
        elif what < 0.55:  # window
            y, h = r.uniform(2, 20), r.uniform(30, 58)
            h = min(h, floor - 12 - y)
            rect(image, x, y, x + w, y + h, (238.0, 236.0, 230.0))
            sky = hsv(r.uniform(0.52, 0.62), r.uniform(0.15, 0.45), r.uniform(0.7, 0.98))
            rect(image, x + 3, y + 3, x + w - 3, y + h - 3, sky)
            rect(image, x + w / 2 - 1, y, x + w / 2, y + h, (238.0, 236.0, 230.0))
            rect(image, x, y + h / 2, x + w, y + h / 2 + 1, (238.0, 236.0, 230.0))
        elif what < 0.78:  # cupboard or door
            h = r.uniform(30, 84)
            tone = hsv(r.uniform(0.04, 0.13), r.uniform(0.1, 0.5), r.uniform(0.3, 0.85))
            rect(image, x, floor - h, x + w, floor + 2, tone)
            for k in range(1, r.randrange(2, 5)):
                line(image, x, floor - h * k / 4, x + w, floor - h * k / 4, shade(tone, 0.8), width=1)
            rect(image, x, floor - h, x + w, floor + 2, shade(tone, 0.7), thickness=1)
        else:  # floor lamp or plant
            base, top = floor + r.uniform(2, 10), floor - r.uniform(30, 62)
            if r.random() < 0.5:
                rod(image, x, base, x, top, (90.0, 84.0, 78.0), width=2)
                disc(image, x, top, 9, 6, (248.0, 232.0, 186.0))
            else:
                leaf = hsv(r.uniform(0.25, 0.4), 0.5, r.uniform(0.3, 0.6))
                for _leaf in range(7):
                    a, y = r.uniform(-1, 1), base - 22 - 16 * r.random()
                    tone = leaf if r.random() < 0.5 else shade(leaf, 1.2)
                    disc(image, x + 12 * a, y, 3, 11, tone, angle=50 * a)
                rect(image, x - 6, base - 13, x + 6, base, hsv(0.05, 0.5, 0.6))


def _lighten(image: np.ndarray, clouds: np.ndarray, floor: int, clear: float) -> None:
    """Add white clouds by ``clouds``, a window of the noise bank; fewer for a higher ``clear``."""
    amount = cv2.convertScaleAbs(cv2.subtract(clouds[:floor], 128.0 + 60.0 * clear), alpha=1.9)
    amount = cv2.min(amount, 190.0)
    thick = cv2.merge((amount, amount, amount))
    blue = cv2.multiply(image[:floor], cv2.bitwise_not(thick), scale=1 / 255.0)
    np.copyto(image[:floor], cv2.add(blue, cv2.convertScaleAbs(thick, alpha=246 / 255.0)))


def _sky(image: np.ndarray, r: Random, floor: int) -> RGB:
    hue = r.choice((r.uniform(0.53, 0.62), r.uniform(0.53, 0.62), r.uniform(0.02, 0.1)))
    top = hsv(hue, r.uniform(0.2, 0.6), r.uniform(0.6, 0.95))
    low = hsv(hue + r.uniform(-0.05, 0.05), 0.12, r.uniform(0.85, 1))
    gradient(image, 0, floor, top, low)
    _lighten(image, window(noise_bank()[1], r), floor, r.uniform(-0.1, 0.5))
    return low


def _tree(image: np.ndarray, r: Random, x: float, base: float, size: float, leaf: RGB) -> None:
    bark = hsv(r.uniform(0.04, 0.1), r.uniform(0.2, 0.45), r.uniform(0.2, 0.45))
    rod(image, x, base, x + r.uniform(-3, 3), base - 0.7 * size, bark, width=0.1 * size + 1)
    if r.random() < 0.4:
        tip = x + r.choice((-1, 1)) * 0.3 * size
        rod(image, x, base - 0.45 * size, tip, base - 0.75 * size, bark, width=0.06 * size + 1)
    for i in range(7):
        right, up = r.gauss(0, 0.2) * size, (0.78 + r.gauss(0, 0.13)) * size
        disc(image, x + right, base - up, 0.24 * size, 0.2 * size, shade(leaf, 0.8 + 0.07 * i))


def _park(image: np.ndarray, r: Random, floor: int, horizon: float) -> None:
    low = _sky(image, r, floor)
    grass = hsv(r.uniform(0.17, 0.33), r.uniform(0.25, 0.6), r.uniform(0.4, 0.72))
    far = mix(grass, low, 0.55)
    for k in range(r.randrange(0, 3)):
        tone = shade(far, 1.0 - 0.1 * k)
        disc(image, r.uniform(0, WIDTH), floor + 6, r.uniform(50, 110), r.uniform(14, 34), tone)
    hue = r.choice((r.uniform(0.22, 0.38), r.uniform(0.04, 0.13)))
    leaf = hsv(hue, r.uniform(0.3, 0.65), r.uniform(0.35, 0.65))
    gradient(image, floor, HEIGHT, shade(grass, 0.85), shade(grass, 1.05))
    for _ in range(r.randrange(1, 6)):
        _tree(image, r, r.uniform(-5, WIDTH + 5), floor + r.uniform(-2, 10), r.uniform(34, 95), leaf)
    if r.random() < 0.4:
        path = hsv(0.1, 0.2, r.uniform(0.6, 0.8))
        x, w = r.uniform(20, WIDTH - 20), r.uniform(20, 60)
        corners = [(x, floor), (x + 5, floor), (x + w, HEIGHT), (x - w, HEIGHT)]
        cv2.fillConvexPoly(image, np.array(corners, dtype=np.int32), path, cv2.LINE_AA)
    texture = cv2.convertScaleAbs(window(noise_bank()[2], r)[: HEIGHT - floor], alpha=6.0)
    np.copyto(image[floor:], cv2.subtract(image[floor:], cv2.merge((texture, texture, texture))))


def _street(image: np.ndarray, r: Random, floor: int, horizon: float) -> None:
    low = _sky(image, r, floor)
    x = r.uniform(-30, 0)
    while x < WIDTH:
        w, h = r.uniform(24, 60), r.uniform(0.35, 1.1) * floor
        front = hsv(r.choice((0.03, 0.08, 0.1, 0.58)), r.uniform(0.05, 0.45), r.uniform(0.4, 0.85))
        tone = mix(front, low, 0.2)
        rect(image, x, floor - h, x + w, floor, tone)
        pane = shade(tone, r.choice((0.62, 0.72, 1.2)))
        nx, ny = int(w / r.uniform(9, 14)), int(h / r.uniform(12, 17))
        for i in range(min(nx * ny, 24)):
            px, py = x + w * (i % nx + 0.28) / nx, floor - h + h * (i // nx + 0.25) / ny
            rect(image, px, py, px + 0.42 * w / nx, py + 0.5 * h / ny, pane)
        x += w + (r.uniform(0, 12) if r.random() < 0.4 else 0)
    pavement = hsv(r.uniform(0.05, 0.65), r.uniform(0.0, 0.1), r.uniform(0.42, 0.75))
    gradient(image, floor, HEIGHT, shade(pavement, 0.88), shade(pavement, 1.06))
    _perspective_floor(image, r, floor, horizon, pavement)
    for _ in range(r.randrange(0, 3)):
        x, base = r.uniform(5, WIDTH - 5), floor + r.uniform(1, 12)
        top, grey = base - r.uniform(70, 130), hsv(0.6, 0.1, r.uniform(0.2, 0.4))
        rod(image, x, base, x, top, grey, width=r.uniform(2, 4))


def _beach(image: np.ndarray, r: Random, floor: int, horizon: float) -> None:
    _sky(image, r, floor)
    sea_top = max(floor - r.randrange(8, 26), 6)
    sea = hsv(r.uniform(0.48, 0.58), r.uniform(0.35, 0.65), r.uniform(0.5, 0.75))
    sand = hsv(r.uniform(0.09, 0.12), r.uniform(0.2, 0.4), r.uniform(0.75, 0.95))
    gradient(image, sea_top, floor, shade(sea, 0.9), shade(sea, 1.2))
    gradient(image, floor, HEIGHT, shade(sand, 0.88), shade(sand, 1.04))
    line(image, 0, floor, WIDTH, floor + r.uniform(-3, 3), (245.0, 245.0, 240.0), width=2)
    for _ in range(r.randrange(0, 3)):
        x, base = r.uniform(0, WIDTH), floor + r.uniform(4, 14)
        top, colour = base - r.uniform(45, 70), r.choice(CLOTHES)
        rod(image, x, base, x + 3, top, (230.0, 226.0, 216.0), width=2)
        centre, half_axes = (int(x + 3), int(top + 9)), (int(r.uniform(16, 28)), 13)
        cv2.ellipse(image, centre, half_axes, 0, 180, 360, colour, -1, cv2.LINE_AA)


def _studio(image: np.ndarray, r: Random, floor: int, horizon: float) -> None:
    hue, sat, val = r.random(), r.uniform(0.05, 0.5), r.uniform(0.35, 0.92)
    wall = hsv(hue, sat, val)
    gradient(image, 0, floor, shade(wall, 0.82), shade(wall, 1.03))
    gradient(image, floor, HEIGHT, shade(wall, 1.03), shade(wall, r.uniform(0.72, 0.9)))
    if r.random() < 0.45:
        second = hsv(hue + r.choice((0.08, 0.5, -0.1)), sat, min(val * 1.15, 1.0))
        x, y = r.uniform(30, WIDTH - 30), r.uniform(30, floor)
        disc(image, x, y, r.uniform(30, 70), r.uniform(30, 70), mix(wall, second, 0.6))
    if r.random() < 0.4:
        for _ in range(r.randrange(4, 12)):  # lights out of focus
            radius, x, y = r.uniform(3, 12), r.uniform(0, WIDTH), r.uniform(0, floor)
            tone = mix(wall, hsv(r.random(), 0.4, 1.0), r.uniform(0.1, 0.5))
            disc(image, x, y, radius, radius, tone)


_BACKGROUNDS = (_room, _room, _room, _park, _park, _street, _street, _beach, _studio, _studio)


# --- clutter --------------------------------------------------------------------------------------------


def _clutter(image: np.ndarray, r: Random, floor: int) -> None:
    """Rods jointed like arms and legs, poles, ropes and balls, in the colours of skin and cloth."""
    for _ in range(r.choice((0, 1, 1, 2, 2, 3, 4))):
        colour = r.choice(SKINS if r.random() < 0.4 else CLOTHES)
        what, x, base = r.random(), r.uniform(0, WIDTH), floor + r.uniform(0, 0.6) * (HEIGHT - floor)
        if what < 0.35:  # two jointed rods
            y, length, width = r.uniform(20, base), r.uniform(14, 34), r.uniform(4, 10)
            a = r.uniform(0, 6.283)
            b = a + r.uniform(-1.4, 1.4)
            mx, my = x + length * np.cos(a), y + length * np.sin(a)
            end_x, end_y = mx + 0.9 * length * np.cos(b), my + 0.9 * length * np.sin(b)
            rod(image, mx, my, end_x, end_y, colour, width=0.8 * width)
            rod(image, x, y, mx, my, r.choice((colour, r.choice(CLOTHES))), width=width)
        elif what < 0.55:  # leaning pole
            tip, top = x + r.uniform(-30, 30), base - r.uniform(50, 110)
            rod(image, x, base, tip, top, colour, width=r.uniform(2, 7))
        elif what < 0.68:  # hanging rope
            rod(image, x, 0, x + r.uniform(-4, 4), r.uniform(30, 100), colour, width=r.uniform(1.5, 3.5))
        elif what < 0.86:  # ball or balloon
            radius = r.uniform(5, 11)
            if r.random() < 0.5:
                ball(image, x, base - radius, radius, colour)
            else:
                y = r.uniform(10, 70)
                line(image, x, y, x + r.uniform(-6, 6), y + r.uniform(25, 50), (120.0, 118.0, 115.0), width=1)
                ball(image, x, y, radius, colour)
        else:  # coat stand: a thin body with a coat and a hat
            rod(image, x, base, x, base - 92, shade(r.choice(CLOTHES), 0.5), width=3)
            rod(image, x - 7, base - 78, x - 8, base - 40, colour, width=9)
            ball(image, x, base - 96, 6, r.choice(CLOTHES))


def paint_background(r: Random, horizon: float, floor: int) -> np.ndarray:
    """A random background whose ground begins at row ``floor``, below the ``horizon`` row (px)."""
    image = np.empty((HEIGHT, WIDTH, 3), dtype=np.uint8)
    r.choice(_BACKGROUNDS)(image, r, floor, horizon)
    _clutter(image, r, floor)
    if r.random() < 0.55:  # depth of field: the people are in focus
        size = r.choice((3, 3, 5))
        image = cv2.GaussianBlur(image, (size, size), 0)
    return image


def paint_seat(image: np.ndarray, r: Random, *, x: float, top: float, base: float, width: float) -> None:
    """Draw a stool: ``x`` is its centre, ``top`` and ``base`` its rows, in px."""
    colour = shade(r.choice(CLOTHES), 0.8)
    if r.random() < 0.5:
        rect(image, x - width / 2, top, x + width / 2, base, shade(colour, 0.75))
        rect(image, x - width / 2, top, x + width / 2, top + 3, colour)
    else:
        for dx in (-0.42, 0.42):
            rod(image, x + dx * width, top, x + 1.15 * dx * width, base, shade(colour, 0.7), width=3)
        rect(image, x - width / 2, top - 1, x + width / 2, top + 3, colour)
