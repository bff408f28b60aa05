"""Pages about a model, for a browser. They work offline, and know a model by its public methods.

- report/: one page about a model and rows, to read, print or send
"""
