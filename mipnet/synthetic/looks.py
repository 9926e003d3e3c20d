"""Random appearances: colours, clothes, hair and faces, as plain data."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple

RGB = tuple[float, float, float]
# Centre relative to the skull's, half-axes; metres.
Ellipsoid = tuple[float, float, float, float, float, float]


def _hex(codes: str) -> tuple[RGB, ...]:
    return tuple((float(r), float(g), float(b)) for r, g, b in map(bytes.fromhex, codes.split()))


SKINS = _hex("f6d3bd efc3a4 e3b08c d69f78 c08560 a26a45 835334 623c27 4c2f20")
HAIRS = _hex("1d1715 2b1d16 3f2a1c 5c3a22 7d4f2a a8763e d1a75e e3c98b 8a3b1f 9a9591 d9d6d0")
CLOTHES = _hex(
    "f4f1ea e9e4d8 2b2d33 1f2a44 34507a 5b83b1 9dbcd4 7d1f2d b23a3a d9694a e8a13c f0cf6b 2f5d46 "
    "5e8c61 9db58a 4a4f57 7b8088 b3b6b8 6b4a7d a487b8 c9738f e7b3bd 3a8f93 6fc0b8 dd5f7a 255f9e"
)
TROUSERS = _hex(
    "26304a 33456b 4a6490 6f8bb0 2a2a2e 3f4247 5c5f63 8f8a80 b9aa8b d8ccb4 6b5138 4c5340 7a2f35 e6e3dc"
)
SHOES = _hex("1e1c1c 3b2a20 6b4327 efefef d4d4d8 b33434 2d4f8e 7a7f86 e0b04a 38705a")
IRISES = _hex("2a1a12 3b2416 4a2f1b 4f6f8f 4d6b4a 20160f")


@dataclass(frozen=True)
class Cloth:
    """A surface: ``base``, patterned with ``alt``; below height ``cut`` on the part (metres) it is ``under``.

    ``stripes`` and ``columns`` are cycles per metre across and along the part (0: none); ``duty`` their
    share.
    """

    base: RGB
    alt: RGB
    stripes: float = 0.0
    columns: float = 0.0
    duty: float = 0.0
    under: RGB = (0.0, 0.0, 0.0)
    cut: float = -9.0


@dataclass(frozen=True)
class Face:
    skin: RGB
    hair: RGB
    iris: RGB
    lips: RGB
    hairline: float
    fringe: float  # -1 to 1: the parting leans to one side
    smile: float
    beard: bool
    moustache: bool
    glasses: bool


class Top(NamedTuple):
    """What is worn above the waist; ``sleeve`` in 0 to 1 is the drawn sleeve length."""

    shirt: Cloth
    jacket: RGB | None  # what an open jacket shows
    sleeve: float
    upper_arm: Cloth
    forearm: Cloth


class Bottom(NamedTuple):
    """What is worn below the waist."""

    pelvis: Cloth
    skirt: tuple[float, float] | None  # length and flare
    skirt_cloth: Cloth
    thigh: Cloth
    shin: Cloth
    shoe: Cloth


@dataclass(frozen=True)
class Look:
    """A person's appearance; lengths in metres are added to the body's."""

    face: Face
    hair: tuple[Ellipsoid, ...]
    hair_colours: tuple[RGB, ...]
    ears: bool
    top: Top
    bottom: Bottom
    pack: RGB | None
    neckline: float  # depth of the V, 0 for a round neck
    zip_line: bool
    emblem: RGB | None
    loose: float
    cuff: float
    trouser: float
    hem: float
    calf: bool


def hsv(h: float, s: float, v: float) -> RGB:
    red, green, blue = colorsys.hsv_to_rgb(h % 1.0, s, v)
    return 255 * red, 255 * green, 255 * blue


def _bright(r: Random) -> RGB:
    return hsv(r.random(), r.uniform(0.35, 0.75), r.uniform(0.45, 0.92))


def _garment(r: Random, palette: tuple[RGB, ...], unlike: RGB = (-255.0, -255.0, -255.0)) -> RGB:
    """A colour of cloth, well apart from ``unlike`` (the skin, or another garment)."""
    while True:
        colour = _bright(r) if r.random() < 0.22 else shade(r.choice(palette), r.uniform(0.92, 1.08))
        if _distance(colour, unlike) > 110.0:
            return colour


def _distance(a: RGB, b: RGB) -> float:
    return abs(a[0] - b[0]) + abs(a[1] - b[1]) + abs(a[2] - b[2])


def shade(colour: RGB, factor: float) -> RGB:
    return min(colour[0] * factor, 255.0), min(colour[1] * factor, 255.0), min(colour[2] * factor, 255.0)


_BALD = 9.0  # a hairline beyond the crown
_SHORT: Ellipsoid = (0, 0.022, -0.016, 0.0985, 0.117, 0.106)
_STYLES: dict[str, tuple[Ellipsoid, ...]] = {
    "short": (_SHORT,),
    "full": ((0, 0.03, -0.016, 0.105, 0.122, 0.112),),
    "bob": (_SHORT, (0, -0.045, -0.036, 0.104, 0.105, 0.078)),
    "long": (_SHORT, (0, -0.125, -0.062, 0.1, 0.175, 0.052)),
    "ponytail": (_SHORT, (0, -0.015, -0.145, 0.03, 0.1, 0.036)),
    "bun": (_SHORT, (0, 0.115, -0.085, 0.047, 0.045, 0.045)),
    "afro": ((0, 0.042, -0.034, 0.142, 0.136, 0.129),),
    "quiff": (_SHORT, (0, 0.1, 0.03, 0.062, 0.034, 0.055)),
    "bald": (),
    "cap": ((0, 0.04, -0.006, 0.101, 0.104, 0.113), (0, 0.062, 0.105, 0.07, 0.012, 0.07)),
    "beanie": ((0, 0.052, -0.012, 0.104, 0.108, 0.112),),
    "scarf": ((0, 0.012, -0.026, 0.108, 0.138, 0.108), (0, -0.13, -0.026, 0.1, 0.085, 0.088)),
}
_FEMININE = (*["long"] * 3, *["bob"] * 2, *["ponytail"] * 2, "bun", "short", "afro", "cap", "scarf", "beanie")
_MASCULINE = (*["short"] * 3, *["full"] * 2, *["quiff"] * 2, "bald", "afro", "cap", "beanie", "long", "bun")


def _patterned(r: Random, base: RGB, alt: RGB) -> Cloth:
    kind = r.random()
    if kind < 0.50:
        return Cloth(base, alt)
    if kind < 0.76:
        return Cloth(base, alt, stripes=r.uniform(7, 18), duty=r.uniform(0.3, 0.55))
    if kind < 0.84:
        return Cloth(base, alt, columns=r.uniform(12, 24), duty=r.uniform(0.2, 0.4))
    n = r.uniform(8, 14)
    return Cloth(base, alt, stripes=n, columns=n, duty=0.45)


def _head(r: Random, skin: RGB, feminine: bool) -> tuple[Face, str, tuple[RGB, ...]]:
    """The face, the hair style, and the colours of its tufts."""
    dark = skin[0] < 150
    hair = r.choice(HAIRS[:3] if dark and r.random() < 0.9 else HAIRS)
    if r.random() < 0.03:
        hair = _bright(r)
    style = r.choice(_FEMININE if feminine else _MASCULINE)
    hat = _garment(r, CLOTHES)
    worn = hat if style in ("cap", "beanie", "scarf") else hair
    red = (0.88, 0.45, 0.50) if feminine else (0.86, 0.62, 0.62)
    face = Face(
        skin=skin,
        hair=hair,
        iris=r.choice(IRISES[:3] if dark else IRISES),
        lips=(skin[0] * red[0], skin[1] * red[1], skin[2] * red[2]),
        hairline=_BALD if style == "bald" else r.uniform(0.5, 0.66),
        fringe=r.uniform(-1, 1),
        smile=r.uniform(0.1, 1.5),
        beard=not feminine and r.random() < 0.28,
        moustache=not feminine and r.random() < 0.12,
        glasses=r.random() < 0.13,
    )
    return face, style, (worn, shade(worn, 0.8) if style == "cap" else worn)


def _random_top(r: Random, skin: RGB) -> Top:
    colour = _garment(r, CLOTHES, skin)
    shirt = _patterned(r, colour, _garment(r, CLOTHES, colour))
    jacket = shirt.alt if not shirt.duty and r.random() < 0.28 else None
    sleeve = 1.0 if jacket else r.random()
    upper_arm, forearm = shirt, replace(shirt, under=skin, cut=0.012)
    if sleeve < 0.55:  # none or short
        cut = r.uniform(0.2, 0.26) if sleeve < 0.12 else r.uniform(0.08, 0.17)
        upper_arm = replace(shirt, under=skin, cut=cut)
        forearm = Cloth(skin, skin)
    elif sleeve < 0.65:  # rolled up
        forearm = replace(forearm, cut=r.uniform(0.1, 0.2))
    return Top(shirt, jacket, sleeve, upper_arm, forearm)


def _random_bottom(r: Random, skin: RGB, shirt: Cloth, feminine: bool) -> Bottom:
    colour = _garment(r, TROUSERS, skin)
    shoe_colour = r.choice(SHOES)
    sole = (236.0, 234.0, 228.0) if r.random() < 0.5 else shade(shoe_colour, 0.6)
    sock = r.choice((skin, (235.0, 235.0, 235.0), shade(shoe_colour, 0.8)))
    shin = Cloth(skin, skin, under=sock, cut=r.uniform(0.0, 0.1))
    skirt: tuple[float, float] | None = None
    kind = r.random()
    dress = feminine and kind < 0.17
    if feminine and kind < 0.34:
        skirt = (r.uniform(0.22, 0.46), r.uniform(0.02, 0.09))
        legs, tights = skin, shade(colour, 0.5)
        if r.random() < 0.3:
            legs, shin = tights, Cloth(tights, tights)
        # The thigh has the skirt's colour over its length, because a thigh pierces the skirt in a long step.
        thigh = Cloth(shirt.base if dress else colour, shirt.base, under=legs, cut=0.44 - skirt[0])
    elif kind < 0.56:  # shorts
        thigh = Cloth(colour, colour, under=skin, cut=r.uniform(0.03, 0.22))
    else:
        thigh = Cloth(colour, colour)
        shin = Cloth(colour, colour, under=shade(colour, 0.85), cut=0.02)
        if r.random() < 0.12:
            shin = Cloth(colour, colour, under=skin, cut=r.uniform(0.08, 0.16))
    tail = 0.08 if r.random() < 0.35 else r.uniform(-0.06, 0.02)  # tucked in or hanging out
    if dress:
        pelvis = skirt_cloth = shirt
    else:
        pelvis = replace(shirt, under=colour, cut=tail)
        skirt_cloth = Cloth(colour, shade(colour, 0.88), columns=18.0, duty=0.35)
    return Bottom(pelvis, skirt, skirt_cloth, thigh, shin, Cloth(shoe_colour, sole))


def random_look(r: Random, feminine: bool) -> Look:
    """Draw a person's appearance; the order of the draws is part of the renderer's version."""
    skin = shade(r.choice(SKINS), r.uniform(0.95, 1.04))
    face, style, hair_colours = _head(r, skin, feminine)
    top = _random_top(r, skin)
    bottom = _random_bottom(r, skin, top.shirt, feminine)
    bare_shins = bottom.shin.base == skin
    return Look(
        face=face,
        hair=_STYLES[style],
        hair_colours=hair_colours,
        ears=style not in ("scarf", "bob", "afro"),
        top=top,
        bottom=bottom,
        pack=_garment(r, CLOTHES) if r.random() < 0.09 else None,
        neckline=r.choice((0.0, 0.0, 0.05, 0.1)),
        zip_line=r.random() < 0.3,
        emblem=_garment(r, CLOTHES) if not top.shirt.duty and r.random() < 0.3 else None,
        loose=r.uniform(0.004, 0.016) + (0.006 if top.jacket else 0.0),
        cuff=0.0 if top.sleeve < 0.65 else r.uniform(0.006, 0.014),
        trouser=0.002 if bare_shins else r.uniform(0.003, 0.016),
        hem=0.0 if bare_shins else r.uniform(0.004, 0.024),
        calf=bare_shins,
    )
