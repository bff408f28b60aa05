"""Export to ONNX: of a table model, one file that scores raw values without torch.

- graph: build the file, and check it before it is written
- scorer: the module that is exported: raw values to score, p-value and alarm
- columns, inputs: the coding of a table's columns as torch modules, and their input
- operators: exact or faster ONNX translations of single torch operators
- pictures: the encoder and the decoder of an autoencoder of pictures
- checking: comparison of the graph's results with those of the model
"""

SAMPLES = 16  # quasi-random draws per row, about as accurate as 32 independent draws of a score
