"""Train models on raw data.

- fit: read, code, split, build, train, refit the prior, calibrate
- callbacks: functions that are called after every check, and may end the fit
- tracking: record a fit by TensorBoard or MLflow
- units: parse and spell durations ("10m"), parse shares ("0.1%")
- plan: the options of a fit, and the presets
- after_training: cost and extent of the work after training, under a time limit
- forecast: what a fit says about its time when it begins
- split: training, validation and calibration rows
- start: start a fit from the weights of another model
- objective: check the settings of the objective and build it
- adapt: learn new batches of a model of counts, all else frozen
- second_stage: train the prior of a model of codes with everything else frozen
- proposal_stage: whether and how a proposal for importance sampling is fitted
- row_stage: measure and train the chain of columns of a table
- relations: find numbers that follow from others on all rows
- gaussian_rows: fit a Gaussian to rows with gaps
- refit_prior: refit the prior to the trained encoder
- calibrate: calibrate scores and check the model on held-out rows
- tune: search for settings
- notebook_bar: the progress bar of a fit in a notebook
- engine/: the fit loop, checkpoints, run folder, processes, machine
"""
