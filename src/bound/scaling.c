/* Power iterations with warm starts on the symbols of a few frequencies, and a multiplicative step for every scaling;
 * see scaling.h. */
#include "bound/scaling.h"

#include <cblas.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

enum { JOINT, INNER, OUTER, NORMS };
enum { FIRST_ITERATIONS = 6, STEP_ITERATIONS = 2, MOST_SAMPLES = 24, NEW_SAMPLES = 6, MOST_POINTS = 96, REFRESH = 4 };

/* Nothing here needs to be exact. */
typedef float _Complex single;

/* The three operators of a segment at one frequency, and the vectors of their power iterations. */
typedef struct sample {
  single *inner, *outer, *skip;       /* symbols, unscaled */
  single *right[NORMS], *left[NORMS]; /* singular vectors so far */
  single *spare, *middle;
  double norm[NORMS];
  int64_t point[2];
} sample;

typedef struct segment_search {
  const qb_segment *segment;
  int64_t size[3]; /* columns of the input (all aliases), middle, rows of the output */
  int32_t count;
  sample samples[MOST_SAMPLES];
  double norm[NORMS]; /* largest of the samples */
} segment_search;

typedef struct search {
  const qb_scaling_problem *problem;
  double *const *scaling;
  segment_search *segments;
  double *const *up, *const *down; /* by group: energies of left and right singular vectors */
  double sharpness;                /* how fast a sample's part falls with its distance from the largest norm */
  qb_error *error;
} search;

static bool is_lone(const qb_segment *s) { return s->outer == NULL; }

/* ------------------------------------------------------------------------------------------------------- operators */

/* v *= T or T^-1; the channels repeat for every alias. */
static void scale_vector(const search *s, int32_t group, bool inverse, int64_t count, single *v) {
  if (group < 0)
    return;
  int64_t channels = s->problem->channels[group];
  const double *t = s->scaling[group];
  for (int64_t i = 0; i < count; i++)
    v[i] *= (float)(inverse ? 1 / t[i % channels] : t[i % channels]);
}

/* y = a M x + y * add, or with M^H. */
static void multiply(const single *m, int64_t rows, int64_t cols, bool adjoint, float factor, bool add, const single *x,
                     single *y) {
  const single alpha = factor, beta = add ? 1 : 0;
  cblas_cgemv(CblasRowMajor, adjoint ? CblasConjTrans : CblasNoTrans, (int)rows, (int)cols, &alpha, m, (int)cols, x, 1,
              &beta, y, 1);
}

/* left = operator right; `right` must have unit norm. */
static void forward(const search *s, const segment_search *g, sample *p, int which) {
  const qb_segment *seg = g->segment;
  int64_t in = g->size[0], mid = g->size[1], out = g->size[2];
  if (which == OUTER) {
    memcpy(p->spare, p->right[which], (size_t)mid * sizeof *p->spare);
    scale_vector(s, seg->middle, false, mid, p->spare);
    multiply(p->outer, out, mid, false, 1, false, p->spare, p->left[which]);
    scale_vector(s, seg->out, true, out, p->left[which]);
    return;
  }
  memcpy(p->spare, p->right[which], (size_t)in * sizeof *p->spare);
  scale_vector(s, seg->in, false, in, p->spare);
  if (which == INNER) {
    multiply(p->inner, mid, in, false, 1, false, p->spare, p->left[which]);
    scale_vector(s, is_lone(seg) ? seg->out : seg->middle, true, mid, p->left[which]);
    return;
  }
  multiply(p->inner, mid, in, false, 1, false, p->spare, p->middle);
  multiply(p->outer, out, mid, false, 0.5F, false, p->middle, p->left[which]);
  if (p->skip != NULL)
    multiply(p->skip, out, in, false, 1, true, p->spare, p->left[which]);
  scale_vector(s, seg->out, true, out, p->left[which]);
}

