"""Distributions, and the families that turn a network's output into them.

- base: operations of the trace, dispatched on the type of distribution; joint distributions
- families: Gaussian, Student, Laplace, Bernoulli and others; `Conditional`
- level_trees: a categorical column of thousands of levels
- table_rows: rows of mixed columns, missing values, counts with a library size
- chains: rows column by column, each column given any of the others
- gaussian_conditionals: the conditionals of one Gaussian, given any subset of its columns
- learned_library: counts whose library size is integrated out
- labelled: rows with a label that is known for some of them
- counts, zero_counts: Poisson, negative binomial and their zero-inflated forms
- grey_levels, pixels: pixels of 8 bits and shares from 0 to 1
- codewords: vectors of a codebook
- scales: positive and bounded numbers from unbounded ones
"""
