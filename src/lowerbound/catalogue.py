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
        "the archive holds several arrays that could be the table",
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
        "the model treats as missing.",
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
        "positive with negative numbers.",
    ),
    "E034": (
        "a few values of a column of numbers are not numbers",
        "Usually these values are mistakes in the file. Correct them, or declare the column as "
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
        "which needs more rows. The message gives the minimum.",
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
        "2024-01-31.",
    ),
    "E042": (
        "the sparse matrix is damaged",
        "Its index arrays point outside its shape or are not sorted.",
    ),
    "E043": (
        "numbers have too many digits",
        "Some values cannot be stored as 64-bit floating point numbers without loss.",
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
        "fitted. `lowerbound info M.vae` lists them.",
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
        "file by hand and put it at the path in the message.",
    ),
    "E082": (
        "there is no picture at this path",
        "A folder of pictures must contain PNG, JPEG, WebP, TIFF or BMP files, in itself or in "
        "subfolders. They are recognised by their suffix; names that begin with a dot are "
        "ignored.",
    ),
    "E083": (
        "a file cannot be read as a picture",
        "It is truncated or damaged, or its content is not PNG, JPEG, WebP, TIFF or BMP, whatever "
        "its suffix. Pixels must have 8 bits per channel; grey pictures may have 16.",
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
}


# E1xx: model files that are damaged, foreign or too new.


MODELS: dict[str, tuple[str, str]] = {
    "E101": (
        "there is no saved model at this path",
        "A saved model is a folder such as fraud.vae. The message names the entry of the same "
        "folder whose name is nearest. Addresses are not fetched: download the folder first.",
    ),
    "E102": (
        "the file belongs to another tool",
        "Pickles, PyTorch and Keras files can run code when they are opened, so they are refused "
        "unread; other formats lack the schema, the calibration or the recipe. Train a model with "
        "`lowerbound fit`, or give the model before the data if the two were swapped.",
    ),
    "E103": (
        "a saved model is a folder, and this is not one",
        "Pass the folder that contains manifest.json, not a file in it, a pipe or a device.",
    ),
    "E104": (
        "the folder is no saved model",
        "Every saved model has a manifest.json, which is written last. Without it the folder was "
        "never a model, or was copied in part.",
    ),
    "E105": (
        "the folder contains models but is none itself",
        "A training run keeps its models in folders of their own; the fix names the best one.",
    ),
    "E106": (
        "the model cannot be read",
        "The system refused to open the folder or one of its files: permissions, or a fault of "
        "the disk. Nothing was loaded.",
    ),
    "E110": (
        "the manifest of the model is damaged",
        "manifest.json contains the SHA-256 of its own content and must be, byte for byte, what "
        "was written. It was edited, cut short or changed on the way; copy the model again.",
    ),
    "E111": (
        "a file of the model is missing",
        "The manifest lists every file of the model and all are needed. Copy the whole folder.",
    ),
    "E112": (
        "the model's folder contains a file that is not part of it",
        "Only the files that the manifest lists may be there, so that nothing unverified travels "
        "with a model. Remove the file; keep notes beside the folder.",
    ),
    "E113": (
        "a file of the model is not a plain file",
        "Links, pipes and devices are refused: what they lead to can change after it was checked. "
        "`cp -rL` makes a copy without links.",
    ),
    "E114": (
        "a file of the model has the wrong size",
        "It was cut short or appended to after the model was saved. Copy the model again.",
    ),
    "E115": (
        "a file of the model is damaged",
        "Its SHA-256 is not the one in the manifest: at least one bit changed, or the file comes "
        "from another model. Copy the model again; it is never loaded in part.",
    ),
    "E116": (
        "a file of the model has the right digest but impossible content",
        "The file is as it was written, but what was written is no valid JSON or safetensors: a "
        "repeated key, NaN, a tensor that points outside the file. Such a file does not come from "
        "`lowerbound fit`; do not trust its source.",
    ),
    "E117": (
        "the model needs a newer version of lowerbound",
        "Every model loads in all later versions, not in earlier ones. Install the version that "
        "the message names, or a later one.",
    ),
    "E118": (
        "a file of the model is too large",
        "Sizes are limited before anything is read: 1 MB for the manifest, 64 MB for a JSON file, "
        "32 GB for the weights.",
    ),
    "E119": (
        "this cannot be saved in a model",
        "A model file holds finite numbers, text, lists and named values as JSON, and arrays of "
        "floats, integers or truth values. The message names what has no such form.",
    ),
    "E120": (
        "no state of the run can be read",
        "The run folder has states that the fit could go on from, but the digests of none of them "
        "hold: the disk, or another program, changed them. A killed fit does not leave such "
        "states. Start anew with --resume never.",
    ),
    "E140": (
        "the weights do not fit the recipe",
        "The file is intact, but its recipe builds another network than the one that was saved: "
        "the model was made by an incompatible version. Fit it again, or install that version.",
    ),
    "E141": (
        "the model was built by a recipe that is not known here",
        "A model file never names code to import. A model of a recipe of your own is loaded in "
        "Python by handing over the function or Recipe that built it: lowerbound.load(PATH, "
        "recipe=my_recipe).",
    ),
}


