"""Codings: convert tables, counts and images to tensors for a model, and back.

- rows: rows that batches are taken from
- base: coded rows, and the raw column that each number belongs to
- tables, counts, pictures, pairs: the coding of each shape of data
- context: what rows of counts are conditional on: batches and numbers
- crops, augmentations, degradations: crops, random changes, damage to undo
- pixel_rows, stored, stored_sparse: rows kept as bytes, or in scratch files
- large: tables larger than memory
- filling: missing values from a model, back in the table
"""
