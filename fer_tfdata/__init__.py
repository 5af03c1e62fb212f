"""Facial expression recognition on TensorFlow, from the Kaggle CSV to predictions."""

import os
import sys

__version__ = "0.1.0"

# On x86 processors without VNNI, TensorFlow leaves oneDNN's kernels alone unless it is told
# otherwise before it is imported; there, too, they train faster (docs/models.md has how much).
# Whoever has set the variable, or has imported TensorFlow already, has chosen.
if os.uname().machine == "x86_64" and "tensorflow" not in sys.modules:
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
