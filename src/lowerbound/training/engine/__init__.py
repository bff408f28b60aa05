"""Run the training loop, save its state, and choose how to use the machine.

- loop: batches, steps, checks on held-out rows, early stopping, commits
- settings: `Budget` (when to stop) and `Optimiser` (learning rate, batch size, clipping)
- time_limit: the time that a fit may take and has used
- history: the checks of a fit
- checkpoints, run_folder: the state of a fit on disk
- interrupts: delay Ctrl-C and SIGTERM until a step is complete
- engine: threads, kernels, layout and precision of a fit
- graphs, compiled, jax_operations: record a step as a graph; many steps as one compiled program
- flat, kernels: one flat parameter tensor; linear layers by oneDNN
- machine: kernel timings of this machine, measured once
- processes: training of one model by several processes
"""
