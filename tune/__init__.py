"""Search over N, the MIMB stages, r, learning rate, γ and NMS threshold: ``python tune/search.py``.

Each trial is a run of ``mipnet train`` in the search's folder. Those folders are the whole state of a search,
so the same command continues one that was killed. Only study, driver and trainable import Ray and MLflow.
"""
