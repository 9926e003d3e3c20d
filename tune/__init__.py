"""Search for N, the places of the MIMBs and what goes with them: ``python tune/search.py``.

Each trial is a run of ``mipnet train`` in a folder of the search's own; what lies there is all that a search
knows, so a search that was cut off goes on from it. What costs no training (spaces, rungs, ranking, reports)
knows neither Ray nor MLflow.
"""
