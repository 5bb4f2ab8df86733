/* Every method on every kind of domain, against inputs that a search found: no bound may be below a true error.
 *
 * A case is a random pair of networks with a random domain. Counted are operator x domain x method where the method
 * applies, rare shapes, and how often the best bound is within 1.5 of the found error; the counts are printed, and what
 * has to occur is asserted. QBOUND_CASES cases from QBOUND_FIRST on, split among QBOUND_WORKERS processes. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <omp.h>

#include "bound/refine.h"
#include "support/cases.h"
#include "support/error_search.h"
#include "support/random_network.h"

enum { CASES = 1000, ROUNDS = 12, PARTS = 24, MOST_WORKERS = 16, WORTH_WORKERS = 5000, COMPLETE = 100000, EACH = 200 };

/* ------------------------------------------------------------------------------------------------- what is counted */

typedef enum method {
  LAYERWISE,
  ELEMENTWISE,
  TWO_STAGE,
  INTERVAL,
  SPECTRAL,
  PRODUCT,
  RELAXATION,
  BISECTION,
  METHODS,
  PUBLISHED = METHODS /* the best of the four, where the chain is the network; not by operator */
} method;

static const char *const method_names[METHODS] = {"layerwise", "elementwise", "two_stage",  "interval",
                                                  "spectral",  "product",     "relaxation", "bisection"};

typedef enum domain_kind { SYMMETRIC, CHANNELS, BOX, BALL, POINT, DOMAINS } domain_kind;

static const char *const domain_names[DOMAINS] = {"-D,D", "channels", "box", "ball", "point"};

#define FEATURES(X)                                               \
  X(STRIDE, "a stride of 3, or another one along the other axis") \
  X(ASYMMETRIC, "pads that differ between the sides")             \
  X(DILATION, "dilation")                                         \
  X(GROUPS, "groups, but not depthwise")                          \
  X(DEPTHWISE, "depthwise")                                       \
  X(SMALL_MAP, "a map smaller than the kernel")                   \
  X(ZERO_CHANNEL, "a channel without weights")                    \
  X(CLIP_AWAY, "0 outside a clip")                                \
  X(TWO_BITS, "2 bits")                                           \
  X(ABSORBED, "an activation that a quantizer's clamp does")      \
  X(QUANTIZED, "quantized activations")                           \
  X(CONSTANTS, "constants and clips that differ between the networks")

typedef enum feature {
#define X(ID, TEXT) FEATURE_##ID,
  FEATURES(X)
#undef X
      FEATURE_COUNT
} feature;

static const char *const feature_names[FEATURE_COUNT] = {
#define X(ID, TEXT) TEXT,
    FEATURES(X)
#undef X
};

typedef struct tally {
  long cases, violations, changed, tight, published;
  long by_domain[DOMAINS], tight_by_domain[DOMAINS];
  long applied[METHODS], tight_by_method[METHODS];
  long features[FEATURE_COUNT];
  long counts[QB_OP_COUNT][DOMAINS][METHODS];
} tally;

/* The tally is an array of longs. */
static void add_tally(tally *sum, const tally *t) {
  const long *from = (const long *)t;
  long *to = (long *)sum;
  for (size_t i = 0; i < sizeof *t / sizeof *from; i++)
    to[i] += from[i];
}

/* ------------------------------------------------------------------------------------------------------- one case */

/* Paths in a fifth of the cases, small inputs in half, and an operator that has to occur in two thirds. */
static random_style soak_style(qb_rng *rng) {
  random_style style = random_network_style(rng);
  style.small = qb_rng_below(rng, 2) == 0;
  style.paths = qb_rng_below(rng, 5) == 0;
  style.has_focus = !style.paths && qb_rng_below(rng, 3) > 0;
  style.focus = (qb_op)qb_rng_below(rng, QB_OP_COUNT);
  if (style.paths)
    style.quantized_activations = style.chain = false;
  if (style.has_focus) {
    style.chain = false;
    style.vector = style.vector && qb_rng_below(rng, 3) == 0;
    style.quantized_activations = style.quantized_activations || style.focus == QB_OP_QUANTIZE_LINEAR;
    style.nodes = 1 + style.nodes / 2;
  }
  return style;
}

