"""Pictures of poses, contact sheets, plots and the HTML report of a run. No Ray, no MLflow."""
