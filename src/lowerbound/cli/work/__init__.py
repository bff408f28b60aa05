"""The work of the commands in `lowerbound.cli.commands`, by file name; imports torch.

- fit, score, reconstruct, plot, report, explore, restore, autoencode, inspect, doctor, check,
  export, serve: the work of these commands
- plot_rows: plots of a model and rows, by matplotlib
- ray, cluster: jobs on a Ray cluster, and the commands that use them
- drawing, overlay, heatmaps: grids of pictures, and heat maps over them
"""
