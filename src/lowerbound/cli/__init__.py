"""The command line: one command per verb, flags read from the functions' signatures.

- main: the process: signals, common flags, exit codes
- verbs: the table of commands
- parser: one command from words to output; help
- commands/: signature and help text of each command; import no torch
- work/: what the commands do
- flags, parsing, plans, choose_recipe: from words to values
- inputs, outputs, places: data in, files out
- result, printing, progress, complaints: what is shown
"""
