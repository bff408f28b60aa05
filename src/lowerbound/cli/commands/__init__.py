"""Signatures and help texts of the commands, without torch.

- fit, tune: train a model, search for its settings
- score, embed, reconstruct: one result for each given row
- differential, label: genes that differ between cells, labels of cells
- sample, impute: draw rows, fill in missing values
- evaluate, compare, plot, export: measure a model and its draws, draw and export it
- serve: answer requests over HTTP
- report: one page about a model and rows
- explore: a page on this machine to look at a model and rows
- restore: denoise, upscale, inpaint and segment pictures
- autoencode: encode pictures as maps of latents, and decode these
- inspect: inspect, info and verify, for data and for models
- error: describe error codes
- doctor: check this computer or a model
- check: a gate for pipelines
- demo: all steps on a real table
"""