/* Within the limits of the channels, but for SYMMETRIC. At most ten inputs of a box vary, as in property files. */
static void shape_domain(qb_rng *rng, domain_kind kind, qb_domain *domain) {
  static const double parts[] = {1e-3, 0.03, 0.2};
  double size = qb_rng_range(rng, 0.1, 2), part = parts[qb_rng_below(rng, 3)];
  int64_t vary = 0;
  for (int64_t i = 0; i < domain->count && kind != CHANNELS; i++) {
    double lo = (double)domain->lo[i], hi = (double)domain->hi[i], at = lo + qb_rng_double(rng) * (hi - lo);
    double reach = kind == BALL ? part * (hi - lo) : qb_rng_double(rng) * (hi - lo);
    bool fixed = kind == POINT || (kind == BOX && (vary >= QB_REFINE_INPUTS || qb_rng_below(rng, 3) == 0));
    vary += !fixed;
    reach = fixed ? 0 : reach;
    domain->lo[i] = kind == SYMMETRIC ? (float)-size : (float)fmax(lo, at - reach);
    domain->hi[i] = kind == SYMMETRIC ? (float)size : fmaxf(domain->lo[i], (float)fmin(hi, at + reach));
  }
}

typedef struct soak_case {
  uint64_t seed;
  domain_kind kind;
  random_network network;
  bool applies[METHODS + 1];
  double bound[METHODS + 1];
  qb_ball ball;
  qb_refinement refined;
  double found;
  char what[320]; /* what was violated */
} soak_case;

static void require(qb_status status, const qb_error *error) {
  if (status != QB_OK)
    fail_msg("%s", error->message);
}

static void violate(soak_case *c, const char *what, double bound, double value) {
  if (c->what[0] == '\0')
    snprintf(c->what, sizeof c->what, "%s: %.17g, but %.17g was found", what, bound, value);
}

/* The graph bounds, and the published ones where they speak about the network. */
static void bound_domain(soak_case *c) {
  static const qb_bound_method methods[] = {QB_BOUND_LAYERWISE, QB_BOUND_ELEMENTWISE, QB_BOUND_TWO_STAGE,
                                            QB_BOUND_INTERVAL,  QB_BOUND_SPECTRAL,    QB_BOUND_PRODUCT};
  const qb_bound_conventions conventions = {0};
  qb_bounder *bounder;
  qb_bounds bounds;
  qb_error error;
  require(qb_bounder_create(&c->network.original, &c->network.domain, &conventions, &bounder, &error), &error);
  qb_bounder_select(bounder, UINT32_MAX);
  require(qb_bounder_evaluate(bounder, &c->network.pair, &bounds, &error), &error);
  for (int m = 0; m <= PRODUCT; m++) {
    c->applies[m] = bounds.bound[methods[m]].applies;
    c->bound[m] = qb_magnitude_to_double(bounds.bound[methods[m]].value);
  }
  c->bound[PUBLISHED] = INFINITY;
  for (int m = QB_BOUND_PRIOR; m <= QB_BOUND_CHAIN_UNSUMMED && bounds.chain_is_network; m++)
    if (bounds.bound[m].applies) {
      c->applies[PUBLISHED] = true;
      c->bound[PUBLISHED] = fmin(c->bound[PUBLISHED], qb_magnitude_to_double(bounds.bound[m].value));
    }
  qb_bounder_free(bounder);
}

static double largest(const qb_interval *d, int64_t count) {
  double size = 0;
  for (int64_t i = 0; i < count; i++)
    size = fmax(size, qb_interval_magnitude(d[i]));
  return size;
}

static void bound_box(soak_case *c) {
  qb_backward *backward;
  qb_error error;
  qb_ball_settings settings = qb_ball_settings_default();
  qb_refine_settings refine = qb_refine_settings_default();
  require(qb_backward_create(&c->network.pair, &backward, &error), &error);
  require(qb_bound_ball(backward, &c->network.domain, &settings, &c->ball, &error), &error);
  qb_backward_free(backward);
  c->applies[RELAXATION] = c->ball.applies;
  c->bound[RELAXATION] = c->ball.applies ? largest(c->ball.difference, c->ball.count) : INFINITY;
  c->refined = (qb_refinement){0};
  refine.neurons = c->seed % 2 == 0 || qb_domain_free_inputs(&c->network.domain) > QB_REFINE_INPUTS;
  refine.most_parts = PARTS;
  refine.threads = 1;
  require(qb_bound_refined(&c->network.pair, &c->network.domain, &refine, &c->refined, &error), &error);
  c->applies[BISECTION] = c->refined.applies;
  c->bound[BISECTION] = c->refined.applies ? largest(c->refined.difference, c->refined.count) : INFINITY;
}

