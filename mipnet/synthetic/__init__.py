"""The generated benchmark: scenes of overlapping people, drawn from nothing, with exact annotations."""

from __future__ import annotations

from mipnet.synthetic.detector_boxes import detector_boxes
from mipnet.synthetic.scene import render_scene
from mipnet.synthetic.schema import DIFFICULTIES, Scene, ScenePerson

__all__ = ["DIFFICULTIES", "Scene", "ScenePerson", "detector_boxes", "render_scene"]
