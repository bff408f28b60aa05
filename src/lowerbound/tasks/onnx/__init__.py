"""A trained table model as one ONNX file: raw cells in, anomaly score out, without torch."""

SAMPLES = 16  # draws per row: together about as exact as the 32 independent ones of a score
