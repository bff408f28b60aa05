"""E1xx: model files that are damaged, foreign or too new."""

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
}
