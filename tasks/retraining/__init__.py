"""What a whole retraining tells: its summary, its costs, why it failed."""