static void check_ranges(soak_case *c, const char *what, const qb_interval *range, double d, double slack) {
  if (d - slack > range->hi || d + slack < range->lo)
    violate(c, what, d > range->hi ? range->hi : range->lo, d);
}

/* The signed ranges of the outputs hold as well. */
static void visit(void *context, const error_search *search, int32_t count) {
  soak_case *c = context;
  qb_value_id v = search->pair->quantized->outputs[0], o = search->pair->original->outputs[0];
  const double *y = qb_run_value_double(search->original, o), *y_q = qb_run_value_double(search->quantized, v);
  const double *r = qb_run_radius(search->original, o), *r_q = qb_run_radius(search->quantized, v);
  int64_t outputs = (int64_t)qb_shape_elements(&search->pair->quantized->values[v].shape);
  for (int64_t k = 0; k < count * outputs; k++) {
    double slack = r[k] + r_q[k] + 1e-15 * (fabs(y[k]) + fabs(y_q[k]));
    if (c->ball.applies)
      check_ranges(c, "relaxation", &c->ball.difference[k % outputs], y_q[k] - y[k], slack);
    if (c->refined.applies)
      check_ranges(c, "bisection", &c->refined.difference[k % outputs], y_q[k] - y[k], slack);
  }
}

static void search_errors(soak_case *c, qb_rng *rng) {
  error_search search;
  error_search_create(&c->network.pair, &c->network.domain, &search);
  search.visitor = visit;
  search.context = c;
  c->found = error_search_run(&search, rng, c->kind == POINT ? 0 : ROUNDS);
  error_search_free(&search);
  for (int m = 0; m <= METHODS; m++)
    if (c->applies[m] && !(c->bound[m] >= c->found))
      violate(c, m == PUBLISHED ? "published" : method_names[m], c->bound[m], c->found);
}

/* -------------------------------------------------------------------------------------------------------- counting */

static bool is_zero(const float *data, int64_t count) {
  for (int64_t i = 0; i < count; i++)
    if (data[i] != 0)
      return false;
  return true;
}

static void note_window(const soak_case *c, const qb_node *node, bool seen[FEATURE_COUNT]) {
  const qb_window *w = &node->attributes.conv.window;
  const qb_shape *x = &c->network.original.values[node->inputs[0]].shape;
  seen[FEATURE_STRIDE] |= w->stride[0] == 3 || w->stride[1] == 3 || w->stride[0] != w->stride[1];
  for (int axis = 0; axis < 2; axis++) {
    seen[FEATURE_ASYMMETRIC] |= w->pad_begin[axis] != w->pad_end[axis];
    seen[FEATURE_DILATION] |= w->dilation[axis] > 1 && w->kernel[axis] > 1;
    seen[FEATURE_SMALL_MAP] |= x->dims[2 + axis] < w->dilation[axis] * (w->kernel[axis] - 1) + 1;
  }
}

static void note_layer(const soak_case *c, qb_node_id n, bool seen[FEATURE_COUNT]) {
  const qb_graph *graph = &c->network.original;
  qb_linear l;
  if (!qb_graph_linear(graph, n, &l))
    return;
  const float *w = qb_view_f32(&graph->values[l.weight].constant);
  bool rows = graph->nodes[n].op != QB_OP_CONV_TRANSPOSE;
  for (int64_t o = 0; rows && o < l.out_channels; o++)
    seen[FEATURE_ZERO_CHANNEL] |= is_zero(w + o * l.row_length, l.row_length);
  seen[FEATURE_DEPTHWISE] |= l.group > 1 && l.group == l.in_channels;
  seen[FEATURE_GROUPS] |= l.group > 1 && l.group < l.in_channels;
  if (graph->nodes[n].op == QB_OP_CONV || graph->nodes[n].op == QB_OP_CONV_TRANSPOSE)
    note_window(c, &graph->nodes[n], seen);
}

