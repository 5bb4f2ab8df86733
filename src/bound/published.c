/* The published bounds, every product and sum in magnitudes rounded up. */
#include "bound/published.h"

#include <stdio.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bound/rounding.h"

typedef qb_magnitude number;

/* What the formulas read of layer l. Each is an upper bound, and r_l is the rounded number itself: the theorems hold
 * for any r_l at least as large as the norms. */
typedef struct term {
  number r;       /* r_l >= ||W_l||, ||W'_l|| */
  number r_joint; /* >= row sums that include the bias, of both networks */
  number beta;    /* >= ||b_l||, ||b'_l|| */
  number units;   /* N_{l-1} */
  number entries; /* p^2 c_{l-1} / g */
  number fewest;  /* the smaller of the two: no row has more entries */
  number changed; /* [bias l quantized]: 1 or 0 */
} term;

typedef struct formula {
  const term *terms; /* (count) */
  int32_t count;
  number d, delta; /* D, delta */
  bool biased;
  number *scratch; /* (count + 1) */
} formula;

static number real(double x) { return qb_magnitude_from_double(x); }
static number add(number a, number b) { return qb_magnitude_add(a, b); }
static number multiply(number a, number b) { return qb_magnitude_multiply(a, b); }
static number larger(number a, number b) { return qb_magnitude_max(a, b); }

static number power(number base, int32_t exponent) {
  number result = real(1);
  for (int32_t i = 0; i < exponent; i++)
    result = multiply(result, base);
  return result;
}

/* Which r_l and n_l a formula uses. */
typedef number (*term_reader)(const term *t);
static number read_r(const term *t) { return t->r; }
static number read_joint(const term *t) { return t->r_joint; }
static number read_at_least_one(const term *t) { return larger(real(1), larger(t->r, t->beta)); }
static number read_units(const term *t) { return t->units; }
static number read_entries(const term *t) { return t->entries; }
static number read_fewest(const term *t) { return t->fewest; }

/* ------------------------------------------------------------------------------------------------------- the forms */

/* products[l] = prod_{k != l} r_k for l = 0..count-1. */
static void products_of_others(const formula *f, term_reader r, number *products) {
  number suffix = real(1);
  for (int32_t l = f->count - 1; l >= 0; l--) {
    products[l] = suffix;
    suffix = multiply(suffix, r(&f->terms[l]));
  }
  number prefix = real(1);
  for (int32_t l = 0; l < f->count; l++) {
    products[l] = multiply(products[l], prefix);
    prefix = multiply(prefix, r(&f->terms[l]));
  }
}

/* r_mean^{L-1} = prod_k r_k / min_k r_k = max_l prod_{k != l} r_k. */
static number mean_power(const formula *f, term_reader r) {
  number largest = qb_magnitude_zero();
  products_of_others(f, r, f->scratch);
  for (int32_t l = 0; l < f->count; l++)
    largest = larger(largest, f->scratch[l]);
  return largest;
}

/* max(D,1) r_mean^{L-1} (sum_l n_l + [bias l quantized]) delta: the plain formula, and G1 with its own r_l. */
static number summed(const formula *f, term_reader r, term_reader n) {
  number sum = qb_magnitude_zero();
  for (int32_t l = 0; l < f->count; l++)
    sum = add(sum, add(n(&f->terms[l]), f->terms[l].changed));
  return multiply(multiply(larger(f->d, real(1)), mean_power(f, r)), multiply(sum, f->delta));
}

/* Whether every prefix product of the numbers r_l is at least 1, proved with products rounded down. */
static bool prefixes_reach_one(const formula *f, term_reader r) {
  number prefix = real(1);
  for (int32_t l = 0; l < f->count; l++) {
    prefix = qb_magnitude_multiply_lower(prefix, r(&f->terms[l]));
    if (qb_magnitude_compare(prefix, real(1)) < 0)
      return false;
  }
  return true;
}

/* r_mean^{L-1} sum_l (n_l (D + l - 1) + [bias l quantized]) delta, r_l = max(1, norms): always valid. */
static number g3(const formula *f, term_reader n) {
  number sum = qb_magnitude_zero();
  for (int32_t l = 0; l < f->count; l++) {
    number reach = add(f->d, real(l));
    sum = add(sum, add(multiply(n(&f->terms[l]), reach), f->terms[l].changed));
  }
  return multiply(mean_power(f, read_at_least_one), multiply(sum, f->delta));
}

