"""E2xx: arguments, flags and configurations."""

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
        "two arguments contradict each other",
        "The same thing was said twice, or two things that exclude each other; the message "
        "names them.",
    ),
    "E238": (
        "there is no such error code",
        "Codes are printed in brackets after the word error; `lowerbound explain` lists them.",
    ),
    "E239": (
        "a column cannot be renamed",
        "--rename THEIRS=OURS needs a column THEIRS in the data and a free name OURS.",
    ),
    "E240": (
        "an argument is out of its range",
        "The message names the argument, the value it was given and what it may be.",
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
    "E269": (
        "this is a bug",
        "The program met something that nobody foresaw. Nothing of yours is wrong. Please report "
        "the command, its output with --debug, and what `lowerbound doctor --json` prints; no "
        "data need to be sent.",
    ),
}
