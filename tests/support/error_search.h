/* A search for inputs with a large difference between two networks, evaluated in double with rounding radii: what it
 * finds is a true lower bound of the largest error, so any sound bound is at least as large. */
#ifndef QB_TESTS_ERROR_SEARCH_H
#define QB_TESTS_ERROR_SEARCH_H

#include "base/rng.h"
#include "bound/bound.h"
#include "graph/pair.h"
#include "run/run.h"

enum { ERROR_SEARCH_BATCH = 16 };

typedef struct error_search error_search;

/* Called with the two runs after every evaluation of `count` samples. */
typedef void (*error_search_visitor)(void *context, const error_search *search, int32_t count);

struct error_search {
  const qb_pair *pair;
  const qb_domain *domain;
  qb_run *original, *quantized;
  float *batch, *best; /* (ERROR_SEARCH_BATCH, inputs), (inputs) */
  double found;        /* certified lower bound of the largest output error */
  error_search_visitor visitor;
  void *context;
};

/* Prepares both networks with every activation kept. Failures end the test. Free with error_search_free. */
void error_search_create(const qb_pair *pair, const qb_domain *domain, error_search *search);
void error_search_free(error_search *search);

/* Corners, random points, then coordinate ascent from the best for at most `rounds` rounds. Returns `found`. */
double error_search_run(error_search *search, qb_rng *rng, int rounds);

#endif
