"""Facial expression recognition on TensorFlow, from the Kaggle CSV to predictions."""

__version__ = "0.1.0"
