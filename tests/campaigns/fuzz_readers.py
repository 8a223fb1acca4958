"""What the readers of files do with mutated ones: thousands a minute, in one process, without the command line.

    python tests/campaigns/fuzz_readers.py --minutes 3 --seed 0

A reader returns, or raises InputError or OSError; anything else, a warning included, is a violation and shown with the
case's number. `fuzz.py` has the invariants that take a process for each case.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import collections
import contextlib
import json
import random
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import fuzz_inputs
import numpy as np

from tcvae_ref import representations
from tcvae_ref.checks import InputError, one_line
from tcvae_ref.data.byte_arrays import map_bytes
from tcvae_ref.data.celeba import read_attributes
from tcvae_ref.data.image_folder import Preparation, prepare
from tcvae_ref.data.sprite_files import read_npz
from tcvae_ref.oracle import records, vectors
from tcvae_ref.studies import bias, runner, sensitivity, study, table
from tcvae_ref.training import Run

ALLOWED = (InputError, OSError)


def study_file(rng, path):
    """A study, with what `sweep` makes of it before anything is run."""
    content = rng.choice((fuzz_inputs.STUDY, fuzz_inputs.STUDY, fuzz_inputs.BIASES, fuzz_inputs.SENSITIVE))
    content = fuzz_inputs.mutated(rng, content, value=fuzz_inputs.setting)
    path.write_bytes(fuzz_inputs.toml(content, rng).encode("utf-8", "surrogatepass"))
    of = study.read(path)
    if of.figure == study.BIAS:
        bias.cells(of.numbers)
    if of.figure == study.SENSITIVITY:
        sensitivity.settings(of.numbers)
    for run in of.runs[:50]:
        study.described(run.source)


def settings_file(rng, path):
    """A run's settings."""
    content = json.loads((Path(fuzz_inputs.SEEDS["run"]) / "run.json").read_text())
    (path.parent / "run.json").write_text(json.dumps(fuzz_inputs.mutated(rng, content)))
    Run.open(path.parent)


def saved_case(rng, path):
    """A saved case, with an id that fits where it has a form at all."""
    content = json.loads(next(Path(fuzz_inputs.SEEDS["cases"]).glob("*.json")).read_text())
    content = fuzz_inputs.mutated(rng, content)
    with contextlib.suppress(Exception):  # without a form it has no id
        kept = records._from_json(content)
        content["id"] = records.case_id(kept.target, kept.check, kept.dtype, kept.variant, kept.case)
    name = str(content.get("id"))[:10].replace("/", "")
    (path.parent / f"{name}.json").write_text(json.dumps(content))
    records.load(name, path.parent)


def swept_table(rng, path):
    """A table of a study."""
    text = (Path(fuzz_inputs.SEEDS["swept"]) / "results.csv").read_text()
    path.write_text(fuzz_inputs.table(rng, text), encoding="utf-8", errors="surrogatepass", newline="")
    if rng.random() < 0.3:
        path.write_bytes(fuzz_inputs.spoilt(rng, path.read_bytes()))
    table.read(path)


def result(rng, path):
    """What was computed of a run."""
    seed = next(Path(fuzz_inputs.SEEDS["store"]).glob("runs/*/result.json"))
    path.write_text(json.dumps(fuzz_inputs.mutated(rng, json.loads(seed.read_text()))))
    table.to_csv([row for row in runner._read_result(path)["parts"].values() if isinstance(row, dict)])


def vector_file(rng, path):
    """Certified vectors."""
    content = json.loads((vectors.FOLDER / "mws.json").read_text())
    content["cases"] = content["cases"][:2]
    (path.parent / "mws.json").write_text(json.dumps(fuzz_inputs.mutated(rng, content)))
    vectors.load("mws", path.parent)


def codes(rng, path):
    """A representation."""
    draws = np.random.default_rng(rng.randrange(2**32))
    factors = draws.integers(0, 3, (12, 2))
    arrays = {"mu": draws.standard_normal((12, 2)), "log_var": -draws.random((12, 2)), "factors": factors}
    arrays |= {"factor_names": np.array(["ab", "c"]), "weights": draws.random(12)}
    path.write_bytes(fuzz_inputs.silenced(fuzz_inputs.npz)(rng, arrays))
    of = representations.read(path)
    of.varying()


def sprites(rng, path):
    """A data set of the dSprites form."""
    arrays = {"imgs": np.zeros((4, 8, 8), np.uint8), "latents_classes": np.arange(8).reshape(4, 2) // 2}
    arrays["latents_values"] = arrays["latents_classes"].astype(float)
    path.write_bytes(fuzz_inputs.silenced(fuzz_inputs.npz)(rng, arrays))
    read_npz(path)


def mapped(rng, path):
    """An array of bytes."""
    path.write_bytes(fuzz_inputs.silenced(fuzz_inputs.npy)(rng, np.arange(24, dtype=np.uint8).reshape(2, 3, 4), True))
    map_bytes(path)


def picture(rng, path):
    """A picture."""
    path.write_bytes(fuzz_inputs.silenced(fuzz_inputs.picture)(rng, rng.choice(("png", "jpeg", "gif", "bmp", "webp"))))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        prepare(path, Preparation(rng.choice((None, 1, 4)), 8, rng.choice((1, 3))))


def attributes(rng, path):
    """A list of CelebA's attributes."""
    text = (Path(fuzz_inputs.SEEDS["celeba"]) / "list_attr_celeba.txt").read_bytes()
    path = path.with_suffix(rng.choice((".txt", ".csv")))
    if path.suffix == ".csv":
        text = b"image_id " + text.partition(b"\n")[2]
        text = text.replace(b" ", b",")
    path.write_bytes(fuzz_inputs.spoilt(rng, text))
    read_attributes(path, 1000)


READERS = (
    *(study_file, settings_file, saved_case, swept_table, result, vector_file),
    *(codes, sprites, mapped, picture, attributes),
)


def main():
    """Read mutants until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    done, refused, seen = collections.Counter(), collections.Counter(), collections.Counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as root:
        fuzz_inputs.prepare(Path(root) / "seeds")
        warnings.simplefilter("error")
        end, shown, index = time.monotonic() + 60 * arguments.minutes, time.monotonic(), 0
        while time.monotonic() < end:
            reader = READERS[index % len(READERS)]
            path = Path(root) / "case" / "a"
            path.parent.mkdir(exist_ok=True)
            done[reader.__name__] += 1
            try:
                reader(random.Random(f"{reader.__name__} {arguments.seed} {index}"), path)
            except ALLOWED:
                refused[reader.__name__] += 1
            except Exception as error:
                own = [f for f in traceback.extract_tb(error.__traceback__) if "/tcvae_ref/" in f.filename]
                if own:  # else the input could not be made
                    place = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
                    what = f"{reader.__name__}: {type(error).__name__} at {place}"
                    seen[what] += 1
                    if seen[what] == 1:
                        print(f"  case {index}: {what}: {one_line(str(error))[:200]}", flush=True)
            index += 1
            for left in path.parent.iterdir():
                left.unlink()
            if time.monotonic() - shown > 15:
                shown = time.monotonic()
                print(f"{index} cases, {sum(refused.values())} refused, {len(seen)} kinds of violation", flush=True)
    shares = ", ".join(f"{name} {count} ({refused[name]} refused)" for name, count in done.items())
    for what, count in seen.most_common():
        print(f"  {count:>5} x {what}")
    print(f"fuzz_readers: {index} cases (seed {arguments.seed}; {shares}), {len(seen)} kinds of violation found")


if __name__ == "__main__":
    main()
