"""E3xx, E4xx, E5xx, E6xx: resources, numbers, stops and checks."""

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
