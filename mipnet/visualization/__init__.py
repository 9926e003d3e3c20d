"""One page about a run: figures, curves and pictures in a single HTML file. No Ray and no MLflow in here."""
