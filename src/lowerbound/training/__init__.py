"""From raw rows to a trained model.

- fit: read, code, split, build, train, refit the prior, calibrate
- units: durations and shares as people write them
- plan: everything that is chosen for one fit, and the presets
- split: training, validation and calibration rows
- objective: the settings of the objective, and the objective that they make
- second_stage: train the prior of a model of codes, all else frozen
- refit_prior: fit the prior once more to the encoder that was learned
- calibrate: scores and health of held-out rows
- tune: search for settings
- engine/: the fit loop, checkpoints, run folder, processes, machine
"""
