"""Drawing functions for backgrounds, and the simulated camera.

Images are (HEIGHT, WIDTH, 3) uint8 RGB. Drawing functions take image, coordinates in px and colour by
position, as OpenCV's do.
"""

from __future__ import annotations

from functools import cache
from random import Random

import cv2
import numpy as np

from mipnet.synthetic.looks import RGB, shade
from mipnet.synthetic.raster import HEIGHT, WIDTH

_FRACTION_BITS = 4  # of OpenCV's fixed-point coordinates
_ONE_PIXEL = 1 << _FRACTION_BITS


@cache
def noise_bank() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fixed noise fields, of which scenes use random windows.

    Returns:
        sensor grain (5, 512, 512, 3) int16 with σ = 1 to 5; clouds (512, 512) uint8 around 128; cloth folds
        (512, 512) float32 with mean 0, σ = 1.
    """
    g = np.random.default_rng(20210)
    unit = g.standard_normal((512, 512, 3)).astype(np.float32)
    grain = np.stack([np.rint(unit * level).astype(np.int16) for level in (1.0, 1.6, 2.4, 3.4, 5.0)])
    white = g.standard_normal((512, 512)).astype(np.float32)
    smooth = [cv2.GaussianBlur(white, (0, 0), s) for s in (2.0, 5.0, 14.0)]
    folds = smooth[0] / smooth[0].std() + 0.6 * smooth[1] / smooth[1].std()
    clouds = smooth[2] / smooth[2].std() + 0.5 * smooth[1] / smooth[1].std()
    clouds = np.clip(128 + 60 * clouds / clouds.std(), 0, 255).astype(np.uint8)
    return grain, clouds, folds / folds.std()


def window(bank: np.ndarray, r: Random) -> np.ndarray:
    """A random (HEIGHT, WIDTH) window of a noise field."""
    y, x = r.randrange(bank.shape[0] - HEIGHT), r.randrange(bank.shape[1] - WIDTH)
    return bank[y : y + HEIGHT, x : x + WIDTH]


def folds(r: Random) -> np.ndarray:
    """Brightness gain around 1 of the folds of cloth, (HEIGHT, WIDTH) float32."""
    return 1.0 + np.float32(0.035) * window(noise_bank()[2], r)


def mix(a: RGB, b: RGB, t: float) -> RGB:
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t


def gradient(image: np.ndarray, y0: int, y1: int, top: RGB, bottom: RGB) -> None:
    y0, y1 = max(y0, 0), min(y1, HEIGHT)
    if y1 > y0:
        t = np.linspace(0.0, 1.0, y1 - y0)[:, None]
        shades = np.minimum(np.array(top) * (1 - t) + np.array(bottom) * t, 255.0)
        np.copyto(image[y0:y1], cv2.repeat(shades.astype(np.uint8)[:, None], 1, WIDTH))


def rect(
    image: np.ndarray, x0: float, y0: float, x1: float, y1: float, colour: RGB, *, thickness: int = -1
) -> None:
    cv2.rectangle(image, (int(x0), int(y0)), (int(x1), int(y1)), colour, thickness)


def _fixed(x: float, y: float) -> tuple[int, int]:
    """OpenCV's fixed-point coordinates."""
    return int(x * _ONE_PIXEL), int(y * _ONE_PIXEL)


def disc(
    image: np.ndarray, x: float, y: float, rx: float, ry: float, colour: RGB, *, angle: float = 0.0
) -> None:
    centre, half_axes = _fixed(x, y), _fixed(rx, ry)
    cv2.ellipse(image, centre, half_axes, angle, 0, 360, colour, -1, cv2.LINE_AA, _FRACTION_BITS)


def line(image: np.ndarray, x0: float, y0: float, x1: float, y1: float, colour: RGB, *, width: float) -> None:
    cv2.line(image, _fixed(x0, y0), _fixed(x1, y1), colour, max(1, round(width)), cv2.LINE_AA, _FRACTION_BITS)


def rod(image: np.ndarray, x0: float, y0: float, x1: float, y1: float, colour: RGB, *, width: float) -> None:
    """A shaded round bar that resembles a limb."""
    line(image, x0, y0, x1, y1, shade(colour, 0.62), width=width)
    if width > 2:
        off = 0.14 * width
        line(image, x0 - off, y0 - off, x1 - off, y1 - off, colour, width=0.62 * width)
    if width > 5:
        off = 0.24 * width
        line(image, x0 - off, y0 - off, x1 - off, y1 - off, shade(colour, 1.15), width=0.25 * width)


def ball(image: np.ndarray, x: float, y: float, radius: float, colour: RGB) -> None:
    disc(image, x, y, radius, radius, shade(colour, 0.62))
    disc(image, x - 0.1 * radius, y - 0.12 * radius, 0.82 * radius, 0.82 * radius, colour)
    disc(image, x - 0.3 * radius, y - 0.35 * radius, 0.35 * radius, 0.35 * radius, shade(colour, 1.18))


def cast_shadows(image: np.ndarray, spots: list[tuple[float, float, float, float]], strength: float) -> None:
    """Darken the ground under soft ellipses (x, y, half width, half height) in px, in place."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for x, y, rx, ry in spots:
        disc(mask, x, y, rx, ry, (255.0, 0.0, 0.0))
    mask = cv2.blur(mask, (7, 5))
    keep = cv2.convertScaleAbs(mask, alpha=-strength, beta=255.0)
    np.copyto(image, cv2.multiply(image, cv2.merge((keep, keep, keep)), scale=1 / 255.0))


@cache
def _vignette() -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    gain = 255.0 - 48.0 * np.clip(x * x + y * y - 0.35, 0.0, 2.0) / 1.65
    return np.repeat(gain[:, :, None], 3, axis=2).astype(np.uint8)


def develop(image: np.ndarray, r: Random) -> np.ndarray:
    """Simulate the camera: exposure, colour cast, grain, sometimes blur or vignette."""
    contrast, warmth = r.uniform(0.88, 1.1), r.uniform(-5, 6)
    image = cv2.convertScaleAbs(image, alpha=contrast)
    lift = r.uniform(-12, 10) + 128 * (1 - contrast)
    image = cv2.add(image, (lift + warmth, lift, lift - warmth, 0.0))
    if r.random() < 0.12:
        image = cv2.GaussianBlur(image, (3, 3), 0.6)
    if r.random() < 0.35:
        image = cv2.multiply(image, _vignette(), scale=1 / 255.0)
    noise = noise_bank()[0][r.randrange(5)]
    y, x = r.randrange(352), r.randrange(320)
    noisy: np.ndarray = cv2.add(image, noise[y : y + HEIGHT, x : x + WIDTH], dtype=cv2.CV_8U)
    return noisy
