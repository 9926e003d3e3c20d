"""The model registry: versions of a registered model, the alias champion, and the rule for promotion.

Versions and aliases are MLflow's. The history of champions is a tag of the registered model; the last
decision about a version is in its tags, all decisions are artifacts of its run.
"""
