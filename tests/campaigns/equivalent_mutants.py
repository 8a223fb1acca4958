"""Mutants that no test can or should notice, each reviewed, with the reason.

A rule names a file, a line by its whole text, and the changes on that line ("*": all); and how many mutants that are.
If it matches another number of mutants, the campaign stops: the line has changed and has to be looked at again.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """Which mutants of one line, and why no test notices them."""

    path: str
    text: str
    changes: str  # "before -> after", several apart by "; ", or "*"
    count: int
    reason: str
    scope: str = ""  # the function's qualified name, where its line stands in others too
    nth: int = 0  # only the n-th of them on the line


RULES = [
    # --- reference
    Rule("tcvae_ref/estimators.py", "top[top == -numpy.inf] = 0.0", "0.0 -> 1.0", 1, "any finite number will do"),
    Rule(
        "tcvae_ref/likelihood.py", "return numpy.where(a > 0, numpy.ones_like(e), e) / (1.0 + e)", "> -> >=", 1,
        "at 0 both sides are 1",
    ),
    Rule("tcvae_ref/likelihood.py", "result = logit * (x - (logit > 0))", "> -> >=", 1, "at 0 the factor is 0"),
    Rule(
        "tcvae_ref/checks.py",
        'if len(set(dtypes.values())) > 1 or not set(dtypes.values()) <= {"float64", "float32"}:', "<= -> <", 1,
        "a set of one dtype is never the set of both",
    ),
    Rule(
        "tcvae_ref/checks.py", "near = difflib.get_close_matches(str(value), words, n=1, cutoff=0.4)", "1 -> 2", 1,
        "the first, the nearest, is used",
    ),
    Rule(
        "tcvae_ref/convolution.py", "if window.reach <= window.step:  # squares do not overlap", "<= -> <", 1,
        "adding to zeros is assigning, only slower",
    ),
    Rule(
        "tcvae_ref/convolution.py", "return k == stride or stride * stride * C < K", "*", 5,
        "either side of the product gives the same: which is faster",
    ),
    Rule("tcvae_ref/convolution.py", "k = kernel.shape[0]", "0 -> 1", 1, "kernels are square"),
    Rule(
        "tcvae_ref/convolution.py", "neighbours = patches(blocks, Window(taps, 1, 0)) if taps > 1 else blocks",
        "> -> >=", 1, "patches of one pixel are the pixels",
    ),
    Rule("tcvae_ref/convolution.py", "taps = kernel.shape[0] // stride", "0 -> 1", 1, "kernels are square"),
    Rule(
        "tcvae_ref/convolution.py",
        "blocks = overlay(squares, Window(taps, 1, 0), *coarse) if taps > 1 else squares", "> -> >=", 1,
        "overlaying single pixels gives them back",
    ),
    Rule("tcvae_ref/training/row_blocks.py", "means = numpy.zeros(2)", "2 -> 3", 1, "a third mean that nobody reads"),
    Rule(
        "tcvae_ref/training/row_blocks.py",
        "gradients = [[numpy.zeros_like(a) for a in (z, mu, log_var)] for _ in range(2)]", "2 -> 3", 1,
        "third gradients that nobody reads",
    ),
    Rule(
        "tcvae_ref/training/gradients.py", "flowing = {loss._node: (np.ones_like(loss._value), False)}",
        "False -> True", 1, "whether autograd may add to it in place: nothing is ever added to the loss's own",
    ),
    Rule(
        "tcvae_ref/training/batches.py", "cumulative /= cumulative[-1]", "/ -> *", 1,
        "weights add up to 1 but for rounding",
    ),
    Rule(
        "tcvae_ref/convolution.py", "if len(shape) != 4 or shape[0] != shape[1] or shape[0] % stride:", "0 -> 1", 1,
        "the kernel is square by then", nth=2,
    ),
    Rule(
        "tcvae_ref/training/adam.py",
        "_BLOCK = 1 << 15  # numbers updated at a time: the temporaries stay in the cache", "1 -> 2; 15 -> 16", 2,
        "numbers of a block of work: no result depends on it",
    ),
    Rule(
        "tcvae_ref/training/row_blocks.py", "BLOCK_BYTES = 2**26", "*", 3,
        "memory of a block of rows: no result depends on it",
    ),
    Rule(
        "tcvae_ref/training/row_blocks.py",
        "defvjp(_recorded, *(_vjp(k) for k in range(3)), argnums=(0, 1, 2))", "3 -> 4", 1,
        "a fourth rule, of no argument",
    ),
    # --- metrics
    Rule(
        "tcvae_ref/metrics/brackets.py",
        "if rows * CELL * sum(len(octave.cells) for octave in shared) <= LARGEST_SHARED:", "<= -> <; * -> /", 3,
        "one grid for all groups or one for each: the same integrals",
    ),
    Rule(
        "tcvae_ref/metrics/brackets.py",
        "results.append(integrals_over_tiles(alone, 1, 1, group_densities)[..., 0])", "1 -> 2", 1,
        "the sum of the first two of one row", nth=1,
    ),
    Rule(
        "tcvae_ref/metrics/brackets.py",
        "results.append(integrals_over_tiles(alone, 1, 1, group_densities)[..., 0])", "0 -> 1", 1,
        "the second is the sum of one row",
    ),
    Rule(
        "tcvae_ref/metrics/brackets.py",
        "results.append(integrals_over_tiles(alone, 1, 1, group_densities)[..., 0])", "1 -> 2", 1,
        "the first of two groups, of which the second is empty", nth=2,
    ),
    Rule(
        "tcvae_ref/metrics/brackets.py",
        "return (max(first, int(cells[0])), min(last, int(cells[-1]) + 1)) if len(cells) else (0, 0)", "1 -> 2", 1,
        "there is no cell beyond the last", nth=2,
    ),
    Rule(
        "tcvae_ref/metrics/brackets.py",
        "return (max(first, int(cells[0])), min(last, int(cells[-1]) + 1)) if len(cells) else (0, 0)", "0 -> 1", 1,
        "no cell lies in it either", nth=2,
    ),
    Rule(
        "tcvae_ref/metrics/brackets.py",
        "return (max(first, int(cells[0])), min(last, int(cells[-1]) + 1)) if len(cells) else (0, 0)", "0 -> 1", 1,
        "no cell lies in it either", nth=3,
    ),
    Rule(
        "tcvae_ref/metrics/brackets.py",
        "here = slice(*np.searchsorted(first, [left - int(length.max(initial=0)), right]))", "0 -> 1", 1,
        "a window further to the left is looked at and found outside",
    ),
    Rule(
        "tcvae_ref/metrics/brackets.py", "cut = np.maximum(left - first, 0)", "0 -> 1", 1,
        "a window's first point, where the density is less than a rounding of its largest",
    ),
    Rule(
        "tcvae_ref/metrics/brackets.py", "inside = np.flatnonzero(length > 0)", "> -> >=; 0 -> 1", 2,
        "windows of no point, and of one, where the density is less than a rounding of its largest",
    ),
    Rule(
        "tcvae_ref/metrics/brackets.py", "if len(inside) < len(length):", "< -> <=", 1,
        "all of them are taken out of themselves",
    ),
    Rule(
        "tcvae_ref/metrics/brackets.py", "if tile.first >= tile.last or len(cells) == 0:", ">= -> >", 1,
        "nothing is added for a tile that holds no cell",
    ),
    Rule(
        "tcvae_ref/metrics/brackets.py",
        "middle = min(max(int(cells[len(cells) // 2]), tile.first + 1), tile.last - 1)", "2 -> 3", 1,
        "where a tile is cut decides about memory, not about the result",
    ),
    Rule(
        "tcvae_ref/metrics/brackets.py",
        "middle = min(max(int(cells[len(cells) // 2]), tile.first + 1), tile.last - 1)", "1 -> 2", 1,
        "where a tile is cut decides about memory, not about the result", nth=1,
    ),
    Rule(
        "tcvae_ref/metrics/brackets.py",
        "tiles = [Tile(widest, int(cells[0]), int(cells[-1]) + 1, nothing, np.empty((rows, 0)))]", "1 -> 2", 1,
        "there is no cell beyond the last", nth=2,
    ),
    Rule(
        "tcvae_ref/metrics/brackets.py",
        "tiles = [Tile(widest, int(cells[0]), int(cells[-1]) + 1, nothing, np.empty((rows, 0)))]", "0 -> 1", 1,
        "a density on no cells is not read", nth=2,
    ),
    Rule(
        "tcvae_ref/metrics/brackets.py", "cells = _between(octave.cells, tile.first - 1, tile.last + 1)", "1 -> 2", 2,
        "one cell more on either side is computed and not added",
    ),
    Rule(
        "tcvae_ref/metrics/brackets.py", "PIECE = 96", "96 -> 97", 1,
        "cells halved at a time: each cell is halved by itself",
    ),
    Rule(
        "tcvae_ref/metrics/cluster.py",
        "samples, total = delayed(z, traverse=False), delayed(to, traverse=False)", "False -> True", 2,
        "whether Dask looks for objects of its own in arrays and sums, which hold none: it then takes them as they are",
    ),
    Rule(
        "tcvae_ref/metrics/dci.py", "share = importance / np.where(total > 0, total, 1.0)", "1.0 -> 2.0", 1,
        "a row of zeros, divided by any number",
    ),
    Rule(
        "tcvae_ref/metrics/dci.py", "return np.where(constant, 0.0, centred / np.where(constant, 1.0, spread))",
        "1.0 -> 2.0", 1, "the quotient of a constant is not taken, 0 is",
    ),
    Rule(
        "tcvae_ref/metrics/dci.py", 'if predictor.get_params().get("random_state", 0) is None:', "0 -> 1", 1,
        "neither is None",
    ),
    Rule(
        "tcvae_ref/metrics/decomposition.py", "N, D = (*mu.shape, 0, 0)[:2]", "0 -> 1", 2,
        "read where there are fewer than two axes, which is refused whatever N and D are",
    ),
    Rule(
        "tcvae_ref/metrics/information.py",
        "top = np.where(informative, squares.max(axis=1), 1.0)  # over factors k", "1.0 -> 2.0", 1,
        "the ratio of a code that is not informative is not taken, 0 is",
    ),
    Rule(
        "tcvae_ref/metrics/octaves.py", "most = int(np.max(right - left, initial=0))", "0 -> 1", 1,
        "the last cell of a window named twice counts once",
    ),
    Rule(
        "tcvae_ref/metrics/octaves.py",
        "return distinct([np.minimum(left + i, right) for i in range(most + 1)])", "1 -> 2", 1,
        "the last cell of a window named twice counts once",
    ),
    Rule(
        "tcvae_ref/metrics/octaves.py", "if high - low > 4 * sum(len(part) for part in numbers) + 1000:",
        "> -> >=; 4 -> 5; * -> /; + -> -; 1000 -> 1001", 5,
        "sorted or marked in a table: the same numbers, one way or the other",
    ),
    Rule(
        "tcvae_ref/metrics/octaves.py", "there = np.zeros(high - low + 1, dtype=bool)", "1 -> 2", 1,
        "one place more at the end of the table, never marked",
    ),
    Rule(
        "tcvae_ref/metrics/partial.py",
        "top = np.where(maximum == -np.inf, 0.0, maximum)  # -inf - -inf is nan", "0.0 -> 1.0", 1,
        "any finite number will do: the exponential of -inf is 0",
    ),
    Rule(
        "tcvae_ref/metrics/sap.py", "return np.asarray(centred / np.where(constant, 1.0, length))", "1.0 -> 2.0", 1,
        "a column of zeros, divided by any number",
    ),
    # --- kernels
    Rule(
        "kernels/tcvae_kernels/exp.py", "return x if x != x else exp_half_four(y, y, y, y, LEAST_64)[0]", "0 -> 1", 1,
        "four alike",
    ),
    Rule(
        "kernels/tcvae_kernels/exp.py", "return x if x != x else exp_half_four(y, y, y, y, LEAST_32)[0]", "0 -> 1", 1,
        "four alike",
    ),
    Rule("kernels/tcvae_kernels/exp.py", "return weight_four(x, x, x, x)[0]", "0 -> 1", 1, "four alike"),
    Rule(
        "kernels/tcvae_kernels/elementwise.py", "p = p * v + _ODD_64[13]", "13 -> 14", 1,
        "u^28 / 29 or u^28 / 31, u <= 1/3: 1e-16 of the sum",
    ),
    Rule("kernels/tcvae_kernels/elementwise.py", "outside += wrong", "+ -> -", 1, "only whether it is 0 is asked"),
    Rule(
        "kernels/tcvae_kernels/elementwise.py", "rows = max(1, BLOCK // P)", "1 -> 2", 1,
        "images of a block, where one alone is larger than a block",
    ),
    Rule(
        "kernels/tcvae_kernels/elementwise.py",
        "threads.run(lambda b: _images(x, logits, b * rows, min(M, (b + 1) * rows), CHUNK, slope, log_px), "
        "-(-M // rows))",
        "1 -> 2", 1, "the next block's images are written twice, with the same numbers",
    ),
    Rule(
        "kernels/tcvae_kernels/elementwise.py",
        'fits = all(getattr(a, "ndim", 0) == 2 and a.dtype in (np.float32, np.float64) for a in (x, plain))',
        "0 -> 1", 1, "neither is 2",
    ),
    Rule(
        "kernels/tcvae_kernels/mixture.py", "threads.run(work, -(-P // block))", "// -> *", 1,
        "blocks beyond the last point are empty",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py", "N, zero = T.size, T.dtype.type(0)", "0 -> 1", 1,
        "any finite number in place of -inf will do", "_joint_rows_again",
    ),
    Rule(
        "kernels/tcvae_kernels/exp.py",
        "total += weight(x[j])",
        "j -> j - 1", 1, "the same entries, the last one first",
    ),
    Rule(
        "kernels/tcvae_kernels/elementwise.py",
        "p = p * v + _ODD_64[14]",
        "14 -> 15", 1, "u^30 (1/31 - 1/33), u <= 1/3: 1e-17 of the sum",
    ),
    Rule(
        "kernels/tcvae_kernels/elementwise.py",
        "p = p * v + _ODD_32[5]",
        "5 -> 6", 1, "u^12 (1/13 - 1/15), u <= 1/3: 2e-8 of the sum, a third of a rounding",
    ),
    Rule(
        "kernels/tcvae_kernels/elementwise.py",
        "positive = one if a > zero else zero",
        "> -> >=", 1, "at 0 the factor is 0",
    ),
    Rule(
        "kernels/tcvae_kernels/elementwise.py",
        "size = a if a > zero else -a",
        "> -> >=", 1, "at 0 both are 0",
    ),
    Rule(
        "kernels/tcvae_kernels/elementwise.py",
        "slope[i, p] = x_p - (one if a > zero else e) / (one + e)",
        "> -> >=", 1, "at 0 both are 1",
    ),
    Rule(
        "kernels/tcvae_kernels/elementwise.py",
        "outside += one if x_p < zero or x_p > one else zero",
        "+ -> -", 1, "only whether it is 0 is asked",
    ),
    Rule(
        "kernels/tcvae_kernels/elementwise.py",
        "rows = max(1, BLOCK // P)",
        "// -> *", 1, "which images are done together",
    ),
    Rule(
        "kernels/tcvae_kernels/elementwise.py",
        "a[i, k] = v if v > zero else (v if v != v else zero)",
        "> -> >=", 1, "at 0 both are 0",
    ),
    Rule(
        "kernels/tcvae_kernels/elementwise.py",
        "a[i, k] += b[k]",
        "i -> i - 1", 1, "each row once all the same: the last block's last is the first block's first",
    ),
    Rule(
        "kernels/tcvae_kernels/elementwise.py",
        "size = v if v > zero else -v",
        "> -> >=", 1, "at 0 both are 0",
    ),
    Rule(
        "kernels/tcvae_kernels/elementwise.py",
        "a[i, k] = v + v * w * p if size < near else (far if v > zero else -far)",
        "< -> <=; > -> >=", 2, "both forms are right where they meet, and 0 is not far",
    ),
    Rule(
        "kernels/tcvae_kernels/elementwise.py",
        "block = max(1, BLOCK // columns)",
        "1 -> 2; // -> *", 2, "which rows are done together",
    ),
    Rule(
        "kernels/tcvae_kernels/elementwise.py",
        "threads.run(lambda b: kernel(*arrays, b * block, min(rows, (b + 1) * block)), -(-rows // block))",
        "// -> *", 1, "blocks beyond the last row are empty",
    ),
    Rule(
        "kernels/tcvae_kernels/mixture.py",
        "BLOCK = 1024",
        "1024 -> 1025", 1, "which points are done together",
    ),
    Rule(
        "kernels/tcvae_kernels/mixture.py",
        "STRETCHES, SHORTEST_STRETCH = 64, 128",
        "64 -> 65; 128 -> 129", 2, "where a grid is cut",
    ),
    Rule(
        "kernels/tcvae_kernels/mixture.py",
        "tops[i] = 0",
        "0 -> 1", 1, "any finite number in place of -inf will do",
    ),
    Rule(
        "kernels/tcvae_kernels/mixture.py",
        "unsafe = top - float(heights.min(where=heights > -np.inf, initial=top)) > SPREAD",
        "> -> >=", 2, "from the maxima the same sums come out",
    ),
    Rule(
        "kernels/tcvae_kernels/mixture.py",
        "h = 0.0 if unsafe else top",
        "0.0 -> 1.0", 1, "taken out and put back",
    ),
    Rule(
        "kernels/tcvae_kernels/mixture.py",
        "block = min(BLOCK, -(-P // (4 * threads.get_num_threads() * ROWS)) * ROWS)",
        "4 -> 5", 1, "which points are done together",
    ),
    Rule(
        "kernels/tcvae_kernels/mixture.py",
        "again = np.flatnonzero(of_x < TINY[mu.itemsize])",
        "< -> <=", 1, "from the maxima the same sums come out",
    ),
    Rule(
        "kernels/tcvae_kernels/mixture.py",
        "if len(again) and not unsafe:",
        "and -> or", 1, "done again with the same result, or none is",
    ),
    Rule(
        "kernels/tcvae_kernels/mixture.py",
        "finite = np.where(log_weights == -np.inf, 0, log_weights) if weighted else log_weights",
        "0 -> 1", 1, "any finite number of moderate size will do",
    ),
    Rule(
        "kernels/tcvae_kernels/mixture.py",
        "if start >= stop:",
        ">= -> >", 1, "from start to start there is nothing",
    ),
    Rule(
        "kernels/tcvae_kernels/mixture.py",
        "row = np.uint64(rows[k, n])",
        "k -> k - 1", 1, "each labelling's row gets the same numbers, in another order",
    ),
    Rule(
        "kernels/tcvae_kernels/mixture.py",
        "stretch, widest = max(SHORTEST_STRETCH, -(-points // STRETCHES)), int(length.max(initial=0))",
        "- ->; // -> *; 0 -> 1", 4, "where a grid is cut, and how far to the left windows are looked for",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "total += a[j]",
        "j -> j - 1", 1, "the same entries, the last one first",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "a[j] *= factor",
        "j -> j - 1", 1, "the same entries, the last one first",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "touched = False",
        "False -> True", 1, "summed again, to the same",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "top = mu.dtype.type(0)",
        "0 -> 1", 1, "any finite number in place of -inf will do",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "return S.dtype.type(0 if before == -np.inf else before)",
        "0 -> 1", 1, "any finite number in place of -inf will do",
    ),
    Rule(
        "kernels/tcvae_kernels/elementwise.py",
        "BLOCK = 2**16",
        "*", 3, "numbers of a block of work: no result depends on it",
    ),
    Rule(
        "kernels/tcvae_kernels/elementwise.py",
        "CHUNK = 512",
        "512 -> 513", 1, "how many are added up in the arrays' own precision",
    ),
    Rule(
        "kernels/tcvae_kernels/elementwise.py",
        "_ODD_64 = tuple(1.0 / k for k in range(3, 35, 2))",
        "35 -> 36", 1, "the same numbers: the next would be 35",
    ),
    Rule(
        "kernels/tcvae_kernels/elementwise.py",
        "_ODD_32 = tuple(np.float32(1.0 / k) for k in range(3, 17, 2))",
        "17 -> 18", 1, "the same numbers: the next would be 17",
    ),
    Rule(
        "kernels/tcvae_kernels/mixture.py",
        '("rows", rows, np.int32, (len(rows) if hasattr(rows, "__len__") else 0, *t.shape)),',
        "0 -> 1", 1, "what has no length is refused either way",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "TILE = {8: 2048, 4: 1024}",
        "2048 -> 2049; 1024 -> 1025", 2, "how many are added up in the arrays' own precision",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "TINY = {8: 2.0**-600, 4: 2.0**-40}",
        "- ->; 600 -> 601; 40 -> 41", 4,
        "which rows are summed from their maxima: right either way where the two meet, and where all are",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "NEAR = 512",
        "512 -> 513", 1, "how many are added up in the arrays' own precision",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "FORWARD_ROWS = 128",
        "128 -> 129", 1, "rows of a block: no result depends on it",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "FEWEST, FEWEST_BYTES = 4, 2**26",
        "4 -> 5", 1, "an even number of blocks is taken",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "sizes = [block] * (count - 6) + [half] * 2 + [quarter] * 4 if tapered else [block] * count",
        "4 -> 5", 1, "the first four reach the last row",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "gradients(total, posteriors.s, task * FINISHED, min(N, (task + 1) * FINISHED), *of_posteriors)",
        "1 -> 2", 1, "posteriors that are finished twice, to the same result",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "FINISHED = 4096",
        "4096 -> 4097", 1, "posteriors of a task: no result depends on it",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "FLUSH_ROWS = 128",
        "128 -> 129", 1, "how many rows are added up in the arrays' own precision",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "if (special[0] != 1 or special[1] != 1) and ((i < stop and i + 4 >= start) or (start == 0 and i + 4 >= N)):",
        "and -> or; < -> <=; 4 -> 5", 6, "a tile without special weights is looked through for them",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "if unsafe[d] or not marginals[i, d] >= tiny:",
        ">= -> >", 1, "summed from its maximum, to the same",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "z[i, d], i, mu[d, :N], s[d, :N], g[d, :N], special, E[0], False, tile",
        "0 -> 1", 1, "another row of the buffer",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "if top == -np.inf:  # all exponentials are 0: the logarithm is -inf",
        "- ->", 1, "log 0 - inf is -inf as well",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "top = 0.0",
        "0.0 -> 1.0", 1, "any finite number in place of -inf will do",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "if posteriors.unsafe.any() or not (sum0 >= tiny and sum1 >= tiny and sum2 >= tiny and sum3 >= tiny):",
        ">= -> >", 4, "a sum of just TINY may be taken either way",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py", "found.joint_tops[i : i + 4] = top", "4 -> 5", 1,
        "the next four's are set after it, and there is nothing after the last",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "if again or not total >= tiny:",
        ">= -> >", 1, "summed from its maximum, to the same",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "joint1, joint2, own1, own2, P = sums[:D], sums[D : 2 * D], sums[2 * D : 3 * D], sums[3 * D : 4 "
        "* D], sums[4 * D]",
        "2 -> 3", 1, "the first D rows of each are used", nth=1,
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "total[D : 2 * D],",
        "2 -> 3", 1, "the first D rows are used",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "KEPT = 2**26",
        "2 -> 3; 26 -> 27", 2, "memory that is kept",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "step = -(-size // page) * page + 5 * line",
        "+ -> -; 5 -> 6", 2, "where within a page a buffer lies",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "memory = _scratch.take(count * step + 2 * page)",
        "2 -> 3", 1, "a page more",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "begin = -memory.ctypes.data % page + 13 * len(used) % (page // line) * line",
        "13 -> 14", 1, "where within a page a buffer lies",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "block = min(FORWARD_ROWS, -(-rows // (4 * threads.get_num_threads() * ROWS)) * ROWS)",
        "// -> *; 4 -> 5", 2, "rows of a block: no result depends on it",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "(first, last), (W, E, *part) = blocks[b], _own(scratch, make)",
        "b -> b - 1", 1, "the same blocks, the last one first",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "*(sums[b], part[0] if part else None, found, at_z),",
        "b -> b - 1", 1, "the same sums, the last ones first",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "threads.run(finish, -(-N // FINISHED))",
        "// -> *", 1, "tasks beyond the last posterior are empty",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "sums[b] = _repeated(x, each)",
        "b -> b - 1", 1, "the same sums, the last one first",
    ),
    Rule(
        "kernels/tcvae_kernels/autograd_ops.py",
        "defvjp(_recorded, *(_recorded_vjp(k) for k in range(3)), argnums=(0, 1, 2))",
        "3 -> 4", 1, "a fourth that nothing is recorded for",
    ),
    Rule(
        "kernels/tcvae_kernels/threads.py",
        "if progress is not None and done > furthest[0]:",
        "> -> >=", 1, "the same number said twice, where no work was done",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "joint1, joint2, own1, own2, P = sums[:D], sums[D : 2 * D], sums[2 * D : 3 * D], sums[3 * D : 4 * D], "
        "sums[4 * D]",
        "3 -> 4", 1, "the first D rows of each are used", nth=1,
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "joint1, joint2, own1, own2, P = sums[:D], sums[D : 2 * D], sums[2 * D : 3 * D], sums[3 * D : 4 * D], "
        "sums[4 * D]",
        "4 -> 5", 1, "the first D rows of each are used", nth=1,
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "total[2 * D : 3 * D],",
        "3 -> 4", 1, "the first D rows are used",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "total[3 * D : 4 * D],",
        "4 -> 5", 1, "the first D rows are used",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "fitting = max(2, min(FEWEST, FEWEST_BYTES // each), GRADIENT_BYTES // each)",
        "2 -> 3", 1, "an even number of blocks is taken",
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "sums = buffers(1, len(blocks) * (4 * D + 1), N, np.dtype(np.float64), used)[0].reshape(len(blocks), "
        "4 * D + 1, -1)",
        "1 -> 2", 1, "a buffer more than is used", nth=1,
    ),
    Rule(
        "kernels/tcvae_kernels/pairwise.py",
        "return kept if size == 8 else [*kept, *buffers(1, 4 * D + 1, N, z.dtype, used)]",
        "== -> !=; 8 -> 9; 1 -> 2; 4 -> 5", 5,
        "whether sums are kept apart before they are added up in float64, and in how large a buffer",
    ),
    Rule(
        "kernels/tcvae_kernels/autograd_ops.py", "S, dtype = len(arrays[0]), arrays[0].dtype", "0 -> 1", 1,
        "all are of one dtype", nth=2,
    ),
]  # fmt: skip


def reasons(mutants: Iterable[Any], paths: Iterable[str]) -> dict[str, str]:
    """The reason of each excluded mutant of these files, by its key."""
    paths, found, by_line = set(paths), {}, {}
    for m in mutants:
        by_line.setdefault((m.path, m.text), []).append(m)
    for rule in RULES:
        if rule.path in paths:
            changes = rule.changes.split("; ")
            matched = [
                m for m in by_line.get((rule.path, rule.text), ())
                if (rule.changes == "*" or f"{m.before} -> {m.after}".strip() in changes)
                and rule.scope in ("", m.scope)
            ]  # fmt: skip
            matched = matched[rule.nth - 1 :][:1] if rule.nth else matched
            if len(matched) != rule.count:
                raise SystemExit(f"equivalent_mutants: {rule} matches {len(matched)} mutants: review it")
            found.update({m.key: rule.reason for m in matched})
    return found
