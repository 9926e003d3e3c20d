"""The generated benchmark: scenes of overlapping people, drawn from nothing, with exact annotations."""

from __future__ import annotations

from mipnet.data.scenes.boxes import detector_boxes
from mipnet.data.scenes.scene import render_scene
from mipnet.data.scenes.schema import DIFFICULTIES, Scene, ScenePerson

__all__ = ["DIFFICULTIES", "Scene", "ScenePerson", "detector_boxes", "render_scene"]
