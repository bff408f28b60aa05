"""Picture files.

- image_file: one picture file: its size, its pixels, writing
- folders: the files of a folder, and all of their pixels within bounded memory
- source: picture files as one array
- options: size and channels of pictures that are read
- bad_files: unreadable files, and how many may be left out
- columns: pictures inside tables
- ranges: the range of pixel values
- quiet: Pillow's warnings
"""