/* right = operator^H left. */
static void backward(const search *s, const segment_search *g, sample *p, int which) {
  const qb_segment *seg = g->segment;
  int64_t in = g->size[0], mid = g->size[1], out = g->size[2];
  int64_t from = which == INNER ? mid : out;
  memcpy(p->spare, p->left[which], (size_t)from * sizeof *p->spare);
  scale_vector(s, which == INNER && !is_lone(seg) ? seg->middle : seg->out, true, from, p->spare);
  if (which == OUTER) {
    multiply(p->outer, out, mid, true, 1, false, p->spare, p->right[which]);
    scale_vector(s, seg->middle, false, mid, p->right[which]);
    return;
  }
  if (which == INNER) {
    multiply(p->inner, mid, in, true, 1, false, p->spare, p->right[which]);
  } else {
    multiply(p->outer, out, mid, true, 0.5F, false, p->spare, p->middle);
    multiply(p->inner, mid, in, true, 1, false, p->middle, p->right[which]);
    if (p->skip != NULL)
      multiply(p->skip, out, in, true, 1, true, p->spare, p->right[which]);
  }
  scale_vector(s, seg->in, false, in, p->right[which]);
}

static double normalise(single *v, int64_t count) {
  double length = (double)cblas_scnrm2((int)count, v, 1);
  if (length > 0 && isfinite(length) && isfinite((float)(1 / length)))
    cblas_csscal((int)count, (float)(1 / length), v, 1);
  return isfinite(length) ? length : 0;
}

static void iterate(const search *s, const segment_search *g, sample *p, int which, int iterations) {
  int64_t right = g->size[which == OUTER ? 1 : 0], left = g->size[which == INNER ? 1 : 2];
  p->norm[which] = 0;
  for (int k = 0; k < iterations; k++) {
    if (!(normalise(p->right[which], right) > 0))
      return;
    forward(s, g, p, which);
    p->norm[which] = normalise(p->left[which], left);
    if (k < iterations - 1 && p->norm[which] > 0)
      backward(s, g, p, which);
  }
}

/* --------------------------------------------------------------------------------------------------------- samples */

static bool sample_create(const segment_search *g, sample *p) {
  int64_t in = g->size[0], mid = g->size[1], out = g->size[2], most = in > mid ? in : mid;
  most = most > out ? most : out;
  bool lone = is_lone(g->segment), skip = g->segment->skip != NULL, ready;
  *p = (sample){.inner = qb_alloc((size_t)(mid * in), sizeof(single)),
                .outer = lone ? NULL : qb_alloc((size_t)(out * mid), sizeof(single)),
                .skip = skip ? qb_alloc((size_t)(out * in), sizeof(single)) : NULL,
                .spare = qb_alloc((size_t)most, sizeof(single)),
                .middle = qb_alloc((size_t)most, sizeof(single))};
  ready = p->inner != NULL && (lone || p->outer != NULL) && (!skip || p->skip != NULL) && p->spare != NULL &&
          p->middle != NULL;
  for (int k = 0; k < NORMS; k++) {
    p->right[k] = qb_alloc((size_t)most, sizeof(single));
    p->left[k] = qb_alloc((size_t)most, sizeof(single));
    ready = ready && p->right[k] != NULL && p->left[k] != NULL;
    for (int64_t i = 0; ready && i < most; i++) /* orthogonal to nothing in particular */
      p->right[k][i] =
          (single)qb_complex_of(1 + 0.3 * (double)((i * 7919) % 101) / 101, 0.2 * (double)((i * 104729) % 97) / 97);
  }
  return ready;
}

static void sample_free(sample *p) {
  single *const blocks[] = {p->inner, p->outer, p->skip, p->spare, p->middle};
  for (size_t k = 0; k < sizeof blocks / sizeof blocks[0]; k++)
    qb_free(blocks[k]);
  for (int k = 0; k < NORMS; k++) {
    qb_free(p->right[k]);
    qb_free(p->left[k]);
  }
  *p = (sample){0};
}

/* The symbol of a kernel at output frequency `point`, rounded; `exact` is working memory. */
static void symbol_at(const qb_kernel *kernel, const qb_twiddles twiddles[2], const int64_t point[2], qb_complex *exact,
                      single *out) {
  int64_t count = kernel->rows * kernel->cols * kernel->stride[0] * kernel->stride[1];
  qb_kernel_symbol(kernel, 0, twiddles, point[0], point[1], exact);
  for (int64_t i = 0; i < count; i++)
    out[i] = (single)exact[i];
}

