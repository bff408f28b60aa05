"""The error codes: the text that ``lowerbound error CODE`` prints for each, its cause and fix."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """The title of an error code, and a text on its cause and its fix."""

    title: str
    explanation: str


# E0xx: input data that cannot be used as it is.


DATA: dict[str, tuple[str, str]] = {
    "E001": (
        "there is no file at this path",
        "The message gives the most similar name in the same folder. A path is relative to the "
        "current folder unless it begins with /.",
    ),
    "E002": (
        "the path is not a regular file",
        "Pipes, devices and sockets are never opened, because reading them may block or never "
        "end. Write the data to a file first.",
    ),
    "E003": (
        "the file cannot be opened",
        "The operating system refused to open it: missing permissions, a loop of symbolic links, "
        "a name that is too long or contains NUL. The message gives the system's reason.",
    ),
    "E004": (
        "the file is empty",
        "It has no bytes, or only blank lines. A download or an export probably failed.",
    ),
    "E005": (
        "the file format is not supported",
        "Tables are read from .csv, .tsv, .txt (also .gz), .parquet, .npy and .npz files; the "
        "format is detected from the suffix and the first bytes. Pickles are refused because "
        "opening one can run code. Save a workbook as CSV.",
    ),
    "E006": (
        "a URL was given where a path is needed",
        "Data are read from files only. Download the file and pass its path.",
    ),
    "E007": (
        "the pattern or folder contains no table",
        "A pattern must match at least one file and a folder must contain at least one .parquet "
        "or .csv file. Names that begin with a dot or an underscore are ignored.",
    ),
    "E008": (
        "the folder contains files of different formats",
        "All files of one table must have the same format. Select them with a pattern such as "
        "'folder/*.parquet'.",
    ),
    "E009": (
        "the file changed or could not be read to its end",
        "It was removed, truncated or replaced while it was being read, or the disk failed.",
    ),
    "E010": (
        "a row and the header have different numbers of values",
        "Every line of a CSV file must have as many values as the first line. A value that "
        "contains the separator must be quoted. Lines are never dropped silently: the file is "
        "refused, and the message gives the line and its text.",
    ),
    "E011": (
        "a quotation mark is not closed",
        "A value that begins with a quotation mark continues, across lines if necessary, to the "
        "next quotation mark. Double a quotation mark inside a value, or remove it.",
    ),
    "E012": (
        "two columns have the same name",
        "Columns are matched by name, so every name must be unique.",
    ),
    "E013": (
        "the table has no rows",
        "It has a header but no data, or a filter removed every row.",
    ),
    "E014": (
        "the file is not text",
        "It contains NUL bytes, or bytes that are not valid in any supported encoding. Supported "
        "are UTF-8, UTF-16 with a byte order mark, and Windows-1252; convert others with iconv.",
    ),
    "E015": (
        "a line or a header is too large",
        "Lines of more than 16 MB and tables of more than 100,000 columns are refused: nearly "
        "always the separator is wrong or line ends are missing, and reading them would exhaust "
        "the memory.",
    ),
    "E016": (
        "the compressed file is damaged",
        "It is truncated, or its checksum does not match. Download or compress it again.",
    ),
    "E017": (
        "the compressed file is too large when unpacked",
        "Files that unpack to more than 2 GB, or to more than a hundred times their size, are "
        "refused, because a few kilobytes could otherwise fill the memory. If you trust the "
        "file, unpack it yourself and read the result.",
    ),
    "E018": (
        "numbers are written in an ambiguous way",
        "1,234 means more than a thousand in some countries and a little more than one in others, "
        "and no other value of the column shows which is meant. Write a point for decimals and no "
        "separator for thousands.",
    ),
    "E019": (
        "the file is not valid CSV",
        "The message gives the parser's reason and the line.",
    ),
    "E020": (
        "the Parquet or Arrow file is damaged",
        "Its footer or one of its pages cannot be decoded. Possible causes are an incomplete "
        "download, a wrong suffix, or a disk error.",
    ),
    "E021": (
        "the Parquet file is encrypted",
        "Encryption keys are not supported. Write the file without encryption.",
    ),
    "E022": (
        "the files of one table have different columns",
        "All shards must have the same column names and compatible types. The message names the "
        "first shard that differs and the difference.",
    ),
    "E023": (
        "a column holds lists, structures, maps or raw bytes",
        "A column must hold one number, text, date or truth value per row. Split the column into "
        "such columns, or leave it out with --drop.",
    ),
    "E024": (
        "a shard is missing",
        "The numbers in the file names have a gap, or a file is still being downloaded, so rows "
        "would be missing silently. To read only the existing files, give a pattern such as "
        "'folder/*.parquet'.",
    ),
    "E025": (
        "the array file or AnnData file is damaged",
        "Its header does not match its size, or it is not a file of the format that its suffix "
        "names.",
    ),
    "E026": (
        "the array contains Python objects",
        "Such arrays are stored as pickles, and opening a pickle can run code, so they are "
        "refused. Save numbers or text instead.",
    ),
    "E027": (
        "the array does not have two dimensions",
        "A table has rows and columns. Reshape the data: array.reshape(-1, 1) makes one column, "
        "array.reshape(len(array), -1) flattens each example to a row. Pictures, (n, height, "
        "width) with or without channels, need one of the recipes conv, conv_ladder, nvae, vqvae "
        "and vqvae2.",
    ),
    "E028": (
        "the archive does not show which array is the table",
        "An .npz file must hold an array named X, a single two-dimensional array, or a matrix "
        "saved by scipy.sparse.save_npz.",
    ),
    "E029": (
        "a column mixes types of values",
        "All values of a column must have one type. The message names the first value that "
        "differs.",
    ),
    "E030": (
        "a column has infinite values",
        "The density of an infinite value cannot be computed. Correct such values, or leave them "
        "empty to mark them as missing. Numbers beyond 1e308 are read as infinite as well.",
    ),
    "E031": (
        "a column that the model needs is missing",
        "Every column that the model was fitted on must be present; extra columns are ignored "
        "and the order does not matter. If the column has another name, pass "
        "--rename THEIRS=OURS. If it is unknown for every row, add it with empty values, which "
        "the model treats as missing. For counts, such as genes of cells, up to a tenth of the "
        "columns may be missing: they are taken as 0.",
    ),
    "E032": (
        "a column does not have the type that the model expects",
        "Values are converted if nothing is lost: 1.0 to 1, '12' to 12, text to dates. Some "
        "values of the column cannot be converted. The message gives the first of them and their "
        "number.",
    ),
    "E033": (
        "the values of a column do not fit the kind given for it",
        "The kind given with --types contradicts the values, such as binary with three levels or "
        "positive with negative numbers, or a batch with a value of its own for most rows.",
    ),
    "E034": (
        "a few values of a column of numbers are not numbers",
        "Usually these values are mistakes in the file. `lowerbound inspect` lists them. Correct "
        "them, or declare the column as "
        "categorical, text or id with --types.",
    ),
    "E035": (
        "a column of counts has values that are not counts",
        "Counts are whole numbers from 0. Pass raw counts, not normalised or log-transformed "
        "ones, or give the column the kind real.",
    ),
    "E037": (
        "no column can be modelled",
        "Every column is an id, free text or constant, or was dropped.",
    ),
    "E038": (
        "the table has too few rows to infer its columns",
        "The kinds of the columns and the spread of their values are inferred from the rows, "
        "which needs at least two.",
    ),
    "E039": (
        "a column has too many levels",
        "A column may have at most a million levels: no table of realistic size is enough to "
        "learn more.",
    ),
    "E040": (
        "the type of the values is not supported",
        "Values must be numbers, text, dates or truth values. Convert complex numbers, Python "
        "objects and other types first.",
    ),
    "E041": (
        "dates are written in an ambiguous way",
        "All values of the column are valid as day/month and as month/day. Write dates as "
        "2024-01-31, or give the format: --types when=datetime:%d/%m/%Y.",
    ),
    "E042": (
        "the sparse matrix is damaged",
        "Its index arrays point outside its shape or are not sorted.",
    ),
    "E043": (
        "numbers beyond the limits of 64-bit floating point",
        "Some values are too large, or lie too near to each other, for 64-bit floating point.",
    ),
    "E080": (
        "the array and the model have different numbers of columns",
        "The columns of an array are identified by position, so an array must have as many "
        "columns as the model was fitted on. The columns of a data frame are matched by name.",
    ),
    "E081": (
        "the array is not an embedding of this model",
        "inverse_transform takes an array as transform returns it, with one column per latent "
        "dimension of the model.",
    ),
    "E044": (
        "the table has too few rows to compare drawn rows with",
        "`compare` needs at least 30 real rows in each table; intervals are narrow enough to "
        "decide anything with a thousand or more.",
    ),
    "E045": (
        "the genes or the counts that are asked for are not in the data",
        "--layer names a layer of an AnnData with raw counts. --genes is hvg:N, the name of a "
        "truth-valued column of `var` such as highly_variable, or a file with one name on each "
        "line. Of an .h5mu file or a MuData, the cells are the modality rna, or the only one that "
        "holds counts.",
    ),
    "E046": (
        "a new batch has too few cells to learn it from",
        "`embed --adapt` learns the weights of each new level of a batch from its cells. Leave "
        "out the cells of small batches, or embed without --adapt: they then get the mean over "
        "the batches that are known.",
    ),
    "E071": (
        "the recipe takes columns of numbers only",
        "Use the recipe table, which takes columns of any kind.",
    ),
    "E073": (
        "the values are not counts",
        "This recipe takes whole numbers from 0. Pass raw counts, not normalised or "
        "log-transformed ones, or choose another recipe.",
    ),
    "E074": (
        "the training data did not contain this value",
        "A condition of --where must be one of the levels that the column had when the model was "
        "fitted, or a number or date in the range that it had. `lowerbound info M.vae` lists the "
        "levels.",
    ),
    "E075": (
        "the table has too few rows to fit a model",
        "Fitting needs at least two rows; a useful model needs hundreds.",
    ),
    "E076": (
        "the pictures do not have the shape that the model takes",
        "Recipes for pictures take an array of shape (n, height, width) or (n, height, width, "
        "channels). A fitted model takes pictures of the size it was fitted on.",
    ),
    "E077": (
        "the pixels are out of range",
        "Pixels must be 0 or 1, whole numbers from 0 to 255, or numbers from 0 to 1, depending on "
        "the likelihood of the model.",
    ),
    "E078": (
        "a data set could not be downloaded",
        "Only `python -m reproductions run NAME --download` opens a network connection. This "
        "machine may have no connection, or the file may have moved. You can also download the "
        "file by hand and put it into the data folder.",
    ),
    "E082": (
        "there is no picture at this path",
        "A folder of pictures must contain PNG, JPEG, WebP, TIFF, BMP or GIF files, in itself or "
        "in subfolders. They are recognised by their suffix; names that begin with a dot are "
        "ignored.",
    ),
    "E083": (
        "a file cannot be read as a picture",
        "It is truncated or damaged, or its content is not PNG, JPEG, WebP, TIFF, BMP or GIF, "
        "whatever its suffix. Pixels must have 8 bits per channel; grey pictures may have 16, or "
        "floating-point numbers from 0 to 1, and nothing tells the black and white of others.",
    ),
    "E084": (
        "too many pictures cannot be read",
        "Up to 1 % of unreadable files are skipped and listed; a larger share is an error. "
        "--on-bad-file skip skips any number of them.",
    ),
    "E085": (
        "a picture is too large",
        "A picture may have at most 64 million pixels. The limit is checked in the header, before "
        "decoding, because a few kilobytes could otherwise fill the memory.",
    ),
    "E086": (
        "the pictures have several sizes",
        "All pictures must have one size. --size 64 scales the shorter side of every picture to "
        "64 pixels and crops a square from its centre; --size 64x96 sets height and width.",
    ),
    "E087": (
        "the names of pictures and targets do not match",
        "Every picture needs a target (a mask, a clean or a larger picture) with the same name in "
        "the same subfolder; only the suffix may differ.",
    ),
    "E088": (
        "the masks do not show classes",
        "A mask must have one grey level or colour per class, and at least two classes. Save "
        "masks as PNG: JPEG blurs the borders between colours.",
    ),
    "E089": (
        "the size of a target does not match its picture",
        "A mask or a clean picture must have the height and width of its picture; a target of "
        "`upscale` must be larger by the scale of the model.",
    ),
    "E090": (
        "these are not latents of this model",
        "`lowerbound decode` reads what `lowerbound encode` has written with the same model: one "
        ".npy file of floats for each picture, (latent, height, width), and latents.json with "
        "their sizes. Latents of another model, even of the same shape, mean something else.",
    ),
}


# E1xx: model files that are damaged, foreign or too new.


MODELS: dict[str, tuple[str, str]] = {
    "E101": (
        "there is no saved model at this path",
        "A saved model is a folder such as fraud.vae. The message gives the most similar name in "
        "the same folder. URLs are not supported: download the folder first.",
    ),
    "E102": (
        "the file belongs to another tool",
        "Pickles, PyTorch and Keras files can run code when they are opened, so they are refused "
        "without being read; other formats lack the schema, the calibration or the recipe. Fit a "
        "model with `lowerbound fit`. If the paths of model and data are swapped, give the model "
        "first.",
    ),
    "E103": (
        "the path is not a folder, and a saved model is one",
        "Pass the folder that contains manifest.json, not a file in it, a pipe or a device.",
    ),
    "E104": (
        "the folder is not a saved model",
        "Every saved model has a manifest.json, which is written last. A folder without it was "
        "never a model, or was copied incompletely.",
    ),
    "E105": (
        "the folder contains models but is not a model itself",
        "A training run writes each model to its own subfolder. The fix gives the best one.",
    ),
    "E106": (
        "the model cannot be read",
        "The operating system refused to open the folder or one of its files: missing "
        "permissions, or a disk error. Nothing was loaded.",
    ),
    "E110": (
        "the manifest of the model is damaged",
        "manifest.json contains the SHA-256 of its own content, and the two do not match: the "
        "file was edited, truncated, or changed while it was copied. Copy the model again.",
    ),
    "E111": (
        "a file of the model is missing",
        "Every file that the manifest lists is needed. Copy the whole folder.",
    ),
    "E112": (
        "the model's folder contains a file that is not part of it",
        "The folder may contain only the files that the manifest lists, so that every file of a "
        "model is verified. Move the file out of the folder.",
    ),
    "E113": (
        "a file of the model is not a regular file",
        "Links, pipes and devices are refused, because their content can change after it was "
        "checked. `cp -rL` makes a copy without links.",
    ),
    "E114": (
        "a file of the model has the wrong size",
        "It was truncated or extended after the model was saved. Copy the model again.",
    ),
    "E115": (
        "a file of the model is damaged",
        "Its SHA-256 differs from the one in the manifest: the file was changed, or belongs to "
        "another model. Nothing was loaded. Copy the model again.",
    ),
    "E116": (
        "a file of the model has the right digest but invalid content",
        "The file was not changed after it was written, but it is not valid JSON or safetensors, "
        "or its content is not what a fit writes: a repeated key, NaN or infinity, a tensor that "
        "points outside the file, a size beyond the weights, or a scale that is not above 0. Do "
        "not trust the source of this model.",
    ),
    "E117": (
        "the model needs a newer version of lowerbound",
        "A model can be loaded by the version that wrote it and by later ones. Install the "
        "version that the message names, or a later one.",
    ),
    "E118": (
        "a file of the model is too large",
        "The limits are 1 MB for the manifest, 64 MB for a JSON file and 32 GB for the weights. "
        "They are checked before anything is read.",
    ),
    "E119": (
        "a value cannot be saved in a model",
        "A model can hold finite numbers, text, lists and dicts, which are saved as JSON, and "
        "arrays of floats, integers or truth values. The message names the value.",
    ),
    "E120": (
        "no checkpoint of the run can be read",
        "The run folder has checkpoints to resume from, but none of them matches its digest: a "
        "disk error or another program changed them. A killed fit does not leave such "
        "checkpoints. Start again with --resume never.",
    ),
    "E140": (
        "the weights do not fit the recipe",
        "The file is intact, but the recipe does not build the network that was saved: the "
        "model was made by an incompatible version, or by another tool. The message names the "
        "first difference. Fit it again, or install that version.",
    ),
    "E141": (
        "the model was built by a recipe that is not known here",
        "A model file never names code to import. To load a model of your own recipe, use Python "
        "and pass the function or Recipe that built it: lowerbound.load(PATH, recipe=my_recipe).",
    ),
    "E142": (
        "the model gives results that are not numbers",
        "The file is intact and its weights are finite, but so large that a density, a value or "
        "the scale of a distribution overflows. `lowerbound fit` does not write such models; do "
        "not trust the source of this one. Nothing was written.",
    ),
}


# E2xx: arguments, flags and configurations.


USAGE: dict[str, tuple[str, str]] = {
    "E201": (
        "an object of this type cannot be read as a table",
        "Pass a path, a NumPy array, a data frame (pandas, polars, Arrow and others), a dict of "
        "columns, or a SciPy sparse matrix.",
    ),
    "E202": (
        "this kind of column does not exist",
        "The kinds are real, positive, count, binary, categorical, ordinal, datetime, id, text "
        "and constant.",
    ),
    "E203": (
        "an option names a column that the table does not have",
        "Names are case-sensitive. A pattern such as 'x*' must match at least one column.",
    ),
    "E205": (
        "the order of an ordinal column, or the format of dates, is not usable",
        "List the levels from lowest to highest: --types 'grade=ordinal:low<mid<high'. A format "
        "of dates is as in strftime, with a year and a month: --types when=datetime:%d/%m/%Y.",
    ),
    "E206": (
        "the number of rows is not a positive whole number",
        "It must be a whole number of at least 1.",
    ),
    "E220": (
        "the output exists already",
        "Pass --overwrite (overwrite=True in Python) to replace it, or choose another path.",
    ),
    "E221": (
        "the output path holds something that is never replaced",
        "--overwrite replaces only an earlier output of the same kind, not a folder with other "
        "files in it, nor a file by a folder. Choose another --out.",
    ),
    "E222": (
        "the suffix of the output is not a known format",
        "Tables are written as .csv, .tsv, .csv.gz, .tsv.gz, .parquet, .npy or .npz, and an "
        "exported score as .onnx. Models of pictures also write .png (a grid of pictures) or, "
        "for a name without a suffix, a folder of PNG files.",
    ),
    "E223": (
        "no file can be written at this path",
        "The path is empty, a folder or a device. Give the path of a file.",
    ),
    "E224": (
        "the format cannot hold these columns",
        ".npy and .npz files hold numbers only; .csv and .tsv files cannot hold lists or "
        "structures. Parquet files hold columns of all types.",
    ),
    "E230": (
        "there is no such command or flag",
        "The names of commands and flags cannot be abbreviated. The fix repeats the command with "
        "the most similar name. `lowerbound --help` lists the commands, and `lowerbound COMMAND "
        "--help` the flags.",
    ),
    "E231": (
        "a value has the wrong form",
        "The message gives the flag, its value and the expected form. Times are written 90s, 10m "
        "or 1h, shares 0.1% or 0.001, pairs key=value.",
    ),
    "E232": (
        "an argument is missing",
        "The command needs this argument. The fix shows its place in the command.",
    ),
    "E233": (
        "several arguments are wrong",
        "The message lists all errors in the flags and the configuration file, each with its own "
        "code and fix. Nothing was computed.",
    ),
    "E234": (
        "the configuration file cannot be read",
        "It must be a TOML file of at most 1 MB in UTF-8. `lowerbound fit PATH --print-config` "
        "prints a complete one.",
    ),
    "E235": (
        "the configuration file has an unknown key",
        "--print-config prints all allowed keys. Unknown keys are refused, because a misspelt key "
        "would otherwise be ignored silently.",
    ),
    "E236": (
        "two arguments cannot be combined",
        "The same argument was given twice, or one of the two would have no effect, such as "
        "free_bits and capacity, which both change the rate. The message names the arguments.",
    ),
    "E237": (
        "two numbers contradict each other",
        "Each number is allowed by itself, but one limits the other. For example, a hierarchy "
        "has at most one width for each level of latents, and a batch needs at least one row for "
        "each process. The message gives both numbers and the limit.",
    ),
    "E238": (
        "there is no such error code",
        "Every error message contains its code in brackets. `lowerbound error` lists all codes.",
    ),
    "E239": (
        "a column cannot be renamed",
        "--rename THEIRS=OURS needs a column THEIRS in the data, and no other column named OURS.",
    ),
    "E240": (
        "a number is out of range",
        "The message names the argument, its allowed range, and the number that was given.",
    ),
    "E241": (
        "a name is not one of the allowed names",
        "Recipes, likelihoods, presets and kinds are chosen by name. The message lists the "
        "allowed names, and the fix gives the most similar one.",
    ),
    "E242": (
        "a setting does not exist",
        "--set key=value sets an argument of the recipe or of the objective. This recipe has no "
        "argument of that name; the message lists the existing ones.",
    ),
    "E243": (
        "a condition or a flag names a column that the model does not have",
        "--where takes only columns that are modelled, and --column of `label` those of levels. "
        "`lowerbound info M.vae` lists them.",
    ),
    "E244": (
        "the device is not available",
        "The name is unknown, this computer has no such device, or torch was installed without "
        "support for it. `lowerbound doctor` lists the available devices; --device cpu always "
        "works.",
    ),
    "E245": (
        "an argument is of the wrong type",
        "The message names the argument, its allowed types, and the value that was given. Numbers "
        "must not be passed as text, and settings are a dict of names and values.",
    ),
    "E246": (
        "the model does not support this operation",
        "Some combinations of posterior, prior and task are not implemented, such as a "
        "temperature for a prior without a scale, the path derivative for a posterior without "
        "one, or an ONNX graph of a model whose rows need a context.",
    ),
    "E247": (
        "the model was fitted for another task",
        "denoise, upscale, inpaint and segment each need a model fitted by `lowerbound fit "
        "--recipe` with the recipe of the same name, and encode and decode one of the recipe "
        "autoencoder; these models serve no other task.",
    ),
    "E248": (
        "an adversarial term needs a model of pictures",
        "--set adversarial=0.3 trains a discriminator on patches of pictures. It needs pictures "
        "of at least 8 x 8 pixels, one of the recipes conv, conv_ladder, nvae, vqvae and vqvae2, "
        "and one draw of the latents per picture. Models that restore or encode pictures are "
        "excluded, because the term would raise their error.",
    ),
    "E249": (
        "an argument does not apply to this model or data",
        "For example, --types and --drop choose columns, which pictures do not have; a spectral "
        "penalty needs convolutions; prior_share needs a recipe that restores pictures. Leave the "
        "argument out, or choose another recipe.",
    ),
    "E250": (
        "an unfinished run has another configuration",
        "A stopped fit keeps its checkpoints in the run folder next to the model, and only a fit "
        "with the same configuration and the same data can resume from them. The message lists "
        "the differences. Repeat the earlier command to resume, or pass --resume never to start "
        "again from the beginning.",
    ),
    "E251": (
        "another process uses this run folder",
        "Two fits in one folder would overwrite each other's checkpoints. The operating system "
        "releases the lock when the other process ends, even if it is killed.",
    ),
    "E252": (
        "the processes of a fit have read different data",
        "Every process reads the data itself, and all must read the same rows in the same order. "
        "On several machines, the same files must exist at the same path, such as on a shared "
        "disk.",
    ),
    "E253": (
        "this command cannot run in several processes",
        "Of all commands, only fit supports torchrun, which starts a command in several "
        "processes. Run this command without torchrun.",
    ),
    "E254": (
        "the codebook is too small",
        "A codebook needs at least two codes and at least one dimension. A codebook of the kind "
        "fsq needs at least three codes, because each of its variables has at least three levels.",
    ),
    "E255": (
        "this needs continuous latents",
        "The latents of vqvae and vqvae2 are discrete codes, so traversals and annealed "
        "importance sampling are not available. `lowerbound evaluate` without --ais, samples, "
        "reconstructions, interpolations and levels are.",
    ),
    "E256": (
        "--top-k needs a learned prior of codes",
        "--top-k draws every code from the k likeliest ones only. It applies to vqvae and vqvae2 "
        "with a learned prior; use --temperature for other models.",
    ),
    "E257": (
        "a setting of the objective has no effect on a model of codes",
        "While the codes are learned, the rate is a constant (the number of codes per row times "
        "log K) and the posterior is deterministic. Settings that weight the rate or draw several "
        "samples have no effect.",
    ),
    "E258": (
        "the model cannot be scored by its levels",
        "--by levels compares several levels of latents. It needs a hierarchy (ladder, "
        "conv_ladder, nvae) with continuous latents, and the scores of held-out rows that a fit "
        "saves. Models of earlier versions lack these scores; fit the model again. --by "
        "typicality works for all models that score rows.",
    ),
    "E259": (
        "your own recipe is not valid",
        "A function that builds a model must have an argument that shows its kind of data: "
        "features (columns of numbers), families and sizes (columns of any kinds) or shape "
        "(pictures). A lowerbound.Recipe has a coding instead. The name must differ from the "
        "names of all built-in recipes.",
    ),
    "E260": (
        "a server that others can reach needs a token",
        "An address other than 127.0.0.1 lets other machines use the model. Give --token-file "
        "FILE, a file with a secret that clients send as Authorization: Bearer TOKEN, or listen "
        "on 127.0.0.1 only.",
    ),
    "E261": (
        "the token file cannot be used",
        "It must be a readable file with one token of at least 16 printable characters without "
        "spaces. The fix makes one.",
    ),
    "E262": (
        "the model cannot be served",
        "Requests are rows of a table, as JSON, CSV or Arrow. Models of pictures, and those that "
        "restore or encode them, are used from the command line or from Python.",
    ),
    "E263": (
        "the body of a request cannot be used",
        "The answer lists all problems, with rows (counted from 1) and columns. JSON has no NaN "
        "and no Infinity: null says that a value is unknown. GET /openapi.json has an example "
        "row. Answered with the status 422.",
    ),
    "E264": (
        "the type of the body is not supported",
        "Bodies are application/json, text/csv, text/tab-separated-values or Arrow IPC "
        "(application/vnd.apache.arrow.stream or .file), plain or with Content-Encoding: gzip. "
        "`curl -d` sends another type unless it is told so; use `curl --json`. Answered with the "
        "status 415.",
    ),
    "E265": (
        "there is no such address",
        "The server has no such path, does not allow the method there, or serves a model of "
        "another name. GET /openapi.json lists the paths. Answered with the status 404 or 405.",
    ),
    "E266": (
        "the request has no valid token",
        "The server was started with --token-file. Send the token as the header Authorization: "
        "Bearer TOKEN. Answered with the status 401.",
    ),
    "E267": (
        "the server does not answer to this host name",
        "A page in a browser could otherwise reach a server on this machine through a name of its "
        "own. Start the server with --allow-host NAME for each name that clients use. Answered "
        "with the status 421.",
    ),
    "E269": (
        "this is a bug in lowerbound",
        "An unexpected error occurred inside lowerbound. Please report the command, its output "
        "with --debug, and the output of `lowerbound doctor --json`. The data are not needed.",
    ),
    "E270": (
        "a model that restores or encodes pictures has no rows with scores to show",
        "`lowerbound report` on a model of the recipes denoise, upscale, inpaint, segment and "
        "autoencoder shows some pictures before and after; it reads them from a folder or from "
        "picture files. The page of `lowerbound explore` is about rows and their scores, and "
        "these models score none.",
    ),
    "E276": (
        "a callback raised an exception",
        "Callbacks are your own functions, which a fit calls after every check on the held-out "
        "rows. The exception of the callback is the cause of this error. To end a fit, return "
        "True: the best weights are kept, and the model is calibrated and saved.",
    ),
    "E277": (
        "fits are recorded in local folders only",
        "--track tensorboard:FOLDER and --track mlflow:FOLDER write to a folder of this machine; "
        "without a folder, beside the model. An address of a server is refused. To send curves "
        "elsewhere, pass your own function as a callback in Python.",
    ),
    "E278": (
        "the store of a tracking library cannot be used",
        "TensorBoard or MLflow could not open the folder or its database. The message gives "
        "their reason. Choose another folder, or leave out --track.",
    ),
    "E279": (
        "a batch does not say which column it is of",
        "A model may be conditional on several columns, or on none. Name the column: "
        "--batch donor=a, or batch={'donor': 'a'} in Python. `lowerbound info M.vae` lists the "
        "columns.",
    ),
    "E280": (
        "a group of cells is empty, or compared with itself",
        "`differential` compares the cells whose annotation has one value with those of another, "
        "or with all others. The message lists the values of the annotation.",
    ),
}


# E3xx, E4xx, E5xx, E6xx: resources, numbers, stops and checks.


RESOURCES: dict[str, tuple[str, str]] = {
    "E301": (
        "the disk is full",
        "The message gives the free and the needed space. No incomplete file was left behind, "
        "and an earlier output at the same path is unchanged.",
    ),
    "E302": (
        "the output cannot be written to this path",
        "The folder does not exist, is read-only, or you lack permission; the message gives the "
        "system's reason. Create the folder with mkdir -p, or choose another --out.",
    ),
    "E303": (
        "there is not enough memory",
        "The message gives the needed memory and its purpose.",
    ),
    "E310": (
        "an optional library is not installed",
        "The message names the library, and the fix installs it. Models that were fitted on a "
        "data frame return rows as a data frame of the same library; `lowerbound export` needs "
        "onnx, onnxscript and onnxruntime.",
    ),
    "E311": (
        "no connection to a Ray cluster",
        "--ray connects to the cluster at RAY_ADDRESS or, if that variable is not set, starts a "
        "cluster on this machine. The message gives Ray's reason.",
    ),
    "E320": (
        "the server cannot listen on the address",
        "Another process uses the port, ports below 1024 need permission, or the address is not "
        "one of this machine. --port 0 chooses a free port.",
    ),
    "E321": (
        "the body of a request is too large",
        "The limit holds for the bytes as they are sent and after decompression, and is checked "
        "while they arrive. Send fewer rows at a time, or serve with a higher --max-body. "
        "Answered with the status 413.",
    ),
    "E322": (
        "a request has too many rows",
        "Send the rows in several requests, or serve with a higher --max-rows. Reasons are "
        "given for 100 rows at a time, nearest usual rows for 20. Answered with the status 413.",
    ),
    "E323": (
        "the headers of a request are too large or not valid",
        "The request line and the headers may have 16 kB together, and must be HTTP/1.1 or "
        "HTTP/1.0. Answered with the status 431 or 400.",
    ),
    "E324": (
        "a request arrives too slowly",
        "The headers, and each further part of a body, must arrive within 10 seconds, and a "
        "request within 30. Answered with the status 408.",
    ),
    "E325": (
        "too many requests wait",
        "The server works on as many requests as --queue allows. Send the request again after the "
        "seconds in Retry-After, or serve with more --workers. Answered with the status 429.",
    ),
    "E326": (
        "the server cannot take the request now",
        "It is starting or ending, has too many connections, or holds too many bytes of other "
        "requests. Send the request again after the seconds in Retry-After. Answered with the "
        "status 503.",
    ),
    "E327": (
        "a request took too long",
        "The request did not end within --timeout. Send fewer rows at a time, or try again when "
        "the server has less to do. Answered with the status 503.",
    ),
    "E328": (
        "the workers of a server end again and again",
        "A worker that ends is started again. If none serves, and three in a row end before they "
        "do, the server gives up. The log of the workers above the message says why.",
    ),
    "E340": (
        "the page of a report would be too large",
        "A page has at most 5 MB, so that a phone can open it. Wide tables and large pictures "
        "make large pages: report on fewer rows with -n.",
    ),
    "E350": (
        "explore listens on this machine only",
        "The page shows rows and writes files, so no other machine may reach it. From another "
        "machine, forward a port by ssh: ssh -L 8090:127.0.0.1:PORT HOST, and open the printed "
        "address with port 8090.",
    ),
    "E351": (
        "a request is not one of the page",
        "`lowerbound explore` answers its own page only. The secret in the address, the host name "
        "and the origin of each request are checked, so that pages from elsewhere in the same "
        "browser can neither read rows nor write files. Answered with the status 403.",
    ),
    "E352": (
        "the folder of --cache cannot be used",
        "Scores and map of `lowerbound explore` are kept there for the next start. The message "
        "gives the system's reason. Without --cache, a folder of the user is used, and a "
        "temporary one where that is not possible.",
    ),
    "E353": (
        "the page does not have this row",
        "Rows are numbered from 0 as in the data. A page of more rows than -n has only some of "
        "them, drawn at random.",
    ),
    "E354": (
        "the selection cannot be written",
        "Select rows on the map first. The file name must end in .csv, .parquet or .jsonl, and "
        "have no folder: files are written to the folder of --out-dir, and none is replaced.",
    ),
}

NUMBERS: dict[str, tuple[str, str]] = {
    "E401": (
        "the loss became infinite or NaN",
        "A step with an infinite or NaN loss or gradient is skipped; training stops after too "
        "many such steps in a row. The message gives the largest value of the last batch. The "
        "usual cause is a column in a wrong unit; another is a learning rate that is too high.",
    ),
}

STOPS: dict[str, tuple[str, str]] = {
    "E501": (
        "another process of this fit ended",
        "The processes of a fit wait for each other at every step, so if one ends, all end. The "
        "last checkpoint is kept: the same command resumes from it. torchrun --max-restarts 3 "
        "does so automatically.",
    ),
    "E502": (
        "workers of the Ray cluster failed too often",
        "Ray restarts a failed worker a few times before the job ends. The last checkpoint of a "
        "fit is kept: the same command resumes from it. Workers that fail repeatedly have often "
        "run out of memory.",
    ),
}

CHECKS: dict[str, tuple[str, str]] = {
    "E601": (
        "a saved model does not reproduce its scores",
        "A dry run saves the model, loads it and scores the same rows again; the scores must be "
        "equal to the last bit. On this machine, with the installed libraries, they are not.",
    ),
    "E602": (
        "an exported graph does not reproduce the scores of its model",
        "Before an ONNX file is written, ONNX Runtime and torch score the same rows with the same "
        "draws. The scores must agree to 0.001 nats or, if they are large, to 1e-5 of the score, "
        "and the coded values to 1e-5. The installed versions of onnx, onnxruntime and torch are "
        "probably incompatible.",
    ),
    "E603": (
        "a collapsed model is not exported",
        "The latents of a collapsed model carry no information about a row: its scores are those "
        "of independent columns. Fit it for longer or with --set free_bits=0.5, or export it "
        "anyway with --allow-collapsed.",
    ),
    "E604": (
        "rows did not pass the check of a model",
        "`lowerbound check` lists every problem: columns that are missing, renamed, of another "
        "type or in another unit; columns or scores whose distribution differs from that of the "
        "held-out rows of the fit; too many alarms; too slow scores. If the rows are right and "
        "the world has changed, fit the model again. --ignore COLUMN leaves out the drift of a "
        "column, --max-drift sets the size that matters.",
    ),
}

CATALOGUE: dict[str, Entry] = {
    code: Entry(*entry)
    for part in (DATA, MODELS, USAGE, RESOURCES, NUMBERS, STOPS, CHECKS)
    for code, entry in part.items()
}
