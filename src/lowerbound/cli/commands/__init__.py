"""The commands: signature and help text of each; none imports torch.

- fit, tune: learn a model
- score: score, embed and reconstruct rows
- sample: draw rows (sample) and fill missing values (impute)
- evaluate, plot, export: measure, draw and export a model
- restore: denoise, upscale, inpaint and segment pictures
- inspect: inspect data; info, verify and error codes
- doctor: the health of this computer or of a model
- demo: the whole way on a real table
"""
