/* Non-negative upper bounds with a huge exponent: Arb's mag_t behind names of the field.
 *
 * Every operation rounds up, so a chain of them is an upper bound of the exact result; the one exception says
 * `_lower` and rounds down. */
#ifndef QB_BOUND_MAGNITUDE_H
#define QB_BOUND_MAGNITUDE_H

#include <mag.h>
#include <stdbool.h>

enum { QB_MAGNITUDE_TEXT = 48 };

/* Holds no heap memory for exponents below 2^62, which every bound of a finite network satisfies. */
typedef struct qb_magnitude {
  mag_struct mag;
} qb_magnitude;

qb_magnitude qb_magnitude_zero(void);
qb_magnitude qb_magnitude_infinity(void);

/* The smallest representable number >= x; x >= 0, infinity and NaN give infinity. */
qb_magnitude qb_magnitude_from_double(double x);

qb_magnitude qb_magnitude_add(qb_magnitude a, qb_magnitude b);
qb_magnitude qb_magnitude_multiply(qb_magnitude a, qb_magnitude b); /* 0 * infinity = 0 */
qb_magnitude qb_magnitude_multiply_lower(qb_magnitude a, qb_magnitude b);
qb_magnitude qb_magnitude_min(qb_magnitude a, qb_magnitude b);
qb_magnitude qb_magnitude_max(qb_magnitude a, qb_magnitude b);

/* a * 2^exponent, exactly. */
qb_magnitude qb_magnitude_scale(qb_magnitude a, long exponent);

/* Negative, zero or positive as a < b, a = b, a > b. */
int qb_magnitude_compare(qb_magnitude a, qb_magnitude b);
bool qb_magnitude_is_finite(qb_magnitude a);

/* A double >= a; infinity when a exceeds the double range. */
double qb_magnitude_to_double(qb_magnitude a);

/* log10(a) rounded up to a double; -infinity for zero. */
double qb_magnitude_log10(qb_magnitude a);

/* A decimal >= a with three significant digits, "1.24e37", "0", "inf"; returns `text`. */
const char *qb_magnitude_print(qb_magnitude a, char text[QB_MAGNITUDE_TEXT]);

#endif