# E2xx: arguments, flags and configurations.


USAGE: dict[str, tuple[str, str]] = {
    "E201": (
        "this is nothing that can be read as a table",
        "Give a path, a NumPy array, a data frame (pandas, polars, Arrow and others), a dict of "
        "columns, or a SciPy sparse matrix.",
    ),
    "E202": (
        "this is no kind of column",
        "The kinds are real, positive, count, binary, categorical, ordinal, datetime, id, text "
        "and constant.",
    ),
    "E203": (
        "an option names a column that the table does not have",
        "Names are exact, with capitals; a pattern such as 'x*' must match at least one column.",
    ),
    "E205": (
        "the order of an ordinal column is not known",
        "Say it from lowest to highest: --types 'grade=ordinal:low<mid<high'.",
    ),
    "E206": (
        "the number of rows is not usable",
        "It must be a whole number of at least 1.",
    ),
    "E220": (
        "the output exists already",
        "Nothing is replaced unless --overwrite (overwrite=True in Python) says so.",
    ),
    "E221": (
        "what exists at the output path may not be replaced",
        "--overwrite replaces an earlier output of the same kind only. A folder with other files "
        "in it, or a file where a folder would go, stays as it is; choose another --out.",
    ),
    "E222": (
        "the suffix of the output names no format",
        "Tables are written as .csv, .tsv, .csv.gz, .tsv.gz, .parquet, .npy or .npz, and an "
        "exported score as .onnx. Models of pictures also write .png, a grid, or a folder of PNG "
        "files: a name without a suffix.",
    ),
    "E223": (
        "no file can be written at this path",
        "It is a folder, a device, or no path at all. Add the name of the file.",
    ),
    "E224": (
        "the format cannot hold these columns",
        ".npy and .npz hold numbers only, .csv and .tsv no lists or structures. Parquet holds "
        "everything.",
    ),
    "E230": (
        "there is no such command or flag",
        "Commands and flags are found by their exact names. The fix repeats the command with the "
        "nearest name; `lowerbound --help` lists the commands and `lowerbound COMMAND --help` "
        "the flags.",
    ),
    "E231": (
        "a value has the wrong form",
        "The message names the flag, the value, and what it may be: times are written 90s, 10m "
        "or 1h, shares 0.1% or 0.001, pairs key=value.",
    ),
    "E232": (
        "an argument is missing",
        "The command cannot begin without it; the fix shows where it goes.",
    ),
    "E233": (
        "several arguments cannot be used",
        "All that is wrong with the flags and the configuration file is listed at once, each "
        "with its own code and fix. Nothing was computed.",
    ),
    "E234": (
        "the configuration file cannot be read",
        "It must be a TOML file of at most 1 MB in UTF-8. `lowerbound fit PATH --print-config` "
        "prints a complete one.",
    ),
    "E235": (
        "the configuration file has an unknown key",
        "Its keys are those that --print-config prints. Unknown ones are refused, since a "
        "misspelt key would otherwise be ignored silently.",
    ),
    "E236": (
        "two arguments cannot be combined",
        "The same argument was given twice, or one of two arguments would undo the other, such "
        "as free_bits and capacity, which both change the rate. The message names them.",
    ),
    "E237": (
        "two numbers do not fit together",
        "Each of them is allowed by itself, but one limits the other: a hierarchy has at most one "
        "width for each level of latents, and a batch is shared by at most as many processes as "
        "it has rows. The message names both and says what is allowed.",
    ),
    "E238": (
        "there is no such error code",
        "Codes are printed in brackets after the word error; `lowerbound error` lists them.",
    ),
    "E239": (
        "a column cannot be renamed",
        "--rename THEIRS=OURS needs a column THEIRS in the data and a free name OURS.",
    ),
    "E240": (
        "a number is out of range",
        "The message names the argument, the range of numbers that it takes, and the number that "
        "it got.",
    ),
    "E241": (
        "a name is not one of the known ones",
        "Recipes, likelihoods, presets and kinds are known by name; the message lists them and "
        "the fix gives the nearest.",
    ),
    "E242": (
        "a setting does not exist",
        "--set key=value changes an argument of the recipe, and this recipe has no such argument. "
        "The message lists those it has.",
    ),
    "E243": (
        "a condition names a column that the model does not have",
        "--where takes columns that are modelled; `lowerbound info M.vae` lists them.",
    ),
    "E244": (
        "the device is not available",
        "The name is unknown, or this computer has no such device, or torch was installed without "
        "support for it. `lowerbound doctor` shows what is there; --device cpu always works.",
    ),
    "E245": (
        "an argument is of the wrong type",
        "The message names the argument, the types that it takes, and the value that it got. A "
        "whole number is not written as text, and a list of settings is a dict of names and "
        "values.",
    ),
    "E246": (
        "this part of the model cannot do what was asked of it",
        "Some combinations of posterior, prior and task have no rule yet: a temperature for a "
        "prior without a scale, a path derivative through a posterior that has none, or an ONNX "
        "graph of a model whose rows need a context.",
    ),
    "E247": (
        "the model was made for something else",
        "denoise, upscale, inpaint and segment each take a model that `lowerbound fit --recipe` "
        "of the same name has made; and such a model does nothing else.",
    ),
    "E248": (
        "there is nothing that a discriminator could look at",
        "--set adversarial=0.3 lets a discriminator look at patches of pictures, of at least "
        "8 x 8 pixels: for conv, conv_ladder, nvae, vqvae and vqvae2, with one draw of the "
        "latents for each picture. Rows of a table have no patches, and models that restore "
        "pictures are judged by their error, which the term would raise.",
    ),
    "E249": (
        "an argument does not apply to this model or data",
        "It means something for other models or data only: --types and --drop choose columns, "
        "which pictures do not have; a spectral penalty needs convolutions; prior_share needs a "
        "recipe that restores pictures. Leave it out, or choose another recipe.",
    ),
    "E250": (
        "an unfinished run has another configuration",
        "A fit that was stopped keeps its states in the run folder beside its model, and only the "
        "same configuration on the same data can go on from them. The message lists what differs. "
        "Repeat the earlier command to continue it, or pass --resume never to forget it.",
    ),
    "E251": (
        "another process trains in this run folder",
        "Two fits in one folder would overwrite each other's states. The lock is dropped by the "
        "system when the other process ends, however it ends.",
    ),
    "E252": (
        "processes that train together have read different data",
        "Each of them reads the data itself, and all must find the same rows in the same order: "
        "on several machines, the same files under the same path, such as on a shared disk.",
    ),
    "E253": (
        "this command is not for several processes",
        "torchrun starts the same command many times. Only fit shares its work among them; "
        "start the others once, on one machine.",
    ),
    "E254": (
        "a codebook of this size is of no use",
        "It needs at least two codes of at least one dimension; of the kind fsq, at least three, "
        "which are a grid of variables with three levels or more.",
    ),
    "E255": (
        "this needs latents that can be moved a little",
        "The latents of vqvae and vqvae2 are codes, of which there is nothing between two: no "
        "traversal, and no annealed importance sampling. `lowerbound evaluate` without --ais, "
        "samples, reconstructions, interpolations and levels work.",
    ),
    "E256": (
        "this prior has no likeliest codes to keep",
        "--top-k leaves only the likeliest codes at every place of a grid. It is for vqvae and "
        "vqvae2 with a learned prior of their codes; other models have --temperature.",
    ),
    "E257": (
        "a setting of the objective would do nothing for a model of codes",
        "While codes are learned the rate is a constant, the number of places times log K, and "
        "every draw of the posterior is the same: nothing of it can be weighed or sampled.",
    ),
    "E258": (
        "the model cannot be scored by its levels",
        "--by levels compares what several levels of latents know of a row. It needs a hierarchy "
        "(ladder, conv_ladder, nvae) whose latents are no codes, and held-out rows that were "
        "scored in the same way when the model was fitted: models of earlier versions lack "
        "these, and a new fit has them. --by typicality needs neither.",
    ),
    "E259": (
        "a recipe of your own cannot be used",
        "A function that builds a model says by an argument what data it models: features "
        "(columns of numbers), families and sizes (columns of any kinds) or shape (pictures); a "
        "lowerbound.Recipe says it by its coding. Its name must not be that of another recipe.",
    ),
    "E269": (
        "this is a bug",
        "The program met something that nobody foresaw. Nothing of yours is wrong. Please report "
        "the command, its output with --debug, and what `lowerbound doctor --json` prints; no "
        "data need to be sent.",
    ),
}


