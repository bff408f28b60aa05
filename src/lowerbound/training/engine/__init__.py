"""The fit loop, and everything that lets it survive a kill and use the machine.

- loop: batches, steps, checks on held-out rows, early stopping, commits
- settings: when to stop (Budget) and how to step (Optimiser)
- history: the checks of a fit
- checkpoints, run_folder: the state of a fit on disk
- interrupts: Ctrl-C and SIGTERM wait until a step is complete
- engine: precision, threads and kernels of a fit
- flat, kernels: one flat parameter tensor; linear layers through oneDNN
- machine: what this machine can do, measured once
- processes: processes that train one model together
"""
