"""What a trained model is used for.

- trained, state: the trained model and its plain state
- draws: embed, reconstruct, sample, impute and explain coded rows
- measures, scoring, typicality, calibration: anomaly scores, p-values and thresholds
- explain: the columns that make a row's score high
- evaluate, metrics: estimates of log p(x)
- doctor, latent_use: the health of a model
- restore, restore_picture: denoise, upscale, inpaint and segment pictures
- objective_settings: the settings of the objective, in words; needs no torch
- gallery, cards: pictures of a model; its card
- onnx/: export of the score
"""