# E3xx, E4xx, E5xx, E6xx: resources, numbers, stops and checks.


RESOURCES: dict[str, tuple[str, str]] = {
    "E301": (
        "the disk is full",
        "The message says how much is free and how much is needed. Nothing incomplete was left "
        "behind, and an earlier output at the same path is as it was.",
    ),
    "E302": (
        "the output cannot be written there",
        "The folder is missing, read-only, or closed to you; the message gives the system's "
        "reason. Make it with mkdir -p, or choose another --out.",
    ),
    "E303": (
        "there is not enough memory",
        "The message says what was needed and for what.",
    ),
    "E310": (
        "an optional library is not installed",
        "The message names it and the fix installs it. Models that were fitted on a data frame "
        "give rows back as a frame of the same library; `lowerbound export` needs onnx, "
        "onnxscript and onnxruntime.",
    ),
    "E311": (
        "no Ray cluster answers",
        "--ray joins the cluster that RAY_ADDRESS names, and starts one on this machine where it "
        "names none. The message gives Ray's own reason.",
    ),
}

NUMBERS: dict[str, tuple[str, str]] = {
    "E401": (
        "the loss did not stay finite",
        "A step whose loss or gradient is not finite is skipped and counted; when too many follow "
        "one another, training stops rather than going on with nothing. The message names the "
        "largest value of the last batch: a column in a wrong unit is the usual cause, a learning "
        "rate that is too high the next.",
    ),
}