/* e_l = r_l e_{l-1} + (n_l a_{l-1} + [bias l quantized]) delta, a_l = r_l a_{l-1} + beta_l: always valid. */
static number g4(const formula *f, term_reader n) {
  number a = f->d, e = qb_magnitude_zero();
  for (int32_t l = 0; l < f->count; l++) {
    const term *t = &f->terms[l];
    e = add(multiply(t->r, e), multiply(add(multiply(n(t), a), t->changed), f->delta));
    a = add(multiply(t->r, a), t->beta);
  }
  return e;
}

static void keep_smaller(qb_bound *bound, qb_form form, number value) {
  if (bound->applies && qb_magnitude_compare(bound->value, value) <= 0)
    return;
  *bound = (qb_bound){.applies = true, .form = form, .value = value};
}

/* general and cnn, which differ in n_l only. */
static qb_bound theorem(const formula *f, term_reader n) {
  qb_bound bound = {0};
  if (!f->biased) {
    keep_smaller(&bound, QB_FORM_PLAIN, summed(f, read_r, n));
    return bound;
  }
  if (prefixes_reach_one(f, read_joint))
    keep_smaller(&bound, QB_FORM_G1, summed(f, read_joint, n));
  keep_smaller(&bound, QB_FORM_G3, g3(f, n));
  keep_smaller(&bound, QB_FORM_G4, g4(f, n));
  return bound;
}

/* D delta sum_l n_l prod_{k != l} r_k, n_l the smaller count; with biases its generalisation G4. */
static qb_bound unsummed(const formula *f) {
  qb_bound bound = {0};
  if (f->biased) {
    keep_smaller(&bound, QB_FORM_G4, g4(f, read_fewest));
    return bound;
  }
  number sum = qb_magnitude_zero();
  products_of_others(f, read_r, f->scratch);
  for (int32_t l = 0; l < f->count; l++)
    sum = add(sum, multiply(f->terms[l].fewest, f->scratch[l]));
  keep_smaller(&bound, QB_FORM_PLAIN, multiply(multiply(f->d, f->delta), sum));
  return bound;
}

/* (D+1) N L^2 r^{L-1} delta with r = max(1, every norm and bias): valid with and without biases. */
static qb_bound prior(const formula *f, double width) {
  number r = real(1);
  for (int32_t l = 0; l < f->count; l++)
    r = larger(r, read_at_least_one(&f->terms[l]));
  number value = multiply(add(f->d, real(1)), multiply(real(width), multiply(real(f->count), real(f->count))));
  qb_bound bound = {0};
  keep_smaller(&bound, QB_FORM_PLAIN, multiply(multiply(value, power(r, f->count - 1)), f->delta));
  return bound;
}

/* ------------------------------------------------------------------------------------------- from graphs to terms */

/* The quantized node of each original node. */
static qb_node_id *invert(const qb_pair *pair, qb_error *error) {
  qb_node_id *quantized = qb_alloc((size_t)pair->original->node_count, sizeof *quantized);
  if (quantized == NULL) {
    (void)qb_fail_memory(error, "pairs of nodes", (size_t)pair->original->node_count * sizeof *quantized);
    return NULL;
  }
  for (qb_node_id n = 0; n < pair->original->node_count; n++)
    quantized[n] = QB_NONE;
  for (qb_node_id n = 0; n < pair->quantized->node_count; n++)
    if (pair->partner[n] != QB_NONE)
      quantized[pair->partner[n]] = n;
  return quantized;
}

/* The partner of a chain layer, with the same bias convention. */
static qb_status partner_layer(const qb_chain *chain, const qb_chain_layer *layer, const qb_pair *pair,
                               const qb_node_id *quantized, qb_linear *other, qb_error *error) {
  const qb_node *node = &chain->graph->nodes[layer->linear.node];
  qb_node_id partner = quantized[layer->linear.node];
  if (partner == QB_NONE || !qb_graph_linear(pair->quantized, partner, other))
    return qb_fail(error, QB_ERROR_FORMAT, "%s: layer '%s' has no partner in the quantized network", chain->graph->name,
                   node->name);
  if (!qb_shape_equal(&chain->graph->values[layer->linear.weight].shape, &pair->quantized->values[other->weight].shape))
    return qb_fail(error, QB_ERROR_SHAPE, "%s: layer '%s' has weights of another shape in the quantized network",
                   chain->graph->name, node->name);
  if (chain->conventions.drop_bias)
    other->bias = QB_NONE;
  return QB_OK;
}

