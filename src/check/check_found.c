/* An input is taken from the certificate, or is the box itself where that is a point; see check_found.h. */
#include "check/check_found.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "check/check_point.h"

bool box_is_point(const float *lo, const float *hi, int64_t elements) {
  return memcmp(lo, hi, (size_t)elements * sizeof *lo) == 0;
}

static bool is_inside(const float *input, const float *lo, const float *hi, int64_t elements) {
  for (int64_t i = 0; i < elements; i++)
    if (!(input[i] >= lo[i] && input[i] <= hi[i]))
      return false;
  return true;
}

bool input_has_hash(const float *input, int64_t elements, const char *sha256) {
  qb_hash hash;
  char text[QB_HASH_TEXT];
  return qb_hash_bytes(input, (size_t)elements * sizeof *input, &hash, NULL) == QB_OK &&
         strcmp(qb_hash_print(&hash, text), sha256) == 0;
}

/* The input that is claimed, or NULL and, in `own`, why nothing follows from it. */
static const float *input_of(const input_claim *at, int64_t elements, const float *lo, const float *hi,
                             recomputed *own) {
  const float *input = at->values != NULL ? at->values : lo != NULL && box_is_point(lo, hi, elements) ? lo : NULL;
  const char *why = NULL;
  *own = (recomputed){0};
  if (at->values != NULL && !input_has_hash(input, elements, at->sha256))
    why = "the SHA-256 of the input is another";
  else if (at->values != NULL && lo != NULL && !is_inside(input, lo, hi, elements))
    why = "the input lies outside the box";
  own->known = own->refuted = why != NULL;
  if (why == NULL && (lo == NULL || input == NULL || !input_has_hash(input, elements, at->sha256)))
    why = lo == NULL ? "the box is not known" : "the input is not stored in the certificate";
  snprintf(own->why, sizeof own->why, "%s", why == NULL ? "" : why);
  return why == NULL ? input : NULL;
}

static void add(const recomputed *own, const char *where, const char *what, found_verdict *v) {
  v->claims++;
  v->verified += own->known && !own->refuted;
  if (own->known && own->refuted && !v->refuted)
    snprintf(v->why, sizeof v->why, "%s%s: %.300s", where, what, own->why);
  else if (!own->known && v->unknown[0] == '\0')
    snprintf(v->unknown, sizeof v->unknown, "%s%s is not verified: %.300s", where, what, own->why);
  v->refuted = v->refuted || (own->known && own->refuted);
}

qb_status judge_found(const found_claim *found, int64_t only, const qb_pair *pair, int64_t elements, const float *lo,
                      const float *hi, const char *where, found_verdict *verdict, qb_error *error) {
  recomputed own;
  if (found->lower > 0) {
    const float *input = input_of(&found->at_lower, elements, lo, hi, &own);
    if (input != NULL)
      QB_TRY(recompute_lower(pair, input, only, found->lower, &own, error));
    add(&own, where, "'lower'", verdict);
  }
  if (found->flips) {
    const float *input = input_of(&found->at_flip, elements, lo, hi, &own);
    if (input != NULL)
      QB_TRY(recompute_flip(pair, input, found->top, found->other_top, &own, error));
    add(&own, where, "'flip'", verdict);
  }
  return QB_OK;
}

const char *found_verdict_name(const found_verdict *v) {
  return v->claims == 0 ? NULL : v->refuted ? "refuted" : v->verified < v->claims ? "unknown" : "verified";
}
