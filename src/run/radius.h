/* Midpoint-radius arithmetic for the reference engine. Private to run/.
 *
 * A ball (x, r) says: the exact real value y* satisfies |x - y*| <= r, where x is the double that was computed, and
 * the same holds for every result x' of an evaluation whose operations have relative error at most `unit` and absolute
 * underflow error at most `tiny`, from operands inside their balls. In double (unit = 2^-53, tiny = 2^-1074) the only
 * such evaluation of interest is our own; with the constants of float32 (2^-24, 2^-149) it is every float32 executor.
 *
 * For y = f(a, b) and operands with |a' - a*| <= ra: |fl(f(a', b')) - f(a*, b*)| <= |f(a', b') - f(a*, b*)|
 * + unit |f(a', b')| + tiny, and |a'| <= |a| + 2 ra because both x and x' lie within r of y*. The bound is then
 * computed in double; `outward` pays for those roundings. */
#ifndef QB_RUN_RADIUS_H
#define QB_RUN_RADIUS_H

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct rounding {
  double unit;    /* half the distance from 1 to the next number */
  double tiny;    /* the smallest subnormal */
  double largest; /* the largest finite number */
  bool any_order; /* covers other evaluations than our own */
} rounding;

static const rounding rounding_double = {0x1p-53, 0x1p-1074, DBL_MAX, false};
static const rounding rounding_float = {0x1p-24, 0x1p-149, FLT_MAX, true};

typedef struct ball {
  double x, r;
} ball;

/* r enlarged so that up to 60 roundings to nearest while computing it (and underflows in them) cannot make it too
 * small: (1 - 2^-53)^60 (1 + 2^-46) > 1, and 64 tiny covers the lost subnormal parts. Zero stays zero only when the
 * caller says so: this function never returns less than 64 tiny. */
static inline double outward(double r, const rounding *u) { return r * (1.0 + 0x1p-46) + 64.0 * u->tiny; }

/* gamma_n = n unit / (1 - n unit), rounded up; infinity when n unit >= 1/2. Higham 2002, lemma 3.1. */
static inline double gamma_n(double n, const rounding *u) {
  double nu = n * u->unit;
  return nu < 0.5 ? nu / (1.0 - nu) * (1.0 + 0x1p-49) : INFINITY;
}

/* Upper bound of |x'| for every evaluation that the ball covers. */
static inline double ball_magnitude(ball a) { return fabs(a.x) + 2.0 * a.r; }

/* The ball of a result `x` with propagated operand error `propagated` after operations whose total relative error is
 * gamma_n of `magnitude`. */
static inline ball ball_result(double x, double propagated, double n, double magnitude, const rounding *u) {
  return (ball){x, outward(propagated + gamma_n(n, u) * magnitude, u)};
}

static inline ball ball_add(ball a, ball b, const rounding *u) {
  return ball_result(a.x + b.x, a.r + b.r, 1, fabs(a.x + b.x) + 2.0 * (a.r + b.r), u);
}

static inline ball ball_subtract(ball a, ball b, const rounding *u) { return ball_add(a, (ball){-b.x, b.r}, u); }

/* |a'b' - a*b*| <= |a'| rb + |b*| ra */
static inline ball ball_multiply(ball a, ball b, const rounding *u) {
  double ma = ball_magnitude(a), mb = ball_magnitude(b);
  return ball_result(a.x * b.x, ma * b.r + mb * a.r, 1, ma * mb, u);
}

/* With q' = a' / b' and q* = a* / b*: |q' - q*| <= (ra + |q'| rb) / |b*|. One rounding: no reciprocal, which could be
 * subnormal. */
static inline ball ball_divide(ball a, ball b, const rounding *u) {
  double least = (fabs(b.x) - 2.0 * b.r) * (1.0 - 0x1p-50);
  if (!(least > 0.0))
    return (ball){a.x / b.x, INFINITY};
  double quotient = ball_magnitude(a) / least;
  double relative = b.r > 0.0 ? b.r / least + 0x1p-1073 : 0.0; /* an underflow here would be multiplied */
  return ball_result(a.x / b.x, a.r / least + quotient * relative, 1, quotient, u);
}

#endif
