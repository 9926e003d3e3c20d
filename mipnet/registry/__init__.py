"""The model registry: versions of a registered model, which of them is champion, and by which rule.

Versions are MLflow's own. Who was champion, in which order, is one tag of the registered model; what was
decided of a version, and why, are tags of it and an artifact of its run.
"""
