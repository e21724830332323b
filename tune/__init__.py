"""The platform around the method: search with Ray Tune and Optuna, training with Ray Train, runs in MLflow."""
