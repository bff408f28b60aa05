"""Uses of a trained model.

- trained, state: the trained model, and the data class that holds its state
- contents, building: checks of a saved model's documents; its network, built from them
- finite: the check that results are numbers
- draws: embed, reconstruct, sample, impute and explain coded rows
- conditioning, hamiltonian: draws given some values; the move of their Markov chains
- measures, scoring, typicality, calibration: anomaly scores, p-values and thresholds
- drift, check: tests of new rows against held-out ones; the gate of a pipeline
- few_rows: passes of few rows whose scores have the same bits as in passes of many
- explain: the columns that make a row's score high
- counterfactual: the nearest usual row of an unusual one
- expression, differential, predictive_checks: rates of counts, the genes that differ between
  groups of cells, and whether drawn counts are like the real ones
- labels: labels of cells from their labelled neighbours
- evaluate, metrics: estimates of log p(x)
- completion: fill gaps, by the VAE, its chain of columns, or both
- rules: the dependencies that drawn and filled rows keep, in words
- coverage: whether hidden values are where they are expected
- latent_meaning: the columns that move with each latent
- some_rows: a random sample of rows and their places
- crps: how close draws are to the values that came
- compare, compare_report: measures of drawn rows against real ones; the report on a model
- parts: rows in parts that the processors work on side by side
- proposals: draws of z for importance sampling
- doctor, latent_use: diagnosis of a model
- restore, restore_picture: denoise, upscale, inpaint and segment pictures
- autoencode: pictures of any size as maps of latents, and back
- before_after: pictures before and after these, with a detail and the uncertainty
- objective_settings: the settings of the objective and their descriptions; needs no torch
- plots, notebook: a model and rows as matplotlib axes; models and results in notebooks
- gallery, cards: pictures of a picture model; the model card
- onnx/: export of the score to ONNX
"""
