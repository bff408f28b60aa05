"""What the commands do, file by file as in `lowerbound.cli.commands`; imports torch.

- fit, score, plot, restore, inspect, doctor: the work of the commands of these names
- ray, cluster: jobs on a Ray cluster, and the commands that run there
- drawing, overlay, heatmaps: grids of pictures, and heat maps over them
"""
