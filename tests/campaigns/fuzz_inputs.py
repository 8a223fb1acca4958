"""What `fuzz.py` hands in: for each target, a valid input that is then mutated in its structure."""

# ruff: noqa: E501 (lists of hostile values)
# fmt: off

import argparse
import copy
import io
import json
import math
import os
import pickle
import random
import shutil
import socket
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tcvae_ref import cli
from tcvae_ref.data import grid, render, write_npz
from tcvae_ref.oracle import records, vectors

SEEDS = {}
"""Valid inputs, made once by `prepare`."""
TINY = ["--encoder", "8", "--decoder", "8", "--latent", "2", "--batch", "16", "--epochs", "2"]
NUMPY = ["--kernels", "numpy"]

INTEGERS = (*(0, 1, -1, 2, 3, 7, 255, 2**31 - 1, 2**31, 2**32, -(2**31)), *(2**63 - 1, 2**63, 2**64, 10**12, 10**40))
REALS = (0.0, -0.0, 1.0, 1e-300, 5e-324, 1e300, 1.7e308, -1e308, math.nan, math.inf, -math.inf, 0.5, 1e18)
WORDS = (
    *(
        "", " ", "\t", "a", ",", "=", ":", ".", "..", "/", "~", "*", "%s", "{}", "{0.__class__}", "--", "-",
        "--help", "@x",
    ),
    *(
        "nan", "inf", "None", "True", "1e400", "0x10", "1_000", "１２", "é漢字🎉", "\u202eabc", "a\nb", "a\rb",
        "\x1b[31m", "\x7f",
    ),
    *(
        "$\\frac$", "$x_{$",
        "$$", "\\", "'", '"', "`id`", "<b>&", "../../x", "/etc/passwd", "a" * 300, "b" * 5000, "x=y,z",
    ),
    *("\udcff", "\ud800", "a\0b", "\ufeff", "null", "9" * 5000, "[" * 3000, "-1", "mu", "scale", "all", "seed"),
)


class Case(NamedTuple):
    """One command line, whose inputs are in the sandbox."""

    argv: list
    long: bool = False
    """Whether it may take long."""
    talks: bool = False
    """Whether standard error may have more than the complaint, and files be written before a failure."""


# --- mutations of structure --------------------------------------------------------------------------------


def chance(rng, p):
    """Whether something that has this probability happens."""
    return rng.random() < p


def word(rng):
    """A text for a command line: without NUL, of the characters that a system may hand over."""
    return rng.choice([w for w in WORDS if "\0" not in w and "\ud800" not in w])


def value(rng, depth=0):
    """Any value that JSON or TOML can hold, and some that they cannot."""
    kind = rng.randrange(9 if depth < 2 else 6)
    if kind < 2:
        return rng.choice(INTEGERS)
    if kind < 3:
        return rng.choice(REALS)
    if kind < 5:
        return rng.choice(WORDS)
    if kind == 5:
        return rng.choice((None, True, False))
    if kind == 6:
        return [value(rng, depth + 1) for _ in range(rng.choice((0, 1, 2, 5)))]
    if kind == 7:
        return {rng.choice(WORDS): value(rng, depth + 1) for _ in range(rng.choice((0, 1, 3)))}
    nested = rng.choice(INTEGERS)
    for _ in range(rng.choice((3, 60, 500))):
        nested = [nested] if chance(rng, 0.5) else {"a": nested}
    return nested


def places(content, found=None):
    """Every (container, key) in nested lists and dictionaries."""
    found = [] if found is None else found
    keys = list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        found.append((content, key))
        places(content[key], found)
    return found


def mutated(rng, content, times=None, value=value):
    """A copy of nested content with some entries replaced, removed, added, moved or doubled."""
    content = copy.deepcopy(content)
    for _ in range(times or rng.choice((1, 1, 1, 2, 4))):
        every = places(content)
        if not every:
            break
        owner, key = rng.choice(every)
        other, another = rng.choice(every)
        act = rng.randrange(9)
        if act < 4:
            owner[key] = value(rng)
        elif act == 4:
            del owner[key]
        elif act == 5:
            owner[key] = copy.deepcopy(other[another])
        elif act == 6 and isinstance(owner, dict):
            owner[rng.choice(WORDS)] = owner.pop(key)
        elif act == 7 and isinstance(owner, dict):
            owner[rng.choice(WORDS)] = value(rng)
        elif isinstance(owner, list):
            owner.insert(rng.randrange(len(owner) + 1), copy.deepcopy(owner[key]) if chance(rng, 0.5) else value(rng))
        elif isinstance(owner[key], int | float):
            owner[key] = owner[key] * rng.choice((-1, 0, 2, 0.5, 1000))
    return content