/* Symbols at output frequency `point`, and the first iterations. False: out of memory. */
static bool sample_at(const search *s, const segment_search *g, const qb_twiddles twiddles[4], const int64_t point[2],
                      sample *p) {
  const qb_segment *seg = g->segment;
  int64_t in = g->size[0], mid = g->size[1], out = g->size[2], rows = mid > out ? mid : out;
  qb_complex *exact = qb_alloc_uncleared((size_t)(rows * (in > mid ? in : mid)), sizeof *exact);
  if (exact == NULL)
    return false;
  symbol_at(seg->inner, twiddles, point, exact, p->inner);
  if (!is_lone(seg))
    symbol_at(seg->outer, twiddles + 2, point, exact, p->outer);
  if (seg->skip != NULL)
    symbol_at(seg->skip, twiddles, point, exact, p->skip);
  qb_free(exact);
  for (int k = 0; k < NORMS; k++)
    if (k == INNER || !is_lone(seg))
      iterate(s, g, p, k, FIRST_ITERATIONS);
  return true;
}

/* A coarse grid over half of the output's torus, the origin included. */
static int32_t choose_points(const segment_search *g, int64_t points[MOST_POINTS][2]) {
  const qb_segment *seg = g->segment;
  bool large = g->size[1] > 128;
  int64_t n[2] = {seg->side[0] / seg->inner->stride[0], seg->side[1] / seg->inner->stride[1] / 2 + 1};
  bool small = g->size[1] <= 64;
  int64_t wanted[2] = {large ? 5 : small ? 12 : 6, large ? 3 : small ? 8 : 4};
  int32_t count = 0;
  for (int axis = 0; axis < 2; axis++)
    wanted[axis] = wanted[axis] < n[axis] ? wanted[axis] : n[axis];
  for (int64_t i = 0; i < wanted[0]; i++)
    for (int64_t j = 0; j < wanted[1]; j++, count++) {
      points[count][0] = i * n[0] / wanted[0];
      points[count][1] = wanted[1] == 1 ? 0 : j * (n[1] - 1) / (wanted[1] - 1);
    }
  return count;
}

/* Which points have the largest norms: the best of every operator first, then the seconds, .. */
static int32_t rank_points(double score[MOST_POINTS][NORMS], int32_t points, int32_t wanted, int32_t *chosen) {
  int32_t count = 0;
  for (int round = 0; round < MOST_POINTS && count < wanted; round++)
    for (int k = 0; k < NORMS && count < wanted; k++) {
      int32_t best = -1;
      for (int32_t i = 0; i < points; i++)
        if (score[i][k] > 0 && (best < 0 || score[i][k] > score[best][k]))
          best = i;
      if (best < 0)
        continue;
      bool known = false;
      for (int32_t i = 0; i < count; i++)
        known = known || chosen[i] == best;
      score[best][k] = 0;
      if (!known)
        chosen[count++] = best;
    }
  return count;
}

static bool is_known(const segment_search *g, const int64_t point[2]) {
  for (int32_t i = 0; i < g->count; i++)
    if (g->samples[i].point[0] == point[0] && g->samples[i].point[1] == point[1])
      return true;
  return false;
}

/* Adds the frequencies with the largest norms at the present scalings; the old ones stay, as they bound the search. */
static qb_status add_samples(const search *s, segment_search *g, qb_arena *arena) {
  const qb_segment *seg = g->segment;
  qb_twiddles twiddles[4];
  int64_t points[MOST_POINTS][2];
  double score[MOST_POINTS][NORMS] = {{0}};
  int32_t chosen[NEW_SAMPLES], count = choose_points(g, points), first = g->count;
  bool failed = false;
  for (int axis = 0; axis < 2; axis++) {
    QB_TRY(qb_twiddles_create(seg->side[axis], arena, &twiddles[axis], s->error));
    QB_TRY(qb_twiddles_create(seg->side[axis] / seg->inner->stride[axis], arena, &twiddles[2 + axis], s->error));
  }
#pragma omp parallel for schedule(dynamic, 1) reduction(|| : failed)
  for (int32_t i = 0; i < count; i++) {
    sample p;
    bool ready = sample_create(g, &p) && sample_at(s, g, twiddles, points[i], &p);
    memcpy(score[i], p.norm, sizeof score[i]);
    failed = failed || !ready;
    sample_free(&p);
  }
  int32_t found = failed ? 0 : rank_points(score, count, g->size[1] > 128 ? 4 : NEW_SAMPLES, chosen);
  for (int32_t i = 0; i < found && g->count < MOST_SAMPLES; i++)
    if (!is_known(g, points[chosen[i]]))
      memcpy(g->samples[g->count++].point, points[chosen[i]], sizeof points[0]);
#pragma omp parallel for schedule(dynamic, 1) reduction(|| : failed)
  for (int32_t i = first; i < g->count; i++) {
    sample *p = &g->samples[i];
    int64_t point[2] = {p->point[0], p->point[1]};
    bool ready = sample_create(g, p);
    memcpy(p->point, point, sizeof point);
    ready = ready && sample_at(s, g, twiddles, point, p);
    failed = failed || !ready;
  }
  return failed ? qb_fail_memory(s->error, "search for scalings", (size_t)(g->size[1] * g->size[0]) * 16) : QB_OK;
}