static void note_features(const soak_case *c, tally *t) {
  bool seen[FEATURE_COUNT] = {false};
  const qb_graph *graph = &c->network.original, *quantized = &c->network.quantized;
  for (qb_node_id n = 0; n < graph->node_count; n++) {
    const qb_node *node = &graph->nodes[n];
    note_layer(c, n, seen);
    seen[FEATURE_CLIP_AWAY] |= node->op == QB_OP_CLIP && (node->attributes.clip.lo > 0 || node->attributes.clip.hi < 0);
  }
  for (qb_node_id n = 0; n < quantized->node_count; n++) {
    bool quantizes = quantized->nodes[n].op == QB_OP_QUANTIZE_LINEAR;
    seen[FEATURE_QUANTIZED] |= quantizes;
    seen[FEATURE_ABSORBED] |= quantizes && c->network.pair.partner[n] != QB_NONE;
  }
  seen[FEATURE_TWO_BITS] = c->network.style.bits == 2;
  seen[FEATURE_CONSTANTS] = c->network.style.differing_constants;
  for (int f = 0; f < FEATURE_COUNT; f++)
    t->features[f] += seen[f];
}

static void count_case(const soak_case *c, tally *t) {
  bool seen[QB_OP_COUNT] = {false};
  double best = INFINITY;
  for (qb_node_id n = 0; n < c->network.quantized.node_count; n++)
    seen[c->network.quantized.nodes[n].op] = true;
  for (int m = 0; m < METHODS; m++) {
    if (!c->applies[m])
      continue;
    for (int op = 0; op < QB_OP_COUNT; op++)
      t->counts[op][c->kind][m] += seen[op];
    t->applied[m]++;
    t->tight_by_method[m] += c->found > 0 && c->bound[m] < 1.5 * c->found;
    best = fmin(best, c->bound[m]);
  }
  bool tight = c->found > 0 && best < 1.5 * c->found;
  t->cases++;
  t->changed += c->found > 0;
  t->tight += tight;
  t->by_domain[c->kind]++;
  t->tight_by_domain[c->kind] += tight;
  t->published += c->applies[PUBLISHED];
  t->violations += c->what[0] != '\0';
  note_features(c, t);
}

static void report_violation(const soak_case *c) {
  char text[2000];
  fprintf(stderr, "case %llu, domain %s: %s\n%s\n", (unsigned long long)c->seed, domain_names[c->kind], c->what,
          random_network_describe(&c->network, text, sizeof text));
}

static void run_case(uint64_t seed, tally *t) {
  qb_rng rng;
  soak_case c = {.seed = seed, .kind = (domain_kind)(seed % DOMAINS)};
  qb_rng_seed(&rng, seed, 11);
  random_style style = soak_style(&rng);
  random_network_create(&rng, &style, &c.network);
  shape_domain(&rng, c.kind, &c.network.domain);
  bound_domain(&c);
  bound_box(&c);
  search_errors(&c, &rng);
  count_case(&c, t);
  if (c.what[0] != '\0')
    report_violation(&c);
  qb_ball_free(&c.ball);
  qb_refinement_free(&c.refined);
  random_network_free(&c.network);
}

/* ----------------------------------------------------------------------------------------------------- processes */

static long setting(const char *name, long otherwise) {
  const char *text = getenv(name);
  char *end = NULL;
  long value = text == NULL ? 0 : strtol(text, &end, 10);
  return value > 0 && *end == '\0' ? value : otherwise;
}

static void run_share(long first, long cases, long worker, long workers, tally *t) {
  for (long k = worker; k < cases; k += workers) {
    run_case((uint64_t)(first + k), t);
    if (worker == 0 && k / 10000 != (k - workers) / 10000 && k >= workers)
      fprintf(stderr, "about %ld of %ld cases\n", k, cases);
  }
}

/* Forks a worker whose tally can be read from the returned descriptor. */
static int start_worker(long first, long cases, long worker, long workers) {
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  fflush(NULL);
  pid_t child = fork();
  assert_true(child >= 0);
  if (child > 0) {
    close(ends[1]);
    return ends[0];
  }
  tally t = {0};
  run_share(first, cases, worker, workers, &t);
  ssize_t written = write(ends[1], &t, sizeof t);
  _exit(written == (ssize_t)sizeof t ? 0 : 1);
}

static void finish_worker(int descriptor, tally *sum) {
  tally t;
  size_t got = 0;
  ssize_t part;
  int status;
  while ((part = read(descriptor, (char *)&t + got, sizeof t - got)) > 0)
    got += (size_t)part;
  close(descriptor);
  assert_true(wait(&status) > 0);
  if (got != sizeof t)
    fail_msg("a worker did not finish");
  add_tally(sum, &t);
}

