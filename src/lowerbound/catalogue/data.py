"""E0xx: input data that cannot be used as it is."""

DATA: dict[str, tuple[str, str]] = {
    "E001": (
        "there is no file at this path",
        "Nothing exists under this name. The message names the entry of the same folder whose "
        "name is nearest. A path is read from the current folder unless it begins with /.",
    ),
    "E002": (
        "this is not a plain file",
        "Pipes, devices and sockets have no size and may block or never end, so they are refused "
        "before they are opened. Write the data to a file first.",
    ),
    "E003": (
        "the file cannot be opened",
        "The system refused: permissions, a loop of links, a name that is too long or contains a "
        "NUL. The message gives the system's reason.",
    ),
    "E004": (
        "the file is empty",
        "It has no bytes, or blank lines only. A download or an export probably failed.",
    ),
    "E005": (
        "this kind of file cannot be read",
        "Tables are read from .csv, .tsv, .txt (also .gz), .parquet, .npy and .npz, told apart by "
        "the suffix and by the first bytes. Pickles are refused because opening one can run code; "
        "save a workbook as CSV.",
    ),
    "E006": (
        "an address was given where a path is needed",
        "Data are read from files only. Download the file and give its path.",
    ),
    "E007": (
        "the pattern or folder contains no table",
        "A pattern must match at least one file and a folder must contain at least one .parquet "
        "or .csv file; names that begin with a dot or an underscore are passed over.",
    ),
    "E008": (
        "the files of the folder do not belong together",
        "All files of one table must be of one kind. Choose them with a pattern such as "
        "'folder/*.parquet'.",
    ),
    "E009": (
        "the file changed or could not be read to its end",
        "It was removed, cut short or replaced while it was being read, or the disk failed.",
    ),
    "E010": (
        "a row has another number of cells than the header",
        "Every line of a CSV file must have as many cells as its first. A separator inside a "
        "value needs quotes around the value. Nothing is dropped silently, so such a file is "
        "refused; the message gives the line and its text.",
    ),
    "E011": (
        "a quotation mark is not closed",
        "A value that begins with a quotation mark goes on to the next one, across lines. Double "
        "the mark inside a value, or remove it.",
    ),
    "E012": (
        "two columns have the same name",
        "Columns are found by name, so each needs its own.",
    ),
    "E013": (
        "the table has no rows",
        "There is a header but no data under it, or every row was filtered away.",
    ),
    "E014": (
        "the file is not text",
        "It contains NUL bytes, or bytes that no supported encoding explains. UTF-8, UTF-16 with "
        "a byte order mark, and Windows-1252 are read; convert others with iconv.",
    ),
    "E015": (
        "a line or a header is too large",
        "Lines of more than 16 MB and tables of more than 100,000 columns are refused, because "
        "they are nearly always a wrong separator or missing line ends, and would exhaust memory.",
    ),
    "E016": (
        "the compressed file is damaged",
        "It is cut short or its checksum does not match. Download or compress it again.",
    ),
    "E017": (
        "the compressed file unpacks to too much",
        "Files that unpack to more than 2 GB, or to more than a hundred times their size, are "
        "refused, because a few kilobytes could otherwise fill the memory. If you trust the "
        "file, unpack it yourself and read the result.",
    ),
    "E018": (
        "numbers are written in an ambiguous way",
        "1,234 is one thousand in some countries and a little more than one in others, and "
        "nothing in the column tells which is meant. Write a point for decimals and no mark for "
        "thousands.",
    ),
    "E019": (
        "the file is no valid CSV",
        "The message gives the parser's reason and the place.",
    ),
    "E020": (
        "the Parquet or Arrow file is damaged",
        "Its footer or one of its pages cannot be decoded: an incomplete download, another kind "
        "of file under this name, or a fault of the disk.",
    ),
    "E021": (
        "the Parquet file is encrypted",
        "Write it without encryption; keys are not accepted.",
    ),
    "E022": (
        "the files of one table have different columns",
        "All shards must have the same column names and types that agree. The message names the "
        "first shard that differs, and in what.",
    ),
    "E023": (
        "a column holds more than one value per cell",
        "Lists, structures, maps and raw bytes are no numbers or levels. Split the column into "
        "plain ones, or leave it out with --drop.",
    ),
    "E024": (
        "a shard is missing",
        "The numbers in the file names have a gap, or one file is still being downloaded, so "
        "rows would be missing without a word. Give a pattern such as 'folder/*.parquet' to read "
        "what is there on purpose.",
    ),
    "E025": (
        "the file of an array or of cells is damaged",
        "Its header and its size do not agree, or it is no .npy or .npz file at all.",
    ),
    "E026": (
        "the array contains Python objects",
        "Such arrays are pickles: opening one can run code, so they are refused. Save numbers or "
        "text instead.",
    ),
    "E027": (
        "the array does not have two dimensions",
        "A table has rows and columns. Reshape your data: array.reshape(-1, 1) makes one column, "
        "array.reshape(len(array), -1) flattens each example to a row. Pictures, (n, height, "
        "width) with or without channels, are for the recipes conv, conv_ladder, nvae, vqvae and "
        "vqvae2.",
    ),
    "E028": (
        "the archive does not say which array is the table",
        "An .npz file is read from the array X, or from its only two-dimensional array, or from "
        "a matrix saved by scipy.sparse.save_npz.",
    ),
    "E029": (
        "a column mixes kinds of values",
        "One column must hold one kind of value. The message names the first cell that differs.",
    ),
    "E030": (
        "a column has infinite values",
        "No density is finite at infinity. Leave such cells empty, which marks them as missing, "
        "or correct them. Numbers beyond 1e308 are read as infinite too.",
    ),
    "E031": (
        "a column that the model needs is missing",
        "The model was fitted on named columns and every one of them must be present; extra "
        "columns are ignored and the order does not matter. If the column has another name, "
        "pass --rename THEIRS=OURS. If it is unknown for every row, add it with empty cells: "
        "the model treats missing cells as missing.",
    ),
    "E032": (
        "a column holds something else than the model expects",
        "Types are converted where nothing is lost: 1.0 to 1, '12' to 12, text to dates. These "
        "cells cannot be. The message names the first of them and how many there are.",
    ),
    "E033": (
        "a column cannot be of the kind it was given",
        "The kind given with --types contradicts the cells, such as binary with three levels or "
        "positive with negative numbers.",
    ),
    "E034": (
        "a column is nearly all numbers",
        "A few cells of it are no numbers, which is usually a mistake in the file. Correct them, "
        "or say with --types that the column is categorical, text or id.",
    ),
    "E035": (
        "a column of counts has other numbers in it",
        "Counts are whole numbers from 0. Normalised or log-transformed counts are none: pass "
        "the raw ones, or give the column the kind real.",
    ),
    "E037": (
        "no column can be modelled",
        "Every column is an id, free text, or constant, or was dropped.",
    ),
    "E038": (
        "the table has too few rows",
        "What columns hold, and how they vary, is learned from the rows.",
    ),
    "E039": (
        "a column has too many levels",
        "More than a million levels cannot be learned from any table of realistic size.",
    ),
    "E040": (
        "the values are of a type that holds no numbers, text or dates",
        "Complex numbers, Python objects and the like must be converted first.",
    ),
    "E041": (
        "dates are written in an ambiguous way",
        "Both day/month and month/day fit every cell. Write dates as 2024-01-31.",
    ),
    "E042": (
        "the sparse matrix is damaged",
        "Its index arrays point outside its shape or are not in order.",
    ),
    "E043": (
        "numbers are too precise for this library",
        "Some values do not fit into 64-bit floating point without loss.",
    ),
    "E080": (
        "the array has another number of columns than the model",
        "The columns of an array are told apart by their place only, so there must be as many as "
        "the model was fitted on. A data frame is matched by names instead.",
    ),
    "E081": (
        "the array is no embedding of this model",
        "inverse_transform takes what transform returns: a row of as many numbers as the model "
        "has latent dimensions.",
    ),
    "E071": (
        "the recipe models numbers only",
        "Every column must be a number for this recipe. The recipe table takes columns of any "
        "kind.",
    ),
    "E072": (
        "no column is left to model",
        "Every column is an id, free text or constant, or was dropped.",
    ),
    "E073": (
        "the values are no counts",
        "This recipe takes whole numbers from 0. Normalised or log-transformed counts are none: "
        "give the raw ones, or take another recipe.",
    ),
    "E074": (
        "training never saw this value",
        "A condition of --where must be one of the levels that the column had when the model was "
        "fitted; `lowerbound info M.vae` lists them.",
    ),
    "E075": (
        "the table has too few rows",
        "A model is learned from at least two rows, and a useful one from hundreds.",
    ),
    "E076": (
        "the pictures are not of the shape that the model takes",
        "Recipes of images take an array of shape (n, height, width) or (n, height, width, "
        "channels), all pictures of one size; a fitted model takes that size only.",
    ),
    "E077": (
        "the pixels are out of range",
        "Pixels are 0 and 1, whole numbers from 0 to 255, or numbers from 0 to 1. Which of them a "
        "model takes depends on its likelihood.",
    ),
    "E078": (
        "a data set could not be downloaded",
        "Only `lowerbound recipe run NAME --download` opens a network connection. There may be "
        "none here, or the address may have moved: the file can be put in its place by hand.",
    ),
    "E082": (
        "there is no picture at this path",
        "A folder of pictures holds PNG, JPEG, WebP, TIFF or BMP files, known by their suffix, "
        "also in sub-folders. Files whose names begin with a dot are passed over.",
    ),
    "E083": (
        "a file cannot be read as a picture",
        "It is cut short, damaged, or of another kind than PNG, JPEG, WebP, TIFF and BMP, "
        "whatever its suffix says. Pixels may have 8 bits, or 16 where the picture is grey.",
    ),
    "E084": (
        "too many pictures cannot be read",
        "Up to 1 % of unreadable files are skipped and named; more of them are a mistake that "
        "should not pass unseen. --on-bad-file skip leaves them out however many there are.",
    ),
    "E085": (
        "a picture is too large",
        "A picture may have 64 million pixels. Its header is compared with this limit before "
        "anything is decoded, because a few kilobytes could otherwise fill the memory.",
    ),
    "E086": (
        "the pictures have several sizes",
        "A model of pictures takes one size. --size 64 scales every picture until its shorter "
        "side fits and cuts a square out of its middle; --size 64x96 gives height and width.",
    ),
    "E087": (
        "pictures and targets do not belong together",
        "Every picture needs a target (a mask, a clean or a larger picture) of the same name in "
        "the same sub-folder; only the suffix may differ.",
    ),
    "E088": (
        "the masks are no masks",
        "A mask has one grey level or colour per class, and at least two of them. JPEG blurs the "
        "borders between colours: masks are saved as PNG.",
    ),
    "E089": (
        "a target has not the size of its picture",
        "A mask or a clean picture has as many pixels as the picture it belongs to; the target "
        "of `upscale` is larger by the model's scale.",
    ),
}