/* ------------------------------------------------------------------------------------------------------- the search */

static double segment_norm(const segment_search *g) {
  return is_lone(g->segment) ? g->norm[INNER] : g->norm[JOINT] + 0.5 * g->norm[INNER] * g->norm[OUTER];
}

static void add_energy(const search *s, double *const *sum, int32_t group, double weight, const single *v,
                       int64_t count) {
  if (group < 0)
    return;
  int64_t channels = s->problem->channels[group];
  for (int64_t i = 0; i < count; i++)
    sum[group][i % channels] += weight * (double)crealf(v[i] * conjf(v[i]));
}

/* Adds the derivative of log(segment's norm) to the groups' energies. Samples close to the largest take part, so that
 * steps do not jump between them. */
static void add_gradient(const search *s, const segment_search *g) {
  const qb_segment *seg = g->segment;
  double whole = segment_norm(g), product = 0.5 * g->norm[INNER] * g->norm[OUTER];
  for (int k = 0; k < NORMS && whole > 0; k++) {
    double share[MOST_SAMPLES], sum = 0;
    if ((k != INNER && is_lone(seg)) || !(g->norm[k] > 0))
      continue;
    for (int32_t j = 0; j < g->count; j++)
      sum += share[j] = pow(g->samples[j].norm[k] / g->norm[k], s->sharpness);
    int32_t from = k == OUTER ? seg->middle : seg->in, to = k == INNER && !is_lone(seg) ? seg->middle : seg->out;
    double weight = is_lone(seg) ? 1 : (k == JOINT ? g->norm[JOINT] : product) / whole;
    for (int32_t j = 0; j < g->count; j++) {
      add_energy(s, s->down, from, weight * share[j] / sum, g->samples[j].right[k], g->size[k == OUTER ? 1 : 0]);
      add_energy(s, s->up, to, weight * share[j] / sum, g->samples[j].left[k], g->size[k == INNER ? 1 : 2]);
    }
  }
}

/* A few iterations on every sample; returns the sum of logarithms. */
static double measure(search *s) {
  const qb_scaling_problem *problem = s->problem;
  double sum = 0;
#pragma omp parallel for schedule(dynamic, 1)
  for (int32_t i = 0; i < problem->segment_count * MOST_SAMPLES; i++) {
    segment_search *g = &s->segments[i / MOST_SAMPLES];
    for (int k = 0; i % MOST_SAMPLES < g->count && k < NORMS; k++)
      if (k == INNER || !is_lone(g->segment)) {
        sample *p = &g->samples[i % MOST_SAMPLES];
        backward(s, g, p, k); /* the left vector of the last step under the new scalings */
        iterate(s, g, p, k, STEP_ITERATIONS);
      }
  }
  for (int32_t i = 0; i < problem->segment_count; i++) {
    segment_search *g = &s->segments[i];
    for (int k = 0; k < NORMS; k++) {
      g->norm[k] = 0;
      for (int32_t j = 0; j < g->count; j++)
        g->norm[k] = fmax(g->norm[k], g->samples[j].norm[k]);
    }
    sum += segment_norm(g) > 0 ? log(segment_norm(g)) : 0;
  }
  return sum;
}

static void step(const search *s, double size) {
  const qb_scaling_problem *problem = s->problem;
  for (int32_t i = 0; i < problem->group_count; i++)
    for (int64_t c = 0; c < problem->channels[i]; c++)
      s->up[i][c] = s->down[i][c] = 0.1 / (double)problem->channels[i];
  for (int32_t i = 0; i < problem->segment_count; i++)
    add_gradient(s, &s->segments[i]);
  for (int32_t i = 0; i < problem->group_count; i++)
    for (int64_t c = 0; c < problem->channels[i]; c++) {
      double t = s->scaling[i][c] * pow(s->up[i][c] / s->down[i][c], size);
      if (t > 1e-30 && t < 1e30)
        s->scaling[i][c] = t;
    }
}