STOPS: dict[str, tuple[str, str]] = {
    "E501": (
        "another process of this fit ended",
        "Processes that train together wait for one another at every step, so that where one ends "
        "all end. What the first one committed is kept: the same command goes on from there. With "
        "torchrun --max-restarts 3 that happens by itself.",
    ),
    "E502": (
        "workers of Ray ended too often",
        "Where a worker dies, Ray starts it again a few times; then the job ends. What a fit has "
        "committed is kept: the same command goes on from there. A worker that dies every time is "
        "often one that has run out of memory.",
    ),
}

CHECKS: dict[str, tuple[str, str]] = {
    "E601": (
        "a saved model does not score as it did before",
        "A dry run saves the model, loads it and scores the same rows again: the results must be "
        "equal to the last bit. This machine, or its libraries, computed something else.",
    ),
    "E602": (
        "an exported graph does not score as its model does",
        "Before an ONNX file is written, ONNX Runtime and torch score the same rows with the same "
        "draws. They must agree to 0.001 nats or, where scores are large, to 1e-5 of the score, "
        "and so must the coded cells. The libraries' versions do not fit together.",
    ),
    "E603": (
        "a collapsed model is not exported",
        "The latents of a collapsed model tell nothing about a row: it has learned each column by "
        "itself, and its scores are those of independent columns. Fit again with --set "
        "free_bits=0.5 or longer, or export it all the same with --allow-collapsed.",
    ),
}

CATALOGUE: dict[str, Entry] = {
    code: Entry(*entry)
    for part in (DATA, MODELS, USAGE, RESOURCES, NUMBERS, STOPS, CHECKS)
    for code, entry in part.items()
}
