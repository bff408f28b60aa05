"""The work of the commands in `lowerbound.cli.commands`, by file name; imports torch.

- fit, score, reconstruct, plot, report, explore: the work of these commands
- restore, autoencode, inspect, doctor, check, export, serve: of these, too
- plot_rows: plots of a model and rows, by matplotlib
- ray, cluster: jobs on a Ray cluster, and the commands that use them
- drawing, overlay, heatmaps: grids of pictures, and heat maps over them
"""