static void copy_scalings(const qb_scaling_problem *problem, double *const *from, double *const *to) {
  for (int32_t i = 0; i < problem->group_count; i++)
    memcpy(to[i], from[i], (size_t)problem->channels[i] * sizeof **to);
}

/* New samples at the present scalings; those of large layers are worth it once. */
static qb_status refresh(search *s, bool first, qb_arena *arena) {
  for (int32_t i = 0; i < s->problem->segment_count; i++)
    if (first || s->segments[i].size[1] <= 128)
      QB_TRY(add_samples(s, &s->segments[i], arena));
  return QB_OK;
}

/* Wide steps first, on samples that are renewed; then on the last ones steps that look at their largest norms alone. */
static qb_status descend(search *s, double *const *best, qb_arena *arena) {
  const qb_scaling_problem *problem = s->problem;
  int wide = problem->iterations;
  double smallest = INFINITY;
  for (int i = 0; i <= wide + wide / 2; i++) {
    bool renewed = i % REFRESH == 0 && i <= wide; /* the peaks move with the scalings; so do the sums compared */
    if (renewed)
      QB_TRY(refresh(s, i == 0, arena));
    double sum = measure(s);
    if (renewed || sum < smallest) {
      smallest = sum;
      copy_scalings(problem, s->scaling, best);
    }
    s->sharpness = i < wide ? 24 : 24 * (2 + 0.25 * (i - wide));
    step(s, 0.2 / (1 + 0.08 * i));
  }
  copy_scalings(problem, best, s->scaling);
  return QB_OK;
}

static qb_status new_vectors(const qb_scaling_problem *problem, qb_arena *arena, double ***vectors, qb_error *error) {
  *vectors = qb_arena_alloc(arena, (size_t)problem->group_count, sizeof **vectors);
  for (int32_t i = 0; *vectors != NULL && i < problem->group_count; i++) {
    (*vectors)[i] = qb_arena_alloc(arena, (size_t)problem->channels[i], sizeof ***vectors);
    if ((*vectors)[i] == NULL)
      *vectors = NULL;
  }
  return *vectors == NULL ? qb_fail_memory(error, "search for scalings", sizeof(double)) : QB_OK;
}

static qb_status search_with_arena(const qb_scaling_problem *problem, double *const *scaling, qb_arena *arena,
                                   qb_error *error) {
  double **up, **down, **best;
  QB_TRY(new_vectors(problem, arena, &up, error));
  QB_TRY(new_vectors(problem, arena, &down, error));
  QB_TRY(new_vectors(problem, arena, &best, error));
  search s = {.problem = problem, .scaling = scaling, .up = up, .down = down, .error = error};
  s.segments = qb_arena_alloc(arena, (size_t)problem->segment_count, sizeof *s.segments);
  if (s.segments == NULL)
    return qb_fail_memory(error, "search for scalings", (size_t)problem->segment_count * sizeof *s.segments);
  for (int32_t i = 0; i < problem->segment_count; i++) {
    const qb_segment *seg = &problem->segments[i];
    const qb_kernel *last = is_lone(seg) ? seg->inner : seg->outer;
    s.segments[i] = (segment_search){.segment = seg,
                                     .size = {seg->inner->cols * seg->inner->stride[0] * seg->inner->stride[1],
                                              seg->inner->rows, last->rows}};
  }
  qb_status status = descend(&s, best, arena);
  for (int32_t i = 0; i < problem->segment_count; i++)
    for (int32_t k = 0; k < MOST_SAMPLES; k++)
      sample_free(&s.segments[i].samples[k]);
  return status;
}

qb_status qb_scaling_search(const qb_scaling_problem *problem, double *const *scaling, qb_error *error) {
  qb_arena arena;
  qb_arena_init(&arena);
  int threads = openblas_get_num_threads(), workers = omp_get_max_threads();
  openblas_set_num_threads(1); /* the loops over samples are the parallel ones */
  omp_set_num_threads(workers);
  qb_status status = search_with_arena(problem, scaling, &arena, error);
  openblas_set_num_threads(threads);
  omp_set_num_threads(workers);
  qb_arena_free(&arena);
  return status;
}
