#!/usr/bin/env python3
"""Writes tests/golden/stats/values.txt: tails, limits and margins by methods that share nothing with src/stats.

Needs mpmath. Tails come from the continued fraction of the incomplete beta function at 60 digits (checked here against
exact rational sums for small n), limits from bisection over numbers of 60 digits. Every number argument is the double
that its shortest decimal names. Lines: kind, arguments, value with 30 digits.
"""
import fractions
import math
import pathlib

import mpmath as mp

mp.mp.dps = 60
TARGET = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "stats" / "values.txt"


def beta_fraction(a, b, x):
    """I_x(a, b) by Lentz's method on the classical continued fraction, for x below the mean."""
    tiny = mp.mpf(10) ** -400
    front = mp.exp(mp.loggamma(a + b) - mp.loggamma(a) - mp.loggamma(b) + a * mp.log(x) + b * mp.log1p(-x)) / a
    c, d = mp.mpf(1), 1 - (a + b) * x / (a + 1)
    d = 1 / (d if d else tiny)
    result = d
    for m in range(1, 1000000):
        for numerator in (m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
                          -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))):
            d = 1 + numerator * d
            c = 1 + numerator / c
            d = 1 / (d if d else tiny)
            c = c if c else tiny
            result *= d * c
        if abs(d * c - 1) < mp.mpf(10) ** -55:
            return front * result
    raise ArithmeticError("no convergence")


def incomplete_beta(a, b, x):
    a, b, x = mp.mpf(a), mp.mpf(b), mp.mpf(x)
    if x <= 0 or x >= 1:
        return mp.mpf(x >= 1)
    if x < (a + 1) / (a + b + 2):
        return beta_fraction(a, b, x)
    return 1 - beta_fraction(b, a, 1 - x)


def at_least(n, k, p):
    return mp.mpf(1) if k == 0 else incomplete_beta(k, n - k + 1, p)


def at_most(n, k, p):
    return mp.mpf(1) if k == n else incomplete_beta(n - k, k + 1, 1 - mp.mpf(p))


def check_against_sums():
    for n in (1, 2, 7, 40):
        for k in range(n + 1):
            for p in (0.001, 0.3, 0.5, 0.97):
                q = fractions.Fraction(p)
                exact = sum(math.comb(n, i) * q**i * (1 - q) ** (n - i) for i in range(k + 1))
                exact = mp.mpf(exact.numerator) / exact.denominator
                assert abs(at_most(n, k, p) - exact) < mp.mpf(10) ** -50, (n, k, p)
                assert abs(at_least(n, k, p) - (1 - exact + mp.binomial(n, k) * mp.mpf(p)**k * (1 - mp.mpf(p))**(n - k))) < mp.mpf(10) ** -50


def solve(tail, alpha, increasing):
    """The p at which tail(p) = alpha, by bisection on log p."""
    lo, hi = mp.mpf(-80), mp.mpf(0)
    while hi - lo > mp.mpf(10) ** -32:
        middle = (lo + hi) / 2
        if (tail(mp.exp(middle)) < alpha) == increasing:
            lo = middle
        else:
            hi = middle
    return mp.exp(lo)


def upper(n, k, alpha):
    return mp.mpf(1) if k == n else solve(lambda p: at_most(n, k, p), mp.mpf(alpha), False)


def lower(n, k, alpha):
    return mp.mpf(0) if k == 0 else solve(lambda p: at_least(n, k, p), mp.mpf(alpha), True)


def lines():
    def row(kind, *arguments, value):
        return " ".join([kind] + [repr(a) for a in arguments] + [mp.nstr(mp.mpf(value), 30)])

    tails = [(10, 3, 0.3), (10, 0, 0.05), (10, 10, 0.5), (800, 25, 0.05), (800, 0, 1e-12), (10000, 9990, 0.5),
             (1000000, 500300, 0.5), (10000000, 20, 1e-6), (10000000, 4990000, 0.5), (10000000, 3, 1e-12),
             (10000000, 9999999, 0.999999), (50, 25, 0.01)]
    for n, k, p in tails:
        yield row("at_most", n, k, p, value=at_most(n, k, p))
        yield row("at_least", n, k, p, value=at_least(n, k, p))
    limits = [(1, 0, 0.05), (1, 1, 0.05), (10, 3, 0.05), (50, 0, 0.01), (50, 49, 0.01), (800, 25, 0.01),
              (500, 3, 0.01), (1000, 999, 1e-12), (10000, 5000, 0.005), (10000, 1, 1e-12), (1000000, 0, 1e-9),
              (1000000, 1000, 0.01), (10000000, 0, 0.01), (10000000, 1, 0.5), (10000000, 37, 1e-12),
              (10000000, 5000000, 0.01), (10000000, 9999990, 0.99)]
    for n, k, alpha in limits:
        yield row("upper", n, k, alpha, value=upper(n, k, alpha))
        yield row("lower", n, k, alpha, value=lower(n, k, alpha))
    for first, second in [(1, 0), (3, 3), (10, 2), (0, 25), (120, 90), (5000, 4700)]:
        n = first + second
        yield row("mcnemar", first, second, value=min(mp.mpf(1), 2 * at_most(n, min(first, second), 0.5)))
    for n, lost, gained, alpha in [(800, 20, 15, 0.01), (1000, 0, 0, 0.05), (10000, 300, 10, 0.001)]:
        yield row("loss", n, lost, gained, alpha,
                  value=upper(n, lost, mp.mpf(alpha) / 2) - lower(n, gained, mp.mpf(alpha) / 2))
    for n, alpha in [(50, 0.01), (800, 0.05), (10000000, 1e-12)]:
        yield row("dkw", n, alpha, value=mp.sqrt(mp.log(1 / mp.mpf(alpha)) / (2 * n)))
    for mean, variance, d in [(0.5, 0.25, 0.05), (-3.0, 1e-12, 0.5), (1e10, 7.5, 0.001)]:
        yield row("cantelli", mean, variance, d,
                  value=mp.mpf(mean) + mp.sqrt(mp.mpf(variance) * (1 - mp.mpf(d)) / mp.mpf(d)))
    for step, norm, outputs, d in [(0.01, 12.5, 1, 0.05), (0.125, 3.0, 1000, 1e-9)]:
        yield row("hoeffding", step, norm, outputs, d,
                  value=mp.mpf(step) * norm * mp.sqrt(mp.log(2 * outputs / mp.mpf(d)) / 2))
    for exceed, p, alpha in [(0, 0.05, 0.01), (0, 0.5, 0.26), (3, 0.02, 0.01), (25, 0.05, 0.01), (0, 1e-6, 0.001)]:
        n = exceed + 1
        while at_most(n, exceed, p) > mp.mpf(alpha):
            n = n * 2
        lo, hi = n // 2, n
        while hi - lo > 1:
            middle = (lo + hi) // 2
            if middle > exceed and at_most(middle, exceed, p) <= mp.mpf(alpha):
                hi = middle
            else:
                lo = middle
        yield row("samples", exceed, p, alpha, value=hi)


if __name__ == "__main__":
    check_against_sums()
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text("\n".join(lines()) + "\n")
    print(TARGET, len(TARGET.read_text().splitlines()), "lines")