static void run_all(long first, long cases, tally *t) {
  int descriptors[MOST_WORKERS];
  long online = sysconf(_SC_NPROCESSORS_ONLN);
  long workers = setting("QBOUND_WORKERS", cases < WORTH_WORKERS ? 1 : online);
  workers = workers > MOST_WORKERS ? MOST_WORKERS : workers;
  if (workers == 1) {
    run_share(first, cases, 0, 1, t);
    return;
  }
  for (long w = 0; w < workers; w++)
    descriptors[w] = start_worker(first, cases, w, workers);
  for (long w = 0; w < workers; w++)
    finish_worker(descriptors[w], t);
}

/* ---------------------------------------------------------------------------------------------------- the report */

/* Whether the method has a rule for the operator. */
static bool possible(qb_op op, method m) {
  switch (op) {
  case QB_OP_CONV:
  case QB_OP_CONV_TRANSPOSE:
  case QB_OP_GEMM:
  case QB_OP_MATMUL:
  case QB_OP_RELU:
  case QB_OP_ADD:
  case QB_OP_SUB:
  case QB_OP_GLOBAL_AVERAGE_POOL:
  case QB_OP_REDUCE_MEAN: return true;
  default: return m != TWO_STAGE || qb_op_is_reshape(op);
  }
}

/* Prints the row of one operator and domain; returns its smallest count. */
static long print_row(const tally *t, qb_op op, int d) {
  char line[200];
  size_t used = (size_t)snprintf(line, sizeof line, "%-19s %-8s", qb_op_name(op), domain_names[d]);
  long least = t->cases;
  for (int m = 0; m < METHODS; m++) {
    long count = t->counts[op][d][m];
    if (!possible(op, (method)m)) {
      used += (size_t)snprintf(line + used, sizeof line - used, " %11s", "no rule");
      continue;
    }
    used += (size_t)snprintf(line + used, sizeof line - used, " %11ld", count);
    least = count < least ? count : least;
  }
  print_message("%s\n", line);
  return least;
}

static long print_table(const tally *t) {
  long least = t->cases;
  print_message("%-19s %-8s", "operator", "domain");
  for (int m = 0; m < METHODS; m++)
    print_message(" %11s", method_names[m]);
  print_message("\n");
  for (int op = 0; op < QB_OP_COUNT; op++)
    for (int d = 0; d < DOMAINS; d++) {
      long row = print_row(t, (qb_op)op, d);
      least = row < least ? row : least;
    }
  return least;
}

static double percent(long part, long whole) { return whole == 0 ? 0 : 100 * (double)part / (double)whole; }

static void print_shares(const tally *t) {
  for (int f = 0; f < FEATURE_COUNT; f++)
    print_message("%7ld cases with %s\n", t->features[f], feature_names[f]);
  for (int d = 0; d < DOMAINS; d++)
    print_message("%7ld cases on the domain %s, %.1f %% within 1.5\n", t->by_domain[d], domain_names[d],
                  percent(t->tight_by_domain[d], t->by_domain[d]));
  for (int m = 0; m < METHODS; m++)
    print_message("%7ld cases of %s, %.1f %% within 1.5\n", t->applied[m], method_names[m],
                  percent(t->tight_by_method[m], t->applied[m]));
  print_message("%7ld cases in which the published bounds hold\n", t->published);
}

static void no_method_is_ever_below_a_true_error(void **state) {
  (void)state;
  static tally t;
  long cases = test_cases(CASES), first = setting("QBOUND_FIRST", 0);
  run_all(first, cases, &t);
  long least = print_table(&t);
  print_shares(&t);
  print_message("%ld cases from %ld on: %ld violations, %ld with a difference, %.1f %% within 1.5 of what was found, "
                "every operator x domain x method at least %ld times\n",
                t.cases, first, t.violations, t.changed, percent(t.tight, t.cases), least);
  assert_int_equal(t.violations, 0);
  assert_int_equal(t.cases, cases);
  assert_true(t.tight >= cases / 5);
  assert_true(cases < CASES || t.published >= cases / 20);
  for (int f = 0; f < FEATURE_COUNT && cases >= CASES; f++)
    if (t.features[f] < cases / 250)
      fail_msg("only %ld cases with %s", t.features[f], feature_names[f]);
  if (cases >= COMPLETE && least < EACH)
    fail_msg("some operator x domain x method occurs %ld times only", least);
}

int main(void) {
  omp_set_num_threads(1); /* the networks are tiny */
  const struct CMUnitTest tests[] = {cmocka_unit_test(no_method_is_ever_below_a_true_error)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
