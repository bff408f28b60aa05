"""Networks: modules that know nothing of probability.

- mlp: fully connected networks and readers of rows
- seen_values: a reader of any subset of the columns of a row
- convolutions: convolutional networks for pictures of any size
- residual_cells: the residual cells of NVAE
- pixelcnn: a gated PixelCNN over grids of codes
- unet: fully convolutional networks for restoration
"""
