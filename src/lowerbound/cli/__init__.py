"""The command line: one command per verb, flags read from the functions' signatures.

- main: the process: signals, common flags, exit codes
- verbs: the table of commands
- parser: one command from words to output; help
- commands/: signature and help text of each command; import no torch
- work/: what the commands do
- flags, cluster_flags, parsing, plans, choose_recipe: from words to values
- models: load a model, make a table from rows part by part
- inputs, outputs, places: data in, files out
- annotations: which annotations of cells look like batches, labels or covariates
- result, printing, progress, complaints: what is shown
- streams, visible: streams that are closed or full; control characters
"""
