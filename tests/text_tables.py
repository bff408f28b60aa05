"""How a text table may be written."""

import datetime as dt

PLAIN = {"a": [1, 2], "b": ["x", "y"]}

# How a text table may be written: content, what is read, and what the note must say.
CSV = {
    "commas": ("a,b\n1,x\n2,y\n", PLAIN, None),
    "semicolons": ("a;b\n1;x\n2;y\n", PLAIN, "semicolons"),
    "tabs": ("a\tb\n1\tx\n2\ty\n", PLAIN, "tabs"),
    "bars": ("a|b\n1|x\n2|y\n", PLAIN, "bars"),
    "windows lines": ("a,b\r\n1,x\r\n2,y\r\n", PLAIN, None),
    "old mac lines": ("a,b\r1,x\r2,y\r", PLAIN, None),
    "no last line end": ("a,b\n1,x\n2,y", PLAIN, None),
    "blank lines": ("\na,b\n\n1,x\n\n2,y\n\n", PLAIN, None),
    "bom": ("\ufeffa,b\n1,x\n2,y\n", PLAIN, "byte order mark"),
    "utf-16": ("a,b\n1,x\n2,y\n".encode("utf-16"), PLAIN, "UTF-16"),
    "utf-16 without mark": ("a,b\n1,x\n2,y\n".encode("utf-16-le"), PLAIN, "UTF-16"),
    "latin-1": ("a,b\n1,é\n2,y\n".encode("latin-1"), {"a": [1, 2], "b": ["é", "y"]}, "1252"),
    "latin-1 header": ("a,é\n1,x\n".encode("latin-1"), {"a": [1], "é": ["x"]}, "1252"),
    "utf-8": ("a,ü\n1,漢\n", {"a": [1], "ü": ["漢"]}, None),
    "spaces in names": (" a , b\n1,x\n2,y\n", PLAIN, "spaces"),
    "empty name": (",b\n1,x\n2,y\n", {"unnamed_0": [1, 2], "b": ["x", "y"]}, "'unnamed_0'"),
    "no header": ("1,2.5\n3,4.5\n", {"x0": [1, 3], "x1": [2.5, 4.5]}, "no header"),
    "no header, words too": (
        "5.1,red\n4.9,blue\n4.7,red\n",
        {"x0": [5.1, 4.9, 4.7], "x1": ["red", "blue", "red"]},
        "no header",
    ),
    "numbers among names": (
        "year,2010,x\n1,5,u\n2,6,v\n",
        {"year": [1, 2], "2010": [5, 6], "x": ["u", "v"]},
        None,
    ),
    "years among names": (
        "who,2010,2015\nu,5,7\nv,6,8\n",
        {"who": ["u", "v"], "2010": [5, 6], "2015": [7, 8]},
        None,
    ),
    "decimal commas, no header": (
        "1,5;2,5\n3,5;4,25\n",
        {"x0": [1.5, 3.5], "x1": [2.5, 4.25]},
        "semicolons",
    ),
    "numbered header": ("0,1\n5,6\n7,8\n", {"0": [5, 7], "1": [6, 8]}, None),
    "years as header": ("2019,2020\n5,6\n7,8\n", {"2019": [5, 7], "2020": [6, 8]}, None),
    "one column": ("a\n1\n\n3\n", {"a": [1, None, 3]}, None),
    "quoted separators": ('a,b\n1,"x,y"\n2,"p""q"\n', {"a": [1, 2], "b": ["x,y", 'p"q']}, None),
    "quoted lines": ('a,b\n1,"x\ny"\n2,z\n', {"a": [1, 2], "b": ["x\ny", "z"]}, None),
    "inches": ('a,b\n1,5" pipe\n2,y\n', {"a": [1, 2], "b": ['5" pipe', "y"]}, None),
    "missing": ("a,b\nNA,x\n-,\n3,NA\n", {"a": [None, None, 3], "b": ["x", None, "NA"]}, None),
    "none and nan": ("a,b\nNone,nan\n1.5,2.5\n", {"a": [None, 1.5], "b": [None, 2.5]}, None),
    "empty column": ("a,b\n1,\n2,\n", {"a": [1, 2], "b": [None, None]}, None),
    "leading zeros": ("a,b\n007,1\n010,2\n", {"a": ["007", "010"], "b": [1, 2]}, None),
    "zero itself": ("a,b\n0,0.5\n1,0.25\n", {"a": [0, 1], "b": [0.5, 0.25]}, None),
    "long ids": ("a\n12345678901234567890\n1\n", {"a": ["12345678901234567890", "1"]}, None),
    "big numbers": ("a\n1e300\n1\n", {"a": [1e300, 1.0]}, None),
    "decimal comma": (
        "a;b\n1,5;x\n2,25;y\n",
        {"a": [1.5, 2.25], "b": ["x", "y"]},
        "decimal commas",
    ),
    "quoted decimal comma": (
        'a,b\n"1,5",x\n"2,25",y\n',
        {"a": [1.5, 2.25], "b": ["x", "y"]},
        "decimal",
    ),
    "thousands": ('a\n"1,234.5"\n"1,234,567"\n', {"a": [1234.5, 1234567.0]}, "thousands"),
    "german": (
        "a;b\n1.234,5;x\n-17,25;y\n",
        {"a": [1234.5, -17.25], "b": ["x", "y"]},
        "thousands",
    ),
    "swiss": (
        "a,b\n1'234.5,x\n1'234'567,y\n",
        {"a": [1234.5, 1234567.0], "b": ["x", "y"]},
        "numbers",
    ),
    "dollars": ('a\n"$1,234"\n$5\n', {"a": [1234.0, 5.0]}, "the symbol $"),
    "euros": ("a;b\n12,50 €;x\n-1,00 €;y\n", {"a": [12.5, -1.0], "b": ["x", "y"]}, "the symbol €"),
    "percent": ("a\n12%\n7.5%\n", {"a": [12.0, 7.5]}, "the symbol %"),
    "mixed currencies": ("a\n$5\n€6\n", {"a": ["$5", "€6"]}, None),
    "versions": ("a,b\n1.2.3,1\n1.2.4,2\n", {"a": ["1.2.3", "1.2.4"], "b": [1, 2]}, None),
    "dates": (
        "a\n2024-01-31\n2024-02-01\n",
        {"a": [dt.date(2024, 1, 31), dt.date(2024, 2, 1)]},
        None,
    ),
    "times": ("a\n2024-01-31T10:00:00\n", {"a": [dt.datetime(2024, 1, 31, 10)]}, None),
    "truth": ("a\ntrue\nfalse\n", {"a": [True, False]}, None),
    "formulas stay text": ('a\n"=1+1"\n@SUM(A1)\n', {"a": ["=1+1", "@SUM(A1)"]}, None),
    "mixed": ("a\n1\nx\n2.5\n", {"a": ["1", "x", "2.5"]}, None),
}
