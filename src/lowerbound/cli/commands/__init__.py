"""The commands: signature and help text of each; none imports torch.

- fit, tune: learn a model
- score, embed, reconstruct: one result for each given row
- sample, impute: draw rows, fill in missing values
- evaluate, plot, export: measure, draw and export a model
- restore: denoise, upscale, inpaint and segment pictures
- inspect: inspect data; info and verify a model
- error: describe error codes
- doctor: the health of this computer or of a model
- demo: the whole way on a real table
"""