def spoilt(rng, data):
    """Bytes with some flipped, cut off, doubled, moved or overwritten."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 30))):
        if not data:
            break
        at = rng.randrange(len(data))
        if chance(rng, 0.4):  # near an end: where headers are
            at = (
                min(len(data) - 1, rng.randrange(200))
                if chance(rng, 0.5)
                else max(0, len(data) - 1 - rng.randrange(300))
            )
        size = min(len(data) - at, rng.choice((1, 2, 4, 8, 64)))
        act = rng.randrange(7)
        if act == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif act == 1:
            data[at : at + size] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * size
        elif act == 2 and chance(rng, 0.4):
            del data[at:]
        elif act == 3:
            del data[at : at + size]
        elif act == 4:
            data[at:at] = data[at : at + size]
        elif act == 5:
            data[at : at + size] = rng.randbytes(size)
        else:
            data[at : at + 4] = struct.pack(rng.choice("<>") + "I", rng.choice((0, 1, 2**31, 2**32 - 1, 65535, 10**6)))
    return bytes(data)


def odd_path(rng, valid="in/a", kind=None):
    """The name of something that is not the file it should be; it is made where it is to be there."""
    kind = rng.randrange(17) if kind is None else kind
    path = Path(valid)
    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)
    suffix = path.suffix
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        path.symlink_to(path.name)
    elif kind == 3:
        path.symlink_to(
            rng.choice(("/dev/zero", "/dev/null", "/dev/full", "/dev/stdin", "/proc/self/mem", "/proc/1/environ"))
        )
    elif kind == 4:
        path.write_bytes(b"")
    elif kind == 5:
        return f"in/{'l' * 300}{suffix}"
    elif kind == 6:
        return "in/" + "d/" * 3000 + f"a{suffix}"
    elif kind == 7:
        path.write_bytes(rng.randbytes(200))
        return f"{valid}/x{suffix}"
    elif kind == 8:
        with open(path, "wb") as file:
            file.truncate(1 << 44 if chance(rng, 0.5) else 1 << 33)
    elif kind == 9:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(valid)
    elif kind == 10:
        path.symlink_to("nothing")
    elif kind == 11:
        return rng.choice(
            (".", "..", "/", "/dev/null", "/dev/zero", "/dev/full", "/proc/self/fd", "in", "out", "~", "~nobody/x")
        )
    elif kind == 12:
        return f"in/\udcff\n漢 {suffix}"
    elif kind == 13:
        path.write_bytes(rng.randbytes(rng.choice((1, 10, 1000))))
    elif kind == 14:
        path.write_bytes(b"\0" * rng.choice((1, 4096)))
    elif kind == 15:
        return word(rng)
    return valid


# --- 1 the command line ------------------------------------------------------------------------------------


def commands(parser=None, words=()):
    """Every command with its parser."""
    parser = parser or cli._parser()
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield list(words), parser
    for action in below:
        for name, one in action.choices.items():
            yield from commands(one, (*words, name))


def usual(rng, name, action):
    """A valid value of an argument, by its name."""
    run, sprites = SEEDS["run"], SEEDS["sprites"]
    known = {
        "out": f"out/{rng.choice('ab')}", "resume": "out/run", "what": rng.choice((run, SEEDS["representation"])),
        "folder": rng.choice((run, SEEDS["swept"], "out/run", SEEDS["pictures"])), "data": sprites, "file": sprites,
        "grid": rng.choice(("1x1x1x4x4", "1,2,1,5,5", "hearts")), "heads": "1x2x2x2", "faces": SEEDS["faces"],
        "celeba": SEEDS["celeba"], "limit": "4", "crop": "8", "cache": "out/cache", "json": "out/a.json",
        "checkpoint": "out/c.npz", "metrics": rng.choice(("mig", "all", "mig,dci")), "factors": "posX", "samples": "50",
        "encoder": "8", "decoder": "8", "discriminator": "8", "epochs": "1", "batch": "8", "latent": "2",
        "correlated": "posX,posY,linear", "study": SEEDS["study"], "jobs": "1", "target": f"{SEEDS['loss']}:loss",
        "html": "out/a.html", "junit": "out/a.xml", "cases": SEEDS["cases"], "framework": "numpy", "dtype": "float64",
        "max_examples": "1", "checks": "values", "estimator": rng.choice(("mss", "auto")), "width": "log-var",
        "returns": "tc", "weights": "beta=2", "bind": "a=1", "args": "z=z", "packed": "z:mu", "factory": "f:g",
        "init": "a=1", "image_shape": "1,2,3",
        "id": rng.choice(("mss-weights-in-columns", SEEDS["case"])), "sampler": f"{SEEDS['loss']}:sample",
        "loss": f"{SEEDS['loss']}:loss", "warm_up": "TC", "steps": "0,1,10", "time_limit": "5", "image": "0",
        "variant": "eager", "M": "4", "N": "9", "dataset_size": "20", "on": "dask://127.0.0.1:1", "threads": "1",
        "save_every": "0",
    }
    return str(known.get(name, rng.choice(list(action.choices)) if action.choices else "1"))


def hostile(rng, action):
    """A value of an argument that it may not be ready for."""
    kind = rng.randrange(5)
    if kind == 0:
        return str(rng.choice(INTEGERS))
    if kind == 1:
        return str(rng.choice(REALS))
    if kind == 2:
        return odd_path(rng, f"in/{rng.randrange(1000)}{rng.choice(('', '.npz', '.toml', '.npy', '.pth', '.json'))}")
    if kind == 3:
        return f"{rng.choice(('out', 'in'))}/{word(rng)}"[:200].rstrip("/") + rng.choice(("", ":loss", ".toml"))
    return word(rng)


def arguments(rng, box):
    """Any command, with any of its options, some of them wrong."""
    words, parser = rng.choice(list(commands()))
    (box / "out").mkdir(exist_ok=True)
    if chance(rng, 0.3):
        shutil.copytree(SEEDS["run"], box / "out" / "run")
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    wrong = rng.choice((0.0, 0.1, 0.3))
    argv = list(words)
    for action in actions:
        needed = action.required or (not action.option_strings and action.nargs != "?")
        if not chance(rng, 0.97 if needed else rng.choice((0.1, 0.25))):
            continue
        given = hostile(rng, action) if chance(rng, wrong) else usual(rng, action.dest, action)
        if action.nargs == 0:
            argv.append(action.option_strings[-1])
        elif action.option_strings:
            argv += [f"{action.option_strings[-1]}={given}"] if chance(rng, 0.5) else [action.option_strings[-1], given]
        else:
            argv.append(given)
    if words == ["bench"]:
        argv += [part for _ in range(rng.randrange(4)) for part in (rng.choice(BENCH), hostile(rng, None))]
    if words[0] in ("train", "evaluate", "sweep"):
        argv += NUMPY if not any(part.startswith("--kernels") for part in argv) else []
    if words[0] == "train":
        argv = [*words, *TINY, *argv[1:]]
    if words[0] == "check":
        argv += [] if "--max-examples" in "".join(argv) else ["--max-examples", "1"]
    if chance(rng, 0.03):
        argv.insert(rng.randrange(len(argv) + 1), word(rng))
    return Case(
        argv, long=True, talks=words[0] in ("check", "check-step", "weights", "replay", "train", "sweep", "figures")
    )


BENCH = ("--sizes", "--dims", "--peers", "--dtype", "--seconds", "--repeats", "--threads", "--out", "--help")

# --- 2 studies ---------------------------------------------------------------------------------------------

STUDY = {
    "study": {
        "title": "a", "claim": "b", "figure": "trade-off", "metrics": ["mig-binned"], "seeds": [0, 1],
        "series": ["objective"], "x": "beta", "y": ["mig"],
    },
    "base": {"data": {"grid": [1, 1, 1, 4, 4]}, "encoder": [8], "decoder": [8], "batch": 8, "epochs": 1, "latent": 2},
    "grid": [{"objective": ["beta-vae", "beta-tcvae"], "beta": [1.0]}],
}
BIASES = {
    "study": {"title": "a", "claim": "b", "figure": "bias"},
    "bias": {"N": [8, 9], "M": [2, 4], "D": [2], "sigma": [0.5], "batches": [2], "exact_draws": [1]},
}
SENSITIVE = {
    "study": {"title": "a", "claim": "b", "figure": "sensitivity"}, "base": STUDY["base"], "grid": {"beta": [1]},
    "sensitivity": {"factor_vae_batch": [64, 8], "repeats": [2]},
}


def toml(content, rng):
    """Render nested content as TOML; what TOML cannot hold, as something near."""

    def one(part):
        if isinstance(part, bool) or part is None:
            return {True: "true", False: "false", None: rng.choice(("1979-05-27", "07:32:00", "null"))}[part]
        if isinstance(part, int):
            return rng.choice((str, str, str, hex))(part) if part >= 0 else str(part)
        if isinstance(part, float):
            return repr(part)
        if isinstance(part, str):
            return json.dumps(part, ensure_ascii=chance(rng, 0.5)).replace("\x7f", "\\u007f")
        if isinstance(part, list):
            return f"[{', '.join(map(one, part))}]"
        return "{ " + ", ".join(f"{json.dumps(name)} = {one(entry)}" for name, entry in part.items()) + " }"

    lines = []
    for name, table in content.items():
        if isinstance(table, dict):
            lines += [f"[{json.dumps(name)}]", *(f"{json.dumps(entry)} = {one(part)}" for entry, part in table.items())]
        elif isinstance(table, list) and table and all(isinstance(block, dict) for block in table):
            for block in table:
                lines += [f"[[{json.dumps(name)}]]", *(f"{json.dumps(e)} = {one(part)}" for e, part in block.items())]
        else:
            lines.insert(0, f"{json.dumps(name)} = {one(table)}")
    return "\n".join(lines) + "\n"


def setting(rng):
    """What a study's entries may be set to, often of the right kind."""
    return rng.choice(
        (
            value(rng), value(rng), [value(rng)], list(range(1000)), [[8], []], [[[8]]], [True], [1, 1.0], [0x1 << 20000],
            [1 << 20000], 1 << 20000, "conv", "flow", "laplace", "factor-vae", ["vae", "factor-vae"], "scatter", "lines",
            "systems", "bias", "sensitivity", ["mws", "mss", "minibatch", "mss-column-weighted"], {"grid": "hearts"},
            {"heads": [1, 2, 2, 2]}, {"file": "a\0b"}, {"faces": "../x.npy"}, {"grid": [[1]]}, {"folder": "in", "limit": 1},
            {"grid": [1, 1, 1, 4, 4], "correlated": ["posX", "posY", "linear"]}, "data", "seed", "beta", "encoder",
            [{"grid": [1, 1, 1, 4, 4]}, {"heads": [1, 2, 2, 2]}], ["data"], ["seed"], ["dci_completeness"], ["reconstruction"],
        )
    )


