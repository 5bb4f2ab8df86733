/* Shared by sigma.c (what is proved, and the two passes), sigma_grams.c (all Gram matrices of a torus) and
 * sigma_single.c (the proof in float32). */
#ifndef QB_BOUND_SIGMA_INTERNAL_H
#define QB_BOUND_SIGMA_INTERNAL_H

#include <float.h>
#include <stdbool.h>

#include "bound/sigma.h"

static const double SIGMA_UNIT = DBL_EPSILON / 2; /* u of theory section 4 */

/* Everything that is fixed for one norm: the matrices are numbered group by group, frequency by frequency. */
typedef struct sigma_plan {
  const qb_kernel *kernel;
  qb_kernel joint; /* skip + outer inner / 2, when that is wanted */
  qb_arena arena;  /* of the twiddles and `joint` */
  qb_twiddles input[2];
  int64_t rows, cols;     /* of M */
  int64_t frequencies[2]; /* of the output torus; the second halved by conjugate symmetry */
  int64_t count;          /* matrices */
  int64_t size;           /* of the smaller Gram matrix */
  int64_t entries;        /* of its lower triangle */
  double symbol_error;    /* Frobenius norm of computed - exact M */
  int threads;            /* of the loops over matrices */
  qb_sigma_memory *memory;
} sigma_plan;

/* At least `bytes` of memory, not cleared; what the buffer held is lost. NULL when memory is short. */
double *sigma_memory_get(qb_sigma_memory *memory, int buffer, size_t bytes);

/* Working memory of one thread. */
typedef struct sigma_workspace {
  qb_complex *matrix;         /* (rows, cols), unless the Gram matrices are stored */
  qb_complex *gram;           /* (size, size) */
  float *single;              /* (size, size, 2) */
  qb_complex *vector, *image; /* (size) */
} sigma_workspace;

/* The Gram matrices M M^H or M^H M, whichever is smaller, and what is known of their largest eigenvalues. */
typedef struct sigma_grams {
  double *upper;    /* (count) Frobenius bound, or what was proved; 0 for the conjugate of another one */
  double *estimate; /* (count) power iteration */
  double *re, *im;  /* (count, entries) lower triangles in the plan's memory, or NULL: recompute */
  double trace;     /* the largest trace, ||M||_F^2; of stored ones from real samples a bound of the samples' norms */
  double lost;      /* >= the Frobenius norm of (Gram matrix as obtained) - (that of the symbol as stored taps have it,
                     * or, where symbols are computed, of the computed symbol) */
} sigma_grams;

QB_MUST_CHECK bool sigma_workspace_create(sigma_workspace *w, const sigma_plan *p, const sigma_grams *g);
void sigma_workspace_free(sigma_workspace *w);

/* Multiplies out all Gram matrices or interpolates them, and stores them if there is room. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status sigma_grams_create(sigma_plan *p, sigma_grams *grams, qb_error *error);
void sigma_grams_free(sigma_grams *grams);

/* The lower triangle of matrix number `index` in w->gram, row-major. */
void sigma_gram_obtain(const sigma_plan *p, const sigma_grams *grams, int64_t index, sigma_workspace *w);

/* Its Frobenius norm, up to the rounding of fewer than 10^7 squares; w->gram is working memory. */
double sigma_gram_frobenius(const sigma_plan *p, const sigma_grams *grams, int64_t index, sigma_workspace *w);

/* True when float32 proves that no eigenvalue of matrix number `index`, Frobenius norm at most `norm`, exceeds `shift`;
 * w->gram holds it afterwards unless matrices are stored. */
bool sigma_single_proves(const sigma_plan *p, const sigma_grams *grams, int64_t index, double norm, double shift,
                         sigma_workspace *w);

#endif
