/* Claims about a single input, put to both networks with more and more bits until the answer is certain. */
#include <stdio.h>

#include "base/alloc.h"
#include "base/error.h"
#include "check/check_point.h"
#include "graph/quantizer.h"

typedef enum answer { ANSWER_NO, ANSWER_OPEN, ANSWER_YES } answer;

/* What is known of the two outputs: original, other, and other - original. */
typedef struct point_pair {
  point_values of[2];
  arb_ptr d; /* (of[0].count) */
  slong bits;
} point_pair;

typedef answer (*question)(const point_pair *p, const void *asked);

/* ------------------------------------------------------------------------------------------------------ evaluation */

static qb_status evaluate(const qb_pair *pair, const float *input, slong bits, point_pair *p, qb_error *error) {
  *p = (point_pair){.bits = bits};
  QB_TRY(point_evaluate(pair->original, input, bits, &p->of[0], error));
  QB_TRY(point_evaluate(pair->quantized, input, bits, &p->of[1], error));
  if (!p->of[0].known || !p->of[1].known)
    return QB_OK;
  p->d = qb_alloc((size_t)p->of[0].count, sizeof *p->d);
  if (p->d == NULL)
    return qb_fail_memory(error, "a point", (size_t)p->of[0].count * sizeof *p->d);
  for (int64_t k = 0; k < p->of[0].count; k++) /* nothing is lost: far more bits than the outputs have */
    arb_sub(p->d + k, p->of[1].y + k, p->of[0].y + k, 2 * bits);
  return QB_OK;
}

static void release(point_pair *p) {
  for (int64_t k = 0; p->d != NULL && k < p->of[0].count; k++)
    arb_clear(p->d + k);
  qb_free(p->d);
  point_free(&p->of[0]);
  point_free(&p->of[1]);
}

static bool counts(int64_t only, int64_t k) { return only < 0 || only == k; }

/* Of the outputs that count, from above. */
static double largest(const point_pair *p, int64_t only) {
  double size = 0;
  arf_t end;
  arf_init(end);
  for (int64_t k = 0; k < p->of[0].count; k++)
    if (counts(only, k)) {
      arb_get_abs_ubound_arf(end, p->d + k, 64);
      size = fmax(size, arf_is_nan(end) ? INFINITY : arf_get_d(end, ARF_RND_UP));
    }
  arf_clear(end);
  return size;
}

/* Asks with more bits as long as the answer is open. `first`: bits that may be enough. */
static qb_status ask(const qb_pair *pair, const float *input, int64_t only, slong first, question what,
                     const void *asked, answer *said, recomputed *result, qb_error *error) {
  enum { MOST = 1536 };
  qb_status status = QB_OK;
  *said = ANSWER_OPEN;
  *result = (recomputed){.known = true};
  for (slong bits = first; status == QB_OK && result->known && *said == ANSWER_OPEN && bits <= MOST; bits *= 2) {
    point_pair p;
    status = evaluate(pair, input, bits, &p, error);
    for (int i = 0; status == QB_OK && i < 2; i++)
      if (!p.of[i].known) {
        result->known = false;
        snprintf(result->why, sizeof result->why, "%s", p.of[i].why);
      }
    if (status == QB_OK && result->known) {
      *said = what(&p, asked);
      result->bound = largest(&p, only);
    }
    release(&p);
  }
  return status;
}

/* ------------------------------------------------------------------------------------------------------- questions */

/* Whether x lies in [lo, hi]. */
static answer within(const arb_t x, double lo, double hi) {
  arb_t end;
  arb_init(end);
  answer said = ANSWER_YES;
  arb_set_d(end, lo);
  said = arb_lt(x, end) ? ANSWER_NO : arb_ge(x, end) ? said : ANSWER_OPEN;
  arb_set_d(end, hi);
  if (said != ANSWER_NO)
    said = arb_gt(x, end) ? ANSWER_NO : arb_le(x, end) ? said : ANSWER_OPEN;
  arb_clear(end);
  return said;
}

/* Whether element `top` is above all others. */
static answer is_top(const point_values *v, int64_t top) {
  answer said = ANSWER_YES;
  for (int64_t k = 0; k < v->count; k++) {
    if (k != top && arb_le(v->y + top, v->y + k))
      return ANSWER_NO;
    if (k != top && !arb_gt(v->y + top, v->y + k))
      said = ANSWER_OPEN;
  }
  return said;
}

static int64_t middle_top(const point_values *v) {
  int64_t top = 0;
  for (int64_t k = 1; k < v->count; k++)
    top = arf_cmp(arb_midref(v->y + k), arb_midref(v->y + top)) > 0 ? k : top;
  return top;
}

static answer box_claim_holds(const point_pair *p, const void *asked) {
  const box_claim *c = asked;
  answer least = ANSWER_YES, said;
  for (int64_t k = 0; k < p->of[0].count; k++) {
    said = counts(c->only, k) ? within(p->d + k, -c->bound, c->bound) : ANSWER_YES;
    least = said < least ? said : least;
    said = c->output_count > 0 ? within(p->d + k, c->outputs[k].lo, c->outputs[k].hi) : ANSWER_YES;
    least = said < least ? said : least;
  }
  for (int i = 0; c->keeps && i < 2; i++) {
    said = is_top(&p->of[i], middle_top(&p->of[0]));
    least = said < least ? said : least;
  }
  return c->keeps && p->of[0].count < 2 ? ANSWER_NO : least;
}

