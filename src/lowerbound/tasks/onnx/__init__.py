"""A trained table model as one ONNX file: raw cells in, anomaly score out, without torch.

- graph: write the file, and check it before it is kept
- scorer: the module that is exported: raw values to score, p-value and alarm
- columns, inputs: the coding of a table's columns as torch modules; the numbers that they take
- operators: exact or faster ONNX translations of single torch operators
- checking: comparison of the graph's results with those of the model
"""

SAMPLES = 16  # draws per row: together about as exact as the 32 independent ones of a score