static void fill_term(const qb_chain_layer *layer, const qb_layer_norms *other, const qb_layer_change *change,
                      term *t) {
  const qb_layer_norms *own = &layer->norms;
  *t = (term){.r = real(fmax(own->weight, other->weight)),
              .r_joint = real(fmax(own->joint, other->joint)),
              .beta = real(fmax(own->bias, other->bias)),
              .units = real(layer->inputs),
              .entries = real(layer->row_entries),
              .fewest = real(layer->fewest_entries),
              .changed = real(change->bias > 0)};
}

static qb_status fill_terms(const qb_chain *chain, const qb_pair *pair, const qb_node_id *quantized, term *terms,
                            qb_published *published, qb_error *error) {
  for (int32_t l = 0; l < chain->count; l++) {
    qb_linear other;
    qb_layer_norms norms;
    qb_layer_change change;
    const qb_chain_layer *layer = &chain->layers[l];
    QB_TRY(partner_layer(chain, layer, pair, quantized, &other, error));
    QB_TRY(qb_layer_norms_and_change(pair->quantized, &other, chain->graph, &layer->linear, &norms, &change, error));
    fill_term(layer, &norms, &change, &terms[l]);
    published->delta = fmax(published->delta, fmax(change.weight, change.bias));
    published->biased_layers += layer->norms.bias > 0 || norms.bias > 0;
    published->quantized_biases += change.bias > 0;
  }
  return QB_OK;
}

static bool clips_differ(const qb_pair *pair, qb_node_id n) {
  const qb_node *node = &pair->quantized->nodes[n];
  if (node->op != QB_OP_CLIP || pair->partner[n] == QB_NONE)
    return false;
  const qb_clip_attributes *own = &node->attributes.clip;
  const qb_clip_attributes *other = &pair->original->nodes[pair->partner[n]].attributes.clip;
  return own->lo != other->lo || own->hi != other->hi;
}

/* The published theorems know nothing of quantized activations or of clips that differ. */
static void decide_is_network(const qb_chain *chain, const qb_pair *pair, qb_published *published) {
  published->is_network = chain->is_network;
  snprintf(published->why_not, sizeof published->why_not, "%s", chain->why_not);
  bool differs = pair->clip_differences > 0 || pair->operand_differences > 0 || pair->absorbed > 0;
  for (qb_node_id n = 0; n < pair->quantized->node_count; n++)
    differs = differs || pair->quantized->nodes[n].op == QB_OP_QUANTIZE_LINEAR || clips_differ(pair, n);
  if (published->is_network && differs) {
    published->is_network = false;
    snprintf(published->why_not, sizeof published->why_not,
             "the quantized network differs in more than weights and biases");
  }
}

static void evaluate(const qb_chain *chain, const formula *f, qb_published *published) {
  double width = 1;
  for (int32_t l = 0; l < chain->count; l++)
    width = fmax(width, fmax(chain->layers[l].inputs, chain->layers[l].outputs));
  published->prior = prior(f, width);
  published->general = theorem(f, read_units);
  published->cnn = theorem(f, read_entries);
  published->chain_unsummed = unsummed(f);
}

/* Fills all four bounds with one reason; returns whether there was one. */
static bool refuse(const qb_chain *chain, qb_published *published) {
  qb_bound none = {.applies = false};
  if (chain->count == 0)
    snprintf(none.why, sizeof none.why, "the network has no layer with constant weights");
  else if (chain->batch_norm != NULL)
    snprintf(none.why, sizeof none.why, "BatchNormalization '%.80s' is neither folded nor dropped", chain->batch_norm);
  else
    return false;
  published->prior = published->general = published->cnn = published->chain_unsummed = none;
  return true;
}

qb_status qb_published_bounds(const qb_chain *chain, const qb_pair *pair, double radius, qb_published *published,
                              qb_error *error) {
  *published = (qb_published){0};
  size_t count = (size_t)chain->count;
  term *terms = qb_alloc(count, sizeof *terms);
  number *scratch = qb_alloc(count + 1, sizeof *scratch);
  qb_node_id *quantized = invert(pair, error);
  qb_status status = QB_ERROR_MEMORY;
  if (terms == NULL || scratch == NULL)
    status = qb_fail_memory(error, "published bounds", count * (sizeof *terms + sizeof *scratch));
  else if (quantized != NULL)
    status = fill_terms(chain, pair, quantized, terms, published, error);
  if (status == QB_OK) {
    decide_is_network(chain, pair, published);
    formula f = {.terms = terms,
                 .count = chain->count,
                 .d = real(radius),
                 .delta = real(published->delta),
                 .biased = published->biased_layers > 0,
                 .scratch = scratch};
    if (!refuse(chain, published))
      evaluate(chain, &f, published);
  }
  qb_free(quantized);
  qb_free(scratch);
  qb_free(terms);
  return status;
}