def study(rng, box):
    """A study's file, swept or only read."""
    content = mutated(rng, rng.choice((STUDY, STUDY, STUDY, BIASES, SENSITIVE)), value=setting)
    if chance(rng, 0.1):
        names = rng.sample(("beta", "alpha", "gamma", "latent", "batch", "epochs", "beta_warm_up"), 5)
        content.setdefault("grid", {})
        content["grid"] = {name: list(range(1, 300)) for name in names}
    try:
        data = toml(content, rng).encode("utf-8", "surrogatepass")
    except RecursionError:
        data = b"a = " + b"[" * 100_000
    if chance(rng, 0.2):
        data = rng.choice((spoilt(rng, data), b"\xef\xbb\xbf" + data, data.decode(errors="replace").encode("utf-16")))
    stems = (
        "a", "a", "a", "..", ".", "...", "runs", "photographs", " ", "a b", "é漢", "$x_{$",
        "-x", "\udcff", "a\nb", "n" * 250,
    )
    path = f"in/{rng.choice(stems)}.toml"
    if chance(rng, 0.06):
        path = odd_path(rng, path)
    else:
        Path(path).write_bytes(data)
    argv = ["sweep", path, "--out", "out/store", "--jobs", "1", *NUMPY]
    return Case(argv if chance(rng, 0.04) else [*argv, "--dry-run"], long="--dry-run" not in argv, talks=True)


# --- 3 arrays in files -------------------------------------------------------------------------------------


class Pickled:
    """An object whose loading leaves a mark."""

    def __reduce__(self):
        return exec, ("import os; open(os.environ['MARKER'], 'w').close()",)