typedef struct lower_claim {
  int64_t only;
  double lower;
} lower_claim;

/* Rounding the ends to 64 bits does not carry them over a double. */
static answer is_at_least(const arb_t x, double size) {
  arf_t end;
  if (!arb_is_finite(x))
    return ANSWER_OPEN;
  arf_init(end);
  arb_get_abs_lbound_arf(end, x, 64);
  bool surely = arf_cmp_d(end, size) >= 0;
  arb_get_abs_ubound_arf(end, x, 64);
  bool never = arf_cmp_d(end, size) < 0;
  arf_clear(end);
  return surely ? ANSWER_YES : never ? ANSWER_NO : ANSWER_OPEN;
}

static answer lower_holds(const point_pair *p, const void *asked) {
  const lower_claim *c = asked;
  answer best = ANSWER_NO;
  for (int64_t k = 0; k < p->of[0].count; k++) {
    answer said = counts(c->only, k) ? is_at_least(p->d + k, c->lower) : ANSWER_NO;
    best = said > best ? said : best;
  }
  return best;
}

typedef struct flip_claim {
  int64_t top[2];
} flip_claim;

static answer flip_holds(const point_pair *p, const void *asked) {
  const flip_claim *c = asked;
  answer least = ANSWER_YES;
  for (int i = 0; i < 2; i++) {
    answer said = is_top(&p->of[i], c->top[i]);
    least = said < least ? said : least;
  }
  return least;
}

/* ------------------------------------------------------------------------------------------------------- the calls
 */

enum { FEW_BITS = 64, MANY_BITS = 192 }; /* where layers are few; where a double's last bit counts */

static bool refuse(recomputed *result, const char *why) {
  *result = (recomputed){.known = true, .refuted = true};
  snprintf(result->why, sizeof result->why, "%s", why);
  return false;
}

static int64_t outputs_of(const qb_pair *pair) {
  return (int64_t)qb_shape_elements(&pair->quantized->values[pair->quantized->outputs[0]].shape);
}

/* Whether the claims speak of this network's outputs; both networks have as many. */
static bool fits(const qb_pair *pair, int64_t only, int64_t ranges, recomputed *result) {
  int64_t outputs = outputs_of(pair);
  if ((int64_t)qb_shape_elements(&pair->original->values[pair->original->outputs[0]].shape) != outputs)
    return refuse(result, "the two networks have different outputs");
  if (only >= outputs || (ranges != 0 && ranges != outputs))
    return refuse(result, "the network has other outputs than the certificate");
  return true;
}

qb_status recompute_point(const box_claim *c, const qb_pair *pair, const float *input, recomputed *result,
                          qb_error *error) {
  answer said;
  if (pair->float32 || qb_graph_allows_steps(pair->original) || qb_graph_allows_steps(pair->quantized)) {
    refuse(result, "an exact evaluation says nothing about rounded ones, nor about codes that are off");
    return QB_OK;
  }
  if (!fits(pair, c->only, c->output_count, result))
    return QB_OK;
  QB_TRY(ask(pair, input, c->only, MANY_BITS, box_claim_holds, c, &said, result, error));
  if (result->known && said != ANSWER_YES) {
    result->refuted = true;
    snprintf(result->why, sizeof result->why, "at this input the networks differ by %.9g; the claim does not follow",
             result->bound);
  }
  return QB_OK;
}

qb_status recompute_lower(const qb_pair *pair, const float *input, int64_t only, double lower, recomputed *result,
                          qb_error *error) {
  const lower_claim asked = {only, lower};
  answer said;
  if (!fits(pair, only, 0, result))
    return QB_OK;
  QB_TRY(ask(pair, input, only, FEW_BITS, lower_holds, &asked, &said, result, error));
  if (result->known && said != ANSWER_YES) {
    result->refuted = true;
    snprintf(result->why, sizeof result->why, "at the input stored with 'lower' the networks differ by %.9g, not %.9g",
             result->bound, lower);
  }
  return QB_OK;
}

qb_status recompute_flip(const qb_pair *pair, const float *input, int64_t top, int64_t other_top, recomputed *result,
                         qb_error *error) {
  const flip_claim asked = {{top, other_top}};
  answer said;
  if (!fits(pair, -1, 0, result))
    return QB_OK;
  if (top < 0 || other_top < 0 || top >= outputs_of(pair) || other_top >= outputs_of(pair) || top == other_top) {
    refuse(result, "the outputs of the flip are not two of the network's");
    return QB_OK;
  }
  QB_TRY(ask(pair, input, -1, FEW_BITS, flip_holds, &asked, &said, result, error));
  if (result->known && said != ANSWER_YES) {
    result->refuted = true;
    snprintf(result->why, sizeof result->why, "the input stored with the flip does not flip from %lld to %lld",
             (long long)top, (long long)other_top);
  }
  return QB_OK;
}
