"""Reading and writing: files and containers to tables, matrices and images, and back.

- read, paths, modality: from a path to what it holds
- data, stream: the types of data, whole or part by part
- containers, dataframes, frame_types, arrays, anndata, torch_datasets: what is given in memory
- genes: the genes of cells to model
- parquet, ipc, shards, datasets, array_files, idx, zarr, hdf5: file formats
- text/: CSV and TSV
- pictures/: picture files and folders
- write, write_folder, publish, formats: output, all or nothing
- memory, allocators, scratch, shares, parallel: limits, scratch files, processors
"""