def header(descr, fortran, shape, version=(1, 0)):
    """An npy header of these texts, honest or not."""
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}".encode("latin-1", "replace")
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    size = struct.pack("<H", len(text) & 0xFFFF) if version == (1, 0) else struct.pack("<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text


def npy(rng, array, wild):
    """The bytes of an npy; a wild one has a header or contents that are not as they should be."""
    act = rng.randrange(24) if wild else 99
    descr, shape, fortran = repr(array.dtype.str), repr(array.shape), False
    data, version = np.ascontiguousarray(array).tobytes(), (1, 0)
    if act == 0:
        descr = repr(
            rng.choice(
                (
                    "|O", ">f8", "<f2", "<f16", "<c16", "|b1", "<i8", ">i4", "|u1", "<U3", "|S0", "<U0", "|V0",
                    "<M8[ns]", "<m8", "|V8", "x", "f8,f8", "<f8" * 50,
                )
            )
        )
    elif act == 1:
        descr = rng.choice(
            (
                "[('a','<f8'),('b','<i4',(2,))]", "[('a','|O')]", "('<f8',(10**9,))", "None", "3", "[]", "'<f8',",
                "{}", "[('a', [('b', '<f8')])]",
            )
        )
    elif act == 2:
        sizes = [
            rng.choice((*array.shape, 0, 1, -1, 10**6, 10**12, 2**40, 2**62, 2**63, 10**30))
            for _ in range(rng.choice((0, 1, 2, 3, 40)))
        ]
        shape = rng.choice((repr(tuple(sizes)), "(True, 5)", "(-1, 4)", "None", "5", "(2.0,)", "('a',)", "((2,),)"))
    elif act == 3:
        fortran = rng.choice((True, 1, 2, "'x'", None, [True], "1//0", "10**10**10"))
        data = np.asfortranarray(array).tobytes("A")
    elif act == 4:
        buffer = io.BytesIO()
        np.save(buffer, np.array([Pickled(), Pickled()], object).reshape(rng.choice(((2,), (1, 2)))), allow_pickle=True)
        return buffer.getvalue()
    elif act == 5:
        return pickle.dumps(Pickled())
    elif act == 6:
        version = rng.choice(((2, 0), (3, 0), (0, 0), (1, 1), (255, 255), (4, 0)))
    elif act == 7:
        return spoilt(rng, header(descr, fortran, shape)) + data
    elif act == 8:
        data = data[: rng.randrange(len(data) + 1)] if chance(rng, 0.7) else data + data
    elif act == 9:
        size = rng.choice((0, 0xFFFF, 5000))
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", size) + b"{" + b" " * 6000 + data
    elif act == 10:  # a header that says it is long, and is, once it is unpacked
        return b"\x93NUMPY\x02\x00" + struct.pack("<I", 0xFFFFFFF0) + b" " * rng.choice((10**5, 2 * 10**7))
    elif act == 11:
        return header("'" + "(" * rng.choice((10, 900)), fortran, shape) + data
    elif act == 12:
        data = np.full_like(array, 0).tobytes() if array.dtype.kind != "U" else b"\xff\xff\xff\x7f" * (len(data) // 4)
    elif act == 13 and array.dtype.kind == "U":
        data = rng.choice(
            (b"\x00\xd8\x00\x00", b"\n\0\0\0", b"$\0\0\0", b"\0\0\0\0", b"\x1b\0\0\0", b"\x2e\x20\x00\x00")
        ) * (len(data) // 4)
    elif act == 14:
        array = array.astype(rng.choice((">f8", "<f4", "f2", "f16", "<i8", ">u8", "u1", "?", "c16", "S8", "U8", "i2")))
        return npy(rng, array, wild=False)
    elif act == 15 and array.dtype.kind in "fiu":
        array = array.astype(np.float64 if chance(rng, 0.7) else array.dtype)
        for _ in range(rng.choice((1, 3, array.size))):
            pool = REALS if array.dtype.kind == "f" else (0, 1, 2**62, 255, -(2**62), 10**9)
            np.put(array, rng.randrange(array.size), np.array(rng.choice(pool)).astype(array.dtype))
        return npy(rng, array, wild=False)
    elif act == 16:
        array = rng.choice(
            (
                array[:0], array[..., None], array.ravel(), array.T, array[:1], np.concatenate([array, array]),
                array.reshape(-1, 1), array[()],
            )
        )
        return npy(rng, array, wild=False)
    elif act == 17 and array.dtype.kind == "U":
        array = np.array([rng.choice(WORDS) for _ in array] if chance(rng, 0.8) else [array[0]] * len(array))
        return npy(rng, array, wild=False)
    elif act == 18 and array.dtype.kind == "f":
        return npy(rng, array * rng.choice((1e300, 1e-300, 1e154, -1e20, 700, 1e5, 0.0)), wild=False)
    elif act == 19 and array.dtype.kind == "f":
        return npy(
            rng, np.round(array) if chance(rng, 0.5) else np.broadcast_to(array[:1], array.shape).copy(), wild=False
        )
    return header(descr, fortran, shape, version) + data


def lying(rng, data):
    """A zip with other numbers in its directory than are true."""
    data = bytearray(data)
    starts = [i for i in range(len(data)) if data[i : i + 4] == rng.choice((b"PK\1\2", b"PK\1\2", b"PK\3\4"))]
    for at in rng.sample(starts, min(len(starts), rng.choice((1, 2)))):
        offset, form = rng.choice(
            ((8, "H"), (10, "H"), (16, "I"), (20, "I"), (24, "I"), (28, "H"), (30, "H"), (42, "I"))
        )
        at = min(at + offset, len(data) - 4)
        known = struct.unpack_from(f"<{form}", data, at)[0]
        most = 2 ** (8 * struct.calcsize(form)) - 1
        struct.pack_into(f"<{form}", data, at, rng.choice((0, 1, most, known + 1, known * 2, 8, 12, 14, 1000)) & most)
    return bytes(data)


def declaring(rng, name):
    """A small zip64 whose one member says it is a terabyte: zeros, if it were there."""
    rows = 10**12 // 64
    shape = rng.choice((f"({rows}, 8)", f"({rows * 8},)", f"(8, {rows})", f"({rows // 64}, 64, 64)"))
    head = header("'<f8'" if "64, 64" not in shape else "'|u1'", rng.choice((False, True)), shape)
    size = len(head) + (rows * 64 if "64, 64" not in shape else rows // 64 * 4096)
    body = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = body.compress(head + b"\0" * 100_000) + body.flush()
    method, packed_size = rng.choice(((8, len(packed)), (0, len(head)), (0, size)))
    stored = packed if method else head
    member = f"{name}.npy".encode()
    extra = struct.pack("<HHQQ", 1, 16, size, packed_size)
    local = struct.pack(
        "<4sHHHHHIIIHH", b"PK\3\4", 45, 0, method, 0, 0, 0, 2**32 - 1, 2**32 - 1, len(member), len(extra)
    )
    begin = local + member + extra + stored
    entry = struct.pack(
        *("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 45, 45, 0, method, 0, 0, 0, 2**32 - 1, 2**32 - 1, len(member), len(extra)),
        *(0, 0, 0, 0, 0),
    )
    entry += member + extra
    return begin, entry


def with_lie(rng, data, name):
    """An archive to which a member that says it is huge is added, in place of the one of that name."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {n: archive.read(n) for n in archive.namelist() if n != f"{name}.npy"}
    begin, entry = declaring(rng, name)
    buffer = io.BytesIO()
    buffer.write(begin)
    with zipfile.ZipFile(buffer, "a") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    whole = buffer.getvalue()
    end = whole.rindex(b"PK\5\6")
    directory = struct.unpack_from("<I", whole, end + 16)[0]
    count = len(members) + 1
    tail = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, end - directory + len(entry), directory, 0)
    return whole[:directory] + entry + whole[directory:end] + tail


def npz(rng, arrays):
    """The bytes of an npz of these arrays, mutated."""
    wild = rng.choice(list(arrays)) if chance(rng, 0.8) else None
    method = rng.choice(
        (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    )
    buffer, names = io.BytesIO(), list(arrays)
    if chance(rng, 0.1):
        names.remove(rng.choice(names))
    if chance(rng, 0.1):
        names.append(rng.choice(names))
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name in names:
            again = name == wild or chance(rng, 0.05)
            member = (
                rng.choice(("../../x.npy", "/x.npy", "", f"{name}.npy/", name, f"{name}.NPY", "a\nb.npy", "é.npy"))
                if chance(rng, 0.03)
                else f"{name}.npy"
            )
            archive.writestr(member, npy(rng, arrays[name], again))
        if chance(rng, 0.05):
            archive.writestr("metadata.npy", npy(rng, np.zeros(3), wild=True))
    data = buffer.getvalue()
    if chance(rng, 0.06):
        data = with_lie(rng, data, rng.choice(list(arrays)))
    if chance(rng, 0.12):
        data = lying(rng, data)
    return spoilt(rng, data) if chance(rng, 0.12) else data


def silenced(make):
    """Do without warnings of making wrong things on purpose."""

    def quiet(*given):
        import warnings

        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return make(*given)

    return quiet


@silenced
def representation(rng, box):
    """Somebody's codes for `evaluate`."""
    draws = np.random.default_rng(rng.randrange(2**32))
    N, D, K = rng.choice(((40, 3, 2), (12, 2, 1), (1, 1, 1), (90, 4, 3)))
    factors = draws.integers(0, 3, (N, K))
    mu = draws.standard_normal((N, D)) + factors[:, :1]
    arrays = {
        "mu": mu, "log_var": -draws.random((N, D)), "factors": factors,
        "factor_names": np.array(["ab", "c", "d"][:K]),
    }
    if chance(rng, 0.3):
        arrays["weights"] = draws.random(N)
    if chance(rng, 0.3):
        arrays = {"codes": mu, **{name: array for name, array in arrays.items() if name not in ("mu", "log_var")}}
    path = "in/model.npz"
    Path(path).write_bytes(npz(rng, arrays))
    if chance(rng, 0.02):
        path = odd_path(rng, path)
    figure = [] if chance(rng, 0.1) else ["--no-figures"]
    metrics = rng.choice(([], ["--metrics", "all"], ["-m", "mig-binned,sap,decomposition"]))
    more = rng.choice(([], ["--checkpoint", "out/c.npz"], ["--factors", "ab"]))
    argv = ["evaluate", path, "--json", "out/a.json", "--samples", "20", *NUMPY, *figure, *metrics, *more]
    return Case(argv, long=True, talks="all" in argv or not figure)


@silenced
def sprites(rng, box):
    """A data set of the dSprites form."""
    arrays = dict(np.load(SEEDS["sprites"]))
    path = "in/sprites.npz"
    Path(path).write_bytes(npz(rng, arrays))
    if chance(rng, 0.02):
        path = odd_path(rng, path)
    kind = rng.randrange(10)
    if kind < 6:
        return Case(["data", "verify", path], long=True)
    if kind < 9:
        return Case(["train", "--out", "out/run", "--data", path, *TINY, *NUMPY], long=True)
    return Case(["data", "show", "--data", path, "--out", "out/a.png"])


@silenced
def faces(rng, box):
    """A tensor of faces as npy, npz or pth."""
    array = np.arange(2 * 2 * 1 * 2 * 16, dtype=np.uint8).reshape(2, 2, 1, 2, 4, 4)
    path = f"in/faces.{rng.choice(('npy', 'npy', 'npz', 'pth'))}"
    if path.endswith("npz"):
        data = npz(rng, {"faces": array})
    elif path.endswith("npy"):
        data = npy(rng, array, wild=chance(rng, 0.9))
        data = spoilt(rng, data) if chance(rng, 0.2) else data
    else:
        data = tensor(rng, array)
    Path(path).write_bytes(data)
    if chance(rng, 0.06):
        path = odd_path(rng, path)
    return Case(["train", "--out", "out/run", "--faces", path, *TINY, *NUMPY], long=True)


def tensor(rng, array):
    """The bytes of a file of PyTorch's."""
    import torch

    values = torch.from_numpy(array)
    meta = torch.empty(10**6, 10**6, device="meta", dtype=torch.uint8)
    one = rng.choice(
        (
            values, values, values.to_sparse(), {"a": values}, [values], Pickled(), values.double(), values.T, meta,
            torch.zeros(1, dtype=torch.uint8).expand(10**4, 10**4, 1, 1, 8, 8), torch.nn.Parameter(values.float()), values[:0],
            torch.zeros(1, dtype=torch.uint8).as_strided((1, 1, 1, 1, 1, 1), (1,) * 6), None, "text", values.to(torch.bool),
        )
    )
    buffer = io.BytesIO()
    torch.save(one, buffer, _use_new_zipfile_serialization=chance(rng, 0.7))
    data = buffer.getvalue()
    return rng.choice((data, data, spoilt(rng, data), lying(rng, data), pickle.dumps(Pickled())))


@silenced
def decomposed(rng, box):
    """The checkpoint of a decomposition that is gone on with."""
    arrays = dict(np.load(SEEDS["decomposition"]))
    state = json.loads(arrays["state"].tobytes())
    if chance(rng, 0.5):
        text = json.dumps(mutated(rng, state)).encode()
        arrays["state"] = np.frombuffer(spoilt(rng, text) if chance(rng, 0.1) else text, np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        data = buffer.getvalue()
    else:
        data = npz(rng, arrays)
    Path("out/c.npz").write_bytes(data)
    if chance(rng, 0.05):
        odd_path(rng, "out/c.npz", rng.choice((0, 1, 2, 3, 4, 8, 9, 10, 13)))
    argv = ["evaluate", SEEDS["representation"], "--json", "out/a.json", "--checkpoint", "out/c.npz", "--samples", "20"]
    return Case([*argv, "--seed", "0", "-m", "decomposition", "--no-figures", *NUMPY])


# --- 4 runs and studies that were run ----------------------------------------------------------------------


def run(rng, box):
    """A run's folder in which something is not as it was left."""
    folder = box / "out" / "run"
    shutil.copytree(SEEDS[rng.choice(("run", "run", "factor run"))], folder)
    kind = rng.randrange(10)
    path = folder / "run.json"
    content = json.loads(path.read_text())
    if kind < 4:
        path.write_text(json.dumps(mutated(rng, content)))
    elif kind == 4:
        path.write_bytes(spoilt(rng, path.read_bytes()))
    elif kind == 5:
        path = folder / rng.choice(("run.json", "checkpoint.npz", "history.csv", ".lock", "evaluation.json", "figures"))
        odd_path(rng, str(path.relative_to(box)), rng.choice((0, 1, 2, 3, 4, 8, 9, 10, 13, 14)))
    elif kind == 6:
        (folder / rng.choice(("run.json", "checkpoint.npz", "history.csv"))).unlink()
    else:
        path = folder / "checkpoint.npz"
        arrays = dict(np.load(path))
        if kind == 7:
            position = json.dumps(mutated(rng, json.loads(arrays["position"].tobytes()))).encode()
            arrays["position"] = np.frombuffer(position, np.uint8)
            np.savez(path, **arrays)
        else:
            path.write_bytes(silenced(npz)(rng, arrays))
    text = (folder / "run.json").read_text(errors="replace") if kind < 5 else ""
    given = ["--epochs", "3"] if chance(rng, 0.3) else []
    if chance(rng, 0.5):
        return Case(["train", "--resume", "out/run", *given, *NUMPY], long=True, talks=True)
    if chance(rng, 0.06):
        return Case(["figures", "out/run"], long=True, talks=True)
    del text
    return Case(["evaluate", "out/run", "--samples", "20", "--no-figures", *NUMPY], long=True, talks=True)


def swept(rng, box):
    """The folder of a study that was swept, in which something is not as it was left."""
    shutil.copytree(SEEDS["store"], box / "out" / "store")
    folder = box / "out" / "store" / "tiny"
    for _ in range(rng.choice((1, 1, 2))):
        names = [
            p
            for p in sorted((box / "out" / "store").rglob("*"))
            if p.is_file() and p.suffix in (".csv", ".toml", ".txt", ".json")
        ]
        path = rng.choice([p for p in names if p.parent == folder]) if chance(rng, 0.8) else rng.choice(names)
        if path.suffix == ".csv" and chance(rng, 0.7):
            path.write_text(table(rng, path.read_text()), encoding="utf-8", errors="surrogatepass", newline="")
        elif path.suffix == ".json" and chance(rng, 0.8):
            path.write_text(json.dumps(mutated(rng, json.loads(path.read_text()))))
        elif path.suffix == ".toml" and chance(rng, 0.8):
            path.write_bytes(toml(mutated(rng, STUDY, value=setting), rng).encode("utf-8", "surrogatepass"))
        elif chance(rng, 0.3):
            odd_path(rng, str(path.relative_to(box)), rng.choice((0, 1, 2, 3, 4, 8, 9, 10, 13, 14)))
        else:
            path.write_bytes(spoilt(rng, path.read_bytes()))
    if chance(rng, 0.3):
        return Case(["sweep", SEEDS["study"], "--out", "out/store", "--jobs", "1", *NUMPY], long=True, talks=True)
    out = ["--out", "out/figures"] if chance(rng, 0.5) else []
    return Case(["figures", "out/store/tiny", *out], long=True, talks=True)


def table(rng, text):
    """A CSV with cells, columns or rows that are not as they were."""
    rows = [line.split(",") for line in text.splitlines()]
    for _ in range(rng.choice((1, 2, 6))):
        row = rng.choice(rows)
        k = rng.randrange(len(row) or 1)
        act = rng.randrange(7)
        if act < 3 and row:
            row[k] = str(rng.choice((*WORDS, *REALS, *INTEGERS)))
        elif act == 3 and row:
            del row[k]
        elif act == 4:
            row.insert(k, "1")
        elif act == 5:
            rows.insert(rng.randrange(len(rows)), list(row))
        elif len(rows) > 1:
            rows.remove(row)
    return "\n".join(map(",".join, rows)) + "\n"


# --- 5 pictures --------------------------------------------------------------------------------------------


def picture(rng, kind):
    """The bytes of a picture of some format, mutated."""
    mode = rng.choice(("RGB", "RGB", "L", "P", "RGBA", "LA", "1", "CMYK", "I;16", "I", "F", "YCbCr", "LAB", "HSV"))
    size = rng.choice(((12, 10), (8, 8), (1, 1), (300, 9)))
    image = Image.frombytes("RGB", size, rng.randbytes(3 * size[0] * size[1]))
    if mode != "RGB":
        image = image.convert("L").convert(mode) if mode in ("I;16", "I", "F") else image.convert(mode)
    options = {}
    if kind in ("gif", "tiff", "png", "webp") and chance(rng, 0.2):
        options = {"save_all": True, "append_images": [image.copy() for _ in range(3)]}
    if mode == "P" and chance(rng, 0.5):
        options["transparency"] = rng.choice((0, 255, b"\0\1\2"))
    if kind in ("jpeg", "png", "tiff", "webp") and chance(rng, 0.3):
        exif = Image.Exif()
        exif[0x0112] = rng.choice((0, 3, 6, 8, 9, 65535, "x", 1.5))
        options["exif"] = exif.tobytes() if chance(rng, 0.6) else spoilt(rng, exif.tobytes())
    if kind == "tiff":
        options["compression"] = rng.choice((None, "tiff_lzw", "tiff_deflate", "jpeg", "packbits", "group4"))
    buffer = io.BytesIO()
    try:
        image.save(buffer, kind, **options)
    except Exception:  # a mode that the format has not
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, kind)
    data = buffer.getvalue()
    if kind == "png" and chance(rng, 0.4):
        data = chunked(rng, data)
    return spoilt(rng, data) if chance(rng, 0.7) else data


def chunked(rng, data):
    """A PNG whose chunks are changed, with checksums that are right."""
    parts, at = [], 8
    while at + 8 <= len(data):
        size = struct.unpack_from(">I", data, at)[0]
        parts.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + size]])
        at += 12 + size
    act = rng.randrange(5)
    if act == 0:  # pixels without end
        sides = rng.choice(((30_000, 30_000), (20_000, 5_000), (2**31 - 1, 2**31 - 1), (0, 5), (10_000, 9_000)))
        parts[0][1] = struct.pack(">II", *sides) + bytes(
            (rng.choice((1, 8, 16)), rng.choice((0, 2, 3, 6)), 0, 0, rng.choice((0, 1)))
        )
    elif act == 1:
        text = rng.choice((b"zTXt", b"iTXt", b"iCCP"))
        bomb = zlib.compress(b"\0" * 5 * 10**7)
        parts.insert(1, [text, b"k\0" + (b"\1\0\0\0" if text == b"iTXt" else b"\0") + bomb])
    elif act == 2:
        parts.insert(rng.randrange(len(parts)), list(rng.choice(parts)))
    elif act == 3:
        del parts[rng.randrange(len(parts))]
    else:
        one = rng.choice(parts)
        one[1] = spoilt(rng, one[1])
    chunks = (struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in parts)
    return data[:8] + b"".join(chunks)


def pictures(rng, box):
    """A folder of pictures, or CelebA."""
    folder = box / "in" / "pictures"
    folder.mkdir()
    celeba = chance(rng, 0.35)
    if celeba:
        shutil.copytree(SEEDS["celeba"], folder, dirs_exist_ok=True)
        path = folder / "list_attr_celeba.txt"
        if chance(rng, 0.5):
            lines = path.read_bytes().splitlines()
            k = rng.randrange(len(lines))
            lines[k] = rng.choice(
                (
                    spoilt(rng, lines[k]), lines[k] + b" 1", b"", lines[k] * 2, b"../000001.jpg 1 1", b"9" * 5000,
                    b"-1", b"\0", "１".encode(), b"000001.jpg 1 \xff",
                )
            )
            path.write_bytes(b"\n".join(lines))
        elif chance(rng, 0.1):
            odd_path(rng, str(path.relative_to(box)), rng.choice((0, 1, 2, 3, 4, 8, 9, 10)))
        elif chance(rng, 0.3):
            rows = path.read_text().splitlines()[1:]
            text = "\n".join([f"image_id {rows[0]}", *rows[1:]]).replace(" ", ",")
            path.unlink()
            inner = folder / "img_align_celeba" / "img_align_celeba"
            shutil.copytree(folder / "img_align_celeba", box / "tmp" / "x")
            shutil.move(box / "tmp" / "x", inner)
            (folder / "list_attr_celeba.csv").write_bytes(
                spoilt(rng, text.encode()) if chance(rng, 0.7) else text.encode()
            )
        if chance(rng, 0.5):
            victim = rng.choice(sorted(folder.rglob("*.jpg")))
            if chance(rng, 0.2):
                odd_path(rng, str(victim.relative_to(box)), rng.choice((0, 1, 2, 3, 4, 8, 9, 10)))
            else:
                victim.write_bytes(picture(rng, rng.choice(("jpeg", "png"))))
    else:
        for k in range(rng.choice((1, 1, 2, 3))):
            kind = rng.choice(("png", "png", "jpeg", "jpeg", "gif", "bmp", "tiff", "webp"))
            ending = kind if chance(rng, 0.9) else rng.choice(("png", "JPG", "tif", "gif", "webp"))
            name = rng.choice(("a", "漢", "\udcff", "a b\n", "-x", "$x_{$"))
            (folder / f"{name}{k}.{ending}").write_bytes(picture(rng, kind))
        if chance(rng, 0.1):
            odd_path(rng, f"in/pictures/z.{rng.choice(('png', 'jpg'))}", rng.choice((0, 1, 2, 3, 4, 8, 9, 10, 13)))
        if chance(rng, 0.1):
            (folder / "loop").symlink_to(folder)
        if chance(rng, 0.05):
            (folder / "...").mkdir()
            (folder / "..." / "deep.png").write_bytes(picture(rng, "png"))
    crop = ["--crop", rng.choice(("0", "4", "1", "8"))]
    cache = ["--cache", "out/cache"] if chance(rng, 0.3) else []
    if cache and chance(rng, 0.3):
        odd_path(rng, "out/cache", rng.choice((0, 1, 2, 4, 10, 13)))
    limit = ["--limit", "2"] if chance(rng, 0.2) else []
    source = ["--celeba" if celeba else "--folder", "in/pictures", *crop, *cache, *limit]
    if chance(rng, 0.05):
        return Case(["data", "show", *source, "--out", "out/a.png"], long=True, talks=True)
    batch = ["--batch", "1", "--encoder", "2", "--decoder", "2", "--latent", "2", "--epochs", "1", "--estimator", "mws"]
    return Case(["train", "--out", "out/run", *source, *batch, *NUMPY], long=True, talks=True)


# --- 6 what the oracle is given ----------------------------------------------------------------------------

LOSS = """
import numpy as np

def _density(z, mu, log_var):
    return -0.5 * (np.log(2 * np.pi) + log_var + (z - mu) ** 2 * np.exp(-log_var))

def loss(z, mu, log_var, dataset_size):
    each = _density(z[:, None], mu[None], log_var[None])
    M = len(z)
    def lse(x):
        top = x.max(1, keepdims=True)
        return (top + np.log(np.exp(x - top).sum(1, keepdims=True)))[:, 0]
    constant = np.log(M * dataset_size)
    return {"tc": (lse(each.sum(2)) - constant - (lse(each) - constant).sum(1)).mean()}

def sample(mu, log_var, eps):
    return mu + np.exp(0.5 * log_var) * eps

def weights(step):
    return {"alpha": 1.0, "beta": 6.0, "gamma": 1.0}
"""

BODIES = (
    "return None", "return 'text'", "return float('nan')", "return np.nan", "return np.zeros(10**6)", "return (1, 2)", "return {}",
    "return {'tc': None}", "return {'tc': 'x'}", "return {'tc': np.zeros(3)}", "return {None: 1.0}", "return {1: 2, 'tc': 1.0}",
    "yield 1.0", "raise SystemExit", "raise SystemExit(0)", "raise KeyboardInterrupt", "raise GeneratorExit", "raise BaseException('x')",
    "raise Exception", "raise Hostile2()", "import sys; sys.exit(0)", "print('loud'); return 1.0", "import sys; sys.stdout.write('x' * 10**5); return 1.0",
    "z[:] = 0; return 1.0", "mu *= 2; return 1.0", "log_var.setflags(write=1); log_var[:] = np.nan; return 1.0", "return loss(z, mu, log_var, dataset_size)",
    "return Hostile()", "return {'tc': Hostile()}", "return [Hostile()]", "import sys; sys.modules.clear(); return 1.0",
    "import sys; del sys.modules['numpy']; return 1.0", "import threading; threading.Thread(target=lambda: None).start(); return 1.0",
    "import sys; sys.stdout.close(); return 1.0", "import os; os.chdir('/'); return 1.0", "import sys; sys.setrecursionlimit(50); return 1.0",
    "return np.float128(1)", "return 1j", "return True", "return 10**400", "return -0.0", "return np.array(1.0, object)", "return np.array('x')",
    "return type('A', (), {'tc': property(lambda s: 1 / 0)})()", "return type('A', (), {'shape': property(lambda s: 1 / 0)})()",
    "return type('A', (), {'shape': (2,), 'dtype': 'x'})()", "return type('A', (), {'__getattr__': lambda s, n: s})()", "async def f(): pass\n    return f()",
    "return np.ma.masked", "return np.datetime64('now')", "import warnings; warnings.warn('mine'); return 1.0", "return np.log(-z).sum()",
    "np.random.seed(0); return np.random.rand()", "np.seterr(all='raise'); return np.exp(1e4 * z).sum()", "return {'tc': 1.0, 'TC': 2.0}",
    "return {'tc': 1.0, 'mi': 1.0, 'dwkl': 1e400}", "return np.zeros((2**20, 2**20))", "return sys", "return z", "return mu.sum(), 3", "return np.matrix(1.0)",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); return 1.0", "import os; os.close(1); return 1.0", "import os; os.close(2); return 1.0",
    "import builtins; builtins.print = None; return 1.0", "import json; json.dumps = None; return 1.0", "return np.float64(1) if z.dtype == 'f8' else 'no'",
)
TOPS = (
    "", "", "", "", "import sys", "raise SystemExit(3)", "raise KeyboardInterrupt", "raise BaseException('x')", "1 / 0", "import nothing_like_it", "from . import x",
    "def __getattr__(name): raise RuntimeError(name)", "def __dir__(): return [1]", "print('hello')", "import sys; del sys.modules[__name__]",
    "import sys; sys.modules[__name__] = None", "x = (", "\tx", "é = 1", "import sys; sys.argv.clear()", "__name__ = None", "__file__ = None", "class E(Exception):\n    def __str__(self): raise ValueError\nraise E",
    "raise UnicodeDecodeError('a', b'b', 0, 1, 'c')", "raise SyntaxError", "raise SyntaxError('a', (None, None, None, None))", "raise Exception('a\\nb' * 1000)", "import os; os.chdir('/tmp')",
    "import sys; sys.path.clear()", "import sys; sys.stderr.write('x\\n')", "def f(): f()\nf()", "raise StopIteration", "raise ExceptionGroup('a', [ValueError()])", "raise MemoryError", "raise OSError",
    "raise FileNotFoundError(2, 'x')", "raise PermissionError(13, 'x', 'y')", "raise BrokenPipeError", "import torch_is_not_here.x", "from loss import nothing",
)
SIGNATURES = (
    "z, mu, log_var, dataset_size", "z, mu, log_var, dataset_size", "z, mu, log_var, dataset_size", "z, mu, log_var, dataset_size", "z, mu, logvar", "*a", "**k", "*a, **k", "", "z", "self, z, mu, log_var",
    "z, mu, log_var, dataset_size, /", "*, z, mu, log_var, dataset_size", "z, mu, log_var, dataset_size, extra", "z, mu, log_var, N=10, extra=np.zeros(3)", "q, r, s, t", "z, mu, std, var, log_var", "z, z_mean, z_log_var, n_data",
    "z, mu, log_var, dataset_size=Hostile()", "mu, log_var, z, beta, dataset_size", "z: Hostile(), mu, log_var, dataset_size", "z, dist, dataset_size", "params, z, dataset_size",
)
NAMES = (
    "loss", "loss", "loss", "loss", "loss", "nothing", "Hostile", "Hostile.method", "obj", "obj.method", "loss.__call__", "np", "np.sum", "builtin", "partial", "part2", "lam", "cls", "Cls.static", "Cls.cm", "meta", "loss.x", "__doc__", "wrapped", "sig", "desc", "Cls.prop",
)
CLASSES = """
import sys
class Hostile:
    __hash__ = None
    def __eq__(self, other): raise RuntimeError("eq")
    def __bool__(self): raise RuntimeError("bool")
    def __repr__(self): raise RuntimeError("repr")
    def __str__(self): raise RuntimeError("str")
    def __float__(self): raise RuntimeError("float")
    def __len__(self): return -1
    def __array__(self, *a, **k): raise RuntimeError("array")
    def __format__(self, spec): raise RuntimeError("format")
    def __iter__(self): raise RuntimeError("iter")
    def method(self, z, mu, log_var, dataset_size): return 1.0
class Hostile2(Exception):
    def __str__(self): raise RuntimeError("str")
    def __repr__(self): raise RuntimeError("repr")
class Meta(type):
    def __getattribute__(cls, name): raise RuntimeError(name)
    def __repr__(cls): raise RuntimeError
    def __instancecheck__(cls, other): raise RuntimeError
class meta(metaclass=Meta): pass
class Cls:
    def __init__(self, a): pass
    @staticmethod
    def static(z, mu, log_var, dataset_size): return 1.0
    @classmethod
    def cm(cls, z, mu, log_var, dataset_size): return 1.0
    @property
    def prop(self): raise RuntimeError
class Odd:
    def __init__(self): self.__name__ = self.__qualname__ = self.__module__ = 3
    def __getattr__(self, name): raise RuntimeError(name)
    def __call__(self, z, mu, log_var, dataset_size): return 1.0
obj, cls, builtin = Odd(), Cls, len
import functools
partial, part2 = functools.partial(len), functools.partial(lambda z, mu, log_var, dataset_size, k: 1.0, k=2)
lam = lambda z, mu, log_var, dataset_size: 1.0
def wrapped(z, mu, log_var, dataset_size): return 1.0
wrapped.__wrapped__ = wrapped
def sig(z, mu, log_var, dataset_size): return 1.0
sig.__signature__ = 3
sig.__module__ = None
class Desc:
    def __get__(self, *a): raise RuntimeError("get")
desc = Desc()
"""


def target(rng, box):
    """A module with a loss, or with something else."""
    wild = rng.randrange(5)
    text = LOSS
    if wild:
        function = f"def loss({rng.choice(SIGNATURES)}):\n    {rng.choice(BODIES)}\n"
        text = "\n".join(
            (
                rng.choice(TOPS) if chance(rng, 0.25) else "", "import numpy as np", CLASSES, LOSS,
                function if wild > 1 else "",
            )
        )
        if chance(rng, 0.1):
            text += f"loss = {rng.choice(('Hostile()', 'obj', 'meta', '3', 'None', 'np.vectorize(loss)', 'functools.lru_cache(loss)', 'sys', 'Hostile', 'type', 'property(loss)'))}\n"
    data = text.encode("utf-8", "surrogatepass")
    if chance(rng, 0.1):
        data = rng.choice(
            (
                spoilt(rng, data), b"\xff" + data, data.decode().encode("utf-16"), b"# coding: nothing\n" + data,
                data + b"\0", b"(" * 5000, b"x = " + b"-" * 10**5 + b"1",
            )
        )
    stem = rng.choice(
        (
            "loss_file", "loss_file", "loss_file", "json", "numpy", "a b", "é", "1", "-x", "\udcff", "a\nb",
            "tcvae_ref", "a.b", "__init__",
        )
    )
    path = f"in/{stem}.py"
    Path(path).write_bytes(data)
    if chance(rng, 0.04):
        path = odd_path(rng, path)
    name = f"{path}:{rng.choice(NAMES) if chance(rng, 0.6) else 'loss'}"
    if chance(rng, 0.05):
        name = rng.choice(
            (
                path, f"{path}:", ":loss", "", f"{path}:loss:loss", f"{path}:.", f"{path}:loss.", "os:system",
                "antigravity:x", "builtins:len", "tcvae_ref.cli:main", "this:s", "tcvae_ref:kl_terms",
            )
        )
    framework = rng.choice(([], ["--framework", "numpy"], ["--framework", "numpy"], ["--framework", "autograd"]))
    more = {
        "--estimator": ("mws", "mss", "minibatch", "exact", "symmetric-mss", "x"), "--returns": ("tc", "mi,tc,dwkl", "tc=x", "tc=0", "penalty", "-", "tc,tc", "log_qz"),
        "--weights": ("beta=6", "beta=nan", "beta=1e400", "gamma=-1", "x=1", "beta=", "alpha=1,alpha=2"), "--args": ("z=z", "z=q,mu=r", "z=nothing", "q=z", "z=z,z=mu", "="),
        "--bind": ("dataset_size=3", "extra=[1,2", "extra=" + "(" * 500, "x=1", "=", "dataset_size=0x" + "f" * 5000, "N=1e400", "extra=__import__('os')", "extra='\0'"),
        "--width": ("std", "var", "log-std", "x"), "--packed": ("params:mu,log_var", "z:mu,std", "dist:mu,var", ":", "x", "z:z,z"),
        "--factory": (f"{path}:Hostile", f"{path}:Cls", f"{path}:obj", "os:getcwd", "x", ":"),
    }
    options = [
        part
        for option, values in more.items()
        if chance(rng, 0.08)
        for part in (option, rng.choice(values).replace("\0", ""))
    ]
    kind = rng.randrange(20)
    if kind < 11:
        reports = rng.choice(
            ([], ["--json", "-"], ["--json", "out/a.json"], ["--html", "out/a.html"], ["--junit", "out/a.xml"])
        )
        checked = rng.choice((["--checks", "values"], ["--checks", "values"], []))
        argv = [
            "check", name, "--max-examples", "1", "--dtype", "float64", "--cases", "out/cases", *checked, *reports,
            *framework, *options,
        ]
    elif kind < 13:
        argv = ["weights", name, *framework, *options]
    elif kind < 15:
        argv = ["ghostwrite", name, *rng.choice(([], ["--out", "out/test_it.py"])), *framework, *options]
    elif kind < 19:
        part = rng.choice(("--sampler", "--loss", "--weights"))
        argv = [
            "check-step", part, name.replace(":loss", f":{rng.choice(('loss', 'sample', 'weights'))}"), "--steps",
            "0,1,10", *(framework or ["--framework", "numpy"]),
        ]
    else:
        argv = [
            "check", name, "--isolate", "--time-limit", "4", "--max-examples", "1", "--checks", "values", "--dtype",
            "float64", "--cases", "out/cases", *framework,
        ]
    return Case(argv, long=True, talks=True)


def saved_case(rng, box):
    """A saved case that is run again."""
    folder = box / "out" / "cases"
    shutil.copytree(SEEDS["cases"], folder)
    path = next(iter(folder.glob("*.json")))
    content = json.loads(path.read_text())
    kind = rng.randrange(8)
    if kind < 5:
        content = mutated(rng, content)
        if chance(rng, 0.8):  # with an id that fits
            try:
                path.unlink()
                content["id"] = "0" * 10
                kept = records._from_json(content)
                content["id"] = records.case_id(kept.target, kept.check, kept.dtype, kept.variant, kept.case)
            except Exception:  # it cannot have one
                pass
            path = folder / f"{content['id'] if isinstance(content, dict) else 'x'}.json"
        try:
            path.write_text(json.dumps(content))
        except (RecursionError, OSError, ValueError):
            path = folder / "0.json"
            path.write_text("[" * 10**5)
    elif kind == 5:
        path.write_bytes(spoilt(rng, path.read_bytes()))
    elif kind == 6:
        odd_path(rng, str(path.relative_to(box)), rng.choice((0, 1, 2, 3, 4, 8, 9, 10, 13)))
    else:
        odd_path(rng, "out/cases", rng.choice((0, 1, 2, 3, 4, 10, 13)))
    name = rng.choice((path.stem, path.stem[:3], path.stem, path.stem, word(rng)))
    target = ["--target", f"{SEEDS['loss']}:loss"] if chance(rng, 0.3) else []
    return Case(["replay", *target, "--cases", "out/cases", "--", name], long=True, talks=True)


def vector_files(rng, box):
    """Certified vectors of which one file is not as it was written."""
    folder = box / "in" / "vectors"
    folder.mkdir()
    for path in sorted(vectors.FOLDER.glob("*.json")):
        shutil.copy(path, folder)
    path = rng.choice(sorted(folder.glob("*.json")))
    kind = rng.randrange(8)
    if kind < 6:
        content = json.loads(path.read_text())
        if chance(rng, 0.7):
            k = rng.randrange(2)  # the sooner it is seen
            content["cases"][k] = mutated(rng, content["cases"][k])
        else:
            content = mutated(rng, content)
        others = [p for p in folder.glob("*.json") if p != path]
        path.write_text(json.dumps(content))
        path.rename(folder / "mws.json") if chance(rng, 0.7) and others else None
    elif kind == 6:
        path.write_bytes(spoilt(rng, path.read_bytes()))
    else:
        odd_path(rng, str(path.relative_to(box)), rng.choice((0, 1, 2, 3, 4, 8, 9, 10, 13)))
    return Case(["vectors", "verify", "in/vectors"], long=True)


TARGETS = {
    "arguments": arguments, "study": study, "npz": representation, "sprites": sprites, "faces": faces, "decomposition": decomposed,
    "run": run, "swept": swept, "pictures": pictures, "oracle": target, "cases": saved_case, "vectors": vector_files,
}


# --- valid inputs ------------------------------------------------------------------------------------------


def prepare(root):
    """Make the valid inputs that mutants are made of."""
    root.mkdir(parents=True)
    before, silent = Path.cwd(), io.StringIO()
    os.chdir(root)
    sys.stdout, printed = silent, sys.stdout
    try:
        write_npz(Path("sprites.npz"), render(grid((1, 2, 1, 6, 6))))
        for name, more in (
            ("run", []), ("factor run", ["--objective", "factor-vae", "--discriminator", "8", "--prior", "flow"]),
        ):
            assert cli.main(["train", "--out", name, "--grid", "1x2x1x4x4", *TINY, *more, *NUMPY]) == 0
        draws = np.random.default_rng(0)
        factors = draws.integers(0, 3, (30, 2))
        codes = {"mu": draws.standard_normal((30, 2)) + factors, "log_var": -draws.random((30, 2)), "factors": factors}
        np.savez("model.npz", **codes, factor_names=["a", "b"])
        argv = ["evaluate", "model.npz", "--json", "a.json", "--checkpoint", "c.npz", "--samples", "20", "--seed", "0"]
        assert cli.main([*argv, "-m", "decomposition", "--no-figures", *NUMPY]) == 0
        np.save("faces.npy", np.zeros((2, 2, 1, 2, 4, 4), np.uint8))
        Path("tiny.toml").write_text(toml(STUDY, random.Random(0)))
        assert cli.main(["sweep", "tiny.toml", "--out", "store", "--jobs", "1", *NUMPY]) == 0
        Path("pictures").mkdir()
        Path("celeba/img_align_celeba").mkdir(parents=True)
        for k in range(4):
            image = Image.frombytes("RGB", (12, 10), draws.bytes(360))
            image.save(f"pictures/{k}.png")
            image.save(f"celeba/img_align_celeba/{k:06d}.jpg")
        rows = [f"{k:06d}.jpg {'1' if k % 2 else '-1'} 1" for k in range(4)]
        Path("celeba/list_attr_celeba.txt").write_text("\n".join(["4", "Bald Young", *rows, ""]))
        Path("loss_file.py").write_text(LOSS)
        Path("wrong_loss.py").write_text(LOSS.replace("M * dataset_size", "1 + M * dataset_size"))
        argv = [
            "check", f"{root}/wrong_loss.py:loss", "--max-examples", "3", "--dtype", "float64", "--checks", "values",
        ]
        assert cli.main([*argv, "--estimator", "mws", "--cases", "cases"]) == 1
    finally:
        sys.stdout = printed
        os.chdir(before)
    names = {"run": "run", "factor run": "factor run", "sprites": "sprites.npz", "representation": "model.npz", "decomposition": "c.npz",
             "faces": "faces.npy", "study": "tiny.toml", "store": "store", "swept": "store/tiny", "pictures": "pictures", "celeba": "celeba", "loss": "loss_file.py", "cases": "cases"}
    SEEDS.update({name: str(root / path) for name, path in names.items()})
    SEEDS["case"] = next((root / "cases").glob("*.json")).stem
