-- Run once, when the database server is new: MLflow has a database of its own beside Prefect's.
CREATE DATABASE mlflow;
